"""Which settings and files decide which digests: every field of the configuration is walked."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from full_config import CONTENTS, FULL, Where, config_of, digests, with_setting
from pydantic import BaseModel, ValidationError

from polaris.config import RunConfig
from polaris.fields import Mark
from polaris.identity import digest_of, identity_of, mark_of

CHOSEN: dict[Where, Any] = {
    ("judges", "strict", "model"): "hub",
    ("judges", "local", "model"): "base",
    ("train", "base"): "other",
    ("train", "judge"): "local",
    ("train", "report_to"): ["wandb"],
    ("arms", "plain", "base"): "other",
    ("arms", "plain", "judge"): "local",
    ("arms", "plain", "report_to"): ["wandb"],
    ("models", "trained", "arm"): "plain",
    ("evaluations", "quality", "judge"): "local",
    ("evaluations", "quality", "baseline"): "hub",
    ("evaluations", "second", "judge"): "strict",
    ("evaluations", "second", "baseline"): "other",
    ("evaluations", "length", "judge"): "local",
    ("evaluations", "length", "baseline"): "hub",
    ("evaluations", "length", "targets"): [500],
}
"""Settings that name something: another name that exists."""

EXCEPTIONS: dict[Where, str] = {
    ("models", "*", "kind"): "another kind is another section with other fields",
    (
        "evaluations",
        "*",
        "kind",
    ): "another kind is another section with other fields; tests/test_downstream.py looks at it",
    ("models", "base", "repo"): "a model with a path has no repository",
    ("models", "other", "repo"): "a model with a path has no repository",
    (
        "evaluations",
        "*",
        "models",
    ): "it decides which instances there are: tests/test_downstream.py",
    ("evaluations", "*", "on_demand"): "the same",
    ("arms", "*", "nodes"): "the arms share train's machines",
    ("arms", "*", "processes"): "the same",
    ("judges", "local", "batch"): "no server of this run's has batch files; `strict` varies it",
    ("judges", "local", "reasoning_effort"): "nor does it take an effort",
}


def test_every_field_is_marked_or_is_a_section() -> None:
    seen = set()
    for section in _sections(RunConfig):
        seen.add(section.__name__)
        for name, field in section.model_fields.items():
            marks = [item.kind for item in field.metadata if isinstance(item, Mark)]
            below = list(_directly_below(field.annotation))
            assert len(marks) == (0 if below and marks == [] else 1), f"{section.__name__}.{name}: {marks}"
            assert set(marks) <= {"identity", "content", "operational"}
            if below and marks:
                assert marks == ["operational"], f"{section.__name__}.{name}"
                fields = [(part, inner) for part in below for inner in part.model_fields]
                assert {mark_of(part, inner) for part, inner in fields} == {"operational"}
    assert {"RunConfig", "TrainConfig", "HRIConfig", "RewardWeights", "ServeConfig", "EndpointModel"} <= seen


def test_every_field_has_a_docstring() -> None:
    for section in _sections(RunConfig):
        assert section.__doc__
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"


def test_no_operational_field_changes_a_digest() -> None:
    before, walked = digests(config_of(FULL)), 0
    for where, changed in _variations("operational"):
        assert digests(changed) == before, f"{'.'.join(where)} changed a digest"
        walked += 1
    assert walked > 60


def test_every_identity_field_changes_a_digest() -> None:
    before, walked = digests(config_of(FULL)), 0
    for where, changed in _variations("identity"):
        after = digests(changed)
        assert any(after.get(name) != digest for name, digest in before.items()), ".".join(where)
        assert after["report"] != before["report"], ".".join(where)
        walked += 1
    assert walked > 80


def test_only_listed_fields_are_left_out() -> None:
    listed = {_excepted(where) for where, _, _ in _leaves(config_of(FULL)) if _excepted(where)}
    assert listed == set(EXCEPTIONS), "an exception that excuses nothing"


def test_a_digest_is_of_canonical_json() -> None:
    assert digest_of({"a": 1, "b": {"ü": None}}) == digest_of({"b": {"ü": None}, "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
    assert len(digest_of({})) == 16
    assert set(digest_of({})) <= set("0123456789abcdef")


def test_an_identity_holds_hashes_and_no_path() -> None:
    found = identity_of(config_of(FULL).data, CONTENTS)
    assert found["books"] == ["hash of /books/a.epub", "hash of /books/b.epub"]
    assert found["prompts"] == "hash of /prompts.jsonl"
    assert "path" not in str(identity_of(config_of(FULL).models["outside"], CONTENTS))
    assert identity_of(config_of(FULL).models["outside"], CONTENTS) == {
        "kind": "endpoint",
        "identity": "a/b",
        "thinking": False,
    }


def _sections(
    section: type[BaseModel], seen: set[type[BaseModel]] | None = None
) -> Iterator[type[BaseModel]]:
    seen = set() if seen is None else seen
    if section not in seen:
        seen.add(section)
        yield section
        for field in section.model_fields.values():
            for below in _directly_below(field.annotation):
                yield from _sections(below, seen)


def _directly_below(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and get_origin(annotation) is None:
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for part in get_args(annotation):
        yield from _directly_below(part)


def _leaves(section: BaseModel, above: Where = ()) -> Iterator[tuple[Where, BaseModel, str]]:
    """Yield the place of every field that is no section, the section that it is in, and its name."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, (*above, name))
        elif isinstance(value, dict):
            for key, below in value.items():
                yield from _leaves(below, (*above, name, key))
        else:
            yield (*above, name), section, name


def _excepted(where: Where) -> Where | None:
    starred = (where[0], "*", *where[2:])
    return next((found for found in (where, starred) if found in EXCEPTIONS), None)


def _variations(mark: str) -> Iterator[tuple[Where, RunConfig]]:
    for where, section, name in _leaves(config_of(FULL)):
        if mark_of(type(section), name) == mark and not _excepted(where):
            yield where, _varied(where, section, name)


def _varied(where: Where, section: BaseModel, name: str) -> RunConfig:
    value = getattr(section, name)
    annotation = type(section).model_fields[name].annotation
    for other in [CHOSEN[where]] if where in CHOSEN else _others(value, annotation):
        try:
            changed = with_setting(where, other)
        except ValidationError:
            continue
        assert changed != config_of(FULL), f"{'.'.join(where)} is still {value}"
        return changed
    raise AssertionError(f"no other value of {'.'.join(where)} ({annotation}) is known: add a way to vary it")


def _others(value: Any, annotation: Any) -> list[Any]:
    if literals := [other for other in _literals(annotation) if other != value]:
        return literals
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    if isinstance(value, float):
        return [value + 0.25, value / 2]
    if isinstance(value, str):
        return [f"{value}x", f"{value}/x"]
    if isinstance(value, Path):
        return [value / "other"]
    if isinstance(value, tuple):
        return [(*value, "x")]
    kinds = {int: [100, 1_000_000], float: [0.5], str: ["x", "http://x", "x/y@1"]}
    return [other for kind in _types(annotation) for other in kinds.get(kind, [])]


def _types(annotation: Any) -> Iterator[Any]:
    if isinstance(annotation, type):
        yield annotation
    for part in get_args(annotation):
        yield from _types(part)


def _literals(annotation: Any) -> Iterator[Any]:
    if typing.get_origin(annotation) is Literal:
        yield from get_args(annotation)
        return
    for part in get_args(annotation):
        yield from _literals(part)

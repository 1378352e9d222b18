"""Which settings and files decide which digests: every field of the configuration is walked."""

from __future__ import annotations

import shutil
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from polaris.config import RunConfig
from polaris.errors import ConfigError
from polaris.fields import Mark
from polaris.identity import digest_of, hash_contents, identity_of, mark_of
from polaris.plan import Plan, plan
from polaris.run import open_run

Where = tuple[str, ...]

FULL: dict[str, Any] = {
    "run": "full",
    "store": {"url": "s3://bucket/prefix"},
    "models": {
        "base": {"kind": "checkpoint", "path": "/models/base"},
        "other": {"kind": "checkpoint", "path": "/models/other"},
        "hub": {"kind": "checkpoint", "repo": "owner/name@1"},
        "trained": {"kind": "trained"},
        "outside": {"kind": "endpoint", "identity": "a/b", "url": "http://h/v1", "model": "b"},
    },
    "data": {"books": ["/books/a.epub", "/books/b.epub"], "prompts": "/prompts.jsonl"},
    "judges": {"strict": {"model": "outside"}, "local": {"model": "other"}},
    "train": {"base": "base", "judge": "strict"},
    "evaluations": {
        "quality": {
            "kind": "story-quality",
            "prompts": "/quality.jsonl",
            "models": ["base", "hub", "trained"],
            "baseline": "base",
            "judge": "strict",
        },
        "second": {
            "kind": "story-quality",
            "prompts": "/second.jsonl",
            "models": ["other", "outside", "trained"],
            "judge": "local",
        },
        "length": {
            "kind": "length",
            "prompts": "/length.jsonl",
            "models": ["hub"],
            "judge": "strict",
            "targets": [500, 1000],
        },
    },
}
"""Every section, every kind of model, and every model and judge at work somewhere."""

CONTENTS = {
    Path(path): f"hash of {path}"
    for path in (
        "/models/base",
        "/models/other",
        "/books/a.epub",
        "/books/b.epub",
        "/prompts.jsonl",
        "/quality.jsonl",
        "/second.jsonl",
        "/length.jsonl",
    )
}

CHOSEN: dict[Where, Any] = {
    ("judges", "strict", "model"): "hub",
    ("judges", "local", "model"): "base",
    ("train", "base"): "other",
    ("train", "judge"): "local",
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
    ): "another kind is another section with other fields; a test below looks at it",
    ("models", "base", "repo"): "a model with a path has no repository",
    ("models", "other", "repo"): "a model with a path has no repository",
    ("evaluations", "*", "models"): "it decides which instances there are; a test below looks at those",
    ("evaluations", "*", "on_demand"): "the same",
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
    before, walked = _digests(_config(FULL)), 0
    for where, changed in _variations("operational"):
        assert _digests(changed) == before, f"{'.'.join(where)} changed a digest"
        walked += 1
    assert walked > 60


def test_every_identity_field_changes_a_digest() -> None:
    before, walked = _digests(_config(FULL)), 0
    for where, changed in _variations("identity"):
        after = _digests(changed)
        assert any(after.get(name) != digest for name, digest in before.items()), ".".join(where)
        assert after["report"] != before["report"], ".".join(where)
        walked += 1
    assert walked > 80


def test_only_listed_fields_are_left_out() -> None:
    listed = {_excepted(where) for where, _, _ in _leaves(_config(FULL)) if _excepted(where)}
    assert listed == set(EXCEPTIONS), "an exception that excuses nothing"


def test_leaving_a_model_out_changes_no_other_result() -> None:
    fewer = _changed(("evaluations", "second", "models"), ["other", "trained"])
    before, after = _digests(_config(FULL)), _digests(fewer)
    assert set(before) - set(after) == {
        f"{kind}.outside.second" for kind in ("generate", "judge", "evaluate")
    }
    assert {name for name in after if after[name] != before[name]} == {"report"}


def test_on_demand_or_not_the_stories_and_scores_are_the_same() -> None:
    later = _changed(("evaluations", "quality", "on_demand"), True)
    before, after = _digests(_config(FULL)), _digests(later)
    assert {name for name in before if after[name] != before[name]} == {"report"}
    assert set(after) - set(before) == {"report.quality"}


EVALUATED = ("generate", "judge", "evaluate")


def _of(evaluation: str, *models: str, kinds: tuple[str, ...] = EVALUATED) -> set[str]:
    return {f"{kind}.{model}.{evaluation}" for kind in kinds for model in models}


TRAINED = {"train", "report", *_of("quality", "trained"), *_of("second", "trained")}
DOWNSTREAM = {
    "/books/a.epub": {"data", *TRAINED},
    "/books/b.epub": {"data", *TRAINED},
    "/prompts.jsonl": {"data", *TRAINED},
    "/quality.jsonl": {"report", *_of("quality", "base", "hub", "trained")},
    "/second.jsonl": {"report", *_of("second", "other", "outside", "trained")},
    "/length.jsonl": {"report", *_of("length", "hub")},
    # The baseline is in each of its evaluation's comparisons.
    "/models/base": TRAINED | _of("quality", "base") | _of("quality", "hub", kinds=("evaluate",)),
    # It writes, and it judges the second evaluation.
    "/models/other": {
        "report",
        *_of("second", "other"),
        *_of("second", "outside", "trained", kinds=("judge", "evaluate")),
    },
}


@pytest.mark.parametrize("path", sorted(DOWNSTREAM))
def test_changed_content_changes_exactly_what_is_downstream(path: str) -> None:
    config = _config(FULL)
    before = _digests(config)
    after = _digests(config, {**CONTENTS, Path(path): "another hash"})
    assert {name for name in before if before[name] != after[name]} == DOWNSTREAM[path]


@pytest.mark.parametrize(
    ("where", "value", "expected"),
    [
        (("data", "min_words"), 1001, {"data", *TRAINED}),
        (("train", "learning_rate"), 2e-6, TRAINED),
        (("evaluations", "quality", "samples"), 2, DOWNSTREAM["/quality.jsonl"]),
        (("evaluations", "quality", "kind"), "length", DOWNSTREAM["/quality.jsonl"]),
        (("evaluations", "length", "targets"), [500, 2000], DOWNSTREAM["/length.jsonl"]),
        (
            ("evaluations", "quality", "bootstrap"),
            200,
            {"report", *_of("quality", "base", "hub", "trained", kinds=("evaluate",))},
        ),
        (
            ("judges", "local", "top_p"),
            0.5,
            {"report", *_of("second", "other", "outside", "trained", kinds=("judge", "evaluate"))},
        ),
    ],
)
def test_a_changed_setting_changes_exactly_what_is_downstream(
    where: Where, value: Any, expected: set[str]
) -> None:
    before, after = _digests(_config(FULL)), _digests(_changed(where, value))
    assert {name for name in before if before[name] != after[name]} == expected


def test_where_files_lie_decides_nothing() -> None:
    moved = {Path(f"/moved{path}"): digest for path, digest in CONTENTS.items()}
    raw: dict[str, Any] = yaml.safe_load(yaml.safe_dump(FULL).replace(" /", " /moved/"))
    assert raw["data"]["books"][0] == "/moved/books/a.epub"
    assert _digests(_config(raw), moved) == _digests(_config(FULL))


def test_the_order_of_keys_decides_nothing(demo: Path) -> None:
    before = {name: instance.digest for name, instance in open_run(demo).plan.instances.items()}
    raw = yaml.safe_load(demo.read_text(encoding="utf-8"))
    demo.write_text(yaml.safe_dump(_reversed(raw), sort_keys=False), encoding="utf-8")
    after = {name: instance.digest for name, instance in open_run(demo).plan.instances.items()}
    assert after == before


def test_files_are_known_by_their_bytes(demo: Path, tmp_path: Path) -> None:
    before = open_run(demo).plan
    shutil.copytree(tmp_path / "examples", tmp_path / "moved" / "examples")
    shutil.copytree(tmp_path / ".polaris", tmp_path / "moved" / ".polaris")
    moved = tmp_path / "moved" / "examples" / "demo"
    assert _of_plan(open_run(moved / "demo.yaml").plan) == _of_plan(before)
    prompts = moved / "heldout.jsonl"
    prompts.write_text(prompts.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    after = _of_plan(open_run(moved / "demo.yaml").plan)
    changed = {name for name, digest in _of_plan(before).items() if after[name] != digest}
    assert changed == {"report", *_of("story-quality", "base", "trained")}


def test_a_model_folder_is_known_by_its_files_names_and_bytes(demo: Path, tmp_path: Path) -> None:
    folder = tmp_path / ".polaris" / "model"
    seen = [hash_contents(open_run(demo).config)[folder]]
    (folder / "deep").mkdir()
    assert hash_contents(open_run(demo).config)[folder] == seen[0], "an empty folder is nothing"
    for change in (
        lambda: (folder / "deep" / "extra.json").write_text("{}"),
        lambda: (folder / "deep" / "extra.json").rename(folder / "extra.json"),
        lambda: (folder / "model.safetensors").write_bytes(b"other weights"),
    ):
        change()
        seen.append(hash_contents(open_run(demo).config)[folder])
    assert len(set(seen)) == len(seen)


def test_a_file_that_is_missing_or_unreadable_is_named_by_its_setting(demo: Path) -> None:
    config = open_run(demo).config
    book = demo.parent / "anthology.epub"
    book.unlink()
    with pytest.raises(ConfigError, match=r"^data\.books: '.*anthology\.epub' does not exist; give a file"):
        hash_contents(config)
    book.symlink_to(book)
    with pytest.raises(
        ConfigError, match=r"^data\.books: '.*anthology\.epub' (does not exist|cannot be read)"
    ):
        hash_contents(config)


def test_a_digest_is_of_canonical_json() -> None:
    assert digest_of({"a": 1, "b": {"ü": None}}) == digest_of({"b": {"ü": None}, "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
    assert len(digest_of({})) == 16
    assert set(digest_of({})) <= set("0123456789abcdef")


def test_an_identity_holds_hashes_and_no_path() -> None:
    found = identity_of(_config(FULL).data, CONTENTS)
    assert found["books"] == ["hash of /books/a.epub", "hash of /books/b.epub"]
    assert found["prompts"] == "hash of /prompts.jsonl"
    assert "path" not in str(identity_of(_config(FULL).models["outside"], CONTENTS))
    assert identity_of(_config(FULL).models["outside"], CONTENTS) == {
        "kind": "endpoint",
        "identity": "a/b",
        "thinking": False,
    }


def _config(raw: Mapping[str, Any]) -> RunConfig:
    return RunConfig.model_validate(raw, context={"base": Path("/")})


def _digests(config: RunConfig, contents: Mapping[Path, str] = CONTENTS) -> dict[str, str]:
    return _of_plan(plan(config, contents))


def _of_plan(plan: Plan) -> dict[str, str]:
    return {name: instance.digest for name, instance in plan.instances.items()}


def _reversed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _reversed(below) for key, below in reversed(value.items())}
    return value


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
    for where, section, name in _leaves(_config(FULL)):
        if mark_of(type(section), name) == mark and not _excepted(where):
            yield where, _varied(where, section, name)


def _varied(where: Where, section: BaseModel, name: str) -> RunConfig:
    value = getattr(section, name)
    annotation = type(section).model_fields[name].annotation
    for other in [CHOSEN[where]] if where in CHOSEN else _others(value, annotation):
        try:
            changed = _changed(where, other)
        except ValidationError:
            continue
        assert changed != _config(FULL), f"{'.'.join(where)} is still {value}"
        return changed
    raise AssertionError(f"no other value of {'.'.join(where)} ({annotation}) is known: add a way to vary it")


def _changed(where: Where, value: Any) -> RunConfig:
    raw: dict[str, Any] = _config(FULL).model_dump(mode="python")
    place: Any = raw
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    return _config(raw)


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

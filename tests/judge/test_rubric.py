from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from golden_files import check_golden

from polaris.judge import rubric as module
from polaris.judge.rubric import (
    FORMS,
    Form,
    json_schema,
    load_rubric,
    parse_rubric,
    render_prompt,
    rubric_identity,
)

MAXIMA = {
    "P1": 15, "P2": 20, "P3": 15, "P4": 15, "P5": 20, "P6": 15,
    "N1": 15, "N2": 20, "N3": 15, "N4": 15, "N5": 15, "N6": 20, "N7": 15, "N8": 8, "N9": 8, "N10": 20,
}  # fmt: skip


def test_ranges_are_the_published_ones() -> None:
    rubric = load_rubric()
    assert {d.key: d.max for d in rubric.dimensions} == MAXIMA
    assert sum(d.max for d in rubric.positive) == 100
    assert sum(d.max for d in rubric.negative) == 151
    assert {c.key: c.max for c in rubric.catch_alls} == {"bonus": 8, "penalty": 8}
    assert rubric.labels == (
        ("very_poor", -159), ("poor", 15), ("fair", 35), ("good", 55), ("excellent", 75),
    )  # fmt: skip


def test_every_dimension_has_four_bands_and_says_what_it_is_not() -> None:
    for dimension in load_rubric().dimensions:
        assert len(dimension.bands) == 4
        for band in dimension.bands:
            anchor, _, example = band.anchor.partition(": ")
            assert anchor and len(example.split()) >= 3, f"{dimension.key} {band.low}: no example"
        assert dimension.measures and dimension.not_measured and dimension.short
        if not dimension.positive:
            assert dimension.bands[0].high == 0


@pytest.mark.parametrize(
    ("bands", "said"),
    [
        ([[0, 3, "a"], [5, 15, "b"]], "P1 has a band 5-15: start it at 4"),
        ([[0, 3, "a"], [3, 15, "b"]], "P1 has a band 3-15: start it at 4"),
        ([[0, 3, "a"], [4, 14, "b"]], "P1 has bands up to 14: end them at 15"),
    ],
)
def test_bands_with_gaps_are_refused(bands: list[list[Any]], said: str) -> None:
    source = module.files("polaris.judge").joinpath("rubric.yaml").read_text(encoding="utf-8")
    data = yaml.safe_load(source)
    data["dimensions"][0]["bands"] = bands
    with pytest.raises(ValueError, match=said):
        parse_rubric(yaml.safe_dump(data))


@pytest.mark.parametrize("form", FORMS)
def test_prompt_is_golden(form: Form) -> None:
    check_golden(f"prompt-{form}.txt", render_prompt(form) + "\n")


@pytest.mark.parametrize("form", FORMS)
def test_schema_is_golden(form: Form) -> None:
    check_golden(f"schema-{form}.json", json.dumps(json_schema(form), indent=1) + "\n")


def test_identity_is_golden_and_differs_by_form() -> None:
    identities = [rubric_identity(form) for form in FORMS]
    assert len(set(identities)) == len(FORMS)
    check_golden("identities.txt", "\n".join(identities) + "\n")


def test_identity_follows_what_the_judge_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    before = rubric_identity("compact")
    monkeypatch.setattr(module, "render_prompt", lambda form: "another prompt")
    assert rubric_identity("compact") != before


def test_prompts_name_every_dimension_with_its_range() -> None:
    full, compact = render_prompt("full"), render_prompt("compact")
    for dimension in load_rubric().dimensions:
        assert f"## {dimension.key} {dimension.name} (0-{dimension.max})" in full
        assert f"\n{dimension.key} 0-{dimension.max} {dimension.short}\n" in compact


def test_compact_prompt_fits_small_judges() -> None:
    assert len(render_prompt("compact")) / 4 <= 450
    assert len(render_prompt("full")) / 4 <= 4000


@pytest.mark.parametrize("form", FORMS)
def test_schema_stays_within_strict_structured_output(form: Form) -> None:
    allowed = {
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "anyOf",
        "enum",
        "minimum",
        "maximum",
    }
    for node in _nodes(json_schema(form)):
        assert set(node) <= allowed
        if node.get("type") == "object":
            assert node["additionalProperties"] is False
            assert node["required"] == list(node["properties"])
        if "minimum" in node or "maximum" in node:
            assert node["type"] == "integer"


def test_compact_schema_has_scores_only() -> None:
    properties = json_schema("compact")["properties"]
    for key, maximum in MAXIMA.items():
        assert properties.pop(key) == {"type": "integer", "minimum": 0, "maximum": maximum}
    null_or_8 = {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 8}, {"type": "null"}]}
    assert properties == {"bonus": null_or_8, "penalty": null_or_8}


def test_schemas_cannot_be_changed_by_a_caller() -> None:
    json_schema("full")["properties"]["P1"]["properties"]["quotes"]["items"]["type"] = "integer"
    assert json_schema("full")["properties"]["P1"]["properties"]["quotes"]["items"]["type"] == "string"


def test_unknown_form_is_refused_by_name() -> None:
    for function in (render_prompt, json_schema, rubric_identity):
        with pytest.raises(ValueError, match="judge form 'short' is unknown: use one of full, compact"):
            function("short")  # type: ignore[arg-type]


def _nodes(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    children = list(schema.get("properties", {}).values()) + schema.get("anyOf", [])
    children += [schema["items"]] if "items" in schema else []
    for child in children:
        yield from _nodes(child)

"""A metric's rows: what each needs, and the line it becomes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from polaris.errors import ConfigError
from polaris.evaluate import creative, longbench_write, longform
from polaris.evaluate.metric import METRICS, find_scorer, metric_line
from polaris.judge.parse import Judgement
from polaris.reward.rows import RowError

NOTHING = Judgement.of_nothing().to_json()
JUDGEMENT = {key: NOTHING[key] for key in ("positive", "negative", "bonus", "penalty")}
ROWS: dict[str, dict[str, Any]] = {
    "story_quality": {"judgement": JUDGEMENT},
    "longform": {"scores": dict.fromkeys(longform.DIMENSIONS, 10)},
    "creative": {"scores": dict.fromkeys(creative.DIMENSIONS, 10)},
    "longbench_write": {"scores": dict.fromkeys(longbench_write.DIMENSIONS, 3), "words": 5, "target": 10},
    "writingbench": {"scores": {"it is told in order": 7, "it keeps to the form": 8}},
}


def line(name: str, variant: str | None = None, **changed: Any) -> dict[str, Any]:
    return metric_line({"id": "a", **ROWS[name], **changed}, find_scorer(name, variant))


def test_every_metric_is_here() -> None:
    assert list(METRICS) == list(ROWS)


@pytest.mark.parametrize("name", METRICS)
def test_lines_have_id_value_and_parts_and_are_json(name: str) -> None:
    found = line(name, words=5, target=10)
    assert list(found) == ["id", "value", "parts"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize(
    ("name", "value"),
    [("story_quality", 0), ("creative", 50.0), ("longbench_write", 25.0), ("writingbench", 7.5)],
)
def test_values(name: str, value: float) -> None:
    assert line(name)["value"] == value


def test_longforms_variant() -> None:
    assert line("longform")["value"] == pytest.approx((110 + 100 * 0.5**1.7) / 3.2)
    assert line("longform", "uniform")["value"] == 50.0
    assert line("longform", "uniform")["parts"] == dict.fromkeys(longform.DIMENSIONS, 10.0)


@pytest.mark.parametrize(
    ("positive", "negative", "bonus", "penalty", "value", "parts"),
    [
        (0, 0, None, None, 0, [0, 0, 0, 0, "very_poor"]),
        (15, 0, None, None, 15, [15, 0, 0, 0, "poor"]),
        (15, 8, 8, 8, 15 - 8 - 3, [15, 8, 0, 3, "very_poor"]),
        (15, 7, 8, 8, 15 - 7 + 8 - 3, [15, 7, 8, 3, "very_poor"]),
        (10, 8, 8, 8, 10 - 8 - 8, [10, 8, 0, 8, "very_poor"]),
    ],
)
def test_story_quality_by_hand(
    positive: int, negative: int, bonus: Any, penalty: Any, value: int, parts: list[Any]
) -> None:
    judgement = {
        "positive": JUDGEMENT["positive"] | {"P1": positive},
        "negative": JUDGEMENT["negative"] | {"N8": negative},
        "bonus": bonus,
        "penalty": penalty,
    }
    found = line("story_quality", judgement=judgement)
    assert found["value"] == value
    assert found["parts"] == dict(
        zip(("positive", "negative", "bonus", "penalty", "label"), parts, strict=True)
    )


@pytest.mark.parametrize("name", ["longform", "creative", "longbench_write"])
def test_all_dimensions_are_needed_and_no_other(name: str) -> None:
    scores = ROWS[name]["scores"]
    for dimension in scores:
        with pytest.raises(RowError, match="missing") as told:
            line(name, scores={key: value for key, value in scores.items() if key != dimension})
        assert str(told.value).startswith(f"scores.{dimension}: ")
    with pytest.raises(RowError, match=r"^scores\.Charm: unknown; expected one of "):
        line(name, scores=scores | {"Charm": 5})


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("longform", 0, 20), ("creative", 0, 20), ("longbench_write", 1, 5), ("writingbench", 1, 10)],
)
def test_ranges(name: str, low: int, high: int) -> None:
    scores = ROWS[name]["scores"]
    first = next(iter(scores))
    for value in (low, high, float(high)):
        assert line(name, scores=scores | {first: value})
    for value in (low - 1, high + 1, float("nan"), True, None, str(low)):
        with pytest.raises(RowError) as told:
            line(name, scores=scores | {first: value})
        assert str(told.value).startswith(f"scores.{first}: ")
        assert f", {low} to {high}" in str(told.value)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"words": None}, "words"),
        ({"words": -1}, "words"),
        ({"target": 0}, "target"),
        ({"target": "5"}, "target"),
    ],
)
def test_longbench_write_needs_both_lengths(changed: dict[str, Any], field: str) -> None:
    with pytest.raises(RowError, match=f"^{field}: "):
        line("longbench_write", **changed)
    assert line("longbench_write", words=0)["value"] == 0.0


def test_rows_without_an_id() -> None:
    with pytest.raises(RowError, match="^id: null"):
        line("creative", id=None)


def test_unknown_metrics_and_variants_are_told_with_those_there_are() -> None:
    with pytest.raises(
        ConfigError, match="no metric 'arena'; give one of story_quality, longform, creative, "
    ):
        find_scorer("arena")
    with pytest.raises(ConfigError, match="longform has no variant 'flat'; give uniform or leave it out"):
        find_scorer("longform", "flat")
    with pytest.raises(ConfigError, match="creative has no variant 'uniform'; leave it out"):
        find_scorer("creative", "uniform")

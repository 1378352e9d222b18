"""Judged stories in, the shown ones out: the median prompt, by the stated rule alone."""

from __future__ import annotations

from typing import Any

import pytest
from report_inputs import score, story

from polaris.errors import InputError
from polaris.evaluate.stories import per_story
from polaris.report.pairs import PAIR_RULE, SINGLE_RULE, Written, choose, dimensions


def written(model: str, levels: dict[str, int | None]) -> Written:
    stories = [story(key, f"{key} by {model}") for key in levels]
    scores = [score(key, level) for key, level in levels.items() if level is not None]
    failures = [
        {"id": key, "sample": 0, "repeat": 0, "reason": "cut"}
        for key, level in levels.items()
        if level is None
    ]
    return Written(model, stories, scores, per_story(stories, scores, failures))


@pytest.mark.parametrize(
    ("base", "trained", "chosen"),
    [
        ({"a": 1, "b": 1, "c": 1}, {"a": 9, "b": 5, "c": 2}, "b"),
        ({"a": 1, "b": 1, "c": 1, "d": 1}, {"a": 9, "b": 5, "c": 2, "d": 3}, "d"),
        ({"b": 1, "a": 1}, {"b": 4, "a": 4}, "a"),
        ({"a": 1, "b": None, "c": 1}, {"a": 9, "b": 5, "c": 2}, "c"),
    ],
)
def test_the_prompt_with_the_median_difference_is_shown(
    base: dict[str, int | None], trained: dict[str, int | None], chosen: str
) -> None:
    found = choose(written("base", base), written("trained", trained))
    assert found is not None
    assert (found["id"], found["rule"]) == (chosen, PAIR_RULE)
    assert [entry["model"] for entry in found["shown"]] == ["base", "trained"]
    assert found["shown"][1]["story"] == f"{chosen} by trained"
    assert found["difference"] == found["shown"][1]["overall"] - found["shown"][0]["overall"]


def test_a_model_alone_shows_its_median_story() -> None:
    found = choose(None, written("base", {"a": 9, "b": 2, "c": 5}))
    assert found is not None
    assert (found["id"], found["rule"], found["difference"]) == ("c", SINGLE_RULE, None)


def test_no_prompt_scored_for_both_is_none() -> None:
    assert choose(written("base", {"a": None, "b": 2}), written("trained", {"a": 3, "b": None})) is None


def test_the_parts_shown_add_up_to_the_overall() -> None:
    found = choose(None, written("base", {"a": 7}))
    assert found is not None
    shown: dict[str, Any] = found["shown"][0]
    assert shown["positive"] - shown["negative"] + shown["bonus"] - shown["penalty"] == shown["overall"] == 32
    assert {dimension["key"] for dimension in dimensions()} == set(shown["scores"])


def test_an_invalid_judgement_is_an_input_error() -> None:
    bad = written("base", {"a": 7})
    bad.scores[0]["judgement"]["positive"]["P1"] = 99  # type: ignore[index]
    with pytest.raises(InputError, match="story 'a' by model 'base'"):
        choose(None, bad)

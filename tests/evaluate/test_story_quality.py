"""Stories, scores and failures in, figures out: a failure is never a score."""

from __future__ import annotations

from typing import Any

import pytest

from polaris.errors import InputError
from polaris.evaluate import story_quality

Row = dict[str, Any]


def story(key: str, words: int = 900, *, sample: int = 0, truncated: bool = False) -> Row:
    return {
        "id": key,
        "sample": sample,
        "prompt": "Write.",
        "target_word_count": 1000,
        "story": "A lamp was lit upon the quay before anybody spoke.",
        "words": words,
        "finish_reason": "length" if truncated else "stop",
        "truncated": truncated,
        "completion_tokens": 1200,
        "model": "m@1",
    }


def score(key: str, overall: int, *, repeat: int = 0, sample: int = 0, validity: float | None = None) -> Row:
    return {"id": key, "sample": sample, "repeat": repeat, "overall": overall, "quote_validity": validity}


def failure(key: str, reason: str = "cut", *, repeat: int = 0, sample: int = 0) -> Row:
    return {"id": key, "sample": sample, "repeat": repeat, "reason": reason}


def test_a_storys_score_is_the_mean_of_its_judged_repeats() -> None:
    rows = story_quality.per_story(
        [story("b"), story("a")],
        [score("a", 40, validity=1.0), score("a", 50, repeat=1, validity=0.5), score("b", -20)],
        [failure("b", repeat=1)],
    )
    assert [(row["id"], row["overall"], row["label"], row["judged"], row["failed"]) for row in rows] == [
        ("a", 45.0, "fair", 2, 0),
        ("b", -20.0, "very_poor", 1, 1),
    ]
    assert [row["quote_validity"] for row in rows] == [0.75, None]
    assert "story" not in rows[0] and "prompt" not in rows[0]


def test_a_failed_story_is_counted_and_never_a_zero() -> None:
    rows = story_quality.per_story(
        [story("a"), story("b"), story("c")],
        [score("a", 60), score("b", 40)],
        [failure("c", "not JSON"), failure("c", "not JSON", repeat=1)],
    )
    quality = story_quality.figures(rows, seed=1, resamples=100)["story_quality"]
    assert (quality["value"], quality["n"], quality["n_failed"]) == (50.0, 2, 1)
    counted = story_quality.counts(rows)
    assert counted["failures"] == {"not JSON": 2}
    assert counted["judgements_failed"] == 2
    assert counted["labels"] == {"fair": 1, "good": 1}


def test_a_story_that_nobody_judged_is_a_failure_with_a_reason() -> None:
    rows = story_quality.per_story([story("a")], [], [])
    assert (rows[0]["overall"], rows[0]["failed"], rows[0]["reasons"]) == (None, 1, ["never judged"])
    figures = story_quality.figures(rows, seed=1, resamples=100)
    assert figures["story_quality"] == {"value": None, "low": None, "high": None, "n": 0, "n_failed": 1}
    assert figures["length_ratio_mean"]["value"] == 0.9
    assert "quote_validity" not in figures


def test_cut_and_empty_stories_are_counted_beside_the_figures() -> None:
    rows = story_quality.per_story([story("a", truncated=True), story("b", words=0)], [], [])
    counted = story_quality.counts(rows)
    assert (counted["truncated"], counted["empty"], counted["stories"], counted["prompts"]) == (1, 1, 2, 2)


def test_a_comparison_is_by_prompt_over_its_scored_samples() -> None:
    ours = story_quality.per_story(
        [story("a"), story("a", sample=1), story("b"), story("c")],
        [score("a", 10), score("a", 30, sample=1), score("b", 50)],
        [failure("c")],
    )
    theirs = story_quality.per_story(
        [story("a"), story("b"), story("c")], [score("a", 15), score("b", 40), score("c", 10)], []
    )
    assert story_quality.by_prompt(ours) == {"a": 20.0, "b": 50.0, "c": None}
    found = story_quality.compare(ours, theirs, seed=0, resamples=100)["story_quality"]
    assert (found["value"], found["n"], found["n_dropped"]) == (7.5, 2, 1)


@pytest.mark.parametrize(
    ("stories", "scores", "failures"),
    [
        ([story("a")], [score("b", 1)], []),
        ([story("a")], [], [failure("b")]),
        ([story("a")], [score("a", 1), score("a", 2)], []),
        ([story("a"), story("a")], [score("a", 1)], []),
    ],
)
def test_rows_that_do_not_fit_together_are_an_input_error(
    stories: list[Row], scores: list[Row], failures: list[Row]
) -> None:
    with pytest.raises(InputError):
        story_quality.per_story(stories, scores, failures)

"""Judged stories in, Story Quality figures out: a failure is never a score."""

from __future__ import annotations

from judged_rows import failure, score, story

from polaris.evaluate import story_quality
from polaris.evaluate.stories import by_prompt, counts, per_story


def test_a_failed_story_is_counted_and_never_a_zero() -> None:
    rows = per_story(
        [story("a"), story("b"), story("c")],
        [score("a", 60), score("b", 40)],
        [failure("c", "not JSON"), failure("c", "not JSON", repeat=1)],
    )
    quality = story_quality.figures(rows, seed=1, resamples=100)["story_quality"]
    assert (quality["value"], quality["n"], quality["n_failed"]) == (50.0, 2, 1)
    counted = counts(rows)
    assert counted["failures"] == {"not JSON": 2}
    assert counted["judgements_failed"] == 2
    assert counted["labels"] == {"fair": 1, "good": 1}


def test_a_story_that_nobody_judged_is_a_failure_with_a_reason() -> None:
    rows = per_story([story("a")], [], [])
    assert (rows[0]["overall"], rows[0]["failed"], rows[0]["reasons"]) == (None, 1, ["never judged"])
    figures = story_quality.figures(rows, seed=1, resamples=100)
    assert figures["story_quality"] == {"value": None, "low": None, "high": None, "n": 0, "n_failed": 1}
    assert figures["length_ratio_mean"]["value"] == 0.9
    assert "quote_validity" not in figures


def test_a_comparison_is_by_prompt_over_its_scored_samples() -> None:
    ours = per_story(
        [story("a"), story("a", sample=1), story("b"), story("c")],
        [score("a", 10), score("a", 30, sample=1), score("b", 50)],
        [failure("c")],
    )
    theirs = per_story(
        [story("a"), story("b"), story("c")], [score("a", 15), score("b", 40), score("c", 10)], []
    )
    assert by_prompt(ours) == {"a": 20.0, "b": 50.0, "c": None}
    found = story_quality.compare(ours, theirs, seed=0, resamples=100)["story_quality"]
    assert (found["value"], found["n"], found["n_dropped"]) == (7.5, 2, 1)

"""Judged stories in, length figures out: by target, every story once, a failure never a score."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from judged_rows import Row, failure, score, story

from polaris.evaluate import length
from polaris.evaluate.stories import per_story

RESAMPLES = 100


def of(*stories: Row, scores: list[Row] | None = None) -> dict[str, Any]:
    rows = per_story(stories, scores or [], [])
    return length.result(rows, 1, RESAMPLES)


def test_each_distinct_target_is_a_row_of_its_own_smallest_first() -> None:
    found = of(
        story("a", 1100),
        story("b", 500, truncated=True),
        story("c", 240, target=200),
        story("d", 0, target=200),
        scores=[score("a", 40), score("c", -20), score("d", -60)],
    )
    small, large = found["by_target"]
    assert (small["target"], large["target"]) == (200, 1000)
    assert (small["stories"], small["prompts"], small["truncated"], small["empty"]) == (2, 2, 0, 1)
    assert (large["stories"], large["truncated"], large["empty"]) == (2, 1, 0)
    assert small["figures"]["words_median"]["value"] == 120
    assert small["figures"]["length_ratio_mean"]["value"] == pytest.approx(0.6)
    assert large["figures"]["length_within_10"]["value"] == 0.5
    assert small["figures"]["length_within_20"]["value"] == 0.5
    assert small["figures"]["story_quality"]["value"] == -40
    quality = large["figures"]["story_quality"]
    assert (quality["value"], quality["n"], quality["n_failed"]) == (40, 1, 1)
    assert found["figures"]["length_ratio_mean"]["n"] == 4
    assert found["metric_version"] == "length-1"


@pytest.mark.parametrize(
    ("stories", "scores", "ratio", "quality"),
    [
        ([], [], None, None),
        ([story("a", 0)], [score("a", -50)], 0.0, -50),
        ([story("a", 1000)], [], 1.0, None),
        ([story("a", 2000, truncated=True), story("b", 0)], [], 1.0, None),
    ],
    ids=["no story", "no words", "one story", "all judgements failed"],
)
def test_edges(stories: list[Row], scores: list[Row], ratio: float | None, quality: float | None) -> None:
    found = of(*stories, scores=scores)
    assert found["figures"]["length_ratio_mean"]["value"] == ratio
    assert found["figures"]["story_quality"]["value"] == quality
    assert len(found["by_target"]) == bool(stories)
    for row in found["by_target"]:
        assert row["figures"]["length_ratio_mean"]["value"] == ratio
        figure = row["figures"]["length_ratio_mean"]
        assert (figure["low"] is None) == (len(stories) < 2), "one story has no interval"
        assert row["figures"]["story_quality"]["n_failed"] == len(stories) - len(scores)


def test_one_prompts_stories_at_several_targets_are_drawn_together() -> None:
    found = of(story("fox@500", 500, target=500), story("fox@1000", 500))
    assert found["figures"]["length_ratio_mean"]["value"] == 0.75
    assert found["figures"]["length_ratio_mean"]["low"] is None, "one prompt has no spread"


def test_a_comparison_is_by_prompt() -> None:
    ours = per_story(
        [story("a@500", 500, target=500), story("a@1000", 1000), story("b", 1000)],
        [score("a@500", 10), score("a@1000", 30), score("b", 7)],
        [],
    )
    theirs = per_story([story("a", 500), story("b", 1000)], [score("a", 15)], [failure("b")])
    found = length.compare(ours, theirs, 0, RESAMPLES)
    quality, nearer = found["story_quality"], found["length_abs_log_ratio"]
    assert (quality["value"], quality["n"], quality["n_dropped"]) == (5.0, 1, 1)
    assert (nearer["value"], nearer["n"]) == (pytest.approx(-0.3466, abs=1e-4), 2)


written = st.tuples(
    st.sampled_from([60, 120, 1000]), st.integers(0, 3000), st.booleans(), st.none() | st.integers(-159, 108)
)


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.lists(written, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_every_story_is_in_exactly_one_group_in_whatever_order_they_come(
    drawn: list[tuple[int, int, bool, int | None]], random: Any
) -> None:
    stories = [
        story(f"p{number}", words, target=target, truncated=cut)
        for number, (target, words, cut, _) in enumerate(drawn)
    ]
    scores = [score(f"p{n}", overall) for n, (*_, overall) in enumerate(drawn) if overall is not None]
    rows = per_story(stories, scores, [])
    found = length.by_target(rows, 3, RESAMPLES)
    assert [row["target"] for row in found] == sorted({target for target, *_ in drawn})
    assert sum(row["stories"] for row in found) == len(drawn)
    assert sum(row["truncated"] for row in found) == sum(cut for _, _, cut, _ in drawn)
    assert sum(row["empty"] for row in found) == sum(words == 0 for _, words, _, _ in drawn)
    for row in found:
        quality = row["figures"]["story_quality"]
        assert quality["n"] + quality["n_failed"] == row["stories"]
        assert quality["n"] == sum(
            target == row["target"] and overall is not None for target, _, _, overall in drawn
        )
        near, nearby = row["figures"]["length_within_10"], row["figures"]["length_within_20"]
        assert 0 <= near["value"] <= nearby["value"] <= 1
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert length.by_target(shuffled, 3, RESAMPLES) == found

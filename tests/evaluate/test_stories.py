"""Stories, scores and failures in, one row a story out: a failure is never a score."""

from __future__ import annotations

import pytest
from judged_rows import Row, failure, score, story

from polaris.errors import InputError
from polaris.evaluate.stories import by_prompt, counts, per_story


def test_a_storys_score_is_the_mean_of_its_judged_repeats() -> None:
    rows = per_story(
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


def test_cut_and_empty_stories_are_counted_beside_the_figures() -> None:
    rows = per_story([story("a", truncated=True), story("b", words=0)], [], [])
    counted = counts(rows)
    assert (counted["truncated"], counted["empty"], counted["stories"], counted["prompts"]) == (1, 1, 2, 2)


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
        per_story(stories, scores, failures)


def test_stories_of_one_prompt_at_several_targets_are_of_one_prompt() -> None:
    rows = per_story(
        [story("fox@500", target=500), story("fox@1000"), story("hen")],
        [score("fox@500", 10), score("fox@1000", 30), score("hen", 5)],
        [],
    )
    assert counts(rows)["prompts"] == 2
    assert by_prompt(rows) == {"fox": 20.0, "hen": 5.0}
    assert by_prompt(rows, lambda row: row["words"]) == {"fox": 900.0, "hen": 900.0}

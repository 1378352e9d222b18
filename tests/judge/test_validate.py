"""Pairs that people chose from, and a judge's scores of them, in; agreement out, counted by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from score_rows import row, write

from polaris.errors import InputError
from polaris.judge.readings import Source
from polaris.judge.validate import Pair, agreement, read_pairs, story_rows, wilson

LONG, SHORT = "one two three four", "one two"


def pair(number: int, chosen: str = LONG, rejected: str = SHORT, **changed: Any) -> Pair:
    return Pair(f"p{number}", changed.pop("prompt", f"Prompt {number}"), chosen, rejected, **changed)


def scored(pairs: list[Pair], scores: list[tuple[int | None, int | None]], **changed: Any) -> Source:
    found = {(entry["id"], entry["sample"]): entry for entry in story_rows(pairs)}
    rows = [
        row(pair.id, overall, sample=side, words=found[pair.id, side]["words"], target=None, **changed)
        for pair, both in zip(pairs, scores, strict=True)
        for side, overall in enumerate(both)
        if overall is not None
    ]
    failures = [
        {"id": pair.id, "sample": side, "repeat": 0, "reason": "cut"}
        for pair, both in zip(pairs, scores, strict=True)
        for side, overall in enumerate(both)
        if overall is None
    ]
    return Source("scores.jsonl", rows, failures)


def figures(pairs: list[Pair], scores: list[tuple[int | None, int | None]]) -> dict[str, Any]:
    found = agreement(pairs, scored(pairs, scores), seed=1, resamples=200)
    json.dumps(found, allow_nan=False)
    return found


def test_agreement_by_hand() -> None:
    pairs = [
        pair(0),
        pair(1),
        pair(2, SHORT, LONG),
        pair(3, SHORT, LONG),
        pair(4, "one two", "two one"),
        pair(5),
        pair(6),
    ]
    scores = [(50, 40), (40, 44), (60, 30), (20, 50), (30, 30), (None, 10), (10, None)]
    found = figures(pairs, scores)
    assert (found["pairs"], found["n"], found["n_failed"], found["ties"]) == (7, 5, 2, 1)
    assert found["failures"] == {"cut": 2}
    assert found["agreement"]["value"] == pytest.approx(2.5 / 5)
    assert found["mean_gap"] == pytest.approx((10 - 4 + 30 - 30 + 0) / 5)
    length = found["length"]
    assert length["longer_is_chosen"]["value"] == pytest.approx(2.5 / 5) and length["same_length"] == 1
    assert (length["shorter_chosen"]["value"], length["shorter_chosen"]["n"]) == (0.5, 2)
    assert (length["longer_chosen"]["value"], length["longer_chosen"]["n"]) == (0.5, 2)
    assert length["balanced"] == 0.5
    assert length["judge_prefers_longer"]["value"] == pytest.approx(2 / 4)
    assert [(part["name"], part["n"], part["value"]) for part in found["by_gap"]] == [
        ("up to 5", 1, 0.0),
        ("5 to 10", 1, 1.0),
        ("above 20", 2, 0.5),
    ]
    assert "none is possible" in found["position_bias"] and found["by_upvotes"] == []
    assert found["agreement"]["method"].startswith("Wilson"), "five prompts are few"
    assert "prompt" not in found["per_pair"][0]


def test_repeats_are_averaged_and_upvotes_make_classes() -> None:
    pairs = [pair(0, upvotes=(30.0, 10.0)), pair(1, upvotes=(11.0, 10.0)), pair(2, upvotes=(1.0, 0.0))]
    source = scored(pairs, [(50, 40), (40, 44), (10, 20)])
    more = [{**found, "repeat": 1, "overall": 60} for found in source.scores if found["id"] == "p1"][:1]
    found = agreement(pairs, Source("s", [*source.scores, *more]), seed=1, resamples=50)
    assert found["repeats"] == 2
    assert [part["chosen"] for part in found["per_pair"]] == [50, 50, 10]
    assert [(part["name"], part["value"]) for part in found["by_upvotes"]] == [("up to 2", 1), ("2 to 5", 1)]


def test_pairs_of_one_prompt_are_drawn_together() -> None:
    pairs = [pair(n, prompt=f"Prompt {n // 10}") for n in range(200)]
    scores: list[tuple[int | None, int | None]] = [(50, 40) if n // 10 % 2 else (40, 50) for n in range(200)]
    together = figures(pairs, scores)["agreement"]
    apart = figures([pair(n) for n in range(200)], scores)["agreement"]
    assert together["method"] == apart["method"] == "bootstrap over prompts"
    assert together["high"] - together["low"] > 2 * (apart["high"] - apart["low"])


def test_nothing_scored_in_full_has_no_value() -> None:
    found = figures([pair(0), pair(1)], [(5, None), (None, 5)])
    assert (found["n"], found["n_failed"], found["agreement"]["value"]) == (0, 2, None)
    assert found["mean_gap"] is None and found["length"]["balanced"] is None


@given(st.integers(1, 3000), st.floats(0, 1))
def test_wilsons_interval_holds_the_share_and_is_never_a_point(n: int, share: float) -> None:
    low, high = wilson(share, n)
    assert 0 <= low <= share + 1e-12 and share - 1e-12 <= high <= 1 and low < high


def test_wilson_by_the_book() -> None:
    low, high = wilson(0.1, 10)
    assert (round(low, 4), round(high, 4)) == (0.0179, 0.4042)


@given(st.lists(st.tuples(st.integers(-50, 100), st.integers(-50, 100)), min_size=1, max_size=20))
def test_swapping_both_sides_turns_agreement_round(scores: list[tuple[int, int]]) -> None:
    pairs = [pair(n) for n in range(len(scores))]
    turned = [Pair(p.id, p.prompt, p.rejected, p.chosen) for p in pairs]
    one = figures(pairs, list(scores))["agreement"]["value"]
    other = figures(turned, [(b, a) for a, b in scores])["agreement"]["value"]
    assert one + other == pytest.approx(1)


def test_scores_that_are_not_of_these_pairs_are_refused() -> None:
    pairs = [pair(0)]
    with pytest.raises(InputError, match="no score is of these pairs"):
        agreement(pairs, scored([pair(9)], [(1, 2)]), seed=1, resamples=10)
    with pytest.raises(InputError, match="holds no score; 2 judgements failed"):
        agreement(pairs, scored(pairs, [(None, None)]), seed=1, resamples=10)
    other = scored(pairs, [(1, 2)])
    wrong = Source("scores.jsonl", [{**found, "words": 77} for found in other.scores])
    with pytest.raises(InputError, match=r"words: 77 for \('p0', 0\)"):
        agreement(pairs, wrong, seed=1, resamples=10)
    two = Source("s", [*other.scores, *scored(pairs, [(1, 2)], judge="b").scores])
    with pytest.raises(InputError, match="scores by b and fake/reader: give the scores of one judge"):
        agreement(pairs, two, seed=1, resamples=10)


def test_pairs_are_read(tmp_path: Path) -> None:
    good = {"prompt": "p", "chosen_story": LONG, "rejected_story": SHORT}
    path = write(
        tmp_path / "pairs.jsonl", [good, {**good, "id": 7, "chosen_upvotes": 9, "rejected_upvotes": 3}]
    )
    found = read_pairs(path)
    assert [(entry.id, entry.upvotes) for entry in found] == [("1", None), ("7", (9.0, 3.0))]
    rows = story_rows(found)
    assert [(entry["id"], entry["sample"], entry["words"]) for entry in rows] == [
        ("1", 0, 4),
        ("1", 1, 2),
        ("7", 0, 4),
        ("7", 1, 2),
    ]


def test_every_bad_pair_is_named(tmp_path: Path) -> None:
    good = {"prompt": "p", "chosen_story": LONG, "rejected_story": SHORT}
    rows: list[dict[str, Any]] = [
        {"prompt": "p", "chosen_story": LONG},
        {**good, "rejected_story": f"{LONG}\n"},
        {**good, "chosen_story": "  "},
        {**good, "prompt": 4},
        {**good, "chosen_upvotes": "many"},
        {**good, "id": "x"},
        {**good, "id": "x"},
        {**good, "id": [1]},
    ]
    path = write(tmp_path / "pairs.jsonl", rows)
    with pytest.raises(InputError) as caught:
        read_pairs(path)
    assert str(caught.value).splitlines() == [
        f"{path}:1: rejected_story: missing",
        f"{path}:2: rejected_story: the same text as chosen_story, so nothing was preferred",
        f"{path}:3: chosen_story: empty",
        f"{path}:4: prompt: int in place of a string",
        f"{path}:5: chosen_upvotes: str in place of a number",
        f"{path}:7: id: given before; expected one of its own",
        f"{path}:8: id: list in place of a string",
    ]
    many = write(tmp_path / "many.jsonl", [{}] * 30)
    with pytest.raises(InputError, match=r"many.jsonl: … 70 more$"):
        read_pairs(many)
    with pytest.raises(InputError, match="no pair is there"):
        read_pairs(write(tmp_path / "none.jsonl", []))


def test_thoughts_are_cut_from_a_pairs_stories_before_they_are_judged_and_counted(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "chosen_story": f"<think>Hm, so.</think>\n{SHORT}", "rejected_story": LONG}]
    pairs = read_pairs(write(tmp_path / "pairs.jsonl", rows))
    assert [(entry["story"], entry["words"]) for entry in story_rows(pairs)] == [(SHORT, 2), (LONG, 4)]


@pytest.mark.parametrize(
    "line", ['{"prompt": "p", "prompt": "q"}', '{"id": NaN}', '{"chosen_upvotes": 1e999}']
)
def test_what_json_allows_but_no_pair_has_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(
        InputError, match=r"pairs.jsonl:1: (prompt: given twice|id: float|.*\n.*upvotes: float)"
    ):
        read_pairs(path)


def test_failures_are_told_by_their_kind() -> None:
    source = scored([pair(n) for n in range(12)], [(50, 40)] * 12)
    failed = [{"id": "x", "reason": f"answer cut after {n} tokens (max 900)"} for n in (100, 200, 300)]
    found = agreement(
        [pair(n) for n in range(12)],
        Source("s", source.scores, [{"reason": "refused"}, *failed]),
        seed=1,
        resamples=10,
    )
    assert found["failures"] == {"answer cut after … tokens (max …)": 3, "refused": 1}

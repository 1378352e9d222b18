"""Scores by story, repeat and judge in; how far they agree out, against published figures and by hand."""

from __future__ import annotations

import json
import math
import random
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from score_rows import judgement, label, row, table, write

from polaris.errors import InputError
from polaris.judge.icc import EQUAL, f_quantile, incomplete_beta, one_way, two_way
from polaris.judge.length_bias import bootstrap, length_bias, partial_correlation
from polaris.judge.readings import Lengths, Source, kinds, panel, read_sources
from polaris.judge.reliability import of_judge, reliability, shortage

SHROUT_FLEISS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
"""Table 2 of Shrout and Fleiss 1979: six targets, four judges."""

SCORES = st.integers(-159, 108)
TABLES = st.integers(2, 4).flatmap(
    lambda k: st.lists(st.lists(SCORES, min_size=k, max_size=k), min_size=3, max_size=12)
)


def facts(*sources: list[dict[str, Any]], failures: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    named = [Source(f"file{place}", rows, failures or ()) for place, rows in enumerate(sources)]
    found = reliability(panel(named), seed=1, resamples=100)
    json.dumps(found, allow_nan=False)
    return found


def test_the_published_example_gives_the_published_figures() -> None:
    single, agreement = one_way(SHROUT_FLEISS), two_way(SHROUT_FLEISS)
    assert (round(single.value or 0, 2), round(agreement.value or 0, 2)) == (0.17, 0.29)
    assert (single.name, agreement.name) == ("ICC(1,1)", "ICC(2,1)")
    assert single.low == pytest.approx(-0.133, abs=5e-4) and single.high == pytest.approx(0.723, abs=5e-4)
    assert agreement.low == pytest.approx(0.019, abs=5e-4) and agreement.high == pytest.approx(
        0.761, abs=5e-4
    )


@pytest.mark.parametrize(
    ("share", "first", "second", "expected"),
    [
        (0.95, 1, 1, 161.4476),
        (0.975, 1, 1, 647.7890),
        (0.975, 2, 3, 16.0441),
        (0.975, 5, 18, 3.3820),
        (0.95, 10, 20, 2.3479),
        (0.99, 60, 120, 1.6557),
    ],
)
def test_f_quantiles_are_those_of_the_tables(
    share: float, first: float, second: float, expected: float
) -> None:
    assert f_quantile(share, first, second) == pytest.approx(expected, abs=6e-5)


@given(st.floats(0.001, 0.999), st.floats(0.5, 400), st.floats(0.5, 400))
def test_the_incomplete_beta_is_a_share_and_symmetric(x: float, a: float, b: float) -> None:
    value = incomplete_beta(x, a, b)
    assert -1e-12 <= value <= 1 + 1e-12
    assert value + incomplete_beta(1 - x, b, a) == pytest.approx(1, abs=1e-9)


@given(TABLES, st.integers(-500, 500), st.randoms(use_true_random=False))
def test_icc_does_not_care_about_shift_or_order(
    scores: list[list[int]], shift: int, rng: random.Random
) -> None:
    moved = [[score + shift for score in row] for row in scores]
    rng.shuffle(moved)
    repeats = [rng.sample(row, len(row)) for row in moved]
    columns = rng.sample(range(len(scores[0])), len(scores[0]))
    judges = [[row[column] for column in columns] for row in moved]
    for found, again in ((one_way(scores), one_way(repeats)), (two_way(scores), two_way(judges))):
        assert (found.value is None) == (again.value is None)
        for one, other in ((found.value, again.value), (found.low, again.low), (found.high, again.high)):
            if one is not None and other is not None:
                assert one == pytest.approx(other, abs=1e-6)


@given(TABLES)
def test_icc_is_bounded_and_inside_its_interval(scores: list[list[int]]) -> None:
    k = len(scores[0])
    for found in (one_way(scores), two_way(scores)):
        if found.value is None:
            assert found.reason == EQUAL and found.low is None and found.high is None
            continue
        assert math.isfinite(found.value) and found.value <= 1 + 1e-12
        if found.name == "ICC(1,1)":
            assert found.value >= -1 / (k - 1) - 1e-9
        if found.low is not None and found.high is not None:
            assert found.low - 1e-9 <= found.value <= found.high + 1e-9


@given(st.lists(SCORES, min_size=3, max_size=12), st.integers(2, 5))
def test_identical_repeats_are_one_and_constant_scores_undefined(scores: list[int], k: int) -> None:
    same = [[score] * k for score in scores]
    for found in (one_way(same), two_way(same)):
        if len(set(scores)) == 1:
            assert (found.value, found.reason) == (None, EQUAL)
        else:
            assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_missing_repeats_leave_an_approximate_figure() -> None:
    whole = one_way([[10, 12], [30, 31], [50, 47], [70, 71]])
    partly = one_way([[10, 12], [30, 31, 29], [50, 47], [70, 71], [99]])
    assert whole.k == 2 and "exact" in whole.method
    assert partly.n == 4 and 2 < partly.k < 3 and "k₀" in partly.method
    assert one_way([[1, 2]]).reason == "fewer than two stories have two scores"
    assert two_way([[1], [2], [3]]).reason == "there is one judge"
    with pytest.raises(ValueError, match="not complete"):
        two_way([[1, 2], [3]])


def test_a_strict_judge_lowers_absolute_agreement_alone() -> None:
    rng = np.random.default_rng(4)
    stories = rng.normal(40, 15, 50)
    table = [[x + rng.normal(0, 2), x - 20 + rng.normal(0, 2)] for x in stories]
    level = [[a, b + 20] for a, b in table]
    strict, fair = two_way(table).value, two_way(level).value
    assert strict is not None and fair is not None and strict < 0.75 < 0.95 < fair


@given(st.integers(0, 2**32 - 1), st.integers(6, 40), st.integers(0, 2))
def test_partial_correlation_is_that_of_a_direct_regression(seed: int, n: int, controls: int) -> None:
    rng = np.random.default_rng(seed)
    y, x, held = rng.normal(size=n), rng.normal(size=n), rng.normal(size=(n, controls))
    y = y + 0.5 * x + held.sum(axis=1)
    found = partial_correlation(y, x, held)
    # The coefficient's t in the full regression: r = t / √(t² + degrees of freedom).
    design = np.column_stack([np.ones(n), x, held])
    solution, *_ = np.linalg.lstsq(design, y, rcond=None)
    rest = y - design @ solution
    freedom = n - design.shape[1]
    error = math.sqrt(rest @ rest / freedom * np.linalg.inv(design.T @ design)[1, 1])
    t = solution[1] / error
    assert found == pytest.approx(t / math.sqrt(t * t + freedom), abs=1e-6)


def test_length_bias_holds_the_target_fixed() -> None:
    rng = random.Random(7)
    targets = [rng.choice([1000, 2000, 4000]) for _ in range(400)]
    words = [int(target * rng.uniform(0.7, 1.3)) for target in targets]
    # Scores follow the target alone; words follow it too.
    scores = [20 * math.log(target) + rng.gauss(0, 1) for target in targets]
    ids = [f"p{n}" for n in range(400)]
    held: dict[str, Any] = {"log target": [math.log(target) for target in targets]}
    free = length_bias(scores, words, {}, ids, seed=1, resamples=100)
    fixed = length_bias(scores, words, held, ids, seed=1, resamples=100)
    assert free.value is not None and free.value > 0.7 and free.low is not None and free.low > 0.5
    assert fixed.value is not None and abs(fixed.value) < 0.15
    assert fixed.low is not None and fixed.high is not None and fixed.low < fixed.value < fixed.high
    order = rng.sample(range(400), 400)
    again = length_bias(
        [scores[n] for n in order],
        [words[n] for n in order],
        {"log target": [held["log target"][n] for n in order]},
        [ids[n] for n in order],
        seed=1,
        resamples=100,
    )
    assert again == fixed


def test_length_bias_says_why_it_is_unknown() -> None:
    few = length_bias([1, 2], [10, 20], {}, ["a", "b"], seed=1, resamples=10)
    flat = length_bias([5, 5, 5, 5], [10, 20, 30, 40], {}, list("abcd"), seed=1, resamples=10)
    none = length_bias([1, 2, 3], [None, 0, 5], {}, list("abc"), seed=1, resamples=10)
    assert few.value is None and "too few" in str(few.reason)
    assert flat.value is None and "do not vary" in str(flat.reason)
    assert none.left_out == 2 and none.value is None
    assert bootstrap(lambda at: 1.0, ["a", "a"], seed=1, resamples=10) is None
    assert bootstrap(lambda at: None, ["a", "b"], seed=1, resamples=10) is None


def test_label_flips_by_hand() -> None:
    # a: poor poor fair (2 flips of 3); b: fair good (1 of 1); c: very_poor fair (1 of 1, two apart).
    judge = facts(table({"a": [20, 30, 40], "b": [50, 60], "c": [10, 40]}))["judges"][0]
    flips = judge["labels"]
    assert (flips["pairs"], flips["flipped"], flips["far"]) == (5, 4, 1)
    assert flips["share"] == 0.8
    assert flips["names"] == ["very_poor", "poor", "fair", "good", "excellent"]
    assert flips["table"][1] == [0, 1, 2, 0, 0] and flips["table"][2][3] == 1 and flips["table"][0][2] == 1
    assert sum(map(sum, flips["table"])) == 5
    assert (judge["repeats"], judge["repeated"], judge["incomplete"]) == (3, 3, 2)


@given(st.lists(st.lists(SCORES, min_size=2, max_size=4), min_size=3, max_size=6))
def test_label_flips_count_every_pair_once(scores: list[list[int]]) -> None:
    rows = table({f"s{place}": overalls for place, overalls in enumerate(scores)})
    flips = of_judge(*_one(rows), seed=1, resamples=5)["labels"]
    pairs = [pair for overalls in scores for pair in combinations(overalls, 2)]
    assert flips["pairs"] == len(pairs)
    assert flips["flipped"] == sum(label(a) != label(b) for a, b in pairs)


def _one(rows: list[dict[str, Any]]) -> tuple[Any, Any]:
    found = panel([Source("f", rows)])
    return found.raters[0], found


def test_differences_and_spread_by_hand() -> None:
    rows = table({"a": [20, 24], "b": [50, 50], "c": [70, 62]}, judgement=judgement(18))
    for changed, level in ((rows[0], 1), (rows[1], 5)):
        positive = {**changed["judgement"]["positive"], "P1": level}
        changed["judgement"] = {**changed["judgement"], "positive": positive}
    judge = facts(rows)["judges"][0]
    test = judge["test_retest"]
    assert test["mean_absolute_difference"] == pytest.approx(4)
    assert (test["largest_difference"], test["pairs"]) == (8, 3)
    assert test["within_sd"] == pytest.approx(math.sqrt((8 + 0 + 32) / 3))
    assert test["repeatability"] == pytest.approx(1.96 * math.sqrt(2) * test["within_sd"])
    icc, mean = test["icc"]["value"], test["icc_of_mean"]["value"]
    assert mean == pytest.approx(2 * icc / (1 + icc))
    spread = judge["dimensions"][0]
    assert (spread["key"], spread["max"]) == ("P1", 15)
    assert spread["sd"] == pytest.approx(math.sqrt(8) / 3) and spread["share"] == pytest.approx(
        spread["sd"] / 15
    )
    assert judge["dimensions"][1]["icc"] is None and judge["dimensions"][1]["reason"] == EQUAL


def test_several_judges_are_compared_on_what_all_judged() -> None:
    harsh = {"judge": "other/critic"}
    first = table({"a": [20, 22], "b": [50, 48], "c": [70, 71], "d": [10]})
    second = table({"a": [10], "b": [41], "c": [60], "e": [5]}, **harsh)
    found = facts(first, second)
    assert [judge["name"] for judge in found["judges"]] == ["fake/reader", "other/critic"]
    between = found["between"]
    assert (between["stories"], between["incomplete"], found["stories"]) == (3, 2, 5)
    assert between["icc"]["name"] == "ICC(2,1)" and between["icc"]["k"] == 2
    pair = between["pairs"][0]
    assert pair["mean_difference"] == pytest.approx((11 + 8 + 10.5) / 3)
    assert pair["n"] == 3 and pair["correlation"] > 0.99 and between["rubrics_differ"] is False
    assert between["labels"]["pairs"] == 6
    beyond = found["judges"][0]["length_bias_beyond_others"]
    assert beyond["controls"][-1] == "mean of the other judges" and beyond["left_out"] == 1
    assert found["judges"][1]["test_retest"]["icc"]["value"] is None
    assert found["judges"][1]["test_retest"]["icc"]["reason"] == "fewer than two stories have two scores"


def test_two_forms_of_a_rubric_are_two_judges() -> None:
    found = facts(
        table({"a": [20], "b": [50], "c": [70]}),
        table({"a": [25], "b": [40], "c": [71]}, rubric="story-quality/1/compact/11111111"),
    )
    assert found["between"]["rubrics_differ"] is True
    assert found["judges"][0]["name"] == "fake/reader (story-quality/1/compact/11111111)"


def test_the_same_row_in_two_files_is_one_judgement() -> None:
    rows = table({"a": [20], "b": [50], "c": [70]})
    copied = panel([Source("x", rows), Source("y", rows)])
    assert copied.raters[0].copies == 3
    assert "3 rows are copies" in str(shortage(copied))
    other = [{**found, "overall": found["overall"] + 1} for found in rows]
    again = panel([Source("x", rows), Source("y", other)])
    assert again.raters[0].copies == 0 and shortage(again) is None
    assert [reading.overall for reading in again.raters[0].readings["a", 0]] == [20, 21]


def test_failures_are_counted_and_never_scored() -> None:
    failed = [{"id": "a", "sample": 0, "repeat": 1, "reason": "cut"}]
    found = facts(table({"a": [20], "b": [50, 51], "c": [70, 71]}), failures=failed)
    judge = found["judges"][0]
    assert (found["failed"], judge["failed"], judge["judgements"]) == (1, 1, 5)
    assert judge["test_retest"]["icc"]["n"] == 2
    mixed = [*table({"a": [1]}), *table({"a": [2]}, judge="b")]
    assert panel([Source("f", mixed, failed)]).failed == 1


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({"a": [20, 21], "b": [50, 51]}, "scores of 2 stories; at least 3 are needed"),
        ({"a": [20], "b": [50], "c": [60]}, "judges.NAME.repeats"),
        ({"a": [20, 21], "b": [50], "c": [60]}, "1 of 3 stories are judged more than once"),
    ],
)
def test_too_little_says_how_to_get_more(scores: dict[str, list[int]], said: str) -> None:
    found = str(shortage(_one(table(scores))[1]))
    assert said in found
    assert "--repeats 3" in found or "judge more stories" in found


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"overall": None}, "overall: not 22, which the row's judgement adds up to"),
        ({"overall": True}, "overall: not 22, "),
        ({"overall": math.nan}, "overall: not 22, "),
        ({"overall": 25}, "overall: not 22, "),
        ({"label": "superb"}, "label: not poor, which the row's judgement adds up to"),
        ({"label": "good"}, "label: not poor, "),
        ({"judgement": None}, "judgement: null; expected an object"),
        ({"judgement": {"positive": {"P1": 16}}}, "judgement: "),
        ({"judgement": {**judgement(22), "positive": {"P1": 15, "P2": 7}}}, "judgement.positive: "),
        ({"judgement": {**judgement(22), "bonus": "2"}}, "judgement.bonus: "),
        ({"judge": ""}, "judge: a string is needed"),
        ({"id": 3}, "id: a string is needed"),
        ({"repeat": "0"}, "repeat: a whole number is needed"),
        ({"words": -1}, "words: a number of words is needed"),
        ({"words": "a story"}, "words: a number of words is needed"),
        ({"repeat": 1}, "repeat: 1 is there twice"),
        ({"repeat": 2, "words": 5}, "not judgements of the same story"),
    ],
)
def test_a_bad_row_is_named_by_line_and_field(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    rows = [row("a", 20), row("a", 20, 1), {**row("a", 22, 2), **changed}]
    path = write(tmp_path / "scores.jsonl", rows)
    with pytest.raises(InputError) as caught:
        panel(read_sources([tmp_path]))
    assert said in str(caught.value)
    assert f"{path}:" in str(caught.value)


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no scores.jsonl is there"):
        read_sources([tmp_path])
    path = tmp_path / "scores.jsonl"
    path.write_text('\n{"id": "a", "id": "b"}\n')
    with pytest.raises(InputError, match=r"scores.jsonl:2: id: given twice; expected each key once"):
        read_sources([path])
    path.write_text('\n{"overall": 3\n')
    with pytest.raises(InputError, match=r"scores.jsonl:2: row: no JSON at character"):
        read_sources([path])
    path.write_text("[1]\n")
    with pytest.raises(InputError, match=r"scores.jsonl:1: row: a list; expected a JSON object"):
        read_sources([path])
    write(path, [row("a", 1)])
    with pytest.raises(InputError, match="given twice: a judgement"):
        read_sources([path, tmp_path])


@pytest.mark.parametrize(
    ("line", "lacks"),
    [
        ({"id": "a", "story": "Once."}, "sample"),
        ({"id": "a", "sample": 0, "story": "Once."}, "repeat"),
        ({key: value for key, value in row("a", 20).items() if key != "judgement"}, "judgement"),
    ],
)
def test_stories_in_place_of_scores_are_told_what_to_do(
    tmp_path: Path, line: dict[str, Any], lacks: str
) -> None:
    path = write(tmp_path / "stories.jsonl", [line])
    with pytest.raises(InputError) as caught:
        read_sources([path])
    assert str(caught.value) == (
        f"{path}:1: no row of scores.jsonl ({lacks} is missing); judge it first with `polaris judge score`"
    )


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=50))
def test_kinds_of_reasons_count_every_one(numbers: list[int]) -> None:
    found = kinds(f"answer of {number:,} tokens is no JSON" for number in numbers)
    assert list(found.values()) == [len(numbers)]
    alike = len(set(numbers)) == 1
    assert next(iter(found)) == f"answer of {f'{numbers[0]:,}' if alike else '…'} tokens is no JSON"


def test_the_commonest_kind_comes_first() -> None:
    found = kinds(["b", "a", "cut at 3", "cut at 4", "cut at 4"])
    assert list(found.items()) == [("cut at …", 3), ("a", 1), ("b", 1)]


def test_lengths_that_the_rows_lack_are_taken_from_the_stories() -> None:
    rows = table({"a": [20, 21], "b": [50, 52]}, words=None, target=None)
    found = panel([Source("f", rows)], {("a", 0): Lengths(100, 200), ("b", 0): Lengths(300, 200)})
    assert found.lengths["a", 0] == Lengths(100, 200)
    assert of_judge(found.raters[0], found, seed=1, resamples=5)["per_story"][1]["words"] == 300


def test_order_of_rows_and_files_changes_nothing() -> None:
    rng = random.Random(2)
    scores = {f"s{n}": [rng.randint(0, 90) for _ in range(3)] for n in range(8)}
    rows = [
        row(key, value, repeat, words=100 + 37 * int(key[1:]))
        for key, values in scores.items()
        for repeat, value in enumerate(values)
    ]
    assert facts(rng.sample(rows, len(rows))) == facts(rows)

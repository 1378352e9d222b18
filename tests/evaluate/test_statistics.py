"""Scores in, values with intervals out: known values, determinism, coverage, nothing silent."""

from __future__ import annotations

import math
import random
import statistics as standard

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polaris.evaluate.statistics import bootstrap_mean, bootstrap_median, paired, paired_difference

scores = st.floats(min_value=-159, max_value=108, allow_nan=False)
some_scores = st.lists(scores, min_size=2, max_size=30)
RESAMPLES = 200


def test_a_mean_and_its_interval_have_the_known_values() -> None:
    found = bootstrap_mean([1.0, 2.0, 3.0, 4.0], seed=1, resamples=20_000)
    assert found.value == 2.5
    assert found.low is not None and found.high is not None
    # The exact bootstrap distribution over 4^4 draws has its 2.5 % and 97.5 % points at 1.5 and 3.5.
    assert (found.low, found.high) == (1.5, 3.5)
    assert (found.n, found.n_failed) == (4, 0)


def test_the_interval_narrows_to_the_normal_one_for_many_scores() -> None:
    draw = random.Random(5)
    values = [draw.gauss(40, 15) for _ in range(400)]
    found = bootstrap_mean(values, seed=3, resamples=5000)
    half = 1.96 * standard.stdev(values) / math.sqrt(len(values))
    mean = standard.fmean(values)
    assert found.low == pytest.approx(mean - half, abs=0.12)
    assert found.high == pytest.approx(mean + half, abs=0.12)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    draw = random.Random(11)
    hits = 0
    for trial in range(300):
        found = bootstrap_mean([draw.gauss(10, 4) for _ in range(40)], seed=trial, resamples=400)
        assert found.low is not None and found.high is not None
        hits += found.low <= 10 <= found.high
    assert 0.90 <= hits / 300 <= 0.98


@given(some_scores, st.integers(0, 1000))
def test_the_value_lies_in_its_interval_and_the_order_does_not_matter(values: list[float], seed: int) -> None:
    for bootstrap in (bootstrap_mean, bootstrap_median):
        found = bootstrap(values, seed, RESAMPLES)
        assert found == bootstrap(list(reversed(values)), seed, RESAMPLES)
        assert found.low is not None and found.high is not None and found.value is not None
        assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9


@given(some_scores)
def test_mean_and_median_are_those_of_the_standard_library(values: list[float]) -> None:
    assert bootstrap_mean(values, 0, 1).value == pytest.approx(standard.fmean(values), abs=1e-9)
    assert bootstrap_median(values, 0, 1).value == pytest.approx(standard.median(values), abs=1e-9)


@given(st.lists(scores, max_size=10), st.integers(0, 5), st.integers(0, 5))
def test_what_is_no_score_is_counted_and_changes_nothing(values: list[float], none: int, nan: int) -> None:
    with_failures = [*values, *[None] * none, *[math.nan] * nan]
    found, clean = bootstrap_mean(with_failures, 7, RESAMPLES), bootstrap_mean(values, 7, RESAMPLES)
    assert (found.value, found.low, found.high, found.n) == (clean.value, clean.low, clean.high, clean.n)
    assert found.n_failed == none + nan


def test_nothing_scored_has_no_value_and_one_score_no_interval() -> None:
    assert bootstrap_mean([None, math.inf], 0, 10).row() == {
        "value": None,
        "low": None,
        "high": None,
        "n": 0,
        "n_failed": 2,
    }
    one = bootstrap_median([31.0], 0, 10)
    assert (one.value, one.low, one.high, one.n) == (31.0, None, None, 1)


def test_another_seed_gives_another_interval_of_the_same_value() -> None:
    values = [float(value * value % 17) for value in range(20)]
    first, second = bootstrap_mean(values, 1, RESAMPLES), bootstrap_mean(values, 2, RESAMPLES)
    assert first.value == second.value
    assert (first.low, first.high) != (second.low, second.high)


def test_stories_of_one_prompt_are_drawn_together() -> None:
    values = [10.0] * 5 + [20.0] * 5
    alone = bootstrap_mean(values, 4, 2000)
    together = bootstrap_mean(values, 4, 2000, groups=["a"] * 5 + ["b"] * 5)
    assert together.value == alone.value == 15.0
    assert (together.low, together.high) == (10.0, 20.0)
    assert alone.low is not None and alone.low > 10.0
    assert bootstrap_median(values, 4, 2000, groups=["a"] * 10).low is None


@given(some_scores, st.integers(0, 50))
def test_groups_of_one_are_no_groups(values: list[float], seed: int) -> None:
    alone = bootstrap_mean(values, seed, RESAMPLES)
    assert bootstrap_mean(values, seed, RESAMPLES, groups=list(range(len(values)))) == alone


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="resamples is 0"):
        bootstrap_mean([1.0], 0, 0)
    with pytest.raises(ValueError, match="1 groups for 2 values"):
        bootstrap_mean([1.0, 2.0], 0, 10, groups=["a"])


def test_a_paired_difference_uses_the_ids_scored_in_both() -> None:
    a = {"p": 30.0, "q": 40.0, "r": None, "only-a": 99.0}
    b = {"p": 20.0, "q": 20.0, "r": 5.0, "only-b": math.nan}
    assert paired(a, b) == {"p": 10.0, "q": 20.0}
    found = paired_difference(a, b, 0, 500)
    assert (found.value, found.low, found.high, found.n, found.n_dropped) == (15.0, 10.0, 20.0, 2, 3)


@given(st.dictionaries(st.text(max_size=3), st.none() | scores, max_size=12), st.integers(0, 9))
def test_a_difference_with_itself_is_zero_and_swapping_flips_it(
    a: dict[str, float | None], seed: int
) -> None:
    same = paired_difference(a, a, seed, RESAMPLES)
    assert same.value in (0.0, None)
    assert same.n + same.n_dropped == len(a)
    b = {key: None if value is None else value / 2 for key, value in a.items()}
    forth, back = paired_difference(a, b, seed, RESAMPLES), paired_difference(b, a, seed, RESAMPLES)
    if forth.value is not None and back.value is not None:
        assert forth.value == pytest.approx(-back.value, abs=1e-9)


def test_a_paired_interval_is_narrower_than_the_scores_spread() -> None:
    draw = random.Random(2)
    level = {str(index): draw.uniform(-50, 90) for index in range(60)}
    better = {key: value + 4 + draw.gauss(0, 1) for key, value in level.items()}
    found = paired_difference(better, level, 0, 2000)
    assert found.low is not None and found.high is not None
    assert 3.0 < found.low < found.high < 5.0

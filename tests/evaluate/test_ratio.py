"""Words and targets in, length figures out: known values, edges, and stories of no words."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polaris.evaluate.ratio import absolute_log_ratio, length_figures, ratio, within

stories = st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 12_000)), min_size=1, max_size=20)


def test_figures_of_four_stories_have_the_known_values() -> None:
    found = length_figures([(500, 1000), (900, 1000), (1200, 1000), (2000, 1000)], seed=0, resamples=200)
    values = {name: estimate.value for name, estimate in found.items()}
    assert values["length_ratio_mean"] == pytest.approx(1.15)
    assert values["length_ratio_median"] == pytest.approx(1.05)
    assert values["length_abs_log_ratio_median"] == pytest.approx((math.log(1.2) + math.log(2)) / 2)
    assert (values["length_within_10"], values["length_within_20"]) == (0.25, 0.5)
    assert all(estimate.n == 4 for estimate in found.values())


def test_a_story_of_no_words_is_a_far_miss_and_stays_in() -> None:
    found = length_figures([(0, 1000), (1000, 1000)], seed=0, resamples=100)
    assert found["length_ratio_mean"].value == 0.5
    assert found["length_abs_log_ratio_median"].value == pytest.approx(math.log(1000) / 2)
    assert found["length_within_20"].value == 0.5
    assert {estimate.n_failed for estimate in found.values()} == {0}


def test_the_edges_of_the_tolerances_are_inside() -> None:
    assert within(1100, 1000, 0.10) and within(900, 1000, 0.10) and within(330, 300, 0.10)
    assert not within(1101, 1000, 0.10) and not within(899, 1000, 0.10)


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_too_long_and_too_short_by_a_factor_weigh_the_same(a: int, b: int) -> None:
    assert absolute_log_ratio(a, b) == pytest.approx(absolute_log_ratio(b, a))
    assert absolute_log_ratio(a, a) == 0


@given(stories)
def test_every_figure_is_finite_and_the_shares_are_nested(rows: list[tuple[int, int]]) -> None:
    found = length_figures(rows, seed=1, resamples=100)
    values = {name: estimate.value for name, estimate in found.items()}
    assert all(value is not None and math.isfinite(value) and value >= 0 for value in values.values())
    assert values["length_within_10"] <= values["length_within_20"] <= 1  # type: ignore[operator]


def test_no_story_has_no_figure() -> None:
    assert {estimate.value for estimate in length_figures([], seed=0, resamples=10).values()} == {None}


@pytest.mark.parametrize(("words", "target"), [(10, 0), (-1, 5)])
def test_an_impossible_length_is_an_error(words: int, target: int) -> None:
    with pytest.raises(ValueError, match="target"):
        ratio(words, target)

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polaris.evaluate.longform import DIMENSIONS, FORCED, NEGATIVE, POSITIVE, score

BEST = dict.fromkeys(POSITIVE, 20.0) | dict.fromkeys(NEGATIVE, 0.0)
WORST = dict.fromkeys(POSITIVE, 0.0) | dict.fromkeys(NEGATIVE, 20.0)
scores = st.fixed_dictionaries({name: st.floats(0, 20) for name in DIMENSIONS})


def test_twelve_dimensions_as_upstream_spells_them() -> None:
    assert len(DIMENSIONS) == len(set(DIMENSIONS)) == 12
    assert len(POSITIVE) == len(NEGATIVE) == 6
    assert "Tell-Don't-Show" in NEGATIVE and "Well-earned Lightness or Darkness" in POSITIVE


@pytest.mark.parametrize(
    ("found", "value", "uniform"),
    [
        (BEST, 100.0, 100.0),
        (WORST, 0.0, 0.0),
        # all in the middle: (11·10 + 5·(0.5^1.7·20)) / 16 / 20 · 100, with 0.5^1.7 = 0.30778610
        (dict.fromkeys(DIMENSIONS, 10.0), (110 + 5 * 6.155722066724582) / 3.2, 50.0),
        # Forced Poetry 17 turns into 3, and (3/20)^1.7·20 = 0.79503296; the eleven others add up to 128
        (
            dict(zip(DIMENSIONS, (4, 12, 13, 14, 15, 10, 8, 8, 8, 8, 8, 17), strict=True)),
            (128 + 5 * 0.795032964226162) / 3.2,
            131 / 2.4,
        ),
        (BEST | {FORCED: 20.0}, 11 * 20 / 3.2, 11 * 20 / 2.4),
        (WORST | {FORCED: 0.0}, 100 / 3.2, 20 / 2.4),
    ],
)
def test_values_by_hand(found: dict[str, float], value: float, uniform: float) -> None:
    assert score(found)[0] == pytest.approx(value, abs=1e-9)
    assert score(found, uniform=True)[0] == pytest.approx(uniform, abs=1e-9)


def test_the_specs_example() -> None:
    """Its value and its Forced Poetry fit a raw 17 and 128 points in the eleven others."""
    value, parts = score(dict(zip(DIMENSIONS, (4, 12, 13, 14, 15, 10, 8, 8, 8, 8, 8, 17), strict=True)))
    assert round(value, 2) == 41.24
    assert parts[FORCED] == pytest.approx(0.795, abs=1e-3)


def test_parts_are_turned_round() -> None:
    found = dict.fromkeys(DIMENSIONS, 5.0)
    parts = score(found)[1]
    assert list(parts) == list(DIMENSIONS)
    assert [parts[name] for name in POSITIVE] == [5.0] * 6
    assert [parts[name] for name in NEGATIVE[:5]] == [15.0] * 5
    assert parts[FORCED] == pytest.approx(0.75**1.7 * 20)
    assert score(found, uniform=True)[1][FORCED] == 15.0


@given(
    scores, st.sampled_from(DIMENSIONS), st.floats(0, 20), st.booleans(), st.randoms(use_true_random=False)
)
def test_bounded_monotone_and_blind_to_order(
    found: dict[str, float], name: str, other: float, uniform: bool, random: object
) -> None:
    low, high = sorted((found[name], other))
    less, more = (score(found | {name: given}, uniform=uniform)[0] for given in (low, high))
    assert min(less, more) >= -1e-9 and max(less, more) <= 100 + 1e-9
    assert less <= more if name in POSITIVE else less >= more
    shuffled = dict(random.sample(list(found.items()), len(found)))  # type: ignore[attr-defined]
    assert score(shuffled, uniform=uniform) == score(found, uniform=uniform)

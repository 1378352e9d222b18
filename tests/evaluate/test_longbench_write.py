from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polaris.evaluate.longbench_write import DIMENSIONS, length_score, score

scores = st.fixed_dictionaries({name: st.integers(1, 5) for name in DIMENSIONS})
lengths = st.integers(0, 10**9)


@pytest.mark.parametrize(
    ("words", "target", "value"),
    [
        (1000, 1000, 100.0),
        (0, 1000, 0.0),
        (2000, 1000, 100 * (1 - 1 / 3)),
        (2500, 1000, 50.0),
        (4000, 1000, 0.0),
        (9000, 1000, 0.0),
        (500, 1000, 50.0),
        (800, 1000, 87.5),
        (334, 1000, 100 * (1 - (1000 / 334 - 1) / 2)),
        (333, 1000, 0.0),
        (1, 10**9, 0.0),
    ],
)
def test_length_score_by_hand(words: int, target: int, value: float) -> None:
    assert length_score(words, target) == pytest.approx(value, abs=1e-9)


def test_the_specs_example() -> None:
    found = dict(zip(DIMENSIONS, (5, 4, 3, 4, 5, 4), strict=True))
    value, parts = score(found, 1000, 1000)
    # (100 + 75 + 50 + 75 + 100 + 75) / 6
    assert value == pytest.approx(475 / 6, abs=1e-9)
    assert parts == pytest.approx({"s_q": 475 / 6, "s_l": 100.0, "mean": (475 / 6 + 100) / 2})
    assert (round(value, 2), round(parts["mean"], 2)) == (79.17, 89.58)


def test_a_text_of_half_the_length() -> None:
    value, parts = score(dict.fromkeys(DIMENSIONS, 4), 500, 1000)
    assert (value, parts) == (37.5, {"s_q": 75.0, "s_l": 50.0, "mean": 62.5})
    assert score(dict.fromkeys(DIMENSIONS, 5), 0, 1000) == (0.0, {"s_q": 100.0, "s_l": 0.0, "mean": 50.0})


@given(lengths, lengths, st.integers(1, 10**9))
def test_length_score_is_bounded_and_falls_away_from_the_target(one: int, other: int, target: int) -> None:
    near, far = sorted((one, other), key=lambda words: abs(words - target))
    assert 0.0 <= length_score(far, target) <= 100.0
    if (near - target) * (far - target) >= 0:
        assert length_score(near, target) >= length_score(far, target)


@given(scores, st.sampled_from(DIMENSIONS), lengths, st.integers(1, 10**9), st.randoms(use_true_random=False))
def test_bounded_monotone_and_blind_to_order(
    found: dict[str, int], name: str, words: int, target: int, random: Any
) -> None:
    values = [score(found | {name: given}, words, target)[0] for given in range(1, 6)]
    assert values == sorted(values)
    assert values[0] >= 0.0 and values[-1] <= 100.0
    shuffled = dict(random.sample(list(found.items()), len(found)))
    assert score(shuffled, words, target) == score(found, words, target)

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polaris.evaluate.creative import DIMENSIONS, NEGATIVE, POSITIVE, score

scores = st.fixed_dictionaries({name: st.floats(0, 20) for name in DIMENSIONS})


def test_22_criteria_as_upstream_spells_them() -> None:
    assert (len(POSITIVE), len(NEGATIVE), len(set(DIMENSIONS))) == (13, 9, 22)
    assert {"Consistent Voice/Tone of Writing", "Tell-Don't-Show"} < set(DIMENSIONS)


@pytest.mark.parametrize(
    ("positive", "negative", "value"),
    [
        (20, 0, 100.0),
        (0, 20, 0.0),
        (10, 10, 50.0),
        (20, 20, 13 * 20 / 22 * 5),
        (15, 4, (13 * 15 + 9 * 16) / 22 * 5),
    ],
)
def test_values_by_hand(positive: int, negative: int, value: float) -> None:
    found = dict.fromkeys(POSITIVE, float(positive)) | dict.fromkeys(NEGATIVE, float(negative))
    total, parts = score(found)
    assert total == pytest.approx(value, abs=1e-9)
    assert list(parts) == list(DIMENSIONS)
    assert {parts[name] for name in POSITIVE} == {positive}
    assert {parts[name] for name in NEGATIVE} == {20 - negative}


@given(scores, st.sampled_from(DIMENSIONS), st.floats(0, 20), st.randoms(use_true_random=False))
def test_bounded_monotone_and_blind_to_order(
    found: dict[str, float], name: str, other: float, random: Any
) -> None:
    low, high = sorted((found[name], other))
    less, more = (score(found | {name: given})[0] for given in (low, high))
    assert min(less, more) >= -1e-9 and max(less, more) <= 100 + 1e-9
    assert less <= more if name in POSITIVE else less >= more
    assert score(dict(random.sample(list(found.items()), len(found)))) == score(found)

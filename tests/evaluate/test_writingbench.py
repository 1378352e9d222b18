from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polaris.evaluate.writingbench import score

scores = st.dictionaries(st.text(), st.integers(1, 10), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("found", "value"),
    [((7,), 7.0), ((7, 8, 6, 9, 5), 7.0), ((1, 1, 1, 1, 2), 1.2), ((10,) * 5, 10.0), ((1, 2), 1.5)],
)
def test_values_by_hand(found: tuple[int, ...], value: float) -> None:
    by_criterion = {f"criterion {number}": float(given) for number, given in enumerate(found)}
    assert score(by_criterion) == (pytest.approx(value, abs=1e-12), by_criterion)


@given(scores, st.integers(1, 10), st.data(), st.randoms(use_true_random=False))
def test_bounded_monotone_and_blind_to_order(
    found: dict[str, int], other: int, data: st.DataObject, random: Any
) -> None:
    name = data.draw(st.sampled_from(sorted(found)))
    low, high = sorted((found[name], other))
    less, more = (score(found | {name: given})[0] for given in (low, high))
    assert 1 <= less <= more <= 10
    assert score(dict(random.sample(list(found.items()), len(found)))) == score(found)

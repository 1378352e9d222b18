"""Scores in, values with 95 % bootstrap intervals out, the same for the same seed whatever the order.

A score that is missing (None) or not finite is counted as failed and never enters a figure.
Source: the percentile bootstrap (Efron and Tibshirani 1993, ch. 13); where stories share a prompt, whole
prompts are drawn, because their stories are not independent (cluster bootstrap, Davison and Hinkley 1997,
§3.8).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

LEVELS = (2.5, 97.5)
"""Percentiles that bound a 95 % interval."""

_CELLS = 2_000_000
"""Resampled values held in memory at once."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval; all three numbers are None when nothing could be counted.

    `low` and `high` are None when fewer than two independent units were counted: one story has no spread.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    n_failed: int

    def row(self) -> dict[str, Any]:
        """Return the estimate as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class Difference:
    """The mean of `a − b` over the ids scored in both, its interval, and how many ids were not."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    n_dropped: int

    def row(self) -> dict[str, Any]:
        """Return the difference as a JSON object."""
        return asdict(self)


def bootstrap_mean(
    values: Sequence[float | None],
    seed: int,
    resamples: int,
    *,
    groups: Sequence[Hashable] | None = None,
) -> Estimate:
    """Return the mean of the finite values with its 95 % percentile interval.

    Args:
        values: one score a story; None, NaN and infinities are counted in `n_failed`.
        seed: seed of the resampling.
        resamples: how many resamples, 1 or more.
        groups: the prompt of each value; whole prompts are drawn. None: every value is its own.

    Raises:
        ValueError: fewer than one resample, or `groups` of another length than `values`.

    """
    return _bootstrap(values, seed, resamples, groups, _weighted_means)


def bootstrap_median(
    values: Sequence[float | None],
    seed: int,
    resamples: int,
    *,
    groups: Sequence[Hashable] | None = None,
) -> Estimate:
    """Return the median of the finite values with its interval; arguments as for `bootstrap_mean`."""
    return _bootstrap(values, seed, resamples, groups, _weighted_medians)


def paired_difference(
    a: Mapping[str, float | None], b: Mapping[str, float | None], seed: int, resamples: int
) -> Difference:
    """Return the mean of `a[id] − b[id]` over the ids that both score, with its 95 % interval.

    An id that only one of them has, or that one of them failed, is counted in `n_dropped`.
    """
    pairs = paired(a, b)
    found = bootstrap_mean([pairs[key] for key in sorted(pairs)], seed, resamples)
    return Difference(found.value, found.low, found.high, found.n, len(set(a) | set(b)) - len(pairs))


def paired(a: Mapping[str, float | None], b: Mapping[str, float | None]) -> dict[str, float]:
    """Return `a[id] − b[id]` for each id with a finite score in both."""
    found: dict[str, float] = {}
    for key in a.keys() & b.keys():
        left, right = a[key], b[key]
        if is_score(left) and is_score(right):
            assert left is not None and right is not None
            found[key] = left - right
    return found


def is_score(value: float | None) -> bool:
    """Tell whether a value is a finite number: anything else is a failure, not a score."""
    return value is not None and math.isfinite(value)


def _bootstrap(
    values: Sequence[float | None],
    seed: int,
    resamples: int,
    groups: Sequence[Hashable] | None,
    statistic: Callable[[Any, Any], Any],
) -> Estimate:
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; at least 1 is needed")
    labels: Sequence[Hashable] = range(len(values)) if groups is None else groups
    if len(labels) != len(values):
        raise ValueError(f"{len(labels)} groups for {len(values)} values; one each is needed")
    kept = [(float(v), g) for v, g in zip(values, labels, strict=True) if v is not None and is_score(v)]
    failed = len(values) - len(kept)
    if not kept:
        return Estimate(None, None, None, 0, failed)
    units = sorted(_units(kept))
    order = sorted((value, index) for index, unit in enumerate(units) for value in unit)
    numbers = np.array([value for value, _ in order])
    owner = np.array([index for _, index in order])
    value = float(statistic(numbers, np.ones((1, len(order)), dtype=np.int64))[0])
    if len(units) < 2:
        return Estimate(value, None, None, len(kept), failed)
    rng = np.random.default_rng(seed)
    drawn = []
    step = max(1, _CELLS // len(order))
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        times = rng.multinomial(len(units), np.full(len(units), 1 / len(units)), size=count)
        drawn.append(statistic(numbers, times[:, owner]))
    bounds: Any = np.percentile(np.concatenate(drawn), LEVELS)
    return Estimate(value, float(bounds[0]), float(bounds[1]), len(kept), failed)


def _units(kept: list[tuple[float, Hashable]]) -> list[tuple[float, ...]]:
    by_label: dict[Hashable, list[float]] = {}
    for value, label in kept:
        by_label.setdefault(label, []).append(value)
    return [tuple(sorted(unit)) for unit in by_label.values()]


def _weighted_means(numbers: Any, times: Any) -> Any:
    return (times * numbers).sum(axis=1) / times.sum(axis=1)


def _weighted_medians(numbers: Any, times: Any) -> Any:
    """Return each row's median of the sorted `numbers` repeated `times` times; shapes (n,) and (rows, n)."""
    reached = times.cumsum(axis=1)
    total = reached[:, -1:]
    lower = (reached > (total - 1) // 2).argmax(axis=1)
    upper = (reached > total // 2).argmax(axis=1)
    return (numbers[lower] + numbers[upper]) / 2

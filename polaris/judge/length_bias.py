"""Scores and lengths by story in, how far the scores follow the length out: a partial correlation.

The correlation of what is left of scores and log words after the controls have explained what they can by
least squares (Yule 1907). Its interval is a percentile bootstrap over prompts, whose stories are not
independent. The arithmetic is one least-squares fit, so numpy is all that it needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

LEVELS = (2.5, 97.5)
"""Percentiles that bound a 95 % interval."""
DEFINED = 0.9
"""Share of the resamples in which a figure must be defined for its interval to be."""
_NOTHING = 1e-9
"""Share of a column's spread below which what is left of it is rounding error."""


@dataclass(frozen=True)
class Partial:
    """A partial correlation of score and log words, −1 to 1; None where undefined, `reason` says why."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    controls: tuple[str, ...]
    left_out: int = 0
    """Stories without words, which have no logarithm, or without a control."""
    reason: str | None = None

    def row(self) -> dict[str, Any]:
        """Return the correlation as a JSON object."""
        return {**asdict(self), "controls": list(self.controls)}


def length_bias(
    scores: Sequence[float],
    words: Sequence[int | None],
    controls: dict[str, Sequence[float | None]],
    prompts: Sequence[Hashable],
    *,
    seed: int,
    resamples: int,
) -> Partial:
    """Return the partial correlation of scores and log words.

    Args:
        scores: one number a story.
        words: its words; a story with none or unknown words is left out.
        controls: columns to hold fixed, by name; a story that lacks one is left out.
        prompts: the prompt of each story; whole prompts are drawn.
        seed: seed of the resampling.
        resamples: how many resamples.

    """
    names = tuple(controls)
    rows = []
    for place, (score, count) in enumerate(zip(scores, words, strict=True)):
        held = [column[place] for column in controls.values()]
        if count and all(value is not None for value in held):
            rows.append((score, math.log(count), *held, prompts[place]))
    rows.sort(key=repr)
    left_out = len(scores) - len(rows)
    if len(rows) < len(names) + 3:
        why = f"{len(rows)} stories with words are too few: at least {len(names) + 3} are needed"
        return Partial(None, None, None, len(rows), names, left_out, why)
    table = np.array([row[:-1] for row in rows], dtype=float)
    value = partial_correlation(table[:, 0], table[:, 1], table[:, 2:])
    if value is None:
        why = "scores or lengths do not vary" + (f" beyond {' and '.join(names)}" if names else "")
        return Partial(None, None, None, len(rows), names, left_out, why)
    interval = bootstrap(
        lambda at: partial_correlation(table[at, 0], table[at, 1], table[at, 2:]),
        [row[-1] for row in rows],
        seed=seed,
        resamples=resamples,
    )
    if interval is None:
        why = "no interval: too few prompts"
        return Partial(value, None, None, len(rows), names, left_out, why)
    return Partial(value, *interval, len(rows), names, left_out)


def partial_correlation(first: Any, second: Any, controls: Any) -> float | None:
    """Return the correlation of two columns (n,) with the controls (n, c) held fixed.

    None where one of them has nothing left to vary, or there are too few rows.
    """
    count = len(first)
    if count < controls.shape[1] + 3:
        return None
    pair = np.column_stack([first, second])
    spread = pair - pair.mean(axis=0)
    centred = controls - controls.mean(axis=0)
    solution = np.linalg.lstsq(centred, spread, rcond=None)[0] if controls.shape[1] else None
    rest = spread if solution is None else spread - centred @ solution
    sizes, full = np.sqrt((rest**2).sum(axis=0)), np.sqrt((spread**2).sum(axis=0))
    noise = _NOTHING * np.maximum(full, np.abs(pair).max(axis=0))
    if (sizes <= noise).any():
        return None
    found = float(rest[:, 0] @ rest[:, 1] / (sizes[0] * sizes[1]))
    return max(-1.0, min(1.0, found))


def bootstrap(
    statistic: Callable[[Any], float | None],
    groups: Sequence[Hashable],
    *,
    seed: int,
    resamples: int,
) -> tuple[float, float] | None:
    """Return the 95 % percentile interval of a statistic of row numbers; whole groups are drawn.

    None when there are fewer than two groups, or the statistic is None in more than a tenth of the draws.
    """
    by_group: dict[Hashable, list[int]] = {}
    for place, group in enumerate(groups):
        by_group.setdefault(group, []).append(place)
    units = [np.array(places) for places in by_group.values()]
    if len(units) < 2:
        return None
    single = np.concatenate(units) if len(units) == len(groups) else None
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        drawn = rng.integers(len(units), size=len(units))
        value = statistic(np.concatenate([units[i] for i in drawn]) if single is None else single[drawn])
        if value is not None:
            found.append(value)
    if len(found) < DEFINED * resamples:
        return None
    bounds: Any = np.percentile(found, LEVELS)
    return float(bounds[0]), float(bounds[1])

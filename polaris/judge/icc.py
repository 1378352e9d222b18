"""Scores by story and judge in, an intraclass correlation with its 95 % interval out.

ICC(1,1), one-way random, for repeats of one judge, which have no order; ICC(2,1), two-way random, absolute
agreement, for several judges of the same stories. Sources: Shrout and Fleiss 1979 (Psychological Bulletin
86, 420–428), McGraw and Wong 1996 (Psychological Methods 1, 30–46). The formulas are a few lines each, so
no statistics package is needed for them; the F quantile comes from the incomplete beta function.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

UPPER = 0.975
"""The quantile that bounds a two-sided 95 % interval."""
EQUAL = "all scores are equal, so there is no spread to compare"
_TINY = 1e-12
"""Share of a table's spread below which a mean square is rounding error."""


@dataclass(frozen=True)
class Icc:
    """An intraclass correlation; `value` is None where it is undefined, and `reason` then says why.

    Attributes:
        name: which one, as Shrout and Fleiss name it.
        value: at most 1; 0 is no better than chance, below 0 worse.
        low, high: the 95 % interval by F quantiles, None where it is undefined.
        n: stories.
        k: scores a story; where their number differs, the mean that stands for it (k₀).
        method: how the interval was had.
        reason: why a figure is None; None where none is.

    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    k: float
    method: str
    reason: str | None = None

    def row(self) -> dict[str, Any]:
        """Return the correlation as a JSON object."""
        return asdict(self)


def one_way(groups: Sequence[Sequence[float]]) -> Icc:
    """Return ICC(1,1) of the scores that each story got.

    A story with a single score says nothing about agreement and is left out. Where the numbers of scores
    differ, k₀ = (N − Σkᵢ²/N)/(n − 1) stands for k, and the interval is an approximation.
    """
    name, method = "ICC(1,1)", "F, exact for normal scores"
    kept = [np.asarray(group, dtype=float) for group in groups if len(group) > 1]
    n, total = len(kept), sum(len(group) for group in kept)
    if n < 2:
        reason = "fewer than two stories have two scores"
        return Icc(name, None, None, None, n, total / n if n else 0.0, method, reason)
    sizes = np.array([len(group) for group in kept], dtype=float)
    k = float((total - (sizes**2).sum() / total) / (n - 1))
    if len(set(sizes)) > 1:
        method = "F with k₀ for k: approximate, since the stories have different numbers of scores"
    means = np.array([group.mean() for group in kept])
    grand = float((sizes * means).sum() / total)
    between = float((sizes * (means - grand) ** 2).sum() / (n - 1))
    within = float(sum(((group - group.mean()) ** 2).sum() for group in kept) / (total - n))
    between, within = _cleaned((between, within), np.concatenate(kept))
    if between + (k - 1) * within <= 0:
        return Icc(name, None, None, None, n, k, method, EQUAL)
    value = (between - within) / (between + (k - 1) * within)
    if within == 0:
        return Icc(name, 1.0, 1.0, 1.0, n, k, method)
    ratio = between / within
    low = ratio / f_quantile(UPPER, n - 1, total - n)
    high = ratio * f_quantile(UPPER, total - n, n - 1)
    return Icc(name, value, (low - 1) / (low + k - 1), (high - 1) / (high + k - 1), n, k, method)


def two_way(table: Sequence[Sequence[float]]) -> Icc:
    """Return ICC(2,1) of a complete table, one row a story, one column a judge.

    The interval is McGraw and Wong's for case 2, absolute agreement of single scores, whose second number
    of degrees of freedom is Satterthwaite's.

    Raises:
        ValueError: the rows have different lengths.

    """
    name, method = "ICC(2,1)", "F with Satterthwaite's degrees of freedom"
    if len({len(row) for row in table}) > 1:
        raise ValueError("the table is not complete: each story needs one score by each judge")
    n, k = len(table), len(table[0]) if table else 0
    if n < 2 or k < 2:
        reason = "fewer than two stories are scored by all judges" if n < 2 else "there is one judge"
        return Icc(name, None, None, None, n, k, method, reason)
    scores = np.asarray(table, dtype=float)
    grand, stories, judges = scores.mean(), scores.mean(axis=1), scores.mean(axis=0)
    rest = scores - stories[:, None] - judges[None, :] + grand
    msr, msc, mse = _cleaned(
        (
            float(k * ((stories - grand) ** 2).sum() / (n - 1)),
            float(n * ((judges - grand) ** 2).sum() / (k - 1)),
            float((rest**2).sum() / ((n - 1) * (k - 1))),
        ),
        scores,
    )
    below = msr + (k - 1) * mse + k * (msc - mse) / n
    if below <= 0:
        return Icc(name, None, None, None, n, k, method, EQUAL)
    value = (msr - mse) / below
    if msc == mse == 0:
        return Icc(name, 1.0, 1.0, 1.0, n, k, method)
    low, high = _two_way_interval(value, n, k, msr, msc, mse)
    why = None if low is not None else "the interval is undefined: the stories' means do not differ"
    return Icc(name, value, low, high, n, k, method, why)


def _two_way_interval(
    value: float, n: int, k: int, msr: float, msc: float, mse: float
) -> tuple[float | None, float | None]:
    a = k * value / (n * (1 - value))
    b = 1 + k * value * (n - 1) / (n * (1 - value))
    below = (a * msc) ** 2 / (k - 1) + (b * mse) ** 2 / ((n - 1) * (k - 1))
    if below <= 0:
        return None, None
    freedom = (a * msc + b * mse) ** 2 / below
    if freedom < _TINY:
        return None, None
    spread = k * msc + (k * n - k - n) * mse
    lower, upper = f_quantile(UPPER, n - 1, freedom), f_quantile(UPPER, freedom, n - 1)
    low = n * (msr - lower * mse) / (lower * spread + n * msr)
    high = n * (upper * msr - mse) / (spread + n * upper * msr)
    return min(low, value), max(high, value)


def _cleaned(squares: Sequence[float], scores: Any) -> list[float]:
    """Return the mean squares, those that are only rounding error as exactly 0."""
    noise = _TINY * max(float(np.abs(scores).max()) ** 2, _TINY)
    return [square if square > noise else 0.0 for square in squares]


def f_quantile(share: float, first: float, second: float) -> float:
    """Return the value below which `share` (0–1) of an F distribution lies.

    `first` and `second` are its degrees of freedom, above 0, not necessarily whole.
    """
    low, high = 0.0, 1.0
    while high - low > 1e-15 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if incomplete_beta(middle, first / 2, second / 2) < share:
            low = middle
        else:
            high = middle
    x = (low + high) / 2
    return second * x / (first * (1 - x)) if x < 1 else math.inf


def incomplete_beta(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b), x from 0 to 1.

    By its continued fraction (NIST Handbook of Mathematical Functions, 8.17.22), which converges fast
    below x = (a + 1)/(a + b + 2); above it the symmetry I_x(a, b) = 1 − I_{1−x}(b, a) serves.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    front = math.exp(
        a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    )
    if x > (a + 1) / (a + b + 2):
        return 1 - front / b * _fraction(1 - x, b, a)
    return front / a * _fraction(x, a, b)


def _fraction(x: float, a: float, b: float) -> float:
    """Evaluate 1/(1 + d₁/(1 + d₂/(1 + …))) by the modified Lentz method."""
    value, numerator, denominator = 1.0, 1.0, 0.0
    for step in range(1000):
        m = step // 2
        if step == 0:
            d = 1.0
        elif step % 2 == 0:
            d = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            d = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        denominator = 1 / _not_zero(1 + d * denominator)
        numerator = _not_zero(1 + d / numerator)
        value *= numerator * denominator
        if abs(numerator * denominator - 1) < 1e-15:
            break
    return value - 1


def _not_zero(value: float) -> float:
    return value if abs(value) > 1e-300 else 1e-300

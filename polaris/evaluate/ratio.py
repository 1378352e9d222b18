"""Words written and words asked for in, the ratio and what is made of it out: how well a length was kept.

The ratio is words / target. A story of no words has ratio 0; its logarithm would be minus infinity, so in
the log figure alone it counts as one word: a far miss, never a hole. A truncated story stays in, and is
counted beside the figures by the caller.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from polaris.evaluate.statistics import Estimate, bootstrap_mean, bootstrap_median


def ratio(words: int, target: int) -> float:
    """Return words / target.

    Raises:
        ValueError: the target is not positive, or the word count is negative.

    """
    if target <= 0 or words < 0:
        raise ValueError(
            f"{words} words for a target of {target}: the target must be positive, words 0 or more"
        )
    return words / target


def absolute_log_ratio(words: int, target: int) -> float:
    """Return |ln(words / target)|, equal for twice and for half the target; no words count as one."""
    return abs(math.log(ratio(max(1, words), target)))


def within(words: int, target: int, tolerance: float) -> bool:
    """Tell whether the words lie in target · [1 − tolerance, 1 + tolerance], edges included."""
    ratio(words, target)
    return abs(words - target) <= tolerance * target + 1e-9


def length_figures(
    stories: Sequence[tuple[int, int]],
    seed: int,
    resamples: int,
    *,
    groups: Sequence[Hashable] | None = None,
) -> dict[str, Estimate]:
    """Return the length figures of `(words, target)` stories, each with its 95 % interval.

    Keys: `length_ratio_mean`, `length_ratio_median`, `length_abs_log_ratio_median`, and the shares
    `length_within_10` and `length_within_20` of stories within ±10 % and ±20 % (0–1).
    `groups` are the stories' prompts.
    """
    ratios = [ratio(*story) for story in stories]
    logs = [absolute_log_ratio(*story) for story in stories]
    near = [float(within(*story, 0.10)) for story in stories]
    nearby = [float(within(*story, 0.20)) for story in stories]
    return {
        "length_ratio_mean": bootstrap_mean(ratios, seed, resamples, groups=groups),
        "length_ratio_median": bootstrap_median(ratios, seed, resamples, groups=groups),
        "length_abs_log_ratio_median": bootstrap_median(logs, seed, resamples, groups=groups),
        "length_within_10": bootstrap_mean(near, seed, resamples, groups=groups),
        "length_within_20": bootstrap_mean(nearby, seed, resamples, groups=groups),
    }

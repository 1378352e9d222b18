"""Judged stories in, the length benchmark's figures out: words against target, overall and by target.

Every story counts at its own target, a truncated one and one of no words too: both are counted beside the
figures. A story whose judgement failed has a length and no score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polaris.evaluate.ratio import absolute_log_ratio, length_figures
from polaris.evaluate.statistics import bootstrap_mean, bootstrap_median, paired_difference
from polaris.evaluate.stories import Row, by_prompt, prompts

METRIC_VERSION = "length-1"
"""Changes when the same stories and scores would give other figures."""


def result(rows: Sequence[Row], seed: int, resamples: int) -> dict[str, Any]:
    """Return this benchmark's part of `result.json`."""
    return {
        "metric_version": METRIC_VERSION,
        "figures": figures(rows, seed, resamples),
        "by_target": by_target(rows, seed, resamples),
    }


def figures(rows: Sequence[Row], seed: int, resamples: int) -> dict[str, Any]:
    """Return the figures of `per_story` rows: `{name: {value, low, high, n, n_failed}}`.

    Names: story_quality (mean) and those of `length_figures`. A prompt's stories, at whatever targets, are
    drawn together.
    """
    groups = prompts(rows)
    found = {
        "story_quality": bootstrap_mean([row["overall"] for row in rows], seed, resamples, groups=groups),
        **length_figures([(row["words"], row["target"]) for row in rows], seed, resamples, groups=groups),
    }
    return {name: estimate.row() for name, estimate in found.items()}


def by_target(rows: Sequence[Row], seed: int, resamples: int) -> list[dict[str, Any]]:
    """Return one row a distinct target, smallest first; every story is in exactly one.

    Keys: target (words), prompts, stories, truncated, empty (counts), and figures: those of `figures` and
    words_median, the median of the words written.
    """
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["target"], []).append(row)
    return [_target_row(target, groups[target], seed, resamples) for target in sorted(groups)]


def compare(rows: Sequence[Row], baseline: Sequence[Row], seed: int, resamples: int) -> dict[str, Any]:
    """Return the paired differences to a baseline's rows, prompt by prompt.

    Names: story_quality, and length_abs_log_ratio (mean |ln(words / target)|; below 0 is nearer to the
    targets than the baseline).
    """
    differences = {
        "story_quality": paired_difference(by_prompt(rows), by_prompt(baseline), seed, resamples),
        "length_abs_log_ratio": paired_difference(
            by_prompt(rows, _log_ratio), by_prompt(baseline, _log_ratio), seed, resamples
        ),
    }
    return {name: difference.row() for name, difference in differences.items()}


def _log_ratio(row: Row) -> float:
    return absolute_log_ratio(row["words"], row["target"])


def _target_row(target: int, rows: Sequence[Row], seed: int, resamples: int) -> dict[str, Any]:
    words = bootstrap_median([row["words"] for row in rows], seed, resamples, groups=prompts(rows))
    return {
        "target": target,
        "prompts": len(set(prompts(rows))),
        "stories": len(rows),
        "truncated": sum(row["truncated"] for row in rows),
        "empty": sum(row["words"] == 0 for row in rows),
        "figures": {"words_median": words.row(), **figures(rows, seed, resamples)},
    }

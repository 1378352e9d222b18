"""Judged stories in, the Story Quality benchmark's figures out: how good the stories are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polaris.evaluate.ratio import length_figures
from polaris.evaluate.statistics import bootstrap_mean, bootstrap_median, paired_difference
from polaris.evaluate.stories import Row, by_prompt, prompts

METRIC_VERSION = "story-quality-1"
"""Changes when the same stories and scores would give other figures."""


def result(rows: Sequence[Row], seed: int, resamples: int) -> dict[str, Any]:
    """Return this benchmark's part of `result.json`."""
    return {"metric_version": METRIC_VERSION, "figures": figures(rows, seed, resamples)}


def figures(rows: Sequence[Row], seed: int, resamples: int) -> dict[str, Any]:
    """Return the figures of `per_story` rows: `{name: {value, low, high, n, n_failed}}`.

    Names: story_quality (mean), story_quality_median, self_repetition (mean penalty, 0–1.5), quote_validity
    (mean share of the judge's quotes that are in the story; left out when no judgement carries quotes)
    and those of `length_figures`. Stories of one prompt are drawn together.
    """
    groups = prompts(rows)
    overall = [row["overall"] for row in rows]
    repetition = [row["self_repetition"] for row in rows]
    found = {
        "story_quality": bootstrap_mean(overall, seed, resamples, groups=groups),
        "story_quality_median": bootstrap_median(overall, seed, resamples, groups=groups),
        "self_repetition": bootstrap_mean(repetition, seed, resamples, groups=groups),
        **length_figures([(row["words"], row["target"]) for row in rows], seed, resamples, groups=groups),
    }
    quotes = [row["quote_validity"] for row in rows]
    if any(quote is not None for quote in quotes):
        found["quote_validity"] = bootstrap_mean(quotes, seed, resamples, groups=groups)
    return {name: estimate.row() for name, estimate in found.items()}


def compare(rows: Sequence[Row], baseline: Sequence[Row], seed: int, resamples: int) -> dict[str, Any]:
    """Return the paired difference to a baseline's rows, prompt by prompt: `{story_quality: {...}}`."""
    difference = paired_difference(by_prompt(rows), by_prompt(baseline), seed, resamples)
    return {"story_quality": difference.row()}

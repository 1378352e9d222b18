"""A benchmark's name and a row of scores in; the row's line out: its value and the parts it is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from polaris.errors import ConfigError
from polaris.evaluate import creative, longbench_write, longform, writingbench
from polaris.reward.quality import label, quality_parts
from polaris.reward.rows import Row, id_of, judgement_of, scores_of, whole_of

Value = tuple[float, Mapping[str, float | str]]
"""The value and its parts by name."""

Scorer = Callable[[Row], Value]
"""Reads a row and scores it; raises RowError where a field is missing or wrong."""


@dataclass(frozen=True)
class Metric:
    """How one benchmark scores a row, and its variants by name."""

    score: Scorer
    variants: Mapping[str, Scorer] = field(default_factory=dict)


def _story_quality(row: Row) -> Value:
    parts = quality_parts(judgement_of(row))
    applied = {name: getattr(parts, name) for name in ("positive", "negative", "bonus", "penalty")}
    return parts.overall, applied | {"label": label(parts.overall)}


def _longform(row: Row) -> Value:
    return longform.score(scores_of(row, longform.DIMENSIONS, longform.LOWEST, longform.HIGHEST))


def _longform_uniform(row: Row) -> Value:
    scores = scores_of(row, longform.DIMENSIONS, longform.LOWEST, longform.HIGHEST)
    return longform.score(scores, uniform=True)


def _creative(row: Row) -> Value:
    return creative.score(scores_of(row, creative.DIMENSIONS, creative.LOWEST, creative.HIGHEST))


def _longbench_write(row: Row) -> Value:
    scores = scores_of(row, longbench_write.DIMENSIONS, longbench_write.LOWEST, longbench_write.HIGHEST)
    return longbench_write.score(scores, whole_of(row, "words", 0), whole_of(row, "target", 1))


def _writingbench(row: Row) -> Value:
    return writingbench.score(scores_of(row, None, writingbench.LOWEST, writingbench.HIGHEST, whole=True))


METRICS: dict[str, Metric] = {
    "story_quality": Metric(_story_quality),
    "longform": Metric(_longform, {"uniform": _longform_uniform}),
    "creative": Metric(_creative),
    "longbench_write": Metric(_longbench_write),
    "writingbench": Metric(_writingbench),
}
"""Metrics by the names that `polaris metric` takes."""


def find_scorer(name: str, variant: str | None = None) -> Scorer:
    """Return the scorer of a metric or of one of its variants.

    Raises:
        ConfigError: there is no such metric, or it has no such variant.

    """
    if name not in METRICS:
        raise ConfigError(f"NAME: there is no metric {name!r}; give one of {', '.join(METRICS)}")
    metric = METRICS[name]
    if variant is None:
        return metric.score
    if variant not in metric.variants:
        known = f"give {', '.join(metric.variants)} or leave it out" if metric.variants else "leave it out"
        raise ConfigError(f"--variant: {name} has no variant {variant!r}; {known}")
    return metric.variants[variant]


def metric_line(row: Row, score: Scorer) -> dict[str, Any]:
    """Return the row's line `{id, value, parts}`, nothing rounded.

    Raises:
        RowError: a field is missing or wrong.

    """
    key = id_of(row)
    value, parts = score(row)
    return {"id": key, "value": value, "parts": dict(parts)}

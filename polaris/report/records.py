"""A finished training's artifact, or the progress of one that goes on, in; its records out, as far as any.

Whatever an older artifact lacks, or a training has not written yet, is empty here and no error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from polaris.artifact import Artifact, Progress, to_rows
from polaris.train.forecast import FORECAST
from polaris.train.job import COST, METRICS, SAMPLES, SPENT, VALIDATION

_SAMPLES = re.compile(rf"^{SAMPLES}/step-(\d+)\.jsonl$")

Row = dict[str, Any]


@dataclass(frozen=True)
class Records:
    """What a training has written.

    Attributes:
        metrics: a row an optimiser step.
        validation: a row a validation, of every one that was paid for.
        samples: the stories of the first and of the last validation, by step.
        forecast: {steps, calls, usd, hours, assumptions}; None if there was none.
        cost: what the judge's calls cost in all, as a manifest's `cost`: lost steps and validation included.
        lost: the part of it that steps and validations cost which were lost and made again; empty if
            unknown or nothing.
        lost_steps: how many different steps those were.
        seconds: how long the training was at work, whole steps and validations; None if not recorded.
        finished: whether this is a finished artifact.

    """

    metrics: list[Row] = field(default_factory=list)
    validation: list[Row] = field(default_factory=list)
    samples: dict[int, list[Row]] = field(default_factory=dict)
    forecast: Row | None = None
    cost: Mapping[str, float] = field(default_factory=dict)
    lost: Mapping[str, float] = field(default_factory=dict)
    lost_steps: int = 0
    seconds: float | None = None
    finished: bool = True

    def __bool__(self) -> bool:
        """Whether there is anything at all."""
        return self.finished or bool(self.metrics or self.validation or self.lost)


def of_artifact(artifact: Artifact) -> Records:
    """Return a finished training's records."""
    names = set(artifact.names())
    return _records(names, lambda name: artifact.read(name) if name in names else None, artifact)


def of_progress(progress: Progress) -> Records:
    """Return the records of a training that has not finished."""
    names = [name for name in progress.names() if "/" not in name or _SAMPLES.match(name)]
    return _records(names, progress.get, None)


def _records(names: Iterable[str], read: Callable[[str], bytes | None], artifact: Artifact | None) -> Records:
    metrics = to_rows(read(METRICS) or b"", METRICS)
    validation = to_rows(read(VALIDATION) or b"", VALIDATION)
    steps = {int(match[1]): name for name in names if (match := _SAMPLES.match(name))}
    shown = sorted(steps)[:1] + sorted(steps)[1:][-1:]
    spent: Row = {} if artifact else json.loads(read(SPENT) or b"{}")
    lost = {name: float(spent[name]) for name in COST if spent.get(name)}
    return Records(
        metrics=metrics,
        validation=validation,
        samples={step: to_rows(read(steps[step]) or b"", steps[step]) for step in shown},
        forecast=_object(read(FORECAST)),
        cost=artifact.manifest.cost if artifact else _paid(metrics, validation, lost),
        lost=lost,
        # Beside steps, by their number, it names validations.
        lost_steps=sum(name.isdigit() for name in spent.get("paid") or {}),
        seconds=_seconds(metrics, validation, artifact),
        finished=artifact is not None,
    )


def _object(data: bytes | None) -> Row | None:
    found = json.loads(data) if data else None
    return found if isinstance(found, dict) else None


def _paid(metrics: Iterable[Row], validation: Iterable[Row], lost: Mapping[str, float]) -> dict[str, float]:
    rows = [*metrics, *validation]
    return {
        name: sum(float(row.get(key) or 0.0) for row in rows) + lost.get(name, 0.0)
        for name, key in COST.items()
    }


def _seconds(metrics: list[Row], validation: list[Row], artifact: Artifact | None) -> float | None:
    """Return the time of steps and validations; an attempt's own time knows nothing of earlier attempts."""
    known = [row["step_seconds"] for row in metrics if row.get("step_seconds")]
    if known:
        return float(sum(known) + sum(row.get("seconds") or 0.0 for row in validation))
    return artifact.manifest.seconds or None if artifact else None

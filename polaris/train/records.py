"""A job's validations, their stories and TensorBoard's file in; their copies in the store out, and back.

Metrics are the uploads' own business; what is made beside them is here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polaris.artifact import Output, Progress, from_rows
from polaris.runtime import get_logger
from polaris.train import checkpoint, spent
from polaris.train.events import write_events
from polaris.train.job import SAMPLES, TENSORBOARD, VALIDATION, samples_of

Row = dict[str, Any]

log = get_logger("train")

_SAMPLE = re.compile(rf"^{SAMPLES}/step-(\d+)\.jsonl$")


def restore(progress: Progress, output: Path, last_step: int) -> None:
    """Bring back the validations up to a step, with their stories.

    The later ones will be made again; what they cost is remembered, for it was paid.
    """
    of_the_store = spent.rewind(progress, VALIDATION, output / VALIDATION, last_step)
    for name in progress.names(f"{SAMPLES}/"):
        step, local = _step_of(name), output / name
        if step is None or step > last_step:
            progress.delete(name)
        elif (of_the_store or not local.exists()) and (data := progress.get(name)) is not None:
            local.parent.mkdir(exist_ok=True)
            local.write_bytes(data)
    for local in (output / SAMPLES).glob("*"):
        step = _step_of(f"{SAMPLES}/{local.name}")
        if step is None or step > last_step:
            local.unlink()


def write(
    artifact: Output, output: Path, metrics: Sequence[Row], rows: Sequence[Row], *, tensorboard: bool
) -> None:
    """Put the validations, a row each, their stories and the event file into an artifact."""
    if rows:
        artifact.put_rows(VALIDATION, rows)
    for row in rows:
        name = samples_of(row["step"])
        artifact.put_file(name, output / name)
    if tensorboard and (path := _drawn(output, metrics, rows)) is not None:
        artifact.put_file(f"{TENSORBOARD}/{path.name}", path)


class Records:
    """Keeps the store up with them while training goes on."""

    def __init__(self, progress: Progress, output: Path, *, tensorboard: bool) -> None:
        self.progress = progress
        self.output = output
        self.tensorboard = tensorboard
        self._validations = 0
        self._shown = (0, 0)

    def put(self, metrics: Sequence[Row]) -> None:
        """Put what is new: stories before the row that says that they are there, the event file last."""
        rows = checkpoint.read_metrics(self.output / VALIDATION)
        for name in [samples_of(row["step"]) for row in rows[self._validations :]]:
            self.progress.put(name, (self.output / name).read_bytes())
        if len(rows) > self._validations:
            self.progress.put(VALIDATION, from_rows(rows))
            self._validations = len(rows)
        if self.tensorboard and self._shown != (len(metrics), len(rows)):
            self._shown = (len(metrics), len(rows))
            if (path := _drawn(self.output, metrics, rows)) is not None:
                self.progress.put(f"{TENSORBOARD}/{path.name}", path.read_bytes())


def _drawn(output: Path, metrics: Sequence[Row], rows: Sequence[Row]) -> Path | None:
    """Return TensorBoard's file; None where it cannot be made: it is a view, and no training ends for one."""
    try:
        return write_events(output / TENSORBOARD, metrics, rows)
    except Exception as error:
        log.warning("no_tensorboard", reason=f"{type(error).__name__}: {error}".splitlines()[0])
        return None


def _step_of(name: str) -> int | None:
    match = _SAMPLE.match(name)
    return int(match[1]) if match else None

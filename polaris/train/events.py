"""A training's rows of metrics and validations in, TensorBoard's event file out.

The file is made of the rows, anew each time, so that a run that was interrupted has no step twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

FILE = "events.out.tfevents.0000000000.polaris"
"""TensorBoard takes whatever has `tfevents` in its name."""
VALIDATION_TAG = "validation/"
"""Before the names of a validation's figures."""
_NOT_SHOWN = {"step", "time"}


def scalars(metrics: Sequence[Row], validations: Sequence[Row]) -> Iterator[tuple[int, float, Row]]:
    """Yield (step, wall time in seconds, {tag: value}) of every row, by step.

    The wall time is a row's own `time`; without it what the steps took up to there, so that TensorBoard's
    relative axis is training time. What a row has no number for is left out.
    """
    wall, walls = 0.0, {0: 0.0}
    for row in metrics:
        wall = row.get("time", wall + (row.get("step_seconds") or 0.0))
        walls[row["step"]] = wall
    found = [(row["step"], 0, row, "") for row in metrics]
    found += [(row["step"], 1, row, VALIDATION_TAG) for row in validations]
    for step, _, row, before in sorted(found, key=lambda one: one[:2]):
        values = {before + name: float(value) for name, value in row.items() if _shown(name, value)}
        yield step, row.get("time", walls.get(step, 0.0)), values


def write_events(folder: Path, metrics: Sequence[Row], validations: Sequence[Row]) -> Path:
    """Bring a folder's event file up to the rows; return its path.

    TensorBoard follows a file that grows and never looks at one that takes its place: so new rows are
    appended, and the file is replaced, at once, only where earlier ones have gone.

    Args:
        folder: made if it is not there; TensorBoard's log directory.
        metrics: a row a step.
        validations: a row a validation.

    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    # Not below `folder`, where a reader could take it for another run's.
    part = folder.with_suffix(".part")
    with part.open("wb") as file:
        records = RecordWriter(file)
        records.write(Event(file_version="brain.Event:2").SerializeToString())
        for step, wall, values in scalars(metrics, validations):
            summary = Summary(
                value=[Summary.Value(tag=tag, simple_value=value) for tag, value in sorted(values.items())]
            )
            records.write(Event(step=step, wall_time=wall, summary=summary).SerializeToString())
        records.flush()
    whole, there = part.read_bytes(), path.read_bytes() if path.exists() else b""
    if there and whole.startswith(there):
        with path.open("ab") as file:
            file.write(whole[len(there) :])
        part.unlink()
    else:
        os.replace(part, path)
    return path


def _shown(name: str, value: object) -> bool:
    return name not in _NOT_SHOWN and isinstance(value, int | float) and not isinstance(value, bool)

"""A folder of training checkpoints in; which are complete, which to drop and which metrics survive out."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from polaris.artifact import from_rows
from polaris.errors import ConfigError

PREFIX = "checkpoint-"
LAYOUT = "polaris.json"
"""Written last, when every process has written its part: what makes a checkpoint complete."""

_NAME = re.compile(r"^checkpoint-(\d+)$")


def step_of(name: str) -> int | None:
    """Return the optimiser step in a checkpoint folder's name, None for any other name."""
    match = _NAME.match(name)
    return int(match[1]) if match else None


def ordered(names: Iterable[str]) -> list[str]:
    """Return the checkpoints by step, oldest first: 10 is newer than 9, whatever the alphabet says."""
    steps = [(step, name) for name in names if (step := step_of(name)) is not None]
    return [name for _, name in sorted(steps)]


def surplus(names: Iterable[str], keep: int) -> list[str]:
    """Return the checkpoints to drop so that the `keep` newest remain, oldest first."""
    found = ordered(names)
    return found[: max(0, len(found) - keep)]


def complete(folder: Path) -> list[Path]:
    """Return the complete checkpoints in a folder, oldest first."""
    found = [
        path for path in folder.glob(f"{PREFIX}*") if step_of(path.name) is not None and is_complete(path)
    ]
    return sorted(found, key=lambda path: step_of(path.name) or 0)


def is_complete(path: Path) -> bool:
    """Tell whether a checkpoint's last file is there."""
    return (path / LAYOUT).is_file()


@dataclass(frozen=True)
class Layout:
    """How a checkpoint is divided: only the same division can go on from it.

    Attributes:
        processes: training processes of all nodes.
        zero_stage: DeepSpeed's stage.
        session: which start of a training over several nodes wrote it; empty where one node did, which has
            all its files.

    """

    processes: int
    zero_stage: int
    session: str = field(default="", compare=False)


def write_layout(path: Path, layout: Layout) -> None:
    """Make a checkpoint complete."""
    part = path / f"{LAYOUT}.part"
    part.write_text(json.dumps(asdict(layout)), encoding="utf-8")
    os.replace(part, path / LAYOUT)


def read_layout(path: Path) -> Layout:
    """Return how a complete checkpoint is divided."""
    return Layout(**json.loads((path / LAYOUT).read_text(encoding="utf-8")))


def check_layout(path: Path, layout: Layout) -> None:
    """Raise ConfigError if a checkpoint was written by another division of the work."""
    found = read_layout(path)
    if found != layout:
        raise ConfigError(
            f"{path.name} was written with train.nodes × train.processes {found.processes} and"
            f" train.zero_stage {found.zero_stage}, not {layout.processes} and {layout.zero_stage}: set them"
            " back, or delete this stage's progress/ to begin again"
        )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics file, without a last one that is still being written."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines if line]


def write_metrics(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replace a metrics file at once, so that a kill in between loses nothing."""
    part = path.with_suffix(".part")
    part.write_bytes(from_rows(rows))
    os.replace(part, path)


def truncate_metrics(path: Path, last_step: int) -> None:
    """Drop the rows of steps after `last_step`: they will be made again."""
    if path.exists():
        write_metrics(path, [row for row in read_metrics(path) if row["step"] <= last_step])

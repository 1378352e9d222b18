"""What a step's judge calls have cost so far in, the same out again after the processes were killed in it.

A step's row of metrics is written when the step is done. Until then each process notes what its calls have
cost in a file of its own, before an attempt is sent and once it has an answer: a later attempt of the stage
books what no row tells. An attempt that was sent and has no answer counts at its estimate.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FOLDER = "under-way"
"""In the job's folder: a file for each process, `RANK.jsonl`, whose last whole line counts."""
PIECE = "under-way-"
"""Progress pieces of the stage, one for each node: what its processes' files say."""
IN_FLIGHT = "in_flight"
"""A line's attempts that were sent and not answered yet."""

Row = dict[str, Any]


class Notes:
    """One process's file. It holds one step, and keeps it until the next one's calls begin.

    By then the process that writes the rows has written that step's: all meet between two steps.
    """

    def __init__(self, output: Path, rank: int) -> None:
        self._path = output / FOLDER / f"{rank}.jsonl"
        self._start = secrets.token_hex(8)
        self._place: Row = {"step": 0}
        self._fresh = True

    def begin(self, place: Row) -> None:
        """Begin with the calls of a step, counted from 1, or of the validation after it.

        What is noted of those before it goes.
        """
        self._place, self._fresh = place, True

    def write(self, figures: Mapping[str, float], in_flight: int) -> None:
        """Note what the step's calls have cost so far, by the names of the metrics."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = {"start": self._start, **self._place, IN_FLIGHT: in_flight, **figures}
        with self._path.open("w" if self._fresh else "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._fresh = False


def read(output: Path) -> list[Row]:
    """Return what each process has noted last; nothing of one that was killed at its first line."""
    found = []
    for path in _files(output / FOLDER):
        try:
            lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        except FileNotFoundError:
            # Booked and dropped since the folder was listed.
            continue
        if lines:
            found.append(json.loads(lines[-1]))
    return found


def _files(folder: Path) -> list[Path]:
    """Return the files of all processes, none where the folder goes while it is listed."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".jsonl")
    except FileNotFoundError:
        return []


def place(row: Row) -> str:
    """Return the name of what a row or a note tells of: a step, or the validation after it."""
    return f"validation {row['step']}" if row.get("validation") else str(row["step"])


def untold(notes: Iterable[Row], done: Iterable[str]) -> list[Row]:
    """Return the notes of places that no row tells of, one for each process's start.

    Of two notes of one start, a copy in the store and the file itself, the later in `notes` counts.
    """
    known = set(done)
    latest = {note["start"]: note for note in notes}
    return [note for note in latest.values() if place(note) not in known]


def forget(output: Path) -> None:
    """Drop the files."""
    shutil.rmtree(output / FOLDER, ignore_errors=True)

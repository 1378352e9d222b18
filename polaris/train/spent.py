"""Rows of steps that will be taken again in, what they cost and what of it was for nothing out.

Each row is booked before it is dropped, and known by itself: an attempt that is killed in between leaves the
row to the next one, which does not book it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from polaris.artifact import Progress, from_rows, to_rows
from polaris.train import checkpoint
from polaris.train.job import COST, EVENTS, SPENT
from polaris.train.underway import IN_FLIGHT, place

Row = dict[str, Any]


def read(progress: Progress) -> dict[str, Any]:
    """Return the sums over booked rows, by `COST`'s and `EVENTS`' names, and what is kept beside them."""
    found: dict[str, Any] = json.loads(progress.get(SPENT) or b"{}")
    return dict.fromkeys((*COST, *EVENTS), 0.0) | {"paid": {}, "found": {}, "booked": []} | found


def rewind(progress: Progress, name: str, path: Path, last_step: int) -> bool:
    """Cut rows back to a step, in the store under `name` and here; what the others cost is booked before.

    Of the two copies the one with more rows up to the step stands; return whether it is the store's. Where
    there is neither, nothing is written.
    """
    stored, local = to_rows(progress.get(name) or b"", name), checkpoint.read_metrics(path)
    if not stored and not path.exists():
        return True
    kept = max(([row for row in rows if row["step"] <= last_step] for rows in (stored, local)), key=len)
    known = set(map(_name, kept))
    book(progress, [row for row in (*stored, *local) if _name(row) not in known])
    checkpoint.write_metrics(path, kept)
    progress.put(name, from_rows(kept))
    return kept == stored[: len(kept)]


def book(progress: Progress, lost: Iterable[Row]) -> None:
    """Add rows, or notes of unfinished steps, to what is known of steps that are taken again; each once."""
    spent = read(progress)
    booked = set(spent["booked"])
    new = {_name(row): row for row in lost if _name(row) not in booked}
    if not new:
        return
    rows = list(new.values())
    told = {
        name: spent[name] + sum(row.get(key) or 0.0 for row in rows) for name, key in (COST | EVENTS).items()
    }
    paid, found = dict(spent["paid"]), dict(spent["found"])
    first = set(map(place, rows)) - set(paid)
    for row in rows:
        step = place(row)
        paid[step] = paid.get(step, 0.0) + (row.get("judge/calls") or 0.0) + row.get(IN_FLIGHT, 0)
        if step in first:
            found[step] = found.get(step, 0.0) + (row.get("judge/cached") or 0.0)
    told |= {"paid": paid, "found": found, "booked": [*spent["booked"], *new]}
    progress.put(SPENT, json.dumps(told).encode())


def repaid(row: Row, spent: Mapping[str, Any]) -> float:
    """Return how many calls a step's earlier takings paid for whose answers the last one had no use for.

    A step taken again writes other stories where generation is not bit-reproducible. What it finds in the
    cache beyond what the first taking found there is what the lost ones had paid for.
    """
    step = place(row)
    reused = max(0.0, (row.get("judge/cached") or 0.0) - spent["found"].get(step, 0.0))
    return float(max(0.0, spent["paid"].get(step, 0.0) - reused))


def _name(row: Row) -> str:
    """Return what a row is known by: a note by its process's start, a step's by its text, which has times."""
    if "start" in row:
        return str(row["start"])
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:16]

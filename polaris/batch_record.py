"""Chunks of requests in, their records in a stage's progress and their money in the budget's books out.

A chunk's record lies there before its batch can exist, and carries a mark that the batch carries too. So a
batch is found again whatever became of the process that made it. From then on its estimate is booked as
spent, and whoever collects it books the difference: a killed process leaves no money behind.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import Container, Coroutine
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from polaris.artifact import Progress
from polaris.budget import Budget
from polaris.chat import Usage

FOLDER = "batches/"
"""Where the chunks lie in a stage's progress."""
_PASSING = ("reserved", "ours", "done")
"""Fields of a chunk that mean something to its process alone."""


@dataclass
class Chunk:
    """One batch file and what became of it; on record but for the fields of `_PASSING`."""

    keys: list[str]
    round: int
    mark: str
    """Known to no other batch: this chunk's name and chance."""
    usd: float
    """Booked for it before it was answered; 0 without a budget."""
    at: float
    """When it went on record, seconds since 1970."""
    batch: str | None = None
    """The provider's id, once its answer was read."""
    ended: str = ""
    """Its last status."""
    files: list[str] = field(default_factory=list)
    """Ids of what it answered."""
    usage: dict[str, Any] | None = None
    """What it cost, once that is booked in an attempt's usage."""
    late: list[str] = field(default_factory=list)
    """Not answered in time: for another round."""
    live: list[str] = field(default_factory=list)
    """Answered with an error, or unusably: to be asked live."""
    schema_rejected: bool = False
    """Nothing was answered, and the errors say that the endpoint takes no JSON schema."""
    reserved: float = 0.0
    """What of `usd` is still a reservation of this process, and not yet booked."""
    ours: bool = False
    """This process made it."""
    done: int = 0
    """Requests that the provider says it has done."""

    @classmethod
    def new(cls, keys: list[str], round_: int, usd: float) -> Chunk:
        """Return a chunk for which this process has reserved `usd`."""
        name = hashlib.sha256(json.dumps([round_, keys]).encode()).hexdigest()[:32]
        mark = f"{name}-{secrets.token_hex(8)}"
        return cls(keys, round_, mark, usd, time.time(), reserved=usd, ours=True)

    @classmethod
    def read(cls, data: bytes) -> Chunk:
        """Return the chunk of a record."""
        return cls(**json.loads(data))

    @property
    def name(self) -> str:
        """Its record in the progress, by the hash of its keys and its round."""
        return FOLDER + self.mark.partition("-")[0] + ".json"

    def to_json(self) -> bytes:
        """Return its record."""
        kept = {name: value for name, value in asdict(self).items() if name not in _PASSING}
        return json.dumps(kept).encode()


class Records:
    """The chunks on record; what is begun here is done to its end though it be cancelled meanwhile."""

    def __init__(self, progress: Progress, budget: Budget | None) -> None:
        """Set up; `progress` belongs to the stage."""
        self._progress = progress
        self._budget = budget
        self.changed = asyncio.Event()
        """Set whenever a chunk's money is booked."""

    async def read(self, asked: Container[str]) -> list[Chunk]:
        """Return the chunks that hold a key that is asked; the others are left where they are."""
        found = []
        for name in await asyncio.to_thread(self._progress.names, FOLDER):
            data = await asyncio.to_thread(self._progress.get, name)
            if data is not None:
                found.append(Chunk.read(data))
        return [chunk for chunk in found if any(key in asked for key in chunk.keys)]

    async def begin(self, chunk: Chunk) -> None:
        """Put a new chunk on record and book its estimate, or do neither and give its reservation back."""
        await _to_its_end(self._begin(chunk))

    async def keep(self, chunk: Chunk) -> None:
        """Write the record anew."""
        await asyncio.to_thread(self._progress.put, chunk.name, chunk.to_json())

    async def collected(self, chunk: Chunk, cost: Usage) -> None:
        """Put on record what the chunk cost, and book that in place of its estimate."""
        await _to_its_end(self._collected(chunk, cost))

    async def drop(self, chunk: Chunk) -> None:
        """Take a chunk that cost nothing off record, and give back what was booked for it."""
        await _to_its_end(self._drop(chunk))

    async def _begin(self, chunk: Chunk) -> None:
        try:
            await self.keep(chunk)
        except Exception:
            # It may be there all the same, and nobody must give back what was never booked.
            await self._drop(chunk)
            raise
        await self._book(chunk, chunk.usd)

    async def _collected(self, chunk: Chunk, cost: Usage) -> None:
        # Put before it is booked: what is given back twice could be spent twice.
        usage = asdict(cost)
        await self.keep(replace(chunk, usage=usage))
        chunk.usage = usage
        await self._book(chunk, cost.usd)

    async def _drop(self, chunk: Chunk) -> None:
        await asyncio.to_thread(self._progress.delete, chunk.name)
        await self._book(chunk, 0.0)

    async def _book(self, chunk: Chunk, usd: float) -> None:
        booked = 0.0 if chunk.reserved else chunk.usd
        if self._budget is not None:
            self._budget.settle(chunk.reserved, usd - booked)
        chunk.reserved = 0.0
        self.changed.set()
        if self._budget is not None:
            await self._budget.write()


def forget_collected(progress: Progress) -> None:
    """Drop the records of all chunks that are collected, so that a later call asks anew what they left."""
    for name in progress.names(FOLDER):
        data = progress.get(name)
        if data is not None and Chunk.read(data).usage is not None:
            progress.delete(name)


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Do the work; a cancellation meanwhile is raised once it is done."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise

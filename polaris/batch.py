"""Chat requests in, their answers left with the client, bought by the provider's batch files at half price.

OpenAI's batch API: a JSONL file of up to 50,000 requests and 200 MB, `in_progress` for up to 24 hours, then
an output file and an error file in any order. What is under way is on record before it can cost anything, so
a process killed at any moment buys nothing twice when it is started again.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from polaris.artifact import Progress
from polaris.batch_files import BatchFiles, rejects_schema
from polaris.batch_record import Chunk, Records
from polaris.chat import CallFailed, ChatAnswer, ChatRequest, Retry, Usage
from polaris.errors import BudgetError, ConfigError, Stopped, TransientError
from polaris.llm import ChatClient, each
from polaris.runtime import ProgressBar, StopFlag, get_logger, progress

if TYPE_CHECKING:
    from openai.types import Batch

ROUNDS = 3
"""So often a request is asked by batch; what no round answers within its window is asked live."""
ENDED = frozenset({"completed", "expired", "cancelled"})
LATE = frozenset({"batch_expired", "batch_cancelled"})
"""Codes of requests that were not begun, and so cost nothing."""
STORE_WIDTH = 32
"""Answers looked up or kept at once."""
QUEUE_FULL = "_limit_exceeded"
"""How the codes end that say that more is queued than the account may have."""
NOBODYS = ChatRequest(messages=(), max_tokens=1)
"""Stands for a request that nobody asks any more; its answer is booked and kept all the same."""

log = get_logger("batch")


@dataclass(frozen=True)
class BatchResult:
    """What batches did for a stage."""

    submitted: int
    """Batches made by this process."""
    answered: int
    """Requests whose answers it collected and the client now has."""
    earlier: Usage
    """What earlier attempts of the stage booked by batch: part of its cost, and not in `client.usage`."""
    schema_rejected: bool
    """A batch was answered with nothing but errors, and they say that the endpoint takes no JSON schema."""


async def fill(
    client: ChatClient,
    requests: Sequence[tuple[ChatRequest, int]],
    record: Progress,
    *,
    stop: StopFlag,
    poll_s: float = 30.0,
    most_requests: int = 5000,
    most_bytes: int = 100_000_000,
    outage_s: float = 3600.0,
    backoff_s: float = 1.0,
) -> BatchResult:
    """Ask by batch what the client has no answer to, so that asking it afterwards finds the answers.

    `requests` are requests with the number of their repeat. What a batch answers with an error or unusably,
    or in `ROUNDS` batches not in time, is left for the client to ask live. `record` belongs to the stage and
    holds what is under way; a later attempt with the same record goes on from there. Returns early when a
    signal asks to stop: everything is on record, and the caller raises Stopped. All requests are held
    meanwhile: each is about as large as its story, which a stage holds anyway, and what they share is shared.

    A file is as large as the budget allows: what it cannot hold waits for what earlier files give back.

    Raises:
        BudgetError: the budget cannot hold one more request; what was submitted before is collected.
        ConfigError: the provider refuses key, file or batch.
        TransientError: it has answered nothing for `outage_s`, or its queue is full.

    """
    asked = {client.key(request, repeat): request for request, repeat in requests}
    provider = BatchFiles(client, outage_s, backoff_s)
    records = Records(record, client.budget)
    filling = _Filling(client, provider, asked, records, poll_s, most_requests, most_bytes)
    try:
        await _unless_stopped(filling.run(), stop)
    except Stopped:
        log.info("batches_left", out=len(filling.out))
    rejected = any(chunk.schema_rejected for chunk in filling.chunks)
    return BatchResult(filling.submitted, filling.answered, filling.earlier, rejected)


async def _unless_stopped(work: Awaitable[None], stop: StopFlag) -> None:
    """Cancel the work when a signal asks to stop, and raise Stopped."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            stop.check()
            # A signal wakes no event loop, so it is looked for.
            await asyncio.wait({task}, timeout=0.2)
        task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@dataclass
class _Filling:
    """One call of `fill`; to be cancelled at any await is to it what a kill would be."""

    client: ChatClient
    provider: BatchFiles
    asked: dict[str, ChatRequest]
    """Key → request."""
    records: Records
    poll_s: float
    most_requests: int
    most_bytes: int
    bar: ProgressBar = field(init=False)
    chunks: list[Chunk] = field(default_factory=list)
    todo: dict[str, int] = field(default_factory=dict)
    """Key of what is to be submitted → its round."""
    held_by: set[str] = field(default_factory=set)
    """Marks of batches that fill the provider's queue: nothing is submitted before one of them ends."""
    submitted: int = 0
    answered: int = 0
    earlier: Usage = field(default_factory=Usage)

    @property
    def out(self) -> list[Chunk]:
        """The chunks that are on record and not yet collected."""
        return [chunk for chunk in self.chunks if chunk.usage is None]

    @property
    def held(self) -> bool:
        """Whether the provider's queue is full of what is out."""
        return bool(self.held_by) and self.held_by <= {chunk.mark for chunk in self.out}

    async def run(self) -> None:
        """Submit, poll and collect until nothing is left that a batch could answer."""
        await self._resume()
        waiting = len(self.todo) + sum(len(chunk.keys) for chunk in self.out)
        if not waiting:
            return
        submission: asyncio.Task[None] | None = None
        spent: BudgetError | None = None
        try:
            with progress(waiting, "requests by batch") as self.bar:
                while True:
                    await self._look()
                    if submission is not None and submission.done():
                        spent, submission = _outcome(submission), None
                    if self.todo and submission is None and spent is None and not self.held:
                        # Apart: a file may have to wait for what a batch that is out gives back.
                        submission = asyncio.create_task(self._submit_all())
                    if submission is None and not self.out:
                        break
                    await self._pause(submission)
        finally:
            if submission is not None:
                submission.cancel()
                await asyncio.gather(submission, return_exceptions=True)
        if spent is not None:
            raise spent

    async def _resume(self) -> None:
        """Read the record; find out what is still to be asked."""
        self.chunks = await self.records.read(self.asked)
        for chunk in [chunk for chunk in self.chunks if chunk.batch is None]:
            chunk.batch = await self.provider.find(chunk)
            await (self._drop(chunk) if chunk.batch is None else self.records.keep(chunk))
        missing: dict[str, int] = {}

        async def look_up(key: str) -> None:
            if await self.client.kept(key) is None:
                missing[key] = 1

        await each(list(self.asked), look_up, width=STORE_WIDTH, stopped=lambda: False)
        # In the order of the requests, not of the answers to the look-ups.
        self.todo = {key: 1 for key in self.asked if key in missing}
        for chunk in sorted(self.chunks, key=lambda chunk: chunk.round):
            if chunk.usage is None:
                self._forget(chunk)
                continue
            known = {f.name for f in fields(Usage)}
            self.earlier += Usage(**{name: n for name, n in chunk.usage.items() if name in known})
            if missing.keys() & (set(chunk.keys) - set(chunk.late) - set(chunk.live)):
                await self._collect(chunk)
            self._again(chunk, missing)
        if self.chunks:
            log.info("batches_resumed", out=len(self.out), collected=len(self.chunks) - len(self.out))

    def _forget(self, chunk: Chunk) -> None:
        for key in chunk.keys:
            self.todo.pop(key, None)

    def _again(self, chunk: Chunk, wanted: Iterable[str]) -> None:
        """Note for another round what of a collected chunk is `wanted` and came late."""
        self._forget(chunk)
        late = set(chunk.late) & set(wanted)
        if chunk.round < ROUNDS:
            self.todo |= {key: chunk.round + 1 for key in chunk.keys if key in late}

    async def _submit_all(self) -> None:
        while self.todo and not self.held:
            round_, keys, lines = self._next()
            if keys:
                n, usd = await self._reserve(keys)
                await self._submit(Chunk.new(keys[:n], round_, usd), b"".join(lines[:n]))

    def _next(self) -> tuple[int, list[str], list[bytes]]:
        """Return round, keys and lines of the next file: no key where a request is too long for any file."""
        round_ = min(self.todo.values())
        keys: list[str] = []
        lines: list[bytes] = []
        room = self.most_bytes
        for key in [key for key, found in self.todo.items() if found == round_]:
            line = self._line(key)
            if len(line) > self.most_bytes:
                del self.todo[key]
                continue
            if len(keys) == self.most_requests or len(line) > room:
                break
            keys.append(key)
            lines.append(line)
            room -= len(line)
        return round_, keys, lines

    def _line(self, key: str) -> bytes:
        body = self.client.body(self.asked[key], key)
        row = {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
        return json.dumps(row).encode() + b"\n"

    async def _submit(self, chunk: Chunk, data: bytes) -> None:
        # Before it is made: so there is no moment in which a batch exists that nobody knows of.
        await self.records.begin(chunk)
        self.chunks.append(chunk)
        self._forget(chunk)
        chunk.batch = await self.provider.create(chunk, data)
        await self.records.keep(chunk)
        self.submitted += 1
        told = {"requests": len(chunk.keys), "round": chunk.round, "usd": round(chunk.usd, 4)}
        log.info("batch_submitted", batch=chunk.batch, **told)

    async def _reserve(self, keys: list[str]) -> tuple[int, float]:
        """Return how many of the keys a file may hold, and the US$ that it is now reserved at."""
        budget, n = self.client.budget, len(keys)
        while budget is not None:
            usd = self._estimate(keys[:n])
            try:
                await budget.reserve(usd)
                return n, usd
            except BudgetError:
                if self.out:
                    # What it cost in truth gives money back, and a better estimate.
                    self.records.changed.clear()
                    await self.records.changed.wait()
                    n = len(keys)
                elif n == 1:
                    raise
                else:
                    n //= 2
        return n, 0.0

    def _estimate(self, keys: list[str]) -> float:
        return sum(self.client.estimate_usd(self.asked[key], tier="batch") for key in keys)

    async def _look(self) -> None:
        """Collect whatever has ended."""
        for chunk in [chunk for chunk in self.out if chunk.batch is not None]:
            batch = await self.provider.look(chunk)
            if batch.status == "failed":
                await self._refused(chunk, batch)
            elif batch.status in ENDED:
                chunk.ended = batch.status
                chunk.files = [file for file in (batch.output_file_id, batch.error_file_id) if file]
                await self._collect(chunk)
                chunk.done = len(chunk.keys) - len(chunk.late)
                self._again(chunk, chunk.late)
                if chunk.schema_rejected:
                    self.todo.clear()
            elif batch.request_counts is not None:
                chunk.done = batch.request_counts.completed + batch.request_counts.failed
        done = sum(chunk.done for chunk in self.chunks)
        usd = self.client.usage.usd + self.earlier.usd
        self.bar.advance(max(0.0, done - self.bar.done), batches=len(self.out), usd=round(usd, 4))

    async def _collect(self, chunk: Chunk) -> None:
        """Leave a batch's answers with the client, and book them unless an earlier attempt did."""
        read = [await self.provider.lines(file) for file in chunk.files]
        rows = {str(row.get("custom_id")): row for found in read for row in found or []}
        booked, cost, no_schema = chunk.usage is not None, Usage(), 0
        late, live = set(chunk.late), set(chunk.live)

        async def take(key: str) -> None:
            nonlocal cost, no_schema
            row = rows.get(key)
            if row is None:
                # Of a file that is gone nothing is known; else a batch that ended early says who was late.
                (live if chunk.ended == "completed" and None not in read else late).add(key)
            elif (row.get("error") or {}).get("code") in LATE:
                late.add(key)
            else:
                response = row.get("response") or {}
                answer, paid = self._accepted(key, response, book=not booked)
                cost += paid
                no_schema += rejects_schema(self.asked.get(key, NOBODYS), response, self.client.endpoint)
                if answer is None:
                    live.add(key)
                else:
                    await self.client.remember(key, answer)

        keys = [key for key in chunk.keys if key not in late | live]
        await each(keys, take, width=STORE_WIDTH, stopped=lambda: False)
        chunk.late, chunk.live = sorted(late), sorted(live)
        answered = len(chunk.keys) - len(late | live)
        chunk.schema_rejected = chunk.schema_rejected or (no_schema > 0 and not answered)
        await (self.records.keep(chunk) if booked else self.records.collected(chunk, cost))
        self.answered += answered
        counts = {"answered": answered, "late": len(late), "left_for_live": len(live)}
        log.info("batch_collected", batch=chunk.batch, status=chunk.ended, **counts, usd=round(cost.usd, 4))

    def _accepted(self, key: str, response: dict[str, Any], *, book: bool) -> tuple[ChatAnswer | None, Usage]:
        """Return the answer, None if it is none that can be used, and what it cost."""
        from openai.types.chat import ChatCompletion

        body, client = response.get("body"), self.client
        if response.get("status_code") != 200 or not isinstance(body, dict):
            return None, Usage()
        before, client.usage = client.usage, Usage()
        try:
            completion = ChatCompletion.construct(**body)
            answer = client.accept(self.asked.get(key, NOBODYS), completion, tier="batch")
        except (Retry, CallFailed):
            answer = None
        finally:
            cost = client.usage
            client.usage = before + cost if book else before
        return answer, cost

    async def _refused(self, chunk: Chunk, batch: Batch) -> None:
        """Take a batch that failed its validation, and so cost nothing, back; raise what that means."""
        await self._drop(chunk)
        self.todo |= {key: chunk.round for key in chunk.keys if key in self.asked}
        faults = (batch.errors.data if batch.errors else None) or []
        code = str(faults[0].code) if faults else "no code"
        line = f", line {faults[0].line} of its file" if faults and faults[0].line else ""
        log.warning("batch_refused", batch=batch.id, code=code, requests=len(chunk.keys))
        if not chunk.ours:
            # What was wrong then may be mended by now.
            return
        where = f"{self.client.endpoint.setting}: {self.client.endpoint.url}"
        if not code.endswith(QUEUE_FULL):
            raise ConfigError(
                f"{where} refused batch {batch.id} of {len(chunk.keys)} requests ({code}{line}); check that"
                f" '{self.client.endpoint.model}' is sold by batch, or set batch: false"
            )
        self.held_by = {other.mark for other in self.out}
        if not self.held_by:
            if len(chunk.keys) == 1:
                raise TransientError(f"{where}: the account's batch queue is full ({code}); run again later")
            self.most_requests = len(chunk.keys) // 2

    async def _drop(self, chunk: Chunk) -> None:
        # First: what waits for it to be gone looks as soon as its money is back.
        self.chunks.remove(chunk)
        await self.records.drop(chunk)

    async def _pause(self, submission: asyncio.Task[None] | None) -> None:
        wait_s = self.poll_s * random.uniform(0.8, 1.2)
        if submission is None:
            await asyncio.sleep(wait_s)
        else:
            await asyncio.wait({submission}, timeout=wait_s)


def _outcome(submission: asyncio.Task[None]) -> BudgetError | None:
    """Return why nothing more can be submitted, None if all was; raise any other error."""
    error = submission.exception()
    if isinstance(error, BudgetError):
        log.warning("budget_holds_no_more", reason=str(error))
        return error
    if error is not None:
        raise error
    return None

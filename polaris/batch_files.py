"""A chunk of requests in, the provider's batch of it out: the batch files API, asked until it answers.

A chunk's record lies in a stage's progress before its batch can exist, and carries a mark that the batch
carries too. So a batch is found again whatever became of the process that made it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from polaris.chat import CallFailed, Retry
from polaris.errors import ConfigError, TransientError
from polaris.llm import ChatClient
from polaris.protocol import retryable
from polaris.runtime import get_logger

if TYPE_CHECKING:
    from openai.types import Batch

FOLDER = "batches/"
"""Where the chunks lie in a stage's progress."""
MARK = "polaris_chunk"
"""The metadata that holds a chunk's mark."""
SKEW_S = 86_400.0
"""How far the provider's clock may be behind ours."""
_PASSING = ("reserved", "ours", "done")
"""Fields of a chunk that mean something to its process alone."""
LONGEST_WAIT_S = 60.0
LONGEST_RETRY_AFTER_S = 600.0

T = TypeVar("T")

log = get_logger("batch")


@dataclass
class Chunk:
    """One batch file and what became of it; on record but for the fields of `_PASSING`."""

    keys: list[str]
    round: int
    mark: str
    """Known to no other batch: this chunk's name and chance."""
    usd: float
    """Reserved for it; 0 without a budget."""
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
    reserved: float = 0.0
    """What of `usd` is a reservation of this process."""
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


class BatchFiles:
    """The provider's side.

    Every method raises ConfigError where the provider rejects the key, the file or the batch, and
    TransientError where it has answered nothing for `outage_s`.
    """

    def __init__(self, client: ChatClient, outage_s: float, backoff_s: float) -> None:
        """Set up; attempt k waits up to `backoff_s · 2^(k−1)` seconds before the next."""
        self.client = client
        self.endpoint = client.endpoint
        self._outage_s = outage_s
        self._backoff_s = backoff_s

    async def create(self, chunk: Chunk, data: bytes) -> str:
        """Upload and submit; return the batch's id."""
        upload = (f"{chunk.mark}.jsonl", data)
        file = await self._ask(
            lambda: self.client.sdk.files.create(file=upload, purpose="batch"), "batch files"
        )
        tried = False

        async def once() -> str:
            # The answer to an earlier try may be lost while the batch is not.
            nonlocal tried
            found = await self._search(chunk) if tried else None
            tried = True
            if found is not None:
                return found
            made = await self.client.sdk.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={MARK: chunk.mark},
            )
            return str(made.id)

        return await self._ask(once, "batches")

    async def find(self, chunk: Chunk) -> str | None:
        """Return the id of the batch that carries the chunk's mark, None if none was made."""
        return await self._ask(lambda: self._search(chunk), "batches")

    async def look(self, chunk: Chunk) -> Batch:
        """Return the chunk's batch as it is now."""
        number = str(chunk.batch)
        return await self._ask(lambda: self.client.sdk.batches.retrieve(number), f"batch {number}")

    async def lines(self, file: str) -> list[dict[str, Any]] | None:
        """Return a file's rows; None if the provider does not have it any more."""
        import openai

        async def read() -> list[dict[str, Any]] | None:
            try:
                answer = await self.client.sdk.files.content(file)
            except openai.NotFoundError:
                return None
            return [json.loads(line) for line in answer.content.splitlines() if line.strip()]

        return await self._ask(read, f"file {file}")

    async def _search(self, chunk: Chunk) -> str | None:
        async for batch in self.client.sdk.batches.list(limit=100):
            if (batch.metadata or {}).get(MARK) == chunk.mark:
                return str(batch.id)
            if batch.created_at < chunk.at - SKEW_S:
                break
        return None

    async def _ask(self, call: Callable[[], Awaitable[T]], what: str) -> T:
        begun, bound = time.monotonic(), self._backoff_s
        while True:
            try:
                return await call()
            except Exception as error:
                retry = self._retry(error, what)
            if time.monotonic() - begun >= self._outage_s:
                raise TransientError(
                    f"{self.endpoint.setting}: {self.endpoint.url} has not answered about {what} for"
                    f" {self._outage_s:g} s ({retry.reason}); what is under way is on record, run again later"
                )
            wait_s = random.uniform(0, bound) + min(retry.retry_after_s or 0.0, LONGEST_RETRY_AFTER_S)
            bound = min(LONGEST_WAIT_S, 2 * bound)
            log.info("retry", what=what, why=retry.reason, wait_s=round(wait_s, 2))
            await asyncio.sleep(wait_s)

    def _retry(self, error: Exception, what: str) -> Retry:
        import openai

        where = f"{self.endpoint.setting}: {self.endpoint.url}"
        if isinstance(error, openai.NotFoundError):
            raise ConfigError(
                f"{where} knows no {what} (answer 404); check that it sells batch files, and that the key is"
                " of the same account as when they were submitted"
            ) from None
        try:
            return retryable(error, self.endpoint)
        except CallFailed as failed:
            raise ConfigError(f"{where} refuses {what}: {failed.reason}") from None

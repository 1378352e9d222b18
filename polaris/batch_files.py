"""A chunk of requests in, the provider's batch of it out: the batch files API, asked until it answers."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from polaris.batch_record import Chunk
from polaris.chat import CallFailed, ChatRequest, Endpoint, Retry, SchemaRejected
from polaris.errors import ConfigError, PolarisError, TransientError
from polaris.llm import ChatClient
from polaris.protocol import retryable
from polaris.runtime import get_logger

if TYPE_CHECKING:
    from openai.types import Batch

MARK = "polaris_chunk"
"""The metadata that holds a chunk's mark."""
SKEW_S = 86_400.0
"""How far the provider's clock may be behind ours."""
LONGEST_WAIT_S = 60.0
LONGEST_RETRY_AFTER_S = 600.0

T = TypeVar("T")

log = get_logger("batch")


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


def rejects_schema(request: ChatRequest, response: dict[str, Any], endpoint: Endpoint) -> bool:
    """Tell whether a row's `response` is the error of an endpoint that does not take the request's schema."""
    import openai

    status, body = response.get("status_code"), response.get("body")
    fault = body.get("error") if isinstance(body, dict) else None
    if request.schema is None or not isinstance(status, int) or status == 200 or not isinstance(fault, dict):
        return False
    # The SDK makes such an error of what its transport was answered, and here nothing was.
    answered = cast(Any, SimpleNamespace(request=None, status_code=status, headers={}))
    error = openai.APIStatusError(str(fault.get("message")), response=answered, body=fault)
    try:
        retryable(error, endpoint, schema=True)
    except SchemaRejected:
        return True
    except (CallFailed, PolarisError):
        pass
    return False

"""One attempt at a stage that asks by batch, in this process or another, against the FAKE provider."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fake_batches import FakeBatches

from polaris.answers import Cache
from polaris.artifact import Progress
from polaris.batch import BatchResult, fill
from polaris.budget import Budget
from polaris.chat import CallFailed, ChatAnswer, ChatRequest, Endpoint, Prices
from polaris.llm import ChatClient
from polaris.runtime import StopFlag
from polaris.storage import FileStore

CANARY = "sk-canary-0123456789"
PRICES = Prices(prompt=2.0, completion=10.0, half_price_tier=0.5)
EACH = (100 * 2.0 + 10 * 10.0) / 1e6 / 2
"""US$ of one answer of the FAKE provider by batch."""
BUDGET = "runs/test/budget/"


def ask(n: int, max_tokens: int = 40) -> list[tuple[ChatRequest, int]]:
    """Return requests that are estimated at what they cost, if nothing is known and max_tokens is 40."""
    task = {"role": "system", "content": "s" * 392}
    asked = [(task, {"role": "user", "content": f"fox {i}"}) for i in range(n)]
    return [(ChatRequest(messages, max_tokens=max_tokens), 0) for messages in asked]


@dataclass
class Attempt:
    """One process's attempt at a stage, all but the process."""

    folder: Path
    fake: FakeBatches
    stop: StopFlag = field(default_factory=StopFlag)
    budget: float | None = None

    def __post_init__(self) -> None:
        self.store = FileStore(self.folder)
        self.record = Progress(self.store, "stage/")
        self.money = None if self.budget is None else Budget(self.store, BUDGET, self.budget)
        self.client = client_of(self.fake.url, self.store, budget=self.money)

    def fill(self, requests: list[tuple[ChatRequest, int]], **options: Any) -> BatchResult:
        return asyncio.run(self._fill(requests, options, ()))[0]

    def fill_and_ask(self, requests: list[tuple[ChatRequest, int]], **options: Any) -> list[Any]:
        """Return what asking the client afterwards gives: an answer, or why there is none."""
        return asyncio.run(self._fill(requests, options, requests))[1]

    def ask(self, request: ChatRequest, repeat: int = 0) -> None:
        """Ask live."""

        async def work() -> None:
            async with self.client:
                await self.client.complete(request, repeat=repeat)

        asyncio.run(work())

    async def _fill(self, requests: Any, options: dict[str, Any], then: Any) -> tuple[BatchResult, list[Any]]:
        options = {"poll_s": 0.01, "backoff_s": 0.0} | options
        async with self.client:
            try:
                result = await fill(self.client, requests, self.record, stop=self.stop, **options)
                found = [await self._ask(request, repeat) for request, repeat in then]
            finally:
                if self.money is not None:
                    self.money.close()
        return result, found

    async def _ask(self, request: ChatRequest, repeat: int) -> ChatAnswer | str:
        try:
            return await self.client.complete(request, repeat=repeat)
        except CallFailed as failed:
            return failed.reason

    def forget_answers(self) -> None:
        self.store.delete([info.key for info in self.store.list("cache/")])


def client_of(url: str, store: FileStore, **options: Any) -> ChatClient:
    endpoint = Endpoint(url=url, model="fake", identity="fake/model", api_key=CANARY, setting="models.reader")
    return ChatClient(endpoint, cache=Cache(store), prices=PRICES, attempts=2, **options)


def once(fake: FakeBatches, n: int) -> bool:
    """Tell whether `n` requests were submitted, each of them once."""
    return len(fake.submitted) == n and set(fake.submitted.values()) == {1}


def stop_once_made(fake: FakeBatches, attempt: Attempt) -> None:
    """Stop the attempt once it has made a batch, before it is told so."""

    def stop(method: str, path: str) -> None:
        if fake.batches and attempt.stop.signal is None:
            attempt.stop.signal = signal.SIGTERM
            time.sleep(0.3)

    fake.before_answer = stop


CHILD = "import sys, batch_attempts; batch_attempts.child(*sys.argv[1:])"


def child(url: str, folder: str, budget: str) -> None:
    """Be a process that fills and says what it cost."""
    store = FileStore(Path(folder))
    money = Budget(store, BUDGET, float(budget)) if budget else None
    client = client_of(url, store, budget=money)

    async def work() -> BatchResult:
        async with client:
            return await fill(
                client, ask(4), Progress(store, "stage/"), stop=StopFlag(), poll_s=0.05, most_requests=2
            )

    result = asyncio.run(work())
    if money is not None:
        money.close()
    print(json.dumps([client.usage.usd, result.earlier.usd]))


def start_child(fake: FakeBatches, folder: Path, budget: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, fake.url, str(folder), budget]
    return subprocess.Popen(
        command, cwd=Path(__file__).parent, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )

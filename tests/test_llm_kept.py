"""What was paid for is kept, whoever is cancelled meanwhile. Endpoint and slow store are FAKE."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import Reply, fake_endpoint
from structlog.testing import capture_logs
from test_llm import ASKED, ask, client_of, replies
from test_llm_limits import numbered

from polaris import llm
from polaris.answers import Cache
from polaris.chat import ChatAnswer
from polaris.errors import TransientError
from polaris.llm import ChatClient
from polaris.storage import FileStore


class FakeSlowStore(FileStore):
    """FAKE: writes nothing before `go`; then fails if `broken`."""

    def __init__(self, folder: Path, *, broken: bool = False) -> None:
        super().__init__(folder)
        self.broken = broken
        self.go = threading.Event()
        self.begun = threading.Semaphore(0)

    def put(self, key: str, data: bytes, **conditions: Any) -> str:
        self.begun.release()
        self.go.wait()
        if self.broken:
            raise TransientError("store.url: SlowDown")
        return super().put(key, data, **conditions)


async def cancelled(client: ChatClient, work: Any, store: FakeSlowStore, *, count: int) -> None:
    """Cancel the work once all its answers were given, and let the store write only then."""
    async with client:
        task = asyncio.ensure_future(work)
        await asyncio.to_thread(store.begun.acquire)
        while len(client._puts) < count:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        asyncio.get_running_loop().call_later(0.1, store.go.set)


def test_answers_that_wait_for_the_store_are_kept_when_their_callers_are_cancelled(tmp_path):
    store, count = FakeSlowStore(tmp_path), llm.CACHE_THREADS + 8

    async def all_of_them() -> None:
        await asyncio.gather(*(client.complete(one) for one in numbered(count)))

    with fake_endpoint(replies(Reply("A fox."))) as server:
        client = client_of(server, cache=Cache(store), concurrency=count)
        asyncio.run(cancelled(client, all_of_them(), store, count=count))
    assert len(list(store.list("cache/"))) == count


def test_what_batches_bought_is_kept_so_too(tmp_path):
    store = FakeSlowStore(tmp_path)
    with fake_endpoint(replies(Reply("live"))) as server:
        client = client_of(server, cache=Cache(store))
        key = client.key(ASKED, 0)
        bought = ChatAnswer("by batch", "stop", 10, 5, tier="batch")
        asyncio.run(cancelled(client, client.remember(key, bought), store, count=1))
    assert Cache(store).get(key).text == "by batch"


def test_closing_does_not_wait_for_a_store_that_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr(llm, "KEEP_S", 0.1)
    store = FakeSlowStore(tmp_path)

    async def close() -> None:
        async with client:
            call = asyncio.ensure_future(client.complete(ASKED))
            await asyncio.to_thread(store.begun.acquire)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

    with fake_endpoint(replies(Reply("A fox."))) as server:
        client = client_of(server, cache=Cache(store))
        asyncio.run(close())
        [put] = client._puts
        assert not put.done(), "neither the client nor its loop waited"
        store.go.set()
        assert put.result().text == "A fox.", "and it is kept all the same"


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_an_answer_that_cannot_be_kept_is_told(tmp_path, is_cancelled):
    store = FakeSlowStore(tmp_path, broken=True)
    with fake_endpoint(replies(Reply("A fox."))) as server, capture_logs() as events:
        client = client_of(server, cache=Cache(store))
        if is_cancelled:
            asyncio.run(cancelled(client, client.complete(ASKED), store, count=1))
        else:
            store.go.set()
            with pytest.raises(TransientError, match="SlowDown"):
                ask(client)
    told = [event for event in events if event["event"] == "answer_not_kept"]
    assert [event["reason"] for event in told] == ["store.url: SlowDown"]

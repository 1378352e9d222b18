"""One budget shared by threads, and by two real processes through real stores."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import s3

from polaris.budget import Books, Budget, spent_in
from polaris.config import StoreConfig
from polaris.errors import BudgetError
from polaris.storage import FileStore, open_store

PREFIX = "runs/test/budget/"
NEAR = 1e-6
CONCURRENCY = 8
MOST = 0.02
"""Most that a call reserves."""
OVERRUN = 1.5


async def spend_all(budget: Budget, dice: random.Random, *, overrun: bool) -> float:
    """Make concurrent calls until the budget is spent; return what they cost in truth."""
    spent = 0.0

    async def call() -> None:
        nonlocal spent
        while True:
            reserved = dice.uniform(0.0005, MOST)
            await budget.reserve(reserved)
            await asyncio.sleep(dice.uniform(0, 0.008))
            actual = reserved * (dice.uniform(0.2, OVERRUN) if overrun else 1.0)
            spent += actual
            budget.settle(reserved, actual)

    ends = await asyncio.gather(*(call() for _ in range(CONCURRENCY)), return_exceptions=True)
    assert all(isinstance(end, BudgetError) for end in ends), ends
    return spent


def test_threads_share_one_budget(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    budget = Budget(store, PREFIX, 1.0)
    ended: list[float] = []

    def work() -> None:
        ended.append(asyncio.run(spend_all(budget, random.Random(threading.get_ident()), overrun=False)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    budget.close()
    assert len(ended) == 4
    assert 0.95 < budget.spent <= 1.0 + NEAR
    assert budget.spent == pytest.approx(sum(ended))
    assert spent_in(store, PREFIX) == Books(pytest.approx(budget.spent), 0.0)


def process(number: int, store: StoreConfig, usd: float, overrun: bool, together: Any) -> None:
    """Be one of the processes: spend all, leave what it was as `spent-NUMBER.json`, exit as a stage would."""
    opened = open_store(store)
    budget = Budget(opened, PREFIX, usd)
    asyncio.run(budget.reserve(MOST))
    budget.settle(MOST, MOST)
    # Both have a slice by now, and a connection to the store.
    together.wait(60)
    spent = MOST + asyncio.run(spend_all(budget, random.Random(number), overrun=overrun))
    opened.put(f"spent-{number}.json", json.dumps(spent).encode())
    try:
        asyncio.run(budget.reserve(usd))
    except BudgetError as error:
        sys.exit(error.code)
    finally:
        budget.close()


def check_two_processes(store: StoreConfig, usd: float, *, overrun: bool) -> None:
    """Two processes at once, then two more with twice the budget."""
    spawn = multiprocessing.get_context("spawn")
    opened, truth = open_store(store), 0.0
    for allowed in (usd, 2 * usd):
        together = spawn.Barrier(2)
        children = [
            spawn.Process(target=process, args=(number, store, allowed, overrun, together))
            for number in range(2)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join(120)
        assert [child.exitcode for child in children] == [4, 4]
        spent = [json.loads(opened.get(f"spent-{number}.json")) for number in range(2)]
        truth += sum(spent)
        in_flight = 2 * CONCURRENCY * MOST * (OVERRUN - 1) if overrun else 0.0
        assert allowed - 2 * (MOST + allowed / 100) <= truth <= allowed + in_flight + NEAR
        books = spent_in(opened, PREFIX)
        assert books == Books(pytest.approx(truth), pytest.approx(0.0))


@pytest.mark.parametrize("overrun", [False, True])
def test_two_processes_never_exceed_their_budget_by_more_than_the_calls_in_flight(
    tmp_path: Path, overrun: bool
) -> None:
    check_two_processes(StoreConfig(url=(tmp_path / "store").as_uri()), 4.0, overrun=overrun)


@pytest.mark.slow
def test_two_processes_share_a_budget_in_s3(s3_url: str, s3_server: s3.Server) -> None:
    place = {"endpoint": s3_server.endpoint, "region": "us-east-1", "path_style": True}
    check_two_processes(StoreConfig.model_validate({"url": s3_url, **place}), 4.0, overrun=True)

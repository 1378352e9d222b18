"""One budget for all processes: in every order of what they do, and with a store that fails."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from full_config import FULL, config_of
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from polaris.budget import Books, Budget, open_budget, spent_in
from polaris.errors import BudgetError, TransientError
from polaris.storage import Conflict, FileStore, ObjectInfo

PREFIX = "runs/test/budget/"
NEAR = 1e-6


def run(what: Coroutine[Any, Any, None]) -> None:
    """Run within a time that only a reservation that waits for ever can take."""

    async def limited() -> None:
        await asyncio.wait_for(what, 30)

    asyncio.run(limited())


def has(store: FileStore, usd: float, left: float) -> bool:
    """Tell whether a new process can reserve just so much of a budget; the books stay as they were."""
    got = []
    for asked in (left - NEAR, left + NEAR):
        budget = Budget(store, PREFIX, usd)
        try:
            run(budget.reserve(asked))
            budget.settle(max(0.0, asked), 0.0)
            got.append(True)
        except BudgetError:
            got.append(False)
        budget.close()
    return got == [True, False]


@dataclass
class Simulated:
    """Some processes that share a budget, and what they truly spent."""

    store: FileStore
    usd: float
    budgets: list[Budget] = field(default_factory=list)
    flying: list[list[float]] = field(default_factory=list)
    unbooked: list[float] = field(default_factory=list)
    """By process: overruns since the last reservation that it got, which booked those before."""
    truth: float = 0.0
    lost: float = 0.0
    """Overruns that died with their process before they were booked."""
    killed: int = 0
    claimed: float = 0.0
    """What the books held at the last look."""

    def start(self) -> None:
        self.budgets.append(Budget(self.store, PREFIX, self.usd))
        self.flying.append([])
        self.unbooked.append(0.0)

    async def reserve(self, who: int, usd: float, factor: float) -> None:
        """Reserve; while it waits, calls of the same process come back."""
        task = asyncio.ensure_future(self.budgets[who].reserve(usd))
        while not task.done():
            await asyncio.sleep(0.0002)
            if not task.done() and self.flying[who]:
                self.settle(who, factor)
        if not isinstance(error := task.exception(), BudgetError):
            assert error is None
            self.flying[who].append(usd)
            self.unbooked[who] = 0.0

    def settle(self, who: int, factor: float) -> None:
        if self.flying[who]:
            reserved = self.flying[who].pop(0)
            self.budgets[who].settle(reserved, reserved * factor)
            self.truth += reserved * factor
            self.unbooked[who] += max(0.0, reserved * (factor - 1))

    def close(self, who: int) -> None:
        self.budgets[who].close()
        overrun, self.unbooked[who] = self.unbooked[who], 0.0
        self.check(overrun)

    async def write(self, who: int) -> None:
        await self.budgets[who].write()
        overrun = 0.0
        if not self.flying[who]:
            overrun, self.unbooked[who] = self.unbooked[who], 0.0
        self.check(overrun)

    def kill(self, who: int) -> None:
        """Lose a process; its calls in flight are paid for, and another one takes its place."""
        self.truth += sum(self.flying[who])
        self.lost += self.unbooked[who]
        self.budgets[who] = Budget(self.store, PREFIX, self.usd)
        self.flying[who], self.unbooked[who] = [], 0.0
        self.killed += 1

    def check(self, overrun: float = 0.0) -> None:
        """All that is spent or reserved was claimed, and no more than the budget but by what overran it."""
        books = spent_in(self.store, PREFIX)
        claimed = books.spent + books.held
        truth = self.truth + sum(map(sum, self.flying))
        assert truth <= claimed + sum(self.unbooked) + self.lost + NEAR
        assert claimed <= max(self.usd, self.claimed) + overrun + NEAR
        self.claimed = claimed


STEPS = st.tuples(
    st.integers(0, 2),
    st.sampled_from(["reserve", "reserve", "reserve", "settle", "settle", "write", "close", "kill"]),
    st.sampled_from([0.001, 0.01, 0.07, 0.3]),
    st.sampled_from([0.0, 0.4, 1.0, 1.0, 1.6]),
)


@hypothesis_settings(max_examples=50, deadline=None)
@given(st.lists(STEPS, max_size=30), st.sampled_from([0.5, 1.0]), st.sampled_from([0.1, 0.5, 3.0]))
def test_whatever_the_order_the_sum_stays_within_the_budget(
    steps: list[tuple[int, str, float, float]], usd: float, more: float
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        simulated = Simulated(FileStore(Path(folder)), usd)
        for _ in range(3):
            simulated.start()

        async def go() -> None:
            for who, what, amount, factor in steps:
                if what == "reserve":
                    await simulated.reserve(who, amount, factor)
                elif what == "settle":
                    simulated.settle(who, factor)
                elif what == "write":
                    await simulated.write(who)
                elif what == "close":
                    simulated.close(who)
                else:
                    simulated.kill(who)
                simulated.check()

        run(go())
        for who in range(3):
            while simulated.flying[who]:
                simulated.settle(who, 1.0)
            simulated.close(who)
        books = spent_in(simulated.store, PREFIX)
        if not simulated.killed:
            assert books == Books(pytest.approx(simulated.truth, abs=NEAR), 0.0)
        used = books.spent + books.held
        assert simulated.truth <= used + simulated.lost + NEAR
        assert has(simulated.store, usd, max(0.0, usd - used))
        assert has(simulated.store, usd + more, max(0.0, usd + more - used))
        assert spent_in(simulated.store, PREFIX).spent == pytest.approx(books.spent), "nothing was spent"


def spend(budget: Budget, *calls: float) -> None:
    for usd in calls:
        run(budget.reserve(usd))
        budget.settle(usd, usd)


def test_what_a_closed_process_left_is_spent_by_others_and_what_a_killed_one_held_is_not(
    tmp_path: Path,
) -> None:
    store = FileStore(tmp_path)
    first, killed = Budget(store, PREFIX, 10.0), Budget(store, PREFIX, 10.0)
    spend(first, 0.02, 0.01)
    spend(killed, 0.04)
    first.close()
    assert first.spent == pytest.approx(0.03)
    assert spent_in(store, PREFIX) == Books(pytest.approx(0.03), pytest.approx(0.1))
    assert has(store, 10.0, 10.0 - 0.03 - 0.1)
    assert has(store, 12.0, 12.0 - 0.03 - 0.1)
    first.close()
    assert spent_in(store, PREFIX).spent == pytest.approx(0.03), "closing twice writes nothing twice"


def test_an_overrun_is_booked_against_what_is_left_and_beyond_it(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    budget = Budget(store, PREFIX, 1.0)
    run(budget.reserve(0.1))
    budget.settle(0.1, 0.5)
    with pytest.raises(BudgetError):
        run(budget.reserve(0.51))
    run(budget.reserve(0.49))
    budget.settle(0.49, 0.8)
    budget.close()
    assert spent_in(store, PREFIX) == Books(pytest.approx(1.3), 0.0)
    assert has(store, 1.0, 0.0)
    assert has(store, 2.0, 0.7)


def test_an_estimate_that_another_process_booked_is_given_back(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    first, second = Budget(store, PREFIX, 1.0), Budget(store, PREFIX, 1.0)
    run(first.reserve(0.8))
    first.close()
    assert has(store, 1.0, 0.2)
    second.settle(0.0, 0.3 - 0.8)
    spend(second, 0.1)
    second.close()
    assert spent_in(store, PREFIX) == Books(pytest.approx(0.4), 0.0)
    assert has(store, 1.0, 0.6)


def test_what_is_written_is_known_and_the_rest_of_the_slice_is_anybodys(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    budget = Budget(store, PREFIX, 1.0)
    spend(budget, 0.004)
    run(budget.write())
    assert spent_in(store, PREFIX) == Books(pytest.approx(0.004), 0.0)
    budget.settle(0.0, -0.003)
    run(budget.write())
    assert spent_in(store, PREFIX) == Books(pytest.approx(0.001), 0.0)
    spend(budget, 0.02)
    run(budget.reserve(0.5))
    run(budget.write())
    assert spent_in(store, PREFIX).spent + spent_in(store, PREFIX).held >= 0.521 - NEAR
    budget.settle(0.5, 0.1)
    budget.close()
    assert spent_in(store, PREFIX) == Books(pytest.approx(0.121), 0.0)
    assert has(store, 1.0, 0.879)


def test_a_spent_budget_is_looked_at_again_by_the_next_call(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    first, second = Budget(store, PREFIX, 1.0), Budget(store, PREFIX, 1.0)
    run(first.reserve(0.9))
    run(second.reserve(0.1))
    second.settle(0.1, 0.1)
    with pytest.raises(BudgetError, match="0.90 USD held by other processes"):
        run(second.reserve(0.2))
    first.settle(0.9, 0.3)
    first.close()
    run(second.reserve(0.2))
    second.settle(0.2, 0.2)
    with pytest.raises(BudgetError, match="0.60 USD are known to be spent, and the next call"):
        run(second.reserve(0.5))


def test_a_lowered_budget_gives_no_more_than_it_has(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    budgets = [Budget(store, PREFIX, 10.0) for _ in range(6)]
    for budget in budgets:
        run(budget.reserve(1.0))
        budget.settle(1.0, 0.5)
    for budget in budgets:
        budget.close()
    assert has(store, 4.0, 1.0)
    assert has(store, 2.0, 0.0)


def test_the_error_names_the_setting_what_is_spent_and_the_fix(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    spend(Budget(store, PREFIX, 0.5), 0.2)
    budget = Budget(store, PREFIX, 0.5)
    spend(budget, 0.25)
    with pytest.raises(BudgetError) as caught:
        run(budget.reserve(0.1))
    assert caught.value.code == 4
    assert str(caught.value) == (
        "execute.budget_usd: value 0.5; 0.25 USD are known to be spent, 0.20 USD held by other processes,"
        " running or killed, and the next call may cost 0.10 USD; raise it and run again: everything so far"
        " is kept"
    )


def test_a_call_waits_for_those_of_its_own_process_that_may_give_back(tmp_path: Path) -> None:
    budget = Budget(FileStore(tmp_path), PREFIX, 1.0)

    async def go() -> None:
        await budget.reserve(0.6)
        await budget.reserve(0.3)
        waiting = asyncio.ensure_future(budget.reserve(0.5))
        cancelled = asyncio.ensure_future(budget.reserve(0.5))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        cancelled.cancel()
        budget.settle(0.6, 0.1)
        await waiting
        budget.settle(0.3, 0.3)
        with pytest.raises(BudgetError):
            budget.settle(0.5, 0.5)
            await budget.reserve(0.2)

    run(go())


class Counting(FileStore):
    """A store that counts how often it is asked."""

    asked = 0

    def get(self, key: str) -> bytes:
        self.asked += 1
        return super().get(key)

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        self.asked += 1
        return super().put(key, data, if_absent=if_absent, if_match=if_match)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self.asked += 1
        return super().list(prefix)


def test_the_store_is_asked_by_slice_and_not_by_call(tmp_path: Path) -> None:
    store = Counting(tmp_path)
    budget = Budget(store, PREFIX, 1.0)

    async def go() -> None:
        for _ in range(5000):
            await budget.reserve(0.0001)
            budget.settle(0.0001, 0.0001)
        for _ in range(1000):
            await budget.reserve(0.0)
            budget.settle(0.0, 0.0)

    run(go())
    assert budget.spent == pytest.approx(0.5)
    assert store.asked <= 2 * 51


def test_what_costs_nothing_touches_nothing(tmp_path: Path) -> None:
    budget = Budget(FileStore(tmp_path), PREFIX, 1.0)
    run(budget.reserve(0.0))
    budget.settle(0.0, 0.0)
    budget.close()
    assert list(tmp_path.iterdir()) == []


class Faulty(FileStore):
    """FAKE: a real folder whose conditional puts fail as told, once each."""

    faults: list[Callable[[Callable[[], str]], str]]

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        def real() -> str:
            return super(Faulty, self).put(key, data, if_absent=if_absent, if_match=if_match)

        return self.faults.pop(0)(real) if self.faults and (if_absent or if_match) else real()


def answer_lost(real: Callable[[], str]) -> str:
    real()
    raise Conflict("it exists: it is ours")


def both_refused(real: Callable[[], str]) -> str:
    raise Conflict("another writer came at once and lost too")


def down(real: Callable[[], str]) -> str:
    raise TransientError("store.url: the store does not answer")


@pytest.mark.parametrize("fault", [answer_lost, both_refused])
def test_a_put_that_looks_lost_loses_nothing(
    tmp_path: Path, fault: Callable[[Callable[[], str]], str]
) -> None:
    store = Faulty(tmp_path)
    store.faults = [fault]
    assert has(store, 1.0, 1.0)


def test_store_trouble_goes_through_and_takes_nothing(tmp_path: Path) -> None:
    store = Faulty(tmp_path)
    store.faults = [down]
    budget = Budget(store, PREFIX, 1.0)
    with pytest.raises(TransientError):
        run(budget.reserve(0.1))
    spend(budget, 1.0)


def test_a_run_without_a_limit_has_no_budget(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    assert open_budget(config_of(FULL), store) is None
    found = open_budget(config_of(FULL | {"execute": {"budget_usd": 5.0}}), store)
    assert found is not None
    assert (found.prefix, found.usd) == ("runs/full/budget/", 5.0)

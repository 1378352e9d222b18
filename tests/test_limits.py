"""As many attempts at once and a minute as the endpoint bears: by property, and by a clock that is told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polaris.limits import AdaptiveLimit, Gate, Limits, Place, Rate


class FakeTimeLoop(asyncio.SelectorEventLoop):
    """FAKE time: whatever the loop would wait for has come."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__()
        select = self._selector.select

        def jump(timeout: float | None = None) -> Any:
            self.now += timeout or 0.0
            return select(0)

        self._selector.select = jump

    def time(self) -> float:
        return self.now


def run(work: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_until_complete(work)
    finally:
        loop.close()


def worst_window(taken: list[tuple[float, float]], seconds: float) -> float:
    """Return the largest amount taken in any half-open stretch of so many seconds."""
    return max(sum(a for t, a in taken if begin <= t < begin + seconds) for begin, _ in taken)


@given(
    st.integers(1, 200).flatmap(
        lambda allowance: st.tuples(
            st.just(allowance),
            st.lists(st.tuples(st.integers(1, allowance), st.floats(0, 30)), min_size=1, max_size=60),
        )
    )
)
def test_no_minute_ever_sees_more_than_its_rate(case):
    allowance, steps = case
    rate, now, taken = Rate(allowance), 0.0, []
    for amount, pause in steps:
        now += pause
        while (wait_s := rate.wait_s(amount, now)) > 0:
            now += wait_s
        rate.take(amount, now)
        taken.append((now, amount))
    # A stretch a hair shorter than a minute: its ends are rounded.
    assert worst_window(taken, 60 - 1e-6) <= allowance


@given(st.floats(0.1, 500), st.integers(1, 40))
def test_a_steady_caller_gets_the_whole_rate_and_no_more(per_minute, calls):
    rate, now = Rate(per_minute), 0.0
    for _ in range(calls):
        while (wait_s := rate.wait_s(1, now)) > 0:
            now += wait_s
        rate.take(1, now)
    ideal_s = 60 * (calls - 1) / per_minute
    # What a part of a minute holds may come at its beginning, and only whole requests are made.
    assert ideal_s - 66 <= now <= max(ideal_s * 2, 60 * calls / per_minute) + 66


def test_a_rate_is_given_out_evenly():
    rate = Rate(600)
    for _ in range(60):
        assert rate.wait_s(1, 0.0) == 0
        rate.take(1, 0.0)
    assert rate.wait_s(1, 0.0) == 6


def test_a_share_of_a_request_a_minute_is_waited_for():
    rate = Rate(0.5)
    rate.take(1, 0.0)
    assert rate.wait_s(1, 0.0) == pytest.approx(120)


def test_more_than_a_minutes_tokens_go_alone_and_are_paid_off():
    rate = Rate(1000)
    rate.take(10, 0.0)
    assert rate.wait_s(3000, 0.0) == pytest.approx(60)
    rate.take(3000, 60.0)
    assert rate.wait_s(1, 60.0) == pytest.approx(180)


def test_an_estimate_is_corrected_by_the_truth():
    rate = Rate(1000)
    taken = rate.take(1000, 0.0)
    assert rate.wait_s(10, 0.0) == pytest.approx(60)
    rate.correct(taken, 20)
    assert rate.wait_s(10, 0.0) == 0
    assert rate.wait_s(900, 61.0) == 0
    rate.correct(taken, 5000)
    assert rate.wait_s(900, 61.0) == 0, "what is long gone is not corrected any more"


@given(st.integers(1, 512), st.lists(st.booleans(), max_size=400))
def test_the_limit_stays_within_its_bounds(most, refusals):
    limit = AdaptiveLimit(most)
    for refused in refusals:
        before = limit.now
        fell = limit.note(refused=refused, age=limit.age)
        assert 1 <= limit.now <= most
        assert fell == (limit.now < before)


@given(st.integers(1, 512), st.integers(1, 40))
def test_the_limit_is_halved_and_comes_back(most, bad):
    limit = AdaptiveLimit(most)
    while limit.now > max(1, most >> bad):
        limit.note(refused=True, age=limit.age)
    for _ in range(20 * (most + 10)):
        limit.note(refused=False, age=limit.age)
    assert limit.now == most


def test_a_low_limit_is_left_by_small_steps():
    limit, seen = AdaptiveLimit(512), []
    while limit.now > 2:
        limit.note(refused=True, age=limit.age)
    for _ in range(100):
        limit.note(refused=False, age=limit.age)
        seen.append(limit.now)
    assert sorted(set(seen)) == [2, 3, 4, 5, 6, 7, 8, 9, 10]


def test_more_than_a_fifth_of_a_window_halves_it_at_once_and_less_does_not():
    limit = AdaptiveLimit(32)
    for number in range(640):
        assert not limit.note(refused=number % 6 == 0, age=limit.age)
    assert limit.now == 32
    falls = [limit.note(refused=True, age=limit.age) for _ in range(13)]
    assert falls == [False] * 12 + [True]
    assert limit.now == 16


def test_what_was_in_flight_when_the_limit_fell_is_no_news():
    limit = AdaptiveLimit(512)
    for _ in range(512):
        limit.note(refused=True, age=0)
    assert limit.now == 256


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.sampled_from([None, 30.0, 200.0]), st.integers(0, 2**32))
def test_the_gate_never_lets_in_more_than_the_limits_allow(most, per_minute, seed):
    chance = random.Random(seed)
    loop = FakeTimeLoop()
    limits = Limits(most, requests_per_minute=per_minute, tokens_per_minute=5000, clock=loop.time)
    gate = Gate(limits)
    requests: list[tuple[float, float]] = []
    used: list[tuple[float, float]] = []

    async def attempt() -> None:
        await asyncio.sleep(chance.uniform(0, 5))
        tokens = chance.randint(1, 400)
        place = await gate.enter(tokens, again=chance.random() < 0.3)
        assert gate.in_flight <= limits.places.now
        requests.append((loop.now, 1))
        used.append((loop.now, tokens))
        try:
            await asyncio.sleep(chance.uniform(0, 3))
        finally:
            gate.leave(place, tokens, refused=chance.random() < 0.2)

    async def all_of_them() -> None:
        tasks = [asyncio.ensure_future(attempt()) for _ in range(60)]
        await asyncio.sleep(2)
        for task in tasks[::7]:
            task.cancel()
        await asyncio.gather(*tasks[::7], return_exceptions=True)
        await asyncio.gather(*(task for number, task in enumerate(tasks) if number % 7))

    run(all_of_them(), loop)
    if per_minute is not None:
        assert worst_window(requests, 59.9) <= per_minute
    assert worst_window(used, 59.9) <= 5000


def test_retries_go_before_new_calls_and_the_others_in_turn():
    async def turns() -> list[str]:
        gate = Gate(Limits(1))
        order = []
        place = await gate.enter(1, again=False)

        async def wait(name: str, again: bool) -> None:
            mine = await gate.enter(1, again=again)
            order.append(name)
            gate.leave(mine, None)

        named = [("new 1", False), ("retry 1", True), ("new 2", False), ("retry 2", True)]
        tasks = [asyncio.ensure_future(wait(*one)) for one in named]
        await asyncio.sleep(0)
        gate.leave(place, None)
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(turns()) == ["retry 1", "retry 2", "new 1", "new 2"]


def test_who_is_cancelled_on_being_let_in_gives_the_place_back():
    async def work() -> Place:
        gate = Gate(Limits(1))
        place = await gate.enter(1, again=False)
        waiting = asyncio.ensure_future(gate.enter(1, again=False))
        await asyncio.sleep(0)
        gate.leave(place, None)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert gate.in_flight == 0
        return await asyncio.wait_for(gate.enter(1, again=False), 5)

    assert asyncio.run(work()).age == 0


def test_once_stopped_nobody_enters_and_those_who_wait_are_cancelled():
    stop = False

    async def work() -> None:
        nonlocal stop
        gate = Gate(Limits(1), stopped=lambda: stop)
        place = await gate.enter(1, again=False)
        waiting = [asyncio.ensure_future(gate.enter(1, again=False)) for _ in range(3)]
        await asyncio.sleep(0)
        stop = True
        gate.leave(place, None)
        late = asyncio.ensure_future(gate.enter(1, again=True))
        await asyncio.gather(*waiting, late, return_exceptions=True)
        assert all(task.cancelled() for task in [*waiting, late])
        assert gate.in_flight == 0

    asyncio.run(work())

"""Work on many items at once: bounded, stoppable, and given up when an endpoint is gone."""

from __future__ import annotations

import asyncio
import time

import pytest

from polaris.errors import ConfigError
from polaris.llm import each


def test_each_bounds_its_width_and_stops_beginning():
    running, most, done = 0, 0, []

    async def work(item: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        done.append(item)

    asyncio.run(each(range(20), work, width=4, stopped=lambda: len(done) >= 8))
    assert most == 4
    assert 8 <= len(done) < 20
    assert running == 0


def test_each_raises_the_first_error_and_cancels_the_rest():
    cancelled = []

    async def work(item: int) -> None:
        if item == 2:
            raise ConfigError("no")
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.append(item)
            raise

    with pytest.raises(ConfigError, match="no"):
        asyncio.run(each(range(9), work, width=3, stopped=lambda: False))
    assert sorted(cancelled) == [0, 1]


def test_each_gives_what_is_under_way_its_grace_and_no_more():
    begun = time.monotonic()

    async def work(_: int) -> None:
        await asyncio.sleep(300)

    stopped = iter([False, False])
    asyncio.run(each([1], work, width=1, stopped=lambda: next(stopped, True), grace_s=0.3))
    assert time.monotonic() - begun < 60

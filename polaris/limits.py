"""Attempts in, the right to make each of them out: as many at once, and a minute, as the endpoint bears.

Both limits are pure and are told the time; `Gate` makes attempts wait for them, retries before new calls.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MINUTE_S = 60.0
BURST_S = 6.0
"""A minute's allowance is given out in parts of this length: endpoints count by the second too."""
SMALLEST_WINDOW = 10
"""Attempts that are looked at, at least, before the limit is changed."""
TOLERATED_SHARE = 0.2
"""Of a window's attempts, how many may be answered 429."""
STEPS = 8
"""A good window raises a limit by one part in so many of itself: of the whole would overshoot a low one."""


class AdaptiveLimit:
    """How many attempts may be in flight: halved when too many are refused, regained by steps.

    Attempts are looked at in windows of twice the limit. More than a fifth of one refused (429) halves the
    limit at once; a window that ends without that raises it by an eighth, 1 at least. Of what was in flight
    when the limit was halved nothing counts: those refusals are no news.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.now = most
        self.age = 0
        """Number of times that it was halved; an attempt is noted with the age at its beginning."""
        self._seen = 0
        self._refused = 0

    def note(self, *, refused: bool, age: int) -> bool:
        """Count an attempt; return whether it made the limit smaller."""
        if age != self.age:
            return False
        self._seen += 1
        self._refused += refused
        window = max(SMALLEST_WINDOW, 2 * self.now)
        if self._refused > TOLERATED_SHARE * window:
            smaller = max(1, self.now // 2)
            fell, self.now = smaller < self.now, smaller
            self.age += 1
        elif self._seen >= window:
            fell, self.now = False, min(self.most, self.now + max(1, self.now // STEPS))
        else:
            return False
        self._seen = self._refused = 0
        return fell


@dataclass(slots=True)
class Taken:
    """A part of an allowance, taken at a time."""

    at: float
    amount: float
    live: bool = True


class Window:
    """An allowance in any stretch of so many seconds; what is larger than all of it waits in proportion."""

    def __init__(self, allowance: float, seconds: float) -> None:
        self._allowance = allowance
        self._seconds = seconds
        self._taken: deque[Taken] = deque()
        self._sum = 0.0

    def wait_s(self, amount: float, now: float) -> float:
        """Return the seconds until `amount` may be taken; 0 is now."""
        self._forget(now)
        excess = self._sum + amount - self._allowance
        if not self._taken or excess <= 0:
            return 0.0
        ends = now
        for taken in self._taken:
            ends = max(ends, self._ends(taken))
            excess -= taken.amount
            if excess <= 0:
                break
        return ends - now

    def take(self, taken: Taken) -> None:
        """Book what was taken; never before what was booked last."""
        self._taken.append(taken)
        self._sum += taken.amount

    def correct(self, taken: Taken, amount: float) -> None:
        """Say what it came to in truth."""
        if taken.live:
            self._sum += amount - taken.amount
            taken.amount = amount

    def _forget(self, now: float) -> None:
        while self._taken and self._ends(self._taken[0]) <= now:
            gone = self._taken.popleft()
            gone.live = False
            self._sum = self._sum - gone.amount if self._taken else 0.0

    def _ends(self, taken: Taken) -> float:
        return taken.at + self._seconds * max(1.0, taken.amount / self._allowance)


class Rate:
    """An allowance a minute: never more in any minute, and evenly through it."""

    def __init__(self, per_minute: float) -> None:
        self._windows = (
            Window(per_minute, MINUTE_S),
            Window(per_minute * BURST_S / MINUTE_S, BURST_S),
        )

    def wait_s(self, amount: float, now: float) -> float:
        """Return the seconds until `amount` may be taken; 0 is now."""
        return max(window.wait_s(amount, now) for window in self._windows)

    def take(self, amount: float, now: float) -> tuple[Taken, ...]:
        """Take it; correct it when its true amount is known."""
        found = tuple(Taken(now, amount) for _ in self._windows)
        for window, taken in zip(self._windows, found, strict=True):
            window.take(taken)
        return found

    def correct(self, found: tuple[Taken, ...], amount: float) -> None:
        """Say what it came to in truth."""
        for window, taken in zip(self._windows, found, strict=True):
            window.correct(taken, amount)


class Limits:
    """All that bounds one client's attempts, whatever event loop they run in."""

    def __init__(
        self,
        concurrency: int,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.places = AdaptiveLimit(concurrency)
        self.clock = clock
        self.requests = Rate(requests_per_minute) if requests_per_minute else None
        self.tokens = Rate(tokens_per_minute) if tokens_per_minute else None

    def wait_s(self, tokens: int, now: float) -> float:
        """Return the seconds until one more request of so many tokens is within both rates."""
        requests = self.requests.wait_s(1, now) if self.requests else 0.0
        return max(requests, self.tokens.wait_s(tokens, now) if self.tokens else 0.0)


@dataclass(slots=True)
class Place:
    """The right to make one attempt."""

    age: int
    """Of the limit, when it was given."""
    tokens: tuple[Taken, ...] = ()


class Gate:
    """Where attempts of one event loop wait for their limits, retries first, else in turn."""

    def __init__(self, limits: Limits, *, stopped: Callable[[], bool] = lambda: False) -> None:
        """Set up; once `stopped` says so nobody enters any more, and those who wait are cancelled."""
        self.in_flight = 0
        self._limits = limits
        self._stopped = stopped
        self._numbers = itertools.count()
        self._waiting: list[tuple[bool, int, int, asyncio.Future[Place]]] = []
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, tokens: int, *, again: bool) -> Place:
        """Wait for a place for an attempt of about so many tokens; `again` says that it is a retry."""
        future: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (not again, next(self._numbers), tokens, future))
        self._admit()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.leave(future.result(), None)
            self._admit()
            raise

    def leave(self, place: Place, tokens: int | None, *, refused: bool | None = None) -> bool:
        """Give the place back; return whether the limit of places has fallen for it.

        Args:
            place: what `enter` gave.
            tokens: what the attempt took in truth; None leaves the estimate.
            refused: whether it was answered 429; None where nothing was answered at all by the endpoint's
                choice, so that it tells nothing.

        """
        self.in_flight -= 1
        if tokens is not None and self._limits.tokens is not None:
            self._limits.tokens.correct(place.tokens, tokens)
        fell = refused is not None and self._limits.places.note(refused=refused, age=place.age)
        self._admit()
        return fell

    def _admit(self) -> None:
        """Let in whom the limits allow now; wake up again when a rate allows the next."""
        while self._waiting:
            _, _, tokens, future = self._waiting[0]
            if future.done():
                heapq.heappop(self._waiting)
                continue
            if self._stopped():
                self._turn_away([entry[-1] for entry in self._waiting])
                return
            if self.in_flight >= self._limits.places.now:
                return
            now = self._limits.clock()
            wait_s = self._limits.wait_s(tokens, now)
            if wait_s > 0:
                self._wake_in(wait_s)
                return
            heapq.heappop(self._waiting)
            self.in_flight += 1
            future.set_result(self._place(tokens, now))

    def _place(self, tokens: int, now: float) -> Place:
        limits = self._limits
        if limits.requests is not None:
            limits.requests.take(1, now)
        taken = limits.tokens.take(tokens, now) if limits.tokens is not None else ()
        return Place(limits.places.age, taken)

    def _wake_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # A little later: a clock's grain must not wake it a moment too soon, to wait for nothing again.
        self._timer = asyncio.get_running_loop().call_later(seconds + 0.001, self._admit)

    def _turn_away(self, waiting: Sequence[asyncio.Future[Place]]) -> None:
        self._waiting.clear()
        for future in waiting:
            future.cancel()

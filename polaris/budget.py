"""A run's money in, the right to make a call that costs some of it out: one budget for all processes.

The books lie in the store as `slice-000000.json` and on: each begins where the one before it ends, is
claimed by a conditional put before any of it is spent, and says what was spent of it once it is closed.
"""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

from polaris.config import RunConfig
from polaris.errors import BudgetError, PolarisError
from polaris.runtime import get_logger
from polaris.storage import Conflict, NotFound, Store

SLICES = 100
"""A slice is this part of the budget, or what one call needs where that is more."""
POLL_S = 0.01
"""How often a call that waits looks again."""
EPSILON = 1e-9
"""US$ below which a sum of floats is nothing."""

log = get_logger("budget")


@dataclass(frozen=True)
class Slice:
    """Part of the budget: `usd` from `start` on. Those two never change."""

    start: float
    usd: float
    spent: float
    """What is known to be spent of it; while it is open, what was so before it was claimed again."""
    holder: str
    """The process that claimed it last."""
    open: bool

    @property
    def held(self) -> float:
        """What its holder may have spent without having written so."""
        return self.usd - self.spent if self.open else 0.0


@dataclass(frozen=True)
class Books:
    """What all processes together have written: US$ spent, and held by those that run or were killed."""

    spent: float
    held: float


class Budget:
    """US$ in slices, each claimed from the store by a conditional put before any of it is spent."""

    def __init__(self, store: Store, prefix: str, usd: float) -> None:
        """Set up without touching the store; `prefix` ends with `/` and is the run's own."""
        self.store = store
        self.prefix = prefix
        self.usd = usd
        self._me = uuid.uuid4().hex
        self._sums = threading.Lock()
        """Guards the figures; held for arithmetic only."""
        self._books = threading.Lock()
        """Held by the one thread that changes slices in the store."""
        self._held: dict[int, tuple[Slice, float]] = {}
        """Number of each open slice of ours → it, and how much of it is ours to spend."""
        self._next: tuple[int, float] | None = None
        """Number and start of the first slice that nobody was seen to have claimed."""
        self._granted = self._spent = self._flying = self._written = 0.0
        """US$ that were ours to spend, are spent, are reserved by calls in flight, are written as spent."""
        self._looks = 0
        """Looks for something to claim that have ended."""
        self._dry = self._final = False
        """The last look found less than was asked for; and no call in flight could give any back by then."""
        self._seen = Books(0.0, 0.0)
        """What the others had written when it ran dry."""

    @property
    def spent(self) -> float:
        """US$ that the settled calls of this process cost."""
        return self._spent

    async def reserve(self, usd: float) -> None:
        """Take `usd` out; wait while only calls in flight of this process stand in the way.

        Raises:
            BudgetError: it is spent.
            TransientError: the store is down.

        """
        if usd <= 0:
            return
        looks = self._looks
        while not self._take(usd, looks):
            if self._books.locked() or (self._dry and self._flying > EPSILON):
                await asyncio.sleep(POLL_S)
            else:
                await asyncio.to_thread(self._claim, usd)

    def settle(self, reserved: float, actual: float) -> None:
        """Give a reservation back and book what the call cost in truth, more or less than that.

        Where an earlier process booked an estimate, `actual` is the difference to it, and may be negative.
        """
        with self._sums:
            self._flying -= reserved
            self._spent += actual

    def close(self) -> None:
        """Write what is spent of the slices claimed here, so that others may use the rest.

        A call still in flight counts as its reservation. What calls cost beyond their reservations is
        booked as a slice of its own, if need be beyond the end of the budget. A store that cannot be
        written to is a warning: how the work ended must not be lost over slices that stay held.
        """
        self._settle_books(ending=True)

    async def write(self) -> None:
        """Do what `close` does and go on: what is spent by now is on record if the process is killed.

        While calls are in flight only the slices that are spent whole are written.
        """
        await asyncio.to_thread(self._settle_books, ending=False)

    def _settle_books(self, *, ending: bool) -> None:
        try:
            with self._books:
                self._write(ending=ending)
        except PolarisError as error:
            log.warning("budget_not_written", reason=str(error))

    def _write(self, *, ending: bool) -> None:
        with self._sums:
            whole_only = not ending and self._flying > EPSILON
            due = self._spent - self._written + (self._flying if ending else 0.0)
            if not whole_only:
                # From now on nobody takes what is about to be handed back.
                self._granted = self._written + due
        due = self._write_off(due, whole_only=whole_only)
        if whole_only:
            return
        if due > EPSILON:
            self._append(lambda start: Slice(start, due, due, self._me, open=False))
            self._written += due
        elif due < -EPSILON:
            self._give_back(-due)
        self._dry = False

    def _take(self, usd: float, looks: int) -> bool:
        """Take `usd` if it is there; raise BudgetError if a look after the `looks`-th found too little."""
        with self._sums:
            if self._left() >= usd - EPSILON:
                self._flying += usd
                return True
            fresh = self._looks > looks and self._dry and self._final
            if not fresh or self._flying > EPSILON:
                return False
            raise BudgetError(self._spent_out(usd))

    def _left(self) -> float:
        return self._granted - self._spent - self._flying

    def _spent_out(self, usd: float) -> str:
        held = self._seen.held
        others = f", {_usd(held)} held by other processes, running or killed" if held > EPSILON else ""
        return (
            f"execute.budget_usd: value {self.usd:g}; {_usd(self._seen.spent + self._spent)} are known to be"
            f" spent{others}, and the next call may cost {_usd(usd)}; raise it and run again: everything so"
            " far is kept"
        )

    def _claim(self, usd: float) -> None:
        """Claim what a call of `usd` lacks: a new slice, else what is left of closed ones."""
        if not self._books.acquire(blocking=False):
            return
        try:
            with self._sums:
                missing, full = usd - self._left(), self._spent - self._written
                final = self._flying <= EPSILON
            if missing <= EPSILON:
                return
            self._write_off(full, whole_only=True)
            missing -= self._claim_new(missing)
            if missing > EPSILON:
                missing -= self._take_over(missing)
            self._dry, self._final = missing > EPSILON, final
            self._looks += 1
        finally:
            self._books.release()

    def _claim_new(self, missing: float) -> float:
        def cut(start: float) -> Slice | None:
            usd = min(self.usd - start, max(self.usd / SLICES, missing))
            return Slice(start, usd, 0.0, self._me, open=True) if usd > EPSILON else None

        found = self._append(cut)
        return self._hold(*found, grant=found[1].usd) if found else 0.0

    def _append(self, cut: Callable[[float], Slice | None]) -> tuple[int, Slice] | None:
        """Claim the first free number with what `cut` makes of its start; None if that is nothing."""
        number, start = self._next or _end(self.store, self.prefix)
        while (wanted := cut(start)) is not None:
            if self._put(number, wanted):
                self._next = number + 1, start + wanted.usd
                return number, wanted
            # A store may refuse both of two writers that came at once: then there is none yet.
            if (other := _read(self.store, self._key(number))) is not None:
                number, start = number + 1, other.start + other.usd
        self._next = number, start
        return None

    def _take_over(self, missing: float) -> float:
        """Claim closed slices that have something left, as far as the budget, lowered perhaps, allows."""
        slices = list(_slices(self.store, self.prefix))
        room = self.usd - sum(found.spent + found.held for _, _, found in slices)
        got = 0.0
        for number, etag, found in slices:
            grant = min(found.usd - found.spent, room)
            if found.open or grant <= EPSILON or got >= missing - EPSILON:
                continue
            # Lost to another process it is taken too.
            room -= grant
            ours = replace(found, holder=self._me, open=True)
            if self._put(number, ours, etag):
                got += self._hold(number, ours, grant)
        others = [found for _, _, found in slices if found.holder != self._me]
        spent = sum(found.spent for _, _, found in slices) - self._written
        self._seen = Books(spent, sum(found.held for found in others))
        return got

    def _hold(self, number: int, found: Slice, grant: float) -> float:
        self._held[number] = found, grant
        with self._sums:
            self._granted += grant
        return grant

    def _write_off(self, due: float, *, whole_only: bool) -> float:
        """Close slices of ours, of which `due` is spent, in the order of their claim; return what is over."""
        for number, (found, grant) in list(self._held.items()):
            part = max(0.0, min(due, grant))
            if whole_only and part < grant - EPSILON:
                break
            # Only its holder changes an open slice, so this needs no condition.
            closed = replace(found, spent=found.spent + part, open=False)
            self.store.put(self._key(number), _bytes(closed))
            del self._held[number]
            self._written += part
            due -= part
        return due

    def _give_back(self, usd: float) -> None:
        """Take out of the books what was booked as an estimate and then cost less."""
        for number, etag, found in _slices(self.store, self.prefix):
            part = 0.0 if found.open else min(found.spent, usd)
            if part > EPSILON and self._put(number, replace(found, spent=found.spent - part), etag):
                self._written -= part
                usd -= part

    def _put(self, number: int, wanted: Slice, etag: str | None = None) -> bool:
        """Write a slice if it is still absent, or still the one of `etag`; tell whether it is ours."""
        data = _bytes(wanted)
        try:
            self.store.put(self._key(number), data, if_absent=etag is None, if_match=etag)
            return True
        except Conflict:
            # A put whose answer got lost is made again, and then loses against itself.
            return _read(self.store, self._key(number)) == wanted

    def _key(self, number: int) -> str:
        return f"{self.prefix}slice-{number:06d}.json"


def prefix_of(config: RunConfig) -> str:
    """Return where a run's books lie in its store."""
    return f"runs/{config.run}/budget/"


def open_budget(config: RunConfig, store: Store) -> Budget | None:
    """Return the run's budget, None where it has no limit."""
    if config.execute.budget_usd is None:
        return None
    return Budget(store, prefix_of(config), config.execute.budget_usd)


def spent_in(store: Store, prefix: str) -> Books:
    """Read what all processes, those of earlier runs too, have written; one access a slice."""
    slices = [found for _, _, found in _slices(store, prefix)]
    return Books(sum(found.spent for found in slices), sum(found.held for found in slices))


def _slices(store: Store, prefix: str) -> Iterator[tuple[int, str, Slice]]:
    """Yield number, etag and content; one that changed in between fails If-Match, as it should."""
    for info in store.list(f"{prefix}slice-"):
        if (found := _read(store, info.key)) is not None:
            yield _number(info.key), info.etag, found


def _end(store: Store, prefix: str) -> tuple[int, float]:
    """Return number and start of the first slice that nobody has claimed."""
    keys = [info.key for info in store.list(f"{prefix}slice-")]
    last = _read(store, keys[-1]) if keys else None
    return (_number(keys[-1]) + 1, last.start + last.usd) if last else (0, 0.0)


def _number(key: str) -> int:
    return int(key[-len("000000.json") : -len(".json")])


def _read(store: Store, key: str) -> Slice | None:
    try:
        return Slice(**json.loads(store.get(key)))
    except NotFound:
        return None


def _bytes(found: Slice) -> bytes:
    return json.dumps(asdict(found)).encode()


def _usd(value: float) -> str:
    return f"{value:,.2f} USD" if value >= 0.1 else f"{value:.2g} USD"

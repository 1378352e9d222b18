"""A failed attempt in, the seconds to wait before the call's next one out, or why there is none.

Pure: it is told the time and holds what a client knows of its endpoint's health.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from polaris.chat import CallFailed, ChatRequest, Retry
from polaris.providers import Tier

PACED_S = 1.0
"""An endpoint that asks for so long a wait paces its callers itself: a quarter of it is jitter enough."""
FULL_TIER = frozenset({"rate limited", "no room", "timed out"})
"""What sends a call of the flex tier to the standard tier."""


@dataclass(slots=True)
class Call:
    """One question on its way to an answer."""

    request: ChatRequest
    key: str
    tokens: int
    """Estimate for one attempt, prompt and answer."""
    tier: Tier
    begun: float | None = None
    """When its first attempt began."""
    attempt_begun: float = 0.0
    attempts: int = 0
    """Made so far."""
    faults: int = 0
    """Attempts that failed and count: being told to slow down does not."""
    own: int = 0
    """Of them, those since whose predecessor somebody else got an answer: the endpoint is not to blame."""
    answers_before: int = 0
    """Answers that anybody had got when its first attempt began."""
    answers_at_last: int = 0
    """Answers that anybody had got when its last attempt failed, or its first one began."""


@dataclass(frozen=True)
class Patience:
    """How long a call is tried."""

    attempts: int = 6
    deadline_s: float = 3600.0
    outage_s: float = 0.0
    backoff_s: float = 0.5
    longest_wait_s: float = 60.0
    longest_retry_after_s: float = 600.0


class Retries:
    """Decides about every next attempt of one client's calls, from what happens to all of them."""

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self.outage = False
        """Nothing has been answered for too long; True until something is."""
        self.under_way = 0
        """Calls that have begun and not ended."""
        self._answers = 0
        self._answered_at = float("-inf")
        self._silent_since: float | None = None
        self._random = random.Random()

    def begin(self, call: Call, now: float) -> None:
        """Note that an attempt begins; raise CallFailed if the deadline passed while it waited its turn."""
        if call.begun is None:
            call.begun = now
            call.answers_before = call.answers_at_last = self._answers
        if self.left_s(call, now) <= 0:
            raise self._too_late(call, "no place for another attempt")
        call.attempts += 1
        call.attempt_begun = now

    def left_s(self, call: Call, now: float) -> float:
        """Return the seconds until the call's deadline."""
        begun = now if call.begun is None else call.begun
        return begun + self.patience.deadline_s - now

    def answered(self, now: float) -> None:
        """Note that the endpoint has answered somebody."""
        self._answers += 1
        self._answered_at = now
        self._silent_since = None
        self.outage = False

    def wait_s(self, call: Call, retry: Retry, now: float) -> float:
        """Return how long the call must wait before its next attempt.

        Full jitter below an exponential bound, on top of Retry-After where one was given; of a Retry-After
        of a second or more a quarter bounds it too. A call that found no room at the flex tier goes to the
        standard one, without a wait if that is all that is wrong.

        Raises CallFailed, kind "unavailable": its attempts are used up while others got answers, or nobody
        has got one for `outage_s`, or its deadline allows no further attempt. What failed while nobody got an
        answer is not held against a call, so one that meets an outage has all its attempts when it is over.
        """
        if self._silent_since is None:
            self._silent_since = max(call.attempt_begun, self._answered_at)
        if retry.kind not in ("rate limited", "no room"):
            call.faults += 1
            call.own += self._answers > call.answers_at_last
            if call.faults >= self.patience.attempts:
                self._give_up(call, retry, now)
        call.answers_at_last = self._answers
        if call.tier == "flex" and retry.kind in FULL_TIER:
            call.tier = "standard"
        wait_s = 0.0 if retry.kind == "no room" else self._wait_s(call.attempts, retry.retry_after_s)
        if wait_s >= self.left_s(call, now):
            raise self._too_late(call, retry.reason)
        return wait_s

    def _too_late(self, call: Call, reason: str) -> CallFailed:
        told = f"{reason}, and no answer within deadline_s {self.patience.deadline_s:g}"
        return CallFailed(f"{told} ({call.attempts} attempts)", kind="unavailable")

    def _give_up(self, call: Call, retry: Retry, now: float) -> None:
        """Raise if the faults are the call's own, or the outage has lasted for too long."""
        own = call.own >= self.patience.attempts
        if self.under_way <= 1:
            # Nobody else is left who could show that the endpoint answers; the past must do.
            own = self._answers > call.answers_before
        assert self._silent_since is not None
        silent = now - self._silent_since >= self.patience.outage_s
        if not own and not silent:
            return
        self.outage = self.outage or not own
        raise CallFailed(f"{retry.reason} ({call.attempts} attempts)", kind="unavailable")

    def _wait_s(self, attempt: int, retry_after_s: float | None) -> float:
        patience = self.patience
        bound = min(patience.longest_wait_s, patience.backoff_s * 2.0 ** min(attempt - 1, 60))
        asked = min(retry_after_s or 0.0, patience.longest_retry_after_s)
        if asked >= PACED_S:
            bound = min(bound, asked / 4)
        return self._random.uniform(0, bound) + asked

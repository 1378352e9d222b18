"""A failed attempt in, the seconds to wait before the call's next one out, or why there is none.

Pure: it is told the time and holds what a client knows of its endpoint's health. Where only a probe can tell
the endpoint's fault from the call's it says so, and is told what the probe found.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from polaris.chat import CallFailed, ChatRequest, Retry
from polaris.providers import Tier

PACED_S = 1.0
"""An endpoint that asks for so long a wait paces its callers itself: a quarter of it is jitter enough."""
STRAIGHT = 50
"""Calls given up one after the other, without an answer to any between them, that no bad luck explains."""
FULL_TIER = frozenset({"rate limited", "no room", "timed out"})
"""What sends a call of the flex tier to the standard tier."""
NO_FAULT = frozenset({"rate limited", "no room", "too late"})
"""What is not one of a call's `attempts`."""
SLOW = NO_FAULT | {"timed out"}
"""What may go on for hours before a call's attempts are used up, if they ever are."""


@dataclass(slots=True)
class Call:
    """One question on its way to an answer."""

    request: ChatRequest
    key: str
    tokens: int
    """Estimate for one attempt, prompt and answer."""
    tier: Tier
    in_outage: bool = False
    """It was asked when the endpoint was known to be down, so it is there to find out whether it still is."""
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
    wait_s: float = 0.0
    """Before its next attempt, if there is one."""


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
        self.answers = 0
        """Answers that anybody has got."""
        self._answered_at = float("-inf")
        self._silent_since: float | None = None
        self._last_fault = ""
        self._up_until = float("-inf")
        """Until then what fails is the call's own fault: a probe was answered."""
        self._given_up = 0
        """Calls that were given up since the last answer; a probe's is none."""
        self._random = random.Random()

    def begin(self, call: Call, now: float) -> None:
        """Note that an attempt begins.

        Raises Retry if the deadline passed while it waited its turn, CallFailed if the endpoint was found to
        be down meanwhile.
        """
        if self.outage and self.patience.outage_s and not call.in_outage:
            raise self._unheard(self._last_fault, call, now)
        if call.begun is None:
            call.begun = now
            call.answers_before = call.answers_at_last = self.answers
        if self.left_s(call, now) <= 0:
            raise Retry("no place for another attempt", kind="too late")
        call.attempts += 1
        call.attempt_begun = now

    def left_s(self, call: Call, now: float) -> float:
        """Return the seconds until the call's deadline."""
        begun = now if call.begun is None else call.begun
        return begun + self.patience.deadline_s - now

    def answered(self, now: float) -> None:
        """Note that the endpoint has answered somebody."""
        self._given_up = 0
        self._heard(now)

    def _heard(self, now: float) -> None:
        self.answers += 1
        self._answered_at = now
        self._silent_since = None
        self.outage = False

    def failed(self, call: Call, retry: Retry, now: float) -> bool:
        """Note that an attempt failed; return whether the endpoint must be probed before `wait_s` decides.

        That is so when it has answered nobody for `outage_s`, and the call's attempts are used up or what it
        meets may last for hours; or when it has answered nobody for the whole time of a call whose deadline
        is over. What failed while nobody got an answer is not held against a call, so one that meets an
        outage has all its attempts when it is over. A call that found no room at the flex tier goes to the
        standard one, without a wait if that is all that is wrong.
        """
        if self._silent_since is None:
            self._silent_since = max(call.attempt_begun, self._answered_at)
        if retry.kind != "too late":
            self._last_fault = retry.reason
        if retry.kind not in NO_FAULT:
            call.faults += 1
            call.own += self.answers > call.answers_at_last or now < self._up_until
        call.answers_at_last = self.answers
        if call.tier == "flex" and retry.kind in FULL_TIER:
            call.tier = "standard"
        call.wait_s = 0.0 if retry.kind == "no room" else self._drawn_s(call.attempts, retry.retry_after_s)
        if self.outage or not self.patience.outage_s:
            return False
        if self._too_late(call, now) and self.answers == call.answers_before:
            return True
        waits_for_nothing = retry.kind in SLOW or call.faults >= self.patience.attempts
        return waits_for_nothing and now - self._silent_since >= self.patience.outage_s

    def probed(self, *, up: bool, now: float) -> None:
        """Note whether the endpoint answered a probe, or anybody else while it was asked."""
        if up:
            self._up_until = now + self.patience.outage_s
            self._heard(now)
        else:
            self.outage = True

    def wait_s(self, call: Call, retry: Retry, now: float, *, up: bool = False) -> float:
        """Return how long a call that `failed` must wait before its next attempt.

        Full jitter below an exponential bound, on top of Retry-After where one was given; of a Retry-After
        of a second or more a quarter bounds it too. `up` says that a probe was answered: then the endpoint
        is not to blame.

        Raises CallFailed, kind "unavailable": its attempts are used up while others got answers, its deadline
        allows no further attempt, or the endpoint is down. Without `outage_s` there is no probe: it is taken
        to be down by a call that is given up while nobody got an answer.
        """
        used_up, too_late = call.faults >= self.patience.attempts, self._too_late(call, now)
        own = up or self._own(call, too_late=too_late)
        if self.patience.outage_s:
            if self.outage:
                raise self._unheard(retry.reason, call, now)
            used_up = used_up and own
        elif (used_up or too_late) and not own:
            self.outage = True
        if used_up:
            raise self._gave_up(retry.reason, call)
        if too_late:
            told = f"{retry.reason}, and no answer within deadline_s {self.patience.deadline_s:g}"
            raise self._gave_up(told, call)
        return call.wait_s

    def _gave_up(self, reason: str, call: Call) -> CallFailed:
        """Return a call's failure; after too many in a row the endpoint is down, whatever a probe says."""
        self._given_up += 1
        if self.patience.outage_s and self._given_up >= STRAIGHT:
            self.outage = True
            reason = f"{reason}, as were the {STRAIGHT - 1} calls before"
        return CallFailed(f"{reason} ({call.attempts} attempts)", kind="unavailable")

    def _too_late(self, call: Call, now: float) -> bool:
        return call.wait_s >= self.left_s(call, now)

    def _own(self, call: Call, *, too_late: bool) -> bool:
        """Return whether its faults are the call's own, by what others got."""
        if self.under_way <= 1 or too_late:
            # Nobody else is left, or no time, to show that the endpoint answers; the past must do.
            return self.answers > call.answers_before
        return call.own >= self.patience.attempts

    def _unheard(self, reason: str, call: Call, now: float) -> CallFailed:
        assert self._silent_since is not None, "an outage without a failure"
        told = f"{reason}, and nobody has got an answer for {now - self._silent_since:.0f} s"
        return CallFailed(f"{told} ({call.attempts} attempts)", kind="unavailable")

    def _drawn_s(self, attempt: int, retry_after_s: float | None) -> float:
        patience = self.patience
        bound = min(patience.longest_wait_s, patience.backoff_s * 2.0 ** min(attempt - 1, 60))
        asked = min(retry_after_s or 0.0, patience.longest_retry_after_s)
        if asked >= PACED_S:
            bound = min(bound, asked / 4)
        return self._random.uniform(0, bound) + asked

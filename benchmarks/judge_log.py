"""The FAKE judge's log in, what the benchmark says of it out: ideal time, answers paid, shares refused."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from judge_server import ANSWERED, Asked

Call = tuple[str, int]
"""A story's key and the turn of its conversation: what is asked for and answered once, if all goes well."""


def call_of(asked: Asked) -> Call:
    """Return which call a request is an attempt of."""
    return asked.story, asked.turn


def paid(log: Iterable[Asked]) -> Counter[Call]:
    """Return how many whole answers each call got."""
    return Counter(call_of(asked) for asked in log if asked.what in ANSWERED and asked.delivered)


def ideal_s(log: Sequence[Asked], latency_s: float, concurrency: int) -> tuple[float, float]:
    """Return the two parts of the ideal time, in seconds: the work, and what Retry-After demands at the end.

    The work is the requests really made × latency / concurrency. The server takes the latency for a refused
    or broken request too, so that is what a client without any time of its own would need.

    What Retry-After demands: let D be the first moment at which every call that is still without its answer
    has been told to wait (429) and that wait is not over. Nothing else is left to do then, so no client could
    do better than to wait. The second part is the time after D during which at least one call's wait runs:
    a client's own jitter, its pauses after other faults, and the latency of the last retries are not in it.
    """
    work = sum(asked.what != "limited" for asked in log) * latency_s / concurrency
    begun = [(asked.arrived, False, asked) for asked in log]
    ended = [(asked.answered, True, asked) for asked in log if asked.answered]
    last = {call_of(asked): asked.number for asked in log}
    waits: dict[Call, float] = {}
    for at, answered, asked in sorted(begun + ended, key=lambda event: event[:2]):
        call = call_of(asked)
        waits.pop(call, None)
        if not answered:
            continue
        if asked.retry_after_s:
            waits[call] = at + asked.retry_after_s
        elif last[call] == asked.number:
            del last[call]
        if len(waits) >= len(last) > 0 and all(waits.get(call, at) > at for call in last):
            told = [asked for asked in log if asked.retry_after_s]
            return work, covered_s((max(at, a.answered), a.answered + a.retry_after_s) for a in told)
    return work, 0.0


def covered_s(spans: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of spans of time."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(span for span in spans if span[1] > span[0]):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def refused_shares(log: Sequence[Asked], every_s: float) -> list[tuple[float, int, float]]:
    """Return, for each `every_s` seconds from the first request: their end, requests, share answered 429."""
    first = min(asked.arrived for asked in log)
    slots: dict[int, list[bool]] = defaultdict(list)
    for asked in log:
        slots[int((asked.arrived - first) / every_s)].append(asked.retry_after_s > 0)
    return [
        ((slot + 1) * every_s, len(slots[slot]), sum(slots[slot]) / len(slots[slot]))
        for slot in sorted(slots)
    ]

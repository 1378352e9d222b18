"""Stage pods in, each ended attempt's log and state in the store out.

A pod that is deleted, or lost with its node, takes its log along: a running pod's log is read now and
then, and at every look once it is being deleted. Everything can be done again: a restarted orchestrator
finds the same pods and writes the same keys.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from polaris.errors import DONE, FINAL, TERMINATED
from polaris.execute.ended import telling_lines
from polaris.execute.kube import Kube
from polaris.execute.manifests import INSTANCE, KIND, ORCHESTRATOR, STAGE
from polaris.execute.reasons import End, disruption, failed_init, pod_end
from polaris.run import Run
from polaris.runtime import get_logger, redact
from polaris.stage import Status

log = get_logger("cluster")

Object = Mapping[str, Any]

READ_EVERY_S = 60.0
"""How old the copy of a running pod's log may get."""
BEGINS_WITHIN = 1 << 20
"""A log of so many bytes that names no attempt has lost its first lines: a node keeps the newest only."""


@dataclass(frozen=True)
class Kept:
    """What the store has of an ended pod: its attempt, and how it ended in the stage's own words."""

    attempt: str
    end: End


@dataclass(frozen=True)
class _Copy:
    """A running pod's log as it was when it was last read, and the attempt that it has ever named."""

    pod: Object
    text: bytes
    attempt: str
    read_at: float


class PodLogs:
    """Keeps the logs and ends of a run's stage pods."""

    def __init__(self, run: Run, kube: Kube, clock: Callable[[], float] = time.monotonic) -> None:
        self._run = run
        self._kube = kube
        self._clock = clock
        self._kept: dict[str, Kept] = {}
        self._copies: dict[str, _Copy] = {}

    def take(self, pods: Iterable[Object]) -> None:
        """Keep what ended since the last look; `pods` are all stage pods there are now."""
        seen = set()
        for pod in pods:
            uid = pod["metadata"]["uid"]
            seen.add(uid)
            if uid in self._kept:
                continue
            end = pod_end(pod, STAGE, setting(pod))
            if end:
                copy = self._copies.pop(uid, None) or _Copy(pod, b"", "", 0.0)
                text = self._read(pod) or copy.text
                self._keep(pod, end, text, attempt_in(text) or copy.attempt)
            elif (pod.get("status") or {}).get("phase") == "Running":
                self._copy(uid, pod)
        for uid in set(self._copies) - seen:
            copy = self._copies.pop(uid)
            end = End(TERMINATED, disruption(copy.pod) or "its pod was deleted")
            self._keep(copy.pod, end, copy.text, copy.attempt)

    def of(self, pods: Iterable[Object]) -> Kept | None:
        """Return how the last of a Job's pods ended that failed; None if none did.

        Where several pods work together, one that no retry can mend is the cause of its peers' ends.
        """
        found = [(ended_at(pod), kept) for pod in pods if (kept := self._kept.get(pod["metadata"]["uid"]))]
        failed = [(when, kept) for when, kept in found if kept.end.code != DONE]
        final = [kept for _, kept in failed if kept.end.at_once or kept.end.code in FINAL]
        return final[0] if final else max(failed, key=lambda pair: pair[0])[1] if failed else None

    def note(self, name: str, job: Object, kept: Kept | None, end: End) -> None:
        """Write how a Job failed, where that says more than how its last pod ended."""
        attempt = kept.attempt if kept else _attempt_of(job)
        Status(self._run.store, self._run.prefix(name), attempt).write("failed", end.code, end.reason)

    def _read(self, pod: Object) -> bytes:
        name = str(pod["metadata"]["name"])
        text = self._kube.pod_log(name, STAGE)
        init = failed_init(pod)
        if not text and init:
            text = self._kube.pod_log(name, init)
        return text or b""

    def _copy(self, uid: str, pod: Object) -> None:
        before, now = self._copies.get(uid) or _Copy(pod, b"", "", 0.0), self._clock()
        leaves = bool(pod["metadata"].get("deletionTimestamp"))
        has_begun = before.attempt or len(before.text) > BEGINS_WITHIN
        if not leaves and has_begun and now - before.read_at < READ_EVERY_S:
            return
        text = self._read(pod) or before.text
        self._copies[uid] = _Copy(pod, text, attempt_in(text) or before.attempt, now)

    def _keep(self, pod: Object, end: End, text: bytes, attempt: str) -> None:
        name = str(pod["metadata"]["annotations"][INSTANCE])
        prefix, attempt = self._run.prefix(name), attempt or _attempt_of(pod)
        key = f"{prefix}attempts/{attempt}/"
        store = self._run.store
        is_new = not store.head(f"{key}log.txt")
        if text and is_new:
            store.put(f"{key}log.txt", text)
        if end.code != DONE:
            end = self._settled(pod, prefix, attempt, end, text)
        if end.code != DONE and is_new:
            log.info(
                "pod_ended",
                instance=name,
                pod=pod["metadata"]["name"],
                attempt=attempt,
                code=end.code,
                reason=end.reason,
                taken_away=disruption(pod) or None,
            )
        self._kept[pod["metadata"]["uid"]] = Kept(attempt, end)

    def _settled(self, pod: Object, prefix: str, attempt: str, end: End, text: bytes) -> End:
        """Return the end in the stage's own words; say it in the store for a stage that could not.

        With it goes the configuration under which it ended so, for when its Job and pod are gone.
        """
        key = f"{prefix}attempts/{attempt}/{Status.NAME}"
        stored = self._run.store.get(key) if self._run.store.head(key) else b"{}"
        status = json.loads(stored)
        if status.get("state") == "complete":
            # It was taken away after its last word.
            return End(DONE, "")
        if status.get("state") == "failed" and (not end.at_once or status.get("code") == end.code):
            return End(end.code, str(status["reason"]), end.at_once)
        tail = redact(telling_lines(text.decode("utf-8", "replace").splitlines()))
        reason = f"{end.reason}; its log ends: {tail}" if tail else end.reason
        orchestrator = str(pod["metadata"]["labels"].get(ORCHESTRATOR, ""))
        Status(self._run.store, prefix, attempt).write("failed", end.code, reason, orchestrator=orchestrator)
        return End(end.code, reason, end.at_once)


def setting(found: Object) -> str:
    """Return where the chart's values hold what a stage's Job or pod is given."""
    return f"stages.{found['metadata']['labels'][KIND]}"


def attempt_in(text: bytes) -> str:
    """Return the attempt's id that a stage's log names where it begins, '' if it never began."""
    for line in text.splitlines():
        if line.startswith(b"{") and b'"begin"' in line:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if event.get("event") == "begin" and event.get("attempt"):
                return str(event["attempt"])
    return ""


def ended_at(found: Object) -> str:
    """Return when a pod or a Job ended, as the API writes times; for one that goes on, when it was made."""
    status = found.get("status") or {}
    times = [
        ended["finishedAt"]
        for entry in status.get("containerStatuses") or []
        if (ended := (entry.get("state") or {}).get("terminated")) and ended.get("finishedAt")
    ]
    times += [entry["lastTransitionTime"] for entry in status.get("conditions") or [] if not times]
    meta = found["metadata"]
    return str(max(times, default="") or meta.get("deletionTimestamp") or meta["creationTimestamp"])


def _attempt_of(found: Object) -> str:
    """Return an attempt's id for a stage that named none: the same at every look, in order of time."""
    digits = "".join(sign for sign in ended_at(found)[:19] if sign.isdigit())
    return f"{digits[:8]}t{digits[8:]}999-{found['metadata']['uid'][:6]}"

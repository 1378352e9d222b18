"""Pods and Jobs that wait in, one log line whenever the reason changes out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from polaris.execute.kube import Kube
from polaris.execute.reasons import job_waiting, waiting
from polaris.runtime import get_logger

log = get_logger("cluster")

Object = Mapping[str, Any]


class Waits:
    """Why each subject (an instance, a model) waits at the moment."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._told: dict[str, str] = {}

    def look(self, subject: str, pods: Iterable[Object], job: Object | None = None) -> None:
        """Find out why a subject's pods wait; a Job without pods says itself why it has none."""
        pods = list(pods)
        if job is not None and not pods:
            events = self._kube.events(job["metadata"]["uid"])
            self.tell(subject, job_waiting(job, events))
            return
        self.tell(subject, next((why for pod in pods if (why := self._of(pod))), ""))

    def tell(self, subject: str, reason: str) -> None:
        """Log a reason that is new; '' ends the wait."""
        if reason and reason != self._told.get(subject):
            log.info("waiting", subject=subject, reason=reason)
        self._told[subject] = reason

    def why(self, subject: str) -> str:
        """Return why a subject waits, '' if it does not."""
        return self._told.get(subject, "")

    def _of(self, pod: Object) -> str:
        if reason := waiting(pod):
            return reason
        if (pod.get("status") or {}).get("phase") != "Pending":
            return ""
        return waiting(pod, self._kube.events(pod["metadata"]["uid"]))

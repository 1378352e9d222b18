"""Kubernetes objects as plain dicts in; the few facts that a release's views need of them out. All pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from polaris.execute.manifests import ATTEMPT, DIGEST, INSTANCE, Object

JOB_NAME = "batch.kubernetes.io/job-name"
UNKNOWN = "unknown"
"""The content hash of what lies in the pods alone, and the digest of what depends on it."""


@dataclass(frozen=True)
class Snapshot:
    """A release's objects at one moment, and the last progress line of each pod that runs."""

    now: datetime
    jobs: list[Object] = field(default_factory=list)
    pods: list[Object] = field(default_factory=list)
    deployments: list[Object] = field(default_factory=list)
    events: list[Object] = field(default_factory=list)
    progress: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def clock(seconds: float) -> str:
    """Return a time in the unit that a person would say."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def conditions_of(found: Object) -> dict[str, Object]:
    """Return an object's conditions that hold, by type."""
    conditions = found.get("status", {}).get("conditions") or []
    return {condition["type"]: condition for condition in conditions if condition.get("status") == "True"}


def moment(text: str | None) -> datetime | None:
    """Parse Kubernetes's time."""
    return datetime.fromisoformat(text) if text else None


def newest_job(jobs: list[Object], instance: str, digest: str) -> Object | None:
    """Return the newest Job of an instance, of this digest if it is known."""
    found = [
        job
        for job in jobs
        if instance_of(job) == instance and digest in (UNKNOWN, labels_of(job).get(DIGEST))
    ]
    return max(found, key=lambda job: (created(job), attempt_of(job) or 0), default=None)


def pods_of_job(job: Object, snapshot: Snapshot) -> list[Object]:
    """Return a Job's pods, oldest first."""
    name = job["metadata"]["name"]
    found = [pod for pod in snapshot.pods if labels_of(pod).get(JOB_NAME) == name]
    return sorted(found, key=created)


def pod_of_job(job: Object | None, snapshot: Snapshot) -> Object | None:
    """Return the pod to speak of: of an Indexed Job one that is in trouble before the others."""
    pods = pods_of_job(job, snapshot) if job else []
    alive = [pod for pod in pods if pod["status"].get("phase") not in ("Failed", "Succeeded")]
    pending = [pod for pod in alive if pod["status"].get("phase") == "Pending"]
    chosen = pending or alive[:1] or pods[-1:]
    return chosen[0] if chosen else None


def attempt_of(job: Object | None) -> int | None:
    """Return a Job's attempt number, None if it has none."""
    text = labels_of(job).get(ATTEMPT, "") if job else ""
    return int(text) if text.isdigit() else None


def place_of(pod: Object | None) -> dict[str, str]:
    """Return a pod's name and its node's, as a row holds them."""
    if pod is None:
        return {}
    return {"pod": pod["metadata"]["name"], "node": pod.get("spec", {}).get("nodeName") or ""}


def status_of(pod: Object, container: str) -> Object:
    """Return the status of a pod's container, empty before it has one."""
    statuses = pod.get("status", {}).get("containerStatuses") or []
    return next((dict(status) for status in statuses if status["name"] == container), {})


def labels_of(found: Object) -> dict[str, str]:
    """Return an object's labels."""
    return found["metadata"].get("labels") or {}


def instance_of(found: Object) -> str | None:
    """Return the instance that a Job or its pod is of, None for what is of none."""
    name: str | None = (found["metadata"].get("annotations") or {}).get(INSTANCE)
    return name


def seconds_since(text: str | None, snapshot: Snapshot) -> float | None:
    """Return the seconds since a time, None if there is none."""
    then = moment(text)
    return max(0.0, (snapshot.now - then).total_seconds()) if then else None


def created(found: Object) -> str:
    """Return when an object was made, as text that sorts."""
    return str(found["metadata"].get("creationTimestamp") or "")


def events_of(found: Object, snapshot: Snapshot) -> list[Object]:
    """Return the events about an object."""
    uid = found["metadata"].get("uid")
    return [event for event in snapshot.events if event.get("involvedObject", {}).get("uid") == uid]


def digests_of(jobs: list[Object]) -> dict[str, str]:
    """Return the digest of each instance's newest Job."""
    ordered = sorted(jobs, key=created)
    found = {instance_of(job): labels_of(job).get(DIGEST) for job in ordered}
    return {instance: digest for instance, digest in found.items() if instance and digest}

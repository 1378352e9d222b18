"""A plan, a cluster's objects and the store's word in; what `polaris status --release` shows out. All pure.

The store says what is complete. Kubernetes says what runs, waits or failed, where, and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from polaris.artifact import Manifest
from polaris.errors import MEANING
from polaris.execute.manifests import (
    COMPONENT,
    DIGEST,
    KIND,
    MODEL,
    SERVE,
    STAGE,
    Object,
)
from polaris.execute.reasons import (
    End,
    is_finished,
    is_true,
    job_end,
    job_waiting,
    pod_end,
    server_end,
    waiting,
)
from polaris.plan import Instance, Plan
from polaris.release.objects import (
    UNKNOWN,
    Snapshot,
    attempt_of,
    clock,
    conditions_of,
    created,
    events_of,
    instance_of,
    labels_of,
    moment,
    newest_job,
    place_of,
    pod_of_job,
    pods_of_job,
    seconds_since,
    status_of,
)

ORCHESTRATOR = "orchestrator"
"""The component, its container, and where the chart's values set it up."""


@dataclass(frozen=True)
class Stored:
    """What the store says of an instance: its manifest, else its newest attempt's status."""

    manifest: Manifest | None = None
    status: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One instance: what it is at, since when (seconds), where, and what there is to say about it."""

    instance: str
    state: str
    digest: str
    seconds: float | None = None
    counts: Mapping[str, float] = field(default_factory=dict)
    usd: float | None = None
    attempt: int | None = None
    pod: str = ""
    node: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Service:
    """One model's Deployment: `ready`, `starting` or `stopping`, and for how many seconds."""

    model: str
    state: str
    seconds: float
    pod: str = ""
    node: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Orchestrator:
    """The newest orchestrator Job."""

    state: str
    seconds: float | None = None
    restarts: int = 0
    code: int | None = None
    detail: str = ""


@dataclass(frozen=True)
class View:
    """All that is shown of a release."""

    rows: list[Row]
    services: list[Service]
    orchestrator: Orchestrator
    notes: list[str]

    @property
    def over(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.orchestrator.state in ("completed", "failed")

    @property
    def code(self) -> int:
        """The exit code of a run that is over."""
        return 0 if self.orchestrator.state == "completed" else self.orchestrator.code or 1


def view(plan: Plan, snapshot: Snapshot, stored: Mapping[str, Stored]) -> View:
    """Put together what is known; of an instance that `stored` lacks, the store could not be asked."""
    services = _services(snapshot)
    rows: list[Row] = []
    for instance in plan.instances.values():
        rows.append(_row(instance, snapshot, stored.get(instance.name), rows, services))
    return View(rows, services, _orchestrator(snapshot), _notes(plan, snapshot, stored))


def _row(
    instance: Instance,
    snapshot: Snapshot,
    said: Stored | None,
    before: list[Row],
    services: list[Service],
) -> Row:
    job = newest_job(snapshot.jobs, instance.name, instance.digest)
    pod = pod_of_job(job, snapshot)
    digest = instance.digest if instance.digest != UNKNOWN else labels_of(job).get(DIGEST, "") if job else ""
    where: dict[str, Any] = {"attempt": attempt_of(job), **place_of(pod)}
    manifest = said.manifest if said else None
    if manifest:
        return Row(
            instance.name,
            "complete",
            manifest.digest,
            manifest.seconds,
            manifest.counts,
            manifest.cost.get("usd"),
            **where,
        )
    if job is None:
        state, detail = _without_job(instance, said, before, services, _standalone(snapshot))
        return Row(instance.name, state, digest, detail=detail)
    state, detail = _with_job(job, pod, said, snapshot)
    progress = snapshot.progress.get(pod["metadata"]["name"], {}) if state == "running" and pod else {}
    detail = progress_line(progress) or detail
    seconds = _age(job, pod, state, snapshot)
    return Row(instance.name, state, digest, seconds, usd=progress.get("usd"), detail=detail, **where)


def _without_job(
    instance: Instance, said: Stored | None, before: list[Row], services: list[Service], standalone: list[str]
) -> tuple[str, str]:
    if said is None:
        return "unknown", ""
    status = said.status
    if status.get("state") == "failed":
        return "failed", _with_code(str(status.get("reason") or ""), status.get("code"))
    if status.get("state") == "running" and standalone:
        return "running", f"in Job {', '.join(standalone)}"
    if status.get("state") == "running":
        return "interrupted", "its Job is gone; the next attempt goes on"
    if instance.on_demand:
        return "on demand", ""
    complete = {row.instance for row in before if row.state == "complete"}
    starting = [service.model for service in services if service.state != "ready"]
    awaited = [model for model in instance.services if model in starting]
    if awaited and complete.issuperset(instance.needs):
        return "pending", f"waits for model {', '.join(awaited)}"
    return "pending", ""


def _standalone(snapshot: Snapshot) -> list[str]:
    """Return the live Jobs that somebody applied by hand (jobs/*.yaml), each for several instances."""
    return [
        job["metadata"]["name"]
        for job in snapshot.jobs
        if labels_of(job).get(COMPONENT) == STAGE and instance_of(job) is None and not is_finished(job)
    ]


def _with_job(
    job: Object, pod: Object | None, said: Stored | None, snapshot: Snapshot, container: str = STAGE
) -> tuple[str, str]:
    """Return a Job's state and why it waits or failed."""
    setting = _setting(job)
    last = pod_end(pod, container, setting) if pod else None
    end = job_end(job, last, setting)
    if end is not None and not end.code:
        return ("complete", "") if said is None else ("failed", "its Job ended well without a manifest")
    if end is not None:
        return "failed", _failure(end, said)
    if is_true(job, "FailureTarget"):
        return "failed", last.reason if last else "its pods are being ended"
    if pod is None:
        return "waiting", job_waiting(job, events_of(job, snapshot)) or "for its pod"
    if last is not None:
        return "waiting", f"for another pod; the last one: {last.reason or 'is done'}"
    if pod["metadata"].get("deletionTimestamp"):
        return "waiting", "its pod is being removed; another one follows"
    if status_of(pod, container).get("state", {}).get("running"):
        return "running", ""
    return "waiting", waiting(pod, events_of(pod, snapshot)) or _on_its_way(pod)


def _failure(end: End, said: Stored | None) -> str:
    """Return why a Job failed: the stage's own reason is better than its exit code, but not than a kill."""
    status = said.status if said else {}
    if status.get("state") == "failed" and status.get("code") == end.code and status.get("reason"):
        return _with_code(str(status["reason"]), end.code)
    return end.reason


def _on_its_way(pod: Object) -> str:
    for status in pod.get("status", {}).get("initContainerStatuses") or []:
        if status.get("state", {}).get("running") and not status.get("started"):
            return f"for its init container '{status['name']}'"
    return "for its containers to start" if pod.get("spec", {}).get("nodeName") else "for a node"


def _setting(job: Object) -> str:
    labels = job["metadata"].get("labels") or {}
    return f"stages.{labels[KIND]}" if KIND in labels else "orchestrator"


def _with_code(reason: str, code: Any) -> str:
    return f"{reason} (exit code {code}: {MEANING[code]})" if code in MEANING else reason


def _services(snapshot: Snapshot) -> list[Service]:
    found = []
    for deployment in snapshot.deployments:
        meta = deployment["metadata"]
        model = labels_of(deployment).get(MODEL)
        if model is None:
            continue
        pods = [pod for pod in snapshot.pods if labels_of(pod).get(MODEL) == model]
        pod = max(pods, key=created, default=None)
        available = conditions_of(deployment).get("Available")
        since, detail = meta.get("creationTimestamp"), ""
        if meta.get("deletionTimestamp"):
            state, since = "stopping", meta["deletionTimestamp"]
        elif available and deployment.get("status", {}).get("readyReplicas"):
            state, since = "ready", available.get("lastTransitionTime", since)
        else:
            state = "starting"
            detail = _why_starting(model, deployment, pod, snapshot)
        found.append(
            Service(model, state, seconds_since(since, snapshot) or 0.0, detail=detail, **place_of(pod))
        )
    return sorted(found, key=lambda service: service.model)


def _why_starting(model: str, deployment: Object, pod: Object | None, snapshot: Snapshot) -> str:
    if pod is None:
        return job_waiting(deployment, events_of(deployment, snapshot)) or "waits for its pod"
    end, restarts = server_end(pod, SERVE, f"serving.models.{model}")
    if end is not None:
        return f"{end.reason}, {restarts} restarts"
    if status_of(pod, SERVE).get("state", {}).get("running"):
        return "loads the model"
    return waiting(pod, events_of(pod, snapshot)) or f"waits {_on_its_way(pod)}"


def _orchestrator(snapshot: Snapshot) -> Orchestrator:
    jobs = [job for job in snapshot.jobs if labels_of(job).get(COMPONENT) == ORCHESTRATOR]
    alive = [job for job in jobs if not job["metadata"].get("deletionTimestamp")]
    job = max(alive, key=created, default=None)
    if job is None:
        return Orchestrator("absent", detail="there is no orchestrator Job; `helm upgrade` makes one")
    pods = pods_of_job(job, snapshot)
    restarts = max(0, len(pods) - 1)
    for found in pods:
        restarts += sum(int(c.get("restartCount", 0)) for c in found["status"].get("containerStatuses") or [])
    seconds = seconds_since(job.get("status", {}).get("startTime"), snapshot)
    state, detail = _with_job(job, pods[-1] if pods else None, None, snapshot, ORCHESTRATOR)
    end = job_end(job, pod_end(pods[-1], ORCHESTRATOR, ORCHESTRATOR) if pods else None, ORCHESTRATOR)
    state = "completed" if state == "complete" else state
    if end is None and state == "failed":
        state = "ending"
    return Orchestrator(state, seconds, restarts, end.code if end else None, detail)


def _notes(plan: Plan, snapshot: Snapshot, stored: Mapping[str, Stored]) -> list[str]:
    """Return what belongs to no row: Jobs of another configuration, and what artifacts note."""
    notes = []
    for job in snapshot.jobs:
        name = instance_of(job)
        if name is None or is_finished(job):
            continue
        digest = labels_of(job).get(DIGEST, "")
        instance = plan.instances.get(name)
        if instance is None or instance.digest not in (digest, UNKNOWN):
            what = f"Job {job['metadata']['name']} of an earlier configuration is still there"
            notes.append(f"{what} ({name} {digest[:8]})")
    for said in stored.values():
        notes += said.manifest.notes if said.manifest else ()
    return list(dict.fromkeys(notes))


def progress_line(event: Mapping[str, Any]) -> str:
    """Return a progress event in words: what, how many of how many, and about how long it takes yet."""
    if not event:
        return ""
    text = f"{event.get('what')} {event.get('done')}/{event.get('total')}"
    left = float(event.get("seconds_left") or 0)
    return f"{text}, about {clock(left)} left" if left > 0 else text


def _age(job: Object, pod: Object | None, state: str, snapshot: Snapshot) -> float | None:
    if state == "running" and pod:
        return seconds_since(status_of(pod, STAGE)["state"]["running"].get("startedAt"), snapshot)
    if state == "waiting":
        return seconds_since((pod or job)["metadata"].get("creationTimestamp"), snapshot)
    begun, ended = moment(job["status"].get("startTime")), None
    for condition in conditions_of(job).values():
        ended = moment(condition.get("lastTransitionTime"))
    return (ended - begun).total_seconds() if begun and ended else None

"""A release and the name of something in it in, the lines of its newest pod's log out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from polaris.errors import ConfigError, InputError, TransientError
from polaris.execute.manifests import COMPONENT, MODEL, RELEASE, SERVE, STAGE, Object
from polaris.execute.reasons import is_finished, waiting
from polaris.release.objects import (
    JOB_NAME,
    UNKNOWN,
    created,
    labels_of,
    newest_job,
    status_of,
)
from polaris.release.open import Release
from polaris.release.view import ORCHESTRATOR

STORE = "store"
SERVICE = "service-"
INDEX = "batch.kubernetes.io/job-completion-index"
"""Annotation: which machine of a training a pod is."""
POLL_S = 2.0


@dataclass(frozen=True)
class Source:
    """What is logged: the component, and for an instance its name, for a server its model."""

    name: str
    component: str
    instance: str = ""
    model: str = ""
    node: int = 0

    @classmethod
    def named(cls, release: Release, name: str, node: int) -> Source:
        """Return what a name means; raise ConfigError if it means nothing."""
        if name in (ORCHESTRATOR, STORE):
            return cls(name, name)
        if name.startswith(SERVICE):
            model = name.removeprefix(SERVICE)
            served = sorted({one for found in release.plan.instances.values() for one in found.services})
            if model not in served:
                raise ConfigError(f"'{name}': this run serves {', '.join(served) or 'no model'}")
            return cls(name, SERVE, model=model)
        return cls(name, STAGE, instance=release.plan.find(name).name, node=node)


def lines(release: Release, source: Source, *, follow: bool, poll_s: float = POLL_S) -> Iterator[str]:
    """Yield the log's lines, with `follow` until what is logged is over, from one pod to the next.

    Raises:
        TransientError: the pod has written nothing yet; says why.
        InputError: there is no pod and no log in the store.

    """
    if follow:
        yield from _followed(release, source, poll_s)
        return
    pod = newest_pod(release, source)
    if pod is None:
        yield from _stored(release, source)
        return
    name, container = pod["metadata"]["name"], _container(pod, source)
    cluster = release.cluster
    text = cluster.log(name, container) or cluster.log(name, container, previous=True)
    if not text and not status_of(pod, container).get("state", {}).get("terminated"):
        raise TransientError(f"{source.name} has written nothing yet: {_waits(release, pod)}; add --follow")
    yield from text.splitlines()


def newest_pod(release: Release, source: Source) -> Object | None:
    """Return the pod whose log is meant, None if there is none."""
    pods = release.cluster.objects("pods", _labels(release, source))
    if source.component in (STAGE, ORCHESTRATOR):
        job = _job(release, source)
        pods = [pod for pod in pods if job and labels_of(pod).get(JOB_NAME) == job["metadata"]["name"]]
    if source.component == STAGE:
        pods = [pod for pod in pods if _index(pod) == source.node]
    return max(pods, key=created, default=None)


def _index(pod: Object) -> int:
    return int((pod["metadata"].get("annotations") or {}).get(INDEX, 0))


def _job(release: Release, source: Source) -> Object | None:
    jobs = release.cluster.objects("jobs", _labels(release, source))
    if source.component == ORCHESTRATOR:
        return max(jobs, key=created, default=None)
    digest = release.plan.instances[source.instance].digest if release.exact else UNKNOWN
    return newest_job(jobs, source.instance, digest)


def _labels(release: Release, source: Source) -> dict[str, str]:
    labels = {RELEASE: release.name, COMPONENT: source.component}
    return labels | ({MODEL: source.model} if source.model else {})


def _container(pod: Object, source: Source) -> str:
    """Return the container's name; a standalone store's is the chart's business, and the first."""
    names = [str(container["name"]) for container in pod["spec"]["containers"]]
    return source.component if source.component in names else names[0]


def _waits(release: Release, pod: Object) -> str:
    uid = pod["metadata"].get("uid")
    events = release.cluster.objects("events", {}, f"involvedObject.uid={uid}")
    return waiting(pod, events) or f"its pod is {str(pod['status'].get('phase')).lower()}"


def _stored(release: Release, source: Source) -> list[str]:
    where = f"namespace '{release.cluster.namespace}'"
    if not source.instance:
        raise InputError(f"{source.name} has no pod in {where} now, and its log went with the last one")
    run = release.with_digests(release.jobs())
    if run is None:
        raise InputError(f"{source.name} has no pod in {where}; {release.trouble}")
    prefix = f"{run.prefix(source.instance)}attempts/"
    keys = [info.key for info in run.store.list(prefix) if info.key.endswith("/log.txt")]
    if not keys:
        raise InputError(f"{source.name} has no pod in {where} and no log in {run.store.url}; has it run?")
    return run.store.get(max(keys)).decode("utf-8", "replace").splitlines()


def _followed(release: Release, source: Source, poll_s: float) -> Iterator[str]:
    """Yield lines as they come; after a broken connection go on behind the last one."""
    shown: dict[str, str] = {}
    empty = True
    while True:
        # Before the log: what ends meanwhile has its last lines in it.
        over = _is_over(release, source)
        pod = newest_pod(release, source)
        if pod is not None:
            for line in _new_lines(release, source, pod, shown):
                empty = False
                yield line
        if over:
            if empty:
                yield from _stored(release, source)
            return
        time.sleep(poll_s)


def _new_lines(release: Release, source: Source, pod: Object, shown: dict[str, str]) -> Iterator[str]:
    name = pod["metadata"]["name"]
    # All lines come again when a connection is made again.
    before = shown.get(name, "")
    for line in release.cluster.follow(name, _container(pod, source)):
        at, _, text = line.partition(" ")
        moment = _sortable(at)
        if moment > before:
            shown[name] = moment
            yield text


def _sortable(at: str) -> str:
    """Return an RFC 3339 time with all nine digits of its second, so that text order is time order."""
    whole, _, part = at.rstrip("Z").partition(".")
    return f"{whole}.{part:0<9}"


def _is_over(release: Release, source: Source) -> bool:
    if source.component in (STAGE, ORCHESTRATOR):
        job = _job(release, source)
        return job is not None and is_finished(job)
    return not release.cluster.objects("pods", _labels(release, source))

"""Logs of a release: whose pod, what where there is none, and following across broken connections."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from fake_cluster import (
    FakeCluster,
    condition,
    job_pod,
    labels,
    orchestrator,
    running,
    server,
    stage_job,
    status,
    terminated,
)

from polaris.errors import ConfigError, InputError, TransientError
from polaris.plan import Plan
from polaris.release.logs import INDEX, Source, lines
from polaris.release.open import Release
from polaris.run import Run

NAME = "judge.writer.quality"


@pytest.fixture
def release(run: Run) -> Iterator[Release]:
    """A release of a run whose reader is served, over a fake cluster and a real `file://` store."""
    instances = dict(run.plan.instances)
    instances[NAME] = replace(instances[NAME], services=("reader",))
    run = replace(run, plan=Plan(instances))
    with ExitStack() as stack:
        cluster = FakeCluster()
        yield Release("tryout", cluster, run.config, run.plan, {}, run.path, stack, run, exact=True)


def fake(release: Release) -> FakeCluster:
    assert isinstance(release.cluster, FakeCluster)
    return release.cluster


def add_job(release: Release, attempt: int = 1, *, over: bool = False, begun: float = 60) -> Any:
    conditions = [condition("Complete")] if over else []
    job = stage_job(release.plan.instances[NAME], attempt, begun=begun, conditions=conditions)
    pod = job_pod(job, "Succeeded" if over else "Running", terminated(0) if over else running())
    fake(release).add("jobs", job)
    fake(release).add("pods", pod)
    return pod


def read(release: Release, name: str, *, node: int = 0, follow: bool = False) -> list[str]:
    return list(lines(release, Source.named(release, name, node), follow=follow, poll_s=0))


def test_the_newest_jobs_pod_is_read(release: Release) -> None:
    fake(release).logs = {
        add_job(release, 1, over=True, begun=600)["metadata"]["name"]: "old",
        add_job(release, 2)["metadata"]["name"]: "a\nb",
    }
    assert read(release, NAME) == ["a", "b"]


def test_of_several_machines_one_is_read(release: Release) -> None:
    first, second = add_job(release), add_job(release)
    second["metadata"] |= {"name": "second", "annotations": {INDEX: "1"}}
    fake(release).logs = {first["metadata"]["name"]: "zero", "second": "one"}
    assert read(release, NAME) == ["zero"]
    assert read(release, NAME, node=1) == ["one"]


def test_the_orchestrator_servers_and_the_store_have_logs_too(release: Release) -> None:
    job = orchestrator()
    pod = job_pod(job, "Running", running(name="orchestrator"), container="orchestrator")
    deployment, serving = server("reader", ready=True)
    store = {"metadata": {"name": "s", "labels": labels("store")}, "spec": {"containers": [{"name": "weed"}]}}
    fake(release).add("jobs", job)
    fake(release).add("pods", pod, serving, store)
    fake(release).logs = {pod["metadata"]["name"]: "o", serving["metadata"]["name"]: "r", "s": "w"}
    assert (read(release, "orchestrator"), read(release, "store")) == (["o"], ["w"])
    assert read(release, "service-reader") == ["r"]
    with pytest.raises(ConfigError, match="this run serves reader"):
        read(release, "service-nobody")
    with pytest.raises(ConfigError, match=f"did you mean '{NAME}'"):
        read(release, "judge.writer.qualty")


def test_a_server_that_died_shows_what_it_said_before(release: Release) -> None:
    _, pod = server("reader", ready=False)
    fake(release).add("pods", pod)
    fake(release).logs = {f"{pod['metadata']['name']} before": "CUDA out of memory"}
    assert read(release, "service-reader") == ["CUDA out of memory"]


def test_a_pod_that_waits_says_for_what(release: Release) -> None:
    pod = add_job(release)
    waiting = [status(waiting={"reason": "ImagePullBackOff"})]
    pod["status"] = {"phase": "Pending", "containerStatuses": waiting}
    with pytest.raises(TransientError, match=f"{NAME} has written nothing yet: ImagePullBackOff: image"):
        read(release, NAME)


def test_pods_that_are_gone_left_their_logs_in_the_store(release: Release) -> None:
    with pytest.raises(InputError, match="no pod in namespace 'stories' and no log in file://"):
        read(release, NAME)
    assert release.run is not None
    for attempt, text in (("1", b"old"), ("2", b"a\nb\n")):
        release.run.store.put(f"{release.run.prefix(NAME)}attempts/{attempt}/log.txt", text)
    assert read(release, NAME) == ["a", "b"]
    with pytest.raises(InputError, match="its log went with the last one"):
        read(release, "service-reader")


def test_following_goes_on_where_a_connection_broke(release: Release) -> None:
    pod = add_job(release)
    times = [f"2026-01-01T00:00:0{n}" for n in range(3)]
    one, two, three = f"{times[0]}.5Z one", f"{times[0]}.51Z two", f"{times[2]}Z three"
    fake(release).streams = {pod["metadata"]["name"]: [[one], [one, two], [one, two, three]]}
    found = lines(release, Source.named(release, NAME, 0), follow=True, poll_s=0)
    assert [next(found), next(found), next(found)] == ["one", "two", "three"]
    fake(release).things["jobs"][0]["status"]["conditions"] = [condition("Complete")]
    assert list(found) == []


def test_following_what_is_over_and_gone_prints_the_stored_log(release: Release) -> None:
    assert release.run is not None
    release.run.store.put(f"{release.run.prefix(NAME)}attempts/1/log.txt", b"kept\n")
    pod = add_job(release, over=True)
    fake(release).things["pods"].remove(pod)
    assert read(release, NAME, follow=True) == ["kept"]

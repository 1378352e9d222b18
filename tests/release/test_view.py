"""What a release's objects and its store's word are shown as."""

from __future__ import annotations

from typing import Any

import pytest
from fake_cluster import (
    NOW,
    ago,
    condition,
    job_pod,
    orchestrator,
    running,
    server,
    stage_job,
    status,
    terminated,
)

from polaris.artifact import Manifest
from polaris.plan import Instance, Plan
from polaris.release.objects import UNKNOWN, Snapshot, clock
from polaris.release.view import Row, Stored, View, view

TRAIN = Instance("train", "train", {}, ("data",), (), {}, "aaaaaaaaaaaaaaaa")
DATA = Instance("data", "data", {}, (), (), {}, "dddddddddddddddd")
JUDGE = Instance("judge.m.q", "judge", {}, ("train",), ("reader",), {}, "bbbbbbbbbbbbbbbb")
PLAN = Plan({one.name: one for one in (DATA, TRAIN, JUDGE)})
NOTHING = {name: Stored() for name in PLAN.instances}


def manifest(instance: Instance, **more: Any) -> Manifest:
    times = {"started": ago(100), "finished": ago(50), "seconds": 50.0}
    empty: dict[str, Any] = {"identity": {}, "config": {}, "upstream": {}, "versions": {}, "objects": ()}
    named = {"run": "r", "instance": instance.name, "kind": instance.kind, "digest": instance.digest}
    return Manifest(**named, attempt="1", **empty, **times, **more)  # type: ignore[arg-type]


def seen(*things: Any, stored: dict[str, Stored] | None = None, plan: Plan = PLAN, **more: Any) -> View:
    kinds: dict[str, list[Any]] = {"jobs": [], "pods": [], "deployments": []}
    for thing in things:
        is_pod = "containers" in thing["spec"]
        is_job = "job-name" not in str(thing["metadata"]) and "serve" not in thing["metadata"]["name"]
        kinds["pods" if is_pod else "jobs" if is_job else "deployments"].append(thing)
    return view(plan, Snapshot(NOW, **kinds, **more), NOTHING if stored is None else stored)


def row(found: View, name: str = "train") -> Row:
    return next(one for one in found.rows if one.instance == name)


def test_the_store_says_what_is_complete() -> None:
    counts, cost = {"steps": 6.0}, {"usd": 1.25}
    stored = NOTHING | {"train": Stored(manifest(TRAIN, counts=counts, cost=cost, notes=("small judge",)))}
    job = stage_job(TRAIN, 3, conditions=[condition("Complete")])
    found = seen(job, job_pod(job, "Succeeded", terminated(0, "Completed")), stored=stored)
    shown = row(found)
    assert (shown.state, shown.seconds, shown.usd, shown.attempt) == ("complete", 50.0, 1.25, 3)
    assert (shown.counts, shown.pod, shown.node) == (counts, "test-train-aaaaaaaa-3-x1y2z", "node-1")
    assert found.notes == ["small judge"]


def test_a_running_stage_tells_how_far_it_is() -> None:
    job = stage_job(TRAIN, 2)
    pod = job_pod(job, "Running", running(90))
    event = {"event": "progress", "what": "optimiser steps", "done": 3, "total": 173, "seconds_left": 2400}
    event["usd"] = 0.5
    shown = row(seen(job, pod, progress={pod["metadata"]["name"]: event}))
    assert (shown.state, shown.seconds, shown.attempt, shown.usd) == ("running", 90.0, 2, 0.5)
    assert shown.detail == "optimiser steps 3/173, about 40 min left"


PENDING = {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}
FULL = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
SECRET = "couldn't find key OPENAI_API_KEY in Secret stories/polaris-credentials"


@pytest.mark.parametrize(
    ("pod", "told"),
    [
        (
            ("Pending", [], {"conditions": [{**PENDING["conditions"][0], "message": FULL}]}),
            "FailedScheduling: no node has enough nvidia.com/gpu free (4 asked for)",
        ),
        (
            ("Pending", [status(waiting={"reason": "ImagePullBackOff", "message": "Back-off"})], {}),
            "image 'registry.example/polaris/tools:1'",
        ),
        (
            ("Pending", [status(waiting={"reason": "CreateContainerConfigError", "message": SECRET})], {}),
            "OPENAI_API_KEY in Secret stories/polaris-credentials",
        ),
        (("Pending", [status(waiting={"reason": "ContainerCreating"})], {}), "for its containers to start"),
        (
            ("Pending", [], {"initContainerStatuses": [{**running(name="needs"), "started": False}]}),
            "for its init container 'needs'",
        ),
        (("Failed", [terminated(75)], {}), "for another pod; the last one: exit code 75"),
    ],
)
def test_what_waits_says_for_what(pod: tuple[str, list[Any], dict[str, Any]], told: str) -> None:
    job = stage_job(TRAIN)
    shown = row(seen(job, job_pod(job, pod[0], *pod[1], gpus=4, **pod[2])))
    assert shown.state == "waiting"
    assert told in shown.detail
    assert "\n" not in shown.detail


def test_a_job_without_a_pod_says_why() -> None:
    job = stage_job(TRAIN)
    event = {"type": "Warning", "reason": "FailedCreate", "message": "pods are forbidden:\n exceeded quota"}
    event["involvedObject"] = {"uid": job["metadata"]["uid"]}
    assert row(seen(job)).detail == "for its pod"
    assert row(seen(job, events=[event])).detail == "FailedCreate: pods are forbidden: exceeded quota"
    held = stage_job(TRAIN, conditions=[condition("Suspended")])
    assert "queue" in row(seen(held)).detail


def failed(code: int, reason: str = "Error", why: str = "BackoffLimitExceeded") -> list[Any]:
    job = stage_job(TRAIN, conditions=[condition("Failed", why, "it failed")])
    return [job, job_pod(job, "Failed", terminated(code, reason))]


def test_a_failed_stage_gives_its_own_reason_before_its_code() -> None:
    assert "exit code 3 (missing or corrupt input)" in row(seen(*failed(3))).detail
    said = {"state": "failed", "code": 3, "reason": "pairs.jsonl does not match its sha256"}
    shown = row(seen(*failed(3), stored=NOTHING | {"train": Stored(None, said)}))
    assert (shown.state, shown.seconds) == ("failed", 50.0)
    assert shown.detail.startswith("pairs.jsonl does not match its sha256 (exit code 3: missing")
    # A status of an earlier attempt explains no kill.
    shown = row(seen(*failed(137, "OOMKilled"), stored=NOTHING | {"train": Stored(None, said)}))
    assert "memory limit of 64Mi" in shown.detail


def test_a_job_that_ended_well_without_a_manifest_has_failed() -> None:
    job = stage_job(TRAIN, conditions=[condition("Complete")])
    assert row(seen(job)).state == "failed"
    assert row(seen(job)).detail == "its Job ended well without a manifest"
    assert row(seen(job, stored={})).state == "complete", "the store could not be asked"
    assert row(seen(stored={})).state == "unknown"


def test_without_a_job_the_store_knows_how_it_ended() -> None:
    assert row(seen()).state == "pending"
    over = {"state": "failed", "code": 4, "reason": "spent"}
    assert row(seen(stored=NOTHING | {"train": Stored(None, over)})).detail.startswith("spent (exit code 4")
    cut = NOTHING | {"train": Stored(None, {"state": "running"})}
    assert row(seen(stored=cut)).state == "interrupted"
    by_hand = stage_job(TRAIN)
    by_hand["metadata"] |= {"name": "polaris-train", "annotations": {}}
    shown = row(seen(by_hand, stored=cut))
    assert (shown.state, shown.detail) == ("running", "in Job polaris-train")
    by_hand["status"]["conditions"] = [condition("Failed")]
    assert row(seen(by_hand, stored=cut)).state == "interrupted"


def test_a_job_of_another_digest_is_a_note() -> None:
    job = stage_job(TRAIN, digest="9999999999999999")
    found = seen(job, job_pod(job, "Running", running()))
    assert row(found).state == "pending"
    assert found.notes == [
        "Job test-train-99999999-1 of an earlier configuration is still there (train 99999999)"
    ]
    unknown = Plan({"train": Instance("train", "train", {}, (), (), {}, UNKNOWN)})
    found = seen(job, job_pod(job, "Running", running()), plan=unknown)
    assert (row(found).state, row(found).digest, found.notes) == ("running", "9999999999999999", [])


def test_the_newest_attempt_counts() -> None:
    old = stage_job(TRAIN, 9, begun=600, conditions=[condition("Failed", "BackoffLimitExceeded")])
    new = stage_job(TRAIN, 10, begun=60)
    shown = row(seen(old, new, job_pod(new, "Running", running(5))))
    assert (shown.state, shown.attempt) == ("running", 10)


def test_of_several_machines_the_one_in_trouble_is_shown() -> None:
    job = stage_job(TRAIN)
    first = job_pod(job, "Running", running())
    second = job_pod(job, "Pending", status(waiting={"reason": "ImagePullBackOff"}))
    second["metadata"]["name"] = "second"
    shown = row(seen(job, first, second))
    assert (shown.state, shown.pod) == ("waiting", "second")


def test_servers_and_those_who_wait_for_them() -> None:
    complete = {"data": Stored(manifest(DATA)), "train": Stored(manifest(TRAIN))}
    deployment, pod = server("reader", ready=False)
    found = seen(deployment, pod, stored=NOTHING | complete)
    assert [(one.model, one.state, one.seconds, one.detail) for one in found.services] == [
        ("reader", "starting", 40.0, "loads the model")
    ]
    assert row(found, "judge.m.q").detail == "waits for model reader"
    deployment, pod = server("reader", ready=True)
    found = seen(deployment, pod, stored=NOTHING | complete)
    assert [(one.state, one.seconds, one.node) for one in found.services] == [("ready", 25.0, "node-2")]
    assert row(found, "judge.m.q").detail == ""
    deployment["metadata"]["deletionTimestamp"] = ago(3)
    assert [(one.state, one.seconds) for one in seen(deployment, pod).services] == [("stopping", 3.0)]


def test_the_orchestrator_and_when_the_run_is_over() -> None:
    assert seen().orchestrator.state == "absent"
    assert not seen().over
    job = orchestrator()
    dead = job_pod(job, "Failed", terminated(137, name="orchestrator"), container="orchestrator")
    dead["metadata"] |= {"name": "dead", "creationTimestamp": ago(300)}
    pod = job_pod(job, "Running", running(20, "orchestrator"), container="orchestrator")
    found = seen(job, dead, pod)
    assert (found.orchestrator.state, found.orchestrator.restarts, found.over) == ("running", 1, False)
    found = seen(orchestrator(condition("Complete")))
    assert (found.orchestrator.state, found.over, found.code) == ("completed", True, 0)
    job = orchestrator(
        condition("Failed", "PodFailurePolicy", "Container orchestrator failed with exit code 4")
    )
    found = seen(job, job_pod(job, "Failed", terminated(4, name="orchestrator"), container="orchestrator"))
    assert (found.orchestrator.state, found.over, found.code) == ("failed", True, 4)
    assert "budget spent" in found.orchestrator.detail
    assert not seen(orchestrator(condition("FailureTarget"))).over, "its pods still end"


def test_an_instance_on_demand_is_no_pending_one() -> None:
    asked = Instance("report.length", "report", {}, (), (), {}, "eeeeeeeeeeeeeeee", True)
    plan = Plan({asked.name: asked})
    assert row(seen(plan=plan, stored={asked.name: Stored()}), asked.name).state == "on demand"
    job = stage_job(asked)
    assert row(seen(job, plan=plan, stored={asked.name: Stored()}), asked.name).state == "waiting"


@pytest.mark.parametrize(("seconds", "told"), [(3, "3 s"), (99, "99 s"), (600, "10 min"), (7200, "2.0 h")])
def test_times_are_told_in_a_persons_units(seconds: float, told: str) -> None:
    assert clock(seconds) == told

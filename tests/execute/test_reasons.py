"""What the API says of a pod or a Job in, one line that a person can act on out, by table."""

from __future__ import annotations

from typing import Any

import pytest

from polaris.execute.reasons import End, job_end, job_waiting, pod_end, server_end, waiting, was_available

Object = dict[str, Any]


def terminated(code: int, reason: str = "Error") -> Object:
    return {"terminated": {"exitCode": code, "reason": reason}}


def pod(phase: str, *, state: Object | None = None, last: Object | None = None, **status: Any) -> Object:
    limits = {"memory": "4Gi", "nvidia.com/gpu": "8"}
    containers = [{"name": "stage", "resources": {"limits": limits}}]
    found: Object = {"phase": phase, **status}
    if state or last:
        main = {
            "name": "stage",
            "image": "tools:1",
            "restartCount": 2,
            "state": state or {},
            "lastState": last or {},
        }
        found["containerStatuses"] = [main]
    return {"spec": {"containers": containers, "initContainers": [{"name": "fetch"}]}, "status": found}


def condition(kind: str, reason: str = "", message: str = "", status: str = "True") -> Object:
    return {"type": kind, "status": status, "reason": reason, "message": message}


OOM = (
    "OOMKilled: container 'stage' reached its memory limit of 4Gi; raise stages.train.resources.limits.memory"
)
OOM += " (now 4Gi)"


@pytest.mark.parametrize(
    ("found", "end"),
    [
        (pod("Running", state={"running": {}}), None),
        (pod("Pending"), None),
        (pod("Succeeded", state=terminated(0)), End(0, "")),
        (pod("Running", state=terminated(0)), End(0, "")),
        (pod("Failed", state=terminated(3)), End(3, "exit code 3 (missing or corrupt input)")),
        (pod("Failed", state=terminated(137)), End(137, "exit code 137 (killed by signal 9)")),
        (pod("Failed", state=terminated(7)), End(7, "exit code 7")),
        (pod("Failed", state=terminated(137, "OOMKilled")), End(2, OOM, at_once=True)),
        (pod("Running", state={"running": {}}, last=terminated(137, "OOMKilled")), End(2, OOM, at_once=True)),
        (
            pod("Failed", initContainerStatuses=[{"name": "fetch", "state": terminated(3)}]),
            End(3, "init container 'fetch' failed: exit code 3 (missing or corrupt input)"),
        ),
        (
            pod("Failed", initContainerStatuses=[{"name": "fetch", "state": terminated(137, "OOMKilled")}]),
            End(
                2,
                "OOMKilled: container 'fetch' has no memory limit and its node ran out of memory;"
                " raise stages.train.resources.limits.memory (now none)",
                at_once=True,
            ),
        ),
        (
            pod("Failed", reason="Evicted", message="The node was low on resource: ephemeral-storage."),
            End(143, "Evicted: The node was low on resource: ephemeral-storage."),
        ),
        (
            pod(
                "Failed",
                state=terminated(143),
                conditions=[condition("DisruptionTarget", "PreemptionByScheduler", "preempted by a pod")],
            ),
            End(143, "PreemptionByScheduler: preempted by a pod"),
        ),
    ],
)
def test_how_a_pod_ended(found: Object, end: End | None) -> None:
    assert pod_end(found, "stage", "stages.train") == end


def job(*conditions: Object, failed: int = 3) -> Object:
    return {
        "spec": {"activeDeadlineSeconds": 600},
        "status": {"failed": failed, "conditions": list(conditions)},
    }


TORN = End(3, "the book is torn")
POLICY = "Container stage for pod ns/p failed with exit code 4 matching FailJob rule at index 1"


@pytest.mark.parametrize(
    ("found", "last", "end"),
    [
        (job(), None, None),
        (job(condition("Failed", status="False")), None, None),
        (job(condition("SuccessCriteriaMet")), None, None),
        (job(condition("FailureTarget", "BackoffLimitExceeded")), TORN, None),
        (job(condition("Complete")), None, End(0, "")),
        (
            job(condition("Failed", "PodFailurePolicy", POLICY.replace("4", "3"))),
            TORN,
            End(3, "PodFailurePolicy: the book is torn"),
        ),
        (
            job(condition("Failed", "PodFailurePolicy", POLICY)),
            None,
            End(4, "PodFailurePolicy: exit code 4 (budget spent: raise it and run again)"),
        ),
        (
            job(condition("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")),
            End(75, "the store is down"),
            End(75, "BackoffLimitExceeded: 3 of its pods failed, the last: the store is down"),
        ),
        (
            job(condition("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")),
            None,
            End(
                1,
                "BackoffLimitExceeded: 3 of its pods failed, the last:"
                " Job has reached the specified backoff limit",
            ),
        ),
        (
            job(condition("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")),
            End(143, "stopped by signal 15; progress is saved"),
            End(
                143,
                "DeadlineExceeded: it took longer than its 600 s; raise stages.train.activeDeadlineSeconds;"
                " progress is saved",
            ),
        ),
        (
            job(condition("Failed", "BackoffLimitExceeded")),
            End(2, OOM, at_once=True),
            End(2, OOM, at_once=True),
        ),
    ],
)
def test_how_a_job_ended(found: Object, last: End | None, end: End | None) -> None:
    assert job_end(found, last, "stages.train") == end


UNSCHEDULED = condition(
    "PodScheduled",
    "Unschedulable",
    "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) had untolerated taint {spot: yes}."
    " preemption: 0/2 nodes are available: 1 No preemption victims found",
    status="False",
)


def waits(reason: str, message: str = "", last: Object | None = None) -> Object:
    return pod("Pending", state={"waiting": {"reason": reason, "message": message}}, last=last)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            pod("Pending", conditions=[UNSCHEDULED]),
            "FailedScheduling: no node has enough nvidia.com/gpu free (8 asked for); taint {spot: yes} is not"
            " tolerated [0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) had untolerated"
            " taint {spot: yes}]",
        ),
        (
            pod(
                "Pending",
                conditions=[UNSCHEDULED | {"message": "0/1 nodes are available: 1 Insufficient memory."}],
            ),
            "FailedScheduling: no node has enough memory free (4Gi asked for)"
            " [0/1 nodes are available: 1 Insufficient memory]",
        ),
        (
            pod("Pending", conditions=[UNSCHEDULED | {"reason": "SchedulingGated"}]),
            "SchedulingGated: it waits for its queue to admit it",
        ),
        (
            waits("ImagePullBackOff", 'Back-off pulling image "tools:1"'),
            "ImagePullBackOff: image 'tools:1' of 'stage' cannot be pulled;"
            " check images.* and images.pullSecrets",
        ),
        (
            waits("ErrImagePull", "no such host"),
            "ErrImagePull: image 'tools:1' of 'stage' cannot be pulled;"
            " check images.* and images.pullSecrets: no such host",
        ),
        (
            waits(
                "CreateContainerConfigError",
                "couldn't find key OPENAI_API_KEY in Secret ns/polaris-credentials",
            ),
            "CreateContainerConfigError: 'stage' cannot start: couldn't find key OPENAI_API_KEY in Secret"
            " ns/polaris-credentials; check credentials.existingSecret and extraEnv",
        ),
        (
            waits("CrashLoopBackOff", "back-off 10s", terminated(1)),
            "CrashLoopBackOff: 'stage' ended with exit code 1 (a bug: the traceback is in the log),"
            " 2 restarts",
        ),
        (waits("ContainerCreating"), ""),
        (pod("Running", state={"running": {}}), ""),
        (pod("Failed", state=terminated(1)), ""),
    ],
)
def test_why_a_pod_waits(found: Object, said: str) -> None:
    assert waiting(found) == said


def test_a_pod_that_waits_for_a_volume_is_explained_by_its_events() -> None:
    events = [
        {"type": "Normal", "reason": "Pulled", "message": "x", "lastTimestamp": "2026-01-01T00:00:09Z"},
        {
            "type": "Warning",
            "reason": "FailedMount",
            "message": 'configmap "polaris-config" not found',
            "lastTimestamp": "2026-01-01T00:00:05Z",
        },
        {
            "type": "Warning",
            "reason": "FailedScheduling",
            "message": "0/1",
            "lastTimestamp": "2026-01-01T00:00:07Z",
        },
    ]
    assert waiting(waits("ContainerCreating"), events) == 'FailedMount: configmap "polaris-config" not found'
    assert job_waiting(job(), events[:2]) == 'FailedMount: configmap "polaris-config" not found'
    assert job_waiting(job(condition("Suspended"))) == "Suspended: it waits for its queue to admit it"


@pytest.mark.parametrize(
    ("found", "end", "restarts"),
    [
        (pod("Running", state={"running": {}}), None, 0),
        (
            pod("Running", state={"waiting": {"reason": "CrashLoopBackOff"}}, last=terminated(3)),
            End(3, "it ended with exit code 3 (missing or corrupt input)", at_once=True),
            2,
        ),
        (
            pod("Running", state={"running": {}}, last=terminated(1)),
            End(1, "it ended with exit code 1 (a bug: the traceback is in the log)"),
            2,
        ),
        (
            pod("Running", state={"running": {}}, last=terminated(137, "OOMKilled")),
            End(2, OOM, at_once=True),
            2,
        ),
    ],
)
def test_how_a_server_last_ended(found: Object, end: End | None, restarts: int) -> None:
    assert server_end(found, "stage", "stages.train") == (end, restarts)


def test_a_server_was_available_once_its_rollout_was_complete() -> None:
    assert not was_available({"status": {}})
    assert not was_available(
        job(condition("Progressing", "ReplicaSetUpdated"), condition("Available", status="False"))
    )
    assert was_available(
        job(condition("Progressing", "NewReplicaSetAvailable"), condition("Available", status="False"))
    )

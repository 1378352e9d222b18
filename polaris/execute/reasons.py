"""A pod's or Job's JSON and its events in, why it waits or how it ended in one line out. All pure.

`setting` is where the chart's values hold what the reader can change, for instance `stages.train`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from polaris.errors import BAD_CONFIG, BUG, FINAL, MEANING, TERMINATED

Object = Mapping[str, Any]

OOM = "OOMKilled"
_INSUFFICIENT = re.compile(r"Insufficient ([A-Za-z0-9./-]*[A-Za-z0-9])")
_TAINT = re.compile(r"untolerated taint\(?s?\)? ?\{([^}]*)\}")
_PREEMPTION = re.compile(r"\. (?:no new claims to deallocate|preemption: )")
_POLICY_CODE = re.compile(r"failed with exit code (\d+)")
_IMAGE_WAITS = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
_IMAGE_WAITS |= {"ImageInspectError", "RegistryUnavailable"}
_LENGTH = 300


@dataclass(frozen=True)
class End:
    """How a pod or a Job ended: its exit code and one line; `at_once`: another pod would end the same way."""

    code: int
    reason: str
    at_once: bool = False


# Ends


def pod_end(pod: Object, container: str, setting: str) -> End | None:
    """Return how a pod ended, None while it goes on."""
    status = pod.get("status") or {}
    if killed := _out_of_memory(pod, setting):
        return killed
    phase = status.get("phase")
    main = _terminated(status.get("containerStatuses"), container)
    if phase == "Succeeded" or (main and main.get("exitCode") == 0 and phase != "Failed"):
        return End(0, "")
    if phase != "Failed" and not main:
        return None
    if disrupted := disruption(pod):
        return End(int((main or {}).get("exitCode") or TERMINATED), disrupted)
    if main:
        return End(int(main["exitCode"]), _code_said(int(main["exitCode"])))
    if init := failed_init(pod):
        ended = _terminated(status.get("initContainerStatuses"), init) or {}
        code = int(ended["exitCode"])
        return End(code, f"init container '{init}' failed: {_code_said(code)}")
    message = f"{status.get('reason') or 'Failed'}: {status.get('message') or 'its pod failed'}"
    return End(TERMINATED, _line(message))


def job_end(job: Object, last: End | None, setting: str) -> End | None:
    """Return how a Job ended by its conditions, None while it is live; `last` is how its last pod ended."""
    condition = _finished(job)
    if condition is None:
        return None
    if condition["type"] == "Complete":
        return End(0, "")
    why, message = str(condition.get("reason") or "Failed"), str(condition.get("message") or "")
    if last and last.at_once:
        return last
    if why == "DeadlineExceeded":
        limit = (job.get("spec") or {}).get("activeDeadlineSeconds")
        value = f"{setting}.activeDeadlineSeconds"
        saved = "; progress is saved" if last else ""
        return End(TERMINATED, f"DeadlineExceeded: it took longer than its {limit} s; raise {value}{saved}")
    found = _POLICY_CODE.search(message) if why == "PodFailurePolicy" else None
    code = int(found[1]) if found else last.code if last and last.code else BUG
    said = last.reason if last and last.reason and code == last.code else _code_said(code)
    if why == "PodFailurePolicy":
        return End(code, f"PodFailurePolicy: {said}")
    tries = (job.get("status") or {}).get("failed")
    count = f"{tries} of its pods failed, the last: " if why == "BackoffLimitExceeded" and tries else ""
    return End(code, f"{why}: {count}{said if last or found else message or said}")


def disruption(pod: Object) -> str:
    """Return why the cluster took a pod away (eviction, preemption, a lost node), '' if it did not."""
    condition = _condition(pod, "DisruptionTarget")
    if condition is None or condition.get("status") != "True":
        return ""
    return _line(f"{condition.get('reason') or 'DisruptionTarget'}: {condition.get('message') or ''}")


def server_end(pod: Object, container: str, setting: str) -> tuple[End | None, int]:
    """Return how a server last ended, None if it never did, and how often it was started again."""
    if killed := _out_of_memory(pod, setting):
        return killed, _restarts(pod, container)
    for status in _statuses(pod):
        ended = _last_terminated(status)
        main = status["name"] == container
        if ended and (ended.get("exitCode") or main):
            code = int(ended.get("exitCode") or 0)
            what = "it" if main else f"container '{status['name']}'"
            at_once = code in FINAL
            return End(code, f"{what} ended with {_code_said(code)}", at_once), int(status["restartCount"])
    return None, 0


def silent_since(deployment: Object, pod: Object, container: str) -> str:
    """Return since when a server that should answer has not, '' for one that answers or cannot yet.

    That is when its container's present start began or when it was last available, whichever is later:
    the wait for a node or an image is nobody's fault. One that ends at every start runs hardly ever, so
    once it has answered its pod's time counts.
    """
    if is_true(deployment, "Available"):
        return ""
    started = max(
        (
            str(running.get("startedAt") or "")
            for status in _statuses(pod)
            if status["name"] == container and (running := (status.get("state") or {}).get("running"))
        ),
        default="",
    )
    if not started and _restarts(pod, container) and was_available(deployment):
        started = str((pod.get("status") or {}).get("startTime") or "")
    lost = _condition(deployment, "Available") or {}
    return started and max(started, str(lost.get("lastTransitionTime") or ""))


# Waits


def waiting(pod: Object, events: Iterable[Object] = ()) -> str:
    """Return why a pod does not run yet, '' if it runs, has ended or is on its way."""
    status = pod.get("status") or {}
    if status.get("phase") in ("Succeeded", "Failed"):
        return ""
    scheduled = _condition(pod, "PodScheduled")
    if scheduled and scheduled.get("status") == "False":
        if scheduled.get("reason") == "SchedulingGated":
            return "SchedulingGated: it waits for its queue to admit it"
        return unschedulable(str(scheduled.get("message") or ""), pod)
    for found in _statuses(pod):
        wait = (found.get("state") or {}).get("waiting")
        if wait and wait.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return _container_waits(found, wait)
    if any((found.get("state") or {}).get("running") for found in _statuses(pod)):
        return ""
    # It has a node by now, and its containers' states tell of images better than events do.
    told = ("FailedScheduling", "Failed", "BackOff")
    return newest_warning(event for event in events if event.get("reason") not in told)


def job_waiting(job: Object, events: Iterable[Object] = ()) -> str:
    """Return why a live Job has no pod: suspended by its queue, or refused by the API server."""
    suspended = _condition(job, "Suspended")
    if suspended and suspended.get("status") == "True":
        return "Suspended: it waits for its queue to admit it"
    return newest_warning(events)


def deployment_waiting(deployment: Object) -> str:
    """Return why a Deployment has no pod, a quota for instance, '' if nothing refuses it one."""
    refused = _condition(deployment, "ReplicaFailure") or {}
    if refused.get("status") != "True":
        return ""
    return _line(f"{refused.get('reason') or 'ReplicaFailure'}: {refused.get('message') or ''}")


def unschedulable(message: str, pod: Object) -> str:
    """Return what the scheduler's message means: which resource is short, which taint is in the way."""
    short = list(dict.fromkeys(_INSUFFICIENT.findall(message)))
    said = [f"no node has enough {name} free ({asked(pod, name)} asked for)" for name in short]
    said += [f"taint {{{taint}}} is not tolerated" for taint in dict.fromkeys(_TAINT.findall(message))]
    nodes = _PREEMPTION.split(message)[0].rstrip(".")
    told = f"{'; '.join(said)} [{nodes}]" if said else nodes or "no node fits"
    return _line(f"FailedScheduling: {told}")


def asked(pod: Object, resource: str) -> str:
    """Return how much of a resource a pod's containers ask for, as they write it, summed with `+`."""
    found = []
    for container in (pod.get("spec") or {}).get("containers") or []:
        resources = container.get("resources") or {}
        value = (resources.get("requests") or {}).get(resource) or (resources.get("limits") or {}).get(
            resource
        )
        found += [str(value)] if value else []
    return " + ".join(found) or "none"


def newest_warning(events: Iterable[Object]) -> str:
    """Return the newest warning among events, '' if there is none."""
    found = [event for event in events if event.get("type") == "Warning"]
    if not found:
        return ""
    newest = max(found, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
    return _line(f"{newest.get('reason')}: {newest.get('message')}")


def _container_waits(status: Object, wait: Object) -> str:
    name, why, message = status["name"], str(wait["reason"]), str(wait.get("message") or "")
    if why in _IMAGE_WAITS:
        told = f": {message}" if message and why != "ImagePullBackOff" else ""
        return _line(
            f"{why}: image '{status.get('image')}' of '{name}' cannot be pulled;"
            f" check images.* and images.pullSecrets{told}"
        )
    if why == "CrashLoopBackOff":
        ended = _last_terminated(status) or {}
        code = int(ended.get("exitCode") or 0)
        return (
            f"CrashLoopBackOff: '{name}' ended with {_code_said(code)}, {status.get('restartCount')} restarts"
        )
    if why == "CreateContainerConfigError":
        return _line(
            f"{why}: '{name}' cannot start: {message}; check credentials.existingSecret and extraEnv"
        )
    return _line(f"{why}: '{name}': {message}")


# Parts of the JSON


def is_finished(job: Object) -> bool:
    """Tell by its conditions whether a Job is complete or failed; pods that still end do not count."""
    return _finished(job) is not None


def _finished(job: Object) -> Object | None:
    for name in ("Complete", "Failed"):
        condition = _condition(job, name)
        if condition and condition.get("status") == "True":
            return condition
    return None


def _condition(found: Object, name: str) -> Object | None:
    for condition in (found.get("status") or {}).get("conditions") or []:
        if condition.get("type") == name:
            return dict(condition)
    return None


def is_true(found: Object, name: str) -> bool:
    """Tell whether a condition is there and True."""
    condition = _condition(found, name)
    return condition is not None and condition.get("status") == "True"


def is_running(pod: Object, container: str) -> bool:
    """Tell whether a container runs at the moment."""
    return any(s["name"] == container and (s.get("state") or {}).get("running") for s in _statuses(pod))


def was_available(deployment: Object) -> bool:
    """Tell whether a Deployment's pods were ever all up: its progress is complete from then on."""
    condition = _condition(deployment, "Progressing")
    return is_true(deployment, "Available") or (
        condition is not None and condition.get("reason") == "NewReplicaSetAvailable"
    )


def failed_init(pod: Object) -> str:
    """Return the name of the init container that failed, '' if none did."""
    for status in (pod.get("status") or {}).get("initContainerStatuses") or []:
        ended = (status.get("state") or {}).get("terminated")
        if ended and ended.get("exitCode"):
            return str(status["name"])
    return ""


def _statuses(pod: Object) -> list[Object]:
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def _restarts(pod: Object, container: str) -> int:
    return max((int(s.get("restartCount") or 0) for s in _statuses(pod) if s["name"] == container), default=0)


def _terminated(statuses: Iterable[Object] | None, container: str) -> Object | None:
    for status in statuses or []:
        if status["name"] == container:
            ended = (status.get("state") or {}).get("terminated")
            return dict(ended) if ended else None
    return None


def _last_terminated(status: Object) -> Object | None:
    for state in ("state", "lastState"):
        ended = (status.get(state) or {}).get("terminated")
        if ended:
            return dict(ended)
    return None


def _out_of_memory(pod: Object, setting: str) -> End | None:
    """Return the end of a pod one of whose containers reached its memory limit; no retry mends that."""
    spec = pod.get("spec") or {}
    limits = {
        entry["name"]: ((entry.get("resources") or {}).get("limits") or {}).get("memory")
        for entry in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]
    }
    for status in _statuses(pod):
        ended = _last_terminated(status)
        if ended and ended.get("reason") == OOM:
            limit, name = limits.get(status["name"]), status["name"]
            if limit:
                why = f"container '{name}' reached its memory limit of {limit}"
            else:
                why = f"container '{name}' has no memory limit and its node ran out of memory"
            value = f"{setting}.resources.limits.memory"
            return End(BAD_CONFIG, f"{OOM}: {why}; raise {value} (now {limit or 'none'})", at_once=True)
    return None


def _code_said(code: int) -> str:
    if code in MEANING:
        return f"exit code {code} ({MEANING[code]})"
    return f"exit code {code}" + (f" (killed by signal {code - 128})" if code > 128 else "")


def _line(text: str) -> str:
    whole = " ".join(text.split()).rstrip(": ")
    return whole if len(whole) <= _LENGTH else f"{whole[: _LENGTH - 1]}…"

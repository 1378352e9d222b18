"""A FAKE cluster: a namespace's objects as a list, with faults on demand. No test of it tells of a real one.

The objects below are built as the chart and the orchestrator build theirs: fixed names, labels,
annotations.
"""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from polaris.errors import PolarisError
from polaris.plan import Instance

NOW = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)
RELEASE = "tryout"
Object = dict[str, Any]


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


@dataclass
class FakeCluster:
    """The namespace's objects by kind, its pods' logs, and where its tunnels lead to."""

    namespace: str = "stories"
    things: dict[str, list[Object]] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    streams: dict[str, list[list[str]]] = field(default_factory=dict)
    """A pod's followed logs: one list of lines a connection, after which it breaks."""
    elsewhere: list[tuple[str, str]] = field(default_factory=list)
    has_namespace: bool = True
    leads_to: tuple[str, int] | None = None
    fault: PolarisError | None = None
    """Raised by every list while set."""
    dialled: list[tuple[str, int]] = field(default_factory=list)

    def add(self, kind: str, *things: Object) -> None:
        self.things.setdefault(kind, []).extend(things)

    def objects(self, kind: str, labels: Mapping[str, str], fields: str = "") -> list[Object]:
        if self.fault is not None:
            raise self.fault
        found = self.things.get(kind, [])
        return [
            thing
            for thing in found
            if labels.items() <= (thing["metadata"].get("labels") or {}).items()
            and (not fields.startswith("involvedObject.uid=") or _about(thing) == fields.split("=")[1])
        ]

    def read(self, kind: str, name: str) -> Object | None:
        named = [thing for thing in self.things.get(kind, []) if thing["metadata"]["name"] == name]
        return named[0] if named else None

    def exists(self) -> bool:
        return self.has_namespace

    def releases(self) -> list[tuple[str, str]]:
        return self.elsewhere

    def log(self, pod: str, container: str, *, tail: int | None = None, previous: bool = False) -> str:
        text = self.logs.get(f"{pod} before" if previous else pod, "")
        return "\n".join(text.splitlines()[-tail:]) if tail else text

    def follow(self, pod: str, container: str, since_s: int | None = None) -> Iterator[str]:
        waiting = self.streams.get(pod, [])
        yield from waiting.pop(0) if len(waiting) > 1 else (waiting or [[]])[0]

    def dial(self, pod: str, port: int) -> Any:
        self.dialled.append((pod, port))
        if self.leads_to is None:
            raise ConnectionRefusedError("nothing listens")
        return socket.create_connection(self.leads_to)


def _about(event: Object) -> str:
    return str(event["involvedObject"]["uid"])


def labels(component: str, **more: str) -> dict[str, str]:
    found = {"app.kubernetes.io/name": "polaris", "app.kubernetes.io/instance": RELEASE}
    return found | {"app.kubernetes.io/component": component} | more


def stage_job(
    instance: Instance, attempt: int = 1, *, digest: str = "", begun: float = 60, **status: Any
) -> Object:
    digest = digest or instance.digest
    marks = {"polaris/kind": instance.kind, "polaris/digest": digest, "polaris/attempt": str(attempt)}
    name = f"test-{instance.name}".replace(".", "-") + f"-{digest[:8]}-{attempt}"
    return {
        "metadata": {
            "name": name,
            "uid": f"uid-{name}",
            "labels": labels("stage", **marks),
            "annotations": {"polaris/instance": instance.name},
            "creationTimestamp": ago(begun),
        },
        "spec": {},
        "status": {"startTime": ago(begun), **status},
    }


def condition(kind: str, reason: str = "", message: str = "", at: float = 10) -> Object:
    found = {"type": kind, "status": "True", "reason": reason, "message": message}
    return found | {"lastTransitionTime": ago(at)}


def job_pod(
    job: Object, phase: str, *statuses: Object, gpus: int = 0, container: str = "stage", **more: Any
) -> Object:
    meta = job["metadata"]
    asked = {"resources": {"limits": {"nvidia.com/gpu": str(gpus), "memory": "64Mi"}}} if gpus else {}
    limits = asked or {"resources": {"limits": {"memory": "64Mi"}}}
    return {
        "metadata": {
            "name": f"{meta['name']}-x1y2z",
            "uid": f"uid-pod-{meta['name']}",
            "labels": {**meta["labels"], "batch.kubernetes.io/job-name": meta["name"]},
            "annotations": meta.get("annotations") or {},
            "creationTimestamp": meta["creationTimestamp"],
        },
        "spec": {"nodeName": "node-1", "containers": [{"name": container, **limits}]},
        "status": {
            "phase": phase,
            "startTime": meta["creationTimestamp"],
            "containerStatuses": list(statuses),
        }
        | more,
    }


def status(name: str = "stage", **state: Any) -> Object:
    return {"name": name, "image": "registry.example/polaris/tools:1", "restartCount": 0, "state": state}


def running(since: float = 30, name: str = "stage") -> Object:
    return status(name, running={"startedAt": ago(since)})


def terminated(code: int, reason: str = "Error", at: float = 10, name: str = "stage") -> Object:
    return status(name, terminated={"exitCode": code, "reason": reason, "finishedAt": ago(at)})


def orchestrator(*conditions: Object, begun: float = 120) -> Object:
    return {
        "metadata": {
            "name": "polaris-orchestrator-0a1b2c3d",
            "uid": "uid-orchestrator",
            "labels": labels("orchestrator"),
            "creationTimestamp": ago(begun),
        },
        "spec": {},
        "status": {"startTime": ago(begun), "conditions": list(conditions)},
    }


def server(model: str, *, ready: bool, begun: float = 40, gpus: int = 0) -> tuple[Object, Object]:
    """Return a model's Deployment and its pod."""
    marks = labels("serve", **{"polaris/model": model})
    meta = {"labels": marks, "creationTimestamp": ago(begun)}
    available = [condition("Available", at=25)] if ready else []
    deployment = {
        "metadata": {"name": f"polaris-serve-{model}", "uid": f"uid-{model}", **meta},
        "spec": {},
        "status": {"conditions": available, **({"readyReplicas": 1} if ready else {})},
    }
    limits = {"resources": {"limits": {"nvidia.com/gpu": str(gpus)}}} if gpus else {}
    pod = {
        "metadata": {"name": f"polaris-serve-{model}-abcde", "uid": f"uid-pod-{model}", **meta},
        "spec": {"nodeName": "node-2", "containers": [{"name": "serve", **limits}]},
        "status": {"phase": "Running", "startTime": ago(begun), "containerStatuses": [running(35, "serve")]},
    }
    return deployment, pod


def config_map(text: str, **more: str) -> Object:
    meta = {"name": "polaris-config", "labels": labels("config")}
    return {"metadata": meta, "data": {"run.yaml": text, **more}}


def secret(name: str = "polaris-credentials", **values: str) -> Object:
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    return {"metadata": {"name": name}, "data": data}


def store_service() -> tuple[Object, Object]:
    """Return the in-cluster store's Service and its ready pod."""
    marks = labels("store")
    service = {
        "metadata": {"name": "polaris-store", "labels": marks},
        "spec": {"selector": marks, "ports": [{"port": 8333, "targetPort": "s3"}]},
    }
    pod = {
        "metadata": {"name": "polaris-store-0", "labels": marks, "creationTimestamp": ago(200)},
        "spec": {"containers": [{"name": "store", "ports": [{"name": "s3", "containerPort": 9000}]}]},
        "status": {"phase": "Running", "conditions": [condition("Ready")]},
    }
    return service, pod

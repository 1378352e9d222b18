"""A FAKE of the API's few calls in memory: nothing runs, and a test says how Jobs and pods go on.

The tests in tests/cluster use a real cluster; this one is for what a cluster cannot be told to do.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any

from polaris.execute.kube import AlreadyExists

Object = dict[str, Any]


class FakeKube:
    """A FAKE namespace. `logs` are by pod name; `calls` are the changes that were asked for."""

    def __init__(self) -> None:
        self.namespace = "fake"
        self.found: dict[str, dict[str, Object]] = {"job": {}, "pod": {}, "deployment": {}}
        self.logs: dict[str, bytes] = {}
        self.event_list: list[Object] = []
        self.calls: list[str] = []
        self.config: Object | None = {"metadata": {"name": "polaris-config", "uid": "config-uid"}}
        self._uids = itertools.count(1)

    # What the executor calls

    def jobs(self, selector: str) -> list[Object]:
        return self._fitting("job", selector)

    def pods(self, selector: str) -> list[Object]:
        return self._fitting("pod", selector)

    def deployments(self, selector: str) -> list[Object]:
        return self._fitting("deployment", selector)

    def events(self, uid: str) -> list[Object]:
        return self.event_list

    def job(self, name: str) -> Object | None:
        return self.found["job"].get(name)

    def config_map(self, name: str) -> Object | None:
        return self.config

    def pod_log(self, name: str, container: str, *, previous: bool = False) -> bytes | None:
        return None if previous else self.logs.get(name)

    def create_job(self, body: Object) -> Object:
        return self._create("job", body)

    def create_deployment(self, body: Object) -> Object:
        return self._create("deployment", body)

    def delete_job(self, found: Object) -> None:
        self.calls.append(f"-{found['metadata']['name']}")
        self.found["job"].pop(found["metadata"]["name"], None)

    def delete_deployment(self, found: Object) -> None:
        self.calls.append(f"-{found['metadata']['name']}")
        self.found["deployment"][found["metadata"]["name"]]["metadata"]["deletionTimestamp"] = (
            "2026-01-01T00:00:00Z"
        )

    # What a test does

    def pod_of(
        self, job: str, state: Object, *, phase: str = "Failed", log: bytes = b"", name: str = ""
    ) -> Object:
        """Let a Job have a pod whose container `stage` is in this state."""
        owner = self.found["job"][job]
        name = name or f"{job}-{next(self._uids)}"
        pod = copy.deepcopy(owner["spec"]["template"])
        pod["metadata"] |= {
            "name": name,
            "uid": f"{next(self._uids):06}-pod",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "ownerReferences": [{"uid": owner["metadata"]["uid"]}],
        }
        pod["status"] = {
            "phase": phase,
            "containerStatuses": [{"name": "stage", "restartCount": 0, "state": state}],
        }
        self.found["pod"][name] = pod
        self.logs[name] = log
        return pod

    def serve(self, model: str, *, available: bool = True) -> None:
        self.found["deployment"][f"polaris-serve-{model}"]["status"] = {
            "conditions": [{"type": "Available", "status": str(available)}]
        }

    def server_pod(self, model: str, status: Object) -> None:
        owner = self.found["deployment"][f"polaris-serve-{model}"]
        pod = copy.deepcopy(owner["spec"]["template"])
        pod["metadata"] |= {"name": f"server-{model}", "uid": f"server-{model}", "creationTimestamp": "t"}
        pod["status"] = {
            "phase": "Running",
            "startTime": "2026-01-01T00:00:00Z",
            "containerStatuses": [{"name": "serve", "restartCount": 0, **status}],
        }
        self.found["pod"][f"server-{model}"] = pod

    def finish(self, job: str, kind: str = "Complete", reason: str = "", message: str = "") -> None:
        condition = {"type": kind, "status": "True", "reason": reason, "message": message}
        self.found["job"][job]["status"] = {
            "conditions": [condition | {"lastTransitionTime": "2026-01-01T00:00:09Z"}]
        }

    def _create(self, kind: str, body: Object) -> Object:
        name = body["metadata"]["name"]
        if name in self.found[kind]:
            raise AlreadyExists(name)
        self.calls.append(f"+{name}")
        made = copy.deepcopy(body)
        made["metadata"] |= {
            "uid": f"{next(self._uids):06}-{kind}",
            "creationTimestamp": "2026-01-01T00:00:00Z",
        }
        self.found[kind][name] = made
        return made

    def _fitting(self, kind: str, selector: str) -> list[Object]:
        wanted = dict(part.split("=") for part in selector.split(",") if "=" in part)
        return [
            copy.deepcopy(found)
            for found in self.found[kind].values()
            if wanted.items() <= found["metadata"]["labels"].items()
        ]


def ended(code: int, reason: str = "Error", at: str = "2026-01-01T00:00:05Z") -> Object:
    """Return the state of a container that ended."""
    return {"terminated": {"exitCode": code, "reason": reason, "finishedAt": at}}

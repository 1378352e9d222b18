"""A KUBECONFIG in, what the cluster tests ask of it out: kubectl, helm, objects, a record of its pods."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

POLL_S = 0.5


@dataclass(frozen=True)
class Kube:
    """A cluster and the programs that talk to it."""

    config: Path
    bin: Path
    ours: Path | None
    """The folder of the cluster that these tests started, None for one that KUBECONFIG names."""

    def environment(self) -> dict[str, str]:
        return {**os.environ, "KUBECONFIG": str(self.config)}

    def call(
        self, *words: str | Path, check: bool = True, stdin: str | None = None, timeout: float = 300
    ) -> str:
        """Run a program with this cluster's KUBECONFIG; return what it said."""
        done = subprocess.run(
            [str(word) for word in words],
            env=self.environment(),
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(map(str, words))}: exit {done.returncode}\n{done.stdout}")
        return done.stdout

    def kubectl(self, *words: str | Path, **how: Any) -> str:
        return self.call(self.bin / "kubectl", *words, **how)

    def helm(self, version: int, *words: str | Path, **how: Any) -> str:
        return self.call(self.bin / f"helm{version}", *words, **how)

    def get(self, kind: str, namespace: str, selector: str = "") -> list[dict[str, Any]]:
        """Return the objects of a kind in a namespace."""
        words = ["get", kind, "-n", namespace, "-o", "json", *(["-l", selector] if selector else [])]
        found: list[dict[str, Any]] = json.loads(self.kubectl(*words))["items"]
        return found

    def apply(self, *objects: dict[str, Any]) -> None:
        for item in objects:
            self.kubectl("apply", "-f", "-", stdin=json.dumps(item))

    def logs(self, namespace: str, pod: str, container: str | None = None) -> str:
        return self.kubectl(
            "logs", "-n", namespace, pod, *(["-c", container] if container else []), check=False
        )


def wait_until(condition: Callable[[], Any], seconds: float, what: str, hint: Callable[[], str] = str) -> Any:
    """Wait for a condition; on the way out tell what was waited for."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > until:
            raise AssertionError(f"{what} did not happen within {seconds} s\n{hint()}")
        time.sleep(POLL_S)
    return found


def when(text: str) -> float:
    """Return a Kubernetes time as seconds."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


@dataclass
class PodRecord:
    """A pod as it was last seen."""

    labels: dict[str, str]
    first: float
    last: float
    seen: dict[str, Any]


@dataclass
class Watcher:
    """Sees a namespace's pods every half second, so that their whole lives can be judged afterwards."""

    kube: Kube
    namespace: str
    pods: dict[str, PodRecord] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def of(self, wanted: dict[str, str]) -> dict[str, PodRecord]:
        """Return the pods that have these labels."""
        return {name: pod for name, pod in self.pods.items() if wanted.items() <= pod.labels.items()}

    def _watch(self) -> None:
        from kubernetes import client, config

        api = client.CoreV1Api(config.new_client_from_config(str(self.kube.config)))
        while not self._ended.wait(POLL_S):
            try:
                found = api.list_namespaced_pod(self.namespace, _preload_content=False)
                items = json.loads(found.data)["items"]
            except Exception:
                continue
            now = time.time()
            for pod in items:
                name = pod["metadata"]["name"]
                known = self.pods.get(name)
                labels = pod["metadata"].get("labels") or {}
                self.pods[name] = PodRecord(labels, known.first if known else now, now, pod)

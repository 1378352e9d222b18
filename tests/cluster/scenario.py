"""A cluster in; a release that ran to its end, although its pods were killed, and the record of it out.

The orchestrator is killed while the training runs and again while the first stories are written; the training
pod is killed after its first checkpoint has reached the store. Killed means deleted with no grace: SIGKILL.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.kube import Kube, Watcher, wait_until
from cluster.setting import ROOT, Setting, write_values
from measured import Figure

from polaris.release.connect import KubeCluster
from polaris.release.open import open_release
from polaris.run import Run
from polaris.storage import Store

CHART = ROOT / "charts" / "polaris"
RELEASE = "polaris"
RUN_S = 1200.0
"""Longest that the whole run may take on two busy cores, seconds."""


@dataclass
class WholeRun:
    """What the tests look at: the release, its pods' lives, and what was in the store at each kill."""

    setting: Setting
    namespace: str
    values: Path
    watcher: Watcher
    installed: str
    jobs_folder: Path
    """The standalone Jobs, rendered for these values."""
    seconds: float = 0.0
    """From the install to the end of the run."""
    figures: list[Figure] = field(default_factory=list)
    saved: dict[str, dict[str, str]] = field(default_factory=dict)
    """What was killed → the finished pieces that the store held then, with their etags."""

    @property
    def kube(self) -> Kube:
        return self.setting.kube

    def jobs(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Return the stage Jobs, of one kind or of all."""
        selector = f"polaris/kind={kind}" if kind else "polaris/kind"
        return self.kube.get("jobs", self.namespace, selector)

    @contextlib.contextmanager
    def release(self) -> Iterator[Run]:
        """Open the release's run as the command line does."""
        with opened(self.namespace) as run:
            yield run

    def pod(self, component: str, *, kind: str = "") -> dict[str, Any] | None:
        """Return a running pod of a component."""
        selector = f"app.kubernetes.io/component={component}" + (f",polaris/kind={kind}" if kind else "")
        found = [
            pod
            for pod in self.kube.get("pods", self.namespace, selector)
            if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
        ]
        return found[0] if found else None

    def kill(self, pod: dict[str, Any], what: str) -> None:
        """Delete a pod with no grace, and remember what was finished then."""
        with self.release() as run:
            self.saved[what] = finished_pieces(run.store, run.config.run)
        words = ["delete", "pod", pod["metadata"]["name"], "-n", self.namespace]
        self.kube.kubectl(*words, "--grace-period=0", "--force")

    def told(self) -> str:
        """Return what helps a person when something does not come."""
        return told(self.kube, self.namespace)


def told(kube: Kube, namespace: str) -> str:
    """Return a namespace's pods, its orchestrator's last lines and its latest events."""
    pods = kube.kubectl("get", "pods,jobs,deployments", "-n", namespace, check=False)
    selector = "app.kubernetes.io/component=orchestrator"
    log = kube.kubectl("logs", "-n", namespace, "-l", selector, "--tail=40", check=False)
    events = kube.kubectl("get", "events", "-n", namespace, "--sort-by=.lastTimestamp", check=False)
    return f"{pods}\n{log}\n{events[-3000:]}"


@contextlib.contextmanager
def opened(namespace: str) -> Iterator[Run]:
    """Open the run of the release in a namespace, through a port-forward to its store."""
    with open_release(KubeCluster(namespace, None), RELEASE) as release:
        yield release.opened()


def finished_pieces(store: Store, run: str) -> dict[str, str]:
    """Return the pieces that no later attempt may write again, by etag: manifests, rows, checkpoints."""
    found = [*store.list(f"runs/{run}/"), *store.list("cache/judge/")]
    kept = ("MANIFEST.json", "/progress/book-", "/progress/checkpoint-", "/progress/story-", "cache/judge/")
    return {info.key: info.etag for info in found if any(part in info.key for part in kept)}


def play(setting: Setting, namespace: str, folder: Path) -> WholeRun:
    """Install the release with Helm 3, kill what is to be killed, wait for the end."""
    # Four GPUs are asked for, and a tiny model on the CPU trains: the cluster counts them and has none.
    values = write_values(folder / "values.yaml", setting.values(), {"training": {"gpus": 4}})
    words = ["install", RELEASE, str(CHART), "-n", namespace, "--create-namespace", "-f", str(values)]
    watcher = Watcher(setting.kube, namespace)
    watcher.__enter__()
    jobs = render_jobs(setting, values, folder / "jobs")
    run = WholeRun(setting, namespace, values, watcher, setting.kube.helm(3, *words), jobs)
    try:
        begun = time.monotonic()
        _disturb(run)
        wait_until(lambda: ended(run.kube, run.namespace), RUN_S, "the end of the run", run.told)
        run.seconds = time.monotonic() - begun
    except BaseException:
        watcher.__exit__()
        raise
    return run


def render_jobs(setting: Setting, values: Path, folder: Path) -> Path:
    """Render jobs/*.yaml for these values, as `make jobs VALUES=…` does."""
    setting.kube.call(sys.executable, ROOT / "scripts" / "chart.py", "jobs", folder, values)
    return folder


def _disturb(run: WholeRun) -> None:
    pod = wait_until(
        lambda: run.pod("train", kind="train") or run.pod("stage", kind="train"), 300, "training", run.told
    )
    orchestrator = wait_until(lambda: run.pod("orchestrator"), 60, "an orchestrator", run.told)
    run.kill(orchestrator, "orchestrator while the training runs")
    name = pod["metadata"]["name"]

    def has_checkpoint() -> bool:
        return "checkpoint_uploaded" in run.kube.logs(run.namespace, name, "stage")

    wait_until(has_checkpoint, 300, "a checkpoint in the store", run.told)
    run.kill(pod, "training")
    wait_until(lambda: run.pod("stage", kind="generate"), 600, "a generating pod", run.told)
    orchestrator = wait_until(lambda: run.pod("orchestrator"), 120, "an orchestrator", run.told)
    run.kill(orchestrator, "orchestrator while stories are written")


def ended(kube: Kube, namespace: str) -> bool:
    """Tell whether the orchestrator's Job is complete; fail at once if it has failed."""
    conditions = {
        found["type"]: found
        for job in kube.get("jobs", namespace, "app.kubernetes.io/component=orchestrator")
        for found in job["status"].get("conditions", [])
        if found["status"] == "True"
    }
    assert "Failed" not in conditions, json.dumps(conditions["Failed"]) + told(kube, namespace)
    return "Complete" in conditions

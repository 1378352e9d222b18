"""An open release in, one look at it after another out: what its cluster and its store say now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from polaris.errors import PolarisError
from polaris.execute.manifests import COMPONENT, RELEASE, STAGE, Object
from polaris.plan import Plan
from polaris.release.objects import Snapshot
from polaris.release.open import Release, out_of_reach
from polaris.release.view import Stored, View, view
from polaris.run import Run
from polaris.stage import newest_status

TAIL = 60
"""So many last lines of a log are looked at for progress."""


class Follower:
    """Looks at a release again and again; what was complete is not asked for again."""

    def __init__(self, release: Release) -> None:
        self.release = release
        self.trouble = release.trouble
        self.snapshot = Snapshot(datetime.now(UTC))
        self.run: Run | None = release.run
        self._stored: dict[str, Stored] = {}
        self._progress: dict[str, Mapping[str, Any]] = {}

    def look(self) -> View:
        """Return what there is to see. Raises ConfigError or TransientError where the cluster says no."""
        self.snapshot = self._snapshot()
        plan = (self.run or self.release).plan
        stored = {name: known for name, known in self._stored.items() if known.manifest}
        # After the cluster: a Job that has ended by then has its manifest, if it ever has one.
        try:
            self.release.connect()
            self.run, self.trouble = self.release.with_digests(self.snapshot.jobs), self.release.trouble
            if self.run is not None:
                plan, stored = self.run.plan, self._look_into(self.run)
        except PolarisError as error:
            self.trouble = out_of_reach(error)
        return view(plan, self.snapshot, stored)

    def _snapshot(self) -> Snapshot:
        cluster = self.release.cluster
        ours = {RELEASE: self.release.name}
        pods = cluster.objects("pods", ours)
        return Snapshot(
            now=datetime.now(UTC),
            jobs=cluster.objects("jobs", ours),
            pods=pods,
            deployments=cluster.objects("deployments", ours),
            events=cluster.objects("events", {}, "type=Warning"),
            progress={pod["metadata"]["name"]: self._progress_of(pod) for pod in pods if _works(pod)},
        )

    def _progress_of(self, pod: Object) -> Mapping[str, Any]:
        """Return the last progress line of a pod's log, also if its tail has none any more."""
        name = pod["metadata"]["name"]
        found = last_progress(self.release.cluster.log(name, STAGE, tail=TAIL))
        if found:
            self._progress[name] = found
        return self._progress.get(name, {})

    def _look_into(self, run: Run) -> dict[str, Stored]:
        for name, instance in run.plan.instances.items():
            known = self._stored.get(name)
            if known and known.manifest and known.manifest.digest == instance.digest:
                continue
            manifest = run.manifest(name)
            if manifest or not _could_have_begun(run.plan, name, self._stored):
                self._stored[name] = Stored(manifest)
            else:
                self._stored[name] = Stored(None, newest_status(run.store, run.prefix(name)))
        return dict(self._stored)


def _could_have_begun(plan: Plan, name: str, stored: Mapping[str, Stored]) -> bool:
    return all(stored[need].manifest for need in plan.instances[name].needs)


def _works(pod: Object) -> bool:
    labels = pod["metadata"].get("labels") or {}
    return labels.get(COMPONENT) == STAGE and pod.get("status", {}).get("phase") == "Running"


def last_progress(text: str) -> dict[str, Any]:
    """Return a log's last progress event, empty if it has none."""
    for line in reversed(text.splitlines()):
        if not line.startswith("{"):
            continue
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("event") == "progress":
            return event
    return {}

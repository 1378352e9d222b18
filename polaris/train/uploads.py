"""A training's work folder in, its checkpoints in the store out: in the background, while training goes on.

Where several nodes train together, each holds the files of its own ranks alone. Node 0 says which checkpoint
it puts (`wanted.json`), the others put their files of the same one and an index of them, and node 0 makes the
checkpoint complete once every index is there. An index carries the training's session, drawn anew at each
start, so that one which an earlier attempt left is never taken for this one's.
"""

from __future__ import annotations

import json
import secrets
import shutil
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polaris.artifact import Progress, from_rows
from polaris.errors import PolarisError
from polaris.runtime import get_logger
from polaris.train import checkpoint, underway
from polaris.train.job import METRICS, Job
from polaris.train.nodes import Team
from polaris.train.records import Records

if TYPE_CHECKING:
    from polaris.stage import StageContext

KEEP = 2
"""Checkpoints that are kept, here and in the store: where the newest is corrupt, the one before serves."""
WANTED = "wanted.json"
"""Progress piece of node 0 for the others: {start, checkpoint, session}: its stage's start, what it puts."""
RETRY_S = 15.0
"""Pause after an upload that failed."""
DELIVERY_S = 30.0
"""At the end node 0 waits so long for the others' files; each uploads about as much."""

Index = list[dict[str, Any]]

log = get_logger("train")


def _part(checkpoint_name: str, node: int, session: str) -> str:
    return f"{checkpoint_name}/node-{node}-{session}.json"


class _Background:
    """One thread that brings the store up to the work folder; a failure is logged, and tried again later."""

    def __init__(self, context: StageContext, job: Job, node: int = 0) -> None:
        self.progress = context.progress
        self.job = job
        self._piece = f"{underway.PIECE}{node}.json"
        self._noted: list[dict[str, Any]] = []
        self._thread: threading.Thread | None = None
        self._not_before = 0.0

    def poll(self) -> None:
        """Start an upload if none is under way; it ends at once where there is nothing new."""
        if time.monotonic() >= self._not_before and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._bring_up, daemon=True)
            self._thread.start()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def _bring_up(self) -> None:
        try:
            self._note()
            self._upload()
        except PolarisError as error:
            self._not_before = time.monotonic() + RETRY_S
            log.warning("not_uploaded", reason=str(error), next_try="later")

    def _note(self) -> None:
        """Put what the step under way has cost so far: this machine may be gone before the step is done."""
        noted = underway.read(self.job.output)
        if noted != self._noted:
            self.progress.put(self._piece, json.dumps(noted).encode())
            self._noted = noted

    def _upload(self) -> None:
        raise NotImplementedError


@dataclass
class _Arriving:
    """A checkpoint whose own files are put; `index` lists those that are known to be there."""

    name: str
    session: str
    index: Index
    missing: set[int]


class Uploads(_Background):
    """Keeps the store up with node 0's work folder: metrics, the newest checkpoint, and no more than two."""

    def __init__(self, context: StageContext, job: Job, team: Team | None = None) -> None:
        super().__init__(context, job)
        self.stored = set(context.progress.folders())
        self._others = set(range(1, team.nodes if team else 1))
        self._start = secrets.token_hex(8)
        self._want("", "")
        self._tried: set[str] = set()
        self._rows_stored = self._rows_tried = 0
        self._arriving: _Arriving | None = None
        reporters = context.config.training(job.arm).report_to
        self._records = Records(self.progress, job.output, tensorboard="tensorboard" in reporters)

    def finish(self) -> None:
        """Upload what is left; wait a while for the other nodes' files of it."""
        self._join()
        self._tried.clear()
        self._rows_tried = 0
        self._bring_up()
        awaited, until = "", 0.0
        while (found := self._arriving) is not None and found.missing:
            if found.name != awaited:
                awaited, until = found.name, time.monotonic() + DELIVERY_S
            if time.monotonic() > until:
                nodes = ", ".join(map(str, sorted(found.missing)))
                log.warning("checkpoint_incomplete", checkpoint=found.name, nothing_from_nodes=nodes)
                break
            time.sleep(0.2)
            self._bring_up()

    def _upload(self) -> None:
        self._complete()
        here = checkpoint.complete(self.job.checkpoints)
        rows = checkpoint.read_metrics(self.job.output / METRICS)
        new = here and self._arriving is None and here[-1].name not in self.stored | self._tried
        newest = here[-1] if new else None
        self._records.put(rows)
        if newest:
            self._tried.add(newest.name)
        # Before the checkpoint: one that is complete without its steps' rows would lose them for good.
        if len(rows) != self._rows_stored and (newest or len(rows) != self._rows_tried):
            self._rows_tried = len(rows)
            self.progress.put(METRICS, from_rows(rows))
            self._rows_stored = len(rows)
        if newest:
            self._begin(newest)
            self._complete()
        _drop(self.job.checkpoints, checkpoint.surplus((path.name for path in here), KEEP))

    def _begin(self, path: Path) -> None:
        """Put the own files of a checkpoint and let the other nodes put theirs at the same time."""
        session = checkpoint.read_layout(path).session
        self._want(path.name, session)
        index = self.progress.put_files(path.name, path)
        self._arriving = _Arriving(path.name, session, index, set(self._others))

    def _want(self, name: str, session: str) -> None:
        if self._others:
            wanted = {"start": self._start, "checkpoint": name, "session": session}
            self.progress.put(WANTED, json.dumps(wanted).encode())

    def _complete(self) -> None:
        """Make the checkpoint that is arriving complete, if every node's files are there."""
        found = self._arriving
        if found is None:
            return
        for node in sorted(found.missing):
            data = self.progress.get(_part(found.name, node, found.session))
            if data is not None:
                found.index += json.loads(data)
                found.missing.discard(node)
        if found.missing:
            return
        # Every node has the layout's file, the same one.
        self.progress.complete_folder(found.name, list({file["name"]: file for file in found.index}.values()))
        self._arriving = None
        self.stored.add(found.name)
        log.info("checkpoint_uploaded", checkpoint=found.name)
        for name in checkpoint.surplus(self.stored, KEEP):
            self.progress.delete(f"{name}/")
            self.stored.discard(name)


class Deliveries(_Background):
    """Puts another node's files of the checkpoints that node 0 wants, and of the last one."""

    def __init__(self, context: StageContext, job: Job, team: Team) -> None:
        super().__init__(context, job, team.node)
        self.node = team.node
        self.delivered = {job.resume.name} if job.resume else set()
        self._ending = False

    def finish(self) -> None:
        """Deliver what is wanted, and the newest, which node 0 will want."""
        self._join()
        self._ending = True
        self._bring_up()

    def _upload(self) -> None:
        here = {path.name: path for path in checkpoint.complete(self.job.checkpoints)}
        if not set(here) - self.delivered:
            return
        wanted = read_wanted(self.progress)
        name = wanted.get("checkpoint", "")
        if name in here and checkpoint.read_layout(here[name]).session == wanted["session"]:
            self._deliver(here[name])
            # Only older ones, however many newer there are: node 0 says which of those it takes next.
            names = checkpoint.ordered(here)
            _drop(self.job.checkpoints, names[: names.index(name)])
        if self._ending:
            self._deliver(here[checkpoint.ordered(here)[-1]])

    def _deliver(self, path: Path) -> None:
        if path.name in self.delivered:
            return
        session = checkpoint.read_layout(path).session
        index = self.progress.put_files(path.name, path)
        self.progress.put(_part(path.name, self.node, session), json.dumps(index).encode())
        self.delivered.add(path.name)
        log.info("checkpoint_part_uploaded", checkpoint=path.name, node=self.node)


def read_wanted(progress: Progress) -> dict[str, str]:
    """Return what node 0 has said last, empty if nothing yet."""
    wanted: dict[str, str] = json.loads(progress.get(WANTED) or b"{}")
    return wanted


def _drop(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        shutil.rmtree(folder / name)

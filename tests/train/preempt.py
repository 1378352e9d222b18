"""A train stage's configuration and blows in, how the training went on after each and what it made out.

The stage is `polaris stage train` itself, in a process of its own, hit by a real signal at a step that its
metrics show, and started again until it is done. The judge is FAKE: it scores by a checksum.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_endpoint import FakeEndpoint, Reply
from fakes import STORIES, stage

from polaris.artifact import Artifact
from polaris.judge.rubric import load_rubric
from polaris.run import open_run
from polaris.train import checkpoint
from polaris.train.orphans import end_orphans
from polaris.train.settings import order

APART = 40
"""Words between the pairs' targets, so that a row's mean target says which prompts it had."""
PAID = ("judge/calls", "judge/cached", "judge/repaid", "judge/usd", "judge/unanswered")
PAID += ("judge/prompt_tokens", "judge/completion_tokens", "judge/cached_prompt_tokens")
"""A row's figures that depend on what the cache holds; every other but its seconds must not."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Blow:
    """A signal, sent once so many steps are seen.

    Attributes:
        judging: it comes while a call of the next step is unanswered; else the whole node is gone with it.
        forgets: the checkpoint's random generators are put elsewhere, so that other stories are written than
            before: what an engine does that is not reproducible to the bit.

    """

    signal: signal.Signals
    steps: int
    judging: bool = False
    forgets: bool = False


@dataclass
class Judge:
    """A FAKE judge: scores by a checksum, and leaves the first call of a step unanswered if told to."""

    metrics: Path | None = None
    hold_after: int | None = None
    held: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    _all: list[threading.Event] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, request: dict[str, Any], number: int) -> Reply:
        if (released := self._takes()) is not None:
            released.wait(600)
        mark = zlib.crc32(json.dumps(request["messages"]).encode())
        rubric = load_rubric()
        scores = {d.key: (mark >> i) % (d.max + 1) for i, d in enumerate(rubric.positive + rubric.negative)}
        return Reply(json.dumps(scores | {"bonus": None, "penalty": None}))

    def hold(self, steps: int | None) -> None:
        """Leave the first call unanswered that comes when so many steps are done."""
        self.hold_after = steps
        self.held.clear()
        self.released = threading.Event()
        self._all.append(self.released)

    def end(self) -> None:
        """Answer what is still held: nobody waits for it any more."""
        for event in self._all:
            event.set()

    def _takes(self) -> threading.Event | None:
        with self._lock:
            waits = self.hold_after is not None and not self.held.is_set()
            if waits and self.metrics and len(checkpoint.read_metrics(self.metrics)) == self.hold_after:
                self.held.set()
                return self.released
            return None


@dataclass
class Training:
    """One training of a tiny model: its folder, its judge, and what it made."""

    folder: Path
    config: Path
    judge: Judge
    asked: FakeEndpoint
    metrics: Path
    settings: Any
    seed: int
    resumed: list[int] = field(default_factory=list)
    """The step of the newest complete checkpoint at each blow."""

    def run(self, blows: Sequence[Blow] = ()) -> None:
        """Start it, hit it, start it again, and see it end well."""
        for number, blow in enumerate([*blows, None]):
            self.judge.hold(blow.steps if blow and blow.judging else None)
            log = self.folder / f"attempt-{number}.log"
            with log.open("w") as out:
                process = subprocess.Popen(
                    [sys.executable, "-m", "polaris", "stage", "train", str(self.config)],
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=os.environ | {"POLARIS_LOG": "json"},
                )
                try:
                    if blow:
                        self._await(blow, process, log)
                        process.send_signal(blow.signal)
                        self._release(blow, log)
                    code = process.wait(timeout=280)
                finally:
                    process.kill()
            expected = {signal.SIGTERM: 128 + signal.SIGTERM, signal.SIGKILL: -signal.SIGKILL}
            assert code == (expected[blow.signal] if blow else 0), log.read_text()[-3000:]
            if blow:
                if not blow.judging:
                    end_orphans(self.metrics.parent)
                here = checkpoint.complete(self.metrics.parent / "checkpoints")
                for path in here[-1].glob("rng_state*") if blow.forgets else ():
                    _draw_otherwise(path, number)
                self.resumed.append(checkpoint.step_of(here[-1].name) or 0 if here else 0)

    def _await(self, blow: Blow, process: subprocess.Popen[bytes], log: Path) -> None:
        begun = time.monotonic()
        while len(checkpoint.read_metrics(self.metrics)) < blow.steps or (
            blow.judging and not self.judge.held.is_set()
        ):
            assert process.poll() is None, f"ended before it was hit:\n{log.read_text()[-3000:]}"
            assert time.monotonic() - begun < 240, f"not there in time:\n{log.read_text()[-3000:]}"
            time.sleep(0.01)
        if blow.judging:
            # The step's other calls come at the same time, and are answered.
            seen = -1
            while seen != (seen := len(self.asked.requests)):
                time.sleep(0.4)

    def _release(self, blow: Blow, log: Path) -> None:
        """Answer the call that is held once the workers are told to stop; the killed ones must not go on."""
        until = time.monotonic() + 60
        while blow.signal == signal.SIGTERM and "the workers save after" not in log.read_text():
            assert time.monotonic() < until, log.read_text()[-3000:]
            time.sleep(0.05)
        if blow.signal == signal.SIGTERM:
            self.judge.released.set()

    def artifact(self) -> Artifact:
        """Return what it made."""
        run = open_run(self.config)
        manifest = run.manifest("train")
        assert manifest is not None
        return Artifact(run.store, manifest)

    def rows(self) -> list[Row]:
        """Return its metrics."""
        return self.artifact().rows("metrics.jsonl")

    def ordered(self) -> list[list[int]]:
        """Return which prompts each step must have had."""
        places = order(len(STORIES), self.settings, self.seed)
        size = self.settings.prompts_per_step
        return [places[i : i + size] for i in range(0, len(places), size)]


def _draw_otherwise(path: Path, seed: int) -> None:
    """Put a checkpoint's generators where no other attempt's are."""
    state = torch.load(path, weights_only=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 + seed)
        state["cpu"] = torch.get_rng_state()
    state["python"] = random.Random(1000 + seed).getstate()
    torch.save(state, path)


def make(
    folder: Path, judge: Judge, asked: FakeEndpoint, monkeypatch: pytest.MonkeyPatch, **train: Any
) -> Training:
    """Write a training of a tiny model whose pairs are there."""
    folder.mkdir()
    context = stage(folder, asked.url, monkeypatch, apart=APART, **train)
    run = open_run(context.config_path)
    metrics = run.work_folder / "train" / context.instance.digest / "out" / "metrics.jsonl"
    judge.metrics = metrics
    settings = context.config.train
    return Training(folder, context.config_path, judge, asked, metrics, settings, context.config.seed)


def check_course(training: Training) -> None:
    """Assert that steps, data order and HRI weights are those of an undisturbed training."""
    rows, settings = training.rows(), training.settings
    assert [row["step"] for row in rows] == list(range(1, settings.max_steps + 1))
    hri = settings.hri
    weights = [hri.max_weight * min(1.0, step / hri.warmup_steps) for step in range(len(rows))]
    assert [row["hri/weight"] for row in rows] == pytest.approx(weights)
    targets = [sum(100 + APART * i for i in step) / len(step) for step in training.ordered()]
    assert [row["lengths/target_mean"] for row in rows] == pytest.approx(targets)


def needed(training: Training) -> float:
    """Return the judge calls that the finished steps need, each story once: those found again are none."""
    judged = sum(row["judge/calls"] + row["judge/cached"] for row in training.rows())
    known: set[int] = set()
    again = 0
    for row, prompts in zip(training.rows(), training.ordered(), strict=True):
        if row["hri/references"]:
            again += len(known & set(prompts))
            known |= set(prompts)
    return float(judged - again)


def check_calls(training: Training) -> float:
    """Assert that every request that the endpoint got is booked, once; return those that were repaid."""
    manifest = training.artifact().manifest
    repaid = sum(row["judge/repaid"] for row in training.rows())
    assert repaid == manifest.counts["judge_repaid"]
    assert manifest.cost["calls"] + manifest.counts["judge_unanswered"] == len(training.asked.requests)
    assert len(training.asked.requests) - needed(training) == repaid
    return float(repaid)


def differing(rows: Sequence[Row], others: Sequence[Row]) -> dict[str, Any]:
    """Return the figures that are not the same, seconds and what was paid for aside, with their values."""
    assert len(rows) == len(others)
    return {
        f"{row['step']} {name}": (row.get(name), other.get(name))
        for row, other in zip(rows, others, strict=True)
        for name in sorted({*row, *other} - {*PAID, "step_seconds", "step_time"})
        if row.get(name) != other.get(name)
    }

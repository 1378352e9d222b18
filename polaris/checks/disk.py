"""A run's work folder in, whether its disk holds what a training writes there out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from polaris.checks import gpus
from polaris.checks.base_model import Base, find_base
from polaris.checks.finding import Finding, Subject, failed, unchecked
from polaris.checks.trainings import at_once
from polaris.config import RunConfig
from polaris.recipe import TrainConfig
from polaris.storage import FileStore, open_store
from polaris.train.memory import GB, checkpoint_bytes
from polaris.train.uploads import KEEP


def check_disk(subject: Subject) -> Iterator[Finding]:
    """Compare what is free with the base models, the checkpoints that are kept and the results.

    A training that is done leaves its disk to the next one; those that may run at once need theirs at once.
    Where no GPU is here the training probably runs elsewhere: too little is a warning then.
    """
    trainings = subject.config.trainings().values()
    if not trainings:
        return
    if subject.can_i is not None:
        yield unchecked("disk", "the training's pod has a disk of its own (stages.train.scratch)")
        return
    folder = _existing(subject.config.execute.work_dir)
    free = shutil.disk_usage(folder).free
    bases = [find_base(subject, train) for train in trainings]
    known = [_need(subject, train, base) for train, base in zip(trainings, bases, strict=True) if base]
    if len(known) < len(trainings):
        told = (
            f"{free / GB:.1f} GB are free in {folder}; what a checkpoint needs is not known without the model"
        )
        yield unchecked("disk", told)
        return
    together = at_once(subject.config)
    largest = sorted(known, key=lambda each: each.training, reverse=True)[:together]
    need = sum(each.training for each in largest) + sum({each.base: each.model for each in largest}.values())
    first = largest[0]
    whose = (
        "a training needs"
        if len(known) == 1
        else f"the largest of {len(known)} trainings needs"
        if together == 1
        else f"{together} trainings at once (execute.parallel) need"
    )
    holds = (
        f"{KEEP} checkpoints and one half-written of {first.checkpoint / GB:,.1f} each, base and result of"
        f" {first.model / GB:,.1f}"
    )
    fix = "set execute.work_dir to a disk with more room"
    if _store_lies_on(subject.config, folder):
        # The copies of a training that is done are dropped, its result stays.
        need += sum((KEEP + 1) * each.checkpoint for each in largest) + sum(each.model for each in known)
        holds += ", and in the store, on the same disk, the checkpoints again and every result"
        fix = "set execute.work_dir or store.url to a disk with more room"
    told = f"{free / GB:,.1f} GB free in {folder}; {whose} up to {need / GB:,.1f}: {holds}"
    if free >= need:
        yield Finding("ok", "disk", told)
        return
    yield (
        failed("disk", told, fix)
        if gpus.visible()
        else Finding("warning", "disk", told, f"{fix}, where it trains")
    )


@dataclass(frozen=True)
class _Need:
    """Bytes that one training needs, and which base model, that several may share."""

    base: str
    model: float
    checkpoint: float

    @property
    def training(self) -> float:
        """All but the base."""
        return (KEEP + 1) * self.checkpoint + self.model


def _need(subject: Subject, train: TrainConfig, base: Base) -> _Need:
    dtype = subject.config.dtype(train.base)
    model = base.parameters.total * (2 if dtype == "bfloat16" else 4)
    return _Need(train.base, model, checkpoint_bytes(base.shape, base.parameters, train, dtype))


def _store_lies_on(config: RunConfig, folder: Path) -> bool:
    """Tell whether the store is a folder on the same file system."""
    store = open_store(config.store)
    return isinstance(store, FileStore) and _existing(store.root).stat().st_dev == folder.stat().st_dev


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder

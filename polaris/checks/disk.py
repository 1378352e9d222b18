"""A run's work folder in, whether its disk holds what a training writes there out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from polaris.checks import gpus
from polaris.checks.base_model import find_base
from polaris.checks.finding import Finding, Subject, failed, unchecked
from polaris.train.memory import GB, checkpoint_bytes
from polaris.train.uploads import KEEP


def check_disk(subject: Subject) -> Iterator[Finding]:
    """Compare what is free with the base model, the checkpoints that are kept and the result.

    Where no GPU is here the training probably runs elsewhere: too little is a warning then.
    """
    train = subject.config.train
    if train is None:
        return
    if subject.can_i is not None:
        yield unchecked("disk", "the training's pod has a disk of its own (stages.train.scratch)")
        return
    folder = _existing(subject.config.execute.work_dir)
    free = shutil.disk_usage(folder).free
    base = find_base(subject)
    if base is None:
        told = (
            f"{free / GB:.1f} GB are free in {folder}; what a checkpoint needs is not known without the model"
        )
        yield unchecked("disk", told)
        return
    dtype = subject.config.dtype(train.base)
    one = checkpoint_bytes(base.shape, base.parameters, train, dtype)
    model = base.parameters.total * (2 if dtype == "bfloat16" else 4)
    need = (KEEP + 1) * one + 2 * model
    told = (
        f"{free / GB:,.1f} GB free in {folder}; a training needs up to {need / GB:,.1f}: {KEEP} checkpoints"
        f" and one half-written of {one / GB:,.1f} each, base and result of {model / GB:,.1f}"
    )
    if free >= need:
        yield Finding("ok", "disk", told)
        return
    fix = "set execute.work_dir to a disk with more room"
    yield (
        failed("disk", told, fix)
        if gpus.visible()
        else Finding("warning", "disk", told, f"{fix}, where it trains")
    )


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder

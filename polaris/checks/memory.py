"""A training's settings and base model in, what each GPU must hold as a table and whether it fits out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from polaris.checks import gpus
from polaris.checks.base_model import Base, find_base
from polaris.checks.finding import Finding, Subject, failed, unchecked
from polaris.checks.trainings import of_each
from polaris.recipe import TrainConfig
from polaris.train.memory import ENGINE_OTHER, GB, PHASES, SPARE, MemoryPlan, plan
from polaris.train.settings import Hardware, grpo_arguments

ASSUMED = 80.0 * GB
"""Memory of a GPU where none is here and none is named."""


def check_memory(subject: Subject) -> Iterator[Finding]:
    """Plan the memory of one GPU for each training; what exceeds a GPU only assumed is a warning."""
    yield from of_each(subject.config, lambda train: _of_training(subject, train))


def _of_training(subject: Subject, train: TrainConfig) -> Iterator[Finding]:
    base = find_base(subject, train)
    if base is None:
        fix = f"give models.{train.base} a folder, or `polaris model import` it first"
        yield unchecked("memory", f"the config.json of models.{train.base} is not at hand", fix)
        return
    here = gpus.visible()
    capacity = subject.gpu_bytes or float(min(here or [0])) or ASSUMED
    known = bool(subject.gpu_bytes or here)
    yield from of_plan(base, train, subject.config.dtype(train.base), capacity, known=known)


def of_plan(base: Base, train: TrainConfig, dtype: str, capacity: float, *, known: bool) -> Iterator[Finding]:
    """Yield the plan's table and verdict, and that of the engine's own share; `known`: the GPU's size is."""
    sleep = engine_sleeps(train)

    def planned(stage: int) -> MemoryPlan:
        changed = train.model_copy(update={"zero_stage": stage})
        return plan(base.shape, base.parameters, changed, dtype, sleep=sleep, capacity=capacity)

    found = planned(train.zero_stage)
    others = ", ".join(
        f"ZeRO {stage} {planned(stage).peak / GB:,.0f} GB" for stage in (0, 2, 3) if stage != train.zero_stage
    )
    size = f"{capacity / GB:.0f} GB" + ("" if known else ", which is assumed: --gpu-gb names another")
    need = f"{found.peak / GB:.1f} GB a GPU at ZeRO {train.zero_stage} ({found.peak_phase}; {others})"
    if found.spare:
        detail = f"{need} fits {size}: {found.margin / GB:.1f} GB stay free"
        yield Finding("ok", "memory", detail, table=_table(found, base))
    else:
        close = (
            f"leaves {found.margin / GB:.1f} GB, less than {SPARE:.0%}, of" if found.fits else "does not fit"
        )
        state: Literal["warning", "failed"] = "failed" if known and not found.fits else "warning"
        yield Finding(state, "memory", f"{need} {close} {size}", _fix(train, sleep), _table(found, base))
    if found.engine is None:
        return
    engine = found.engine
    told = (
        f"{engine.share / GB:.1f} GB: {engine.weights / GB:.1f} GB weights, {ENGINE_OTHER / GB:.1f} GB"
        f" activations and CUDA graphs (taken), {engine.cache / GB:.1f} GB cache; a row of full length takes"
        f" {engine.row / GB:.2f} GB"
    )
    if engine.at_once:
        told += f", {engine.at_once} of {engine.rows} rows at a time"
        if base.shape.vision:
            told += "; what vLLM's trial with the largest image takes of the cache is not counted"
        yield Finding("ok", "engine", told)
    else:
        need_share = min(1.0, (engine.share - engine.cache + engine.row) / capacity)
        fix = f"raise train.engine_memory {train.engine_memory:g} to {need_share:.2f} at least"
        yield failed("engine", told, fix) if known else Finding("warning", "engine", told, fix)


def engine_sleeps(train: TrainConfig) -> bool:
    """Tell whether the colocated engine gives its memory back while it does not write."""
    arguments = grpo_arguments(
        train, Hardware(True, "bfloat16"), steps=1, seed=0, thinking=False, end_id=0, output=Path()
    )
    return bool(arguments.get("vllm_enable_sleep_mode"))


def _fix(train: TrainConfig, sleep: bool) -> str:
    """Return the settings that would need less, those first that cost least."""
    can = []
    if not train.gradient_checkpointing:
        can.append("gradient_checkpointing: true")
    if train.zero_stage < 3 and train.world_size > 1:
        can.append("zero_stage: 3")
    if train.micro_batch > 1:
        can.append("micro_batch: 1")
    if train.rollout_engine == "vllm" and not sleep:
        can.append(f"engine_memory below {train.engine_memory:g}")
    can.append("a shorter max_completion_tokens, or more processes")
    return f"each of these under train needs less: {', '.join(can)}"


def _table(found: MemoryPlan, base: Base) -> tuple[tuple[str, ...], ...]:
    """Return the plan in GB of 10⁹ bytes: a row for each part, the sum and what stays free."""
    rows: list[tuple[str, ...]] = [("GB a GPU", *PHASES, "assumption")]
    for row in found.rows:
        rows.append((row.part, *(_gb(getattr(row, phase)) for phase in PHASES), row.assumption))
    sums = [found.total(phase) for phase in PHASES]
    rows.append(("sum", *map(_gb, sums), f"parameters {base.parameters.source}"))
    rows.append(
        ("margin", *(_gb(found.capacity - each) for each in sums), f"of {found.capacity / GB:.0f} GB")
    )
    return tuple(rows)


def _gb(size: float) -> str:
    return f"{size / GB:.1f}" if size else "–"

"""A run's trainings, judges and pairs in; steps, judge calls, US$ and hours of each, and why, out."""

from __future__ import annotations

from collections.abc import Iterator

from polaris.checks.base_model import find_base
from polaris.checks.data import pairs_of, prompts_key
from polaris.checks.finding import Finding, Subject, unchecked
from polaris.config import section_of
from polaris.data.pairs import Pairs
from polaris.errors import PolarisError
from polaris.recipe import TrainConfig
from polaris.train import expected
from polaris.train.forecast import Forecast, Judge, forecast, held_back
from polaris.train.pace import ASSUMED, ASSUMED_GB, Machine

TITLES = ("forecast", "figure", "assumption")


def check_forecast(subject: Subject) -> Iterator[Finding]:
    """Forecast every training as it will at its start, and compare what they cost with the budget."""
    config = subject.config
    several = len(config.trainings()) > 1
    usd = 0.0
    for arm, train in config.trainings().items():
        whose = f"{section_of(arm)}: " if several else ""
        judge = Judge.of(config, train.judge)
        found = _forecast(subject, train, judge)
        if found is None:
            why = f"{whose}the steps follow from the pairs, and there are none, as `data` or `plan` says"
            yield unchecked("forecast", why, f"or set {section_of(arm)}.max_steps")
            continue
        usd += found.usd or 0.0
        yield Finding("ok", "forecast", whose + _told(found, judge), table=_table(found))
    yield from _budget(config.execute.budget_usd, usd)


def _forecast(subject: Subject, train: TrainConfig, judge: Judge) -> Forecast | None:
    pairs = _pairs(subject)
    prompts, held = None, None
    if pairs is not None and not pairs.counts["train"]:
        return None
    if pairs is not None:
        counted = subject.seen.get(prompts_key(train))
        prompts = pairs.counts["train"] if counted is None else counted
        held = held_back(pairs.rows, train)
    return forecast(train, judge, prompts, held, _machine(subject, train))


def _pairs(subject: Subject) -> Pairs | None:
    """Return the pairs; None where there are none, for whatever reason: `data` tells it."""
    try:
        return pairs_of(subject)
    except PolarisError:
        return None


def _machine(subject: Subject, train: TrainConfig) -> Machine | str:
    """Return what the training runs on: the GPUs here; where none is, and it wants some, the paper's."""
    names, source = expected.gpu_names(), ""
    dtype = subject.config.dtype(train.base)
    if not names and train.rollout_engine == "vllm" and dtype == "bfloat16":
        if subject.gpu_bytes not in (None, ASSUMED_GB * 1e9):
            return f"--gpu-gb {subject.gpu_bytes / 1e9:g} says how large the GPUs are and not which"
        names, source = [ASSUMED] * train.processes, "assumed: no GPU is here"
    gpu = expected.gpu_here(names, train.processes)
    if isinstance(gpu, str):
        return gpu
    try:
        base = find_base(subject, train)
    except PolarisError as error:
        return str(error)
    if base is None:
        return f"the config.json of models.{train.base} is not at hand"
    return Machine(gpu, base.shape, base.parameters, dtype, source)


def _told(found: Forecast, judge: Judge) -> str:
    usd = (
        f"{found.usd:,.2f} US$"
        if found.usd is not None
        else f"US$ unknown (models.{judge.model} has no price)"
    )
    hours = f"{found.hours} hours" if found.hours is not None else found.why["hours"][0]
    steps = f"{found.steps:,} {'step' if found.steps == 1 else 'steps'}"
    return f"{steps}, {found.calls:,} judge calls, {usd}, {hours}"


def _table(found: Forecast) -> tuple[tuple[str, ...], ...]:
    figures = {
        "steps": f"{found.steps:,}",
        "calls": f"{found.calls:,}",
        "usd": "–" if found.usd is None else f"{found.usd:,.2f}",
        "hours": "–" if found.hours is None else str(found.hours),
    }
    names = {"calls": "judge calls", "usd": "US$"}
    rows = [(names.get(name, name), figure, "; ".join(found.why[name])) for name, figure in figures.items()]
    return (TITLES, *rows)


def _budget(budget: float | None, usd: float) -> Iterator[Finding]:
    """Warn of a budget that the trainings' judges exceed; one without prices is no configuration."""
    if budget is None or usd <= budget:
        return
    told = f"execute.budget_usd {budget:g} is less than the {usd:,.2f} US$ that the trainings' judges cost"
    fix = "raise it, or lower train.max_steps or train.epochs: a run stops where it is spent"
    yield Finding("warning", "budget", told, fix)

"""A training's settings, its judge and its pairs in; steps, judge calls, US$ and hours out, and why. Pure.

This is the one place where a training's judge calls are counted: `polaris check`, `polaris cost` and the
training itself ask here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from polaris.chat import AnswerTier, Prices, estimated_tokens
from polaris.config import RunConfig
from polaris.models import EndpointModel
from polaris.recipe import TrainConfig, ValidationConfig
from polaris.train.pace import (
    LATENCY_S,
    Machine,
    Range,
    judge_seconds,
    sentences,
    step_seconds,
    writing_seconds,
)
from polaris.train.settings import steps_per_epoch, total_steps

FORECAST = "forecast.json"
"""The forecast's name in the training's progress and in its artifact."""
PROMPT_TOKENS = 8000
"""What a judge reads by default: the full rubric and its schema (4,300) and a story of 2,700 words."""
COMPLETION_TOKENS = 2500
"""What a judge writes by default: the full form's answer with some reasoning."""


@dataclass(frozen=True)
class Judge:
    """How a training asks its judge, and what a call costs; `tokens` are (read, written) a call."""

    model: str
    prices: Prices = Prices()
    outside: bool = True
    """Somebody else serves it: without prices nobody knows what it costs."""
    tier: AnswerTier = "standard"
    concurrency: int = 16
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens: tuple[float, float] = (PROMPT_TOKENS, COMPLETION_TOKENS)

    @classmethod
    def of(cls, config: RunConfig, name: str) -> Judge:
        """Take what a configuration says of a judge; training never asks by batch."""
        settings = config.judges[name]
        model = config.models[settings.model]
        found = cls(settings.model, Prices(*config.prices(settings.model)), concurrency=settings.concurrency)
        if not isinstance(model, EndpointModel):
            return cls(found.model, found.prices, outside=False, concurrency=found.concurrency)
        return cls(
            found.model,
            found.prices,
            True,
            model.service_tier,
            settings.concurrency,
            model.requests_per_minute,
            model.tokens_per_minute,
        )

    @property
    def priced(self) -> bool:
        """Whether what its calls cost is known."""
        return not self.outside or bool(self.prices.prompt or self.prices.completion)

    def usd(self, calls: int) -> float | None:
        """Return what so many calls cost, None where no price is given."""
        reads, writes = (round(each * calls) for each in self.tokens)
        return self.prices.usd(reads, writes, tier=self.tier) if self.priced else None

    def seconds(self, calls: int) -> Range:
        """Return how long so many calls take that are asked for at the same time."""
        return judge_seconds(
            calls, self.concurrency, self.requests_per_minute, self.tokens_per_minute, sum(self.tokens)
        )


@dataclass(frozen=True)
class Forecast:
    """What a whole training will take; `usd` and `hours` are None where they cannot be told.

    `why` has the sentences that each figure rests on, by its name.
    """

    steps: int
    calls: int
    usd: float | None
    hours: Range | None
    why: dict[str, list[str]] = field(default_factory=dict)

    @property
    def assumptions(self) -> list[str]:
        """All that the forecast rests on."""
        return [sentence for said in self.why.values() for sentence in said]

    def to_json(self) -> dict[str, Any]:
        """Return it as `forecast.json` holds it: `hours` is the range's middle, its ends are beside it."""
        hours = self.hours
        return {
            "steps": self.steps,
            "calls": self.calls,
            "usd": None if self.usd is None else round(self.usd, 2),
            "hours": None if hours is None else round(hours.middle, 4),
            "hours_low": None if hours is None else round(hours.low, 4),
            "hours_high": None if hours is None else round(hours.high, 4),
            "assumptions": self.assumptions,
        }


def forecast(
    train: TrainConfig,
    judge: Judge,
    prompts: int | None,
    held_back: int | None,
    machine: Machine | str | float,
) -> Forecast | None:
    """Forecast a training from its beginning; None where neither pairs nor `max_steps` tell the steps.

    Args:
        train: its settings.
        judge: who is asked, and at what price.
        prompts: pairs that it trains on; None where they are not known.
        held_back: stories of one validation before `validation.limit`; None where they are not known.
        machine: what it runs on, or the seconds that a step took so far, or why no time can be told.

    """
    if prompts is None and train.max_steps is None:
        return None
    steps = total_steps(prompts or 0, train)
    # Without the pairs every prompt counts as new: no judgement is found in the cache.
    asked = training_calls(steps, steps * train.prompts_per_step if prompts is None else prompts, train)
    stories = validation_stories(train.validation, held_back)
    rounds = validations(steps, train.validation)
    calls = asked + rounds * (stories or 0)
    hours, why_hours = _hours(train, judge, steps, rounds, stories or 0, machine)
    why = {
        "steps": [_steps_said(steps, prompts, train)],
        "calls": _calls_said(train, rounds, stories),
        "usd": [call_said(judge.model, judge.tokens), price_said(judge.model, judge.prices, {judge.tier})],
        "hours": why_hours,
    }
    return Forecast(steps, calls, judge.usd(calls), hours, why)


def training_calls(steps: int, prompts: int, train: TrainConfig) -> int:
    """Return the judge calls of so many steps over so many prompts, validations not among them.

    All rows of a step are judged: the rollouts, and with references injected one human story a prompt,
    whose judgement is asked for in the first pass and found in the cache in later ones.
    """
    asked = steps * train.rows_per_step
    if not train.hri.max_weight:
        return asked
    hri = train.hri
    ends = [steps] if hri.until_step is None else [steps, hri.until_step]
    if hri.decay_steps is not None and not hri.final_weight:
        ends.append(hri.warmup_steps + hri.decay_steps)
    injected = min(ends)
    return asked - max(0, injected - steps_per_epoch(prompts, train)) * train.prompts_per_step


def validations(steps: int, validation: ValidationConfig | None) -> int:
    """Return how often a training has validated once so many steps are taken; before the first, never."""
    if validation is None or steps <= 0:
        return 0
    return validation.before_first + steps // validation.every_steps


def validation_stories(validation: ValidationConfig | None, held_back: int | None) -> int | None:
    """Return the stories of one validation; None where the held back pairs are not known."""
    if validation is None:
        return 0
    if held_back is None or validation.limit is None:
        return held_back
    return min(held_back, validation.limit)


def held_back(pairs: Iterable[Mapping[str, Any]], train: TrainConfig) -> int:
    """Return the held back pairs that a validation writes to, about: tokens are estimated by length."""
    held = [pair for pair in pairs if pair.get("split") == "validation"]
    if train.validation is None or not train.validation.fitting:
        return len(held)
    return sum(estimated_tokens(str(pair.get("story", ""))) <= train.max_completion_tokens for pair in held)


def _hours(
    train: TrainConfig, judge: Judge, steps: int, rounds: int, stories: int, machine: Machine | str | float
) -> tuple[Range | None, list[str]]:
    if isinstance(machine, Machine) and (why := machine.why_not()):
        machine = why
    if isinstance(machine, str):
        return None, [f"hours are not forecast: {machine}"]
    validating, said = Range(0.0, 0.0), []
    if isinstance(machine, Machine):
        step = step_seconds(machine, train) + judge.seconds(train.rows_per_step)
        if stories:
            validating = writing_seconds(machine, train, stories) + judge.seconds(stories)
        said = [*sentences(machine, train), _judging_said(judge)]
    else:
        step = Range(machine, machine)
        said = [f"time: steps so far took {machine:,.1f} s each; validations are not in it"]
    hours = (step.times(steps) + validating.times(rounds)).times(1 / 3600)
    return hours, said


def _steps_said(steps: int, prompts: int | None, train: TrainConfig) -> str:
    if train.max_steps is not None:
        return f"{_many(steps, 'step')} by max_steps"
    unused = (prompts or 0) - steps_per_epoch(prompts or 0, train) * train.prompts_per_step
    return (
        f"{_many(steps, 'step')} of {train.prompts_per_step} prompts: {train.epochs:g} × {prompts:,} prompts,"
        f" {unused} of each pass unused"
    )


def _calls_said(train: TrainConfig, rounds: int, stories: int | None) -> list[str]:
    references = ", the human reference among them, whose judgement later passes find in the cache"
    said = [
        f"{train.prompts_per_step} prompts × {train.group_size} rows a step are judged"
        f"{references if train.hri.max_weight else ''}; invalid answers are asked for once more, which is not"
        " counted"
    ]
    if train.validation is None:
        return said
    if stories is None:
        told = f"{_many(rounds, 'validation')} not counted: how many pairs are held back is not known"
    elif not stories:
        told = "no validation: no pair is held back (data.validation_share)"
    else:
        told = f"{_many(rounds, 'validation')} of {_many(stories, 'held back pair')}, a story and a call each"
    return [*said, told]


def _judging_said(judge: Judge) -> str:
    said = (
        f"judging: {LATENCY_S[0]:.0f} to {LATENCY_S[1]:.0f} s a call, {judge.concurrency} at once, after the"
        " stories and before the update"
    )
    limits = {"requests": judge.requests_per_minute, "tokens": judge.tokens_per_minute}
    given = [f"{count:,} {name} a minute" for name, count in limits.items() if count]
    return f"{said}; at most {' and '.join(given)}" if given else said


def call_said(model: str, tokens: tuple[float, float], of: str = "assumed") -> str:
    """Return how many tokens a call reads and writes, and how that is known, as a sentence."""
    return f"a call to {model} reads {tokens[0]:,.0f} tokens and writes {tokens[1]:,.0f}: {of}"


def price_said(name: str, price: Prices, tiers: Collection[str]) -> str:
    """Return what a model's tokens cost, also at the tiers at which it is asked, as a sentence."""
    if not price.prompt and not price.completion:
        return f"{name} costs nothing a token by its settings: this run serves it, or its price is not given"
    costs = f"{price.prompt:g} USD a million tokens read and {price.completion:g} written"
    said = f"{name} costs {costs} (models.{name}.usd_per_million_*)"
    if "batch" in tiers:
        said += f"; {part_said(price)} by batch"
    if "flex" in tiers:
        said += f"; {part_said(price)} by flex, as long as that has room"
    return said


def part_said(price: Prices) -> str:
    """Return what part of the price the cheaper tiers cost."""
    return "half price" if price.half_price_tier == 0.5 else f"{price.half_price_tier:g} of the price"


def beside(
    kept: Mapping[str, Any], steps: float, calls: float, usd: float, hours: float | None
) -> list[tuple[str, str, str]]:
    """Return a kept forecast and what it took: rows of (what, forecast, took), all as text."""
    low, high = kept.get("hours_low"), kept.get("hours_high")
    told = "none" if kept.get("hours") is None else _figure(float(kept["hours"]))
    if low is not None and high is not None and not math.isclose(low, high):
        told = f"{_figure(float(low))} to {_figure(float(high))}"
    usd_told = "none" if kept.get("usd") is None else f"{float(kept['usd']):,.2f}"
    found = [
        ("steps", f"{kept['steps']:,}", f"{steps:,.0f}"),
        ("judge calls", f"{kept['calls']:,}", f"{calls:,.0f}"),
        ("US$ to the judge", usd_told, f"{usd:,.2f}"),
    ]
    if hours is not None:
        found.append(("hours", told, _figure(hours)))
    return found


def _figure(value: float) -> str:
    return f"{value:,.1f}" if value >= 1 else f"{value:.2g}"


def _many(number: int, one: str) -> str:
    return f"{number:,} {one if number == 1 else f'{one}s'}"

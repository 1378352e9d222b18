"""A training's records in, its series, validations and costs out; nothing is smoothed or filled in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from polaris.config import RunConfig, section_of
from polaris.models import TrainedModel
from polaris.plan import train_instance
from polaris.report.records import Records
from polaris.train.settings import total_steps

SUMMED = ("judge/calls", "judge/cached", "judge/failed", "hri/clipped", "step_seconds")
MOST_SAMPLES = 3
"""Validation stories that a page shows of a training."""
COLOURS = 6
"""Colours that the page has."""
PARTS = ("quality", "repetition", "length", "blank")
"""What a validation story's reward is made of."""
_FORECAST = ("steps", "calls", "usd", "hours", "hours_low", "hours_high")
_SAME = {part: f"reward/{part}" for part in PARTS} | {
    "words_mean": "lengths/words_mean",
    "cut_share": "lengths/truncated",
}
"""Short names of a validation's figures → those that a step's metrics have."""

Row = Mapping[str, Any]


def training_facts(
    arm: str | None,
    records: Records,
    config: RunConfig,
    identities: Mapping[str, str],
    pairs: int | None,
) -> dict[str, Any]:
    """Return what one training was and did, with every numeric series: one value a step, None for none.

    Keys: arm, instance, label, models (that it makes), colour, dash, base, base_identity, judge,
    judge_identity, pairs, prompts_per_step, group_size, hri_weight, engine_limit, finished, planned (steps),
    steps (the step numbers), series, summary (the reward's mean over the first and last tenth of the steps;
    sums of calls, failures and seconds), validation (`steps` and `series`; None without any), samples,
    forecast (None without any), took (steps, calls, usd, hours), cost (as in a manifest), seconds, lost
    (steps, calls, usd; None for nothing).
    """
    train = config.training(arm)
    steps, series = _series(records.metrics)
    place = list(config.trainings()).index(arm)
    return {
        "arm": arm,
        "instance": train_instance(arm),
        "label": arm or section_of(None),
        "models": models_of(config, arm),
        "colour": _colours(config)[place],
        "dash": place,
        "base": train.base,
        "base_identity": identities.get(train.base),
        "judge": train.judge,
        "judge_identity": identities.get(config.judges[train.judge].model),
        "pairs": pairs,
        "prompts_per_step": train.prompts_per_step,
        "rows_per_step": train.rows_per_step,
        "group_size": train.group_size,
        "hri_weight": train.hri.max_weight,
        "engine_limit": train.engine_max_difference,
        "finished": records.finished,
        "planned": train.max_steps or (total_steps(pairs, train) if pairs is not None else None),
        "steps": steps,
        "series": series,
        "summary": _summary(series, len(steps)),
        "validation": _validation(records.validation),
        "samples": _samples(records.samples),
        "forecast": _forecast(records.forecast),
        "took": {
            "steps": len(steps),
            "calls": records.cost.get("calls"),
            "usd": records.cost.get("usd"),
            "hours": None if records.seconds is None else records.seconds / 3600,
        },
        "cost": dict(records.cost),
        "seconds": records.seconds,
        "lost": _lost(records),
    }


def models_of(config: RunConfig, arm: str | None) -> list[str]:
    """Return the models that a training makes."""
    return [
        name for name, model in config.models.items() if isinstance(model, TrainedModel) and model.arm == arm
    ]


def without_stories(training: Row) -> dict[str, Any]:
    """Return a training's facts without the samples' prompts and texts."""
    samples = training["samples"]
    if samples is None:
        return dict(training)
    kept = [
        {
            "uid": sample["uid"],
            "target": sample["target"],
            "sides": [
                {key: value for key, value in side.items() if key != "story"} for side in sample["sides"]
            ],
        }
        for sample in samples["stories"]
    ]
    return {**training, "samples": {**samples, "stories": kept}}


def _colours(config: RunConfig) -> list[int]:
    """Return each training's colour: that of the model it makes, unless two would get the same."""
    places = list(config.models)
    found = []
    for arm in config.trainings():
        made = models_of(config, arm)
        found.append(places.index(made[0]) % COLOURS if made else -1)
    distinct = len(set(found)) == len(found) and -1 not in found
    return found if distinct else list(range(1, len(found) + 1))


def _series(rows: Sequence[Row]) -> tuple[list[int], dict[str, list[float | None]]]:
    """Return the steps in order, and every figure's value at each; of two rows of a step the last counts."""
    by_step = {row["step"]: row for row in rows}
    ordered = [by_step[step] for step in sorted(by_step)]
    keys = sorted({key for row in ordered for key, value in row.items() if _is_number(value)} - {"step"})
    return sorted(by_step), {key: [_finite(row.get(key)) for row in ordered] for key in keys}


def _validation(rows: Sequence[Row]) -> dict[str, Any] | None:
    named = [{_SAME.get(key, key): value for key, value in row.items()} for row in rows]
    steps, series = _series([row for row in named if _is_number(row.get("step"))])
    return {"steps": steps, "series": series} if steps else None


def _samples(found: Mapping[int, Sequence[Row]]) -> dict[str, Any] | None:
    """Return the first stories of the last validation that the first one has too, both side by side."""
    steps = sorted(step for step, rows in found.items() if rows)
    if not steps:
        return None
    sides = {step: {str(row.get("uid")): row for row in found[step]} for step in steps}
    common = [uid for uid in sides[steps[-1]] if all(uid in sides[step] for step in steps)]
    stories = []
    for uid in common[:MOST_SAMPLES]:
        last = sides[steps[-1]][uid]
        stories.append(
            {
                "uid": uid,
                "prompt": str(last.get("prompt") or ""),
                "target": _finite(last.get("target", last.get("target_word_count"))),
                "sides": [_sample(step, sides[step][uid]) for step in steps],
            }
        )
    return {"steps": steps, "stories": stories} if stories else None


def _sample(step: int, row: Row) -> dict[str, Any]:
    """Return one story: its parts may be in a mapping of their own; without a judgement it has failed."""
    parts = row.get("parts")
    figures = {**row, **(parts if isinstance(parts, dict) else {})}
    failed = row.get("failed", "judgement" in row and row["judgement"] is None)
    return {
        "step": step,
        "story": str(row.get("story") or ""),
        "cut": bool(row.get("cut")),
        "failed": failed if isinstance(failed, str) else bool(failed),
        **{key: _finite(figures.get(key)) for key in ("words", "reward", *PARTS)},
    }


def _forecast(found: Row | None) -> dict[str, Any] | None:
    if found is None:
        return None
    said = found.get("assumptions")
    assumptions = [str(line) for line in said] if isinstance(said, list) else []
    return {**{key: _finite(found.get(key)) for key in _FORECAST}, "assumptions": assumptions}


def _lost(records: Records) -> dict[str, float] | None:
    if not records.lost:
        return None
    calls, usd = records.lost.get("calls", 0.0), records.lost.get("usd", 0.0)
    return {"steps": records.lost_steps, "calls": calls, "usd": usd}


def _summary(series: Mapping[str, Sequence[float | None]], steps: int) -> dict[str, Any]:
    edge = max(1, steps // 10)
    reward = series.get("reward", [])
    return {
        "steps": steps,
        "edge_steps": edge,
        "reward_first": _mean(reward[:edge]),
        "reward_last": _mean(reward[-edge:]),
        **{key: sum(value for value in series[key] if value is not None) for key in SUMMED if key in series},
    }


def _mean(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _finite(value: Any) -> float | None:
    return float(value) if _is_number(value) and math.isfinite(value) else None

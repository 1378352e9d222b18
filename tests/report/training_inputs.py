"""Runs with trainings that are finished or go on, made up, over a real `file://` store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from context import make_artifact, make_context
from report_inputs import EVALUATED, HOSTILE, configuration, metrics, pair

from polaris.artifact import Progress, from_rows
from polaris.run import Run
from polaris.stage import StageContext

Row = dict[str, Any]

FORECAST = {
    "steps": 4,
    "calls": 100.0,
    "usd": 2.0,
    "hours": 1.5,
    "hours_low": 1.0,
    "hours_high": 2.0,
    "assumptions": ["A call costs 0.02 US$."],
}


def rows(steps: int, *, better: float = 0.0) -> list[Row]:
    """Return metrics of steps 1, 2, …, with what calls cost and seconds."""
    return [
        row
        | {"step": row["step"] + 1, "reward": row["reward"] + better}
        | {"judge/calls": 10, "judge/usd": 0.1, "step_seconds": 90.0}
        for row in metrics(steps)
    ]


def validation(*steps: int) -> list[Row]:
    """Return a row a validation; the first has no reward, for all of its judgements failed."""
    return [
        {
            "step": step,
            "n": 2,
            "failed": 0 if number else 2,
            "reward": 0.2 + 0.01 * step if number else None,
            "reward/quality": 0.3 + 0.01 * step,
            "reward/repetition": 0.05,
            "lengths/words_mean": 180.0,
            "lengths/truncated": 0.5,
            "judge/calls": 2,
            "judge/cached": 0,
            "judge/usd": 0.02,
            "seconds": 60.0,
        }
        for number, step in enumerate(steps)
    ]


def samples(step: int, stories: int = 5) -> list[Row]:
    """Return a validation's stories; the second one's judgement failed."""
    return [
        {
            "uid": f"u{n}",
            "prompt": f"Of a fox, {n}. {HOSTILE}",
            "story": f"Story {n} after step {step}. {HOSTILE}",
            "target": 200,
            "words": 180 + n,
            "cut": n == 2,
            "reward": None if n == 1 else 0.1 + step / 100,
            "parts": {"quality": None if n == 1 else 0.4, "repetition": 0.0, "length": 0.1, "blank": 0.0},
            "judgement": None if n == 1 else {},
        }
        for n in range(stories)
    ]


def objects(steps: int, validated: tuple[int, ...] = (), *, better: float = 0.0) -> dict[str, Any]:
    """Return what a training writes, validations included."""
    found: dict[str, Any] = {"metrics.jsonl": rows(steps, better=better)}
    if validated:
        found |= {"validation.jsonl": validation(*validated), "forecast.json": json.dumps(FORECAST).encode()}
        found |= {f"samples/step-{step:06d}.jsonl": samples(step) for step in validated}
    return found


def trained_context(folder: Path, found: dict[str, Any]) -> StageContext:
    """Return the context of a report over data and the one training whose artifact holds these objects."""
    return _over(make_context(folder, configuration(folder), "report"), train=found)


def arms_configuration(folder: Path) -> Row:
    """Return a configuration of two trainings, `train` and the arm `no-hri`, whose models are not judged."""
    raw = configuration(folder)
    raw["models"]["plain"] = {"kind": "trained", "arm": "no-hri"}
    raw["arms"] = {"no-hri": {"hri": {"max_weight": 0.0}}}
    raw["evaluations"]["quality"]["models"] = [*EVALUATED, "plain"]
    return raw


def arms_context(folder: Path, **arms: dict[str, Any]) -> StageContext:
    """Return the context of a report over data and trainings alone; `arms` are objects by arm."""
    return _over(make_context(folder, arms_configuration(folder), "report"), **arms)


def _over(made: StageContext, **arms: dict[str, Any]) -> StageContext:
    data = {"pairs.jsonl": [pair(n) for n in range(9)]}
    made.inputs["data"] = make_artifact(made.run, "data", data)
    for name, found in arms.items():
        instance = "train" if name == "train" else f"train.{name.replace('_', '-')}"
        made.inputs[instance] = make_artifact(made.run, instance, found)
    return made


def begin(run: Run, name: str, found: dict[str, Any]) -> None:
    """Write a training's progress, as far as it has come."""
    progress = Progress(run.store, run.prefix(name))
    for key, content in found.items():
        progress.put(key, content if isinstance(content, bytes) else from_rows(content))

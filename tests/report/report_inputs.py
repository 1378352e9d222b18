"""A small run's finished artifacts, made up, over a real `file://` store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import context
from context import make_artifact, make_context, settings

from polaris.evaluate import stage as evaluate
from polaris.judge.rubric import load_rubric
from polaris.stage import StageContext

Row = dict[str, Any]

HOSTILE = (
    "<script>alert(1)</script></div></article></main> {{ 7*7 }} {% raw %} <img src=http://evil.example/x.png"
    " onerror=alert(2)> <style>*{display:none}</style> <!-- &amp; \ud800 half a pair"
)
EVALUATED = ("base", "trained")


def configuration(folder: Path, *, train: bool = True, evaluations: bool = True) -> Row:
    """Return a configuration that trains `base` and judges both models with the training's judge."""
    raw = settings(folder)
    raw["models"] |= {"base": {"kind": "checkpoint", "repo": "a/b@1"}}
    raw["evaluations"]["quality"] |= {"models": ["base"], "bootstrap": 100}
    if train:
        raw["models"] |= {"trained": {"kind": "trained"}}
        raw["train"] = {"base": "base", "judge": "judge"}
        raw["evaluations"]["quality"] |= {"models": list(EVALUATED), "baseline": "base"}
    if not evaluations:
        raw["evaluations"] = {}
    return raw


def judgement(level: int) -> Row:
    rubric = load_rubric()
    return {
        "positive": {dimension.key: min(level, dimension.max) for dimension in rubric.positive},
        "negative": {dimension.key: 1 for dimension in rubric.negative},
        "bonus": None,
        "penalty": None,
        "notes": {"P1": f"A note. {HOSTILE}"},
    }


def story(key: str, text: str, words: int = 180, *, target: int = 200, truncated: bool = False) -> Row:
    return {
        "id": key,
        "sample": 0,
        "prompt": f"Of a fox. {HOSTILE} The story should be {target} words long.",
        "target_word_count": target,
        "story": text,
        "words": words,
        "finish_reason": "length" if truncated else "stop",
        "truncated": truncated,
        "completion_tokens": 300,
        "model": "m@1",
    }


def score(key: str, level: int, repeat: int = 0) -> Row:
    return {
        "id": key,
        "sample": 0,
        "repeat": repeat,
        "overall": 6 * level - 10 + 2 * repeat,
        "label": "fair",
        "judgement": judgement(level),
        "quote_validity": None,
        "rubric": "story-quality/1/full/00000000",
        "judge": "fake/reader",
        "caveat": None,
    }


def metrics(steps: int) -> list[Row]:
    return [
        {
            "step": step,
            "reward": 0.1 * step,
            "reward_std": 0.05,
            "reward/quality": 0.2,
            "reward/length": 0.1,
            "hri/weight": 0.1 * step,
            "hri/reference_reward": None if step == 0 else 0.5,
            "hri/reference_advantage": None if step == 0 else -0.2,
            "judge/failed": 1,
            "engine/logprob_max_difference": 0.0,
            "lengths/words_mean": 150.0,
            "lengths/target_mean": 200.0,
        }
        for step in range(steps)
    ]


def pair(number: int) -> Row:
    return {
        "uid": f"u{number}",
        "title": f"Tale {number} {HOSTILE}",
        "author": "Saki",
        "prompt": "p",
        "story": "s",
        "reasoning": "r",
        "target_word_count": 1000,
        "words": 1000 + number,
        "provenance": {"book": f"Beasts {HOSTILE}", "sha256": "ab" * 32, "rights": "CC0"},
        "split": "validation" if number == 0 else "train",
    }


def report_context(
    folder: Path,
    *,
    train: bool = True,
    evaluations: bool = True,
    judged: bool = True,
    steps: int = 3,
    repeats: int = 1,
) -> StageContext:
    """Return the report's context over finished artifacts of all other instances."""
    raw = configuration(folder, train=train, evaluations=evaluations)
    made = make_context(folder, raw, "report")
    add = made.inputs.__setitem__
    add("data", make_artifact(made.run, "data", {"pairs.jsonl": [pair(n) for n in range(3)]}))
    if train:
        add("train", make_artifact(made.run, "train", {"metrics.jsonl": metrics(steps)}))
    for model in (EVALUATED if train else EVALUATED[:1]) if evaluations else ():
        _evaluated(made, raw, folder, model, judged, repeats)
    if evaluations:
        for model in EVALUATED if train else EVALUATED[:1]:
            name = f"evaluate.{model}.quality"
            step = make_context(folder, raw, name)
            step.inputs = made.inputs
            evaluate.run(step)
            found = context.read_output(step, "result.json")
            add(name, make_artifact(made.run, name, {"result.json": found}))
    return made


def length_context(
    folder: Path,
    *,
    instance: str = "report.length",
    models: tuple[str, ...] = EVALUATED,
    targets: tuple[int, ...] = (60, 120, 240),
    prompts: int = 4,
    judged: bool = True,
    steps: int = 3,
) -> StageContext:
    """Return the context of a report over an on-demand length evaluation's finished artifacts."""
    raw = configuration(folder)
    raw["evaluations"]["length"] = {
        "kind": "length",
        "prompts": "prompts.jsonl",
        "models": list(models),
        "baseline": models[0] if len(models) > 1 else None,
        "judge": "judge",
        "bootstrap": 100,
        "on_demand": True,
    }
    made = make_context(folder, raw, instance)
    add = made.inputs.__setitem__
    add("data", make_artifact(made.run, "data", {"pairs.jsonl": [pair(n) for n in range(3)]}))
    if "train" in made.instance.needs:
        add("train", make_artifact(made.run, "train", {"metrics.jsonl": metrics(steps)}))
    for number, model in enumerate(models):
        keys = [(f"p{n}@{target}", n, target) for n in range(prompts) for target in targets]
        written = [
            story(key, HOSTILE, target * (3 + n + number) // 5, target=target, truncated=n == 3)
            for key, n, target in keys
        ]
        scores = [score(key, 2 + n + number) for key, n, _ in keys if judged and n]
        failures = [
            {"id": key, "sample": 0, "repeat": 0, "reason": f"not JSON {HOSTILE}"}
            for key, n, _ in keys
            if not (judged and n)
        ]
        names = f"{model}.length"
        add(f"generate.{names}", make_artifact(made.run, f"generate.{names}", {"stories.jsonl": written}))
        found = {"scores.jsonl": scores, "failures.jsonl": failures}
        add(f"judge.{names}", make_artifact(made.run, f"judge.{names}", found))
    for model in models:
        name = f"evaluate.{model}.length"
        step = make_context(folder, raw, name)
        step.inputs = made.inputs
        evaluate.run(step)
        add(name, make_artifact(made.run, name, {"result.json": context.read_output(step, "result.json")}))
    return made


def _evaluated(made: StageContext, raw: Row, folder: Path, model: str, judged: bool, repeats: int) -> None:
    better = 3 if model == "trained" else 0
    stories = [
        story("p0", HOSTILE),
        story("p1", "", 0),
        story("p2", f"The second story of {model}. {HOSTILE}", 90, truncated=True),
    ]
    levels = [("p0", 5), ("p2", 6 + better)] if judged else []
    scores = [score(key, level, repeat) for key, level in levels for repeat in range(repeats)]
    failed = ["p1"] if judged else ["p0", "p1", "p2"]
    failures = [{"id": key, "sample": 0, "repeat": 0, "reason": f"not JSON {HOSTILE}"} for key in failed]
    names = f"{model}.quality"
    made.inputs[f"generate.{names}"] = make_artifact(
        made.run, f"generate.{names}", {"stories.jsonl": stories}
    )
    made.inputs[f"judge.{names}"] = make_artifact(
        made.run, f"judge.{names}", {"scores.jsonl": scores, "failures.jsonl": failures}
    )

"""One model's stories and judgements of one evaluation in, `result.json` out.

The result holds no time and no path: the same inputs give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from polaris.artifact import Artifact
from polaris.config import RunConfig
from polaris.errors import InputError
from polaris.evaluate import length, story_quality
from polaris.evaluate.stories import counts, per_story
from polaris.judge.readings import FAILURES, SCORES, Lengths, Source, panel
from polaris.judge.reliability import of_judge
from polaris.models import TrainedModel
from polaris.stage import StageContext
from polaris.text import WORD_COUNTER

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Benchmark:
    """What one kind of evaluation computes from `per_story` rows, a seed and a number of resamples.

    `result` returns `metric_version`, `figures` and whatever else the kind has to say; `compare` takes the
    baseline's rows too and returns the paired differences.
    """

    result: Callable[[Rows, int, int], dict[str, Any]]
    compare: Callable[[Rows, Rows, int, int], dict[str, Any]]


BENCHMARKS = {
    "story-quality": Benchmark(story_quality.result, story_quality.compare),
    "length": Benchmark(length.result, length.compare),
}
"""Benchmarks by their evaluations' kind."""


def run(context: StageContext) -> None:
    """Compute every figure of `evaluate.M.E`, compare with the evaluation's baseline, write `result.json`.

    Raises:
        InputError: a judgement of an unknown story, or judgements by more than one judge or rubric.

    """
    model, name = context.instance.params["model"], context.instance.params["evaluation"]
    evaluation = context.config.evaluations[name]
    generated = context.inputs[f"generate.{model}.{name}"].rows("stories.jsonl")
    scores = context.inputs[f"judge.{model}.{name}"].rows("scores.jsonl")
    rows = _rows(context, model, name)
    seed, resamples = context.config.seed, evaluation.bootstrap
    computed = BENCHMARKS[evaluation.kind].result(rows, seed, resamples)
    quality = computed["figures"]["story_quality"]
    result: dict[str, Any] = {
        "evaluation": name,
        "kind": evaluation.kind,
        "model": model,
        "model_identity": one_value(generated, "model", "stories.jsonl"),
        "judge": one_value(scores, "judge", "scores.jsonl"),
        "rubric": one_value(scores, "rubric", "scores.jsonl"),
        "caveat": context.caveat(evaluation.judge),
        "same_judge_as_training": same_judge_as_training(
            context.config, model, evaluation.judge, context.run.identity_of_model
        ),
        "word_counter": WORD_COUNTER,
        "bootstrap": {"resamples": resamples, "seed": seed, "level": 0.95},
        "n": quality["n"],
        "n_failed": quality["n_failed"],
        **computed,
        **counts(rows),
        "reliability": _reliability(context.inputs[f"judge.{model}.{name}"], rows, seed, resamples),
        "paired": _paired(context, model, name, rows),
        "per_story": rows,
    }
    context.output.put("result.json", json.dumps(result, sort_keys=True, indent=1, allow_nan=False).encode())
    _fill_counts(context, result)


def same_judge_as_training(config: RunConfig, model: str, judge: str, identity: Callable[[str], str]) -> bool:
    """Tell whether the model was trained on this judge's scores, so that a gain may be a hacked rubric.

    Only a model that this run trained can be concerned. `identity` returns the identity of a model's
    weights: two names for the same weights are one judge.
    """
    found = config.models[model]
    if not isinstance(found, TrainedModel):
        return False
    training = config.judges[config.training(found.arm).judge].model
    return identity(training) == identity(config.judges[judge].model)


def one_value(rows: Iterable[dict[str, Any]], key: str, where: str) -> str | None:
    """Return the value that all rows share, None when there are no rows.

    Raises:
        InputError: the rows disagree.

    """
    found = sorted({str(row[key]) for row in rows})
    if len(found) > 1:
        raise InputError(f"{where} mixes {key} {found[0]} and {found[1]}: make it again with one {key}")
    return found[0] if found else None


def _rows(context: StageContext, model: str, name: str) -> Rows:
    judge: Artifact = context.inputs[f"judge.{model}.{name}"]
    stories = context.inputs[f"generate.{model}.{name}"].rows("stories.jsonl")
    return per_story(stories, judge.rows("scores.jsonl"), judge.rows("failures.jsonl"))


def _reliability(judge: Artifact, rows: Rows, seed: int, resamples: int) -> dict[str, Any] | None:
    """Return what the judge's repeats tell about it; None when no story was judged more than once."""
    lengths = {(row["id"], row["sample"]): Lengths(row["words"], row["target"]) for row in rows}
    found = panel([Source(SCORES, judge.rows(SCORES), judge.rows(FAILURES))], lengths)
    if max((len(said) for rater in found.raters for said in rater.readings.values()), default=0) < 2:
        return None
    return of_judge(found.raters[0], found, seed=seed, resamples=resamples)


def _paired(context: StageContext, model: str, name: str, rows: Rows) -> dict[str, Any] | None:
    evaluation = context.config.evaluations[name]
    baseline = evaluation.baseline
    if baseline is None or baseline == model:
        return None
    compare = BENCHMARKS[evaluation.kind].compare
    other = _rows(context, baseline, name)
    differences = compare(rows, other, context.config.seed, evaluation.bootstrap)
    return {"baseline": baseline, "figures": differences}


def _fill_counts(context: StageContext, result: dict[str, Any]) -> None:
    for key in ("stories", "judgements", "judgements_failed", "truncated", "empty"):
        context.counts[key] = result[key]
    context.counts["scored"] = result["n"]
    context.counts["unscored"] = result["n_failed"]
    if result["n_failed"]:
        context.notes.append(f"{result['n_failed']} of {result['stories']} stories have no score")

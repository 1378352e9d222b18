"""The artifacts of one evaluation in, the report's facts about it out; what is missing is said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from polaris.artifact import Artifact
from polaris.config import RunConfig, section_of
from polaris.models import CheckpointModel, TrainedModel
from polaris.report.pairs import Written, choose


def evaluation_facts(
    name: str, inputs: Mapping[str, Artifact], config: RunConfig, caveat: str | None
) -> dict[str, Any]:
    """Return an evaluation's results by model, its points for the length plot, and the two stories to show.

    `inputs` are artifacts by instance name; a model whose `evaluate.M.E` is not among them is in `missing`.
    """
    evaluation = config.evaluations[name]
    results: list[dict[str, Any]] = []
    missing: list[str] = []
    for model in evaluation.models:
        artifact = inputs.get(f"evaluate.{model}.{name}")
        if artifact is None:
            missing.append(f"Evaluation {name} has no result for model {model}.")
            continue
        results.append(json.loads(artifact.read("result.json")))
    shown = _story_pair(name, results, inputs, config) if evaluation.kind == "story-quality" else None
    if not any(result["n"] for result in results):
        missing.append(f"Evaluation {name} has no scored story: its table shows lengths and counts alone.")
    elif shown is None and evaluation.kind == "story-quality":
        missing.append(f"Evaluation {name} has no prompt that both compared models have a score for.")
    sides = compared(config, name, [result["model"] for result in results])
    caveats = [result["caveat"] for result in results if result["caveat"]]
    return {
        "name": name,
        "kind": evaluation.kind,
        "judge": evaluation.judge,
        "judge_identity": next((result["judge"] for result in results if result["judge"]), None),
        "rubric": next((result["rubric"] for result in results if result["rubric"]), None),
        "caveat": caveats[0] if caveats else caveat,
        "baseline": evaluation.baseline,
        "lead": sides[1] if sides else None,
        "samples": evaluation.samples,
        "repeats": config.judges[evaluation.judge].repeats,
        "same_judge_as_training": any(result["same_judge_as_training"] for result in results),
        "models": results,
        "shown": shown,
        "missing": missing,
    }


def compared(config: RunConfig, name: str, present: list[str]) -> tuple[str | None, str] | None:
    """Return the two models to set side by side, `(left, right)`; left is None when there is only one.

    Left is the evaluation's baseline, else what the training started from, else the first other model.
    Right is the model that this run trained, else the first that is not left.
    """
    if not present:
        return None
    baseline = config.evaluations[name].baseline
    wanted = [baseline, *(train.base for train in config.trainings().values())]
    trained = [model for model in present if isinstance(config.models[model], TrainedModel)]
    for left in [model for model in wanted if model in present] + present:
        others = [model for model in trained + present if model != left]
        if others and (left == baseline or left not in trained):
            return left, others[0]
    return None, (trained + present)[0]


def model_rows(config: RunConfig, identities: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the configuration's models: name, kind, identity, who trains them, the index of their colour."""
    found = []
    for colour, (name, model) in enumerate(config.models.items()):
        path = model.path if isinstance(model, CheckpointModel) else None
        found.append(
            {
                "name": name,
                "kind": model.kind,
                "identity": identities.get(name),
                "folder": path.name if path else None,
                "base": config.training(model.arm).base if isinstance(model, TrainedModel) else None,
                "training": section_of(model.arm) if isinstance(model, TrainedModel) else None,
                "thinking": config.thinking(name),
                "colour": colour,
            }
        )
    return found


def _story_pair(
    name: str, results: list[dict[str, Any]], inputs: Mapping[str, Artifact], config: RunConfig
) -> dict[str, Any] | None:
    by_model = {result["model"]: result for result in results}
    written: dict[str, Written] = {}
    for model, result in by_model.items():
        stories, scores = inputs.get(f"generate.{model}.{name}"), inputs.get(f"judge.{model}.{name}")
        if stories is not None and scores is not None:
            written[model] = Written(
                model, stories.rows("stories.jsonl"), scores.rows("scores.jsonl"), result["per_story"]
            )
    found = compared(config, name, list(written))
    if found is None:
        return None
    left, right = found
    return choose(written[left] if left is not None else None, written[right])

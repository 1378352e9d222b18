"""A run's store, and its cluster's pods where there is one, in; the works that `cost.py` prices out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from polaris.artifact import Manifest, Progress, to_rows
from polaris.chat import Prices, estimated_tokens
from polaris.config import LengthEvaluation
from polaris.errors import InputError, TransientError
from polaris.execute.manifests import MODEL, Object
from polaris.generate import Prompt, at_targets, read_prompts
from polaris.models import EndpointModel
from polaris.plan import Instance
from polaris.recipe import ValidationConfig
from polaris.release.cost import (
    TOKENS_A_WORD,
    Spent,
    Work,
    at_least,
    cheaper,
    pods_time,
    story_tokens,
    template_gpus,
    training_seconds_left,
)
from polaris.release.follow import Follower
from polaris.release.objects import Snapshot, instance_of, labels_of
from polaris.release.open import Release
from polaris.run import Run
from polaris.train.forecast import FORECAST, beside, training_calls, validation_stories, validations
from polaris.train.job import METRICS, SPENT, VALIDATION
from polaris.train.settings import total_steps


@dataclass(frozen=True)
class Cluster:
    """What the cluster adds: its objects, the states and progress of instances, the manifests' templates."""

    snapshot: Snapshot
    states: Mapping[str, str] = field(default_factory=dict)
    progress: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    templates: Mapping[str, Object] = field(default_factory=dict)


def of_release(release: Release, steps: int | None = None) -> tuple[Run, list[Work], list[str]]:
    """Look at a release once and return its run, its works and what they rest on.

    Raises TransientError if its store cannot be reached.
    """
    follower = Follower(release)
    rows = follower.look().rows
    run = follower.run
    if run is None or follower.trouble:
        raise TransientError(follower.trouble)
    pods = {row.instance: follower.snapshot.progress.get(row.pod, {}) for row in rows}
    states = {row.instance: row.state for row in rows}
    return run, *works_of(run, Cluster(follower.snapshot, states, pods, release.templates), steps)


def prices_of(run: Run) -> dict[str, Prices]:
    """Return every model's prices."""
    return {name: Prices(*run.config.prices(name)) for name in run.config.models}


def works_of(
    run: Run, cluster: Cluster | None = None, steps: int | None = None
) -> tuple[list[Work], list[str]]:
    """Return every instance and, on a cluster, every server as a work, and what that rests on.

    `steps` are the training's as long as there are no pairs and no `train.max_steps` to tell them.
    """
    manifests = {name: run.manifest(name) for name in run.plan.instances}
    works: list[Work] = []
    said: list[str] = []
    waiting = [name for name, one in run.plan.instances.items() if one.on_demand and manifests[name] is None]
    if waiting:
        said.append(f"made on demand only, and not in the forecast: {', '.join(waiting)}")
    for name, instance in run.plan.instances.items():
        if name in waiting:
            continue
        progress = cluster.progress.get(name, {}) if cluster else {}
        work = _work(run, instance, manifests, progress, steps, said)
        work = replace(work, tier=_tier(run, instance, work.asked))
        works.append(_timed(work, instance, manifests[name], cluster, said))
    if cluster is not None:
        works += _servers(run, manifests, cluster, said)
    return works, list(dict.fromkeys(said))


def _work(
    run: Run,
    instance: Instance,
    manifests: Mapping[str, Manifest | None],
    progress: Mapping[str, Any],
    steps: int | None,
    said: list[str],
) -> Work:
    manifest = manifests[instance.name]
    asked = _asked(run, instance)
    if manifest is not None:
        spent = Spent.of(manifest.cost)
        tokens = (0.0, 0.0) if instance.kind == "generate" else None
        work = Work(instance.name, "complete", asked, spent, 0.0, tokens)
        if instance.kind == "train":
            said += _forecast_beside(run, instance.name, manifest)
        if not asked:
            return work
        saved, how = cheaper(instance.name, manifest.counts, spent, Prices(*run.config.prices(asked)))
        said += how
        return replace(work, saved=saved)
    if instance.kind == "train":
        return _training(run, instance, asked, manifests["data"], steps, said)
    if instance.kind == "judge" and asked:
        return _judging(run, instance, asked, progress, said)
    if instance.kind == "generate" and asked:
        return _generation(run, instance, asked, said)
    return Work(instance.name, "", asked)


def _asked(run: Run, instance: Instance) -> str:
    """Return the model whose calls an instance pays for, '' if it makes none."""
    config = run.config
    if instance.kind == "train":
        return config.judges[config.training(instance.params.get("arm")).judge].model
    if instance.kind == "judge":
        return config.judges[config.evaluations[instance.params["evaluation"]].judge].model
    if instance.kind == "generate" and isinstance(config.models[instance.params["model"]], EndpointModel):
        return instance.params["model"]
    return ""


def _tier(run: Run, instance: Instance, asked: str) -> Literal["standard", "flex", "batch"]:
    """Return how an instance asks the model that it pays for; training never asks by batch."""
    config = run.config
    if instance.kind == "judge":
        judge = config.judges[config.evaluations[instance.params["evaluation"]].judge]
        if judge.batch:
            return "batch"
    model = config.models.get(asked)
    return model.service_tier if isinstance(model, EndpointModel) else "standard"


def _training(
    run: Run, instance: Instance, asked: str, data: Manifest | None, steps: int | None, said: list[str]
) -> Work:
    train = run.config.training(instance.params.get("arm"))
    progress = Progress(run.store, run.prefix(instance.name))
    rows = to_rows(progress.get(METRICS) or b"", METRICS)
    validated = to_rows(progress.get(VALIDATION) or b"", VALIDATION)
    spent = Spent.of_steps([*rows, *validated]) + Spent.of(json.loads(progress.get(SPENT) or b"{}"))
    if data is not None:
        prompts = int(data.counts.get("train", 0))
        total = total_steps(prompts, train)
    else:
        total = train.max_steps or steps or 0
        # Without the pairs every prompt counts as new: no judgement is found in the cache.
        prompts = total * train.prompts_per_step
    if not total:
        said.append(
            f"{instance.name}'s steps follow from the pairs, which data has yet to make:"
            " give --steps to forecast"
        )
        return Work(instance.name, "", asked, spent, None)
    done = min(total, len(rows))
    left = total - done
    calls = training_calls(total, prompts, train) - training_calls(done, prompts, train)
    in_all = validations(total, train.validation)
    rounds = in_all - min(in_all, max(len(validated), validations(done, train.validation)))
    calls += rounds * _stories(instance.name, train.validation, data, rounds, said)
    references = ", the human reference among them" if train.hri.max_weight else ""
    said.append(
        f"{instance.name} has {left} of {total} steps left: {train.prompts_per_step} prompts ×"
        f" {train.group_size} rows a step are judged{references}; invalid answers are asked for once more"
    )
    seconds = training_seconds_left(rows, left)
    if seconds is not None and rounds:
        more = training_seconds_left(validated, rounds)
        said += [] if more else [f"the time of {instance.name}'s validations to come is not known yet"]
        seconds += more or 0.0
    return Work(instance.name, "", asked, spent, float(calls), gpu_s_left=seconds)


def _stories(
    name: str, validation: ValidationConfig | None, data: Manifest | None, rounds: int, said: list[str]
) -> int:
    """Return the stories of one validation, each judged by a call, where `rounds` of them are to come."""
    held_back = None if data is None else int(data.counts.get("validation", 0))
    stories = validation_stories(validation, held_back)
    if rounds and stories:
        said.append(f"{name} has {rounds} validations left, of at most {stories:,} held back pairs each")
    elif rounds and stories is None:
        said.append(
            f"{name}'s validations are not counted: data has yet to tell how many pairs are held back"
        )
    return stories or 0


def _forecast_beside(run: Run, name: str, manifest: Manifest) -> list[str]:
    """Return what a finished training was forecast to take beside what it took, if a forecast was kept."""
    kept = Progress(run.store, run.prefix(name)).get(FORECAST)
    if kept is None:
        return []
    spent, counts = Spent.of(manifest.cost), manifest.counts
    rows = beside(json.loads(kept), counts.get("steps", 0), spent.calls, spent.usd, counts.get("hours"))
    told = "; ".join(f"{what} {forecast}, it took {took}" for what, forecast, took in rows)
    return [f"{name} was forecast: {told}"]


def _judging(run: Run, instance: Instance, asked: str, progress: Mapping[str, Any], said: list[str]) -> Work:
    evaluation = run.config.evaluations[instance.params["evaluation"]]
    done = float(progress.get("done") or 0)
    paid = max(0.0, done - float(progress.get("cached") or 0))
    spent = Spent(calls=paid, usd=float(progress.get("usd") or 0))
    prompts = _prompts(run, instance, said)
    if prompts is None:
        return Work(instance.name, "", asked, spent, None)
    total = len(prompts) * evaluation.samples * run.config.judges[evaluation.judge].repeats
    said.append("an evaluation's judge is called once a judgement: prompts × samples × repeats")
    return Work(instance.name, "", asked, spent, max(0.0, total - done))


def _generation(run: Run, instance: Instance, asked: str, said: list[str]) -> Work:
    evaluation = run.config.evaluations[instance.params["evaluation"]]
    prompts = _prompts(run, instance, said)
    if prompts is None:
        return Work(instance.name, "", asked, calls_left=None)
    stories = len(prompts) * evaluation.samples
    left = max(0, stories - len(Progress(run.store, run.prefix(instance.name)).names("rows/")))
    share = left / stories if stories else 0.0
    targets = [prompt.target_word_count for prompt in prompts] * evaluation.samples
    reads = sum(estimated_tokens(prompt.asked) for prompt in prompts) * evaluation.samples
    tokens = (reads * share, story_tokens(targets, evaluation.max_tokens) * share)
    said.append(
        f"a story of {asked} takes {TOKENS_A_WORD} tokens a word of its target, reasoning not counted"
    )
    return Work(instance.name, "", asked, Spent(), float(left), tokens)


def _prompts(run: Run, instance: Instance, said: list[str]) -> list[Prompt] | None:
    """Return an instance's prompts, None if they lie where only the pods can read them."""
    evaluation = run.config.evaluations[instance.params["evaluation"]]
    try:
        prompts = read_prompts(run.local(evaluation.prompts))[: evaluation.limit]
    except InputError as error:
        said.append(f"no forecast for {instance.name}: {error}")
        return None
    if isinstance(evaluation, LengthEvaluation) and evaluation.targets:
        return at_targets(prompts, evaluation.targets)
    return prompts


def _timed(
    work: Work, instance: Instance, manifest: Manifest | None, cluster: Cluster | None, said: list[str]
) -> Work:
    """Add what the instance took: by its pods, else by its manifest."""
    if cluster is None:
        return replace(work, wall_s=manifest.seconds if manifest else None, gpu_s_left=None)
    gpus = template_gpus(cluster.templates.get(f"stage-{instance.kind}.yaml"))
    left = work.gpu_s_left * gpus if work.gpu_s_left is not None and gpus else None
    if left:
        said.append(f"{work.name}'s last steps tell how long the next ones take; it holds {gpus} GPUs")
    work = replace(work, state=work.state or cluster.states.get(work.name, ""), gpu_s_left=left)
    pods = [pod for pod in cluster.snapshot.pods if instance_of(pod) == instance.name]
    found = pods_time(pods, cluster.snapshot)
    if found is not None:
        return replace(work, wall_s=found[0], gpu_s=found[1] if gpus or found[1] else None)
    if manifest is None:
        return work
    if gpus:
        said.append(
            f"pods of {work.name} are gone: its last attempt's own time × the {gpus} GPUs that it asks for"
        )
    return replace(work, wall_s=manifest.seconds, gpu_s=manifest.seconds * gpus if gpus else None)


def _servers(
    run: Run, manifests: Mapping[str, Manifest | None], cluster: Cluster, said: list[str]
) -> list[Work]:
    """Return the models' servers: each took its pods' time, and at least that of the stages that used it."""
    works = []
    for model in sorted({model for one in run.plan.instances.values() for model in one.services}):
        users = [name for name, one in run.plan.instances.items() if model in one.services]
        used = sum(manifest.seconds for name in users if (manifest := manifests[name]))
        gpus = template_gpus(cluster.templates.get(f"serve-{model}.yaml"))
        pods = [pod for pod in cluster.snapshot.pods if labels_of(pod).get(MODEL) == model]
        found = pods_time(pods, cluster.snapshot)
        wall, gpu = found or (0.0, 0.0)
        work = Work(f"service-{model}", "", wall_s=wall, gpu_s=gpu if gpus else None)
        works.append(at_least(work, used, gpus))
        if used > wall:
            said.append(
                "a server whose pods are gone is counted for the time of the stages that used it, without"
                " its start"
            )
    return [work for work in works if work.wall_s]

"""A run that has not finished in, the facts of its page as of now out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from polaris.artifact import Artifact, Progress
from polaris.models import CheckpointModel
from polaris.report.facts import collect
from polaris.report.records import Records, of_progress
from polaris.run import Run

COMPLETE, RUNNING = "complete", "running"


@dataclass(frozen=True)
class Part:
    """An instance that the report is about, its state (as `polaris status` shows it) and why."""

    instance: str
    state: str
    reason: str = ""


def live_facts(run: Run, report: str, parts: Sequence[Part], now: datetime) -> dict[str, Any] | None:
    """Return what the page of an unfinished report shows; None if nothing of it has begun.

    Beside the facts of a finished one, `live` holds as_of (`now`), working (whether anything runs), done and
    of (numbers of parts), states (of the parts that are not complete: state → instances) and parts (those
    that have a reason to tell). Evaluations without any result are left out, and nothing counts as missing.

    Args:
        run: the run.
        report: the report's instance, `report` or `report.EVALUATION`.
        parts: the states of the instances that it needs.
        now: the time, with its zone.

    """
    instance = run.instance(report)
    inputs: dict[str, Artifact] = {}
    going: dict[str, Records] = {}
    for name in instance.needs:
        manifest = run.manifest(name)
        if manifest is not None:
            inputs[name] = Artifact(run.store, manifest)
        elif run.plan.instances[name].kind == "train":
            records = of_progress(Progress(run.store, run.prefix(name)))
            if records:
                going[name] = records
    unfinished = [part for part in parts if part.instance not in inputs]
    if not inputs and not going and not any(part.state == RUNNING for part in unfinished):
        return None
    facts = collect(
        inputs,
        run.config,
        needs=instance.needs,
        config_path=run.path,
        identities={name: run.identity_of_model(name) for name in run.config.models},
        caveats={name: _caveat(run, name) for name in run.config.judges},
        evaluation=instance.params.get("evaluation"),
        going=going,
    )
    facts["evaluations"] = [found for found in facts["evaluations"] if found["models"]]
    facts["missing"] = []
    facts["live"] = {
        "as_of": now.isoformat(timespec="seconds"),
        "working": any(part.state == RUNNING for part in unfinished),
        "done": len(inputs),
        "of": len(instance.needs),
        "states": _states(unfinished),
        "parts": [{"instance": part.instance, "reason": part.reason} for part in unfinished if part.reason],
    }
    return facts


def headline(facts: Mapping[str, Any]) -> str:
    """Return in one line how far an unfinished run is."""
    live = facts["live"]
    steps = [
        f"{training['label']} at step {training['took']['steps']}"
        + (f" of about {training['planned']}" if training["planned"] else "")
        for training in facts["trainings"]
        if not training["finished"]
    ]
    told = [f"{live['done']} of {live['of']} parts finished", *steps]
    return f"{'in progress' if live['working'] else 'not finished, nothing is at work'}: {', '.join(told)}"


def _states(parts: Sequence[Part]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for part in parts:
        found.setdefault(part.state, []).append(part.instance)
    return found


def _caveat(run: Run, judge: str) -> str | None:
    """Return a judge's caveat, None where its weights are on the cluster alone and cannot be weighed here."""
    model = run.config.models[run.config.judges[judge].model]
    path = model.path if isinstance(model, CheckpointModel) else None
    return None if path and path not in run.imports and not path.is_dir() else run.caveat(judge)

"""A run's finished artifacts in, one plain dict out: all that the page and `report.json` say.

Nothing is computed twice: figures come from the evaluate stage's results, counts and costs from the
manifests. A part that is not there is None and named in `missing`.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from polaris.artifact import Artifact, Manifest
from polaris.config import RunConfig
from polaris.plan import train_instance
from polaris.report.pairs import dimensions
from polaris.report.records import Records, of_artifact
from polaris.report.scores import evaluation_facts, model_rows
from polaris.report.training import training_facts, without_stories

FORMAT = 2
"""1: one training, as `training`. 2: `trainings`, one entry for `train` and each arm; `live`."""
COSTS = ("calls", "cached_calls", "prompt_tokens", "completion_tokens", "usd")


def collect(
    inputs: Mapping[str, Artifact],
    config: RunConfig,
    *,
    needs: Collection[str],
    config_path: Path,
    identities: Mapping[str, str],
    caveats: Mapping[str, str | None],
    evaluation: str | None = None,
    going: Mapping[str, Records] | None = None,
) -> dict[str, Any]:
    """Return the report's facts; `live` is None, and for who draws a run that goes on to fill in.

    Args:
        inputs: finished artifacts by instance name.
        config: the run's configuration.
        needs: the instances that the report is about, finished or not.
        config_path: the configuration's file; paths below its folder are shown relative to it, so that a
            report that is passed on does not tell where its maker keeps things.
        identities: model name → identity of its weights or endpoint.
        caveats: judge name → what to say wherever its scores appear, None for a judge to be trusted.
        evaluation: the one evaluation that an on-demand report is of; None for the run's own report.
        going: records of trainings that have begun and not finished, by instance name.

    """
    manifests = [artifact.manifest for artifact in inputs.values()]
    evaluations = _evaluations(inputs, config, needs, caveats)
    data = data_facts(inputs["data"]) if "data" in inputs else None
    trained = {name: arm for arm in config.trainings() if (name := train_instance(arm)) in needs}
    records = {name: of_artifact(inputs[name]) for name in trained if name in inputs} | dict(going or {})
    pairs = data["splits"].get("train", data["pairs"]) if data else None
    trainings = [
        training_facts(arm, records[name], config, identities, pairs)
        for name, arm in trained.items()
        if name in records
    ]
    missing = _missing(config, data, [name for name in trained if name not in records], evaluations)
    return {
        "format": FORMAT,
        "run": config.run,
        "evaluation": evaluation,
        "live": None,
        "trains": bool(trained),
        "config_file": config_path.name,
        "seed": config.seed,
        "started": min((manifest.started for manifest in manifests), default=None),
        "finished": max((manifest.finished for manifest in manifests), default=None),
        "caveats": _caveats(config, caveats, evaluations, trained.values()),
        "models": model_rows(config, identities),
        "rubric": dimensions(),
        "evaluations": evaluations,
        "trainings": trainings,
        "data": data,
        "instances": [instance_facts(manifest) for manifest in manifests],
        "totals": _totals(manifests, (found for found in records.values() if not found.finished)),
        "versions": _versions(manifests),
        "config": _relative(config.model_dump(mode="json"), str(config_path.absolute().parent)),
        "missing": missing,
    }


def _evaluations(
    inputs: Mapping[str, Artifact],
    config: RunConfig,
    needs: Collection[str],
    caveats: Mapping[str, str | None],
) -> list[dict[str, Any]]:
    return [
        evaluation_facts(name, inputs, config, caveats.get(settings.judge))
        for name, settings in config.evaluations.items()
        if any(f"evaluate.{model}.{name}" in needs for model in settings.models)
    ]


def _missing(
    config: RunConfig,
    data: Mapping[str, Any] | None,
    untrained: Sequence[str],
    evaluations: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Return what a reader might look for in vain, a sentence each."""
    missing = [] if data is not None else ["The data stage has no artifact here."]
    missing += [
        f"The {name} stage has no artifact here: there are no training curves of it." for name in untrained
    ]
    missing += [line for facts in evaluations for line in facts["missing"]]
    if not config.evaluations:
        missing.append("The configuration names no evaluation: nothing was scored.")
    elif not evaluations:
        missing.append("Each evaluation of this run is made on demand and has a report of its own.")
    return missing


def without_texts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts as `report.json` holds them: the shown stories by id, without prompt and text."""
    found = dict(facts)
    found["trainings"] = [without_stories(training) for training in facts["trainings"]]
    found["evaluations"] = []
    for evaluation in facts["evaluations"]:
        shown = evaluation["shown"]
        if shown is not None:
            entries = [
                {key: value for key, value in entry.items() if key not in ("story", "notes")}
                for entry in shown["shown"]
            ]
            shown = {**{key: value for key, value in shown.items() if key != "prompt"}, "shown": entries}
        found["evaluations"].append({**evaluation, "shown": shown})
    return found


def data_facts(artifact: Artifact) -> dict[str, Any]:
    """Return what the pairs are: books, stories a book, splits, words, and the stage's own counts."""
    rows = artifact.rows("pairs.jsonl")
    counts = artifact.manifest.counts
    words = sorted(int(row["words"]) for row in rows)
    return {
        "pairs": len(rows),
        "splits": dict(sorted(Counter(str(row["split"]) for row in rows).items())),
        "authors": len({str(row["author"]) for row in rows}),
        "books": _books(rows),
        "words": {"min": words[0], "median": statistics.median(words), "max": words[-1]} if words else None,
        "counts": dict(counts),
        "left_out": {
            key.removeprefix("left_out").lstrip("._/ "): value
            for key, value in counts.items()
            if key.startswith("left_out") and value
        },
        "notes": list(artifact.manifest.notes),
    }


def instance_facts(manifest: Manifest) -> dict[str, Any]:
    """Return one instance's row: identity, times, counts and cost."""
    return {
        "name": manifest.instance,
        "kind": manifest.kind,
        "digest": manifest.digest,
        "attempt": manifest.attempt,
        "seconds": manifest.seconds,
        "started": manifest.started,
        "finished": manifest.finished,
        "counts": dict(manifest.counts),
        "cost": {**dict.fromkeys(COSTS), **manifest.cost},
        "notes": list(manifest.notes),
        "upstream": dict(manifest.upstream),
        "objects": len(manifest.objects),
        "bytes": sum(entry.size for entry in manifest.objects),
    }


def _caveats(
    config: RunConfig,
    caveats: Mapping[str, str | None],
    evaluations: Sequence[Mapping[str, Any]],
    arms: Collection[str | None],
) -> list[dict[str, Any]]:
    """Return each judge that is not to be trusted, and where its scores appear."""
    found = []
    for judge in config.judges:
        where = [evaluation["name"] for evaluation in evaluations if evaluation["judge"] == judge]
        trained = any(config.training(arm).judge == judge for arm in arms)
        texts = [evaluation["caveat"] for evaluation in evaluations if evaluation["judge"] == judge]
        text = caveats.get(judge) or next((text for text in texts if text), None)
        if text and (where or trained):
            found.append({"judge": judge, "text": text, "evaluations": where, "training": trained})
    return found


def _relative(value: Any, folder: str) -> Any:
    """Return the configuration with the paths below a folder relative to it."""
    if isinstance(value, dict):
        return {key: _relative(child, folder) for key, child in value.items()}
    if isinstance(value, list):
        return [_relative(child, folder) for child in value]
    if isinstance(value, str):
        return value.removeprefix(f"file://{folder}/").removeprefix(f"{folder}/")
    return value


def _books(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    books: dict[str, dict[str, Any]] = {}
    for row in rows:
        source = row["provenance"]
        key = str(source.get("sha256") or source.get("book"))
        book = books.setdefault(
            key,
            {
                "book": source.get("book"),
                "sha256": source.get("sha256"),
                "rights": source.get("rights"),
                "stories": 0,
                "authors": set(),
            },
        )
        book["stories"] += 1
        book["authors"].add(str(row["author"]))
    return [{**book, "authors": sorted(book["authors"])} for book in books.values()]


def _totals(manifests: Sequence[Manifest], going: Iterable[Records]) -> dict[str, float]:
    """Return what all stages took; a training that goes on counts with what it has paid."""
    trainings = list(going)
    costs = [*(one.cost for one in manifests), *(one.cost for one in trainings)]
    times = [*(one.seconds for one in manifests), *(one.seconds or 0.0 for one in trainings)]
    found: dict[str, float] = {"seconds": sum(times)}
    for key in COSTS:
        found[key] = sum(cost.get(key, 0) for cost in costs)
    return found


def _versions(manifests: Sequence[Manifest]) -> dict[str, list[str]]:
    """Return every package's versions: more than one where stages ran with different ones."""
    found: dict[str, set[str]] = {}
    for manifest in manifests:
        for package, version in manifest.versions.items():
            found.setdefault(package, set()).add(version)
    return {package: sorted(versions) for package, versions in sorted(found.items())}

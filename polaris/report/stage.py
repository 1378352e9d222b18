"""The artifacts of the run, or of one evaluation on demand, in; `report.html` and `report.json` out."""

from __future__ import annotations

import json

from polaris.report.facts import collect, without_texts
from polaris.report.page import render
from polaris.stage import StageContext


def run(context: StageContext) -> None:
    """Collect the run's facts and write them twice: for people and for programs."""
    facts = collect(
        context.inputs,
        context.config,
        needs=context.instance.needs,
        config_path=context.config_path,
        identities={name: context.run.identity_of_model(name) for name in context.config.models},
        caveats={name: context.caveat(name) for name in context.config.judges},
        evaluation=context.instance.params.get("evaluation"),
    )
    # Half a surrogate pair in a story, an id or a reason must not stop the page: it is replaced.
    context.output.put("report.html", render(facts).encode("utf-8", "replace"))
    data = json.dumps(without_texts(facts), sort_keys=True, indent=1, allow_nan=False)
    context.output.put("report.json", data.encode())
    context.counts["evaluations"] = len(facts["evaluations"])
    context.counts["models"] = len(facts["models"])
    context.notes.extend(caveat["text"] for caveat in facts["caveats"])
    context.notes.extend(facts["missing"])

"""One model's stories in, `scores.jsonl` and `failures.jsonl` out.

The rows depend on the stories and the judge's answers alone, and on what those took when they were given: an
attempt that finds every answer in the cache writes the same bytes. A judgement that failed is a row of
`failures.jsonl`, also one whose call alone got no answer while others did; only an endpoint that answers
nobody for `outage_s` makes the stage try again later.
"""

from __future__ import annotations

import asyncio

from polaris.budget import open_budget
from polaris.judge.judgements import judge_all
from polaris.judge.score import open_judge
from polaris.stage import StageContext


def run(context: StageContext) -> None:
    """Judge every story of `generate.MODEL.EVALUATION`, `repeats` times each.

    Raises what `judge_all` does: BudgetError, TransientError, ConfigError or Stopped, with all answers kept.
    """
    model, evaluation = context.instance.params["model"], context.instance.params["evaluation"]
    name = context.config.evaluations[evaluation].judge
    stories = context.inputs[f"generate.{model}.{evaluation}"].rows("stories.jsonl")
    endpoint = context.endpoint(context.config.judges[name].model)
    caveat = context.caveat(name)
    budget = open_budget(context.config, context.store)
    try:
        judge = open_judge(
            context.config,
            name,
            endpoint,
            context.store,
            budget=budget,
            stopped=lambda: context.stop.requested,
        )
        outcome = asyncio.run(
            judge_all(
                judge,
                stories,
                setting=f"judges.{name}",
                stop=context.stop,
                caveat=caveat,
                batches=context.progress,
            )
        )
    finally:
        if budget is not None:
            budget.close()
    counts = {"stories": len(stories), "scored": len(outcome.scores), "failed": len(outcome.failures)}
    context.counts |= counts | outcome.usage.events()
    context.cost |= outcome.usage.cost()
    context.notes += [*judge.notes, *([caveat] if caveat else [])]
    context.output.put_rows("scores.jsonl", outcome.scores)
    context.output.put_rows("failures.jsonl", outcome.failures)

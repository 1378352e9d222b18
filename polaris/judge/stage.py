"""One model's stories in, `scores.jsonl` and `failures.jsonl` out.

The rows depend on the stories and the judge's answers alone: no time, no cost, no word of the cache.
A run that stops loses nothing paid for, since every answer is in the cache before the next is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from polaris.errors import TransientError
from polaris.judge.score import Judge, JudgeFailed, Scored, open_judge
from polaris.llm import STOP_GRACE_S, Breaker, each
from polaris.reward.quality import label, overall
from polaris.runtime import ProgressBar, get_logger, progress
from polaris.stage import StageContext

Row = dict[str, Any]

log = get_logger("judge")


@dataclass
class _Outcome:
    """What has been judged so far."""

    scores: list[Row] = field(default_factory=list)
    failures: list[Row] = field(default_factory=list)
    repaired: int = 0
    unavailable: list[str] = field(default_factory=list)
    """Why the judgements failed that the judge's endpoint is to blame for."""
    breaker: Breaker = field(default_factory=Breaker)


def run(context: StageContext) -> None:
    """Judge every story of `generate.MODEL.EVALUATION`, `repeats` times each.

    Raises TransientError if the judge's endpoint was down for even one judgement (the others are in the
    cache), ConfigError if it rejects key, model or parameters, Stopped on a signal, after the calls under
    way or `STOP_GRACE_S`.
    """
    model, evaluation = context.instance.params["model"], context.instance.params["evaluation"]
    name = context.config.evaluations[evaluation].judge
    stories = context.inputs[f"generate.{model}.{evaluation}"].rows("stories.jsonl")
    endpoint = context.endpoint(context.config.judges[name].model)
    judge = open_judge(context.config, name, endpoint, context.store)
    caveat = context.caveat(name)
    outcome = asyncio.run(_judge_all(context, judge, stories, caveat))
    usage = judge.client.usage
    context.counts |= {
        "stories": len(stories),
        "scored": len(outcome.scores),
        "failed": len(outcome.failures),
        "repaired": outcome.repaired,
        "retries": usage.retries,
        "cached_calls": usage.cached_calls,
    }
    context.cost |= usage.cost()
    if caveat:
        context.notes.append(caveat)
    context.output.put_rows("scores.jsonl", sorted(outcome.scores, key=_order))
    context.output.put_rows("failures.jsonl", sorted(outcome.failures, key=_order))


async def _judge_all(context: StageContext, judge: Judge, stories: list[Row], caveat: str | None) -> _Outcome:
    outcome = _Outcome()
    total = len(stories) * judge.config.repeats
    log.info("judge", judge=judge.identity, rubric=judge.rubric, stories=len(stories), judgements=total)
    with progress(total, "judgements") as bar:

        async def work(item: tuple[Row, int]) -> None:
            await _judge_one(judge, item[0], item[1], caveat, outcome, bar)

        async with judge.client:
            await each(
                _judgements(stories, judge.config.repeats),
                work,
                width=judge.config.concurrency,
                stopped=lambda: context.stop.requested or outcome.breaker.open,
                grace_s=STOP_GRACE_S,
            )
    context.stop.check()
    if outcome.unavailable:
        raise TransientError(
            f"judges.{context.config.evaluations[context.instance.params['evaluation']].judge}:"
            f" {judge.client.endpoint.url} is unavailable for {len(outcome.unavailable)} of {total}"
            f" judgements ({outcome.unavailable[-1]}); {len(outcome.scores)} are kept,"
            " run again when it answers"
        )
    return outcome


def _judgements(stories: list[Row], repeats: int) -> Iterator[tuple[Row, int]]:
    return ((story, repeat) for story in stories for repeat in range(repeats))


async def _judge_one(
    judge: Judge, story: Row, repeat: int, caveat: str | None, outcome: _Outcome, bar: ProgressBar
) -> None:
    key: Row = {"id": story["id"], "sample": story["sample"], "repeat": repeat}
    try:
        scored = await judge.score(story["prompt"], story["story"], repeat=repeat)
    except JudgeFailed as failed:
        outcome.failures.append(key | {"reason": failed.reason})
        if failed.unavailable:
            outcome.unavailable.append(failed.reason)
        outcome.breaker.note(unavailable=failed.unavailable)
        log.warning("judgement_failed", **key, reason=failed.reason)
    else:
        outcome.scores.append(key | _score_row(judge, scored, caveat))
        outcome.repaired += scored.repaired
        outcome.breaker.note(unavailable=False)
    usage = judge.client.usage
    bar.advance(failed=len(outcome.failures), cached=usage.cached_calls, usd=round(usage.usd, 4))


def _score_row(judge: Judge, scored: Scored, caveat: str | None) -> Row:
    total = overall(scored.judgement)
    return {
        "overall": total,
        "label": label(total),
        "judgement": scored.judgement.to_json(),
        "quote_validity": scored.judgement.quote_validity,
        "repaired": scored.repaired,
        "rubric": judge.rubric,
        "judge": judge.identity,
        "caveat": caveat,
    }


def _order(row: Row) -> tuple[str, int, int]:
    return row["id"], row["sample"], row["repeat"]

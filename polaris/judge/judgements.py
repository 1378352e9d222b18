"""Stories and a judge in, a score or a listed failure for every story and repeat out, however many.

The `judge` stage and `polaris judge score` both are this loop with an edge. What stops it (a signal, a spent
budget, an outage, a rejected key) loses nothing paid for: what is under way may finish, and every answer is
in the cache before the next is asked for, so the same call made again goes on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from polaris.artifact import Progress
from polaris.chat import ChatRequest, Usage
from polaris.errors import PolarisError, TransientError
from polaris.judge.rows import Row, failure_row, row_order, score_row
from polaris.judge.score import Judge, JudgeFailed, Scored
from polaris.llm import STOP_GRACE_S, each
from polaris.runtime import ProgressBar, StopFlag, get_logger, progress

log = get_logger("judge")


@dataclass
class Outcome:
    """What has been judged, and what it took."""

    total: int
    """Judgements asked for: stories × repeats."""
    scores: list[Row] = field(default_factory=list)
    failures: list[Row] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    error: PolarisError | None = None
    """The first error that no other judgement would be spared: a spent budget, a rejected key."""
    outage: str | None = None
    """Why a judgement failed while the endpoint answered nobody."""
    resumed: int = 0
    """Scores whose every answer was kept already."""
    begun: float = field(default_factory=time.monotonic)
    """When the first judgement was asked for, on the monotonic clock."""
    usd: float = 0.0
    """What the answers of the scores cost, whenever they were bought."""

    @property
    def ended(self) -> bool:
        """Whether nothing more may be begun, though what is under way may finish."""
        return self.error is not None or self.outage is not None

    def scored(self, row: Row, scored: Scored) -> None:
        """Add a score."""
        self.scores.append(row)
        self.resumed += scored.cached_calls == scored.calls
        self.usd += scored.usd

    def figures(self, usage: Usage) -> dict[str, Any]:
        """Return what stands beside the bar.

        `per_minute` counts what this process asked for, `usd` what it spent; `usd_forecast` is what all
        judgements cost together, whenever they were bought, at the mean of the scores so far.
        """
        done = len(self.scores) + len(self.failures) - self.resumed
        minutes = max(time.monotonic() - self.begun, 1e-9) / 60
        mean = self.usd / len(self.scores) if self.scores else 0.0
        return {
            "failed": len(self.failures),
            "cached": usage.cached_calls,
            "retries": usage.retries,
            "per_minute": round(done / minutes, 1),
            "usd": round(usage.usd, 4),
            "usd_forecast": round(max(mean * self.total, usage.usd), 4),
        }


async def judge_all(
    judge: Judge,
    stories: Sequence[Row],
    *,
    setting: str,
    stop: StopFlag,
    caveat: str | None = None,
    batches: Progress | None = None,
) -> Outcome:
    """Judge every story `repeats` times; `stories` hold id, sample, prompt, story, words, target_word_count.

    `setting` names the judge in messages (`judges.judge`); `batches` is where a judge that is to ask by batch
    keeps the ids of its batches. Scores and failures come back sorted by id, sample and repeat.

    Raises:
        BudgetError: the budget is spent.
        TransientError: the endpoint answered nobody for `outage_s`, the account has no credit left, or the
            store is down.
        ConfigError: the endpoint rejects key, model or parameters.
        Stopped: on a signal, after the calls under way or `STOP_GRACE_S`.

    Before the first three all that was under way has finished and is kept.

    """
    found = Outcome(len(stories) * judge.config.repeats)
    log.info("judge", judge=judge.identity, rubric=judge.rubric, stories=len(stories), judgements=found.total)
    earlier = Usage()
    async with judge.client:
        try:
            if judge.config.batch and batches is not None:
                earlier = await _by_batch(judge, stories, batches, stop)
            found.begun = time.monotonic()
            with progress(found.total, "judgements") as bar:

                async def work(item: tuple[Row, int]) -> None:
                    await _judge_one(judge, *item, caveat, found, bar)

                await each(
                    _waiting(stories, judge.config.repeats, found),
                    work,
                    width=judge.client.width,
                    stopped=lambda: stop.requested or judge.client.outage,
                    grace_s=STOP_GRACE_S,
                )
        finally:
            found.usage = judge.client.usage + earlier
            log.info(
                "judged",
                scored=len(found.scores),
                failed=len(found.failures),
                **found.usage.cost(),
                **found.usage.events(),
            )
    stop.check()
    _require_complete(found, judge, setting)
    found.scores.sort(key=row_order)
    found.failures.sort(key=row_order)
    return found


def _waiting(stories: Sequence[Row], repeats: int, found: Outcome) -> Iterator[tuple[Row, int]]:
    """Yield what is to be judged until nothing more may be begun."""
    for story in stories:
        for repeat in range(repeats):
            if found.ended:
                return
            yield story, repeat


async def _judge_one(
    judge: Judge, story: Row, repeat: int, caveat: str | None, found: Outcome, bar: ProgressBar
) -> None:
    resumed = found.resumed
    try:
        scored = await judge.score(story["prompt"], story["story"], repeat=repeat)
    except PolarisError as error:
        # Others are under way and paid for: none of them must be cancelled.
        found.error = found.error or error
        return
    except JudgeFailed as failed:
        row = failure_row(story, repeat, failed.reason)
        found.failures.append(row)
        if failed.unavailable and judge.client.outage:
            found.outage = failed.reason
        log.warning("judgement_failed", **row)
    else:
        found.scored(score_row(story, repeat, judge, scored, caveat), scored)
    figures = found.figures(judge.client.usage)
    if found.resumed > resumed:
        # The bar leaves these out of its speed.
        figures["resumed"] = found.resumed
    bar.advance(**figures)


async def _by_batch(judge: Judge, stories: Sequence[Row], batches: Progress, stop: StopFlag) -> Usage:
    """Have all that is not kept answered by batch; return what earlier attempts' batches cost."""
    from polaris.batch import fill

    done = await fill(judge.client, _asked(judge, stories), batches, stop=stop)
    if not done.schema_rejected:
        return done.earlier
    # Asked live, all of it would be bought at the full price.
    judge.fall_back()
    again = await fill(judge.client, _asked(judge, stories), batches, stop=stop)
    return done.earlier + again.earlier


def _asked(judge: Judge, stories: Sequence[Row]) -> list[tuple[ChatRequest, int]]:
    """Return the first question about every story that is to be judged, with each repeat's number."""
    asked: list[tuple[ChatRequest, int]] = []
    for story in stories:
        try:
            request = judge.requests(story["prompt"], story["story"])
        except JudgeFailed:
            continue
        asked += [(request, repeat) for repeat in range(judge.config.repeats)]
    return asked


def _require_complete(found: Outcome, judge: Judge, setting: str) -> None:
    kept = f"{len(found.scores)} of {found.total} judgements are kept"
    if found.error is not None:
        raise type(found.error)(f"{found.error}; {kept}")
    if found.outage is not None or len(found.scores) + len(found.failures) < found.total:
        why = found.outage or "the calls under way were given up"
        raise TransientError(
            f"{setting}.outage_s: {judge.client.endpoint.url} answered nobody for {judge.config.outage_s:g} s"
            f" ({why}); {kept}, run again when it answers"
        )

"""Completions in, one clipped reward a row out, or None where the judge failed: TRL's one reward function.

TRL can only add weighted columns, whose sum it cannot clip and in which a missing one counts as 0; so the
composite (recipe §3, `polaris.reward`) is made here, and its components are logged beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from polaris.chat import Usage
from polaris.errors import PolarisError
from polaris.judge.parse import Judgement
from polaris.judge.score import JudgeFailed
from polaris.recipe import RewardConfig
from polaris.reward.composite import Components, TokenTerms, reward, score_story, split_thinking
from polaris.reward.settings import Settings
from polaris.runtime import get_logger
from polaris.text import THINK_END
from polaris.train.agreement import Outcome
from polaris.train.job import COST, EVENTS, KINDS
from polaris.train.underway import Notes

JudgeStory = Callable[[str, str], Awaitable[Judgement | None]]
"""Prompt and story in, judgement out; raises JudgeFailed, or returns None, where there is none."""

LogMetric = Callable[[str, float], None]
Result = Judgement | JudgeFailed | PolarisError

log = get_logger("reward")


@dataclass(frozen=True)
class Scored:
    """A completion's text, its story if it has one, the components of its reward, and its judgement."""

    text: str
    story: str | None
    parts: Components
    judgement: Judgement | None


class Reward:
    """The reward function of training; TRL awaits it once a generation batch.

    Args:
        judge: asked about each story that exists; a blank one costs no call.
        config: weights, clip, floors and optional terms.
        tokenizer: decodes completions.
        thinking: only what follows `</think>` is a story.
        end_id: the end-of-turn token; a completion without it was cut.
        max_completion_tokens: where a completion is cut.
        processes: training processes, over which counts are summed.
        usage: what the judge's calls have cost so far in this process; None counts the stories asked about.
        in_flight: US$ that each attempt may cost which is sent and not in `usage` yet.
        notes: where what a batch has cost so far is kept, in case the process is killed.
        outage: whether the judge's client takes its endpoint for down.

    Attributes:
        outcome: what became of the last batch's judge calls.

    """

    __name__ = "composite"

    def __init__(
        self,
        judge: JudgeStory,
        config: RewardConfig,
        tokenizer: Any,
        *,
        thinking: bool,
        end_id: int,
        max_completion_tokens: int,
        processes: int = 1,
        usage: Callable[[], Usage] | None = None,
        in_flight: Callable[[], Sequence[float]] = lambda: (),
        outage: Callable[[], bool] = lambda: False,
        notes: Notes | None = None,
    ) -> None:
        self.judge = judge
        self.tokenizer = tokenizer
        self.thinking = thinking
        self.end_id = end_id
        self.processes = processes
        self._asked = Usage()
        self.usage = usage or (lambda: self._asked)
        self.in_flight = in_flight
        self.outage = outage
        self.notes = notes
        self.outcome = Outcome()
        self.settings = Settings.of(config)
        self.token_terms = token_terms_of(config, max_completion_tokens)
        self._booked = Usage()

    async def __call__(
        self,
        *,
        prompts: list[list[dict[str, str]]],
        completion_ids: list[list[int]],
        target_word_count: list[int],
        is_reference: list[bool],
        log_metric: LogMetric,
        trainer_state: Any = None,
        **_: Any,
    ) -> list[float | None]:
        """Return a reward for each row, None where there is no judgement; say in `outcome` what failed.

        It raises no error of the judge's: what this process alone has met, all must stop for together.
        """
        if trainer_state is not None:
            self.begin({"step": trainer_state.global_step + 1})
        asked = [prompt[-1]["content"] for prompt in prompts]
        rewards: list[float | None] = []
        for row, scored in enumerate(
            await self.score(asked, completion_ids, target_word_count, is_reference)
        ):
            rewards.append(reward(scored.parts, self.settings.weights, self.settings.clip))
            if is_reference[row]:
                _log_reference(scored.parts, log_metric)
            else:
                self._log_policy(scored.parts, target_word_count[row], completion_ids[row], log_metric)
            if scored.judgement is not None and scored.judgement.quote_validity is not None:
                log_metric("judge/quote_validity", scored.judgement.quote_validity)
        self._log_calls(self.outcome, log_metric)
        return rewards

    def begin(self, place: dict[str, Any]) -> None:
        """Note the calls that follow as those of this place: `step`, and `validation` where it is one's."""
        if self.notes is not None:
            self.notes.begin(place)

    async def score(
        self,
        asked: Sequence[str],
        completion_ids: Sequence[list[int]],
        targets: Sequence[int],
        is_reference: Sequence[bool],
    ) -> list[Scored]:
        """Return what each completion is worth before any weighting; say in `outcome` what failed."""
        texts = [self.tokenizer.decode(ids, skip_special_tokens=True) for ids in completion_ids]
        stories = [split_thinking(text, self.thinking) for text in texts]
        # Those under way when one meets an error go on to their end: their answers are paid for.
        results = await asyncio.gather(*map(self._judged, asked, stories))
        found = []
        for row, result in enumerate(results):
            judgement = result if isinstance(result, Judgement) else None
            parts = score_story(
                stories[row],
                targets[row],
                judgement,
                floors=self.settings.floors,
                gate=self.settings.gate,
                is_reference=is_reference[row],
                token_terms=self.token_terms,
                thinking_tokens=self._thinking_tokens(texts[row]),
                response_tokens=len(completion_ids[row]),
            )
            found.append(Scored(texts[row], stories[row], parts, judgement))
        self.outcome = self._outcome(results, sum(map(_exists, stories)))
        return found

    async def _judged(self, prompt: str, story: str | None) -> Result:
        if not _exists(story):
            return Judgement.of_nothing()
        assert story is not None
        self._asked.calls += 1
        self.note()
        try:
            judgement = await self.judge(prompt, story)
        except KINDS as error:
            return error
        except JudgeFailed as failure:
            judgement, reason = None, failure
        else:
            reason = JudgeFailed("the judge returned nothing")
        finally:
            # What the cache answered is known only now.
            self.note()
        if judgement is None:
            log.info("judge_failed", reason=reason.reason)
            return reason
        return judgement

    def _outcome(self, results: Sequence[Result], asked: int) -> Outcome:
        failures = [found for found in results if isinstance(found, JudgeFailed)]
        errors = [found for found in results if isinstance(found, PolarisError)]
        worst = min(errors, key=lambda error: error.code, default=None)
        failed = len(failures) + len(errors)
        unavailable = sum(failure.unavailable for failure in failures)
        return Outcome(
            asked=asked,
            failed=failed,
            # One judgement shows that the endpoint answers: a call that fails beside it fails alone.
            out=0 < failed == asked and (unavailable == asked or self.outage()),
            reason=failures[-1].reason if failures else "",
            error=(worst.code, str(worst)) if worst else None,
            usage=self._spent(),
        )

    def note(self) -> None:
        """Keep what this batch's calls have cost so far, those in flight at their estimate."""
        if self.notes is None:
            return
        flying = self.in_flight()
        spent = self._unbooked() + Usage(unanswered=len(flying), usd=sum(flying))
        self.notes.write(call_figures(spent), len(flying))

    def _unbooked(self) -> Usage:
        now, before = asdict(self.usage()), asdict(self._booked)
        return Usage(**{name: now[name] - before[name] for name in now})

    def _spent(self) -> Usage:
        """Return what this batch's calls were and cost."""
        spent = self._unbooked()
        self._booked = replace(self.usage())
        return spent

    def _thinking_tokens(self, text: str) -> int | None:
        """Count the tokens of the thoughts; none is counted where none costs."""
        if not self.token_terms.thinking:
            return None
        thoughts = text.partition(THINK_END)[0] if self.thinking else ""
        return len(self.tokenizer(thoughts, add_special_tokens=False)["input_ids"])

    def terms(self) -> list[str]:
        """Return the components' names; of the two on token counts those that are switched on."""
        optional = [name for name in ("thinking", "overlong") if getattr(self.token_terms, name)]
        return ["quality", "repetition", "length", "blank", "length_reward", *optional]

    def _log_policy(self, parts: Components, target: int, ids: list[int], log_metric: LogMetric) -> None:
        for name in self.terms():
            value = getattr(parts, name)
            if value is not None:
                log_metric(f"reward/{name}", value)
        log_metric("lengths/words_mean", parts.words)
        log_metric("lengths/target_mean", target)
        log_metric("lengths/completion_tokens_mean", len(ids))
        log_metric("lengths/truncated", float(ids[-1] != self.end_id))

    def _log_calls(self, outcome: Outcome, log_metric: LogMetric) -> None:
        """Log what this batch asked and cost; times the processes, since TRL takes their mean.

        Every counter, the ones that are 0 too: a series with gaps would hide when something began.
        """
        log_metric("judge/failed", outcome.failed * self.processes)
        for name, value in call_figures(outcome.usage).items():
            log_metric(name, value * self.processes)


def call_figures(usage: Usage) -> dict[str, float]:
    """Return what calls were and cost by the names of the training's metrics."""
    return {key: getattr(usage, name) for name, key in (COST | EVENTS).items()}


def token_terms_of(config: RewardConfig, max_completion_tokens: int) -> TokenTerms:
    """Return the two penalties on token counts as the configuration switches them."""
    terms: dict[str, Any] = {}
    if config.thinking:
        terms |= {"thinking": True, "thinking_limit": config.thinking.limit}
        terms |= {"thinking_penalty": config.thinking.penalty}
    if config.overlong:
        terms |= {"overlong": True, "response_limit": max_completion_tokens}
        terms |= {"overlong_buffer": config.overlong.buffer}
    return TokenTerms(**terms)


def _exists(story: str | None) -> bool:
    return bool(story and story.strip())


def _log_reference(parts: Components, log_metric: LogMetric) -> None:
    if parts.quality is not None:
        log_metric("hri/reference_quality", parts.quality)
    log_metric("hri/reference_words", parts.words)

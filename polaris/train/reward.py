"""Completions in, one clipped reward a row out, or None where the judge failed: TRL's one reward function.

TRL can only add weighted columns, whose sum it cannot clip and in which a missing one counts as 0; so the
composite (recipe §3, `polaris.reward`) is made here, and its components are logged beside it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from polaris.chat import Usage
from polaris.errors import GuardError, TransientError
from polaris.judge.parse import Judgement
from polaris.judge.score import JudgeFailed
from polaris.recipe import RewardConfig
from polaris.reward.composite import Components, Weights, reward, score_story, split_thinking
from polaris.reward.shape import LengthFloors
from polaris.runtime import get_logger

JudgeStory = Callable[[str, str], Awaitable[Judgement | None]]
"""Prompt and story in, judgement out; raises JudgeFailed, or returns None, where there is none."""

log = get_logger("reward")


class Reward:
    """The reward function of training; TRL awaits it once a generation batch.

    Args:
        judge: asked about each story that exists; a blank one costs no call.
        config: weights, clip, floors and how many failures are tolerated.
        tokenizer: decodes completions.
        thinking: only what follows `</think>` is a story.
        end_id: the end-of-turn token; a completion without it was cut.
        processes: training processes: counts are summed over them, the failure window is shared out.
        usage: what the judge's calls have cost so far in this process.

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
        processes: int = 1,
        usage: Callable[[], Usage] | None = None,
    ) -> None:
        self.judge = judge
        self.config = config
        self.tokenizer = tokenizer
        self.thinking = thinking
        self.end_id = end_id
        self.processes = processes
        self.usage = usage
        self.weights = Weights(**config.weights.model_dump())
        self.floors = floors_of(config)
        self._window: deque[bool] = deque(maxlen=max(1, config.failed_window // processes))
        self._booked = Usage()

    async def __call__(
        self,
        *,
        prompts: list[list[dict[str, str]]],
        completion_ids: list[list[int]],
        target_word_count: list[int],
        is_reference: list[bool],
        log_metric: Callable[[str, float], None],
        **_: Any,
    ) -> list[float | None]:
        """Return a reward for each row, None where there is no judgement.

        Raises:
            GuardError: too large a share of the last judge calls failed.
            TransientError: the judge's endpoint answered none of this batch's calls.

        """
        stories = [
            split_thinking(self.tokenizer.decode(ids, skip_special_tokens=True), self.thinking)
            for ids in completion_ids
        ]
        asked = [prompt[-1]["content"] for prompt in prompts]
        results = await asyncio.gather(*map(self._judged, asked, stories))
        self._check_failures([result for result in results if not isinstance(result, Judgement)], stories)
        rewards: list[float | None] = []
        for row, result in enumerate(results):
            judgement = result if isinstance(result, Judgement) else None
            parts = score_story(
                stories[row],
                target_word_count[row],
                judgement,
                floors=self.floors,
                is_reference=is_reference[row],
            )
            rewards.append(reward(parts, self.weights, (-self.config.clip, self.config.clip)))
            if is_reference[row]:
                _log_reference(parts, log_metric)
            else:
                self._log_policy(parts, target_word_count[row], completion_ids[row], log_metric)
            if judgement is not None and judgement.quote_validity is not None:
                log_metric("judge/quote_validity", judgement.quote_validity)
        self._log_calls(results, stories, log_metric)
        return rewards

    async def _judged(self, prompt: str, story: str | None) -> Judgement | JudgeFailed:
        if not _exists(story):
            return Judgement.of_nothing()
        assert story is not None
        try:
            judgement = await self.judge(prompt, story)
        except JudgeFailed as failure:
            judgement, reason = None, failure
        else:
            reason = JudgeFailed("the judge returned nothing")
        self._window.append(judgement is None)
        if judgement is None:
            log.info("judge_failed", reason=reason.reason)
            return reason
        return judgement

    def _check_failures(self, failures: list[JudgeFailed], stories: list[str | None]) -> None:
        if not failures:
            return
        if all(failure.unavailable for failure in failures) and len(failures) == sum(map(_exists, stories)):
            raise TransientError(f"the judge answered none of this step's calls: {failures[-1].reason}")
        failed, limit = sum(self._window), self.config.max_failed_share * (self._window.maxlen or 1)
        # Compared with the whole window even before it is full: the rest of it could not mend that.
        if failed > limit:
            raise GuardError(
                f"the judge keeps failing: {failed} of the last {len(self._window)} calls, above"
                f" reward.max_failed_share {self.config.max_failed_share:g} of a window of"
                f" {self._window.maxlen} (reward.failed_window); the last reason: {failures[-1].reason}"
            )

    def _log_policy(
        self, parts: Components, target: int, ids: list[int], log_metric: Callable[[str, float], None]
    ) -> None:
        for name in ("quality", "repetition", "length", "blank", "length_reward"):
            value = getattr(parts, name)
            if value is not None:
                log_metric(f"reward/{name}", value)
        log_metric("lengths/words_mean", parts.words)
        log_metric("lengths/target_mean", target)
        log_metric("lengths/completion_tokens_mean", len(ids))
        log_metric("lengths/truncated", float(ids[-1] != self.end_id))

    def _log_calls(
        self, results: list[Any], stories: list[str | None], log_metric: Callable[[str, float], None]
    ) -> None:
        """Log what this batch asked and cost; times the processes, since TRL takes their mean."""
        failed = sum(not isinstance(result, Judgement) for result in results)
        counts: dict[str, float] = {"judge/failed": failed, "judge/calls": sum(map(_exists, stories))}
        if self.usage is not None:
            now = asdict(self.usage())
            before = asdict(self._booked)
            spent = {name: now[name] - before[name] for name in now}
            counts["judge/calls"] = spent["calls"]
            counts["judge/cached"] = spent["cached_calls"]
            counts |= {f"judge/{name}": spent[name] for name in ("prompt_tokens", "completion_tokens", "usd")}
            self._booked = Usage(**now)
        for name, value in counts.items():
            log_metric(name, value * self.processes)


def floors_of(config: RewardConfig) -> LengthFloors:
    """Return the configuration's word limits."""
    return LengthFloors(
        min_words=config.min_words,
        min_target=config.min_target,
        lower_floor=config.lower_floor,
        lower_cap=config.lower_cap,
        upper_floor=config.upper_floor,
        upper_cap=config.upper_cap,
    )


def _exists(story: str | None) -> bool:
    return bool(story and story.strip())


def _log_reference(parts: Components, log_metric: Callable[[str, float], None]) -> None:
    if parts.quality is not None:
        log_metric("hri/reference_quality", parts.quality)
    log_metric("hri/reference_words", parts.words)

"""A completion, its target and its judgement in; the reward's components and one clipped reward out.

`r = clip(quality - 1.5·repetition - 0.8·length - 1.0·blank, -2, 2)` (arXiv 2606.04095). A component that
could not be had makes the reward None: no reward, which is not a reward of 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from polaris.judge.parse import Judgement
from polaris.reward.quality import Disqualification, story_quality
from polaris.reward.shape import (
    DEFAULT_FLOORS,
    LengthFloors,
    blank_penalty,
    length_penalty,
    length_reward,
    self_repetition,
    tokens_and_words,
)
from polaris.text import THINK_END, WORD_COUNTER

CLIP = (-2.0, 2.0)
"""Bounds of the reward."""


@dataclass(frozen=True)
class Weights:
    """How much each component counts; quality and length_reward add, the others subtract."""

    quality: float = 1.0
    repetition: float = 1.5
    length: float = 0.8
    blank: float = 1.0
    length_reward: float = 0.0


TRAINING = Weights()
VALIDATION = Weights(quality=1.0, repetition=0.8, length=0.2, blank=1.0)


@dataclass(frozen=True)
class TokenTerms:
    """Two penalties on token counts, each off unless switched on.

    The release computes them and loses them, so its published figures are without them.

    Attributes:
        thinking: whether long thinking costs `thinking_penalty`.
        thinking_limit: thinking tokens that cost nothing.
        thinking_penalty: what any more cost.
        overlong: whether nearing the response limit costs.
        response_limit: tokens at which the overlong penalty is 1.
        overlong_buffer: tokens before the limit over which it rises from 0.

    """

    thinking: bool = False
    thinking_limit: int = 3072
    thinking_penalty: float = 0.05
    overlong: bool = False
    response_limit: int = 8192
    overlong_buffer: int = 512

    def thinking_cost(self, thinking_tokens: int | None) -> float:
        """Return the penalty for the thinking; 0 if switched off.

        Raises:
            ValueError: it is on and the count is not given.

        """
        if not self.thinking:
            return 0.0
        if thinking_tokens is None:
            raise ValueError("the thinking penalty is on: give the number of thinking tokens")
        return self.thinking_penalty if thinking_tokens > self.thinking_limit else 0.0

    def overlong_cost(self, response_tokens: int | None) -> float:
        """Return the penalty for the whole response's length, 0 to 1; 0 if switched off.

        Raises:
            ValueError: it is on and the count is not given.

        """
        if not self.overlong:
            return 0.0
        if response_tokens is None:
            raise ValueError("the overlong penalty is on: give the number of response tokens")
        beyond = response_tokens - (self.response_limit - self.overlong_buffer)
        return min(1.0, max(0.0, beyond / max(1, self.overlong_buffer)))


NO_TOKEN_TERMS = TokenTerms()


@dataclass(frozen=True)
class Components:
    """What the reward of one story is made of, before weighting.

    Attributes:
        quality: overall / 100, -1.59 to 1.08; None if there is no judgement.
        repetition: self-repetition, 0 to 1.5.
        length: length penalty, 0 to 1.
        blank: 1 for a blank story, else 0.
        length_reward: 0 to 1.
        thinking: penalty for long thinking; 0 when switched off.
        overlong: penalty for nearing the response limit, 0 to 1; 0 when switched off.
        words: the story's words.
        word_counter: name of the counter that `words` comes from.

    """

    quality: float | None
    repetition: float | None
    length: float | None
    blank: float | None
    length_reward: float | None = 0.0
    thinking: float = 0.0
    overlong: float = 0.0
    words: int = 0
    word_counter: str = WORD_COUNTER


def split_thinking(completion_text: str, thinking: bool) -> str | None:
    """Return the story of a completion, or None if it has none.

    With `thinking` on the template has opened the thoughts, so the story is what follows the first
    `</think>`, without the blank lines before it; without that tag the thoughts never ended and there is no
    story. With `thinking` off the completion is the story.
    """
    if not thinking:
        return completion_text
    _, end, story = completion_text.partition(THINK_END)
    return story.lstrip() if end else None


def score_story(
    text: str | None,
    target: int,
    judgement: Judgement | None,
    *,
    floors: LengthFloors = DEFAULT_FLOORS,
    gate: Disqualification | None = None,
    is_reference: bool = False,
    token_terms: TokenTerms = NO_TOKEN_TERMS,
    thinking_tokens: int | None = None,
    response_tokens: int | None = None,
) -> Components:
    """Return the components of one story of `target` words.

    `text` is the story alone, or None where a completion has none, which scores as the empty text: blank.
    `judgement` None means that judging failed; for a story that does not exist, `Judgement.of_nothing()`
    says so without a call.

    Raises:
        ValueError: a token term is switched on and its count is not given.

    """
    story = text or ""
    tokens, words = tokens_and_words(story)
    blank = blank_penalty(story, floors.min_words, words=words)
    quality = None
    if judgement is not None:
        quality = story_quality(judgement, gate=gate, words=words, target=target, is_reference=is_reference)
    return Components(
        quality=quality,
        repetition=self_repetition(story, tokens),
        length=length_penalty(words, target, floors),
        blank=blank,
        length_reward=length_reward(words, target, floors, blank=bool(blank)),
        thinking=token_terms.thinking_cost(thinking_tokens),
        overlong=token_terms.overlong_cost(response_tokens),
        words=words,
    )


def reward(
    components: Components, weights: Weights = TRAINING, clip: tuple[float, float] = CLIP
) -> float | None:
    """Return the weighted sum of the components within `clip`, or None if one that counts is missing.

    A component counts if its weight is not 0. The two token terms have no weight: they are 0 when off.

    Raises:
        ValueError: a component is NaN or infinite, which no formula here yields.

    """
    terms = (
        (weights.quality, components.quality),
        (-weights.repetition, components.repetition),
        (-weights.length, components.length),
        (-weights.blank, components.blank),
        (weights.length_reward, components.length_reward),
        (-1.0, components.thinking),
        (-1.0, components.overlong),
    )
    total = 0.0
    for weight, value in terms:
        if weight == 0.0:
            continue
        if value is None:
            return None
        total += weight * value
    if not math.isfinite(total):
        raise ValueError(f"reward components give {total}: a component must be a finite number or None")
    low, high = clip
    return min(high, max(low, total))

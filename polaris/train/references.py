"""Rewards in, advantages and `hri/*` figures out; a human story in, the tokens that teach it out.

The maths of human-reference injection (recipe §2, arXiv 2606.04095). A group is the rows of one prompt;
one of them may be the human reference, whose reward never enters the group's mean and deviation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from polaris.errors import ConfigError, InputError
from polaris.recipe import Decay
from polaris.reward.composite import split_thinking
from polaris.text import THINK_END

Messages = Sequence[dict[str, str]]
_SENTINEL = "polaris"


def weight(
    step: int,
    max_weight: float,
    warmup_steps: int,
    *,
    decay: Decay = "none",
    decay_steps: int | None = None,
    final_weight: float = 0.0,
    until_step: int | None = None,
) -> float:
    """Return w(s) for the optimiser step `step`, counted from 0.

    w(s) = max_weight · min(1, s / warmup_steps); with a decay it then falls, along a line or half a cosine,
    to `final_weight` at step warmup_steps + decay_steps and stays there. It is 0 from `until_step` on.
    """
    if until_step is not None and step >= until_step:
        return 0.0
    if decay == "none" or decay_steps is None or step <= warmup_steps:
        return max_weight * min(1.0, step / warmup_steps)
    done = min(1.0, (step - warmup_steps) / decay_steps)
    left = 1.0 - done if decay == "linear" else (1.0 + math.cos(math.pi * done)) / 2
    return final_weight + (max_weight - final_weight) * left


def shaping_weights(logprobs: torch.Tensor, is_reference: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return (B, T) γ·p/(p + γ)² with p = exp(logprobs) where `is_reference`, 1 elsewhere.

    Both are (B, T); `is_reference` marks the references' own tokens, without padding. The weight is what the
    gradient of p/(p + γ) leaves on ∇ log p (Yan et al. 2025, arXiv 2504.14945).
    """
    p = logprobs.exp()
    return torch.where(is_reference, gamma * p / (p + gamma) ** 2, 1.0)


@dataclass(frozen=True)
class _Groups:
    """Rows by group, (groups, G), and what is said of them.

    Attributes:
        rewards: NaN for a failed judgement.
        reference: which rows are references.
        values: advantages, 0 where nothing can be said.
        clipped: references whose advantage was cut to the clip.
        starved: (groups, 1), fewer than two scored policy rows: all advantages are 0.
        level: (groups, 1), all policy rewards are equal: policy advantages are exactly 0.

    """

    rewards: torch.Tensor
    reference: torch.Tensor
    values: torch.Tensor
    clipped: torch.Tensor
    starved: torch.Tensor
    level: torch.Tensor


def advantages(
    rewards: torch.Tensor,
    is_reference: torch.Tensor,
    group_size: int,
    weight: float,
    eps: float = 1e-6,
    clip: float | None = None,
) -> torch.Tensor:
    """Return (N,) A_i = (r_i − mean) / (std + eps), for references w times that, within ±clip.

    `rewards` is (N,) with NaN for a failed judgement, `is_reference` (N,) bool; rows of a group are
    neighbours. Mean and std (ddof 1) are those of the group's scored policy rows; 0 is the advantage of a
    row without a reward and of every row of a group with fewer than two scored policy rows. Computed in
    the order of TRL's own, so that at weight 0 and its eps of 1e-4 both agree to the last bit, level groups
    aside: there the mean's rounding error over eps would be a large advantage out of nothing.
    """
    return _grouped(rewards, is_reference, group_size, weight, eps, clip).values.view(-1)


def _grouped(
    rewards: torch.Tensor,
    is_reference: torch.Tensor,
    group_size: int,
    weight: float,
    eps: float,
    clip: float | None,
) -> _Groups:
    grouped = rewards.view(-1, group_size)
    reference = is_reference.view(-1, group_size)
    policy = grouped.masked_fill(reference, math.nan)
    missing = policy.isnan()
    scored = (~missing).sum(dim=1, keepdim=True)
    mean = policy.nanmean(dim=1, keepdim=True)
    variance = ((policy - mean) ** 2).nanmean(dim=1, keepdim=True)
    variance *= scored / (scored - 1)
    lowest = policy.masked_fill(missing, math.inf).amin(dim=1, keepdim=True)
    level = lowest == policy.masked_fill(missing, -math.inf).amax(dim=1, keepdim=True)
    centre = torch.where(level, lowest, mean)
    spread = torch.where(level, 0.0, variance.sqrt())
    scaled = (grouped - centre) / (spread + eps)
    starved = scored < 2
    weighted = weight * scaled
    bounded = weighted if clip is None else weighted.clamp(-clip, clip)
    values = torch.where(reference, bounded, scaled).masked_fill(starved, 0.0).nan_to_num(nan=0.0)
    clipped = reference & ~starved & ~weighted.isnan() & (bounded != weighted)
    return _Groups(grouped, reference, values, clipped, starved, level & ~starved)


def figures(
    rewards: torch.Tensor,
    is_reference: torch.Tensor,
    group_size: int,
    weight: float,
    eps: float = 1e-6,
    clip: float | None = None,
) -> dict[str, float]:
    """Return the `hri/*` figures of a batch whose `advantages` are those of the same arguments.

    Means are over its scored references, NaN if there is none; the rest are counts.
    `hri/reference_beats_all` is the share of references whose reward is above that of every scored policy
    row of their group; `hri/clipped` counts references that the clip cut, `hri/starved_groups` groups
    with fewer than two scored policy rows, `hri/level_groups` groups whose policy rewards are all equal.
    """
    found = _grouped(rewards, is_reference, group_size, weight, eps, clip)
    grouped, reference = found.rewards, found.reference
    gone = reference | grouped.isnan()
    best = grouped.masked_fill(gone, -math.inf).amax(dim=1)
    worst = grouped.masked_fill(gone, math.inf).amin(dim=1)
    mean = grouped.masked_fill(gone, math.nan).nanmean(dim=1)
    own = grouped.masked_fill(~reference, math.nan).nanmean(dim=1)
    told = ~own.isnan() & ~mean.isnan()
    scored = reference & ~grouped.isnan()

    def average(values: torch.Tensor) -> float:
        return float(values.double().mean()) if values.numel() else math.nan

    return {
        "hri/references": float(is_reference.sum()),
        "hri/reference_reward": average(grouped[scored]),
        "hri/reference_advantage": average(found.values[scored]),
        "hri/reference_minus_policy_mean": average((own - mean)[told]),
        "hri/reference_minus_policy_best": average((own - best)[told]),
        "hri/reference_minus_policy_worst": average((own - worst)[told]),
        "hri/reference_beats_all": average((own > best)[told]),
        "hri/reference_failed": float((reference & grouped.isnan()).sum()),
        "hri/clipped": float(found.clipped.sum()),
        "hri/starved_groups": float(found.starved.sum()),
        "hri/level_groups": float(found.level.sum()),
    }


def end_token(tokenizer: Any, messages: Messages, thinking: bool) -> tuple[str, int]:
    """Return the text and id of the token with which the chat template ends an assistant's turn.

    Raises:
        ConfigError: the template ends a turn with no special token.

    """
    turn = {"role": "assistant", "content": _SENTINEL, "reasoning_content": _SENTINEL}
    ending = _render(tokenizer, [*messages, turn], thinking).rpartition(_SENTINEL)[2]
    ids = tokenizer(ending, add_special_tokens=False)["input_ids"]
    token = tokenizer.convert_ids_to_tokens(ids[0]) if ids else ""
    special = ids and (ids[0] in tokenizer.all_special_ids or ids[0] in tokenizer.added_tokens_decoder)
    if not special or not ending.startswith(token):
        raise ConfigError(
            f"the model's chat template ends an assistant's turn with {ending!r}, which begins with no"
            " special token: use a chat model whose template closes turns"
        )
    return token, ids[0]


def reference_text(tokenizer: Any, messages: Messages, story: str, reasoning: str, thinking: bool) -> str:
    """Return what the template renders after the opened turn, up to and with the end-of-turn token.

    Rendered as text and subtracted as text: the template may trim both parts, may have opened `<think>`
    already, and tokens at the seam may merge.

    Raises:
        ConfigError: the template does not continue the opened turn, or renders no reasoning.
        InputError: the story or the reasoning holds the end token or a `</think>` of its own.

    """
    end, _ = end_token(tokenizer, messages, thinking)
    for what, text in (("story", story), ("reasoning", reasoning if thinking else "")):
        for mark in (end, THINK_END):
            if mark in text:
                raise InputError(f"its {what} holds '{mark}', which ends a turn or thoughts: remove it")
    turn = {"role": "assistant", "content": story}
    if thinking:
        turn["reasoning_content"] = reasoning
    opened = _render(tokenizer, messages, thinking, opened=True)
    whole = _render(tokenizer, [*messages, turn], thinking)
    if not whole.startswith(opened):
        raise ConfigError(
            "the model's chat template renders an assistant's turn otherwise than it opens one"
            f" (thinking: {str(thinking).lower()}): set the model's `thinking` to what its template does"
        )
    answer = whole[len(opened) :]
    answer = answer[: answer.index(end) + len(end)]
    if thinking and THINK_END not in answer:
        raise ConfigError(
            "thinking is true, but the model's chat template renders no reasoning: set it to false"
        )
    return answer


def reference_ids(tokenizer: Any, text: str, limit: int, thinking: bool) -> list[int] | None:
    """Return the tokens of a reference, at most `limit`; None if its story does not begin among them.

    A cut reference loses its end token with its tail: nobody should learn to stop in mid-sentence.
    """
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"][:limit]
    story = split_thinking(tokenizer.decode(ids, skip_special_tokens=True), thinking)
    return ids if story and story.strip() else None


def _render(tokenizer: Any, messages: Messages, thinking: bool, *, opened: bool = False) -> str:
    text: str = tokenizer.apply_chat_template(
        list(messages), tokenize=False, add_generation_prompt=opened, enable_thinking=thinking
    )
    return text

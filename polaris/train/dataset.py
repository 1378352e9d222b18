"""Pairs in, the trainer's rows out: a conversation, a target and the reference's tokens, no story text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from polaris.errors import InputError
from polaris.recipe import TrainConfig
from polaris.train import references
from polaris.train.trainer import REFERENCE_COLUMN


@dataclass
class Counts:
    """What became of the pairs.

    Attributes:
        prompts: rows to train on.
        prompts_filtered: pairs whose rendered prompt is longer than `max_prompt_tokens`.
        references_cut: references longer than `max_completion_tokens`, trained and judged as cut.
        references_left_out: references whose story does not begin within that; policy rows stand in.
        validation_prompts: held back pairs whose prompts a validation answers.
        validation_filtered: held back pairs whose rendered prompt is longer than `max_prompt_tokens`.
        validation_unfitting: held back pairs left out because their story is longer than any answer can be.
        validation_beyond_limit: held back pairs after the first `train.validation.limit` fitting ones.

    """

    prompts: int = 0
    prompts_filtered: int = 0
    references_cut: int = 0
    references_left_out: int = 0
    validation_prompts: int = 0
    validation_filtered: int = 0
    validation_unfitting: int = 0
    validation_beyond_limit: int = 0

    def to_json(self) -> dict[str, int]:
        """Return the counts by name."""
        left_out = self.validation_filtered + self.validation_unfitting + self.validation_beyond_limit
        return asdict(self) | {"validation_left_out": left_out}


def training_rows(
    pairs: Iterable[dict[str, Any]], tokenizer: Any, train: TrainConfig, thinking: bool
) -> tuple[list[dict[str, Any]], Counts]:
    """Return a row for each training pair whose prompt is short enough, and the counts.

    Raises:
        InputError: a pair's text cannot be taught, or too few prompts are left for one step.

    """
    rows: list[dict[str, Any]] = []
    counts = Counts()
    for pair in pairs:
        if pair.get("split", "train") != "train":
            continue
        messages = [{"role": "user", "content": pair["prompt"]}]
        if _prompt_tokens(messages, tokenizer, thinking) > train.max_prompt_tokens:
            counts.prompts_filtered += 1
            continue
        ids = _reference(pair, messages, tokenizer, train.max_completion_tokens, thinking, counts)
        rows.append(
            {"prompt": messages, "target_word_count": int(pair["target_word_count"]), REFERENCE_COLUMN: ids}
        )
    counts.prompts = len(rows)
    if len(rows) < train.prompts_per_step:
        raise InputError(
            f"{len(rows)} training prompts are left ({counts.prompts_filtered} are longer than"
            f" train.max_prompt_tokens {train.max_prompt_tokens}), too few for one step of"
            f" train.prompts_per_step {train.prompts_per_step}"
        )
    return rows, counts


def validation_rows(
    pairs: Iterable[dict[str, Any]], tokenizer: Any, train: TrainConfig, thinking: bool, counts: Counts
) -> list[dict[str, Any]]:
    """Return a row {uid, prompt, target_word_count} for each held back pair to validate on; count."""
    settings = train.validation
    rows: list[dict[str, Any]] = []
    if settings is None:
        return rows
    for pair in pairs:
        if pair.get("split", "train") != "validation":
            continue
        messages = [{"role": "user", "content": pair["prompt"]}]
        if _prompt_tokens(messages, tokenizer, thinking) > train.max_prompt_tokens:
            counts.validation_filtered += 1
        elif settings.fitting and _tokens(pair["story"], tokenizer) > train.max_completion_tokens:
            counts.validation_unfitting += 1
        elif settings.limit is not None and len(rows) >= settings.limit:
            counts.validation_beyond_limit += 1
        else:
            target = int(pair["target_word_count"])
            rows.append({"uid": pair["uid"], "prompt": messages, "target_word_count": target})
    counts.validation_prompts = len(rows)
    return rows


def _prompt_tokens(messages: references.Messages, tokenizer: Any, thinking: bool) -> int:
    opened = tokenizer.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, enable_thinking=thinking, return_dict=True
    )["input_ids"]
    return len(opened)


def _tokens(text: str, tokenizer: Any) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _reference(
    pair: dict[str, Any],
    messages: references.Messages,
    tokenizer: Any,
    limit: int,
    thinking: bool,
    counts: Counts,
) -> list[int]:
    reasoning = pair.get("reasoning") or ""
    if thinking and not reasoning.strip():
        raise InputError(
            f"pair {pair['uid']} has no reasoning, which a base model with thinking: true is taught"
        )
    try:
        text = references.reference_text(tokenizer, messages, pair["story"], reasoning, thinking)
    except InputError as error:
        raise InputError(f"pair {pair['uid']}: {error}") from None
    ids = references.reference_ids(tokenizer, text, limit, thinking)
    if ids is None:
        counts.references_left_out += 1
        return []
    end, end_id = references.end_token(tokenizer, messages, thinking)
    counts.references_cut += ids[-1] != end_id
    return ids

"""A model's endpoint and an evaluation's prompts in, `stories.jsonl` out: one row a sample of a prompt.

Each finished story is kept at once under `rows/`, so a run that dies asks only for what is missing.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

from polaris.artifact import from_rows, to_rows
from polaris.chat import CallFailed, ChatAnswer, ChatRequest, Prices, derived_seed
from polaris.config import EvaluationConfig, LengthEvaluation
from polaris.errors import ConfigError, InputError, PolarisError, TransientError
from polaris.llm import STOP_GRACE_S, ChatClient, each
from polaris.models import EndpointModel
from polaris.reward.composite import split_thinking
from polaris.runtime import get_logger, progress
from polaris.stage import StageContext
from polaris.text import (
    count_words,
    length_sentence,
    story_id,
    target_from_prompt,
    without_length_sentence,
)

ATTEMPTS = 6
"""Tries of one story, the first included; being told to slow down is not one."""
OUTAGE_S = 60.0
"""How long an endpoint may answer nothing at all before the stage gives up."""
DEADLINES = 3
"""A story is given up after so many times the deadline of one try."""
BASE_TIMEOUT_S = 600.0
SLOWEST_TOKENS_PER_S = 4.0
"""A story's deadline is `BASE_TIMEOUT_S` and its `max_tokens` at this speed."""
REFUSED = "refused"
"""Finish reason of a row whose story the endpoint's content rules stopped: an answer, and an empty one."""

Row = dict[str, Any]
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

log = get_logger("generate")


@dataclass(frozen=True)
class Prompt:
    """One evaluation prompt."""

    id: str
    asked: str
    """The prompt with its length sentence."""
    target_word_count: int


@dataclass
class _Outcome:
    rows: list[Row]
    failed: dict[str, CallFailed] = field(default_factory=dict)
    error: PolarisError | None = None
    """The first error that no other story would be spared: no credit left, a rejected key."""


def read_prompts(path: Path) -> list[Prompt]:
    """Read JSONL rows `{id, prompt, target_word_count}`; further fields are allowed and not read.

    A prompt that has no length sentence gets one. Raises InputError naming file, line and field.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; give a JSONL file of prompts") from None
    found: list[Prompt] = []
    lines: dict[str, int] = {}
    for number, row in _numbered(data, path):
        prompt = _prompt(row, f"{path}:{number}")
        if prompt.id in lines:
            raise InputError(f"{path}:{number}: id '{prompt.id}' is also in line {lines[prompt.id]}")
        lines[prompt.id] = number
        found.append(prompt)
    if not found:
        raise InputError(f"{path}: holds no prompt; expected JSONL rows with id, prompt, target_word_count")
    return found


def _numbered(data: bytes, path: Path) -> list[tuple[int, Row]]:
    numbers = [number for number, line in enumerate(data.split(b"\n"), start=1) if line.strip()]
    return list(zip(numbers, to_rows(data, str(path)), strict=True))


def _prompt(row: Row, where: str) -> Prompt:
    name, prompt, target = row.get("id"), row.get("prompt"), row.get("target_word_count")
    if not isinstance(name, str) or not _ID.fullmatch(name):
        raise InputError(
            f"{where}: id: {_short(name)}; expected text of letters, digits, '.', '_' and '-', at most 100"
        )
    if not isinstance(prompt, str) or not prompt.strip():
        raise InputError(f"{where}: prompt: {_short(prompt)}; expected text")
    if isinstance(target, bool) or not isinstance(target, int) or target < 1:
        raise InputError(f"{where}: target_word_count: {_short(target)}; expected a whole number above 0")
    named = target_from_prompt(prompt)
    if named is None:
        return Prompt(name, f"{prompt.strip()} {length_sentence(target)}", target)
    if named != target:
        raise InputError(
            f"{where}: prompt asks for {named:,} words, target_word_count for {target:,}; give one target"
        )
    return Prompt(name, prompt.strip(), target)


def at_targets(prompts: list[Prompt], targets: tuple[int, ...]) -> list[Prompt]:
    """Return each prompt at each target, its own length sentence replaced; `fox` becomes `fox@1000`.

    Raises InputError for a prompt that would still name another length.
    """
    found = []
    for prompt in prompts:
        premise = without_length_sentence(prompt.asked)
        if (named := target_from_prompt(premise)) is not None:
            what = f"prompt {prompt.id} still asks for {named:,} words without its length sentence"
            raise InputError(f"{what}; name no length in the prompts of an evaluation with targets")
        found += [
            Prompt(story_id(prompt.id, target), f"{premise} {length_sentence(target)}", target)
            for target in targets
        ]
    return found


def _short(value: object) -> str:
    text = "missing" if value is None else f"value {value!r}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def run(context: StageContext) -> None:
    """Let the instance's model write the evaluation's stories; a refusal is a row with an empty one.

    Raises InputError for a bad prompts file, TransientError naming the first story that could not be had, or
    where the account has no credit left or the store is down, ConfigError if the endpoint cannot serve what
    is asked, Stopped on a signal. Stories that were under way are finished and kept.
    """
    name, of = context.instance.params["model"], context.instance.params["evaluation"]
    evaluation = context.config.evaluations[of]
    prompts = read_prompts(context.run.local(evaluation.prompts))[: evaluation.limit]
    if isinstance(evaluation, LengthEvaluation) and evaluation.targets:
        prompts = at_targets(prompts, evaluation.targets)
    timeout_s = BASE_TIMEOUT_S + evaluation.max_tokens / SLOWEST_TOKENS_PER_S
    client = ChatClient(
        context.endpoint(name),
        concurrency=evaluation.concurrency,
        attempts=ATTEMPTS,
        timeout_s=timeout_s,
        deadline_s=DEADLINES * timeout_s,
        outage_s=OUTAGE_S,
        prices=Prices(*context.config.prices(name)),
        stopped=lambda: context.stop.requested,
    )
    rows = asyncio.run(_write_all(context, client, evaluation, prompts))
    context.counts |= {
        "stories": len(rows),
        "truncated": sum(row["truncated"] for row in rows),
        "refused": sum(row["finish_reason"] == REFUSED for row in rows),
        "without_story": sum(not row["story"] for row in rows),
        "words": sum(row["words"] for row in rows),
    } | client.usage.events()
    context.cost |= client.usage.cost()
    _note(context, name, evaluation)
    context.output.put_rows("stories.jsonl", sorted(rows, key=lambda row: (row["id"], row["sample"])))


def _note(context: StageContext, name: str, evaluation: EvaluationConfig) -> None:
    sampling = evaluation.sampling
    if isinstance(context.config.models[name], EndpointModel) and (
        sampling.top_k or sampling.repetition_penalty != 1
    ):
        context.notes.append(
            f"top_k {sampling.top_k} and repetition_penalty {sampling.repetition_penalty} were not sent to"
            f" models.{name}: its protocol does not know them."
        )


async def _write_all(
    context: StageContext, client: ChatClient, evaluation: EvaluationConfig, prompts: list[Prompt]
) -> list[Row]:
    wanted = [(prompt, sample) for prompt in prompts for sample in range(evaluation.samples)]
    kept = set(context.progress.names("rows/"))
    outcome = _Outcome([row for prompt, sample in wanted if (row := _kept(context, kept, prompt, sample))])
    have = {(row["id"], row["sample"]) for row in outcome.rows}
    missing = [(prompt, sample) for prompt, sample in wanted if (prompt.id, sample) not in have]
    log.info("write", model=client.endpoint.identity, stories=len(wanted), resumed=len(outcome.rows))
    with progress(len(wanted), "stories") as bar:
        if outcome.rows:
            bar.advance(len(outcome.rows), resumed=len(outcome.rows))

        async def work(item: tuple[Prompt, int]) -> None:
            try:
                row = await _write_one(context, client, evaluation, *item, outcome)
            except PolarisError as error:
                # Others are under way and paid for: none of them must be cancelled.
                outcome.error = outcome.error or error
                return
            if row is not None:
                cut = sum(found["truncated"] for found in outcome.rows)
                bar.advance(words=row["words"], truncated=cut)

        async with client:
            await each(
                takewhile(lambda _: outcome.error is None, missing),
                work,
                width=client.width,
                stopped=lambda: context.stop.requested or client.outage,
                grace_s=STOP_GRACE_S,
            )
    context.stop.check()
    if outcome.error is not None:
        told = f"{outcome.error}; {len(outcome.rows)} of {len(wanted)} stories are kept"
        raise type(outcome.error)(told)
    if outcome.failed:
        _raise_first(context, client, evaluation, outcome)
    return outcome.rows


async def _write_one(
    context: StageContext,
    client: ChatClient,
    evaluation: EvaluationConfig,
    prompt: Prompt,
    sample: int,
    outcome: _Outcome,
) -> Row | None:
    """Ask for one story and keep its row; None, and noted, if there is none to be had."""
    thinking = context.config.thinking(context.instance.params["model"])
    request = ChatRequest(
        messages=({"role": "user", "content": prompt.asked},),
        max_tokens=evaluation.max_tokens,
        sampling=evaluation.sampling,
        thinking=thinking,
        seed=derived_seed(context.config.seed, prompt.id, sample),
    )
    try:
        answer = await client.complete(request, repeat=sample)
    except CallFailed as failed:
        refused = failed.kind == "refused"
        told = "story_refused" if refused else "story_failed"
        log.warning(told, id=prompt.id, sample=sample, reason=failed.reason)
        if not refused:
            outcome.failed[f"{prompt.id}, sample {sample}"] = failed
            return None
        answer = ChatAnswer("", REFUSED, prompt_tokens=0, completion_tokens=0)
    row = _row(client.endpoint.identity, prompt, sample, answer, story_of(answer, thinking=thinking))
    await asyncio.to_thread(context.progress.put, _piece(prompt.id, sample), from_rows([row]))
    outcome.rows.append(row)
    return row


def story_of(answer: ChatAnswer, *, thinking: bool) -> str:
    """Return the story alone, stripped; empty where a model that thinks never came to it."""
    if answer.reasoning is not None:
        # The endpoint has parted them itself, so the text holds no thoughts.
        return answer.text.strip()
    return (split_thinking(answer.text, thinking) or "").strip()


def _row(model: str, prompt: Prompt, sample: int, answer: ChatAnswer, story: str) -> Row:
    return {
        "id": prompt.id,
        "sample": sample,
        "prompt": prompt.asked,
        "target_word_count": prompt.target_word_count,
        "story": story,
        "words": count_words(story),
        "finish_reason": answer.finish_reason,
        "truncated": answer.finish_reason == "length",
        "completion_tokens": answer.completion_tokens,
        "model": model,
    }


def _piece(name: str, sample: int) -> str:
    return f"rows/{name}-{sample}.json"


def _kept(context: StageContext, kept: set[str], prompt: Prompt, sample: int) -> Row | None:
    piece = _piece(prompt.id, sample)
    data = context.progress.get(piece) if piece in kept else None
    if data is None:
        return None
    row: Row = json.loads(data)
    return row


def _raise_first(
    context: StageContext, client: ChatClient, evaluation: EvaluationConfig, outcome: _Outcome
) -> None:
    first = min(outcome.failed)
    failed = outcome.failed[first]
    of = context.instance.params["evaluation"]
    if failed.kind == "too long":
        raise ConfigError(
            f"evaluations.{of}.max_tokens {evaluation.max_tokens}: with prompt {first} it exceeds the context"
            f" of {client.endpoint.setting}; lower it or raise the model's serve.max_model_len"
        )
    raise TransientError(
        f"{client.endpoint.setting}: no story for prompt {first} of evaluations.{of} from"
        f" {client.endpoint.url}: {failed.reason}; {len(outcome.failed)} failed, {len(outcome.rows)} are"
        " kept, run again"
    )

"""A prompt and a story in, the judge's checked scores out, or the reason why there are none.

A failure is never a score: what cannot be judged raises, and whoever asked decides what that means.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from polaris.answers import Cache
from polaris.chat import (
    CallFailed,
    ChatAnswer,
    ChatRequest,
    Endpoint,
    Message,
    Prices,
    SchemaRejected,
    estimated_tokens,
)
from polaris.config import JudgeConfig, RunConfig
from polaris.judge.parse import InvalidJudgement, Judgement, parse_judgement
from polaris.judge.prompt import as_seen, messages
from polaris.judge.rubric import json_schema, rubric_identity
from polaris.llm import ChatClient
from polaris.providers import providers
from polaris.recipe import Sampling
from polaris.runtime import get_logger, redact
from polaris.storage import Store
from polaris.text import THINK_END

EMPTY_STORY = "empty story"
"""The reason of a story without a character but white space, which no judge is asked about."""

Structured = Literal["json_schema", "prompt"]

log = get_logger("judge")


@dataclass(frozen=True)
class Scored:
    """One story's judgement and how it was had; the figures are sums over the answers used.

    They are what the answers took when the endpoint gave them, so an answer from the cache tells the same.
    """

    judgement: Judgement
    repaired: bool
    """The first answer was invalid and the second one valid."""
    calls: int
    """Answers used, 1 or 2."""
    cached_calls: int
    """How many of them came from the cache."""
    structured: Structured
    """What the answers were held to the schema by, whatever was configured."""
    prompt_tokens: int
    completion_tokens: int
    """Reasoning included."""
    usd: float
    attempts: int
    latency_s: float


class JudgeFailed(Exception):
    """A story could not be judged; `reason` is one line and holds no text of the story."""

    def __init__(self, reason: str, *, unavailable: bool = False, schema_rejected: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.unavailable = unavailable
        """The judge's endpoint is down or overloaded; the story is not to blame."""
        self.schema_rejected = schema_rejected
        """The endpoint takes no JSON schema."""


class Judge:
    """One configured judge; what its calls cost is in `client.usage`, what people must know in `notes`."""

    def __init__(self, client: ChatClient, config: JudgeConfig, *, thinking: bool = False) -> None:
        """Set up; `thinking` says that the judge's model reasons before its answer."""
        self.client = client
        self.config = config
        self.identity = client.endpoint.identity
        self.rubric = rubric_identity(config.form)
        self.structured: Structured = config.structured
        """What the next answer is held to the schema by."""
        self.notes: list[str] = []
        self._thinking = thinking
        self._schema = json_schema(config.form)
        endpoint = client.endpoint
        if not endpoint.ours and providers()[endpoint.provider].structured == "prompt":
            self.fall_back()

    async def score(self, prompt: str, story: str, *, repeat: int = 0) -> Scored:
        """Return the judgement of `story`, written for `prompt`; `repeat` numbers independent ones.

        An invalid answer is sent back once with the reason. Every answer of that conversation is cached
        by its own content, so asking again finds the repaired one without a call. A story that stays
        without a judgement leaves no answer in the cache, unless the endpoint went down in between. Once the
        endpoint has rejected the schema, every request carries it in the prompt.

        Raises JudgeFailed: the story is empty or longer than `max_story_tokens` (its UTF-8 bytes / 4), the
        call failed, the answer was cut, or it was invalid twice. Other errors are `ChatClient.complete`'s.
        """
        asked, first = await self._first(prompt, story, repeat)
        try:
            return _scored(self._parse(first, story), asked, first)
        except InvalidJudgement as error:
            fault = str(error)
        log.info("repair", judge=self.identity, why=fault)
        self.client.usage.repairs += 1
        again = replace(asked, messages=(*asked.messages, *self._repair(first, fault)))
        try:
            second = await self._ask(again, repeat)
            judgement = self._parse(second, story)
        except InvalidJudgement as error:
            await self._forget(repeat, asked, again)
            raise JudgeFailed(f"invalid answer, and again after repair: {error}") from None
        except JudgeFailed as failed:
            if not failed.unavailable:
                await self._forget(repeat, asked)
            raise
        return _scored(judgement, asked, first, second)

    def requests(self, prompt: str, story: str) -> ChatRequest:
        """Return the first question about a story; raise JudgeFailed if no judge need be asked about it."""
        if not story.strip():
            raise JudgeFailed(EMPTY_STORY)
        limit, length = self.config.max_story_tokens, estimated_tokens(story)
        if limit is not None and length > limit:
            raise JudgeFailed(f"story of about {length} tokens is longer than max_story_tokens {limit}")
        enforced = self.structured == "json_schema"
        return ChatRequest(
            messages=tuple(messages(prompt, story, self.config.form, schema=not enforced)),
            max_tokens=self.config.max_tokens,
            sampling=Sampling(
                temperature=self.config.temperature,
                top_p=self.config.top_p,
                top_k=0,
                repetition_penalty=1.0,
            ),
            schema=self._schema if enforced else None,
            thinking=self._thinking,
            effort=self.config.reasoning_effort,
        )

    async def _first(self, prompt: str, story: str, repeat: int) -> tuple[ChatRequest, ChatAnswer]:
        asked = self.requests(prompt, story)
        try:
            return asked, await self._ask(asked, repeat)
        except JudgeFailed as failed:
            if asked.schema is None or not failed.schema_rejected:
                raise
        self.fall_back()
        asked = self.requests(prompt, story)
        return asked, await self._ask(asked, repeat)

    def fall_back(self) -> None:
        """Ask with the schema in the prompt from now on; count and tell it once, whoever noticed first."""
        if self.structured == "prompt":
            return
        self.structured = "prompt"
        self.client.usage.schema_fallbacks += 1
        note = f"{self.client.endpoint.setting}: enforces no JSON schema, so the judge gets it in its prompt"
        self.notes.append(note)
        log.warning("schema_fallback", judge=self.identity, note=note)

    async def _forget(self, repeat: int, *requests: ChatRequest) -> None:
        # A failure that stayed in the cache would be found again for ever.
        for request in requests:
            await self.client.forget(request, repeat=repeat)

    async def _ask(self, request: ChatRequest, repeat: int) -> ChatAnswer:
        try:
            answer = await self.client.complete(request, repeat=repeat)
        except CallFailed as error:
            rejected = isinstance(error, SchemaRejected)
            raise JudgeFailed(
                redact(error.reason), unavailable=error.unavailable, schema_rejected=rejected
            ) from None
        if answer.finish_reason != "stop":
            # Whatever the endpoint gave as the reason: it may be a whole page, and hold the key.
            raise JudgeFailed(
                f"answer finished with '{redact(answer.finish_reason)[:40]}' after"
                f" {answer.completion_tokens} tokens (max_tokens {self.config.max_tokens})"
            )
        return answer

    def _repair(self, answer: ChatAnswer, fault: str) -> list[Message]:
        # What the judge quoted comes from the story, so it is made harmless like the story itself.
        said = as_seen(self._spoken(answer)).strip() or "(nothing)"
        wanted = f"That answer is not valid: {fault}. Give the whole JSON object again, corrected."
        return [{"role": "assistant", "content": said}, {"role": "user", "content": wanted}]

    def _parse(self, answer: ChatAnswer, story: str) -> Judgement:
        return _without_keys(parse_judgement(self._spoken(answer), self.config.form, story))

    def _spoken(self, answer: ChatAnswer) -> str:
        return answer.text.rpartition(THINK_END)[2] if self._thinking else answer.text


def _scored(judgement: Judgement, asked: ChatRequest, *answers: ChatAnswer) -> Scored:
    return Scored(
        judgement,
        repaired=len(answers) > 1,
        calls=len(answers),
        cached_calls=sum(answer.cached for answer in answers),
        structured="prompt" if asked.schema is None else "json_schema",
        prompt_tokens=sum(answer.prompt_tokens for answer in answers),
        completion_tokens=sum(answer.completion_tokens for answer in answers),
        usd=sum(answer.usd for answer in answers),
        attempts=sum(answer.attempts for answer in answers),
        latency_s=sum(answer.latency_s for answer in answers),
    )


def _without_keys(judgement: Judgement) -> Judgement:
    """Return the judgement without any key in its sentences: an endpoint may repeat what it was sent."""
    written = [*judgement.notes.values(), *(quote for found in judgement.quotes.values() for quote in found)]
    joined = "\n".join(written)
    if redact(joined) == joined:
        return judgement
    return replace(
        judgement,
        notes={key: redact(note) for key, note in judgement.notes.items()},
        quotes={key: tuple(map(redact, found)) for key, found in judgement.quotes.items()},
    )


def open_judge(config: RunConfig, name: str, endpoint: Endpoint, store: Store, **options: Any) -> Judge:
    """Return the configuration's judge `name`, its model up at `endpoint`, its answers cached in `store`.

    Needs no stage, so that a training worker can open one. `options` go to `ChatClient`: `budget`,
    `share` (how many processes ask with the same account), `stopped`.
    """
    judge = config.judges[name]
    client = ChatClient(
        endpoint,
        concurrency=judge.concurrency,
        attempts=judge.attempts,
        timeout_s=judge.timeout_s or max(600.0, judge.max_tokens / 20),
        deadline_s=judge.deadline_s,
        outage_s=judge.outage_s,
        cache=Cache(store),
        prices=Prices(*config.prices(judge.model)),
        **options,
    )
    return Judge(client, judge, thinking=config.thinking(judge.model))

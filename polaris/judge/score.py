"""A prompt and a story in, the judge's checked scores out, or the reason why there are none.

A failure is never a score: what cannot be judged raises, and whoever asked decides what that means.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from polaris.chat import (
    CallFailed,
    ChatAnswer,
    ChatRequest,
    Endpoint,
    Message,
    Prices,
    estimated_tokens,
)
from polaris.config import JudgeConfig, RunConfig
from polaris.judge.parse import InvalidJudgement, Judgement, parse_judgement
from polaris.judge.prompt import as_seen, messages
from polaris.judge.rubric import json_schema, rubric_identity
from polaris.llm import Cache, ChatClient
from polaris.recipe import Sampling
from polaris.runtime import get_logger
from polaris.storage import Store
from polaris.text import THINK_END

EMPTY_STORY = "empty story"
"""The reason of a story without a character but white space, which no judge is asked about."""

log = get_logger("judge")


@dataclass(frozen=True)
class Scored:
    """One story's judgement and how it was had."""

    judgement: Judgement
    repaired: bool
    """The first answer was invalid and the second one valid."""
    calls: int
    """Answers used, 1 or 2."""
    cached_calls: int
    """How many of them came from the cache."""


class JudgeFailed(Exception):
    """A story could not be judged; `reason` is one line and holds no text of the story."""

    def __init__(self, reason: str, *, unavailable: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.unavailable = unavailable
        """The judge's endpoint is down or overloaded; the story is not to blame."""


class Judge:
    """One configured judge; what its calls cost is in `client.usage`."""

    def __init__(self, client: ChatClient, config: JudgeConfig, *, thinking: bool = False) -> None:
        """Set up; `thinking` says that the judge's model reasons before its answer."""
        self.client = client
        self.config = config
        self.identity = client.endpoint.identity
        self.rubric = rubric_identity(config.form)
        self._thinking = thinking
        self._schema = json_schema(config.form)

    async def score(self, prompt: str, story: str, *, repeat: int = 0) -> Scored:
        """Return the judgement of `story`, written for `prompt`; `repeat` numbers independent ones.

        An invalid answer is sent back once with the reason. Every answer of that conversation is cached
        by its own content, so asking again finds the repaired one without a call. A story that stays
        without a judgement leaves no answer in the cache, unless the endpoint went down in between.

        Raises JudgeFailed: the story is empty or longer than `max_story_tokens` (its UTF-8 bytes / 4), the
        call failed, the answer was cut, or it was invalid twice. Other errors are `ChatClient.complete`'s.
        """
        if not story.strip():
            raise JudgeFailed(EMPTY_STORY)
        limit, length = self.config.max_story_tokens, estimated_tokens(story)
        if limit is not None and length > limit:
            raise JudgeFailed(f"story of about {length} tokens is longer than max_story_tokens {limit}")
        messages = self._messages(prompt, story)
        asked = self._request(messages)
        first = await self._ask(asked, repeat)
        try:
            return Scored(self._parse(first, story), repaired=False, calls=1, cached_calls=int(first.cached))
        except InvalidJudgement as error:
            fault = str(error)
        log.info("repair", judge=self.identity, why=fault)
        again = self._request([*messages, *self._repair(first, fault)])
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
        cached = int(first.cached) + int(second.cached)
        return Scored(judgement, repaired=True, calls=2, cached_calls=cached)

    def _request(self, asked: list[Message]) -> ChatRequest:
        return ChatRequest(
            messages=tuple(asked),
            max_tokens=self.config.max_tokens,
            sampling=Sampling(
                temperature=self.config.temperature,
                top_p=self.config.top_p,
                top_k=0,
                repetition_penalty=1.0,
            ),
            schema=self._schema if self.config.structured == "json_schema" else None,
            thinking=self._thinking,
        )

    async def _forget(self, repeat: int, *requests: ChatRequest) -> None:
        # A failure that stayed in the cache would be found again for ever.
        for request in requests:
            await self.client.forget(request, repeat=repeat)

    async def _ask(self, request: ChatRequest, repeat: int) -> ChatAnswer:
        try:
            answer = await self.client.complete(request, repeat=repeat)
        except CallFailed as error:
            raise JudgeFailed(error.reason, unavailable=error.unavailable) from None
        if answer.finish_reason != "stop":
            raise JudgeFailed(
                f"answer finished with '{answer.finish_reason}' after {answer.completion_tokens} tokens"
                f" (max_tokens {self.config.max_tokens})"
            )
        return answer

    def _messages(self, prompt: str, story: str) -> list[Message]:
        asked = messages(prompt, story, self.config.form)
        if self.config.structured == "prompt":
            schema = json.dumps(self._schema, separators=(",", ":"))
            system = f"{asked[0]['content']}\n\nThe JSON schema of the answer:\n{schema}"
            asked = [{**asked[0], "content": system}, *asked[1:]]
        return asked

    def _repair(self, answer: ChatAnswer, fault: str) -> list[Message]:
        # What the judge quoted comes from the story, so it is made harmless like the story itself.
        said = as_seen(self._spoken(answer)).strip() or "(nothing)"
        wanted = f"That answer is not valid: {fault}. Give the whole JSON object again, corrected."
        return [{"role": "assistant", "content": said}, {"role": "user", "content": wanted}]

    def _parse(self, answer: ChatAnswer, story: str) -> Judgement:
        return parse_judgement(self._spoken(answer), self.config.form, story)

    def _spoken(self, answer: ChatAnswer) -> str:
        return answer.text.rpartition(THINK_END)[2] if self._thinking else answer.text


def open_judge(config: RunConfig, name: str, endpoint: Endpoint, store: Store, **options: Any) -> Judge:
    """Return the configuration's judge `name`, its model up at `endpoint`, its answers cached in `store`.

    Needs no stage, so that a training worker can open one. `options` go to `ChatClient`.
    """
    judge = config.judges[name]
    client = ChatClient(
        endpoint,
        concurrency=judge.concurrency,
        attempts=judge.attempts,
        timeout_s=judge.timeout_s or max(600.0, judge.max_tokens / 20),
        cache=Cache(store),
        prices=Prices(*config.prices(judge.model)),
        **options,
    )
    return Judge(client, judge, thinking=config.thinking(judge.model))

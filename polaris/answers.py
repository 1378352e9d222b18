"""A request in, the answer that was once paid for out: complete answers by content, in the object store."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from polaris.chat import ChatAnswer, ChatRequest
from polaris.runtime import get_logger
from polaris.storage import Conflict, NotFound, Store

log = get_logger("answers")


def cache_key(identity: str, request: ChatRequest, repeat: int) -> str:
    """Return the SHA-256 of what decides an answer: model identity, messages, sampling, schema, repeat.

    No URL, key, deadline or seed is in it, so an answer survives a move of its endpoint. The reasoning
    effort is in it where one is asked for.
    """
    content: dict[str, Any] = {
        "model": identity,
        "messages": request.messages,
        "sampling": request.sampling.model_dump(),
        "max_tokens": request.max_tokens,
        "thinking": request.thinking,
        # As text: in which order a schema asks for its fields decides the answer too.
        "schema": json.dumps(request.schema),
        "repeat": repeat,
    }
    if request.effort is not None:
        content["effort"] = request.effort
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class Cache:
    """Complete answers by content, in the object store, shared by all runs.

    Only what finished with `stop` and holds text is kept: no refusal, no failure, no cut answer. With each
    is kept what it took when it was asked for: attempts, US$, seconds and tier.
    """

    def __init__(self, store: Store, prefix: str = "cache/judge/") -> None:
        self._store = store
        self._prefix = prefix

    def get(self, key: str) -> ChatAnswer | None:
        """Return the kept answer; None if there is none, or none that can be read."""
        try:
            return _answer(json.loads(self._store.get(self._name(key))))
        except NotFound:
            return None
        except (ValueError, KeyError, TypeError) as error:
            log.warning("cache_entry_unreadable", key=self._name(key), error=type(error).__name__)
            self.delete(key)
            return None

    def put(self, key: str, answer: ChatAnswer) -> ChatAnswer:
        """Keep an answer if it is complete; return the one that counts: the first of two writers' wins."""
        if not is_complete(answer):
            return answer
        kept = {
            "text": answer.text,
            "finish_reason": answer.finish_reason,
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
            "attempts": answer.attempts,
            "usd": answer.usd,
            "latency_s": answer.latency_s,
            "tier": answer.tier,
        }
        try:
            self._store.put(self._name(key), json.dumps(kept, sort_keys=True).encode(), if_absent=True)
        except Conflict:
            return self.get(key) or answer
        return answer

    def delete(self, key: str) -> None:
        """Forget an answer; a missing one is no error."""
        self._store.delete([self._name(key)])

    def _name(self, key: str) -> str:
        return f"{self._prefix}{key[:2]}/{key}.json"


def is_complete(answer: ChatAnswer) -> bool:
    """Return whether an answer may be kept: it came to its end and holds text."""
    return answer.finish_reason == "stop" and bool(answer.text.strip())


def _answer(kept: dict[str, Any]) -> ChatAnswer:
    """Return an entry's answer; entries of earlier versions do not say what they took."""
    return ChatAnswer(
        text=str(kept["text"]),
        finish_reason=str(kept["finish_reason"]),
        prompt_tokens=int(kept["prompt_tokens"]),
        completion_tokens=int(kept["completion_tokens"]),
        cached=True,
        attempts=int(kept.get("attempts", 1)),
        usd=float(kept.get("usd", 0.0)),
        latency_s=float(kept.get("latency_s", 0.0)),
        tier=kept.get("tier", "standard"),
    )

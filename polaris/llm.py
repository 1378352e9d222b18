"""Chat requests in, answers with their usage out: the one client of every OpenAI-compatible endpoint.

Judging, prompt derivation and generation all go through it, so retries, deadlines, the cache and the
counting of cost exist once. Nothing here knows a stage.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from polaris.chat import (
    BROKEN_OFF,
    CallFailed,
    ChatAnswer,
    ChatRequest,
    Endpoint,
    Prices,
    Retry,
    Usage,
    body,
    derived_seed,
    retryable,
    tokens,
)
from polaris.runtime import get_logger
from polaris.storage import Conflict, NotFound, Store
from polaris.text import encodable

if TYPE_CHECKING:
    import openai

STOP_GRACE_S = 15.0
"""How long a stage's calls under way may go on after SIGTERM; Kubernetes kills after 30 s."""

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]

log = get_logger("llm")


def cache_key(identity: str, request: ChatRequest, repeat: int) -> str:
    """Return the SHA-256 of what decides an answer: model identity, messages, sampling, schema, repeat.

    No URL, key, deadline or seed is in it, so an answer survives a move of its endpoint.
    """
    content = {
        "model": identity,
        "messages": request.messages,
        "sampling": request.sampling.model_dump(),
        "max_tokens": request.max_tokens,
        "thinking": request.thinking,
        # As text: in which order a schema asks for its fields decides the answer too.
        "schema": json.dumps(request.schema),
        "repeat": repeat,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class Cache:
    """Complete answers by content, in the object store, shared by all runs.

    Only what finished with `stop` and holds text is kept: no refusal, no failure, no cut answer.
    """

    def __init__(self, store: Store, prefix: str = "cache/judge/") -> None:
        self._store = store
        self._prefix = prefix

    def get(self, key: str) -> ChatAnswer | None:
        """Return the kept answer; None if there is none, or none that can be read."""
        try:
            kept = json.loads(self._store.get(self._name(key)))
            return ChatAnswer(
                text=str(kept["text"]),
                finish_reason=str(kept["finish_reason"]),
                prompt_tokens=int(kept["prompt_tokens"]),
                completion_tokens=int(kept["completion_tokens"]),
                cached=True,
            )
        except NotFound:
            return None
        except (ValueError, KeyError, TypeError) as error:
            log.warning("cache_entry_unreadable", key=self._name(key), error=type(error).__name__)
            self.delete(key)
            return None

    def put(self, key: str, answer: ChatAnswer) -> ChatAnswer:
        """Keep an answer if it is complete; return the one that counts: the first of two writers' wins."""
        if answer.finish_reason != "stop" or not answer.text.strip():
            return answer
        kept = {
            "text": answer.text,
            "finish_reason": answer.finish_reason,
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
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


class ChatClient:
    """Asks one endpoint, a bounded number of calls at once.

    A call under retry keeps its place: what an overloaded endpoint refuses is not replaced by more.
    It may be used from one event loop after another (`asyncio.run` twice), never from two at once.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        concurrency: int = 16,
        attempts: int = 6,
        timeout_s: float = 600.0,
        cache: Cache | None = None,
        prices: Prices | None = None,
        backoff_s: float = 1.0,
        longest_wait_s: float = 60.0,
        longest_retry_after_s: float = 600.0,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """Set up, without a connection yet.

        `timeout_s` bounds one attempt as a whole; attempt k waits up to `backoff_s · 2^(k−1)` seconds,
        `longest_wait_s` at most, before the next. What the endpoint's Retry-After asks for,
        `longest_retry_after_s` at most, is waited for first.
        """
        self.endpoint = endpoint
        self.usage = Usage()
        self._concurrency = concurrency
        self._attempts = attempts
        self._timeout_s = timeout_s
        self._cache = cache
        self._prices = prices or Prices()
        self._backoff_s = backoff_s
        self._longest_wait_s = longest_wait_s
        self._longest_retry_after_s = longest_retry_after_s
        self._sleep = sleep
        self._random = random.Random()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: openai.AsyncOpenAI | None = None
        self._places = asyncio.Semaphore(concurrency)
        self._same: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def __aenter__(self) -> ChatClient:
        """Return the client itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close its connections."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections made in the running loop."""
        if self._client is not None and self._loop is asyncio.get_running_loop():
            await self._client.close()
        self._client = None
        self._loop = None

    async def complete(self, request: ChatRequest, *, repeat: int = 0) -> ChatAnswer:
        """Return the answer, from the cache if it was ever given; `repeat` numbers independent answers.

        Raises:
            CallFailed: refused, too long for the endpoint, or no answer after all attempts.
            ConfigError: the endpoint rejects key, model or parameters; the message names the setting.
            TransientError: a model of ours rejects them, or an account has no credit left.

        """
        self._enter_loop()
        key = cache_key(self.endpoint.identity, request, repeat)
        if self._cache is None:
            return await self._ask(request, key)
        lock = self._same.setdefault(key, asyncio.Lock())
        async with lock:
            kept = await asyncio.to_thread(self._cache.get, key)
            if kept is not None:
                self.usage.cached_calls += 1
                return kept
            answer = await self._ask(request, key)
            return await asyncio.to_thread(self._cache.put, key, answer)

    async def forget(self, request: ChatRequest, *, repeat: int = 0) -> None:
        """Take the request's answer out of the cache, so that asking again asks the endpoint."""
        if self._cache is not None:
            await asyncio.to_thread(self._cache.delete, cache_key(self.endpoint.identity, request, repeat))

    async def stream(
        self, request: ChatRequest, *, on_end: Callable[[str], None] | None = None
    ) -> AsyncIterator[str]:
        """Yield the answer's text as it comes; `on_end` gets the finish reason.

        Retries end with the first piece of text. No cache. Raises as `complete`.
        """
        self._enter_loop()
        key = cache_key(self.endpoint.identity, request, 0)
        async with self._places:
            begun = time.monotonic()
            opened = await self._retried(lambda: self._open_stream(request, key))
            reason, length, usage = "", 0, None
            try:
                async for chunk in opened[0]:
                    usage = getattr(chunk, "usage", None) or usage
                    for choice in chunk.choices or []:
                        reason = choice.finish_reason or reason
                        if choice.delta and choice.delta.content:
                            length += len(choice.delta.content.encode())
                            yield choice.delta.content
            except Exception as error:
                why = retryable(error, self.endpoint).reason
                raise self._failed(CallFailed(f"the answer broke off: {why}")) from None
            finally:
                await opened[0].close()
        prompt, completion = tokens(usage, request, length)
        self._book(prompt, completion)
        log.debug("streamed", model=self.endpoint.model, seconds=round(time.monotonic() - begun, 2))
        if reason in BROKEN_OFF or not reason:
            raise self._failed(CallFailed("the answer broke off"))
        if on_end is not None:
            on_end(reason)

    async def _ask(self, request: ChatRequest, key: str) -> ChatAnswer:
        async with self._places:
            answer, attempts = await self._retried(lambda: self._attempt(request, key))
        if answer.finish_reason == "content_filter":
            raise self._failed(CallFailed("refused: the content filter stopped the answer", kind="refused"))
        return replace(answer, attempts=attempts)

    async def _retried(self, attempt: Callable[[], Awaitable[T]]) -> tuple[T, int]:
        """Return the first result and the number of attempts that it took."""
        for number in range(1, self._attempts + 1):
            try:
                return await attempt(), number
            except Exception as error:
                try:
                    retry = retryable(error, self.endpoint)
                except CallFailed as failed:
                    raise self._failed(failed) from None
            if number == self._attempts:
                break
            wait_s = self._wait_s(number, retry.retry_after_s)
            self.usage.retries += 1
            log.info(
                "retry", model=self.endpoint.model, why=retry.reason, attempt=number, wait_s=round(wait_s, 2)
            )
            await self._sleep(wait_s)
        raise self._failed(CallFailed(f"{retry.reason} ({self._attempts} attempts)", kind="unavailable"))

    def _wait_s(self, attempt: int, retry_after_s: float | None) -> float:
        """Full jitter below an exponential bound; on top of Retry-After where one was given."""
        bound = min(self._longest_wait_s, self._backoff_s * 2.0 ** (attempt - 1))
        return self._random.uniform(0, bound) + min(retry_after_s or 0.0, self._longest_retry_after_s)

    async def _attempt(self, request: ChatRequest, key: str) -> ChatAnswer:
        assert self._client is not None
        async with asyncio.timeout(self._timeout_s):
            response = await self._client.chat.completions.create(**self._body(request, key))
        choices = getattr(response, "choices", None)
        if not choices or choices[0].message is None:
            raise Retry("answered without a choice")
        message, reason = choices[0].message, choices[0].finish_reason or "stop"
        text = encodable(message.content or "")
        reasoning = getattr(message, "reasoning", None) or getattr(message, "reasoning_content", None)
        length = len(text.encode("utf-8", "replace")) + len((reasoning or "").encode("utf-8", "replace"))
        prompt, completion = tokens(response.usage, request, length)
        usd = self._book(prompt, completion)
        if reason in BROKEN_OFF:
            raise Retry(f"finished with '{reason}'")
        if getattr(message, "refusal", None):
            reason = "content_filter"
        return ChatAnswer(text, reason, prompt, completion, reasoning=reasoning, usd=usd)

    async def _open_stream(self, request: ChatRequest, key: str) -> openai.AsyncStream[Any]:
        assert self._client is not None
        asked = self._body(request, key) | {"stream": True}
        if not (self.endpoint.ours and self.endpoint.engine == "transformers"):
            asked["stream_options"] = {"include_usage": True}
        stream: openai.AsyncStream[Any] = await self._client.chat.completions.create(**asked)
        return stream

    def _body(self, request: ChatRequest, key: str) -> dict[str, Any]:
        seed = derived_seed(key) if request.seed is None else request.seed
        return body(self.endpoint, request, seed=seed)

    def _book(self, prompt_tokens: int, completion_tokens: int) -> float:
        usd = self._prices.usd(prompt_tokens, completion_tokens)
        self.usage += Usage(
            calls=1, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, usd=usd
        )
        return usd

    def _failed(self, failed: CallFailed) -> CallFailed:
        self.usage.failures += 1
        log.info("call_failed", model=self.endpoint.model, why=failed.reason, kind=failed.kind)
        return failed

    def _enter_loop(self) -> None:
        """Make connections for the running loop: those of another one are dead with it."""
        import openai

        loop = asyncio.get_running_loop()
        if self._client is not None and self._loop is loop:
            return
        self._loop = loop
        self._places = asyncio.Semaphore(self._concurrency)
        self._same = WeakValueDictionary()
        self._client = openai.AsyncOpenAI(
            base_url=self.endpoint.url,
            api_key=self.endpoint.api_key or "none",
            max_retries=0,
            timeout=self._timeout_s,
            # A proxy of the environment leads to the world, not to the model beside us.
            http_client=openai.DefaultAsyncHttpxClient(trust_env=False) if self.endpoint.ours else None,
        )


class Breaker:
    """Opens after so many failures in a row that the endpoint must be down: there is no use in going on."""

    def __init__(self, after: int = 8) -> None:
        self._after = after
        self._in_a_row = 0

    @property
    def open(self) -> bool:
        """Whether to stop asking."""
        return self._in_a_row >= self._after

    def note(self, *, unavailable: bool) -> None:
        """Count a call that failed because the endpoint is unavailable, or one that did not."""
        self._in_a_row = self._in_a_row + 1 if unavailable else 0


async def each(
    items: Iterable[T],
    work: Callable[[T], Awaitable[None]],
    *,
    width: int,
    stopped: Callable[[], bool],
    grace_s: float | None = None,
) -> None:
    """Do the work for every item, at most `width` at once; the first error cancels the rest and is raised.

    Once `stopped` says so nothing more is begun, and what is under way may finish: within `grace_s`
    seconds, if given.
    """
    waiting = iter(items)
    running: set[asyncio.Task[None]] = set()
    deadline: float | None = None
    try:
        while True:
            while not stopped() and len(running) < width:
                try:
                    running.add(asyncio.ensure_future(_call(work, next(waiting))))
                except StopIteration:
                    break
            if not running:
                return
            if stopped() and grace_s is not None:
                deadline = deadline or time.monotonic() + grace_s
                if time.monotonic() >= deadline:
                    return
            # A signal wakes no event loop, so it is looked for.
            done, running = await asyncio.wait(running, timeout=0.2, return_when=asyncio.FIRST_COMPLETED)
            errors = [task.exception() for task in done]
            for error in errors:
                if error is not None:
                    raise error
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _call(work: Callable[[T], Awaitable[None]], item: T) -> None:
    await work(item)

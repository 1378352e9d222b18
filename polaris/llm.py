"""Chat requests in, answers with their usage out: the one client of every OpenAI-compatible endpoint.

Judging, prompt derivation and generation all go through it, so limits, retries, deadlines, the cache, the
budget and the counting of cost exist once. Nothing here knows a stage.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from polaris.answers import Cache, cache_key, is_complete
from polaris.caller import Caller, Sleep
from polaris.chat import CallFailed, ChatAnswer, ChatRequest, Endpoint, Prices, Retry
from polaris.limits import Limits
from polaris.protocol import BROKEN_OFF, retryable, tokens
from polaris.retries import Call, Patience, Retries
from polaris.runtime import get_logger

if TYPE_CHECKING:
    import openai

    from polaris.budget import Budget

STOP_GRACE_S = 15.0
"""How long a stage's calls under way may go on after SIGTERM; Kubernetes kills after 30 s."""
WIDTH = 4
"""Requests under way for each place: most wait to retry, for their turn, or for the cache."""
CACHE_THREADS = 16
KEEP_S = 10.0
"""How long closing waits for answers that are on their way into the cache; with `STOP_GRACE_S` below 30 s."""
LOOK_S = 0.2
"""How often a stop is looked for."""

T = TypeVar("T")

log = get_logger("llm")


class ChatClient(Caller):
    """Asks one endpoint, and never twice what it has an answer to."""

    _known: dict[str, ChatAnswer | None]
    """What `remember` was given; None for what the cache holds."""
    _puts: set[Future[ChatAnswer]]
    """Answers on their way into the cache."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        concurrency: int = 16,
        attempts: int = 6,
        timeout_s: float = 600.0,
        deadline_s: float = 3600.0,
        outage_s: float = 0.0,
        cache: Cache | None = None,
        prices: Prices | None = None,
        budget: Budget | None = None,
        share: int = 1,
        backoff_s: float = 0.5,
        longest_wait_s: float = 60.0,
        longest_retry_after_s: float = 600.0,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Set up, without a connection yet.

        Args:
            endpoint: whom to ask; its rates are shared by `share` processes.
            concurrency: most attempts in flight; fewer while more than a fifth are refused (429).
            attempts: tries of one call; being told to slow down (429) is not one.
            timeout_s: bounds one attempt as a whole.
            deadline_s: bounds one call, from its first attempt on.
            outage_s: how long the endpoint may answer nothing to anybody before a probe decides whether it is
                down or the calls that fail are at fault; 0: no probe, a call that is given up decides it.
            cache: where complete answers are kept.
            prices: what tokens cost.
            budget: asked before each attempt.
            share: number of processes that share the account.
            backoff_s: attempt k waits up to `backoff_s · 2^(k−1)` seconds before the next.
            longest_wait_s: that wait's bound.
            longest_retry_after_s: bound of what the endpoint's Retry-After adds to it.
            sleep: waits so many seconds.
            clock: seconds.
            stopped: once it says so no attempt is begun any more: calls that wait for one are cancelled.

        """
        patience = Patience(attempts, deadline_s, outage_s, backoff_s, longest_wait_s, longest_retry_after_s)
        super().__init__(
            endpoint,
            _limits(endpoint, concurrency, share, clock),
            Retries(patience),
            timeout_s=timeout_s,
            prices=prices or Prices(),
            budget=budget,
            sleep=sleep,
            clock=clock,
            stopped=stopped,
        )
        self._cache = cache
        self._known = {}
        self._threads: ThreadPoolExecutor | None = None
        self._puts = set()
        self._same: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def __aenter__(self) -> ChatClient:
        """Return the client itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close its connections."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections made in the running loop, once what was answered is kept.

        That is waited for `KEEP_S` at most; the rest goes on for as long as the process lives.
        """
        await super().aclose()
        deadline = time.monotonic() + KEEP_S
        while self._puts and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_S / 4)
        if self._threads is not None:
            self._threads.shutdown(wait=False)
            self._threads = None

    @property
    def width(self) -> int:
        """How many requests a caller should have under way so that none of the places stays empty."""
        return WIDTH * self._limits.places.most

    @property
    def limit(self) -> int:
        """How many attempts may be in flight now."""
        return self._limits.places.now

    @property
    def outage(self) -> bool:
        """Whether the endpoint is down: for `outage_s` it had answered nothing, nor has it since."""
        return self._retries.outage

    async def complete(self, request: ChatRequest, *, repeat: int = 0) -> ChatAnswer:
        """Return the answer, from the cache if it was ever given; `repeat` numbers independent answers.

        Raises:
            CallFailed: refused, too long for the endpoint, its schema rejected, or no answer to be had.
            ConfigError: the endpoint rejects key, model or parameters; the message names the setting.
            TransientError: a model of ours rejects them, or an account has no credit left.
            BudgetError: the budget is spent.

        """
        self._enter_loop()
        key = self.key(request, repeat)
        if self._cache is None and key not in self._known:
            return await self._ask(request, key)
        lock = self._same.setdefault(key, asyncio.Lock())
        async with lock:
            kept = await self.kept(key)
            if kept is not None:
                if key not in self._known:
                    self.usage.cached_calls += 1
                    self.on_spending()
                    return kept
                # What was bought for this client is no saved call the first time that it is asked for.
                if self._known[key] is None:
                    del self._known[key]
                return replace(kept, cached=False)
            answer = await self._ask(request, key)
            if self._cache is None or not is_complete(answer):
                return answer
            return await self._put(self._cache, key, answer)

    async def forget(self, request: ChatRequest, *, repeat: int = 0) -> None:
        """Take the request's answer out of the cache, so that asking again asks the endpoint."""
        key = self.key(request, repeat)
        self._known.pop(key, None)
        if self._cache is not None:
            await self._in_thread(self._cache.delete, key)

    def key(self, request: ChatRequest, repeat: int) -> str:
        """Return what the request's answer is known by."""
        return cache_key(self.endpoint.identity, request, repeat)

    async def kept(self, key: str) -> ChatAnswer | None:
        """Return the answer that was given to `remember` or is in the cache; None if there is none."""
        known = self._known.get(key)
        if known is not None:
            return known
        return None if self._cache is None else await self._in_thread(self._cache.get, key)

    async def remember(self, key: str, answer: ChatAnswer) -> None:
        """Keep an answer that was bought otherwise, so that `complete` finds it and never buys it again.

        A complete one goes into the cache; one that no cache may hold is known for this client's life.
        """
        if self._cache is not None and is_complete(answer):
            await self._put(self._cache, key, answer)
            self._known[key] = None
        else:
            self._known[key] = answer

    async def stream(
        self, request: ChatRequest, *, on_end: Callable[[str], None] | None = None
    ) -> AsyncIterator[str]:
        """Yield the answer's text as it comes; `on_end` gets the finish reason.

        For a person who waits: no cache, no budget, no limits, and retries end with the first piece of text.
        Raises as `complete`.
        """
        self._enter_loop()
        try:
            stream = await self._open_stream(request)
        except CallFailed as failed:
            raise self._failed(failed) from None
        reason, length, usage, whole = "", 0, None, False
        try:
            async for chunk in stream:
                usage = getattr(chunk, "usage", None) or usage
                for choice in chunk.choices or []:
                    reason = choice.finish_reason or reason
                    if choice.delta and choice.delta.content:
                        length += len(choice.delta.content.encode())
                        yield choice.delta.content
            whole = bool(reason) and reason not in BROKEN_OFF
        except Exception as error:
            why = retryable(error, self.endpoint).reason
            raise self._failed(CallFailed(f"the answer broke off: {why}")) from None
        finally:
            await stream.close()
            # However it ends, what has come is paid for.
            try:
                counted = tokens(usage, request, length)
            except Retry:
                counted = tokens(None, request, length)
            self._book(*counted, 0, "standard")
        if not whole:
            raise self._failed(CallFailed("the answer broke off"))
        if on_end is not None:
            on_end(reason)

    async def _open_stream(self, request: ChatRequest) -> openai.AsyncStream[Any]:
        import openai
        from openai.types.chat import ChatCompletion, ChatCompletionChunk

        call = Call(request, self.key(request, 0), 0, "standard")
        asked = self._body(call) | {"stream": True}
        if not (self.endpoint.ours and self.endpoint.engine == "transformers"):
            asked["stream_options"] = {"include_usage": True}
        while True:
            try:
                self._retries.begin(call, self._clock())
                stream: openai.AsyncStream[Any] = await self.sdk.post(
                    "/chat/completions",
                    body=asked,
                    cast_to=ChatCompletion,
                    stream=True,
                    stream_cls=openai.AsyncStream[ChatCompletionChunk],
                )
            except Exception as error:
                await self._sleep(await self._next_wait_s(call, self._fault(call, error)))
            else:
                self._retries.answered(self._clock())
                return stream

    async def _put(self, cache: Cache, key: str, answer: ChatAnswer) -> ChatAnswer:
        """Keep an answer, also if the caller is cancelled: it is paid for. Return the one that counts."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def end(put: Future[ChatAnswer]) -> None:
            self._puts.discard(put)
            if (error := put.exception()) is not None:
                log.warning("answer_not_kept", key=key, reason=str(error))
            # A loop that is closed by now waits for nothing.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(ended.set)

        put = self._pool.submit(cache.put, key, answer)
        self._puts.add(put)
        put.add_done_callback(end)
        await ended.wait()
        return put.result()

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    @property
    def _pool(self) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(CACHE_THREADS, thread_name_prefix="cache")
        return self._threads


def _limits(endpoint: Endpoint, concurrency: int, share: int, clock: Callable[[], float]) -> Limits:
    return Limits(
        concurrency,
        requests_per_minute=_shared(endpoint.requests_per_minute, share),
        tokens_per_minute=_shared(endpoint.tokens_per_minute, share),
        clock=clock,
    )


def _shared(per_minute: int | None, share: int) -> float | None:
    return None if per_minute is None else per_minute / share


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
    seconds, if given. Work that was cancelled from within (`ChatClient`'s `stopped`) is no error.
    """
    loop = asyncio.get_running_loop()
    waiting = iter(items)
    running: set[asyncio.Task[None]] = set()
    errors: list[BaseException] = []
    wake = asyncio.Event()
    deadline: float | None = None

    def ended(task: asyncio.Task[None]) -> None:
        running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            errors.append(error)
        wake.set()

    try:
        while True:
            while not stopped() and len(running) < width:
                try:
                    task = asyncio.create_task(_call(work, next(waiting)))
                except StopIteration:
                    break
                running.add(task)
                task.add_done_callback(ended)
            if not running:
                return
            if not stopped():
                deadline = None
            elif grace_s is not None:
                deadline = deadline or time.monotonic() + grace_s
                if time.monotonic() >= deadline:
                    return
            wake.clear()
            # A signal wakes no event loop, so it is looked for.
            look = loop.call_later(LOOK_S, wake.set)
            await wake.wait()
            look.cancel()
            if errors:
                raise errors[0]
    finally:
        left = list(running)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _call(work: Callable[[T], Awaitable[None]], item: T) -> None:
    await work(item)

"""One question in, its answer out after as many attempts as it takes, or why there is none.

Limits, retries, deadlines, budget and the counting of cost come together here; what an answer is remembered
by is the client's business (`polaris/llm.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from polaris.chat import (
    AnswerTier,
    CallFailed,
    ChatAnswer,
    ChatRequest,
    Endpoint,
    Prices,
    Retry,
    Usage,
    derived_seed,
)
from polaris.errors import ConfigError
from polaris.limits import Gate, Limits
from polaris.protocol import BROKEN_OFF, Reading, body, prompt_estimate, read, retryable
from polaris.retries import Call, Retries
from polaris.runtime import get_logger

if TYPE_CHECKING:
    import openai

    from polaris.budget import Budget

MOST_REJECTED = 20
"""Requests that an endpoint may reject one after the other before it is the settings that it rejects."""
CONNECT_S = 30.0
"""Longest wait for a connection: an endpoint that is not there must not cost a whole time-out."""
PROBE_S = 60.0
"""Longest wait for a probe's answer."""
PROBE = ChatRequest(({"role": "user", "content": "Hello"},), max_tokens=1)
"""What is asked to find out whether an endpoint answers anybody at all."""
NO_NEWS = frozenset({"no room", "too late", "timed out", "unanswered", "not sent"})
"""What says nothing about how many calls the endpoint bears."""

Sleep = Callable[[float], Awaitable[None]]

log = get_logger("llm")


class Caller:
    """Asks one endpoint, as often and as many calls at once as it bears.

    A place is held while an attempt is out, never by a call that waits to retry; retries go before new calls.
    It may be used from one event loop after another (`asyncio.run` twice), never from two at once.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        limits: Limits,
        retries: Retries,
        *,
        timeout_s: float,
        prices: Prices,
        budget: Budget | None,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Set up, without a connection yet; the arguments are `ChatClient`'s."""
        self.endpoint = endpoint
        self.usage = Usage()
        self.in_flight: list[float] = []
        """US$ that each attempt may cost which is sent and not booked in `usage` yet."""
        self.on_spending: Callable[[], None] = lambda: None
        """Called before an attempt is sent, once it is booked, and for an answer that was kept."""
        self.budget = budget
        self._limits = limits
        self._retries = retries
        self._timeout_s = timeout_s
        self._prices = prices
        self._sleep = sleep
        self._clock = clock
        self._stopped = stopped
        self._answered = self._written = 0
        self._rejected = 0
        """Requests rejected since the last answer."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: openai.AsyncOpenAI | None = None
        self._gate = Gate(limits, stopped=stopped)
        self._probe: asyncio.Task[bool] | None = None

    async def aclose(self) -> None:
        """Close the connections made in the running loop."""
        if self._probe is not None and self._loop is asyncio.get_running_loop():
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)
        if self._client is not None and self._loop is asyncio.get_running_loop():
            await self._client.close()
        self._client = self._loop = None

    @property
    def sdk(self) -> openai.AsyncOpenAI:
        """The SDK's client of the running event loop, its own retries off."""
        self._enter_loop()
        assert self._client is not None
        return self._client

    def body(self, request: ChatRequest, key: str) -> dict[str, Any]:
        """Return the body of the POST that asks the request, at the standard tier."""
        return self._body(Call(request, key, 0, "standard"))

    def estimate_usd(self, request: ChatRequest, tier: AnswerTier = "standard") -> float:
        """Return about what one answer costs: its prompt by its length, the answer as those so far."""
        prompt, completion = self._estimate(request)
        return self._prices.usd(prompt, completion, tier=tier)

    def accept(
        self,
        request: ChatRequest,
        completion: Any,
        *,
        tier: AnswerTier | None = None,
        attempts: int = 1,
        latency_s: float = 0.0,
    ) -> ChatAnswer:
        """Return what a `ChatCompletion` of the SDK answers, once it is booked in `usage`.

        `tier` is how it was sold; None takes the completion's own word. Raises Retry if the endpoint gave
        up, CallFailed if it refused.
        """
        reading = read(completion, request)
        tier = tier or reading.tier
        usd = self._book(reading.prompt_tokens, reading.completion_tokens, reading.cached_prompt_tokens, tier)
        self._learn(reading)
        return self._checked(reading, usd, tier, attempts, latency_s)

    async def _ask(self, request: ChatRequest, key: str) -> ChatAnswer:
        retries = self._retries
        call = Call(request, key, sum(self._estimate(request)), self.endpoint.tier, in_outage=retries.outage)
        retries.under_way += 1
        try:
            while True:
                try:
                    return await self._attempt(call)
                except Retry as retry:
                    wait_s = await self._next_wait_s(call, retry)
                await self._sleep(wait_s)
        except CallFailed as failed:
            raise self._failed(failed) from None
        finally:
            retries.under_way -= 1

    async def _attempt(self, call: Call) -> ChatAnswer:
        """Ask once, within the limits; raise Retry for what may go better the next time."""
        gate = self._gate
        place = await gate.enter(call.tokens, again=call.attempts > 0)
        used: int | None = None
        refused: bool | None = None
        try:
            reading, usd = await self._paid(call, self._timeout_s)
            refused, used = False, reading.prompt_tokens + reading.completion_tokens
        except Retry as retry:
            refused = None if retry.kind in NO_NEWS else retry.kind == "rate limited"
            raise
        finally:
            self.usage.backoffs += gate.leave(place, used, refused=refused)
        now = self._clock()
        self._learn(reading)
        self._rejected = 0
        if reading.finish_reason not in BROKEN_OFF:
            # A refusal too: whoever refuses is up.
            self._retries.answered(now)
        return self._checked(reading, usd, reading.tier, call.attempts, now - call.attempt_begun)

    async def _paid(self, call: Call, timeout_s: float) -> tuple[Reading, float]:
        """Make an attempt and book what it costs: in `usage`, and in the budget in place of its estimate."""
        reserved = self.estimate_usd(call.request, call.tier)
        if self.budget is not None:
            await self.budget.reserve(reserved)
        cost, sent = 0.0, False
        try:
            self._retries.begin(call, self._clock())
            asked = self._body(call)
            left_s = min(timeout_s, self._retries.left_s(call, self._clock()))
            self.in_flight.append(reserved)
            sent = True
            self.on_spending()
            try:
                async with asyncio.timeout(left_s):
                    completion = await self._post(asked)
                reading = read(completion, call.request)
            except asyncio.CancelledError:
                cost = reserved
                self._book_unanswered(reserved)
                raise
            except Exception as error:
                retry = self._fault(call, error)
                if retry.kind in ("timed out", "unanswered"):
                    cost = reserved
                    self._book_unanswered(reserved)
                raise retry from None
            cost = self._book(
                reading.prompt_tokens, reading.completion_tokens, reading.cached_prompt_tokens, reading.tier
            )
            return reading, cost
        finally:
            if sent:
                self.in_flight.remove(reserved)
                self.on_spending()
            if self.budget is not None:
                self.budget.settle(reserved, cost)

    async def _post(self, asked: dict[str, Any]) -> Any:
        from openai.types.chat import ChatCompletion

        # As a body, not as arguments: those the SDK looks through one by one, which takes it longer than all
        # the rest, and it refuses what it does not know.
        return await self.sdk.post("/chat/completions", body=asked, cast_to=ChatCompletion)

    def _body(self, call: Call) -> dict[str, Any]:
        seed = derived_seed(call.key) if call.request.seed is None else call.request.seed
        return body(self.endpoint, call.request, seed=seed, tier=call.tier)

    def _fault(self, call: Call, error: Exception) -> Retry:
        """Return what an attempt failed of; raise what no further attempt mends."""
        proven = self._answered + self.usage.cached_calls > 0
        try:
            return retryable(
                error,
                self.endpoint,
                flex=call.tier == "flex",
                schema=call.request.schema is not None,
                answers_others=proven and self._rejected < MOST_REJECTED,
            )
        except CallFailed as failed:
            self._rejected += failed.kind == "broken"
            self._retries.answered(self._clock())
            raise

    async def _next_wait_s(self, call: Call, retry: Retry) -> float:
        """Return the seconds until the next attempt, which is counted; raise CallFailed if there is none."""
        usage, tier = self.usage, call.tier
        usage.rate_limited += retry.kind in ("rate limited", "no room")
        up = self._retries.failed(call, retry, self._clock()) and await self._is_up()
        wait_s = self._retries.wait_s(call, retry, self._clock(), up=up)
        usage.retries += 1
        usage.tier_fallbacks += call.tier != tier
        log.debug(
            "retry",
            model=self.endpoint.model,
            why=retry.reason,
            attempt=call.attempts,
            wait_s=round(wait_s, 2),
        )
        return wait_s

    async def _is_up(self) -> bool:
        """Return whether the endpoint answers anybody; all who wonder at a time share one probe."""
        if self._probe is None:
            self._probe = asyncio.create_task(self._ask_probe(self._retries.answers))
            self._probe.add_done_callback(self._forget_probe)
        return await asyncio.shield(self._probe)

    def _forget_probe(self, probe: asyncio.Task[bool]) -> None:
        self._probe = None
        if not probe.cancelled():
            # All who asked may be gone: then its error is nobody's.
            probe.exception()

    async def _ask_probe(self, before: int) -> bool:
        """Ask for one token, past all limits: those may be what everybody waits at.

        `before` are the answers that anybody had got when it was asked for.
        """
        call = Call(PROBE, self.endpoint.identity, 0, "standard", in_outage=True)
        up = False
        try:
            async with asyncio.timeout(PROBE_S):
                reading, _ = await self._paid(call, min(PROBE_S, self._timeout_s))
            up = reading.finish_reason not in BROKEN_OFF
        except (Retry, TimeoutError) as error:
            log.info("probe_unanswered", model=self.endpoint.model, why=str(error) or "no budget in time")
        except (CallFailed, ConfigError):
            # It may not take a question this small; that it says so is an answer.
            up = True
        up = up or self._retries.answers > before
        self._retries.probed(up=up, now=self._clock())
        log.info("probed", model=self.endpoint.model, up=up)
        return up

    def _checked(
        self, reading: Reading, usd: float, tier: AnswerTier, attempts: int, latency_s: float
    ) -> ChatAnswer:
        if reading.finish_reason in BROKEN_OFF:
            raise Retry(f"finished with '{reading.finish_reason}'")
        if reading.finish_reason == "content_filter":
            raise CallFailed("refused by the model or its content filter", kind="refused")
        return ChatAnswer(
            reading.text,
            reading.finish_reason,
            reading.prompt_tokens,
            reading.completion_tokens,
            reasoning=reading.reasoning,
            attempts=attempts,
            usd=usd,
            latency_s=latency_s,
            tier=tier,
        )

    def _estimate(self, request: ChatRequest) -> tuple[int, int]:
        mean = self._written // self._answered if self._answered else request.max_tokens // 4
        return prompt_estimate(request), min(mean, request.max_tokens)

    def _book(self, prompt: int, completion: int, cached_prompt: int, tier: AnswerTier) -> float:
        usd = self._prices.usd(prompt, completion, cached_prompt_tokens=cached_prompt, tier=tier)
        usage = self.usage
        usage.calls += 1
        usage.flex_calls += tier == "flex"
        usage.batch_calls += tier == "batch"
        usage.prompt_tokens += prompt
        usage.completion_tokens += completion
        usage.cached_prompt_tokens += cached_prompt
        usage.usd += usd
        return usd

    def _learn(self, reading: Reading) -> None:
        """Let what an answer was in length count for the next estimates."""
        self._answered += 1
        self._written += reading.completion_tokens

    def _book_unanswered(self, usd: float) -> None:
        self.usage.unanswered += 1
        self.usage.usd += usd

    def _failed(self, failed: CallFailed) -> CallFailed:
        self.usage.failures += 1
        log.info("call_failed", model=self.endpoint.model, why=failed.reason, kind=failed.kind)
        return failed

    def _enter_loop(self) -> None:
        """Make connections for the running loop: those of another one are dead with it."""
        loop = asyncio.get_running_loop()
        if self._client is not None and self._loop is loop:
            return
        import openai

        self._loop = loop
        self._gate = Gate(self._limits, stopped=self._stopped)
        self._client = openai.AsyncOpenAI(
            base_url=self.endpoint.url,
            api_key=self.endpoint.api_key or "none",
            max_retries=0,
            timeout=openai.Timeout(self._timeout_s, connect=min(CONNECT_S, self._timeout_s)),
            # A proxy of the environment leads to the world, not to the model beside us.
            http_client=openai.DefaultAsyncHttpxClient(trust_env=False) if self.endpoint.ours else None,
        )

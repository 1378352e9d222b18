"""Limits, outages, tiers, budget and schemas of the chat client, against a FAKE endpoint with faults."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from fake_endpoint import Reply, error, fake_endpoint
from test_llm import ASKED, ask, client_of, replies

from polaris.chat import CallFailed, ChatRequest, Prices, SchemaRejected
from polaris.errors import BudgetError, ConfigError, TransientError
from polaris.llm import ChatClient, each

DEAR = Prices(prompt=1e6, completion=2e6, cached_prompt=5e5, half_price_tier=0.5)
"""US$ 1 a prompt token, 2 a completion token."""


class FakeClock:
    """FAKE time: sleeping is what makes it pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


class FakeBudget:
    """FAKE: notes what is reserved and what is settled, and holds so much."""

    def __init__(self, usd: float = 1e9) -> None:
        self.left = usd
        self.reserved: list[float] = []
        self.settled: list[tuple[float, float]] = []

    async def reserve(self, usd: float) -> None:
        if usd > self.left:
            raise BudgetError("the judge's budget is spent")
        self.left -= usd
        self.reserved.append(usd)

    def settle(self, reserved: float, actual: float) -> None:
        self.left += reserved - actual
        self.settled.append((reserved, actual))


def numbered(count: int, **fields: Any) -> list[ChatRequest]:
    return [ChatRequest(({"role": "user", "content": str(n)},), 8, **fields) for n in range(count)]


def number_of(request: dict[str, Any]) -> int:
    return int(request["messages"][0]["content"])


def timed_client(server: Any, clock: FakeClock, **options: Any) -> ChatClient:
    return client_of(server, clock=clock, sleep=clock.sleep, **options)


def test_being_told_to_slow_down_is_never_an_attempt():
    clock = FakeClock()
    planned = [error(429, retry_after="7")] * 20 + [Reply("A fox.")]
    with fake_endpoint(replies(*planned)) as server:
        client = timed_client(server, clock, attempts=1)
        [answer] = ask(client)
    assert (answer.text, answer.attempts) == ("A fox.", 21)
    assert (client.usage.rate_limited, client.usage.retries, client.usage.failures) == (20, 20, 0)
    assert clock.now >= 140


def test_a_deadline_ends_even_that():
    clock = FakeClock()
    with fake_endpoint(replies(error(429))) as server, pytest.raises(CallFailed, match="deadline_s 100") as e:
        ask(timed_client(server, clock, attempts=1, deadline_s=100.0))
    assert e.value.unavailable
    assert clock.now < 100


def test_too_many_refusals_lower_the_number_in_flight_and_answers_raise_it():
    def reply(request: dict[str, Any], number: int) -> Reply:
        return error(429, retry_after="0") if 20 <= number < 60 else Reply("A fox.")

    with fake_endpoint(reply) as server:
        client = client_of(server, concurrency=16)
        ask(client, *numbered(60))
        low = client.limit
        ask(client, *numbered(400))
    assert client.usage.backoffs >= 1
    assert low < 16
    assert client.limit == 16
    assert client.usage.failures == 0


def test_who_waits_to_retry_holds_no_place():
    async def sleep(_: float) -> None:
        # Until every other call is answered.
        while client.usage.calls < 3:
            await asyncio.sleep(0.01)

    def reply(request: dict[str, Any], number: int) -> Reply:
        return error(500) if number == 0 else Reply("A fox.")

    with fake_endpoint(reply) as server:
        client = client_of(server, concurrency=1, sleep=sleep)
        answers = ask(client, *numbered(4))
    assert [answer.attempts for answer in answers] == [2, 1, 1, 1]
    assert server.most_at_once == 1


def test_requests_a_minute_are_kept_and_shared_out():
    with fake_endpoint(replies(Reply("A fox."))) as server:
        clock = FakeClock()
        endpoint = replace(client_of(server).endpoint, requests_per_minute=4800)
        client = ChatClient(endpoint, share=2, clock=clock)
        ask(client, *numbered(50))
    # 2,400 a minute are 240 in six seconds, and 50 have gone.
    assert client._limits.wait_s(0, clock.now) == 0
    assert client._limits.requests.wait_s(190, clock.now) == 0
    assert client._limits.requests.wait_s(191, clock.now) == 6


def test_tokens_are_taken_as_estimate_and_corrected_by_the_answer():
    usage = {"prompt_tokens": 700, "completion_tokens": 50, "total_tokens": 750}
    with fake_endpoint(replies(Reply("A fox.", usage=usage))) as server:
        clock = FakeClock()
        client = ChatClient(replace(client_of(server).endpoint, tokens_per_minute=8000), clock=clock)
        ask(client)
    # 800 may go in six seconds, and 750 have.
    assert client._limits.wait_s(50, clock.now) == 0
    assert client._limits.wait_s(51, clock.now) == 6


def test_an_outage_is_waited_out_and_loses_no_call():
    clock = FakeClock()

    def reply(request: dict[str, Any], number: int) -> Reply:
        return error(503) if 5 <= number < 150 else Reply("A fox.")

    with fake_endpoint(reply) as server:
        client = timed_client(server, clock, attempts=8, concurrency=4, outage_s=1e6, deadline_s=1e9)
        answers = ask(client, *numbered(20))
    assert len(answers) == 20
    assert client.usage.failures == 0
    assert not client.outage


def test_an_outage_that_lasts_is_known_and_ends_with_an_answer():
    clock, down = FakeClock(), True

    with fake_endpoint(lambda *_: error(503) if down else Reply("A fox.")) as server:
        client = timed_client(server, clock, attempts=2, outage_s=300.0)
        with pytest.raises(CallFailed, match="answered 503") as caught:
            ask(client)
        assert caught.value.unavailable
        assert client.outage
        assert clock.now >= 300
        down = False
        ask(client)
        assert not client.outage


def test_one_call_that_always_fails_fails_alone():
    def reply(request: dict[str, Any], _: int) -> Reply:
        return error(500) if number_of(request) == 3 else Reply("A fox.", delay_s=0.01)

    async def all_of_them() -> list[Any]:
        async with client:
            calls = (client.complete(one) for one in numbered(60))
            return await asyncio.gather(*calls, return_exceptions=True)

    with fake_endpoint(reply) as server:
        client = client_of(server, attempts=2, concurrency=2, outage_s=300.0)
        results = asyncio.run(all_of_them())
    failed = [number for number, result in enumerate(results) if isinstance(result, CallFailed)]
    assert failed == [3]
    assert (client.usage.failures, client.outage) == (1, False)


def flex_client(server: Any, **options: Any) -> ChatClient:
    endpoint = replace(client_of(server).endpoint, tier="flex")

    async def no_wait(_: float) -> None:
        pass

    return ChatClient(endpoint, **{"prices": DEAR, "sleep": no_wait, "attempts": 3} | options)


def test_flex_costs_half_where_the_answer_says_so():
    with fake_endpoint(replies(Reply("A fox.", tier="flex"), Reply("A hen.", tier="default"))) as server:
        client = flex_client(server)
        [cheap] = ask(client)
        [dear] = ask(client, repeat=1)
    assert [request["service_tier"] for request in server.requests] == ["flex", "flex"]
    assert (cheap.tier, cheap.usd, dear.tier, dear.usd) == ("flex", 10.0, "standard", 20.0)
    assert (client.usage.flex_calls, client.usage.calls, client.usage.tier_fallbacks) == (1, 2, 0)


@pytest.mark.parametrize(
    "full",
    [
        error(429, code="resource_unavailable"),
        error(429, "Resource Unavailable"),
        error(429, code="rate_limit_exceeded"),
        Reply("late", delay_s=20.0),
    ],
    ids=["no room", "no room in words", "rate limited", "timed out"],
)
def test_without_room_at_flex_the_next_attempt_is_at_the_standard_tier(full):
    with fake_endpoint(replies(full, Reply("A fox.", tier="default"))) as server:
        client = flex_client(server, timeout_s=1.5)
        [answer] = ask(client)
    assert [request.get("service_tier") for request in server.requests] == ["flex", None]
    assert (answer.tier, answer.attempts, client.usage.tier_fallbacks) == ("standard", 2, 1)


def test_prompt_tokens_of_the_providers_cache_have_their_own_price():
    usage = {
        "prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105,
        "prompt_tokens_details": {"cached_tokens": 80},
    }  # fmt: skip
    with fake_endpoint(replies(Reply("A fox.", usage=usage))) as server:
        client = client_of(server, prices=DEAR)
        [answer] = ask(client)
    assert answer.usd == 20 + 80 * 0.5 + 5 * 2
    assert client.usage.cached_prompt_tokens == 80


def test_each_attempt_is_reserved_before_and_settled_after():
    budget = FakeBudget()
    planned = (error(500), Reply(fault="drop"), Reply("A fox."))
    with fake_endpoint(replies(*planned)) as server:
        client = client_of(server, budget=budget, prices=DEAR, attempts=4)
        ask(client)
        ask(client, repeat=1)
    # 3 prompt tokens by length and a quarter of 64; then as many as the answer before had.
    estimate = 3 + 2 * 16
    assert budget.reserved == [estimate] * 3 + [3 + 2 * 5]
    assert budget.settled == [(estimate, 0), (estimate, estimate), (estimate, 20), (13, 20)]
    assert client.usage.unanswered == 1
    assert client.usage.usd == estimate + 20 + 20
    assert client.usage.calls == 2


def test_who_was_never_reached_is_not_paid():
    with fake_endpoint(replies(Reply())) as server:
        budget = FakeBudget()
        client = client_of(server, budget=budget, prices=DEAR)
    with pytest.raises(CallFailed, match="connection failed"):
        ask(client)
    assert [actual for _, actual in budget.settled] == [0, 0, 0]
    assert (client.usage.unanswered, client.usage.usd) == (0, 0)


def test_a_call_that_is_cancelled_under_way_is_booked_at_its_estimate():
    budget = FakeBudget()

    async def cancel() -> None:
        async with client:
            task = asyncio.ensure_future(client.complete(ASKED))
            while not server.requests:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    with fake_endpoint(replies(Reply("late", delay_s=0.5))) as server:
        client = client_of(server, budget=budget, prices=DEAR)
        asyncio.run(cancel())
    assert budget.settled == [(35, 35)]
    assert (client.usage.unanswered, client.usage.usd) == (1, 35)


def test_a_spent_budget_goes_through_and_what_is_under_way_goes_on():
    budget = FakeBudget(40.0)

    async def both() -> list[Any]:
        async with client:
            calls = (client.complete(ASKED, repeat=n) for n in range(2))
            return await asyncio.gather(*calls, return_exceptions=True)

    with fake_endpoint(replies(Reply("A fox.", delay_s=0.1))) as server:
        client = client_of(server, budget=budget, prices=DEAR)
        answer, refused = asyncio.run(both())
    assert answer.text == "A fox."
    assert isinstance(refused, BudgetError)
    assert (len(server.requests), budget.left) == (1, 20)


@pytest.mark.parametrize(
    "told",
    [
        error(400, "Invalid schema for response_format 'answer'"),
        error(400, "Unknown name \"additionalProperties\" at 'generation_config.response_schema'"),
        error(422, "guided decoding is not supported"),
    ],
)
def test_a_rejected_schema_is_told_apart(told):
    with fake_endpoint(replies(told)) as server:
        with pytest.raises(SchemaRejected):
            ask(client_of(server), numbered(1, schema={"type": "object"})[0])
        with pytest.raises(ConfigError):
            ask(client_of(server))
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "told",
    [
        error(402, "prepaid credits are spent"),
        error(429, code="credit_balance_exhausted"),
        error(429, code="project_spend_limit_exceeded"),
    ],
)
def test_an_account_whose_money_is_gone_is_not_asked_again(told):
    with fake_endpoint(replies(told)) as server, pytest.raises(TransientError, match="no credit left"):
        ask(client_of(server))
    assert len(server.requests) == 1


def test_a_tier_that_is_not_sold_names_its_setting():
    told = error(400, "Invalid service_tier argument")
    told.body["error"]["param"] = "service_tier"
    with (
        fake_endpoint(replies(told)) as server,
        pytest.raises(ConfigError, match=r"models\.reader\.service_tier"),
    ):
        ask(flex_client(server))


def test_once_stopped_no_attempt_is_begun():
    stop = False

    def reply(_: dict[str, Any], number: int) -> Reply:
        nonlocal stop
        stop = number == 2
        return Reply("A fox.")

    async def work(request: ChatRequest) -> None:
        await client.complete(request)

    async def all_of_them() -> None:
        async with client:
            await each(numbered(50), work, width=client.width, stopped=lambda: stop, grace_s=15.0)

    with fake_endpoint(reply) as server:
        client = client_of(server, concurrency=1, stopped=lambda: stop)
        asyncio.run(all_of_them())
    assert len(server.requests) == 3
    assert client.usage.failures == 0


def test_many_calls_with_faults_of_every_kind_lose_nothing():
    faults = {
        3: error(429, retry_after="0"),
        11: error(500),
        17: Reply(fault="drop"),
        23: Reply("cut", fault="truncate"),
        29: Reply("half", fault="garbage"),
    }

    def reply(request: dict[str, Any], number: int) -> Reply:
        return faults.get(number % 37, Reply(str(number_of(request))))

    with fake_endpoint(reply) as server:
        client = client_of(server, concurrency=16, outage_s=300.0, attempts=6)
        answers = ask(client, *numbered(400))
    assert [answer.text for answer in answers] == [str(n) for n in range(400)]
    usage = client.usage
    made = Counter(number % 37 for number in range(len(server.requests)))
    assert len(server.requests) == usage.calls + usage.retries
    assert usage.rate_limited == made[3]
    assert usage.unanswered == made[17] + made[23] + made[29]
    assert usage.failures == 0

"""Whether an endpoint is down or a call at fault itself, against a FAKE endpoint with faults."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fake_endpoint import Reply, error, fake_endpoint
from test_llm import ASKED, ask, client_of, replies
from test_llm_limits import DEAR, FakeBudget, FakeClock, numbered, timed_client

from polaris.chat import CallFailed
from polaris.errors import ConfigError
from polaris.llm import ChatClient

POISON = ASKED


def is_probe(request: dict[str, Any]) -> bool:
    return request["messages"][0]["content"] == "Hello"


def probes(server: Any) -> list[dict[str, Any]]:
    return [request for request in server.requests if is_probe(request)]


def only_probes(request: dict[str, Any], _: int) -> Reply:
    return Reply("H", finish_reason="length") if is_probe(request) else error(500)


def test_an_endpoint_that_only_ever_says_429_is_out():
    clock = FakeClock()
    with fake_endpoint(replies(error(429, retry_after="5"))) as server:
        client = timed_client(server, clock, outage_s=300.0, deadline_s=3600.0)
        with pytest.raises(
            CallFailed, match=r"answered 429, and nobody has got an answer for 30\d s"
        ) as caught:
            ask(client)
    assert caught.value.unavailable
    assert client.outage
    assert clock.now < 320, "it need not wait for its deadline"
    assert len(probes(server)) == 1


def test_an_endpoint_that_hangs_is_out_though_deadlines_end_before_attempts_do():
    with fake_endpoint(replies(Reply("late", delay_s=30.0))) as server:
        client = client_of(server, timeout_s=0.3, deadline_s=0.8, attempts=6, outage_s=50.0)
        with pytest.raises(CallFailed, match="nobody has got an answer"):
            ask(client)
    assert client.outage
    assert len(probes(server)) == 1


def test_a_call_that_alone_is_never_answered_is_no_outage():
    clock, budget = FakeClock(), FakeBudget()
    with fake_endpoint(only_probes) as server:
        client = timed_client(server, clock, outage_s=300.0, budget=budget, prices=DEAR)
        with pytest.raises(CallFailed, match=r"answered 500 \(\d+ attempts\)") as caught:
            ask(client, POISON)
    assert caught.value.unavailable
    assert not client.outage
    [probe] = probes(server)
    assert probe["max_completion_tokens"] == 1
    # Asked for, it is paid like all else, and tells nothing of how long answers are.
    assert (client.usage.calls, client.usage.usd) == (1, 20)
    assert budget.settled[-1] == (2, 20)
    assert client.estimate_usd(ASKED) == 3 + 2 * 16


def test_that_the_probe_is_refused_shows_that_the_endpoint_is_up():
    clock = FakeClock()
    too_small = error(400, "Could not finish the message because max_tokens was reached")
    with fake_endpoint(lambda request, _: too_small if is_probe(request) else error(500)) as server:
        client = timed_client(server, clock, outage_s=300.0)
        with pytest.raises(CallFailed, match="answered 500"):
            ask(client)
    assert not client.outage


def test_all_who_wait_for_the_verdict_share_one_probe():
    clock = FakeClock()

    async def all_of_them(client: ChatClient) -> list[Any]:
        async with client:
            calls = (client.complete(one) for one in numbered(20))
            return await asyncio.gather(*calls, return_exceptions=True)

    def reply(request: dict[str, Any], _: int) -> Reply:
        return Reply(status=503, body={}, delay_s=0.3 if is_probe(request) else 0.0)

    with fake_endpoint(reply) as server:
        client = timed_client(server, clock, outage_s=300.0, concurrency=4, attempts=2)
        found = asyncio.run(all_of_them(client))
    assert all(isinstance(result, CallFailed) and result.unavailable for result in found)
    assert client.outage
    assert len(probes(server)) == 1


def test_without_outage_s_nothing_is_probed():
    with fake_endpoint(replies(error(503))) as server:
        client = client_of(server)
        with pytest.raises(CallFailed):
            ask(client)
    assert client.outage
    assert len(server.requests) == 3


def test_a_refusal_is_an_answer():
    refused = Reply("", finish_reason="content_filter")
    with fake_endpoint(replies(error(503), refused)) as server:
        client = client_of(server, attempts=1)
        with pytest.raises(CallFailed, match="answered 503"):
            ask(client)
        assert client.outage
        with pytest.raises(CallFailed, match="refused"):
            ask(client)
    assert not client.outage


def test_closing_ends_a_probe_that_nobody_waits_for_any_more():
    clock = FakeClock()

    async def cancel(client: ChatClient) -> None:
        async with client:
            call = asyncio.ensure_future(client.complete(ASKED))
            while not probes(server):
                await asyncio.sleep(0.01)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        assert len(asyncio.all_tasks()) == 1

    def reply(request: dict[str, Any], _: int) -> Reply:
        return Reply("late", delay_s=30.0) if is_probe(request) else error(503)

    with fake_endpoint(reply) as server:
        asyncio.run(cancel(timed_client(server, clock, outage_s=10.0)))
    assert len(probes(server)) == 1


def test_what_says_nothing_of_the_load_leaves_the_limit_alone():
    def reply(_: dict[str, Any], number: int) -> Reply:
        return error(429, retry_after="0") if number < 40 else Reply(fault="drop")

    async def all_of_them(client: ChatClient) -> None:
        async with client:
            calls = (client.complete(one) for one in numbered(40))
            await asyncio.gather(*calls, return_exceptions=True)

    limits = []
    with fake_endpoint(reply) as server:
        client = client_of(server, concurrency=16, attempts=4)
        note = client._limits.places.note
        client._limits.places.note = lambda **told: (limits.append(told), note(**told))[1]
        asyncio.run(all_of_them(client))
    assert client.usage.unanswered > 100
    assert client.limit < 16
    assert all(told["refused"] for told in limits), (
        "nobody was answered, so nothing speaks for a higher limit"
    )


def test_money_that_comes_after_the_deadline_is_not_spent():
    clock = FakeClock()

    class SlowBudget(FakeBudget):
        """FAKE: a reservation takes ten minutes."""

        async def reserve(self, usd: float) -> None:
            clock.now += 600.0
            await super().reserve(usd)

    budget = SlowBudget()
    with fake_endpoint(replies(error(500))) as server:
        client = timed_client(server, clock, budget=budget, prices=DEAR, deadline_s=300.0)
        with pytest.raises(CallFailed, match="no place for another attempt, and no answer within deadline_s"):
            ask(client)
    assert len(server.requests) == 1
    assert [actual for _, actual in budget.settled] == [0, 0]
    assert (client.usage.unanswered, client.usage.usd) == (0, 0)


def test_a_call_that_is_cancelled_while_it_waits_for_money_takes_none_and_holds_no_place():
    class DryBudget(FakeBudget):
        """FAKE: the first reservation never comes."""

        async def reserve(self, usd: float) -> None:
            if not waiting.is_set():
                waiting.set()
                await asyncio.Event().wait()
            await super().reserve(usd)

    async def cancel(client: ChatClient) -> str:
        async with client:
            call = asyncio.ensure_future(client.complete(ASKED))
            await waiting.wait()
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            return (await client.complete(ASKED)).text

    budget, waiting = DryBudget(), asyncio.Event()
    with fake_endpoint(replies(Reply("A fox."))) as server:
        client = client_of(server, concurrency=1, budget=budget, prices=DEAR)
        assert asyncio.run(cancel(client)) == "A fox."
    assert len(budget.reserved) == len(budget.settled) == 1


def test_an_endpoint_that_answers_probes_and_nothing_else_is_out_soon():
    clock = FakeClock()

    async def ask_many(client: ChatClient) -> list[Any]:
        async with client:
            asked = (client.complete(one) for one in numbered(200))
            return await asyncio.gather(*asked, return_exceptions=True)

    with fake_endpoint(only_probes) as server:
        client = timed_client(server, clock, outage_s=300.0, concurrency=16)
        ended = asyncio.run(ask_many(client))
    assert all(isinstance(end, CallFailed) and end.unavailable for end in ended)
    assert client.outage
    assert any("as were the 49 calls before" in end.reason for end in ended)
    assert len(probes(server)) <= 3


def test_an_endpoint_that_comes_to_reject_everything_is_no_heap_of_bad_requests():
    def reply(_: dict[str, Any], number: int) -> Reply:
        return Reply("A fox.") if number < 3 else error(400)

    with fake_endpoint(reply) as server:
        client = client_of(server, concurrency=1)
        ask(client, *numbered(3))
        for number in range(20):
            with pytest.raises(CallFailed, match="rejects this request alone"):
                ask(client, *numbered(5 + number)[4 + number :])
        with pytest.raises(ConfigError, match="rejects the request"):
            ask(client, *numbered(30)[29:])


def test_a_key_that_is_refused_with_400_is_told_as_such():
    said = error(400, "API key expired. Please renew the API key.")
    with fake_endpoint(lambda _, number: Reply("A fox.") if number < 1 else said) as server:
        client = client_of(server)
        ask(client)
        with pytest.raises(ConfigError, match="the key in FAKE_API_KEY is not accepted"):
            ask(client, *numbered(2)[1:])

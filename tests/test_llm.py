"""The chat client against a FAKE endpoint that injects faults (`fake_endpoint`): it proves no model."""

from __future__ import annotations

import asyncio
import email.utils
import logging
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from fake_endpoint import FakeEndpoint, Reply, error, fake_endpoint
from structlog.testing import capture_logs

from polaris.answers import Cache
from polaris.chat import (
    CallFailed,
    ChatAnswer,
    ChatRequest,
    Endpoint,
    Prices,
    Usage,
    derived_seed,
)
from polaris.errors import ConfigError, TransientError
from polaris.llm import ChatClient
from polaris.protocol import retry_after_s
from polaris.storage import FileStore

CANARY = "sk-canary-0123456789"
ASKED = ChatRequest(messages=({"role": "user", "content": "Of a fox."},), max_tokens=64)


def client_of(
    server: FakeEndpoint, *, ours: bool = False, waits: list[float] | None = None, **options
) -> ChatClient:
    async def sleep(seconds: float) -> None:
        if waits is not None:
            waits.append(seconds)

    endpoint = Endpoint(
        url=server.url,
        model="fake",
        identity="fake/model",
        api_key=CANARY,
        ours=ours,
        setting="models.reader",
        api_key_env="FAKE_API_KEY",
    )
    return ChatClient(endpoint, **{"attempts": 3, "timeout_s": 60.0, "sleep": sleep} | options)


def ask(client: ChatClient, *requests: ChatRequest, repeat: int = 0) -> list[ChatAnswer]:
    async def all_of_them() -> list[ChatAnswer]:
        async with client:
            return await asyncio.gather(*(client.complete(one, repeat=repeat) for one in requests or [ASKED]))

    return asyncio.run(all_of_them())


def replies(*planned: Reply):
    """Answer the planned replies in order, the last one for ever."""
    return lambda _, number: planned[min(number, len(planned) - 1)]


@pytest.mark.parametrize(
    "fault",
    [
        *(error(status) for status in (408, 409, 425, 429, 500, 502, 503, 529)),
        Reply(fault="drop"),
        Reply("cut in transit", fault="truncate"),
        Reply("half of its JSON", fault="garbage"),
        Reply(body={"error": "no choices with status 200"}),
        Reply("given up", finish_reason="abort"),
    ],
    ids=lambda reply: f"{reply.status}-{reply.fault or reply.finish_reason}",
)
def test_a_fault_that_passes_is_tried_again(fault):
    with fake_endpoint(replies(fault, fault, Reply("A fox."))) as server:
        client = client_of(server)
        [answer] = ask(client)
    assert (answer.text, answer.attempts, len(server.requests)) == ("A fox.", 3, 3)
    assert (client.usage.retries, client.usage.failures) == (2, 0)


def test_a_time_out_is_tried_again():
    with fake_endpoint(replies(Reply("late", delay_s=30.0), Reply("in time"))) as server:
        [answer] = ask(client_of(server, timeout_s=1.5, attempts=8))
    assert answer.text == "in time"
    # More than 2 where the machine is so busy that an answer in time comes late too.
    assert answer.attempts >= 2


def test_exhausted_attempts_fail_as_unavailable_with_the_reason():
    with fake_endpoint(replies(error(503))) as server:
        client = client_of(server)
        with pytest.raises(CallFailed, match=r"answered 503 \(3 attempts\)") as caught:
            ask(client)
    assert caught.value.unavailable
    assert len(server.requests) == 3
    assert (client.usage.failures, client.usage.calls) == (1, 0)


def test_a_server_that_is_not_there_is_unavailable():
    with fake_endpoint(replies(Reply())) as server:
        client = client_of(server)
    with pytest.raises(CallFailed, match="connection failed") as caught:
        ask(client)
    assert caught.value.unavailable


def test_retry_after_in_seconds_is_waited_for_up_to_its_own_cap():
    waits: list[float] = []
    planned = (error(429, retry_after="300"), error(503, retry_after="9999"), Reply("A fox."))
    with fake_endpoint(replies(*planned)) as server:
        ask(client_of(server, waits=waits))
        ask(client_of(server, waits=waits))
    assert 300 <= waits[0] <= 301
    assert 600 <= waits[1] <= 602
    with fake_endpoint(replies(*planned)) as server:
        ask(client_of(server, waits=waits, longest_wait_s=0.0, longest_retry_after_s=20.0))
    assert waits[2:] == [20.0, 20.0]


def test_retry_after_as_a_date():
    now = 1_700_000_000.0
    headers = {"retry-after": email.utils.formatdate(now + 7, usegmt=True)}
    assert retry_after_s(headers, now=now) == 7
    assert retry_after_s(headers, now=now + 60) == 0
    assert retry_after_s({"retry-after": "soon"}) is None
    assert retry_after_s({}) is None


def test_backoff_is_exponential_with_full_jitter_and_a_bound():
    waits: list[float] = []
    with fake_endpoint(replies(error(500))) as server, pytest.raises(CallFailed):
        ask(client_of(server, attempts=9, waits=waits, backoff_s=1.0, longest_wait_s=10.0))
    assert len(waits) == 8
    assert all(0 <= wait <= min(10.0, 2.0**number) for number, wait in enumerate(waits))
    assert len(set(waits)) == 8


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (400, "models.reader: .*rejects the request.*'fake' knows the temperature"),
        (401, "models.reader.api_key_env: the key in FAKE_API_KEY is not accepted"),
        (403, "models.reader.api_key_env: the key in FAKE_API_KEY is not accepted"),
        (404, "models.reader: .*knows no model 'fake'.*check model and url"),
    ],
)
def test_what_no_retry_mends_names_the_setting_at_once(status, told):
    with fake_endpoint(replies(error(status))) as server:
        with pytest.raises(ConfigError, match=told):
            ask(client_of(server))
        with pytest.raises(TransientError, match=told):
            ask(client_of(server, ours=True))
    assert len(server.requests) == 2


def test_a_request_that_is_too_long_fails_alone():
    long = error(400, "This model's maximum context length is 2048 tokens, you asked for 4000")
    with fake_endpoint(replies(long)) as server, pytest.raises(CallFailed, match="longer than") as caught:
        ask(client_of(server))
    assert (caught.value.kind, len(server.requests)) == ("too long", 1)


def test_an_account_without_credit_is_not_hammered():
    planned = error(429, code="insufficient_quota")
    with fake_endpoint(replies(planned)) as server, pytest.raises(TransientError, match="no credit left"):
        ask(client_of(server))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "planned", [error(401, f"Incorrect API key {CANARY}"), error(500, CANARY), Reply(fault="drop")]
)
def test_the_key_and_the_story_reach_neither_errors_nor_logs(planned, caplog):
    caplog.set_level(logging.INFO)
    secret = ChatRequest(messages=({"role": "user", "content": "canary story"},), max_tokens=8)
    with fake_endpoint(replies(planned)) as server, capture_logs() as events:
        client = client_of(server)
        with pytest.raises((CallFailed, ConfigError)) as caught:
            ask(client, secret)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(client.endpoint)
    shown += "".join(str(event) for event in events if event["log_level"] != "debug") + caplog.text
    assert server.headers[0]["authorization"] == f"Bearer {CANARY}"
    assert CANARY not in shown
    assert "canary story" not in shown


def test_concurrency_is_bounded():
    requests = [ChatRequest(({"role": "user", "content": str(n)},), max_tokens=8) for n in range(12)]
    with fake_endpoint(replies(Reply("A fox.", delay_s=0.3))) as server:
        ask(client_of(server, concurrency=3), *requests)
    assert len(server.requests) == 12
    assert 2 <= server.most_at_once <= 3


def test_an_identical_call_is_answered_by_the_cache_and_tells_what_it_took(tmp_path):
    with fake_endpoint(lambda _, number: Reply(f"answer {number}")) as server:
        prices = Prices(prompt=1e6, completion=2e6)
        first = client_of(server, cache=Cache(FileStore(tmp_path)), prices=prices)
        [paid] = ask(first)
        moved = client_of(server, cache=Cache(FileStore(tmp_path)), prices=prices)
        [kept] = ask(moved)
    assert len(server.requests) == 1
    assert (kept.text, kept.cached, kept.usd) == (paid.text, True, paid.usd)
    assert paid.usd == 10 + 2 * 5
    assert first.usage.cost() == {
        "calls": 1, "cached_calls": 0, "prompt_tokens": 10, "completion_tokens": 5, "usd": 20.0,
    }  # fmt: skip
    assert moved.usage == Usage(cached_calls=1)


def test_identical_calls_at_once_are_paid_once(tmp_path):
    with fake_endpoint(replies(Reply("A fox.", delay_s=0.1))) as server:
        answers = ask(client_of(server, cache=Cache(FileStore(tmp_path))), ASKED, ASKED, ASKED)
    assert len(server.requests) == 1
    assert [answer.text for answer in answers] == ["A fox."] * 3


@pytest.mark.parametrize(
    "planned",
    [
        Reply("cut", finish_reason="length"),
        Reply("  "),
        Reply("no", finish_reason="content_filter"),
        Reply("", message={"refusal": "I will not."}),
    ],
    ids=["length", "blank", "filtered", "refused"],
)
def test_cut_blank_and_refused_answers_are_never_cached(tmp_path, planned):
    with fake_endpoint(replies(planned)) as server:
        for _ in range(2):
            client = client_of(server, cache=Cache(FileStore(tmp_path)))
            try:
                ask(client)
            except CallFailed as failed:
                assert failed.kind == "refused"
            assert client.usage.calls == 1
    assert len(server.requests) == 2
    assert list(FileStore(tmp_path).list("cache/")) == []


def test_a_forgotten_answer_is_asked_for_again(tmp_path):
    with fake_endpoint(lambda _, number: Reply(f"answer {number}")) as server:
        client = client_of(server, cache=Cache(FileStore(tmp_path)))
        ask(client, repeat=1)
        ask(client)
        for _ in range(2):
            asyncio.run(client.forget(ASKED))
        assert [answer.text for answer in ask(client) + ask(client, repeat=1)] == ["answer 2", "answer 0"]


def test_seeds_depend_on_their_parts_alone():
    assert derived_seed(1, "a", 0) == derived_seed(1, "a", 0)
    assert (
        len(
            {
                derived_seed(1, "a", 0),
                derived_seed(1, "a", 1),
                derived_seed(1, "b", 0),
                derived_seed(2, "a", 0),
            }
        )
        == 4
    )
    with fake_endpoint(replies(Reply("A fox."))) as server:
        for repeat in (0, 1, 0):
            ask(client_of(server, ours=True), repeat=repeat)
    seeds = [request["seed"] for request in server.requests]
    assert seeds[0] == seeds[2] != seeds[1]


def test_tokens_are_estimated_where_the_endpoint_counts_none():
    with fake_endpoint(replies(Reply("12345678", usage=None))) as server:
        [answer] = ask(client_of(server))
    assert (answer.prompt_tokens, answer.completion_tokens) == (3, 2)


def test_reasoning_sent_apart_is_returned_apart():
    with fake_endpoint(replies(Reply("A fox.", message={"reasoning": "Hm."}))) as server:
        [answer] = ask(client_of(server))
    assert (answer.text, answer.reasoning) == ("A fox.", "Hm.")


def test_lone_surrogates_become_text_that_can_be_written():
    with fake_endpoint(replies(Reply("a\ud83d fox \ud83e\udd8a"))) as server:
        [answer] = ask(client_of(server))
    assert answer.text == "a\ufffd fox \U0001f98a"


def test_one_client_serves_one_loop_after_another():
    with fake_endpoint(replies(Reply("A fox."))) as server:
        client = client_of(server)
        for _ in range(2):
            assert ask(client)[0].text == "A fox."
    assert client.usage.calls == 2


def streamed(client: ChatClient, ends: list[str]) -> list[str]:
    async def pieces() -> list[str]:
        async with client:
            return [piece async for piece in client.stream(ASKED, on_end=ends.append)]

    return asyncio.run(pieces())


def test_a_stream_yields_the_text_as_it_comes_after_retries():
    ends: list[str] = []
    with fake_endpoint(replies(error(503), Reply("a fox runs home", finish_reason="length"))) as server:
        client = client_of(server)
        assert streamed(client, ends) == ["a ", "fox ", "runs ", "home"]
    assert ends == ["length"]
    assert (client.usage.calls, client.usage.completion_tokens, client.usage.retries) == (1, 5, 1)


def test_a_stream_that_breaks_off_says_so():
    planned = Reply("a fox runs home", fault="truncate")
    with fake_endpoint(replies(planned)) as server, pytest.raises(CallFailed, match="broke off"):
        streamed(client_of(server), [])
    assert len(server.requests) == 1


def test_importing_the_client_does_not_import_the_sdk():
    code = "import polaris.llm, sys; sys.exit('openai' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False).returncode
        == 0
    )

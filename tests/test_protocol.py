"""What is no chat completion though its status is 200, and how tokens are counted. The endpoint is FAKE."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fake_endpoint import Reply, error, fake_endpoint
from test_llm import ASKED, ask, client_of, replies

from polaris.chat import CallFailed, Prices, Retry
from polaris.errors import ConfigError

MESSAGE = {"role": "assistant", "content": "A fox."}
CHOICE = {"index": 0, "finish_reason": "stop", "message": MESSAGE}
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


def completion(**changed: Any) -> dict[str, Any]:
    found = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
    return found | {"choices": [CHOICE], "usage": USAGE} | changed


def message(**changed: Any) -> dict[str, Any]:
    return completion(choices=[CHOICE | {"message": MESSAGE | changed}])


MALFORMED: dict[str, Any] = {
    "no choices": completion(choices=None),
    "empty choices": completion(choices=[]),
    "choices [null]": completion(choices=[None]),
    "choices [{}]": completion(choices=[{}]),
    "choices {}": completion(choices={"a": 1}),
    "message text": completion(choices=[CHOICE | {"message": "A fox."}]),
    "message null": completion(choices=[CHOICE | {"message": None}]),
    "content in parts": message(content=[{"type": "text", "text": "A fox."}]),
    "finish reason object": completion(choices=[CHOICE | {"finish_reason": {"type": "stop"}}]),
    "a list": [1],
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_chat_completion_is_tried_again_and_then_a_failure(name):
    told = r"^answered no chat completion \(3 attempts\)$"
    with (
        fake_endpoint(replies(Reply(body=MALFORMED[name]))) as server,
        pytest.raises(CallFailed, match=told),
    ):
        ask(client_of(server))
    assert len(server.requests) == 3


@pytest.mark.parametrize("name", [name for name, body in MALFORMED.items() if isinstance(body, dict)])
def test_it_is_none_of_a_batch_either(name):
    from openai.types.chat import ChatCompletion

    with fake_endpoint(replies(Reply())) as server:
        client = client_of(server)
    with pytest.raises(Retry, match="answered no chat completion"):
        client.accept(ASKED, ChatCompletion.construct(**MALFORMED[name]), tier="batch")
    assert client.usage.calls == 0


def test_a_finish_reason_can_be_written_whatever_it_is():
    with fake_endpoint(replies(Reply("A fox.", finish_reason="\ud800"))) as server:
        [answer] = ask(client_of(server))
    assert answer.finish_reason == "\ufffd"


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ({"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 9500}, (1000, 8500)),
        ({"prompt_tokens": 1000, "total_tokens": 9500}, (1000, 8500)),
        ({"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 0}, (1000, 500)),
        ({"prompt_tokens": 1000, "completion_tokens": 500}, (1000, 500)),
        ({"completion_tokens": 500, "total_tokens": 9500}, (3, 500)),
    ],
)
def test_thoughts_that_only_the_total_counts_are_paid_for(usage, counted):
    with fake_endpoint(replies(Reply("A fox.", usage=usage))) as server:
        [answer] = ask(client_of(server, prices=Prices(1.0, 10.0)))
    assert (answer.prompt_tokens, answer.completion_tokens) == counted
    assert answer.usd == pytest.approx((counted[0] + 10 * counted[1]) / 1e6)


ODD: dict[str, Any] = {
    "reasoning object": message(reasoning={"text": "Hm."}),
    "reasoning_content list": message(reasoning_content=["Hm."]),
    "prompt tokens in text": completion(usage={"prompt_tokens": "10", "completion_tokens": 5}),
    "completion tokens below 0": completion(usage=USAGE | {"completion_tokens": -1}),
    "total in words": completion(usage=USAGE | {"total_tokens": "fifteen"}),
    "cached tokens in text": completion(usage=USAGE | {"prompt_tokens_details": {"cached_tokens": "three"}}),
    "no usage": completion(usage=None),
}


@pytest.mark.parametrize("name", ODD)
def test_an_answer_is_not_thrown_away_for_what_stands_beside_it(name):
    with fake_endpoint(replies(Reply(body=ODD[name]))) as server:
        [answer] = ask(client_of(server))
    assert (answer.text, len(server.requests)) == ("A fox.", 1)
    assert answer.prompt_tokens > 0 and answer.completion_tokens > 0


@pytest.mark.parametrize("status", [400, 422])
def test_what_an_endpoint_rejects_alone_is_that_request_s_fault(status):
    def reply(request: dict[str, Any], _: int) -> Reply:
        return error(status) if "bad" in request["messages"][0]["content"] else Reply("A fox.")

    bad = replace(ASKED, messages=({"role": "user", "content": "bad"},))
    with fake_endpoint(reply) as server:
        client = client_of(server)
        with pytest.raises(ConfigError, match="rejects the request"):
            ask(client, bad)
        ask(client)
        with pytest.raises(CallFailed, match=rf"rejects this request alone \(answer {status}\)") as caught:
            ask(client, bad)
    assert not caught.value.unavailable


def test_a_refused_temperature_is_told_with_its_fix():
    refused = Reply(status=400, body={"error": {"message": "Unsupported value", "param": "temperature"}})
    told = "lets nobody choose temperature .*set temperature and top_p to 1"
    with fake_endpoint(replies(refused)) as server, pytest.raises(ConfigError, match=told):
        ask(client_of(server))

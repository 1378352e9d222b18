"""What batches need of the chat client: keys, bodies, answers bought otherwise. Against a FAKE endpoint."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from fake_endpoint import Reply, fake_endpoint
from test_llm import ASKED, ask, client_of, replies

from polaris.answers import Cache
from polaris.chat import CallFailed, ChatAnswer, Prices, Retry
from polaris.storage import FileStore

HALF = Prices(prompt=1e6, completion=2e6, half_price_tier=0.5)
"""US$ 1 a prompt token, 2 a completion token."""


def test_a_completion_of_a_batch_is_accepted_as_a_live_one_is():
    from openai.types.chat import ChatCompletion

    def completion(text: str, reason: str) -> ChatCompletion:
        message = {"role": "assistant", "content": text}
        return ChatCompletion.construct(
            id="x", created=0, model="m", object="chat.completion",
            choices=[{"index": 0, "message": message, "finish_reason": reason}],
            usage={"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        )  # fmt: skip

    with fake_endpoint(replies(Reply())) as server:
        client = client_of(server, prices=HALF)
    answer = client.accept(ASKED, completion("A fox.", "stop"), tier="batch")
    assert (answer.text, answer.tier, answer.usd, answer.latency_s) == ("A fox.", "batch", 10.0, 0.0)
    assert (client.usage.batch_calls, client.usage.usd) == (1, 10.0)
    with pytest.raises(Retry):
        client.accept(ASKED, completion("", "error"), tier="batch")
    with pytest.raises(CallFailed, match="refused"):
        client.accept(ASKED, completion("", "content_filter"), tier="batch")


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_what_is_remembered_is_never_bought_again(tmp_path, reason):
    with fake_endpoint(replies(Reply("live"))) as server:
        client = client_of(server, cache=Cache(FileStore(tmp_path)))
        key = client.key(ASKED, 0)
        bought = ChatAnswer("by batch", reason, 10, 5, tier="batch", usd=0.5)
        assert asyncio.run(client.kept(key)) is None
        asyncio.run(client.remember(key, bought))
        [answer] = ask(client)
        assert (answer.text, answer.tier, answer.usd, answer.cached) == ("by batch", "batch", 0.5, False)
        assert client.usage.cached_calls == 0
        [again] = ask(client)
        assert again.text == "by batch"
        assert client.usage.cached_calls == (reason == "stop")
        asyncio.run(client.forget(ASKED))
        assert ask(client)[0].text == "live"


def test_a_body_is_what_is_sent():
    request = replace(ASKED, schema={"type": "object"}, effort="low")
    with fake_endpoint(replies(Reply("A fox."))) as server:
        client = client_of(server)
        ask(client, request)
        assert server.requests == [client.body(request, client.key(request, 0))]

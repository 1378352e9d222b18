"""One judge's conversation with a FAKE endpoint: its scores are made up and mean nothing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from fake_endpoint import FakeEndpoint, Reply, error, fake_endpoint

from polaris.answers import Cache
from polaris.chat import Endpoint
from polaris.config import JudgeConfig
from polaris.errors import ConfigError
from polaris.judge.rubric import json_schema, load_rubric, rubric_identity
from polaris.judge.score import EMPTY_STORY, Judge, JudgeFailed, Scored
from polaris.llm import ChatClient
from polaris.storage import FileStore

PROMPT, STORY = "Of a fox. The story should be 200 words long.", "The fox slept. Then it rained on the hens."


def scores(**changed: Any) -> dict[str, Any]:
    found: dict[str, Any] = {dimension.key: 3 for dimension in load_rubric().dimensions}
    return found | {"bonus": None, "penalty": None} | changed


def valid(**changed: Any) -> Reply:
    return Reply(json.dumps(scores(**changed)))


def judge_of(
    server: FakeEndpoint, cache: Cache | None = None, *, thinking: bool = False, **changed: Any
) -> Judge:
    async def no_wait(_: float) -> None:
        pass

    config = JudgeConfig(model="reader", **{"form": "compact"} | changed)
    endpoint = Endpoint(url=server.url, model="r", identity="fake/reader", setting="models.reader")
    return Judge(ChatClient(endpoint, attempts=2, cache=cache, sleep=no_wait), config, thinking=thinking)


def score(judge: Judge, story: str = STORY, *, repeat: int = 0) -> Scored:
    async def one() -> Scored:
        async with judge.client:
            return await judge.score(PROMPT, story, repeat=repeat)

    return asyncio.run(one())


def in_order(*planned: Reply):
    return lambda _, number: planned[min(number, len(planned) - 1)]


def test_a_valid_answer_is_a_judgement():
    with fake_endpoint(in_order(valid(P1=9))) as server:
        judge = judge_of(server)
        scored = score(judge)
    assert scored.judgement.positive["P1"] == 9
    assert (scored.repaired, scored.calls, scored.cached_calls) == (False, 1, 0)
    assert judge.rubric == rubric_identity("compact")
    [request] = server.requests
    assert request["response_format"]["json_schema"]["schema"] == json_schema("compact")
    assert "200 words" not in json.dumps(request["messages"])


def test_the_schema_can_go_into_the_shared_part_of_the_prompt():
    with fake_endpoint(in_order(valid())) as server:
        score(judge_of(server, structured="prompt"))
    [request] = server.requests
    assert "response_format" not in request
    system, user = request["messages"]
    assert '"additionalProperties":false' in system["content"]
    assert STORY in user["content"]


def test_an_invalid_answer_is_sent_back_once_with_its_reason():
    invalid = valid(P1=99)
    with fake_endpoint(in_order(invalid, valid(P1=7))) as server:
        scored = score(judge_of(server))
    assert (scored.judgement.positive["P1"], scored.repaired, scored.calls) == (7, True, 2)
    first, second = (request["messages"] for request in server.requests)
    assert second[:2] == first
    assert second[2] == {"role": "assistant", "content": invalid.text}
    assert second[3]["role"] == "user"
    assert "P1" in second[3]["content"]


@pytest.mark.parametrize("text", ["", "no JSON", '{"P1": 3}', json.dumps(scores(N1=2.5))])
def test_an_answer_that_stays_invalid_is_a_failure_and_never_a_score(text):
    with fake_endpoint(in_order(Reply(text))) as server:
        with pytest.raises(JudgeFailed, match="invalid answer, and again after repair") as caught:
            score(judge_of(server))
        assert len(server.requests) == 2
    assert not caught.value.unavailable
    assert "hens" not in caught.value.reason


def test_a_cut_answer_is_a_failure_even_if_it_parses():
    with fake_endpoint(in_order(Reply(valid().text, finish_reason="length"))) as server:
        with pytest.raises(JudgeFailed, match="'length'.*max_tokens 16384"):
            score(judge_of(server))
        assert len(server.requests) == 1


def test_a_repaired_answer_is_found_again_without_a_call(tmp_path):
    cache = Cache(FileStore(tmp_path))
    with fake_endpoint(in_order(valid(P1=99), valid(P1=7), error(500))) as server:
        first = score(judge_of(server, cache))
        again = judge_of(server, cache)
        second = score(again)
    assert len(server.requests) == 2
    assert second.judgement == first.judgement
    assert (second.repaired, second.calls, second.cached_calls) == (True, 2, 2)
    assert again.client.usage.calls == 0


@pytest.mark.parametrize("second", [valid(P1=98), Reply("{", finish_reason="length")], ids=["invalid", "cut"])
def test_an_answer_that_stays_invalid_is_asked_for_again(tmp_path, second):
    store = FileStore(tmp_path)
    with fake_endpoint(in_order(valid(P1=99), second, valid(P1=7))) as server:
        with pytest.raises(JudgeFailed):
            score(judge_of(server, Cache(store)))
        assert list(store.list("cache/")) == []
        scored = score(judge_of(server, Cache(store)))
    assert (scored.judgement.positive["P1"], scored.repaired, scored.cached_calls) == (7, False, 0)


def test_an_outage_before_the_repair_keeps_what_was_paid_for(tmp_path):
    cache = Cache(FileStore(tmp_path))
    with fake_endpoint(in_order(valid(P1=99), error(503), error(503), valid(P1=7))) as server:
        with pytest.raises(JudgeFailed) as caught:
            score(judge_of(server, cache))
        scored = score(judge_of(server, cache))
    assert caught.value.unavailable
    assert (scored.repaired, scored.calls, scored.cached_calls) == (True, 2, 1)


def test_repeats_are_calls_of_their_own(tmp_path):
    with fake_endpoint(lambda _, number: valid(P1=number)) as server:
        judge = judge_of(server, Cache(FileStore(tmp_path)))
        found = [score(judge, repeat=repeat).judgement.positive["P1"] for repeat in (0, 1, 0)]
    assert found == [0, 1, 0]


@pytest.mark.parametrize("story", ["", " \n\t"])
def test_an_empty_story_is_not_asked_about(story):
    with fake_endpoint(in_order(valid())) as server:
        with pytest.raises(JudgeFailed) as caught:
            score(judge_of(server), story)
        assert caught.value.reason == EMPTY_STORY
        assert server.requests == []


def test_a_story_over_the_limit_fails_before_it_costs_anything():
    with fake_endpoint(in_order(valid())) as server:
        judge = judge_of(server, max_story_tokens=64)
        score(judge, "x" * 256)
        with pytest.raises(JudgeFailed, match="about 65 tokens is longer than max_story_tokens 64"):
            score(judge, "x" * 257)
        assert len(server.requests) == 1


def test_an_endpoint_that_is_down_is_told_apart_from_a_bad_story():
    with fake_endpoint(in_order(error(503))) as server, pytest.raises(JudgeFailed) as caught:
        score(judge_of(server))
    assert caught.value.unavailable


def test_a_rejected_key_is_no_failure_of_the_story():
    with fake_endpoint(in_order(error(401))) as server, pytest.raises(ConfigError, match="api_key_env"):
        score(judge_of(server))


def test_what_a_thinking_judge_thinks_is_no_part_of_its_answer():
    thought = Reply('<think>{"P1": 0}</think>\n' + valid(P1=5).text)
    with fake_endpoint(in_order(thought)) as server:
        assert score(judge_of(server, thinking=True)).judgement.positive["P1"] == 5


def no_schema(request: dict[str, Any], number: int) -> Reply:
    """As a server that knows no structured output says it."""
    unknown = error(400, "response_format: json_schema is not supported by this server")
    return unknown if "response_format" in request else valid(P1=number)


def test_a_rejected_schema_goes_into_the_prompt_from_then_on():
    with fake_endpoint(no_schema) as server:
        judge = judge_of(server)
        found = [score(judge, story) for story in (STORY, "Another story.")]
    assert [scored.structured for scored in found] == ["prompt", "prompt"]
    assert ["response_format" in request for request in server.requests] == [True, False, False]
    assert all(
        '"additionalProperties":false' in request["messages"][0]["content"] for request in server.requests[1:]
    )
    assert judge.client.usage.schema_fallbacks == 1
    assert judge.notes == ["models.reader: enforces no JSON schema, so the judge gets it in its prompt"]


def test_many_stories_at_once_fall_back_once(tmp_path):
    async def all_at_once(judge: Judge) -> list[Scored]:
        async with judge.client:
            return await asyncio.gather(*(judge.score(PROMPT, f"Story {number}.") for number in range(8)))

    with fake_endpoint(no_schema) as server:
        judge = judge_of(server, Cache(FileStore(tmp_path)))
        found = asyncio.run(all_at_once(judge))
    assert {scored.structured for scored in found} == {"prompt"}
    assert (judge.client.usage.schema_fallbacks, len(judge.notes)) == (1, 1)


def test_a_judgement_tells_what_its_answers_took_from_the_cache_too(tmp_path):
    cache = Cache(FileStore(tmp_path))
    with fake_endpoint(in_order(valid(P1=99), error(503), valid(P1=7))) as server:
        first = score(judge_of(server, cache))
        second = score(judge_of(server, cache))
    assert (first.prompt_tokens, first.completion_tokens, first.attempts) == (20, 10, 3)
    assert first.latency_s > 0
    for name in ("prompt_tokens", "completion_tokens", "usd", "attempts", "latency_s", "structured"):
        assert getattr(second, name) == getattr(first, name)


def test_a_repair_is_counted():
    with fake_endpoint(in_order(valid(P1=99), valid())) as server:
        judge = judge_of(server)
        score(judge)
    assert judge.client.usage.repairs == 1


def test_the_reasoning_effort_is_asked_for():
    with fake_endpoint(in_order(valid())) as server:
        score(judge_of(server, reasoning_effort="low"))
    assert server.requests[0]["reasoning_effort"] == "low"


def test_the_first_question_is_the_one_that_is_asked():
    with fake_endpoint(in_order(valid())) as server:
        judge = judge_of(server)
        score(judge)
    asked = judge.requests(PROMPT, STORY)
    assert list(asked.messages) == server.requests[0]["messages"]
    assert asked.schema == json_schema("compact")
    with pytest.raises(JudgeFailed, match=EMPTY_STORY):
        judge.requests(PROMPT, " ")

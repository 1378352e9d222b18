"""The judge stage over a real store and a FAKE judge: its scores are made up and mean nothing."""

from __future__ import annotations

import functools
import itertools
import json
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from context import make_context, read_output, settings
from fake_batches import completion, fake_batches
from fake_endpoint import Reply, error, fake_endpoint

from polaris import batch
from polaris.artifact import to_rows
from polaris.chat import Usage
from polaris.errors import BudgetError, ConfigError, Stopped, TransientError
from polaris.judge import judgements, stage
from polaris.judge.rubric import load_rubric, rubric_identity
from polaris.judge.stage import run
from polaris.runtime import configure_logging
from polaris.stage import StageContext
from polaris.storage import FileStore

NAME = "judge.writer.quality"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("FAKE_API_KEY", "sk-fake")


def story(name: str, sample: int = 0, text: str = "The fox slept.") -> dict[str, Any]:
    return {
        "id": name,
        "sample": sample,
        "prompt": f"Of {name}. The story should be 200 words long.",
        "target_word_count": 200,
        "story": text,
        "words": 3,
        "finish_reason": "stop",
        "truncated": False,
        "completion_tokens": 4,
        "model": "fake/writer",
    }


def answer(p1: int = 3) -> Reply:
    found: dict[str, Any] = {dimension.key: 1 for dimension in load_rubric().dimensions}
    return Reply(json.dumps(found | {"P1": p1, "bonus": None, "penalty": None}))


def context_of(folder: Path, url: str, stories: list[dict[str, Any]], **judge: Any) -> StageContext:
    folder.mkdir(exist_ok=True)
    config = settings(folder, url)
    config["judges"]["judge"] |= judge
    return make_context(folder, config, NAME, {"generate.writer.quality": {"stories.jsonl": stories}})


def rows(context: StageContext, name: str) -> list[dict[str, Any]]:
    return to_rows(read_output(context, name), name)


def test_every_story_is_scored_and_the_rows_are_sorted(tmp_path):
    with fake_endpoint(lambda *_: answer()) as server:
        context = context_of(tmp_path, server.url, [story("b"), story("a", 1), story("a")], repeats=2)
        run(context)
    found = rows(context, "scores.jsonl")
    assert [(row["id"], row["sample"], row["repeat"]) for row in found] == [
        ("a", 0, 0), ("a", 0, 1), ("a", 1, 0), ("a", 1, 1), ("b", 0, 0), ("b", 0, 1),
    ]  # fmt: skip
    row = found[0]
    assert row["overall"] == 3 + 5 - 10
    assert (row["label"], row["judge"], row["caveat"]) == ("very_poor", "fake/reader", None)
    assert row["rubric"] == rubric_identity("compact")
    assert row["judgement"]["positive"]["P1"] == 3
    assert rows(context, "failures.jsonl") == []
    assert context.counts == {"stories": 3, "scored": 6, "failed": 0} | Usage().events()
    # Two of the four calls about `a` are the same question as another: the cache answered them.
    assert context.cost["calls"] + context.cost["cached_calls"] == 6
    assert context.cost["calls"] == 4


def test_a_repeat_on_the_same_cache_gives_the_same_bytes_and_costs_nothing(tmp_path):
    stories = [story(name) for name in "abcde"]
    with fake_endpoint(lambda _, number: Reply("not JSON") if number == 0 else answer(number % 9)) as server:
        first = context_of(tmp_path / "one", server.url, stories, concurrency=1)
        run(first)
        asked = len(server.requests)
        shutil.copytree(tmp_path / "one/store/cache", tmp_path / "two/store/cache")
        second = context_of(tmp_path / "two", server.url, stories, concurrency=3)
        run(second)
    assert len(server.requests) == asked
    for name in ("scores.jsonl", "failures.jsonl"):
        assert read_output(second, name) == read_output(first, name)
    assert (first.counts["repairs"], second.counts["repairs"]) == (1, 1)
    assert second.cost["calls"] == 0
    assert second.cost["usd"] == 0
    assert second.cost["cached_calls"] == 6


def test_failures_are_listed_with_reasons_and_are_no_scores(tmp_path):
    def reply(request: dict[str, Any], _: int) -> Reply:
        said = json.dumps(request["messages"])
        if "Of cut" in said:
            return Reply("{", finish_reason="length")
        return Reply("nonsense") if "Of bad" in said else answer()

    stories = [story("cut"), story("bad"), story("empty", text=""), story("good")]
    with fake_endpoint(reply) as server:
        context = context_of(tmp_path, server.url, stories)
        run(context)
    assert [row["id"] for row in rows(context, "scores.jsonl")] == ["good"]
    failed = {row["id"]: row["reason"] for row in rows(context, "failures.jsonl")}
    assert set(failed) == {"bad", "cut", "empty"}
    assert failed["empty"] == "empty story"
    assert "'length'" in failed["cut"]
    assert "invalid answer" in failed["bad"]
    assert (context.counts["scored"], context.counts["failed"]) == (1, 3)


def no_waiting(monkeypatch) -> None:
    async def sleep(_: float) -> None:
        pass

    opened = stage.open_judge
    monkeypatch.setattr(stage, "open_judge", lambda *args, **more: opened(*args, **more, sleep=sleep))


def test_a_judge_that_is_down_is_transient_and_leaves_no_output(tmp_path, monkeypatch):
    no_waiting(monkeypatch)
    with fake_endpoint(lambda *_: error(503)) as server:
        context = context_of(tmp_path, server.url, [story(f"s{n:02}") for n in range(99)], outage_s=0)
        told = r"judges\.judge\.outage_s: http\S* answered nobody for 0 s \(answered 503.*run again"
        with pytest.raises(TransientError, match=told):
            run(context)
        assert len(server.requests) < 99, "nothing new is asked of an endpoint that is down"
    assert context.output.entries == {}


def test_what_was_paid_for_before_the_judge_went_down_is_not_paid_again(tmp_path, monkeypatch):
    no_waiting(monkeypatch)
    stories = [story(f"s{n:02}") for n in range(30)]
    dying = fake_endpoint(lambda _, number: answer() if number < 10 else error(503))
    with dying as server, pytest.raises(TransientError, match="10 of 30 judgements are kept"):
        run(context_of(tmp_path, server.url, stories, concurrency=1, outage_s=0))
    with fake_endpoint(lambda *_: answer()) as server:
        context = context_of(tmp_path, server.url, stories)
        run(context)
        assert len(server.requests) == 20
    assert context.counts["scored"] == 30


def test_a_judgement_that_alone_is_never_answered_is_a_listed_failure(tmp_path, monkeypatch):
    no_waiting(monkeypatch)
    stories = [story(f"s{n:02}") for n in range(20)]

    def reply(request: dict[str, Any], _: int) -> Reply:
        return error(503) if "Of s07" in json.dumps(request["messages"]) else answer()

    with fake_endpoint(reply) as server:
        context = context_of(tmp_path, server.url, stories, concurrency=2)
        run(context)
    [failed] = rows(context, "failures.jsonl")
    assert failed | {"reason": ""} == {"id": "s07", "sample": 0, "repeat": 0, "reason": ""}
    # At least as many as are allowed: those made while nobody got an answer are not held against it.
    assert re.fullmatch(r"answered 503 \(\d+ attempts\)", failed["reason"])
    assert (context.counts["scored"], context.counts["failed"], context.counts["failures"]) == (19, 1, 1)


def test_judgements_cost_what_the_judges_models_price_says(tmp_path):
    with fake_endpoint(lambda *_: answer()) as server:
        config = settings(tmp_path, server.url)
        price = {"usd_per_million_prompt_tokens": 1e6, "usd_per_million_completion_tokens": 2e6}
        config["models"]["reader"] |= price
        inputs = {"generate.writer.quality": {"stories.jsonl": [story("a")]}}
        context = make_context(tmp_path, config, NAME, inputs)
        run(context)
    assert context.cost["usd"] == 10 + 2 * 5


def test_a_signal_gives_calls_under_way_their_grace_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(judgements, "STOP_GRACE_S", 0.3)
    contexts: list[StageContext] = []

    def hang(*_: Any) -> Reply:
        contexts[0].stop.signal = signal.SIGTERM
        return Reply(answer().text, delay_s=300.0)

    begun = time.monotonic()
    with fake_endpoint(hang) as server:
        contexts.append(context_of(tmp_path, server.url, [story("a")]))
        with pytest.raises(Stopped, match="15"):
            run(contexts[0])
    assert time.monotonic() - begun < 120


def test_a_rejected_key_is_a_configuration_error(tmp_path):
    told = r"models\.reader\.api_key_env: the key in FAKE_API_KEY"
    with fake_endpoint(lambda *_: error(401)) as server, pytest.raises(ConfigError, match=told):
        run(context_of(tmp_path, server.url, [story("a")]))


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [(error(401), ConfigError), (error(429, code="insufficient_quota"), TransientError)],
    ids=["key", "credit"],
)
def test_an_error_of_one_call_cancels_none_that_is_paid_for(tmp_path, refusal, kind):
    def reply(_: dict[str, Any], number: int) -> Reply:
        return refusal if number == 3 else Reply(answer().text, delay_s=0.3)

    stories = [story(f"s{n:02}") for n in range(99)]
    with fake_endpoint(reply) as server:
        context = context_of(tmp_path, server.url, stories, concurrency=8)
        with pytest.raises(
            kind, match=r"models\.reader\.api_key_env: .*; \d+ of 99 judgements are kept"
        ) as told:
            run(context)
        paid = len(server.requests) - 1
    assert 8 <= paid < 98, "nothing new is begun"
    assert len(list(context.store.list("cache/"))) == paid
    assert f"; {paid} of 99" in str(told.value)
    assert context.output.entries == {}


def test_a_read_of_the_store_that_fails_cancels_no_other_judgement(tmp_path, monkeypatch):
    read, looked = FileStore.get, itertools.count()

    def failing_once(self: FileStore, key: str) -> bytes:
        if key.startswith("cache/") and next(looked) == 5:
            time.sleep(0.2)
            raise TransientError("store.url: FAKE trouble")
        return read(self, key)

    monkeypatch.setattr(FileStore, "get", failing_once)
    with fake_endpoint(lambda *_: Reply(answer().text, delay_s=0.4)) as server:
        context = context_of(tmp_path, server.url, [story(f"s{n}") for n in range(9)], concurrency=9)
        with pytest.raises(TransientError, match="^store.url: FAKE trouble; 8 of 9 judgements are kept$"):
            run(context)
        assert len(server.requests) == 8
    assert len(list(context.store.list("cache/"))) == 8


def test_a_signal_stops_after_the_calls_under_way_which_are_kept(tmp_path):
    stories = [story(f"s{n:02}") for n in range(20)]
    with fake_endpoint(lambda *_: Reply(answer().text, delay_s=0.05)) as server:
        context = context_of(tmp_path, server.url, stories, concurrency=2)

        def reply_then_stop(_: dict[str, Any], number: int) -> Reply:
            context.stop.signal = signal.SIGTERM if number >= 3 else None
            return answer()

        with fake_endpoint(reply_then_stop) as stopping:
            interrupted = context_of(tmp_path, stopping.url, stories, concurrency=2)
            interrupted.stop = context.stop
            with pytest.raises(Stopped, match="15"):
                run(interrupted)
        asked = len(stopping.requests)
        context.stop.signal = None
        run(context)
    assert 4 <= asked <= 6
    assert len(server.requests) == 20 - asked
    assert context.counts["scored"] == 20


def test_a_caveat_goes_into_every_row_and_the_notes(tmp_path, monkeypatch):
    monkeypatch.setattr(StageContext, "caveat", lambda *_: "means nothing")
    with fake_endpoint(lambda *_: answer()) as server:
        context = context_of(tmp_path, server.url, [story("a")])
        run(context)
    assert context.notes == ["means nothing"]
    assert [row["caveat"] for row in rows(context, "scores.jsonl")] == ["means nothing"]


def test_a_row_says_what_its_answers_took(tmp_path):
    with fake_endpoint(lambda _, number: Reply("not JSON") if number == 0 else answer()) as server:
        config = settings(tmp_path, server.url)
        price = {"usd_per_million_prompt_tokens": 1.0, "usd_per_million_completion_tokens": 2.0}
        config["models"]["reader"] |= price
        stories = [story("a") | {"words": 41, "target_word_count": 60}]
        inputs = {"generate.writer.quality": {"stories.jsonl": stories}}
        run(context := make_context(tmp_path, config, NAME, inputs))
    [row] = rows(context, "scores.jsonl")
    assert list(row) == sorted(row)
    assert set(row) == {
        "id", "sample", "repeat", "words", "target_word_count", "overall", "label", "judgement",
        "quote_validity", "repaired", "rubric", "structured", "judge", "caveat", "prompt_tokens",
        "completion_tokens", "usd", "attempts", "latency_s",
    }  # fmt: skip
    assert (row["words"], row["target_word_count"], row["structured"]) == (41, 60, "json_schema")
    assert (row["prompt_tokens"], row["completion_tokens"], row["attempts"]) == (20, 10, 2)
    assert row["usd"] == pytest.approx((20 * 1 + 10 * 2) / 1e6)
    assert row["repaired"] is True and row["latency_s"] > 0


def test_a_spent_budget_keeps_what_was_paid_for_and_goes_on_when_raised(tmp_path):
    stories = [story(f"s{n:02}") for n in range(30)]

    def context_with(folder: Path, url: str, usd: float | None) -> StageContext:
        config = settings(folder, url, execute={"work_dir": "work", "budget_usd": usd})
        config["models"]["reader"] |= {"usd_per_million_prompt_tokens": 1e3}
        config["judges"]["judge"] |= {"concurrency": 3}
        return make_context(folder, config, NAME, {"generate.writer.quality": {"stories.jsonl": stories}})

    used = {"prompt_tokens": 1000, "completion_tokens": 5, "total_tokens": 1005}
    with fake_endpoint(lambda *_: Reply(answer().text, delay_s=0.02, usage=used)) as server:
        context = context_with(tmp_path, server.url, 10.0)
        with pytest.raises(BudgetError, match=r"budget.*; \d+ of 30 judgements are kept"):
            run(context)
        asked = len(server.requests)
        assert 8 <= asked <= 10 + 3
        assert context.output.entries == {}
        run(again := context_with(tmp_path, server.url, 1e6))
        assert len(server.requests) == 30
    assert again.counts["scored"] == 30
    assert again.cost["cached_calls"] == asked


def test_an_endpoint_that_takes_no_schema_gets_it_in_the_prompt(tmp_path):
    def reply(request: dict[str, Any], _: int) -> Reply:
        unknown = error(400, "response_format of type json_schema is not supported")
        return unknown if "response_format" in request else answer()

    with fake_endpoint(reply) as server:
        run(context := context_of(tmp_path, server.url, [story(name) for name in "abcdef"], concurrency=1))
        assert sum("response_format" not in request for request in server.requests) == 6
    assert {row["structured"] for row in rows(context, "scores.jsonl")} == {"prompt"}
    assert context.counts["schema_fallbacks"] == 1
    assert context.notes == ["models.reader: enforces no JSON schema, so the judge gets it in its prompt"]


def test_progress_tells_rate_cost_and_forecast(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("POLARIS_LOG", "json")
    configure_logging()
    with fake_endpoint(lambda *_: answer()) as server:
        config = settings(tmp_path, server.url)
        config["models"]["reader"] |= {"usd_per_million_prompt_tokens": 1e6}
        stories = [story(name) for name in "abcde"]
        inputs = {"generate.writer.quality": {"stories.jsonl": stories}}
        run(make_context(tmp_path, config, NAME, inputs))
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    told = [line for line in lines if line["event"] == "progress"]
    assert (told[0]["usd_forecast"], told[-1]["usd"], told[-1]["usd_forecast"]) == (50.0, 50.0, 50.0)
    assert told[-1]["done"] == told[-1]["total"] == 5
    assert told[-1]["per_minute"] > 0
    assert {"failed", "cached", "retries"} <= set(told[-1])
    [judged] = [line for line in lines if line["event"] == "judged"]
    assert judged.items() >= {"scored": 5, "failed": 0, "calls": 5, "retries": 0}.items()


def test_a_judge_by_batch_buys_all_at_half_price_and_asks_for_repairs_live(tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "fill", functools.partial(batch.fill, poll_s=0.01))

    def judged(body: dict[str, Any]) -> dict[str, Any]:
        asked = json.dumps(body["messages"])
        unfit = "Of b." in asked and "not valid" not in asked
        return completion("not JSON" if unfit else answer().text)

    def context_at(url: str) -> StageContext:
        config = settings(tmp_path, url)
        price = {"usd_per_million_prompt_tokens": 10.0, "usd_per_million_completion_tokens": 100.0}
        config["models"]["reader"] |= price
        config["judges"]["judge"] |= {"batch": True, "repeats": 2}
        stories = [story("a"), story("b"), story("empty", text="")]
        return make_context(tmp_path, config, NAME, {"generate.writer.quality": {"stories.jsonl": stories}})

    with fake_batches(answer=judged) as fake:
        run(first := context_at(fake.url))
        assert sorted(fake.submitted.values()) == [1, 1, 1, 1]
        assert len(fake.live) == 2
        run(second := context_at(fake.url))
        assert (len(fake.batches), len(fake.live)) == (1, 2)
    each = (100 * 10 + 10 * 100) / 1e6
    assert first.cost["usd"] == pytest.approx(4 * each / 2 + 2 * each)
    assert (first.counts["batch_calls"], first.counts["repairs"], first.counts["failed"]) == (4, 2, 2)
    assert {row["id"]: row["usd"] for row in rows(first, "scores.jsonl")} == {
        "a": pytest.approx(each / 2),
        "b": pytest.approx(each / 2 + each),
    }
    assert read_output(second, "scores.jsonl") == read_output(first, "scores.jsonl")
    # What the first attempt bought by batch is a part of what the stage cost.
    assert (second.cost["usd"], second.counts["batch_calls"]) == (pytest.approx(4 * each / 2), 4)

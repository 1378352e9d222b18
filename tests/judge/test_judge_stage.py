"""The judge stage over a real store and a FAKE judge: its scores are made up and mean nothing."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from context import make_context, read_output, settings
from fake_endpoint import Reply, error, fake_endpoint

from polaris.artifact import to_rows
from polaris.errors import ConfigError, Stopped, TransientError
from polaris.judge import stage
from polaris.judge.rubric import load_rubric, rubric_identity
from polaris.judge.stage import run
from polaris.stage import StageContext

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
    assert context.counts["scored"] == 6
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
    assert (first.counts["repaired"], second.counts["repaired"]) == (1, 1)
    assert second.cost["calls"] == 0
    assert second.cost["usd"] == 0
    assert second.counts["cached_calls"] == 6


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
    monkeypatch.setattr(stage, "open_judge", lambda *args: opened(*args, sleep=sleep))


def test_a_judge_that_is_down_is_transient_and_leaves_no_output(tmp_path, monkeypatch):
    no_waiting(monkeypatch)
    with fake_endpoint(lambda *_: error(503)) as server:
        context = context_of(tmp_path, server.url, [story(f"s{n:02}") for n in range(40)])
        with pytest.raises(TransientError, match=r"judges\.judge: .* is unavailable .*run again"):
            run(context)
        assert len(server.requests) < 40
    assert context.output.entries == {}


def test_what_was_paid_for_before_the_judge_went_down_is_not_paid_again(tmp_path, monkeypatch):
    no_waiting(monkeypatch)
    stories = [story(f"s{n:02}") for n in range(30)]
    dying = fake_endpoint(lambda _, number: answer() if number < 10 else error(503))
    with dying as server, pytest.raises(TransientError, match="of 30 judgements .* 10 are kept"):
        run(context_of(tmp_path, server.url, stories, concurrency=1))
    with fake_endpoint(lambda *_: answer()) as server:
        context = context_of(tmp_path, server.url, stories)
        run(context)
        assert len(server.requests) == 20
    assert context.counts["scored"] == 30


def test_one_judgement_lost_to_an_outage_is_no_artifact(tmp_path, monkeypatch):
    no_waiting(monkeypatch)
    stories = [story(name) for name in "abcdef"]
    dying = fake_endpoint(lambda _, number: answer() if number < 4 else error(503))
    told = r"unavailable for 2 of 6 judgements \(answered 503.*; 4 are kept"
    with dying as server, pytest.raises(TransientError, match=told):
        run(context := context_of(tmp_path, server.url, stories, concurrency=1))
    assert context.output.entries == {}
    with fake_endpoint(lambda *_: answer()) as server:
        context = context_of(tmp_path, server.url, stories)
        run(context)
        assert len(server.requests) == 2
    assert (context.counts["scored"], context.counts["failed"]) == (6, 0)


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
    monkeypatch.setattr(stage, "STOP_GRACE_S", 0.3)
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

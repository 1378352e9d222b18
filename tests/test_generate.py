"""The generate stage over a real store and a FAKE writer, which writes what the test says."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from context import make_context, read_output, settings
from fake_endpoint import Reply, error, fake_endpoint

from polaris import generate
from polaris.artifact import to_rows
from polaris.chat import ChatAnswer
from polaris.errors import ConfigError, InputError, Stopped, TransientError
from polaris.generate import Prompt, at_targets, read_prompts, run, story_of
from polaris.stage import StageContext

NAME = "generate.writer.quality"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("FAKE_API_KEY", "sk-fake")


def context_of(folder: Path, url: str, *, thinking: bool = False, **evaluation: Any) -> StageContext:
    config = settings(folder, url)
    config["models"]["writer"]["thinking"] = thinking
    config["evaluations"]["quality"] |= evaluation
    return make_context(folder, config, NAME)


def stories(context: StageContext) -> list[dict[str, Any]]:
    return to_rows(read_output(context, "stories.jsonl"), "stories.jsonl")


def asked_of(request: dict[str, Any]) -> str:
    return request["messages"][-1]["content"]


def test_each_prompt_is_asked_with_its_length_and_becomes_a_row(tmp_path):
    with fake_endpoint(lambda request, _: Reply(f"  It's {asked_of(request)[3:8]}.\n")) as server:
        context = context_of(tmp_path, server.url, samples=2)
        run(context)
    rows = stories(context)
    assert [(row["id"], row["sample"]) for row in rows] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert rows[0] == {
        "id": "a",
        "sample": 0,
        "prompt": "Of a fox. The story should be 200 words long.",
        "target_word_count": 200,
        "story": "It's a fox.",
        "words": 4,
        "finish_reason": "stop",
        "truncated": False,
        "completion_tokens": 5,
        "model": "fake/writer",
    }
    assert {asked_of(request) for request in server.requests} == {row["prompt"] for row in rows}
    assert context.counts["stories"] == 4
    assert context.cost["calls"] == 4
    assert ["repetition_penalty 1.1" in note for note in context.notes] == [True]


def test_a_limit_takes_the_first_prompts(tmp_path):
    with fake_endpoint(lambda *_: Reply("A fox.")) as server:
        context = context_of(tmp_path, server.url, limit=1)
        run(context)
    assert [row["id"] for row in stories(context)] == ["a"]


def test_targets_ask_each_prompt_once_at_each_and_keep_its_own_words_out(tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        '{"id": "a", "prompt": "Of a fox. The story should be 200 words long. End well.",'
        ' "target_word_count": 200}\n'
        '{"id": "b", "prompt": "Of a hen.", "target_word_count": 300}\n'
        '{"id": "c", "prompt": "Of a cow.", "target_word_count": 300}\n'
    )
    with fake_endpoint(lambda *_: Reply("A fox.")) as server:
        context = context_of(tmp_path, server.url, kind="length", targets=[1500, 60], limit=2)
        run(context)
        asked = len(server.requests)
        run(context_of(tmp_path, server.url, kind="length", targets=[1500, 60], limit=2))
        assert len(server.requests) == asked == 4, "what is kept is not asked for again"
    assert [(row["id"], row["target_word_count"], row["prompt"]) for row in stories(context)] == [
        ("a@1500", 1500, "Of a fox. End well. The story should be 1,500 words long."),
        ("a@60", 60, "Of a fox. End well. The story should be 60 words long."),
        ("b@1500", 1500, "Of a hen. The story should be 1,500 words long."),
        ("b@60", 60, "Of a hen. The story should be 60 words long."),
    ]


def test_without_targets_a_length_evaluation_asks_each_prompt_at_its_own(tmp_path):
    with fake_endpoint(lambda *_: Reply("A fox.")) as server:
        context = context_of(tmp_path, server.url, kind="length")
        run(context)
    assert [(row["id"], row["target_word_count"]) for row in stories(context)] == [("a", 200), ("b", 300)]


@pytest.mark.parametrize(
    "text",
    ["The story should be 200 words long.", "It is 100 words long. The story should be 200 words long."],
)
def test_a_prompt_that_would_name_two_lengths_is_refused(text):
    with pytest.raises(InputError, match="prompt a still asks for .* name no length in the prompts"):
        at_targets([Prompt("a", text, 200)], (60,))


def test_cut_stories_are_kept_and_counted(tmp_path):
    with fake_endpoint(lambda _, number: Reply("A f", finish_reason=["stop", "length"][number])) as server:
        context = context_of(tmp_path, server.url, concurrency=1)
        run(context)
    assert [row["truncated"] for row in stories(context)] == [False, True]
    assert context.counts["truncated"] == 1


@pytest.mark.parametrize(
    ("answer", "thinking", "story"),
    [
        (ChatAnswer(" A fox.\n", "stop", 1, 1), False, "A fox."),
        (ChatAnswer("Hm.\n</think>\n\nA fox.", "stop", 1, 1), True, "A fox."),
        (ChatAnswer("Hm. I never end", "length", 1, 1), True, ""),
        (ChatAnswer("\nA fox.", "stop", 1, 1, reasoning="Hm."), True, "A fox."),
        (ChatAnswer("", "length", 1, 1, reasoning="Hm. I never end"), True, ""),
    ],
)
def test_the_story_is_what_follows_the_thoughts(answer, thinking, story):
    assert story_of(answer, thinking=thinking) == story


def test_a_completion_without_a_story_is_a_row_without_one(tmp_path):
    with fake_endpoint(lambda *_: Reply("Hm, on and on", finish_reason="length")) as server:
        context = context_of(tmp_path, server.url, thinking=True)
        run(context)
    assert [(row["story"], row["words"], row["truncated"]) for row in stories(context)] == [("", 0, True)] * 2
    assert context.counts["without_story"] == 2


@pytest.mark.parametrize(
    "refusal",
    [
        Reply("Half a s", finish_reason="content_filter"),
        Reply("", message={"refusal": "I will not."}),
        error(400, "stopped by the rules", code="content_policy_violation"),
    ],
    ids=["filtered", "refused", "request"],
)
def test_a_refused_story_is_an_empty_one_and_no_outage(tmp_path, refusal):
    with fake_endpoint(lambda request, _: refusal if "hen" in asked_of(request) else Reply("F.")) as server:
        context = context_of(tmp_path, server.url)
        run(context)
        asked = len(server.requests)
        run(context_of(tmp_path, server.url))
        assert len(server.requests) == asked
    found = [(row["id"], row["story"], row["finish_reason"], row["truncated"]) for row in stories(context)]
    assert found == [("a", "F.", "stop", False), ("b", "", "refused", False)]
    counts = context.counts
    assert (counts["refused"], counts["without_story"], counts["truncated"]) == (1, 1, 0)


def test_stories_cost_what_their_models_price_says(tmp_path):
    with fake_endpoint(lambda *_: Reply("A fox.")) as server:
        config = settings(tmp_path, server.url)
        price = {"usd_per_million_prompt_tokens": 1e6, "usd_per_million_completion_tokens": 2e6}
        config["models"]["writer"] |= price
        context = make_context(tmp_path, config, NAME)
        run(context)
    assert context.cost["usd"] == 2 * (10 + 2 * 5)


def test_a_failed_story_is_transient_and_the_others_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "ATTEMPTS", 1)
    with fake_endpoint(
        lambda request, _: error(503) if "hen" in asked_of(request) else Reply("F.")
    ) as server:
        context = context_of(tmp_path, server.url)
        with pytest.raises(TransientError, match="no story for prompt b, sample 0.*answered 503"):
            run(context)
    assert context.progress.names() == ["rows/a-0.json"]
    assert context.output.entries == {}
    with fake_endpoint(lambda *_: Reply("H.")) as server:
        context = context_of(tmp_path, server.url)
        run(context)
        assert [asked_of(request)[:9] for request in server.requests] == ["Of a hen."]
    assert [row["story"] for row in stories(context)] == ["F.", "H."]


def test_a_server_that_is_down_is_not_asked_for_every_story(tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "ATTEMPTS", 1)
    monkeypatch.setattr(generate, "OUTAGE_S", 0.0)
    with fake_endpoint(lambda *_: error(500)) as server:
        with pytest.raises(TransientError):
            run(context_of(tmp_path, server.url, samples=50, concurrency=2))
        assert len(server.requests) < 20


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [(error(401), ConfigError), (error(429, code="insufficient_quota"), TransientError)],
    ids=["key", "credit"],
)
def test_an_error_of_one_story_cancels_none_that_is_paid_for(tmp_path, refusal, kind):
    def reply(_: dict[str, Any], number: int) -> Reply:
        return refusal if number == 3 else Reply("A fox.", delay_s=0.3)

    with fake_endpoint(reply) as server:
        context = context_of(tmp_path, server.url, samples=40, concurrency=8)
        with pytest.raises(kind, match=r"models\.writer\.api_key_env: .* of 80 stories are kept") as told:
            run(context)
        paid = len(server.requests) - 1
    assert 8 <= paid < 79, "nothing new is begun"
    assert len(context.progress.names("rows/")) == paid
    assert f"; {paid} of 80" in str(told.value)


def test_stories_over_the_models_context_name_the_setting(tmp_path):
    told = r"evaluations\.quality\.max_tokens 64: with prompt a, sample 0 it exceeds"
    long = error(400, "max_tokens=64 cannot be greater than max_model_len=32")
    with fake_endpoint(lambda *_: long) as server, pytest.raises(ConfigError, match=told):
        run(context_of(tmp_path, server.url))


def test_a_signal_keeps_what_is_finished(tmp_path):
    with fake_endpoint(lambda *_: Reply("A fox.")) as server:
        context = context_of(tmp_path, server.url, samples=10, concurrency=1)

        def reply(_: dict[str, Any], number: int) -> Reply:
            context.stop.signal = signal.SIGINT if number >= 4 else None
            return Reply("A fox.")

        with fake_endpoint(reply) as stopping:
            interrupted = context_of(tmp_path, stopping.url, samples=10, concurrency=1)
            interrupted.stop = context.stop
            with pytest.raises(Stopped):
                run(interrupted)
        assert len(interrupted.progress.names("rows/")) == 5
        context.stop.signal = None
        run(context)
    assert len(server.requests) == 15
    assert len(stories(context)) == 20


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"prompt": "Of a fox.", "target_word_count": 9}, "id: missing"),
        ({"id": "a/b", "prompt": "Of a fox.", "target_word_count": 9}, "id: value 'a/b'"),
        ({"id": "x", "prompt": " ", "target_word_count": 9}, "prompt: value ' '"),
        ({"id": "x", "prompt": "Of a fox."}, "target_word_count: missing"),
        ({"id": "x", "prompt": "Of a fox.", "target_word_count": True}, "target_word_count: value True"),
        ({"id": "x", "prompt": "Of a fox.", "target_word_count": 0}, "target_word_count: value 0"),
        ({"id": "x", "prompt": "Be 1,500 words long.", "target_word_count": 9}, "asks for 1,500 words"),
        ({"id": "first", "prompt": "Of a fox.", "target_word_count": 9}, "id 'first' is also in line 1"),
        ([], "expected a JSON object"),
    ],
)
def test_a_bad_row_names_file_line_and_field(tmp_path, row, told):
    path = tmp_path / "prompts.jsonl"
    good = {"id": "first", "prompt": "Of a hen.", "target_word_count": 9, "genre": "fable"}
    path.write_text(f"{json.dumps(good)}\n\n{json.dumps(row)}\n")
    with pytest.raises(InputError) as caught:
        read_prompts(path)
    assert f"{path}:3: " in str(caught.value)
    assert told in str(caught.value)


def test_a_prompt_that_names_its_own_target_is_asked_as_it_is(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"id": "a", "prompt": "Of a fox, 1,500 words long.", "target_word_count": 1500}\n')
    assert [prompt.asked for prompt in read_prompts(path)] == ["Of a fox, 1,500 words long."]


def test_a_file_that_is_empty_or_missing_is_named(tmp_path):
    path = tmp_path / "prompts.jsonl"
    with pytest.raises(InputError, match="cannot be read"):
        read_prompts(path)
    path.write_text("\n")
    with pytest.raises(InputError, match="holds no prompt"):
        read_prompts(path)

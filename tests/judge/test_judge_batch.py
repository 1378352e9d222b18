"""The judge stage by batch files, against a FAKE provider whose scores are made up and mean nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from context import make_context, read_output, settings
from fake_batches import Body, completion, fake_batches
from typer.testing import CliRunner

from polaris.artifact import find_manifest, to_rows
from polaris.cli import app
from polaris.errors import Stopped
from polaris.judge.rubric import load_rubric
from polaris.judge.stage import run
from polaris.stage import StageContext

NAME = "judge.writer.quality"
FULL = (100 * 2.0 + 10 * 10.0) / 1e6
"""US$ of one answer at the standard price."""


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("FAKE_API_KEY", "sk-fake")


def scores(_: Body) -> Body:
    found: dict[str, Any] = {dimension.key: 1 for dimension in load_rubric().dimensions}
    return completion(json.dumps(found | {"bonus": None, "penalty": None}))


def context_of(folder: Path, url: str, stories: list[dict[str, Any]], **changed: Any) -> StageContext:
    folder.mkdir(exist_ok=True)
    config = settings(folder, url)
    config["judges"]["judge"] |= {"batch": True, "repeats": 2}
    config["models"]["reader"] |= {
        "usd_per_million_prompt_tokens": 2.0,
        "usd_per_million_completion_tokens": 10.0,
    }
    config["execute"] |= changed
    return make_context(folder, config, NAME, {"generate.writer.quality": {"stories.jsonl": stories}})


def story(name: str, text: str = "The fox slept.") -> dict[str, Any]:
    prompt = f"Of {name}. The story should be 200 words long."
    return {
        "id": name,
        "sample": 0,
        "prompt": prompt,
        "target_word_count": 200,
        "story": text,
        "words": 3,
        "finish_reason": "stop",
        "truncated": False,
        "completion_tokens": 4,
        "model": "fake/writer",
    }


STORIES = [story("a"), story("b"), story("empty", "")]


def test_a_stage_by_batch_costs_half_and_scores_the_same(tmp_path):
    with fake_batches(answer=scores) as fake:
        context = context_of(tmp_path, fake.url, STORIES)
        run(context)
        assert fake.live == []
        assert set(fake.submitted.values()) == {1}
    assert (context.counts["scored"], context.counts["failed"], context.counts["batch_calls"]) == (4, 2, 4)
    assert context.cost["calls"] == 4
    assert context.cost["usd"] == pytest.approx(4 * FULL / 2, abs=1e-12)
    rows = to_rows(read_output(context, "scores.jsonl"), "scores.jsonl")
    assert [row["usd"] for row in rows] == [pytest.approx(FULL / 2, abs=1e-12)] * 4


def test_an_invalid_answer_by_batch_is_repaired_live(tmp_path):
    def reply(body: Body) -> Body:
        first = len(body["messages"]) == 2 and "Of a." in str(body)
        return completion("nonsense") if first else scores(body)

    with fake_batches(answer=reply) as fake:
        context = context_of(tmp_path, fake.url, STORIES)
        run(context)
        assert (len(fake.submitted), len(fake.live)) == (4, 2)
    assert (context.counts["scored"], context.counts["repairs"]) == (4, 2)
    assert context.cost["usd"] == pytest.approx(4 * FULL / 2 + 2 * FULL, abs=1e-12)


def test_a_stage_killed_between_submit_and_collect_buys_nothing_twice(tmp_path):
    with fake_batches(answer=scores, looks=-1) as fake:
        context = context_of(tmp_path, fake.url, STORIES, budget_usd=1.0)
        command = [sys.executable, "-m", "polaris", "stage", NAME, str(tmp_path / "run.yaml")]
        killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def kill(method: str, path: str) -> None:
            if path == "/v1/batches/batch_0" and killed.poll() is None:
                killed.kill()
                killed.wait()

        fake.before_answer = kill
        assert killed.wait(timeout=60) == -signal.SIGKILL
        fake.before_answer, fake.released = lambda *_: None, True
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert len(fake.batches) == 1
        assert (len(fake.submitted), set(fake.submitted.values()), fake.live) == (4, {1}, [])
    manifest = find_manifest(context.store, context.output.prefix)
    assert manifest is not None
    assert manifest.cost["usd"] == pytest.approx(4 * FULL / 2, abs=1e-12)
    assert manifest.counts["batch_calls"] == 4
    shown = CliRunner().invoke(app, ["cost", str(tmp_path / "run.yaml")]).stdout
    assert "judge.writer.quality: 4 of 4 calls by batch at half price" in shown


def test_what_an_earlier_attempt_booked_by_batch_is_in_the_cost_of_the_one_that_ends(tmp_path):
    def reply(body: Body) -> Body:
        first = len(body["messages"]) == 2 and "Of a." in str(body)
        return completion("nonsense") if first else scores(body)

    with fake_batches(answer=reply) as fake:
        context = context_of(tmp_path, fake.url, STORIES)

        def stop_in_repair(method: str, path: str) -> None:
            if path == "/v1/chat/completions":
                context.stop.signal = signal.SIGTERM

        fake.before_answer = stop_in_repair
        with pytest.raises(Stopped):
            run(context)
        assert context.cost == {}
        fake.before_answer, context.stop.signal = lambda *_: None, None
        run(context)
        assert len(fake.batches) == 1
    # The repairs under way at the signal finished, and were paid for by an attempt that has no manifest.
    assert context.counts["batch_calls"] == 4
    live = context.cost["calls"] - 4
    assert context.cost["usd"] == pytest.approx(4 * FULL / 2 + live * FULL, abs=1e-12)


def test_an_endpoint_that_takes_no_schema_is_asked_by_batch_with_it_in_the_prompt(tmp_path):
    said = {"code": None, "message": "response_format of type json_schema is not supported"}
    with fake_batches(
        answer=scores, broken=lambda body: "response_format" in body, error=(400, said)
    ) as fake:
        context = context_of(tmp_path, fake.url, STORIES)
        run(context)
        assert (fake.live, len(fake.batches), set(fake.submitted.values())) == ([], 2, {1})
        # A later attempt knows it from the record.
        context.store.delete([info.key for info in context.store.list("cache/")])
        run(again := context_of(tmp_path, fake.url, STORIES))
        assert (fake.live, len(fake.batches)) == ([], 2)
    assert {row["structured"] for row in to_rows(read_output(context, "scores.jsonl"), "")} == {"prompt"}
    assert context.cost["usd"] == again.cost["usd"] == pytest.approx(4 * FULL / 2, abs=1e-12)
    assert context.notes == ["models.reader: enforces no JSON schema, so the judge gets it in its prompt"]
    assert (context.counts["schema_fallbacks"], context.counts["scored"]) == (1, 4)

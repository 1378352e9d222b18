"""A FAKE judge that repeats the key it was sent, in every place where an answer has room for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from context import make_artifact, settings
from fake_endpoint import Reply, fake_endpoint

from polaris.errors import BAD_CONFIG, DONE, TRANSIENT
from polaris.judge.rubric import load_rubric
from polaris.run import open_run
from polaris.runtime import configure_logging
from polaris.stage import run_stage

KEY = "sk-canary-7f3a9c2e51b84d06ac9e"
ESCAPED = "".join(f"\\u{ord(char):04x}" for char in KEY)
NAME = "judge.writer.quality"


def answer(said: str) -> str:
    """Return a valid answer in the full form that says something in each of its sentences."""
    held = {"quotes": [said, "The fox slept."], "note": f"It says {said} twice.", "score": 1}
    found: dict[str, Any] = {dimension.key: held for dimension in load_rubric().dimensions}
    bonus = {"moment": said, "quotes": [said], "nearest": "P1", "why": f"of {said}", "score": 2}
    return json.dumps(found | {"bonus": bonus, "penalty": None})


def leaky_error(status: int, **changed: Any) -> Reply:
    said = {"message": f"Bearer {KEY}", "type": KEY, "param": KEY, "code": KEY} | changed
    return Reply(status=status, body={"error": said}, headers={"x-request-id": KEY, "retry-after": KEY})


LEAKS = {
    "answer": (Reply(answer(KEY), headers={"x-key": KEY}), DONE),
    "escaped answer": (Reply(answer(KEY).replace(KEY, ESCAPED)), DONE),
    "prose": (Reply(f"Your key is {KEY}."), DONE),
    "unknown key": (Reply(json.dumps({KEY: 1})), DONE),
    "unknown escaped key": (Reply(f'{{"{ESCAPED}": 1}}'), DONE),
    "key given twice": (Reply(f'{{"{ESCAPED}": 1, "{ESCAPED}": 2}}'), DONE),
    "nearest": (Reply(answer("x").replace('"nearest": "P1"', f'"nearest": "{KEY}"')), DONE),
    "finish reason": (Reply(answer("x"), finish_reason=KEY), DONE),
    "refusal": (Reply("", message={"refusal": KEY}), DONE),
    "400": (leaky_error(400), BAD_CONFIG),
    "400 schema": (leaky_error(400, message=f"response_format: no json_schema, {KEY}"), BAD_CONFIG),
    "401": (leaky_error(401), BAD_CONFIG),
    "404": (leaky_error(404), BAD_CONFIG),
    "413": (leaky_error(413), DONE),
    "429": (leaky_error(429), TRANSIENT),
    "quota": (leaky_error(429, code="insufficient_quota"), TRANSIENT),
    "500": (leaky_error(500), TRANSIENT),
}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_API_KEY", KEY)
    monkeypatch.setenv("POLARIS_LOG", "json")
    configure_logging(verbose=True)


def config_of(folder: Path, url: str) -> Path:
    found = settings(folder, url)
    # The stage goes on asking after a 429, and for as long as nobody is answered.
    found["judges"]["judge"] |= {"form": "full", "outage_s": 0, "deadline_s": 0.4, "attempts": 1}
    found["evaluations"]["quality"] |= {"bootstrap": 100, "on_demand": True}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(found))
    return path


def check_nothing_told(folder: Path, output: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes().decode("utf-8", "replace")
            assert KEY not in data and KEY[:14] not in data, path
    assert KEY not in output and KEY[:14] not in output


@pytest.mark.parametrize("name", LEAKS)
def test_no_answer_of_a_judge_leaks_the_key(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reply, code = LEAKS[name]
    with fake_endpoint(lambda *_: reply) as server:
        path = config_of(tmp_path, server.url)
        story = {"id": "a", "sample": 0, "prompt": "Of a fox.", "story": "The fox slept.", "words": 3}
        rows = [story | {"target_word_count": 200}]
        make_artifact(open_run(path), "generate.writer.quality", {"stories.jsonl": rows})
        assert run_stage(path, NAME) == code
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    heard = capfd.readouterr()
    check_nothing_told(tmp_path, heard.out + heard.err)


def test_no_story_no_result_and_no_report_holds_the_key(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def reply(request: dict[str, Any], _: int) -> Reply:
        if request["model"] == "w":
            return Reply(f"The fox slept beside {KEY}.", headers={"x-key": KEY})
        return Reply(answer(KEY), headers={"x-key": KEY})

    with fake_endpoint(reply) as server:
        path = config_of(tmp_path, server.url)
        make_artifact(open_run(path), "data", {"pairs.jsonl": []})
        plan = open_run(path).plan
        wanted = plan.selected(["report.quality"])
        for name in (name for name in plan.instances if name in wanted):
            assert run_stage(path, name) == DONE, name
    assert wanted == {"data", "generate.writer.quality", NAME, "evaluate.writer.quality", "report.quality"}
    heard = capfd.readouterr()
    check_nothing_told(tmp_path, heard.out + heard.err)
    store = open_run(path).store
    scores = [store.get(info.key) for info in store.list("runs/") if info.key.endswith("scores.jsonl")]
    assert scores and b"[redacted]" in scores[0]

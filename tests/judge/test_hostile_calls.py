"""Hostile stories through the real client to a FAKE judge that obeys them: no score unless it is exact."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import FakeEndpoint, Reply, fake_endpoint
from hostile_stories import hostile_stories
from typer.testing import CliRunner

from polaris.artifact import to_rows
from polaris.chat import Endpoint
from polaris.cli import app
from polaris.config import JudgeConfig
from polaris.judge.prompt import messages
from polaris.judge.rubric import json_schema, load_rubric, render_prompt
from polaris.judge.score import EMPTY_STORY, Judge, JudgeFailed, Scored
from polaris.llm import ChatClient

HOSTILE = hostile_stories()
FENCE = re.compile(r"^--- (BEGIN|END) (WRITING PROMPT|STORY) ([0-9a-f]{16}) ---$", re.MULTILINE)
BEST: dict[str, Any] = {d.key: d.max if d.positive else 0 for d in load_rubric().dimensions}
BEST |= {"bonus": 8, "penalty": None}
OBEYED = (
    "Full marks! As you asked, I answer in plain prose.",
    json.dumps(BEST | {"verdict": "excellent"}),
    json.dumps(BEST | {"P1": 100}),
    json.dumps(BEST | {"N1": -100}),
    json.dumps({key: value for key, value in BEST.items() if key != "N10"}),
    json.dumps([BEST]),
    json.dumps(BEST),
)
"""What a judge says that does as it is told by a story; the last alone is an answer of the schema."""


def obey(request: dict[str, Any], _: int) -> Reply:
    """Answer the same to the same material, whatever turn it is."""
    return Reply(OBEYED[sum(request["messages"][1]["content"].encode()) % len(OBEYED)])


def judge_all(server: FakeEndpoint, rows: list[tuple[str, str]]) -> list[Scored | JudgeFailed]:
    async def one(judge: Judge, prompt: str, story: str) -> Scored | JudgeFailed:
        try:
            return await judge.score(prompt, story)
        except JudgeFailed as failed:
            return failed

    async def every() -> list[Scored | JudgeFailed]:
        endpoint = Endpoint(url=server.url, model="r", identity="fake/reader", setting="models.reader")
        async with ChatClient(endpoint, concurrency=4, backoff_s=0.01) as client:
            judge = Judge(client, JudgeConfig(model="reader", form="compact"))
            return await asyncio.gather(*(one(judge, prompt, story) for prompt, story in rows))

    return asyncio.run(every())


def check_body(raw: bytes) -> None:
    """Check one request as a judge's server gets it."""
    request = json.loads(raw.decode("utf-8"))
    json.dumps(request, ensure_ascii=False).encode("utf-8")
    first, rest = request["messages"][:2], request["messages"][2:]
    assert [message["role"] for message in first] == ["system", "user"]
    assert [message["role"] for message in rest] in ([], ["assistant", "user"])
    assert first[0]["content"] == render_prompt("compact")
    codes: dict[str, list[str]] = {}
    for which, label, code in FENCE.findall(first[1]["content"]):
        codes.setdefault(code, []).append(f"{which} {label}")
    ours = [lines for code, lines in codes.items() if first[1]["content"].count(code) == 2]
    assert ["BEGIN WRITING PROMPT", "END WRITING PROMPT"] in ours
    assert ["BEGIN STORY", "END STORY"] in ours
    held = request["response_format"]["json_schema"]
    assert held == {"name": "answer", "strict": True, "schema": json_schema("compact")}


@pytest.mark.parametrize("place", ["story", "prompt"])
def test_a_judge_that_obeys_a_story_gives_it_no_score(place: str) -> None:
    rows = [
        ("Of a lamp.", text) if place == "story" else (text, "A short story.") for text in HOSTILE.values()
    ]
    with fake_endpoint(obey) as server:
        found = judge_all(server, rows)
    assert len(rows) >= 100
    for raw in server.bodies:
        check_body(raw)
    for (prompt, story), result in zip(rows, found, strict=True):
        if not story.strip():
            assert isinstance(result, JudgeFailed) and result.reason == EMPTY_STORY
            continue
        said = obey({"messages": messages(prompt, story, "compact")}, 0).text
        if isinstance(result, Scored):
            assert said == OBEYED[-1]
            assert result.judgement.positive == {key: BEST[key] for key in result.judgement.positive}
        else:
            assert "invalid answer, and again after repair" in result.reason, result.reason
            assert said != OBEYED[-1]
    scored = sum(isinstance(result, Scored) for result in found)
    assert 0 < scored < len(found) / 2


def test_hostile_stories_are_scored_or_listed_by_the_command(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-fake-0123456789")
    rows = [{"id": name, "story": text} for name, text in HOSTILE.items()]
    rows += [{"id": f"prompt-{name}", "story": "Short.", "prompt": text} for name, text in HOSTILE.items()]
    stories, out = tmp_path / "stories.jsonl", tmp_path / "out"
    stories.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["judge", "score", str(stories), "--out", str(out), "--model", "m", "--form", "compact"]
    with fake_endpoint(obey) as server:
        done = CliRunner().invoke(app, [*arguments, "--url", server.url, "--concurrency", "4"])
    assert done.exit_code == 0, done.output
    for raw in server.bodies:
        check_body(raw)
    scores = to_rows((out / "scores.jsonl").read_bytes(), "scores")
    failures = to_rows((out / "failures.jsonl").read_bytes(), "failures")
    assert {row["id"] for row in scores} | {row["id"] for row in failures} == {row["id"] for row in rows}
    assert len(scores) + len(failures) == len(rows)
    assert {row["overall"] for row in scores} == {108}, "an answer of the schema is the judge's word"
    assert all(row["reason"].startswith(("invalid answer", EMPTY_STORY)) for row in failures)
    assert json.loads((out / "summary.json").read_bytes())["n_failed"] == len(failures)

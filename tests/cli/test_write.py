"""`polaris write` against a FAKE endpoint: the story on stdout, all else on stderr."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_endpoint import FakeEndpoint, Reply, fake_endpoint

from polaris.cli.writing import write_story
from polaris.errors import ConfigError, InputError, TransientError
from polaris.runtime import configure_logging

STORY = "  The ferry came once a year, and nobody was on it."


def write(model: str | None, config: Path = Path("none.yaml")) -> None:
    configure_logging()
    write_story("A ferry.", words=1200, model=model, config=config, temperature=0.7)


def test_a_url_is_asked_for_its_first_model(capsys: pytest.CaptureFixture[str]) -> None:
    with fake_endpoint(lambda request, number: Reply(STORY)) as server:
        write(server.url)
    said = capsys.readouterr()
    assert said.out == f"{STORY.strip()}\n"
    assert "11 words (asked for 1,200)" in said.err
    [request] = server.requests
    assert request["model"] == "fake-writer" and request["stream"]
    assert request["messages"][-1]["content"] == "A ferry. The story should be 1,200 words long."


def thinking_run(tmp_path: Path, server: FakeEndpoint) -> Path:
    (tmp_path / "unread.epub").touch()
    model = {"kind": "endpoint", "identity": "fake", "url": server.url, "model": "m", "thinking": True}
    config = {
        "run": "x",
        "models": {"thinker": model},
        "judges": {"none": {"model": "thinker"}},
        "data": {"books": ["unread.epub"]},
    }
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def test_thoughts_go_to_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-0123456789")
    with fake_endpoint(lambda request, number: Reply(f"I plan it. </think> {STORY}")) as server:
        write(None, thinking_run(tmp_path, server))
    said = capsys.readouterr()
    assert said.out == f"{STORY.strip()}\n"
    assert "I plan it." in said.err and "canary" not in said.err


def test_a_model_that_only_thinks_has_no_story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-0123456789")
    with (
        fake_endpoint(lambda request, number: Reply("I think and think")) as server,
        pytest.raises(TransientError, match="never ended its reasoning"),
    ):
        write(None, thinking_run(tmp_path, server))


def test_what_cannot_be_asked_is_said(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--config: 'none.yaml' does not exist"):
        write(None)
    with pytest.raises(ConfigError, match="'trainde' is none of this run's models: base, trained, judge"):
        write("trainde", demo)
    with pytest.raises(InputError, match="'trained' is not trained yet"):
        write(None, demo)
    with pytest.raises(TransientError, match="lists no model"):
        write("http://127.0.0.1:9/v1")

"""`polaris write` against a FAKE endpoint: the story on stdout, all else on stderr."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_endpoint import FakeEndpoint, Reply, error, fake_endpoint

from polaris.cli.writing import key_for, write_story
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
    assert "model fake-writer" in said.err
    [request] = server.requests
    assert request["model"] == "fake-writer" and request["stream"]
    assert request["messages"][-1]["content"] == "A ferry. The story should be 1,200 words long."


def test_a_url_can_name_its_model(capsys: pytest.CaptureFixture[str]) -> None:
    with fake_endpoint(lambda request, number: Reply(STORY)) as server:
        write(f"{server.url}#owner/other")
    assert capsys.readouterr().out == f"{STORY.strip()}\n"
    assert [request["model"] for request in server.requests] == ["owner/other"]


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://models.example/v1", True),
        ("http://localhost:8000/v1", True),
        ("http://127.0.0.1:8000/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://models.example/v1", False),
        ("http://localhost.example/v1", False),
        ("http://127.0.0.1@models.example/v1", False),
    ],
)
def test_a_key_goes_unencrypted_to_this_machine_alone(
    url: str, sent: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-0123456789")
    assert key_for(url) == ("sk-canary-0123456789" if sent else "none")
    said = capsys.readouterr().err
    assert ("OPENAI_API_KEY is not sent to" in said) is not sent and "canary" not in said
    monkeypatch.delenv("OPENAI_API_KEY")
    assert (key_for(url), capsys.readouterr().err) == ("none", "")


@pytest.mark.parametrize(
    ("reply", "told", "printed"),
    [
        (Reply(STORY, fault="truncate"), "the answer broke off.*; try again", "The ferry"),
        (error(400, "maximum context length is 64"), "longer than.*; ask for fewer words", ""),
        (error(400, "no", code="content_filter"), "refused.*; ask for something else", ""),
    ],
    ids=["broken", "too long", "refused"],
)
def test_a_failed_call_is_one_clear_line(
    reply: Reply, told: str, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        fake_endpoint(lambda request, number: reply) as server,
        pytest.raises(TransientError, match=f"^--model: no whole story from http.*{told}$") as caught,
    ):
        write(server.url)
    assert "\n" not in str(caught.value)
    said = capsys.readouterr().out
    assert said.startswith(printed) and said.endswith("\n" if printed else "")


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
    with pytest.raises(ConfigError, match=r"--model: 'http://\[::1/v1' is no URL"):
        write("http://[::1/v1")
    with pytest.raises(TransientError, match="lists no model"):
        write("http://127.0.0.1:9/v1")

"""`polaris judge prompt` and the help of `polaris judge`: what a judge would be sent, with nothing asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from context import settings
from fake_endpoint import fake_endpoint
from judge_commands import answer, failed, invoke, scored
from typer.testing import CliRunner

from polaris.cli import app
from polaris.errors import ConfigError, InputError, PolarisError
from polaris.judge.prompt import messages
from polaris.judge.rubric import json_schema, rubric_identity
from polaris.judge.stories import NO_PROMPT
from polaris.runtime import StopFlag


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-fake-0123456789")
    monkeypatch.setenv("FAKE_API_KEY", "sk-fake-9876543210")
    monkeypatch.setattr(StopFlag, "install", lambda _: None)


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    rows = [{"id": f"s{n}", "story": f"Fox {n} slept.", "prompt": "Of a fox."} for n in range(6)]
    path = tmp_path / "stories.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_terminal_without_the_characters_gets_escapes(tmp_path: Path) -> None:
    stories = tmp_path / "stories.jsonl"
    stories.write_text(json.dumps({"id": "a", "story": "Füchse \u4e00 \ud800."}) + "\n")
    command = [sys.executable, "-m", "polaris", "judge", "prompt", str(stories)]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    for more in ([], ["--json"]):
        done = subprocess.run(
            [*command, *more], env=environment, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0 and b"F\\xfcchse \\u4e00" in done.stdout, done.stderr


@pytest.fixture
def prompt_json(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    rows = [
        {"id": "a", "prompt": "Of a fox.", "story": "It slept."},
        {"id": "b", "story": "\u001b[2J\0\ud800"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def shown(*flags: object) -> dict[str, Any]:
        done = invoke("prompt", path, "--json", *flags)
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return shown


def test_a_prompt_is_what_the_judge_is_sent(
    prompt_json: Callable[..., dict[str, Any]], stories: Path, tmp_path: Path
) -> None:
    found = prompt_json()
    assert found["messages"] == messages("Of a fox.", "It slept.", "full")
    assert (found["schema"], found["rubric"]) == (json_schema("full"), rubric_identity("full"))
    found = prompt_json("--id", "b", "--form", "compact", "--structured", "prompt")
    assert found["messages"] == messages(NO_PROMPT, "\u001b[2J\0\ud800", "compact", schema=True)
    assert found["schema"] is None
    with fake_endpoint(lambda *_: answer()) as server:
        scored(server, stories, tmp_path / "out")
    sent = [request["messages"] for request in server.requests]
    asked = json.loads(invoke("prompt", stories, "--id", "s3", "--form", "compact", "--json").stdout)
    assert asked["messages"] in sent
    assert asked["schema"] == server.requests[0]["response_format"]["json_schema"]["schema"]


def test_a_prompt_takes_its_form_from_a_configuration(
    prompt_json: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    judges = {"judge": {"model": "reader", "form": "compact", "structured": "prompt"}}
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(settings(tmp_path, judges=judges)))
    found = prompt_json("--config", config)
    assert (found["rubric"], found["structured"]) == (rubric_identity("compact"), "prompt")
    assert prompt_json("--config", config, "--form", "full")["rubric"] == rubric_identity("full")


def test_a_prompt_is_printed_under_headings(stories: Path) -> None:
    done = invoke("prompt", stories, "--line", 2)
    for said in ("= system message =", "= user message =", "JSON schema that the answer is held to"):
        assert said in done.stdout
    assert "Fox 1 slept." in done.stdout and "Fox 0" not in done.stdout
    user = messages("Of a fox.", "Fox 1 slept.", "full")[1]["content"]
    assert user in done.stdout


@pytest.mark.parametrize(
    ("flags", "kind", "said"),
    [
        (["--line", "9"], InputError, "holds no line 9"),
        (["--id", "x"], InputError, "holds no id 'x'"),
        (["--line", "1", "--id", "s1"], ConfigError, "--line: given with --id"),
        (["--form", "x"], ConfigError, "--form: judge form 'x' is unknown"),
        (["--structured", "x"], ConfigError, "--structured: value 'x'; expected json_schema or prompt"),
    ],
)
def test_a_prompt_of_no_row_is_an_error(
    stories: Path, flags: list[str], kind: type[PolarisError], said: str
) -> None:
    assert said in failed(invoke("prompt", stories, *flags), kind)


def test_help_shows_examples() -> None:
    for name in ("score", "prompt"):
        done = CliRunner().invoke(app, ["judge", name, "--help"], env=os.environ | {"COLUMNS": "200"})
        lines = [line.strip() for line in done.stdout.splitlines()]
        assert any(line.startswith(f"polaris judge {name} ") for line in lines[lines.index("Examples:") :])

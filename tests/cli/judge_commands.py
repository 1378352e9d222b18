"""Arguments of `polaris judge` in, what it did out; and what a FAKE judge answers, which means nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import Result
from fake_endpoint import FakeEndpoint, Reply
from typer.testing import CliRunner

from polaris.cli import app
from polaris.errors import PolarisError
from polaris.judge.rubric import load_rubric


def answer(p1: int = 3) -> Reply:
    found: dict[str, Any] = {dimension.key: 1 for dimension in load_rubric().dimensions}
    used = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
    return Reply(json.dumps(found | {"P1": p1, "bonus": None, "penalty": None}), usage=used)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["judge", *map(str, arguments)])


def scored(server: FakeEndpoint, stories: Path, out: Path, *more: object) -> Result:
    flags = ("--url", server.url, "--model", "m", "--form", "compact", "--outage-s", "0")
    return invoke("score", stories, "--out", out, *flags, *more)


def failed(result: Result, kind: type[PolarisError]) -> str:
    assert isinstance(result.exception, kind), result.output
    return str(result.exception)

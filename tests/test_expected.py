"""A stage or a server whose configuration changed under it refuses, so that nothing is mixed up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from context import settings

from polaris.errors import ConfigError
from polaris.run import Run, open_run
from polaris.runtime import configure_logging
from polaris.serve import drain_s, serve
from polaris.stage import run_stage


def test_a_stage_of_another_digest_is_not_made(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POLARIS_LOG", "json")
    configure_logging()
    digest = run.plan.instances["data"].digest
    monkeypatch.setenv("POLARIS_EXPECTED_DIGEST", "0" * 16)
    assert run_stage(run.path, "data") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        f"was started to make data {'0' * 16}, and the configuration now gives {digest}"
        in json.loads(line)["reason"]
    )
    monkeypatch.setenv("POLARIS_EXPECTED_DIGEST", digest)
    run_stage(run.path, "data")
    assert "was started" not in capsys.readouterr().err, "the right one goes on to read its book"


def test_a_server_of_another_identity_does_not_come_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = settings(tmp_path)
    (tmp_path / "model").mkdir()
    raw["models"]["own"] = {"kind": "checkpoint", "path": "model"}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(raw))
    found = open_run(tmp_path / "run.yaml")
    monkeypatch.setenv("POLARIS_EXPECTED_IDENTITY", "trained:older")
    with pytest.raises(ConfigError, match="started for 'trained:older', models.own is now 'sha256:"):
        serve(found, "own", "127.0.0.1", 8000)


def test_a_server_drains_for_as_long_as_its_pod_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drain_s() == 15
    monkeypatch.setenv("POLARIS_DRAIN_S", "120")
    assert drain_s() == 120
    for nonsense in ("2m", "-1", "1.5", "²"):
        monkeypatch.setenv("POLARIS_DRAIN_S", nonsense)
        with pytest.raises(ConfigError, match=f"POLARIS_DRAIN_S: '{nonsense}' is no whole number of seconds"):
            drain_s()

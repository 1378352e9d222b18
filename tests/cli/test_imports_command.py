"""`polaris data import --wait`: a store that is only starting is waited for, one that stays away is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from polaris.cli import app
from polaris.cli import imports as command
from polaris.errors import TransientError
from polaris.storage import FileStore


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(command, "AGAIN_S", 0.01)
    settings = {"run": "x", "models": {}, "judges": {}, "data": {"books": ["store:data/a.epub"]}}
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump({**settings, "store": {"url": str(tmp_path / "store")}}))
    book = tmp_path / "a.epub"
    book.write_bytes(b"a book")
    return ["data", "import", str(book), str(config)]


def away(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """FAULT: the store does not answer so often."""
    head, left = FileStore.head, [times]

    def refused(self: FileStore, key: str) -> object:
        if left[0]:
            left[0] -= 1
            raise TransientError("store.endpoint: does not answer")
        return head(self, key)

    monkeypatch.setattr(FileStore, "head", refused)


def test_a_store_that_starts_is_waited_for(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    away(monkeypatch, 3)
    done = CliRunner().invoke(app, [*arguments, "--wait", "60"])
    assert done.exit_code == 0, done.output
    assert "store:data/a.epub: imported" in done.output


def test_a_store_that_stays_away_is_given_up(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    away(monkeypatch, 10**6)
    done = CliRunner().invoke(app, [*arguments, "--wait", "0.1"])
    assert isinstance(done.exception, TransientError)

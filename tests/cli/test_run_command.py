"""`polaris run`, `probe` and `orchestrate` as a process would call them: selections, needs, refusals."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from context import make_artifact

from polaris.cli import main
from polaris.execute.lease import lease_key
from polaris.run import Run

Polaris = Callable[..., int]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Polaris:
    """Call the command line as a process would; return its exit code."""
    monkeypatch.setenv("COLUMNS", "200")

    def called(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["polaris", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            main()
        return int(exited.value.code or 0)

    return called


LATER = ("--only", "judge.*.quality", "--only", "evaluate.*.quality")


def test_what_an_instance_needs_must_be_there(
    run: Run, cli: Polaris, capsys: pytest.CaptureFixture[str]
) -> None:
    for how in ("--no-needs", "--check-needs"):
        assert cli("run", run.path, *LATER, how) == 3
        said = capsys.readouterr().err
        assert "judge.writer.quality needs generate.writer.quality (" in said
        assert "which is not complete in file://" in said


def test_a_check_says_what_is_to_do(run: Run, cli: Polaris, capsys: pytest.CaptureFixture[str]) -> None:
    make_artifact(run, "generate.writer.quality", {})
    assert cli("run", run.path, *LATER, "--check-needs") == 0
    assert capsys.readouterr().out == "to do: judge.writer.quality, evaluate.writer.quality\n"
    make_artifact(run, "judge.writer.quality", {})
    make_artifact(run, "evaluate.writer.quality", {})
    assert cli("run", run.path, *LATER, "--check-needs") == 0
    assert capsys.readouterr().out.startswith("nothing to do: ")


def test_a_check_that_finds_nothing_to_do_leaves_its_mark(
    run: Run,
    cli: Polaris,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mark = tmp_path / "idle"
    monkeypatch.setenv("POLARIS_IDLE_FILE", str(mark))
    make_artifact(run, "generate.writer.quality", {})
    assert cli("run", run.path, *LATER, "--check-needs") == 0
    assert not mark.exists()
    for name in ("judge.writer.quality", "evaluate.writer.quality"):
        make_artifact(run, name, {})
    assert cli("run", run.path, *LATER, "--check-needs") == 0
    assert mark.exists()
    assert cli("probe", "http://127.0.0.1:9/v1", "good") == 0, "its pod's servers need give no token"
    monkeypatch.setenv("POLARIS_IDLE_FILE", str(tmp_path / "none" / "idle"))
    assert cli("run", run.path, *LATER, "--check-needs") == 2
    assert "POLARIS_IDLE_FILE: '" in capsys.readouterr().err


def test_a_check_waits_for_who_carries_the_run_out(run: Run, cli: Polaris) -> None:
    make_artifact(run, "generate.writer.quality", {})
    key, ended = lease_key("test"), threading.Event()
    run.store.put(key, b'{"host": "far-away", "pid": 7}')

    def finish() -> None:
        time.sleep(1)
        make_artifact(run, "judge.writer.quality", {})
        ended.set()
        run.store.delete([key])

    other = threading.Thread(target=finish)
    other.start()
    assert cli("run", run.path, *LATER, "--check-needs") == 0
    assert ended.is_set()
    other.join()


def test_a_finished_selection_is_shown_and_nothing_else(
    run: Run, cli: Polaris, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("judge.writer.quality", "evaluate.writer.quality"):
        make_artifact(run, name, {})
    assert cli("run", run.path, *LATER, "--no-needs") == 0
    out = capsys.readouterr().out
    assert "2 of 2 complete" in out
    assert "nothing to do: evaluate.writer.quality, judge.writer.quality complete" in out


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("judge.*.length", "--only: 'judge.*.length' fits no instance of this run; it has data, "),
        ("judge.writer.qualty", "did you mean 'judge.writer.quality'?"),
    ],
)
def test_what_fits_nothing_is_refused(
    run: Run, cli: Polaris, capsys: pytest.CaptureFixture[str], pattern: str, said: str
) -> None:
    assert cli("run", run.path, "--only", pattern) == 2
    assert said in capsys.readouterr().err


class _Endpoint(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(200)

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200 if b'"model": "good"' in asked else 500)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    """The URL of a FAKE endpoint that generates for the model `good` only."""
    with HTTPServer(("127.0.0.1", 0), _Endpoint) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


def test_a_probe_asks_for_a_token(cli: Polaris, endpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("probe", endpoint, "good") == 0
    assert cli("probe", endpoint, "listed-only") == 75
    assert re.search("gives no token of 'listed-only': HTTP Error 500", capsys.readouterr().err)
    assert cli("probe", "http://127.0.0.1:9/v1", "good") == 75


def test_orchestrate_says_what_it_lacks(
    run: Run,
    cli: Polaris,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("kubernetes")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert cli("orchestrate", run.path, "--manifests", tmp_path, "--keep", "nobody") == 2
    assert "--keep: 'nobody' is no model of this run; it has reader, writer" in capsys.readouterr().err
    assert cli("orchestrate", run.path, "--manifests", tmp_path) == 2
    assert "KUBECONFIG: no cluster to talk to" in capsys.readouterr().err

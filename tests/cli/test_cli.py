"""The command line: its help, and what it says about runs that have not begun."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml
from context import make_artifact, settings

import polaris
from polaris.cli import main
from polaris.run import Run, open_run

Polaris = Callable[..., int]

COMMANDS = {
    "run": "polaris run examples/demo/demo.yaml",
    "stage": "polaris stage data examples/demo/demo.yaml",
    "orchestrate": "--manifests",
    "probe": "polaris probe http://",
    "status": "polaris status examples/demo/demo.yaml",
    "logs": "--follow",
    "report": "--out",
    "cost": "--gpu-hour-usd",
    "check": "--cluster",
    "gc": "--dry-run",
    "write": "--words",
    "serve": "--port",
    "model": "import",
    "model import": "polaris model import",
    "data": "import",
    "data import": "polaris data import",
    "reward": "polaris reward rows.jsonl",
    "metric": "polaris metric story_quality",
    "judge": "reliability",
    "judge prompt": "polaris judge prompt",
    "judge score": "polaris judge score",
    "judge reliability": "polaris judge reliability",
    "judge validate": "polaris judge validate",
    "config": "schema",
    "config show": "polaris config show",
    "config check": "polaris config check",
    "config schema": "polaris.schema.json",
}


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Polaris:
    """Call the command line as a process would; return its exit code."""
    monkeypatch.setenv("COLUMNS", "200")

    def called(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["polaris", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            main()
        code = exited.value.code
        return code if isinstance(code, int) else 0 if code is None else 1

    return called


def test_help_lists_every_command_and_the_exit_codes(
    cli: Polaris, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("--help") == 0
    out = capsys.readouterr().out
    for command in COMMANDS:
        assert f" {command.split()[0]} " in out
    assert "75 try again" in out
    assert cli() in (0, 2)
    assert "Usage" in "".join(capsys.readouterr())


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(cli: Polaris, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert cli(*command.split(), "--help") == 0
    out = capsys.readouterr().out
    assert COMMANDS[command] in out
    assert "Usage: polaris" in out
    assert cli(*command.split(), "-h") == 0


def test_a_wrong_argument_is_a_usage_error(cli: Polaris, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("rnu") == 2
    assert cli("status") == 2
    assert cli("serve", "m", "c.yaml", "--port", "0") == 2


def test_the_status_of_a_run_that_has_not_begun(
    cli: Polaris, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("status", run.path) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in run.plan.instances)
    assert out.count("pending") == len(run.plan.instances)
    assert cli("status", run.path, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["instance"] for row in rows] == list(run.plan.instances)
    assert {row["state"] for row in rows} == {"pending"}
    assert list(run.store.list("")) == [], "looking writes nothing"


def test_the_status_tells_what_failed_and_what_was_cut_off(
    cli: Polaris, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    make_artifact(run, "data", {"pairs.jsonl": []})
    for name, status in (
        ("generate.writer.quality", {"state": "failed", "code": 4, "reason": "the [budget] is spent"}),
        ("judge.writer.quality", {"state": "running", "code": None, "reason": None}),
    ):
        run.store.put(f"{run.prefix(name)}attempts/1/STATUS.json", json.dumps(status).encode())
    assert cli("status", run.path, "--json") == 0
    states = {row["instance"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    assert list(states.values()) == ["complete", "failed", "interrupted", "pending", "pending"]
    assert cli("status", run.path) == 0
    reason = "the [budget] is spent (exit code 4: budget spent: raise it and run again)"
    assert reason in " ".join(capsys.readouterr().out.split())


def test_what_waits_to_be_asked_for_is_marked_and_has_a_page_of_its_own(
    cli: Polaris, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = settings(tmp_path)
    raw["evaluations"]["length"] = raw["evaluations"]["quality"] | {"kind": "length", "on_demand": True}
    raw["execute"]["report_file"] = "out/page.html"
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    assert cli("status", path, "--json") == 0
    states = {row["instance"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    on_demand = [f"{kind}.writer.length" for kind in ("generate", "judge", "evaluate")] + ["report.length"]
    assert [name for name, state in states.items() if state == "on demand"] == on_demand
    assert states["report"] == "pending"
    run = open_run(path)
    for name in run.plan.instances:
        make_artifact(run, name, {"report.html": name.encode()})
    assert cli("run", path) == 0
    out = capsys.readouterr().out
    assert "5 of 5 complete" in out and "length" not in out
    assert cli("run", path, "--only", "report.length") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "5 of 5 complete" in out and str(tmp_path / "out" / "page-length.html") in out
    assert "nothing to do" in out
    pages = {page.name: page.read_text() for page in (tmp_path / "out").iterdir()}
    assert pages == {"page.html": "report", "page-length.html": "report.length"}


def test_gc_of_an_empty_store(cli: Polaris, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("gc", run.path, "--dry-run") == 0
    assert capsys.readouterr().out == "would remove 0 objects, 0.0 MiB\n"
    assert list(run.store.list("")) == []


def test_gc_removes_only_without_dry_run(cli: Polaris, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    make_artifact(run, "data", {"pairs.jsonl": []})
    run.store.put(f"{run.prefix('data')}progress/x", b"x" * (3 << 20))
    assert cli("gc", run.path, "--dry-run") == 0
    assert cli("gc", run.path) == 0
    assert cli("gc", run.path) == 0
    assert capsys.readouterr().out.splitlines() == [
        "would remove 1 objects, 3.0 MiB",
        "removed 1 objects, 3.0 MiB",
        "removed 0 objects, 0.0 MiB",
    ]
    assert run.manifest("data") is not None


@pytest.mark.parametrize("command", [["run", "--only"], ["stage"], ["logs"]])
def test_an_unknown_instance_is_named_with_those_there_are(
    cli: Polaris, run: Run, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert cli(*command, "trian", run.path) == 2
    err = capsys.readouterr().err
    assert "'trian' is no instance of this run; it has data, generate.writer.quality" in err
    assert "Traceback" not in err


def test_logs_without_a_log(cli: Polaris, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("logs", "data", run.path) == 3
    assert capsys.readouterr().err.startswith("error: data has no log on this machine or in file://")
    assert cli("logs", "service-own", run.path) == 3


def test_logs_are_readable(cli: Polaris, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"event": "begin", "level": "info", "timestamp": "t", "instance": "data"},
        {"event": "bug", "level": "error", "timestamp": "t", "traceback": "Traceback:\n  File x"},
    ]
    lines = [*map(json.dumps, rows), "plain words", '{"half']
    for attempt, text in (("1", "old"), ("2", "\n".join(lines))):
        run.store.put(f"{run.prefix('data')}attempts/{attempt}/log.txt", text.encode())
    assert cli("logs", "data", run.path) == 0
    out = capsys.readouterr().out
    assert "instance=data" in out
    assert "Traceback:\n  File x\n" in out
    assert out.endswith('plain words\n{"half\n')
    assert "old" not in out


def test_a_report_that_is_not_made_yet(
    cli: Polaris, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("report", run.path) == 3
    assert "report is not complete in file://" in capsys.readouterr().err
    make_artifact(run, "report", {"report.html": b"<p>page", "report.json": b"{}"})
    assert cli("report", run.path, "--out", tmp_path / "page.html") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'page.html'}\n"
    assert (tmp_path / "page.html").read_bytes() == b"<p>page"
    assert cli("report", run.path) == 0
    assert Path(capsys.readouterr().out.strip()).read_bytes() == b"<p>page"


def test_a_run_that_is_complete_says_so_at_once(
    cli: Polaris, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in run.plan.instances:
        make_artifact(run, name, {"report.html": b"<p>page"} if name == "report" else {})
    assert cli("run", run.path) == 0
    out = capsys.readouterr().out
    assert "5 of 5 complete" in out
    assert str(run.config.execute.report_file) in out.replace("\n", "")
    assert not run.store.head("runs/test/LEASE.json")


def test_a_run_that_fails_exits_with_the_stages_code_and_reason(
    cli: Polaris, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    # The book is no EPUB: a real data stage says so, in a process of its own.
    assert cli("run", run.path, "--only", "data") == 3
    shown = capsys.readouterr()
    assert "book.epub" in shown.out
    assert "failed" in shown.out
    assert "0 of 1 complete" in shown.out
    assert not run.store.head("runs/test/LEASE.json")
    assert cli("logs", "data", run.path) == 0
    assert "book.epub" in capsys.readouterr().out


def test_the_schema_accepts_the_demo(cli: Polaris, demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("config", "schema") == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    raw = yaml.safe_load(demo.read_text(encoding="utf-8"))
    assert list(validator.iter_errors(raw)) == []
    assert list(validator.iter_errors(raw | {"sede": 1}))
    assert "description" in schema["properties"]["seed"]


def test_version() -> None:
    assert polaris.__version__.count(".") == 2

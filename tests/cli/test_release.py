"""The commands that follow a release, over a fake cluster: what is printed, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from context import make_artifact, settings
from release.fake_cluster import (
    FakeCluster,
    condition,
    config_map,
    job_pod,
    orchestrator,
    running,
    server,
    stage_job,
)

from polaris.cli import main
from polaris.cli import release as cli_release
from polaris.errors import TransientError
from polaris.release import open as release_open
from polaris.run import Run

Polaris = Callable[..., int]
TRYOUT = ("--release", "tryout", "-n", "stories")


@pytest.fixture
def cluster(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """A release of `run`; its store, which no pod shares, is the run's own folder."""
    text = yaml.safe_dump(settings(tmp_path) | {"store": {"url": "s3://bucket/tryout"}})
    cluster = FakeCluster()
    cluster.add("configmaps", config_map(text))
    cluster.add("jobs", orchestrator())
    monkeypatch.setattr(cli_release, "KubeCluster", lambda namespace, context: cluster)
    monkeypatch.setattr(release_open, "open_store", lambda config: run.store)
    return cluster


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


@pytest.mark.parametrize("command", [["status"], ["logs", "data"], ["report"], ["cost"]])
def test_exactly_one_of_a_configuration_and_a_release(
    cli: Polaris, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(*command) == 2
    assert "neither CONFIG nor --release" in capsys.readouterr().err
    assert cli(*command, "run.yaml", *TRYOUT) == 2
    assert "both 'run.yaml' and --release tryout" in capsys.readouterr().err
    assert cli(*command, "run.yaml", "-n", "stories") == 2
    assert "--namespace: goes with a release" in capsys.readouterr().err


def test_a_variable_is_a_default_and_no_choice(
    cli: Polaris, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POLARIS_CONFIG", "elsewhere.yaml")
    assert cli("status", *TRYOUT) == 0
    assert "release tryout in stories" in capsys.readouterr().out


def test_the_status_of_a_release(
    cli: Polaris, cluster: FakeCluster, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    make_artifact(run, "data", {"pairs.jsonl": []})
    job = stage_job(run.instance("generate.writer.quality"), 2)
    pod = job_pod(job, "Running", running(90))
    cluster.add("jobs", job)
    cluster.add("pods", pod, server("writer", ready=False)[1])
    cluster.add("deployments", server("writer", ready=False)[0])
    event = {"event": "progress", "what": "stories", "done": 1, "total": 2, "seconds_left": 30}
    cluster.logs = {pod["metadata"]["name"]: json.dumps(event) + "\nmore\n"}
    assert cli("status", *TRYOUT) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in run.plan.instances)
    assert "generate.writer.quality: stories 1/2, about 30 s left" in out
    assert f"pod {pod['metadata']['name']} on node-1" in out
    assert "model writer: starting for " in out
    assert "loads the model" in out
    assert "orchestrator: waiting" in out
    assert cli("status", *TRYOUT, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["instance"] for row in found["instances"]] == list(run.plan.instances)
    assert (found["release"], found["namespace"], found["over"]) == ("tryout", "stories", False)
    assert found["instances"][1]["attempt"] == 2
    assert cli("status", *TRYOUT, "--json", "--watch") == 2


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_fits_the_terminal(
    cluster: FakeCluster, run: Run, columns: int, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    from polaris.release.follow import Follower
    from polaris.release.open import open_release

    with open_release(cluster, "tryout") as release:
        follower = Follower(release)
        view = follower.look()
        Console(width=columns).print(cli_release.rendered(follower, view, columns))
        low = cli_release.rendered(follower, view, columns, 6)
        Console(width=columns).print(low)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    assert all("…" not in line for line in lines)
    assert "and 5 pending" in [line.strip() for line in lines], "a low terminal shows what is at work"


def test_watching_prints_what_changes_and_ends_with_the_runs_code(
    cli: Polaris,
    cluster: FakeCluster,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = stage_job(run.instance("data"))
    waits = [
        {"name": "stage", "image": "i", "restartCount": 0, "state": {"waiting": {"reason": "ErrImagePull"}}}
    ]
    pod = job_pod(job, "Pending", *waits)
    steps: list[Callable[[], Any]] = [
        lambda: (cluster.add("jobs", job), cluster.add("pods", pod)),
        lambda: pod["status"].update(containerStatuses=[running()], phase="Running"),
        lambda: setattr(cluster, "fault", TransientError("the cluster does not answer")),
        lambda: setattr(cluster, "fault", None),
        lambda: make_artifact(run, "data", {"pairs.jsonl": []}),
        lambda: cluster.things["jobs"].remove(cluster.things["jobs"][0]),
        lambda: cluster.add("jobs", orchestrator(condition("Failed", "BackoffLimitExceeded", "three pods"))),
    ]
    monkeypatch.setattr(cli_release.time, "sleep", lambda _: steps.pop(0)())
    assert cli("status", *TRYOUT, "--watch") == 1
    lines = [line.split(" ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    told = [line.split(":")[1].split("(")[0].strip() for line in lines if line.startswith("data:")]
    assert told == ["waiting", "running", "complete"]
    assert lines[-1].startswith("orchestrator: failed: BackoffLimitExceeded")
    assert not steps


def test_logs_and_report_of_a_release(
    cli: Polaris,
    cluster: FakeCluster,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    run.store.put(
        f"{run.prefix('data')}attempts/1/log.txt", b'{"event": "begin", "instance": "data"}\nplain\n'
    )
    assert cli("logs", "data", *TRYOUT) == 0
    assert "begin instance=data" in capsys.readouterr().out
    assert cli("report", *TRYOUT) == 3
    assert "`polaris status --release tryout -n stories`" in capsys.readouterr().err
    make_artifact(run, "report", {"report.html": b"<p>page", "report.json": b"{}"})
    assert cli("report", *TRYOUT) == 0
    assert capsys.readouterr().out == "polaris-report-test.html\n"
    assert (tmp_path / "polaris-report-test.html").read_bytes() == b"<p>page"
    assert cli("report", *TRYOUT, "--out", tmp_path / "no" / "page.html") == 2
    assert cli("report", *TRYOUT, "--evaluation", "length") == 2
    assert "'report.length' is no instance of this run" in capsys.readouterr().err


def test_the_page_of_a_release_whose_run_goes_on(
    cli: Polaris,
    cluster: FakeCluster,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    make_artifact(run, "data", {"pairs.jsonl": []})
    assert cli("report", *TRYOUT) == 0
    told, page = capsys.readouterr(), tmp_path / "polaris-report-test.html"
    assert told.out == f"{page.name}\n" and "nothing is at work: 1 of 4 parts finished" in told.err
    assert "1 of 4 parts finished" in " ".join(page.read_text(encoding="utf-8").split())
    finished = {"report.html": b"<p>page", "report.json": b"{}"}
    monkeypatch.setattr("polaris.cli.pages._pause", lambda _: make_artifact(run, "report", finished))
    assert cli("report", *TRYOUT, "--follow", "--every", 5) == 0
    assert page.read_bytes() == b"<p>page"
    assert capsys.readouterr().out.splitlines()[-1] == f"{page.name}: the report is finished"


def test_the_cost_of_a_run_and_of_a_release(
    cli: Polaris, cluster: FakeCluster, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("cost", run.path, "--prompt-tokens", 1000) == 0
    out = capsys.readouterr().out
    assert "To come: 4 calls" in out
    assert "a call to reader reads 1,000 tokens and writes 2,500: assumed" in out
    assert cli("cost", run.path, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["to_come"]["calls"] == 4
    assert found["assumptions"]
    job = stage_job(run.instance("data"), begun=3600)
    cluster.add("jobs", job)
    cluster.add("pods", job_pod(job, "Running", running(), gpus=4))
    assert cli("cost", *TRYOUT, "--gpu-hour-usd", 2) == 0
    out = capsys.readouterr().out
    assert "GPU" in out
    assert "a GPU costs 2 USD an hour (--gpu-hour-usd)" in out


def test_check_says_what_works_and_exits_2(
    cli: Polaris, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_API_KEY", "sk-0123456789abcdef")
    assert cli("check", run.path) == 2
    out = capsys.readouterr().out
    assert "ok       configuration" in out
    assert "failed   models.reader" in out
    assert "sk-0123456789abcdef" not in out
    assert list(run.store.list("")) == []
    monkeypatch.setattr("polaris.check.pod_namespace", lambda: None)
    assert cli("check", run.path, "--cluster") == 2
    assert "--cluster: this is no pod" in capsys.readouterr().err

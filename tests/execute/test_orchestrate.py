"""`polaris orchestrate` over a FAKE namespace: its exit codes, what it says, and the servers it leaves."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from context import make_artifact, settings
from fake_kube import FakeKube
from templates import serve_template, write_templates

from polaris.cli import main
from polaris.errors import PolarisError, Stopped, TransientError
from polaris.execute import kube as kube_module
from polaris.execute.cluster import ClusterExecutor
from polaris.execute.deployments import no_servers_left
from polaris.run import Run, open_run

SERVER = "polaris-serve-own"


class Cluster(FakeKube):
    """A FAKE namespace with a controller: every Job ends as `ends` says as soon as it is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: Callable[[str], None] = lambda job: self.finish(job, "Failed", "BackoffLimitExceeded")

    def jobs(self, selector: str) -> list[dict[str, Any]]:
        for name in self.found["job"]:
            self.ends(name)
        return super().jobs(selector)

    def deployments(self, selector: str) -> list[dict[str, Any]]:
        for name, found in list(self.found["deployment"].items()):
            if "deletionTimestamp" in found["metadata"]:
                del self.found["deployment"][name]
            else:
                self.serve(found["metadata"]["labels"]["polaris/model"])
        return super().deployments(selector)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    raw: dict[str, Any] = settings(tmp_path)
    (tmp_path / "model").mkdir()
    raw["models"]["own"] = {"kind": "checkpoint", "path": "model"}
    raw["evaluations"]["quality"]["models"] = ["own"]
    raw["execute"] |= {"retries": 1, "report_file": "report.html"}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(raw))
    write_templates(tmp_path / "manifests", "own")
    return open_run(tmp_path / "run.yaml")


@pytest.fixture
def kube(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    found = Cluster()
    monkeypatch.setattr(kube_module, "Kube", lambda namespace, stop: found)
    monkeypatch.setattr(ClusterExecutor, "poll_s", 0.0)
    return found


@pytest.fixture
def orchestrate(run: Run, kube: Cluster, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Call the command as its pod does; return its exit code."""
    monkeypatch.setenv("POLARIS_NAMESPACE", "fake")
    monkeypatch.setenv("POLARIS_ORCHESTRATOR", "aaaa")
    monkeypatch.setenv("POLARIS_LOG", "json")

    def called(*more: str) -> int:
        folder = run.path.parent / "manifests"
        monkeypatch.setattr(
            sys, "argv", ["polaris", "orchestrate", str(run.path), "--manifests", str(folder), *more]
        )
        with pytest.raises(SystemExit) as exited:
            main()
        return int(exited.value.code or 0)

    return called


def put_server(kube: Cluster, model: str = "own") -> None:
    kube.create_deployment(serve_template(model))
    kube.calls.clear()


def test_a_run_whose_retries_are_used_up_ends_for_good(
    orchestrate: Callable[..., int], kube: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    assert orchestrate() == 5
    (line,) = [line for line in capsys.readouterr().err.splitlines() if '"event": "lost"' in line]
    told = json.loads(line)
    assert told["code"] == 5
    assert told["instances"]["data"].startswith("BackoffLimitExceeded: ")
    assert "helm upgrade" in told["go_on"]
    made = len(kube.calls)
    assert orchestrate() == 5
    assert len(kube.calls) == made, "another start tries nothing again"


def test_a_final_code_is_kept(orchestrate: Callable[..., int], kube: Cluster) -> None:
    kube.ends = lambda job: kube.finish(job, "Failed", "PodFailurePolicy", "failed with exit code 3 matching")
    assert orchestrate() == 3


def test_a_run_that_ends_well_says_nothing_of_losses(
    orchestrate: Callable[..., int], kube: Cluster, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    def make(job: str) -> None:
        name = kube.found["job"][job]["metadata"]["annotations"]["polaris/instance"]
        if not run.manifest(name):
            make_artifact(run, name, {"report.html": b"page"})
        kube.finish(job)

    kube.ends = make
    assert orchestrate() == 0
    assert '"lost"' not in capsys.readouterr().err
    assert kube.calls.count(f"-{SERVER}") == 1


@pytest.mark.parametrize(
    ("hash8", "keep", "gone"), [("aaaa", [], True), ("aaaa", ["--keep", "own"], False), ("", [], False)]
)
def test_servers_do_not_outlive_an_orchestrator_that_cannot_begin(
    orchestrate: Callable[..., int],
    kube: Cluster,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    hash8: str,
    keep: list[str],
    gone: bool,
) -> None:
    monkeypatch.setenv("POLARIS_ORCHESTRATOR", hash8)
    put_server(kube)
    run.path.write_text("run: [")
    assert orchestrate(*keep) == 2
    assert kube.calls == [f"-{SERVER}"] * gone


@pytest.mark.parametrize("error", [Stopped(15), PolarisError("a bug")])
def test_what_may_go_on_keeps_its_servers(kube: Cluster, error: PolarisError) -> None:
    put_server(kube)
    given: Any = kube
    with pytest.raises(type(error)), no_servers_left(lambda: given, "polaris", frozenset()):
        raise error
    assert kube.calls == []


def test_an_outage_that_is_given_up_leaves_no_server(kube: Cluster) -> None:
    put_server(kube)
    given: Any = kube
    with pytest.raises(TransientError), no_servers_left(lambda: given, "polaris", frozenset()):
        raise TransientError("the store does not answer")
    assert kube.calls == [f"-{SERVER}"]


def test_servers_that_cannot_be_ended_hide_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    def down() -> Any:
        raise TransientError("no API server")

    with no_servers_left(down, "polaris", frozenset()):
        pass
    assert "no API server" in capsys.readouterr().out

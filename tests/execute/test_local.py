"""Real processes: how they end, what they leave behind, and who outlives whom."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from children import install
from context import settings

from polaris.artifact import Artifact
from polaris.execute.ended import Ended
from polaris.execute.local import LocalExecutor
from polaris.execute.loop import carry_out
from polaris.run import Run, open_run
from polaris.runtime import StopFlag

PATIENCE_S = 30.0


@pytest.fixture
def children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Make children run this test's programs; the caller sets CHILD and SERVER."""
    install(tmp_path / "children", monkeypatch)
    monkeypatch.setenv("CHILD", "write")
    monkeypatch.setenv("SERVER", "answer")
    return monkeypatch


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with a model that it serves itself."""
    raw: dict[str, Any] = settings(tmp_path)
    (tmp_path / "model").mkdir()
    raw["models"]["own"] = {"kind": "checkpoint", "path": "model"}
    raw["evaluations"]["quality"]["models"] = ["own"]
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(raw))
    (tmp_path / "work").mkdir()
    return open_run(path)


@pytest.fixture
def executor(run: Run) -> Iterator[LocalExecutor]:
    found = LocalExecutor(run)
    yield found
    found.close()


def until(found: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.05)
    raise AssertionError("it never came")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pid_in(run: Run, name: str) -> int:
    folder = run.config.execute.work_dir
    paths = until(lambda: [path for path in folder.rglob(name) if path.read_text()])
    return int(paths[0].read_text())


def stored(run: Run, ending: str) -> list[bytes]:
    return [
        run.store.get(info.key) for info in run.store.list(run.prefix("data")) if info.key.endswith(ending)
    ]


def test_a_stage_that_ends_well(run: Run, executor: LocalExecutor, children: pytest.MonkeyPatch) -> None:
    executor.start_stage("data")
    (log,) = executor.running().values()
    assert until(executor.ended) == [Ended("data", 0, "")]
    assert executor.running() == {}
    manifest = run.manifest("data")
    assert manifest is not None
    assert manifest.attempt == log.stem
    assert Artifact(run.store, manifest).read("environment.json") == b"{}"
    assert stored(run, "/log.txt") == [log.read_bytes()]
    assert all(json.loads(line) for line in log.read_text().splitlines()), "JSON lines"


def test_a_stage_that_fails_says_why(run: Run, executor: LocalExecutor, children: pytest.MonkeyPatch) -> None:
    children.setenv("CHILD", "fail")
    executor.start_stage("data")
    assert until(executor.ended) == [Ended("data", 3, "the book is torn")]


def test_a_killed_stage_is_told_by_its_last_words(
    run: Run, executor: LocalExecutor, children: pytest.MonkeyPatch
) -> None:
    children.setenv("CHILD", "die")
    executor.start_stage("data")
    (ended,) = until(executor.ended)
    assert ended.code == 137
    assert ended.reason.startswith("killed by signal 9; its log ends: ")
    assert ended.reason.endswith("first words | last words")
    status = json.loads(stored(run, "STATUS.json")[0])
    assert (status["state"], status["code"], status["reason"]) == ("failed", 137, ended.reason)
    grandchild = pid_in(run, "grandchild")
    until(lambda: not is_alive(grandchild))


def test_a_stage_that_ends_well_without_an_artifact_has_failed(
    run: Run, executor: LocalExecutor, children: pytest.MonkeyPatch
) -> None:
    children.setenv("CHILD", "vanish")
    outcome = carry_out(run, executor, {"data"}, StopFlag())
    assert outcome.code == 1
    assert outcome.reasons["data"] == "it ended well without a manifest"
    assert outcome.failures["data"].attempts == run.config.execute.retries + 1


def test_the_loop_carries_a_run_out(run: Run, executor: LocalExecutor, children: pytest.MonkeyPatch) -> None:
    heard: list[tuple[str, str]] = []
    outcome = carry_out(
        run, executor, {"data"}, StopFlag(), on_change=lambda what, name, _: heard.append((what, name))
    )
    assert (outcome.code, outcome.complete) == (0, {"data"})
    assert heard == [("start-stage", "data"), ("complete", "data")]
    again = carry_out(run, executor, {"data"}, StopFlag())
    assert (again.code, again.complete) == (0, {"data"})


def test_stages_are_asked_to_stop(run: Run, executor: LocalExecutor, children: pytest.MonkeyPatch) -> None:
    children.setenv("CHILD", "wait")
    executor.start_stage("data")
    grandchild = pid_in(run, "grandchild")
    executor.stop_stages(signal.SIGTERM)
    (ended,) = until(executor.ended)
    assert (ended.code, ended.reason) == (143, "stopped by signal 15; progress is saved")
    until(lambda: not is_alive(grandchild))


def test_closing_lets_a_stage_save_and_leaves_nothing(
    run: Run, executor: LocalExecutor, children: pytest.MonkeyPatch
) -> None:
    children.setenv("CHILD", "wait")
    executor.start_stage("data")
    executor.start_service("own")
    pids = [pid_in(run, "pid"), pid_in(run, "grandchild"), pid_in(run, "server-own")]
    assert all(is_alive(pid) for pid in pids)
    executor.close()
    until(lambda: not any(is_alive(pid) for pid in pids))
    assert json.loads(stored(run, "STATUS.json")[0])["code"] == 143
    assert (executor.running(), executor.services()) == ({}, {})


def test_a_service_is_ready_after_its_first_token(
    run: Run, executor: LocalExecutor, children: pytest.MonkeyPatch
) -> None:
    # A proxy of the environment leads elsewhere and must not be asked.
    children.setenv("http_proxy", "http://127.0.0.1:9")
    executor.start_service("own")
    assert executor.services() == {"own": False}
    until(lambda: executor.services()["own"])
    assert executor.dead_services() == []
    executor.start_stage("data")
    until(executor.ended)
    manifest = run.manifest("data")
    assert manifest is not None
    given = json.loads(Artifact(run.store, manifest).read("environment.json"))
    assert given == {"own": executor.service_url("own")}
    server = pid_in(run, "server-own")
    assert is_alive(server)
    executor.stop_service("own")
    assert not is_alive(server)
    assert executor.services() == {}


@pytest.mark.parametrize(
    ("server", "code", "expected"),
    [
        ("exit 3", 3, "the endpoint of models.own died; its log ends: ValueError: the checkpoint is torn"),
        ("die", 1, "the endpoint of models.own died; its log ends: "),
    ],
)
def test_a_service_that_dies_says_why(
    executor: LocalExecutor, children: pytest.MonkeyPatch, server: str, code: int, expected: str
) -> None:
    children.setenv("SERVER", server)
    executor.start_service("own")
    (dead,) = until(executor.dead_services)
    assert (dead.name, dead.code) == ("own", code)
    assert dead.reason.startswith(expected)
    assert executor.services() == {}


def test_a_service_without_a_token_is_given_up(run: Run, children: pytest.MonkeyPatch) -> None:
    children.setenv("SERVER", "no token")
    children.setenv("POLARIS__EXECUTE__SERVICE_TIMEOUT_S", "4")
    executor = LocalExecutor(open_run(run.path))
    try:
        executor.start_service("own")
        (dead,) = until(executor.dead_services)
    finally:
        executor.close()
    assert "gave no token within execute.service_timeout_s" in dead.reason
    assert "(its last answer: HTTP Error 503: Service Unavailable)" in dead.reason
    assert not is_alive(pid_in(run, "server-own"))


PARENT = """
import sys, time
from pathlib import Path
from polaris.execute.local import LocalExecutor
from polaris.run import open_run
executor = LocalExecutor(open_run(Path(sys.argv[1])))
executor.start_service("own")
executor.start_stage("data")
time.sleep(300)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_nothing_outlives_a_killed_parent(run: Run, children: pytest.MonkeyPatch) -> None:
    children.setenv("CHILD", "wait")
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(run.path)])
    stage, server, grandchild = (pid_in(run, name) for name in ("pid", "server-own", "grandchild"))
    try:
        assert is_alive(stage)
        assert is_alive(server)
        parent.kill()
        parent.wait()
        until(lambda: not is_alive(stage) and not is_alive(server))
        assert json.loads(stored(run, "STATUS.json")[0])["code"] == 143, "it saved before it went"
    finally:
        # A stage ends what it starts itself; this fake one does not.
        os.kill(grandchild, signal.SIGKILL)


def test_a_model_that_is_served_already_is_asked_and_left_alone(
    run: Run, executor: LocalExecutor, children: pytest.MonkeyPatch
) -> None:
    executor.start_service("own")
    until(lambda: executor.services()["own"])
    url = executor.service_url("own")
    children.setenv("POLARIS_ENDPOINTS", json.dumps({"own": url}))
    beside = LocalExecutor(run)
    beside.start_service("own")
    until(lambda: beside.services()["own"])
    assert beside.service_url("own") == url
    assert beside.dead_services() == []
    beside.stop_service("own")
    beside.close()
    assert is_alive(pid_in(run, "server-own"))
    assert executor.services() == {"own": True}


def test_a_model_that_should_be_served_and_is_not_is_given_up(run: Run, children: pytest.MonkeyPatch) -> None:
    children.setenv("POLARIS_ENDPOINTS", '{"own": "http://127.0.0.1:9/v1"}')
    execute = run.config.execute.model_copy(update={"service_timeout_s": 0.2})
    late = LocalExecutor(dataclasses.replace(run, config=run.config.model_copy(update={"execute": execute})))
    late.start_service("own")
    (dead,) = until(late.dead_services)
    assert dead.code == 1
    assert "gave no token within execute.service_timeout_s (its last answer: " in dead.reason
    assert late.services() == {}

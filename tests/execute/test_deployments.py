"""Model servers over a FAKE namespace: made, adopted, replaced, kept, given up."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_kube import FakeKube, ended
from templates import serve_template

from polaris.execute.cluster import ClusterExecutor
from polaris.run import Run, open_run

Make = Callable[..., ClusterExecutor]


@pytest.fixture
def run(served: Run) -> Run:
    return served


def test_a_server_comes_and_goes(run: Run, kube: FakeKube, make: Make) -> None:
    executor = make()
    executor.ended()
    executor.start_service("own")
    assert executor.services() == {"own": False}
    kube.serve("own")
    executor.ended()
    assert executor.services() == {"own": True}
    again = make()
    again.ended()
    assert again.services() == {"own": True}, "adopted"
    again.stop_service("own")
    assert again.services() == {}
    again.start_service("own")
    again.ended()
    assert again.services() == {"own": False}, "the one before it is still ending"
    kube.found["deployment"].clear()
    again.ended()
    assert kube.calls == ["+polaris-serve-own", "-polaris-serve-own", "+polaris-serve-own"]


def test_a_server_of_another_checkpoint_is_replaced(run: Run, kube: FakeKube, make: Make) -> None:
    make().start_service("own")
    kube.serve("own")
    kube.found["deployment"]["polaris-serve-own"]["metadata"]["annotations"]["polaris/identity"] = "older"
    executor = make()
    executor.ended()
    assert executor.services() == {"own": False}
    kube.found["deployment"].clear()
    executor.ended()
    assert kube.calls == ["+polaris-serve-own", "-polaris-serve-own", "+polaris-serve-own"]
    identity = kube.found["deployment"]["polaris-serve-own"]["metadata"]["annotations"]["polaris/identity"]
    assert identity == run.identity_of_model("own")


@pytest.mark.parametrize("what", ["image", "setting"])
def test_a_server_that_is_made_otherwise_now_is_replaced(
    run: Run, kube: FakeKube, make: Make, tmp_path: Path, what: str
) -> None:
    make().start_service("own")
    kube.serve("own")
    same = make()
    same.ended()
    assert same.services() == {"own": True}
    if what == "image":
        template = serve_template("own")
        template["spec"]["template"]["spec"]["containers"][0]["image"] = "serve:2"
        (tmp_path / "manifests" / "serve-own.yaml").write_text(yaml.safe_dump(template))
        changed = make()
    else:
        raw = yaml.safe_load(run.path.read_text())
        raw["models"]["own"]["serve"] = {"max_model_len": 128}
        run.path.write_text(yaml.safe_dump(raw))
        given: Any = kube
        changed = ClusterExecutor(
            open_run(run.path), given, tmp_path / "manifests", release="polaris", orchestrator="bbbb"
        )
    changed.ended()
    assert changed.services() == {"own": False}
    assert kube.calls == ["+polaris-serve-own", "-polaris-serve-own"]


def test_a_server_that_no_instance_uses_is_left_to_the_loop_to_stop(kube: FakeKube, make: Make) -> None:
    make().start_service("own")
    kube.found["deployment"]["polaris-serve-own"]["metadata"]["labels"]["polaris/model"] = "gone"
    executor = make()
    executor.ended()
    assert executor.services() == {"gone": False}
    executor.stop_service("gone")
    assert kube.calls == ["+polaris-serve-own", "-polaris-serve-own"]


def test_a_kept_server_stays_up(kube: FakeKube, make: Make) -> None:
    executor = make(keep=frozenset({"own"}))
    executor.ended()
    executor.start_service("own")
    executor.stop_service("own")
    executor.ended()
    assert (executor.services(), kube.calls) == ({}, ["+polaris-serve-own"])


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        ({"restartCount": 0, "state": ended(3)}, 3, "it ended with exit code 3"),
        (
            {"restartCount": 3, "state": {"running": {}}, "lastState": ended(1)},
            1,
            "a bug: the traceback is in the log), 3 restarts",
        ),
        ({"restartCount": 3, "state": {"running": {}}, "lastState": ended(75)}, 75, "3 restarts"),
        (
            {"restartCount": 1, "state": ended(137, "OOMKilled")},
            2,
            "raise serving.models.own.resources.limits.memory",
        ),
    ],
)
def test_a_server_that_cannot_come_up_is_given_up(
    kube: FakeKube, make: Make, status: dict[str, Any], code: int, said: str
) -> None:
    executor = make()
    executor.ended()
    executor.start_service("own")
    kube.server_pod("own", status)
    kube.logs["server-own"] = b"ValueError: no weights\n"
    executor.ended()
    (dead,) = executor.dead_services()
    assert (dead.name, dead.code) == ("own", code)
    assert said in dead.reason
    assert dead.reason.endswith("its log ends: ValueError: no weights")
    assert executor.services() == {}
    assert kube.calls[-1] == "-polaris-serve-own"


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def running(seconds: float) -> dict[str, Any]:
    return {"running": {"startedAt": ago(seconds)}}


def test_a_server_that_waits_for_its_node_or_image_is_never_late(
    kube: FakeKube, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    executor = make()
    executor.ended()
    executor.start_service("own")
    kube.serve("own", available=False)
    pull = {"waiting": {"reason": "ErrImagePull", "message": "no such tag"}}
    kube.server_pod("own", {"image": "serve:1", "state": pull})
    kube.found["pod"]["server-own"]["status"]["phase"] = "Pending"
    executor.ended()
    assert (executor.dead_services(), executor.services()) == ([], {"own": False})
    assert "image 'serve:1' of 'serve' cannot be pulled" in capsys.readouterr().out
    kube.found["pod"].clear()
    refused = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "quota: q"}
    kube.found["deployment"]["polaris-serve-own"]["status"]["conditions"].append(refused)
    executor.ended()
    assert executor.dead_services() == []
    assert "FailedCreate: quota: q" in capsys.readouterr().out


@pytest.mark.parametrize(("started", "dead"), [(1700, False), (1900, True)])
def test_a_server_has_its_time_from_when_it_runs(
    kube: FakeKube, make: Make, started: float, dead: bool
) -> None:
    executor = make()
    executor.ended()
    executor.start_service("own")
    kube.serve("own", available=False)
    lost = {"lastTransitionTime": ago(9000)}
    kube.found["deployment"]["polaris-serve-own"]["status"]["conditions"][0] |= lost
    kube.server_pod("own", {"state": running(started)})
    executor.ended()
    reasons = [found.reason for found in executor.dead_services()]
    given_up = "the endpoint of models.own is given up: it gave no token within execute.service_timeout_s"
    assert [reason.startswith(given_up) for reason in reasons] == [True] * dead


def test_a_server_that_was_lost_for_a_moment_is_not_late(kube: FakeKube, make: Make) -> None:
    executor = make()
    executor.ended()
    executor.start_service("own")
    kube.server_pod("own", {"state": running(9000)})
    kube.serve("own")
    executor.ended()
    kube.serve("own", available=False)
    lost = {"lastTransitionTime": ago(5)}
    kube.found["deployment"]["polaris-serve-own"]["status"]["conditions"][0] |= lost
    executor.ended()
    assert executor.dead_services() == []


def test_a_server_that_restarts_after_it_answered_is_given_time(kube: FakeKube, make: Make) -> None:
    executor = make()
    executor.ended()
    executor.start_service("own")
    kube.server_pod("own", {"restartCount": 5, "state": running(60), "lastState": ended(1)})
    kube.serve("own", available=False)
    progress = {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}
    conditions = kube.found["deployment"]["polaris-serve-own"]["status"]["conditions"]
    conditions.append(progress)
    executor.ended()
    assert executor.dead_services() == []
    loop = {"waiting": {"reason": "CrashLoopBackOff"}}
    kube.server_pod("own", {"restartCount": 6, "state": loop, "lastState": ended(1)})
    conditions[0]["lastTransitionTime"] = ago(1700)
    executor.ended()
    assert executor.dead_services() == []
    conditions[0]["lastTransitionTime"] = ago(1900)
    executor.ended()
    assert [found.name for found in executor.dead_services()] == ["own"], "but not for ever"


def test_a_server_is_not_replaced_under_a_stage_that_uses_it(run: Run, kube: FakeKube, make: Make) -> None:
    executor = make()
    executor.ended()
    executor.start_service("own")
    kube.serve("own")
    executor.ended()
    name = next(name for name, item in run.plan.instances.items() if "own" in item.services)
    executor.start_stage(name)
    [job] = kube.found["job"]
    # The stage was made for another configuration, and so was its server.
    kube.found["job"][job]["metadata"]["labels"]["polaris/digest"] = "0" * 16
    kube.found["deployment"]["polaris-serve-own"]["metadata"]["annotations"]["polaris/identity"] = "older"
    after = make()
    after.ended()
    assert after.services() == {"own": False}
    assert "-polaris-serve-own" not in kube.calls
    kube.finish(job)
    after.ended()
    assert kube.calls[-1] == "-polaris-serve-own"


def test_a_server_that_answered_may_lose_its_memory_once(
    kube: FakeKube, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    executor = make()
    executor.ended()
    executor.start_service("own")
    killed = {"restartCount": 1, "state": running(5), "lastState": ended(137, "OOMKilled")}
    kube.server_pod("own", killed)
    kube.serve("own")
    executor.ended()
    executor.ended()
    assert executor.dead_services() == []
    assert capsys.readouterr().out.count("server_ended") == 1
    kube.serve("own", available=False)
    executor.ended()
    assert [found.code for found in executor.dead_services()] == [2], "one that never answered is given up"

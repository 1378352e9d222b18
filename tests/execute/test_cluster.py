"""The executor over a FAKE namespace: what it creates, adopts, counts, keeps and gives up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from context import make_artifact
from fake_kube import FakeKube, ended
from templates import serve_template

from polaris.errors import ConfigError, Stopped
from polaris.execute.cluster import ClusterExecutor
from polaris.execute.ended import Ended
from polaris.execute.loop import carry_out
from polaris.plan import Failure
from polaris.run import Run
from polaris.runtime import StopFlag

OWN = "generate.own.quality"
Make = Callable[..., ClusterExecutor]


@pytest.fixture
def run(served: Run) -> Run:
    return served


def job(run: Run, attempt: int, name: str = "data") -> str:
    return f"test-{name}-{run.plan.instances[name].digest[:8]}-{attempt}"


def stored(run: Run, ending: str) -> dict[str, bytes]:
    """Return what the store has of data's attempts, by attempt."""
    keys = [
        info.key for info in run.store.list(f"{run.prefix('data')}attempts/") if info.key.endswith(ending)
    ]
    return {key.split("/")[5]: run.store.get(key) for key in keys}


def log_of(attempt: str, *lines: str) -> bytes:
    begin = json.dumps({"event": "begin", "attempt": attempt, "instance": "data"})
    return "\n".join([begin, *lines, ""]).encode()


def test_a_stage_that_ends_well(run: Run, kube: FakeKube, make: Make) -> None:
    executor = make()
    assert executor.ended() == []
    executor.start_stage("data")
    assert executor.running() == {"data": None}
    kube.pod_of(job(run, 1), {"running": {}}, phase="Running", name="p")
    assert executor.ended() == []
    kube.pod_of(job(run, 1), ended(0), phase="Succeeded", name="p", log=log_of("20260101t000000"))
    kube.finish(job(run, 1))
    assert executor.ended() == [Ended("data", 0, "")]
    assert executor.running() == {}
    assert executor.ended() == []
    assert stored(run, "log.txt") == {"20260101t000000": log_of("20260101t000000")}


def test_a_stage_that_fails_says_why_in_its_own_words(run: Run, kube: FakeKube, make: Make) -> None:
    executor = make()
    executor.start_stage("data")
    status = {"state": "failed", "code": 3, "reason": "the book is torn"}
    run.store.put(f"{run.prefix('data')}attempts/20260101t000000/STATUS.json", json.dumps(status).encode())
    kube.pod_of(job(run, 1), ended(3), log=log_of("20260101t000000"))
    kube.finish(job(run, 1), "Failed", "PodFailurePolicy", "Container stage failed with exit code 3 matching")
    assert executor.ended() == [Ended("data", 3, "PodFailurePolicy: the book is torn")]
    assert json.loads(stored(run, "STATUS.json")["20260101t000000"]) == status


def test_a_killed_stage_is_told_by_its_last_words(run: Run, kube: FakeKube, make: Make) -> None:
    executor = make()
    executor.start_stage("data")
    kube.pod_of(job(run, 1), ended(137), log=log_of("20260101t000000", "RuntimeError: lost"))
    kube.finish(job(run, 1), "Failed", "BackoffLimitExceeded")
    (found,) = executor.ended()
    assert found.code == 137
    assert found.reason.endswith("exit code 137 (killed by signal 9); its log ends: RuntimeError: lost")
    status = json.loads(stored(run, "STATUS.json")["20260101t000000"])
    assert (status["state"], status["code"]) == ("failed", 137)


def test_a_stage_without_memory_fails_at_once(run: Run, kube: FakeKube, make: Make) -> None:
    executor = make()
    executor.start_stage("data")
    kube.pod_of(job(run, 1), ended(137, "OOMKilled"), log=log_of("20260101t000000", "eating"))
    (found,) = executor.ended()
    assert found.code == 2, "no retry mends it"
    assert "memory limit of 4Gi; raise stages.data.resources.limits.memory" in found.reason
    assert kube.calls[-1] == f"-{job(run, 1)}", "its Job does not go on trying"
    assert stored(run, "log.txt"), "and its log is kept"
    assert executor.running() == {}
    assert executor.ended() == [], "told once"


def test_a_stage_without_memory_stays_failed_under_its_configuration(
    run: Run, kube: FakeKube, make: Make
) -> None:
    executor = make()
    executor.start_stage("data")
    kube.pod_of(job(run, 1), ended(137, "OOMKilled"), log=log_of("20260101t000000", "eating"))
    (failure,) = executor.ended()
    assert kube.found["job"] == {}
    assert make("aaaa").ended() == [failure], "a new process does not try it again"
    assert make("bbbb").ended() == [], "but a changed configuration does"
    assert make("").ended() == [], "and so does a person"
    make_artifact(run, "data", {})
    assert make("aaaa").ended() == []


def test_a_rotated_log_still_has_its_attempt(run: Run, kube: FakeKube, make: Make) -> None:
    executor = make()
    executor.start_stage("data")
    kube.pod_of(job(run, 1), {"running": {}}, phase="Running", name="p", log=log_of("20260101t000000", "a"))
    executor.ended()
    kube.found["pod"]["p"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:05Z"
    kube.logs["p"] = b"the newest lines\n"
    executor.ended()
    kube.found["pod"]["p"]["status"]["phase"] = "Failed"
    kube.found["pod"]["p"]["status"]["containerStatuses"][0]["state"] = ended(143)
    executor.ended()
    assert stored(run, "log.txt") == {"20260101t000000": b"the newest lines\n"}


def test_a_restart_finds_the_same_state(run: Run, kube: FakeKube, make: Make) -> None:
    first = make()
    first.start_stage("data")
    kube.pod_of(job(run, 1), ended(75), log=b"no begin")
    kube.finish(job(run, 1), "Failed", "BackoffLimitExceeded")
    (failure,) = first.ended()
    first.start_stage("data")
    before = stored(run, "")
    second = make()
    assert second.ended() == [failure], "what failed before counts again"
    assert second.running() == {"data": None}, "what is live is adopted"
    assert stored(run, "") == before, "and the store says it once"
    assert kube.calls == [f"+{job(run, 1)}", f"+{job(run, 2)}"]


def test_failures_of_an_earlier_configuration_take_a_number_only(
    run: Run, kube: FakeKube, make: Make
) -> None:
    earlier = make("aaaa")
    earlier.start_stage("data")
    now = make("bbbb")
    assert now.ended() == []
    assert now.running() == {"data": None}
    kube.pod_of(job(run, 1), ended(2))
    kube.finish(job(run, 1), "Failed", "PodFailurePolicy", "failed with exit code 2 matching")
    assert now.ended() == []
    assert now.running() == {}
    now.start_stage("data")
    assert kube.calls[-1] == f"+{job(run, 2)}"


def test_an_earlier_configurations_job_may_still_finish_the_stage(
    run: Run, kube: FakeKube, make: Make
) -> None:
    make("aaaa").start_stage("data")
    now = make("bbbb")
    now.ended()
    make_artifact(run, "data", {})
    kube.finish(job(run, 1))
    assert now.ended() == [Ended("data", 0, "")]


def test_a_live_job_of_another_digest_is_left_alone(
    run: Run, kube: FakeKube, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    executor = make()
    executor.start_stage("data")
    kube.found["job"][job(run, 1)]["metadata"]["labels"]["polaris/digest"] = "0" * 16
    another = make()
    assert another.ended() == another.ended() == []
    assert another.running() == {}
    assert capsys.readouterr().out.count("left_alone") == 1
    assert kube.calls == [f"+{job(run, 1)}"]


def test_a_taken_name_is_adopted_or_passed_over(run: Run, kube: FakeKube, make: Make) -> None:
    make().start_stage("data")
    late = make()
    late.start_stage("data")
    assert late.running() == {"data": None}
    assert kube.calls == [f"+{job(run, 1)}"], "adopted: it is live"
    kube.finish(job(run, 1), "Failed", "BackoffLimitExceeded")
    later = make()
    later.start_stage("data")
    assert kube.calls[-1] == f"+{job(run, 2)}", "passed over: it has ended"


def test_a_deadline_is_named_with_what_it_was_spent_on(run: Run, kube: FakeKube, make: Make) -> None:
    executor = make()
    executor.start_stage("data")
    pod = kube.pod_of(job(run, 1), {}, phase="Pending")
    message = "0/1 nodes are available: 1 Insufficient cpu."
    scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    pod["status"]["conditions"] = [scheduled]
    executor.ended()
    kube.found["pod"].clear()
    kube.finish(job(run, 1), "Failed", "DeadlineExceeded")
    (found,) = executor.ended()
    assert found.code == 143
    assert (
        "longer than its 600 s; raise stages.data.activeDeadlineSeconds; it waited: FailedSched"
        in found.reason
    )
    assert json.loads(next(iter(stored(run, "STATUS.json").values())))["reason"] == found.reason


def test_a_pod_that_is_taken_away_leaves_its_log(run: Run, kube: FakeKube, make: Make) -> None:
    executor = make()
    executor.start_stage("data")
    kube.pod_of(job(run, 1), {"running": {}}, phase="Running", name="p", log=log_of("20260101t000000", "a"))
    executor.ended()
    kube.found["pod"]["p"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:05Z"
    kube.logs["p"] = log_of("20260101t000000", "a", "saved")
    executor.ended()
    del kube.found["pod"]["p"]
    assert executor.ended() == [], "its Job makes another pod"
    assert stored(run, "log.txt")["20260101t000000"].endswith(b"a\nsaved\n")
    assert json.loads(stored(run, "STATUS.json")["20260101t000000"])["code"] == 143
    assert executor.running() == {"data": None}


def test_a_job_that_somebody_deletes_has_failed(run: Run, kube: FakeKube, make: Make) -> None:
    executor = make()
    executor.start_stage("data")
    executor.ended()
    kube.found["job"].clear()
    assert executor.ended() == [Ended("data", 143, "its Job was deleted")]


def test_the_loop_carries_a_run_out(run: Run, kube: FakeKube, make: Make) -> None:
    executor = make()
    executor.poll_s = 0.0

    def cluster() -> None:
        """Stand for the controllers: a Job makes its artifact, a Deployment comes up."""
        for found in list(kube.found["job"].values()):
            make_artifact(run, found["metadata"]["annotations"]["polaris/instance"], {})
            kube.finish(found["metadata"]["name"])
        for found in list(kube.found["deployment"].values()):
            if "deletionTimestamp" in found["metadata"]:
                del kube.found["deployment"][found["metadata"]["name"]]
            else:
                kube.serve("own")

    outcome = carry_out(run, executor, set(run.plan.instances), StopFlag(), on_poll=cluster)
    assert (outcome.code, outcome.complete) == (0, set(run.plan.instances))
    calls = kube.calls
    own = job(run, 1, OWN).replace(".", "-")
    assert calls.index("+polaris-serve-own") < calls.index(f"+{own}") < calls.index("-polaris-serve-own")
    given = kube.found["job"][own]["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "POLARIS_ENDPOINTS", "value": '{"own": "http://polaris-serve-own:8000/v1"}'} in given


def test_attempts_are_counted_over_restarts(run: Run, kube: FakeKube, make: Make) -> None:
    first = make()
    first.start_stage("data")
    kube.finish(job(run, 1), "Failed", "BackoffLimitExceeded")
    second = make()
    second.poll_s = 0.0

    def fail() -> None:
        for found in list(kube.found["job"].values()):
            kube.finish(found["metadata"]["name"], "Failed", "BackoffLimitExceeded")

    outcome = carry_out(run, second, {"data"}, StopFlag(), on_poll=fail)
    assert outcome.failures == {"data": Failure(1, 2)}
    assert kube.calls == [f"+{job(run, 1)}", f"+{job(run, 2)}"]


def test_a_signal_ends_the_loop_and_nothing_else(run: Run, kube: FakeKube, make: Make) -> None:
    executor, stop = make(), StopFlag()

    def signalled() -> None:
        stop.signal = 15

    with pytest.raises(Stopped) as stopped:
        carry_out(run, executor, {"data"}, stop, on_poll=signalled)
    assert stopped.value.code == 143
    assert kube.calls == [f"+{job(run, 1)}"]


def test_what_is_missing_is_named(run: Run, kube: FakeKube, make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    kube.config = None
    with pytest.raises(ConfigError, match="namespace 'fake' has no ConfigMap 'polaris-config'"):
        make()
    other = serve_template("own")
    other["metadata"]["labels"]["app.kubernetes.io/instance"] = "another"
    (folder / "serve-own.yaml").write_text(yaml.safe_dump(other))
    with pytest.raises(ConfigError, match="serve-own.yaml' and its pods lack the labels .*instance=polaris"):
        make()
    (folder / "stage-judge.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="stage-judge.yaml' is no YAML"):
        make()
    (folder / "stage-data.yaml").unlink()
    with pytest.raises(ConfigError, match="stage-data.yaml' cannot be read: No such file"):
        make()

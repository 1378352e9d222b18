"""The loop over a FAKE executor whose stages end as a script says: retries, losses, services, stops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from context import make_artifact, settings

from polaris.cli.summary import rows
from polaris.errors import Stopped, TransientError
from polaris.execute.ended import Ended
from polaris.execute.loop import Outcome, carry_out, through_outages
from polaris.plan import Failure
from polaris.run import Run, open_run
from polaris.runtime import StopFlag

OWN = "own.quality"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Two writers: one elsewhere, one that this run serves."""
    raw: dict[str, Any] = settings(tmp_path)
    (tmp_path / "model").mkdir()
    raw["models"]["own"] = {"kind": "checkpoint", "path": "model"}
    raw["evaluations"]["quality"]["models"] = ["writer", "own"]
    raw["execute"] |= {"parallel": 2, "retries": 2}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(raw))
    return open_run(tmp_path / "run.yaml")


class FakeExecutor:
    """A FAKE: nothing runs; each start of a stage takes the next exit code of its script, 0 at its end."""

    def __init__(self, run: Run, **codes: list[int]) -> None:
        self.run = run
        self.poll_s = 0.0
        self.outlives_loop = False
        self.codes = {name.replace("_", "."): list(found) for name, found in codes.items()}
        self.calls: list[str] = []
        self.signals: list[int] = []
        self.dying: list[Ended] = []
        self.ends = True
        self._running: dict[str, Path | None] = {}
        self._services: dict[str, bool] = {}

    def start_stage(self, name: str) -> None:
        self.calls.append(name)
        self._running[name] = Path()

    def running(self) -> dict[str, Path | None]:
        return dict(self._running)

    def ended(self) -> list[Ended]:
        if not self.ends:
            return []
        found = []
        for name in list(self._running):
            del self._running[name]
            codes = self.codes.get(name)
            code = codes.pop(0) if codes else 0
            if code == 0:
                make_artifact(self.run, name, {})
            found.append(Ended(name, code, f"reason {code}" if code else ""))
        return found

    def stop_stages(self, number: int) -> None:
        self.signals.append(number)
        self.ends = True

    def start_service(self, model: str) -> None:
        self.calls.append(f"+{model}")
        self._services[model] = False

    def services(self) -> dict[str, bool]:
        found = dict(self._services)
        self._services = dict.fromkeys(self._services, True)
        return found

    def dead_services(self) -> list[Ended]:
        if not self.dying or self.dying[0].name not in self._services:
            return []
        dead = self.dying.pop(0)
        del self._services[dead.name]
        return [dead]

    def stop_service(self, model: str) -> None:
        self.calls.append(f"-{model}")
        del self._services[model]


def carried(run: Run, executor: FakeExecutor, *only: str) -> Outcome:
    return carry_out(run, executor, run.plan.selected(only), StopFlag())


def test_everything_is_done_once_and_in_order(run: Run) -> None:
    executor = FakeExecutor(run)
    outcome = carried(run, executor)
    assert outcome.code == 0
    assert outcome.complete == set(run.plan.instances)
    assert [call for call in executor.calls if call not in ("+own", "-own")] == sorted(
        run.plan.instances, key=executor.calls.index
    )
    assert executor.calls[-1] == "report"
    calls = executor.calls
    assert calls.index("+own") < calls.index(f"generate.{OWN}") < calls.index("-own")
    again = FakeExecutor(run)
    outcome = carried(run, again)
    assert (outcome.code, outcome.complete, again.calls) == (0, set(run.plan.instances), [])


@pytest.mark.parametrize("code", [1, 75, 137, 143])
def test_what_may_pass_is_tried_again(run: Run, code: int) -> None:
    executor = FakeExecutor(run, data=[code, code])
    outcome = carried(run, executor, "data")
    assert executor.calls == ["data"] * 3
    assert (outcome.code, outcome.failures, outcome.lost) == (0, {}, [])


@pytest.mark.parametrize(("code", "whole"), [(1, 1), (75, 75), (137, 1)])
def test_tries_come_to_an_end(run: Run, code: int, whole: int) -> None:
    executor = FakeExecutor(run, data=[code] * 9)
    outcome = carried(run, executor, "data")
    assert executor.calls == ["data"] * 3
    assert (outcome.code, outcome.lost, outcome.failures) == (whole, ["data"], {"data": Failure(code, 3)})
    assert outcome.reasons == {"data": f"reason {code}"}


@pytest.mark.parametrize("code", [2, 3, 4, 5])
def test_what_no_retry_mends_is_not_tried_again(run: Run, code: int) -> None:
    executor = FakeExecutor(run, generate_writer_quality=[code])
    outcome = carried(run, executor)
    assert executor.calls.count("generate.writer.quality") == 1
    assert outcome.code == code
    assert outcome.lost == ["generate.writer.quality"]
    assert {"data", f"evaluate.{OWN}"} <= outcome.complete, "what does not need it goes on"
    assert not outcome.complete & {"judge.writer.quality", "evaluate.writer.quality", "report"}
    assert executor.services() == {}


def test_the_most_telling_code_is_the_runs() -> None:
    failures = {"a": Failure(75, 3), "b": Failure(4, 1), "c": Failure(1, 3)}
    assert Outcome(failures=failures, lost=["a", "b", "c"]).code == 4
    assert Outcome(failures=failures, lost=["a", "c"]).code == 1
    assert Outcome(failures=failures, lost=["a"]).code == 75
    assert Outcome(failures=failures).code == 0


@pytest.mark.parametrize(("code", "final"), [(1, 5), (75, 5), (137, 5), (2, 2), (3, 3), (4, 4), (5, 5)])
def test_an_orchestrators_code_for_what_is_lost_is_final(code: int, final: int) -> None:
    assert Outcome(failures={"a": Failure(code, 3)}, lost=["a"]).final_code == final
    assert Outcome().final_code == 0


def test_a_service_that_dies_is_started_again_for_who_waits_for_it(run: Run) -> None:
    executor = FakeExecutor(run)
    executor.dying = [Ended("own", 1, "out of memory")]
    outcome = carried(run, executor, f"generate.{OWN}")
    assert outcome.code == 0
    assert executor.calls == ["+own", "+own", f"generate.{OWN}", "-own"]


def test_a_service_that_keeps_dying_is_given_up(run: Run) -> None:
    executor = FakeExecutor(run)
    executor.dying = [Ended("own", 1, "out of memory")] * 9
    outcome = carried(run, executor)
    assert outcome.reasons[f"generate.{OWN}"] == "out of memory"
    assert outcome.lost == [f"generate.{OWN}"]
    assert executor.calls.count("+own") == 3
    [row] = [row for row in rows(run, {f"generate.{OWN}"}, {})]
    assert (row.state, row.reason.partition(" (")[0]) == ("failed", "out of memory")
    assert "evaluate.writer.quality" in outcome.complete
    assert outcome.code == 1


def test_a_service_that_can_never_start_is_not_tried_again(run: Run) -> None:
    executor = FakeExecutor(run)
    executor.dying = [Ended("own", 2, "vllm is not installed")] * 9
    outcome = carried(run, executor, f"judge.{OWN}")
    assert (outcome.code, executor.calls) == (2, ["+own"])


class Falling(FakeExecutor):
    """A FAKE: the server dies while the stage that uses it runs, which then fails too."""

    looks = 0

    def ended(self) -> list[Ended]:
        self.looks += bool(self.running())
        return super().ended() if self.looks != 1 else []

    def dead_services(self) -> list[Ended]:
        return super().dead_services() if self.running() else []


def test_a_stage_whose_server_died_says_why(run: Run) -> None:
    executor = Falling(run)
    executor.codes[f"generate.{OWN}"] = [75]
    executor.dying = [Ended("own", 1, "the server ran out of memory")]
    make_artifact(run, "data", {})
    heard: list[str] = []
    carry_out(
        run,
        executor,
        {f"generate.{OWN}"},
        StopFlag(),
        on_change=lambda what, name, detail: heard.append(f"{what} {name} {detail}"),
    )
    [failed] = [line for line in heard if line.startswith("failed")]
    assert "reason 75; while it ran, the server ran out of memory" in failed


def test_who_is_not_selected_pays_for_no_dead_service(run: Run) -> None:
    executor = FakeExecutor(run)
    executor.dying = [Ended("own", 1, "out of memory")] * 9
    outcome = carried(run, executor, "data")
    assert (outcome.code, outcome.failures) == (0, {})


def test_what_is_started_and_failed_is_told(run: Run) -> None:
    heard: list[tuple[str, str, str]] = []
    executor = FakeExecutor(run, data=[75])
    carry_out(run, executor, {"data"}, StopFlag(), on_change=lambda *what: heard.append(what))
    assert heard == [
        ("start-stage", "data", ""),
        ("failed", "data", "reason 75 (exit code 75, attempt 1)"),
        ("start-stage", "data", ""),
        ("complete", "data", ""),
    ]


def test_a_stop_waits_for_the_stages_to_save(run: Run) -> None:
    executor, stop, polls = FakeExecutor(run, data=[143]), StopFlag(), []
    executor.ends = False

    def poll() -> None:
        polls.append(executor.running())
        if len(polls) == 2:
            stop.signal = 15

    with pytest.raises(Stopped) as stopped:
        carry_out(run, executor, {"data"}, stop, on_poll=poll)
    assert stopped.value.code == 143
    assert executor.signals == [15]
    assert executor.running() == {}
    assert executor.calls == ["data"], "nothing is started after a stop"


def test_a_run_taken_over_by_another_is_left_to_it(run: Run) -> None:
    executor = FakeExecutor(run)
    executor.ends = False
    with pytest.raises(TransientError, match="another polaris run has taken over 'test'"):
        carry_out(run, executor, {"data"}, StopFlag(), is_ours=lambda: not executor.calls)
    assert executor.calls == ["data"]


def test_an_executor_whose_stages_live_on_is_left_at_once(run: Run) -> None:
    executor, stop = FakeExecutor(run), StopFlag()
    executor.ends, executor.outlives_loop = False, True

    def poll() -> None:
        stop.signal = 15

    with pytest.raises(Stopped) as stopped:
        carry_out(run, executor, {"data"}, stop, on_poll=poll)
    assert stopped.value.code == 143
    assert (executor.signals, executor.running()) == ([], {"data": Path()})


def test_what_is_selected_alone_stands_on_what_is_complete(run: Run) -> None:
    for name in ("generate.writer.quality", "judge.writer.quality"):
        make_artifact(run, name, {})
    executor = FakeExecutor(run)
    outcome = carry_out(run, executor, {"evaluate.writer.quality"}, StopFlag())
    assert (outcome.code, executor.calls) == (0, ["evaluate.writer.quality"])


def test_outages_are_waited_out_and_end_some_day() -> None:
    times = iter(range(0, 10_000, 100))
    tries = []

    def attempt(going_well: Callable[[], None]) -> Outcome:
        tries.append(1)
        if len(tries) < 3:
            raise TransientError("the store is down")
        return Outcome()

    done = through_outages(attempt, StopFlag(), wait_s=0, clock=lambda: next(times))
    assert (done.code, len(tries)) == (0, 3)

    def never(going_well: Callable[[], None]) -> Outcome:
        raise TransientError("the store is down")

    with pytest.raises(TransientError, match="the store is down"):
        through_outages(never, StopFlag(), wait_s=0, clock=lambda: next(times))


def test_an_outage_that_comes_back_now_and_then_never_ends_the_run() -> None:
    times = iter(range(0, 1_000_000, 1000))
    left = [5]

    def attempt(going_well: Callable[[], None]) -> Outcome:
        going_well()
        left[0] -= 1
        if left[0]:
            raise TransientError("the store is down")
        return Outcome()

    assert through_outages(attempt, StopFlag(), wait_s=0, clock=lambda: next(times)).code == 0

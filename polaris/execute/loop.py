"""A run and an executor in, every selected instance complete or a reason why not out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from polaris.artifact import new_attempt
from polaris.errors import BUG, DONE, FINAL, GUARD, TRANSIENT, TransientError
from polaris.execute.ended import Ended
from polaris.plan import Failure, State, is_lost, next_actions
from polaris.run import Run
from polaris.runtime import StopFlag, get_logger
from polaris.stage import Status

log = get_logger("run")


class Executor(Protocol):
    """What carries actions out: processes of this machine, or Jobs and Deployments of a cluster."""

    poll_s: float
    """How long the loop rests between two looks, seconds."""
    outlives_loop: bool
    """Whether stages and services go on when the loop ends, and the next loop finds them."""

    def start_stage(self, name: str) -> None:
        """Start a stage."""

    def running(self) -> dict[str, Path | None]:
        """Return the stages that run, and their logs where they lie on this machine."""

    def ended(self) -> list[Ended]:
        """Return the stages that ended since the last call; a round of the loop begins with it."""

    def stop_stages(self, number: int) -> None:
        """Ask every stage to save and stop."""

    def start_service(self, model: str) -> None:
        """Start a model's endpoint."""

    def services(self) -> dict[str, bool]:
        """Return the services and whether they answer."""

    def dead_services(self) -> list[Ended]:
        """Return the services that died since the last call."""

    def stop_service(self, model: str) -> None:
        """Stop a service."""


@dataclass
class Outcome:
    """How a run ended: what is complete, and what is lost and why."""

    complete: set[str] = field(default_factory=set)
    reasons: dict[str, str] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    dead_services: dict[str, str] = field(default_factory=dict)
    """Why a service was given up that a stage may have been using."""

    @property
    def code(self) -> int:
        """The run's exit code: 0, or the most telling of its lost instances' codes."""
        codes = [self.failures[name].code for name in self.lost]
        for code in codes:
            if code in FINAL:
                return code
        return (TRANSIENT if all(code == TRANSIENT for code in codes) else BUG) if codes else DONE

    @property
    def final_code(self) -> int:
        """The exit code where any but a final one means to start again: what is lost is tried out."""
        return self.code if self.code in (DONE, *FINAL) else GUARD


def carry_out(
    run: Run,
    executor: Executor,
    selected: set[str],
    stop: StopFlag,
    *,
    on_change: Callable[[str, str, str], None] = lambda what, name, detail: None,
    on_poll: Callable[[], None] = lambda: None,
    is_ours: Callable[[], bool] = lambda: True,
) -> Outcome:
    """Do what `next_actions` says until nothing more can be done.

    `on_change(what, name, detail)` hears of every start, end and failure. When `stop` is set, stages
    that do not outlive the loop are asked to save and stop, and Stopped is raised when they have. Raises
    TransientError if the run is no longer ours to carry out.
    """
    known = selected.union(*(run.plan.instances[name].needs for name in selected))
    outcome = Outcome(complete={name for name in known if run.manifest(name)})
    while True:
        if stop.requested:
            if not executor.outlives_loop:
                _wind_down(executor, stop, on_poll)
            stop.check()
        if not is_ours():
            raise TransientError(f"another polaris run has taken over '{run.config.run}'; wait for it")
        _collect(run, executor, selected, outcome, on_change)
        state = State(
            complete=frozenset(outcome.complete),
            running=frozenset(executor.running()),
            failures=outcome.failures,
            services=executor.services(),
        )
        settings = run.config.execute
        actions, over = next_actions(
            run.plan, selected, state, parallel=settings.parallel, retries=settings.retries
        )
        for action in actions:
            on_change(action.do, action.name, "")
            getattr(executor, action.do.replace("-", "_"))(action.name)
        if over:
            retries = settings.retries
            outcome.lost = [name for name, found in outcome.failures.items() if is_lost(found, retries)]
            return outcome
        on_poll()
        _rest(executor.poll_s, stop)


def through_outages(
    attempt: Callable[[Callable[[], None]], Outcome],
    stop: StopFlag,
    *,
    wait_s: float = 10.0,
    longest_s: float = 1800.0,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Carry a run out whose executor finds its stages again, anew after whatever may pass.

    `attempt(going_well)` calls `going_well` at every look that succeeded. Raises the TransientError that
    lasts for `longest_s` seconds.
    """
    well = [clock()]
    while True:
        try:
            return attempt(lambda: well.__setitem__(0, clock()))
        except TransientError as error:
            if clock() - well[0] > longest_s:
                raise
            log.warning("outage", reason=str(error), again_in_s=wait_s)
            _rest(wait_s, stop)
            stop.check()


def _rest(seconds: float, stop: StopFlag) -> None:
    """Sleep, but wake up for a signal."""
    end = time.monotonic() + seconds
    while not stop.requested and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.3))


def _collect(
    run: Run,
    executor: Executor,
    selected: set[str],
    outcome: Outcome,
    on_change: Callable[[str, str, str], None],
) -> None:
    """Take in what ended since the last look."""
    for ended in executor.ended():
        if ended.name in outcome.complete:
            continue
        if run.manifest(ended.name):
            outcome.complete.add(ended.name)
            outcome.failures.pop(ended.name, None)
            on_change("complete", ended.name, "")
        else:
            reason = ended.reason or "it ended well without a manifest"
            for service in run.plan.instances[ended.name].services:
                if told := outcome.dead_services.pop(service, ""):
                    reason += f"; while it ran, {told}"
            _fail(outcome, ended.name, ended.code or BUG, reason, on_change)
    for dead in executor.dead_services():
        running = executor.running()
        if any(dead.name in run.plan.instances[name].services for name in running):
            outcome.dead_services[dead.name] = dead.reason
        for name in selected:
            instance = run.plan.instances[name]
            # A stage that runs against the dead endpoint reports by its own exit code.
            if (
                dead.name in instance.services
                and name not in outcome.complete
                and name not in running
                and outcome.complete.issuperset(instance.needs)
            ):
                # No process of the stage was there to say so in the store.
                Status(run.store, run.prefix(name), new_attempt()).write("failed", dead.code, dead.reason)
                _fail(outcome, name, dead.code, dead.reason, on_change)


def _fail(
    outcome: Outcome, name: str, code: int, reason: str, on_change: Callable[[str, str, str], None]
) -> None:
    attempts = outcome.failures[name].attempts + 1 if name in outcome.failures else 1
    outcome.failures[name] = Failure(code, attempts)
    outcome.reasons[name] = reason
    on_change("failed", name, f"{reason} (exit code {code}, attempt {attempts})")


def _wind_down(executor: Executor, stop: StopFlag, on_poll: Callable[[], None]) -> None:
    assert stop.signal is not None
    log.info("stopping", waiting_for=sorted(executor.running()))
    executor.stop_stages(stop.signal)
    while executor.running():
        executor.ended()
        on_poll()
        time.sleep(executor.poll_s)

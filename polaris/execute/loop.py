"""A run and an executor in, every selected instance complete or a reason why not out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from polaris.artifact import new_attempt
from polaris.errors import BUG, DONE, FINAL, TRANSIENT, TransientError
from polaris.execute.local import Ended
from polaris.plan import Failure, State, is_lost, next_actions
from polaris.run import Run
from polaris.runtime import StopFlag, get_logger
from polaris.stage import Status

log = get_logger("run")

POLL_S = 0.3


class Executor(Protocol):
    """What carries actions out: processes of this machine, or Jobs and Deployments of a cluster."""

    def start_stage(self, name: str) -> None:
        """Start a stage."""

    def running(self) -> dict[str, Path]:
        """Return the stages that run, and their logs."""

    def ended(self) -> list[Ended]:
        """Return the stages that ended since the last call."""

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

    @property
    def code(self) -> int:
        """The run's exit code: 0, or the most telling of its lost instances' codes."""
        codes = [self.failures[name].code for name in self.lost]
        for code in codes:
            if code in FINAL:
                return code
        return (TRANSIENT if all(code == TRANSIENT for code in codes) else BUG) if codes else DONE


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
    are asked to save and stop, and Stopped is raised when they have. Raises TransientError if the run
    is no longer ours to carry out.
    """
    outcome = Outcome(complete={name for name in selected if run.manifest(name)})
    while True:
        if stop.requested:
            _wind_down(executor, stop, on_poll)
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
        time.sleep(POLL_S)


def _collect(
    run: Run,
    executor: Executor,
    selected: set[str],
    outcome: Outcome,
    on_change: Callable[[str, str, str], None],
) -> None:
    """Take in what ended since the last look."""
    for ended in executor.ended():
        if run.manifest(ended.name):
            outcome.complete.add(ended.name)
            outcome.failures.pop(ended.name, None)
            on_change("complete", ended.name, "")
        else:
            reason = ended.reason or "it ended well without a manifest"
            _fail(outcome, ended.name, ended.code or BUG, reason, on_change)
    for dead in executor.dead_services():
        running = executor.running()
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
        time.sleep(POLL_S)
    stop.check()

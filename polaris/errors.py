"""What went wrong in, the documented exit code out: one table for every stage and both executors."""

from __future__ import annotations

DONE = 0
BUG = 1
BAD_CONFIG = 2
BAD_INPUT = 3
BUDGET_SPENT = 4
GUARD = 5
TRANSIENT = 75
INTERRUPTED = 130
TERMINATED = 143

MEANING = {
    DONE: "done",
    BUG: "a bug: the traceback is in the log",
    BAD_CONFIG: "bad configuration",
    BAD_INPUT: "missing or corrupt input",
    BUDGET_SPENT: "budget spent: raise it and run again",
    GUARD: "stopped by a guard: a person must look",
    TRANSIENT: "transient: run again",
    INTERRUPTED: "interrupted; progress is saved",
    TERMINATED: "terminated; progress is saved",
}
"""Exit code → what it means to a user. A process killed by signal N reads as 128 + N."""

FINAL = frozenset({BAD_CONFIG, BAD_INPUT, BUDGET_SPENT, GUARD})
"""Codes that no retry can mend."""


class PolarisError(Exception):
    """An error that a user can act on: one line naming the setting or object, the value, the fix."""

    code = BUG


class ConfigError(PolarisError):
    """The configuration is wrong."""

    code = BAD_CONFIG


class InputError(PolarisError):
    """An input is missing or corrupt."""

    code = BAD_INPUT


class BudgetError(PolarisError):
    """The judge's budget is spent; what was paid for is kept."""

    code = BUDGET_SPENT


class GuardError(PolarisError):
    """A guard stopped the run: NaN loss, a stale engine, a judge failing beyond its limit."""

    code = GUARD


class TransientError(PolarisError):
    """Something outside is down for now; the same command may work later."""

    code = TRANSIENT


class Stopped(PolarisError):
    """SIGTERM or SIGINT arrived and what could be saved is saved."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}; progress is saved")
        self.code = 128 + signal_number

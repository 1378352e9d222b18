"""Each process's outcome of a step's judge calls in; the one decision of all processes out: go on, or stop.

An error that one process met alone would leave the others waiting for it in a collective. So none raises it
where it happens: they tell each other what became of their calls, and then all raise the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from polaris.chat import Usage
from polaris.errors import GuardError, PolarisError, TransientError
from polaris.recipe import RewardConfig
from polaris.train.job import error_of


@dataclass(frozen=True)
class Outcome:
    """What became of one process's judge calls in one step.

    Attributes:
        asked: stories that the judge was asked about.
        failed: those of them without a judgement.
        out: not one of them has a judgement, and the judge's endpoint is why.
        reason: why the last one failed.
        error: exit code and message of an error that no further call would mend.
        usage: what the step's calls were and cost.

    """

    asked: int = 0
    failed: int = 0
    out: bool = False
    reason: str = ""
    error: tuple[int, str] | None = None
    usage: Usage = field(default_factory=Usage)


class Failures:
    """Counts the failed calls of all processes over the last steps and says when to stop."""

    def __init__(self, config: RewardConfig) -> None:
        self._limit = config.max_failed_share
        self._window = config.failed_window
        self._steps: deque[tuple[int, int]] = deque()

    def check(self, outcomes: Sequence[Outcome]) -> PolarisError | None:
        """Return the error with which every process must stop, None to go on.

        `outcomes` are those of all processes, in the same order in each. The window is the last steps that
        hold at least `failed_window` calls together, so that no order of calls within a step matters.
        """
        errors = [error_of(*found.error) for found in outcomes if found.error]
        told = [error for error in errors if error is not None]
        if told:
            # The lowest code is the one that no retry mends.
            return min(told, key=lambda error: error.code)
        asked, failed = sum(o.asked for o in outcomes), sum(o.failed for o in outcomes)
        reason = next((o.reason for o in reversed(outcomes) if o.reason), "")
        if failed == asked and any(o.out for o in outcomes):
            return TransientError(f"the judge is out: {failed} of this step's {asked} calls failed: {reason}")
        return self._count(asked, failed, reason)

    def _count(self, asked: int, failed: int, reason: str) -> GuardError | None:
        self._steps.append((asked, failed))
        calls, failures = (sum(column) for column in zip(*self._steps, strict=True))
        while calls - self._steps[0][0] >= self._window:
            first = self._steps.popleft()
            calls, failures = calls - first[0], failures - first[1]
        # Compared with the whole window even before it is full: the rest of it could not mend that.
        if failed and failures > self._limit * max(calls, self._window):
            return GuardError(
                f"the judge keeps failing: {failures} of the last {calls} calls, above"
                f" reward.max_failed_share {self._limit:g} of a window of {self._window}"
                f" (reward.failed_window); the last reason: {reason}"
            )
        return None


class Agreement:
    """Called by every process after each step's rewards; raises in all of them or in none.

    Attributes:
        error: what it has raised, None so far.

    """

    def __init__(self, own: Callable[[], Outcome], config: RewardConfig) -> None:
        self.error: PolarisError | None = None
        self._own = own
        self._failures = Failures(config)

    def __call__(self) -> None:
        """Exchange the outcomes; raise what they agree on."""
        from accelerate.utils import gather_object

        outcomes: list[Outcome] = gather_object([self._own()])
        self.error = self._failures.check(outcomes)
        if self.error is not None:
            raise self.error

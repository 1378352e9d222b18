"""A run's money in, the right to make a call that costs some of it out: one budget for all processes."""

from __future__ import annotations

from polaris.config import RunConfig
from polaris.storage import Store


class Budget:
    """US$ in slices, each claimed from the store by a conditional put before any of it is spent."""

    def __init__(self, store: Store, prefix: str, usd: float) -> None:
        """Set up without touching the store; `prefix` ends with `/` and is the run's own."""
        raise NotImplementedError

    async def reserve(self, usd: float) -> None:
        """Take `usd` out; wait while only calls in flight of this process stand in the way.

        Raises:
            BudgetError: it is spent.

        """
        raise NotImplementedError

    def settle(self, reserved: float, actual: float) -> None:
        """Give a reservation back and book what the call cost in truth, more or less than that."""
        raise NotImplementedError

    def close(self) -> None:
        """Write what is spent of the slices claimed here, so that others may use the rest."""
        raise NotImplementedError


def open_budget(config: RunConfig, store: Store) -> Budget | None:
    """Return the run's budget, None where it has no limit."""
    if config.execute.budget_usd is None:
        return None
    return Budget(store, f"runs/{config.run}/budget/", config.execute.budget_usd)

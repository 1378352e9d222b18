"""The checks of a benchmark in, its table of measured, target and ok out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Span = tuple[float, float]


@dataclass(frozen=True)
class Check:
    """One line of the table; a target of nothing is met."""

    name: str
    measured: float
    target: str
    ok: bool
    timing: bool = False
    """It depends on how fast and how idle the machine is."""
    interval: Span | None = None


def show(checks: Sequence[Check]) -> None:
    """Print the table."""
    wide = max(len(check.name) for check in checks)
    print(f"{'':{wide}}  {'measured':>9}  {'':18}  {'target':24}  ok")
    for check in checks:
        between = "[{:.4g}, {:.4g}]".format(*check.interval) if check.interval else ""
        ok = ("yes" if check.ok else "NO") if check.target else ""
        print(f"{check.name:{wide}}  {check.measured:>9.4g}  {between:18}  {check.target:24}  {ok}")

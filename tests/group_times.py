"""Takes pytest's reports; prints each group's number of tests and seconds (pytest -p group_times)."""

from collections import defaultdict

import pytest

GROUPS = ("acceptance", "cluster", "gpu", "slow")
_seconds: dict[str, float] = defaultdict(float)
_tests: dict[str, set[str]] = defaultdict(set)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    group = next((name for name in GROUPS if name in report.keywords), "unit")
    _seconds[group] += report.duration
    _tests[group].add(report.nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for group in ("unit", *GROUPS):
        if group in _tests:
            terminalreporter.write_line(f"{group}: {len(_tests[group])} tests, {_seconds[group]:.1f} s")

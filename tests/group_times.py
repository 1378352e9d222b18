"""Takes pytest's reports; prints each group's number of tests and seconds (pytest -p group_times).

Where POLARIS_TEST_COUNTS names a file, it gets a line a group: name, tests passed, tests skipped.
"""

import os
from collections import defaultdict
from pathlib import Path

import pytest

GROUPS = ("acceptance", "cluster", "gpu", "slow")
_seconds: dict[str, float] = defaultdict(float)
_tests: dict[str, set[str]] = defaultdict(set)
_outcomes: dict[str, dict[str, set[str]]] = defaultdict(lambda: {"passed": set(), "skipped": set()})


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    group = next((name for name in GROUPS if name in report.keywords), "unit")
    _seconds[group] += report.duration
    _tests[group].add(report.nodeid)
    if report.skipped or (report.passed and report.when == "call"):
        _outcomes[group][report.outcome].add(report.nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = []
    for group in ("unit", *GROUPS):
        if group in _tests:
            terminalreporter.write_line(f"{group}: {len(_tests[group])} tests, {_seconds[group]:.1f} s")
            lines.append(" ".join([group, *(str(len(names)) for names in _outcomes[group].values())]))
    if path := os.environ.get("POLARIS_TEST_COUNTS"):
        Path(path).write_text("".join(f"{line}\n" for line in lines))

"""One cluster for the whole session; the release whose run the tests look at."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.scenario import WholeRun, play
from cluster.setting import Setting, running_cluster
from measured import write

BEGUN = time.monotonic()


@pytest.fixture(scope="session")
def setting() -> Iterator[Setting]:
    """A real cluster with the test images."""
    with running_cluster() as found:
        yield found


@pytest.fixture(scope="session")
def whole_run(
    setting: Setting, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[WholeRun]:
    """The try-out release, installed, disturbed three times, run to its end; its last test uninstalls it."""
    folder: Path = tmp_path_factory.mktemp("whole-run")
    with setting.namespace("polaris-e2e") as namespace:
        run = play(setting, namespace, folder)
        yield run
    if os.environ.get("POLARIS_MEASURE") and not request.session.testsfailed:
        whole = f"{time.monotonic() - BEGUN:.0f} s"
        run.figures.append(
            ("all cluster tests, the cluster's start and its images included", whole, "< 1800 s")
        )
        write("cluster", "POLARIS_MEASURE=1 make test-cluster", run.figures)

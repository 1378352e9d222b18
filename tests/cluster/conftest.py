"""One cluster for the whole session; the release whose run the tests look at."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.scenario import WholeRun, play
from cluster.setting import Setting, running_cluster
from measured import write


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
        write("cluster", "POLARIS_MEASURE=1 make test-cluster", run.figures)

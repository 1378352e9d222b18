"""One cluster for the whole session; the release whose run the tests look at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.scenario import WholeRun, play
from cluster.setting import Setting, running_cluster


@pytest.fixture(scope="session")
def setting() -> Iterator[Setting]:
    """A real cluster with the test images."""
    with running_cluster() as found:
        yield found


@pytest.fixture(scope="session")
def whole_run(setting: Setting, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeRun]:
    """The try-out release, installed, disturbed three times, run to its end; its last test uninstalls it."""
    folder: Path = tmp_path_factory.mktemp("whole-run")
    with setting.namespace("polaris-e2e") as namespace:
        yield play(setting, namespace, folder)

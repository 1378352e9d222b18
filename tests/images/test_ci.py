""".ci/run: a run in which the cluster's tests could have run and did not is no pass."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKE = """#!/bin/sh
# Stands for make: writes the counts that the tests would.
[ "$1" != "$FAIL" ] || exit 2
[ "$1" = test ] || printf '%s\\n' "$COUNTS" >"$POLARIS_TEST_COUNTS"
"""


@pytest.fixture
def ci(tmp_path):
    """Run .ci/run with a fake make as a given user, a cluster's folder being there or not."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_bytes((ROOT / ".ci" / "run").read_bytes())
    cluster = tmp_path / "shared" / "cluster" / "cluster"
    cluster.parent.mkdir(parents=True)
    cluster.write_text("#!/bin/sh\n")
    cluster.chmod(0o755)

    def run(counts: str, *, user: int = 0, shared: str = "shared", fail: str = "") -> tuple[int, str]:
        for name, text in {"make": MAKE, "id": f"#!/bin/sh\necho {user}\n"}.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        environment = {"PATH": f"{programs}:{os.environ['PATH']}", "COUNTS": counts, "FAIL": fail}
        environment["POLARIS_SHARED"] = str(tmp_path / shared)
        command = ["bash", str(tmp_path / ".ci" / "run")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout

    return run


def test_it_passes_where_the_cluster_tests_ran(ci):
    code, said = ci("cluster 7 0")
    assert code == 0 and "cluster tests: 7 passed, 0 skipped" in said
    assert "make test: exit 0" in said and "make test-cluster: exit 0" in said


@pytest.mark.parametrize("counts", ["cluster 0 7", "cluster 6 1", "unit 3 0", ""])
def test_a_skip_fails_where_root_has_a_cluster_to_start(ci, counts):
    assert ci(counts)[0] == 1
    assert ci(counts, user=1000)[0] == 0
    assert ci(counts, shared="elsewhere")[0] == 0


@pytest.mark.parametrize("step", ["test", "test-cluster"])
def test_a_failure_of_either_step_is_a_failure(ci, step):
    assert ci("cluster 7 0", fail=step)[0] == 2


def test_pytest_counts_what_passed_and_what_skipped(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "pytestmark = pytest.mark.cluster\n"
        "def test_a(): pass\n"
        "def test_b(): pytest.skip('in the test')\n"
        "@pytest.fixture\n"
        "def none(): pytest.skip('in a fixture')\n"
        "def test_c(none): pass\n"
    )
    counts = tmp_path / "counts"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests"), "POLARIS_TEST_COUNTS": str(counts)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "group_times", "-p", "no:cacheprovider", "."]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert counts.read_text() == "cluster 1 2\n"

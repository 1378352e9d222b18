"""What an earlier attempt's training processes leave to the next: nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from polaris.train.job import Job
from polaris.train.orphans import end_orphans

HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are found in /proc")

SUPERVISOR = """
import sys
from polaris.runtime import StopFlag
from polaris.train.job import Job
from polaris.train.supervise import Trainer
Trainer(Job.parse(sys.argv[1:]), 1, {}, worker="stub_worker").run(StopFlag(), lambda: None)
"""


def job_in(folder):
    folder.mkdir()
    (folder / "end").write_text(json.dumps("never"))
    return Job(folder, folder, folder, folder)


def started(*command):
    paths = os.pathsep.join([str(HERE), str(HERE.parent.parent)])
    return subprocess.Popen([sys.executable, *command], env=os.environ | {"PYTHONPATH": paths})


def hanging(folder):
    """Wait until the stub hangs; return its process id."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if (folder / "hangs").exists() and (text := (folder / "hangs").read_text()):
            return int(text)
        time.sleep(0.05)
    raise AssertionError("the stub did not start")


def test_only_what_works_on_this_folder_is_ended(tmp_path):
    jobs = [job_in(tmp_path / name) for name in ("out", "out2")]
    stubs = [started("-m", "stub_worker", *job.arguments()) for job in jobs]
    try:
        for job in jobs:
            hanging(job.output)
        end_orphans(jobs[0].output)
        assert stubs[0].wait(timeout=5) == -signal.SIGKILL
        assert stubs[1].poll() is None
        end_orphans(jobs[0].output)
    finally:
        for stub in stubs:
            stub.kill()
            stub.wait()


@pytest.mark.slow
def test_a_killed_stages_workers_are_gone_before_the_next_attempt(tmp_path):
    job = job_in(tmp_path / "out")
    supervisor = started("-c", SUPERVISOR.replace("sys.argv[1:]", repr(job.arguments())))
    try:
        worker = hanging(job.output)
    finally:
        supervisor.kill()
        supervisor.wait()
    assert Path(f"/proc/{worker}").exists()
    end_orphans(job.output)
    # Whoever adopted it may not have reaped it yet.
    assert not Path(f"/proc/{worker}/cmdline").exists() or not Path(f"/proc/{worker}/cmdline").read_bytes()

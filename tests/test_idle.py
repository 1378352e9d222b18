"""A model server of a pod that has nothing to do only waits for its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path


def test_an_idle_server_waits_for_its_signal_and_reads_no_configuration(tmp_path: Path) -> None:
    mark = tmp_path / "idle"
    mark.touch()
    environment = {**os.environ, "POLARIS_IDLE_FILE": str(mark), "POLARIS_LOG": "json"}
    command = [sys.executable, "-m", "polaris", "serve", "own", str(tmp_path / "no.yaml")]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert '"event": "nothing_to_do"' in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0

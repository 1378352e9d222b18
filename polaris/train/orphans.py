"""A training's output folder in, the processes that an earlier attempt left at work on it ended.

torchrun has a session of its own and gives its workers 30 seconds to end, so that after a `kill -9` of the
stage they would go on writing checkpoints under the next attempt's feet.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from polaris.errors import TransientError
from polaris.runtime import get_logger

PROCESSES = Path("/proc")
PATIENCE_S = 60.0
"""Longest wait for killed processes: one deep in a driver's call ends when the call does."""

log = get_logger("train")


def end_orphans(output: Path) -> None:
    """Kill every process whose command line works on this output folder, and wait until all are gone.

    The command line of torchrun, its workers and their forks names the folder. Recorded pids could be used
    by others since, and would miss a worker killed before it wrote its own. Without `/proc` nothing is done.

    Raises:
        TransientError: one does not end, or must not be killed by this user.

    """
    killed: set[int] = set()
    begun = time.monotonic()
    while True:
        found = _at_work(output)
        for pid in found - killed:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        killed |= found
        left = {pid for pid in killed if _lives(pid)}
        if not left:
            break
        if time.monotonic() - begun > PATIENCE_S:
            raise TransientError(
                f"an earlier attempt's training processes {', '.join(map(str, sorted(left)))} still work on"
                f" {output} and do not end: end them, then start again"
            )
        time.sleep(0.05)
    if killed:
        log.warning("ended_earlier_attempt", processes=len(killed))


def _at_work(output: Path) -> set[int]:
    argument = f"--output={output}".encode()
    found = set()
    for path in PROCESSES.glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if argument in path.read_bytes().split(b"\0"):
                found.add(int(path.parent.name))
    return found - {os.getpid()}


def _lives(pid: int) -> bool:
    """Tell whether a process runs; a zombie has given back its files and memory."""
    try:
        return (PROCESSES / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False

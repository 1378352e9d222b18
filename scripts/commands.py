"""Takes a command and a log file; runs it there and shows on the screen that it moves.

The standard library is all this file may use: scripts/environment.py runs before anything is installed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, BinaryIO

QUIET = 5.0  # seconds between two lines of progress where there is no terminal

Counter = Callable[[str, int], str]  # log file, where its command begins → what to show


class SetupError(Exception):
    """A condition the user can mend; its text says how."""


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold an advisory lock, which the system drops when the process ends, however that happens."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a")
    except PermissionError as error:
        text = f"{path.parent} cannot be written; set POLARIS_CACHE to a folder you may write"
        raise SetupError(text) from error
    with handle:
        waited = 0.0
        while not taken(handle):
            if waited % QUIET == 0:
                say(f"another setup is at work (lock {path}); waiting for it, {waited:.0f} s")
            time.sleep(0.5)
            waited += 0.5
        yield


def taken(handle: IO[str]) -> bool:
    """Try to take the lock on an open file; says whether it is ours."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def clean_environment() -> dict[str, str]:
    """Drop from this process's environment what would send an install elsewhere or keep it uncompiled."""
    unwanted = {
        "PYTHONPATH",
        "PYTHONHOME",
        "PYTHONDONTWRITEBYTECODE",
        "VIRTUAL_ENV",
        "PIP_USER",
        "PIP_TARGET",
        "PIP_PREFIX",
    }
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    return kept | {
        "PIP_NO_INPUT": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
    }


def follow(
    command: list[str],
    what: str,
    log: BinaryIO,
    environment: dict[str, str] | None = None,
    *,
    count: Counter | None = None,
    allow_failure: bool = False,
) -> None:
    """Run a command, its output going to `log`, and show that it moves; SetupError if it fails."""
    start, began = log.tell(), time.monotonic()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment or clean_environment(),
    )
    terminal, spoke = sys.stdout.isatty(), began
    try:
        while process.poll() is None:
            time.sleep(0.1)
            now = time.monotonic()
            if now - spoke >= (0.5 if terminal else QUIET):
                spoke = now
                say(f"{what}{count(log.name, start) if count else ''}, {now - began:.0f} s", passing=terminal)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if process.returncode and not allow_failure:
        raise SetupError(
            f"{what}: {last_error(log.name, start) or shlex.join(command)} (all of it: {log.name})"
        )
    say(f"{what}: done in {time.monotonic() - began:.1f} s")


def say(text: str, *, passing: bool = False) -> None:
    """Print a line of progress; a passing one is overwritten by the next, on a terminal."""
    line = f"  {text}"
    if sys.stdout.isatty():
        line = f"\r{line[: shutil.get_terminal_size().columns - 1]}\x1b[K"
    print(line, end="" if passing else "\n", flush=True)


def packages_done(site: Path, total: int) -> Counter:
    """Make a counter for `follow`: how far pip is in fetching and then installing `total` packages."""

    def count(log: str, start: int) -> str:
        with open(log, "rb") as lines:
            lines.seek(start)
            fetched = sum(line.startswith((b"Collecting ", b"Processing ")) for line in lines)
        installed = sum(1 for _ in site.glob("*.dist-info"))
        return f": {min(fetched, total)} of {total} fetched, {min(installed, total)} installed"

    return count


def last_error(log: str, start: int) -> str:
    """Find the last line of a command's output that names an error, else its last line."""
    with open(log, errors="replace") as lines:
        lines.seek(start)
        said = [line.strip() for line in lines if line.strip()]
    return next(
        (line for line in reversed(said) if re.match("(ERROR|E|error):", line)), said[-1] if said else ""
    )

"""The file that says there is nothing to do in, whether the servers of this pod are needed out.

A standalone Job starts its model servers before its stage. Where its first container finds all complete,
it makes the file that POLARIS_IDLE_FILE names, and the servers hold no GPU for nothing.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from polaris.errors import ConfigError

IDLE_ENV = "POLARIS_IDLE_FILE"


def is_idle() -> bool:
    """Tell whether it was found that there is nothing to do."""
    file = os.environ.get(IDLE_ENV)
    return bool(file) and Path(str(file)).exists()


def mark_idle() -> None:
    """Say that there is nothing to do, where anybody asks; raise ConfigError if the file cannot be made."""
    if file := os.environ.get(IDLE_ENV):
        try:
            Path(file).touch()
        except OSError as error:
            raise ConfigError(f"{IDLE_ENV}: '{file}' cannot be made: {error.strerror}") from None


def stay_idle(model: str) -> None:
    """Stand in for a server that nobody will ask, until SIGTERM or SIGINT."""
    from polaris.runtime import StopFlag, get_logger

    stop = StopFlag()
    stop.install()
    get_logger("serve").info("nothing_to_do", model=model, waiting_for="SIGTERM")
    while not stop.requested:
        time.sleep(0.3)

"""A job in, torchrun and its workers started, watched, signalled and waited for; how they ended out.

torchrun turns every exit code of a worker into 1, so what happened is read from the status file that the
worker wrote; if it could not, its last log lines are the error.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from polaris import cpu_engine
from polaris.errors import BUG, DONE, Stopped, TransientError
from polaris.runtime import LOG_ENV, StopFlag, die_with_parent, get_logger, redact
from polaris.train.job import PIDS, STATUS, Job, error_of, read_status
from polaris.train.nodes import Team

WORKER = "polaris.train.worker"
LOG = "worker.log"
"""Everything that the workers and their libraries wrote, in the job's folder."""
TAIL_LINES = 30
"""Last lines of a worker that died without a word, shown as its error."""

_CHILD_FAILED = "failed (exitcode: "

log = get_logger("train")


def worker_environment(processes: int, extra: Mapping[str, str]) -> dict[str, str]:
    """Return a worker's environment; what the user has set for threads stays."""
    return cpu_engine.thread_environment(processes) | os.environ | {LOG_ENV: "json"} | dict(extra)


class Trainer:
    """torchrun and its workers on this node; `identifier` names the training to those of the others."""

    def __init__(
        self,
        job: Job,
        processes: int,
        environment: Mapping[str, str],
        *,
        team: Team | None = None,
        identifier: str = "",
        worker: str = WORKER,
    ) -> None:
        self.job = job
        self.team = team or Team()
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            *self.team.torchrun(identifier),
            f"--nproc-per-node={processes}",
            "-m",
            worker,
            *job.arguments(),
        ]
        self._environment = worker_environment(processes, environment)

    def run(self, stop: StopFlag, on_tick: Callable[[], None]) -> None:
        """Train to the end; `on_tick` is called about every second.

        Raises:
            Stopped: a signal stopped it; what could be saved is in the job's folder.
            PolarisError: of the kind that the worker reported.

        """
        for path in (self.job.output / STATUS, *(self.job.output / PIDS).glob("*")):
            path.unlink(missing_ok=True)
        with subprocess.Popen(
            self._command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=self._environment,
            text=True,
            errors="replace",
            # Signals come from us alone: a terminal's Ctrl-C would have torchrun kill workers that save.
            start_new_session=True,
            preexec_fn=die_with_parent,
        ) as process:
            try:
                self._watch(process, stop, on_tick)
            except BaseException:
                process.terminate()
                raise
        self._raise_for(process.returncode, stop)

    def _watch(self, process: subprocess.Popen[str], stop: StopFlag, on_tick: Callable[[], None]) -> None:
        reader = threading.Thread(target=self._read, args=(process.stdout,), daemon=True)
        reader.start()
        told = False
        while reader.is_alive():
            reader.join(timeout=1.0)
            on_tick()
            if stop.requested and not told:
                told = self._tell(stop.signal or signal.SIGTERM)
                if not told and not any((self.job.output / PIDS).glob("*")):
                    # No worker has begun, for instance because another node is awaited.
                    process.terminate()

    def _read(self, lines: Any) -> None:
        """Keep all that the workers say in a file, and pass on what they log themselves."""
        over = False
        with (self.job.output / LOG).open("a", encoding="utf-8") as file:
            for line in lines:
                text = redact(line.rstrip())
                file.write(text + "\n")
                file.flush()
                if over or _passed_on(text):
                    continue
                self.tail.append(text)
                # From here on torchrun explains itself at length; its first line has the exit code.
                over = _CHILD_FAILED in text

    def _tell(self, number: int) -> bool:
        """Signal the workers themselves: torchrun would give them 30 seconds and then kill."""
        told = False
        for path in (self.job.output / PIDS).glob("*"):
            try:
                os.kill(int(path.read_text(encoding="utf-8")), number)
                told = True
            except (ProcessLookupError, ValueError):
                continue
        if told:
            log.info("stopping", reason="signal received; the workers save after this step")
        return told

    def _raise_for(self, code: int, stop: StopFlag) -> None:
        status = read_status(self.job.output)
        if status is not None:
            reported, message = int(status["code"]), str(status["message"])
            error = error_of(reported, message)
            if error is not None:
                raise error
            if reported > 128:
                if not self.team.alone and not stop.requested:
                    raise TransientError(f"{self.team.others} was told to stop; all have saved: run again")
                raise Stopped(reported - 128)
            if reported == DONE:
                # It is the last that they do: what a library meets as its process is taken down is no loss.
                if code:
                    log.warning("ended_badly", code=code, last_lines=self._said())
                return
            if reported == BUG:
                raise RuntimeError(f"training failed: {message}\n{self._said()}")
        if stop.requested:
            stop.check()
        what = f"the training processes ended with code {code} and no word; last lines"
        if not self.team.alone:
            # Killed, or never joined by the others: from here that is the same, and a retry may mend it.
            log.error("training_died", last_lines=self._said())
            last = self.tail[-1] if self.tail else "nothing"
            raise TransientError(f"node {self.team.node} of {self.team.nodes}: {what}: {last}")
        raise RuntimeError(f"{what}:\n{self._said()}")

    def _said(self) -> str:
        return "\n".join(self.tail)


def _passed_on(text: str) -> bool:
    """Log a line that is a worker's own log line; tell whether it was."""
    if not text.startswith("{"):
        return False
    try:
        event = json.loads(text)
        level = {"info": log.info, "warning": log.warning, "error": log.error}[event.pop("level")]
        event.pop("timestamp")
        level(event.pop("event"), **event)
        return True
    except (ValueError, KeyError):
        return False

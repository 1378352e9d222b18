"""Actions in, processes of this machine out: stages, model servers, their logs and how they ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from polaris.artifact import new_attempt
from polaris.errors import BUG, DONE, FINAL, MEANING, TRANSIENT, PolarisError
from polaris.execute.ended import Ended, telling_lines
from polaris.probe import probe
from polaris.run import ENDPOINTS_ENV, Run, started_endpoints
from polaris.runtime import LOG_ENV, die_with_parent, get_logger, redact
from polaris.stage import ATTEMPT_ENV, Status

log = get_logger("local")

STOP_S = 20.0
"""What a process gets between the polite signal and the last one, seconds."""


@dataclass
class _Endpoint:
    """A model's endpoint: whether it has generated a token, and what it answered last instead."""

    url: str
    ready: threading.Event = field(default_factory=threading.Event)
    answer: str = ""
    begun: float = field(default_factory=time.monotonic)
    ended: threading.Event = field(default_factory=threading.Event)

    def watch(self, model: str, lives: Callable[[], bool]) -> None:
        """Ask for a token in a thread of its own until one comes, or the server is gone."""
        threading.Thread(target=self._ask, args=(model, lives), daemon=True).start()

    def _ask(self, model: str, lives: Callable[[], bool]) -> None:
        while lives() and not self.ended.is_set():
            self.answer = probe(self.url, model)
            if not self.answer:
                self.ready.set()
                return
            self.ended.wait(0.5)

    def is_late(self, longest_s: float) -> bool:
        return not self.ready.is_set() and time.monotonic() - self.begun > longest_s


@dataclass
class _Child:
    """A child process in a session of its own; its output goes to a file."""

    process: subprocess.Popen[bytes]
    log_path: Path
    attempt: str = ""

    def tail(self) -> str:
        with self.log_path.open(encoding="utf-8", errors="replace") as file:
            return redact(telling_lines(file))

    def kill_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def end(self, name: str) -> None:
        """Wait for a process that was asked to stop, then kill it and what it left in its session."""
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            log.warning("killed", name=name, after_s=STOP_S)
        self.kill_group(signal.SIGKILL)
        self.process.wait()


class LocalExecutor:
    """Carries actions out with processes of this machine.

    A model that POLARIS_ENDPOINTS of this process names is served already: it gets no process, is asked
    for a token before anything uses it, and is never stopped.
    """

    poll_s = 0.3
    outlives_loop = False

    def __init__(self, run: Run) -> None:
        self.run = run
        self._given = started_endpoints()
        self._stages: dict[str, _Child] = {}
        self._servers: dict[str, _Child] = {}
        self._services: dict[str, _Endpoint] = {}

    # Stages

    def start_stage(self, name: str) -> None:
        """Start a stage with the endpoints of the services that answer."""
        attempt = new_attempt()
        endpoints = {model: found.url for model, found in self._services.items() if found.ready.is_set()}
        environment = {ENDPOINTS_ENV: json.dumps(endpoints), ATTEMPT_ENV: attempt}
        arguments = ["stage", name, str(self.run.path)]
        self._stages[name] = _start(arguments, environment, log_folder(self.run, name) / f"{attempt}.log")
        self._stages[name].attempt = attempt

    def running(self) -> dict[str, Path | None]:
        """Return the stages that run, and their logs."""
        return {name: child.log_path for name, child in self._stages.items()}

    def ended(self) -> list[Ended]:
        """Return the stages that ended since the last call."""
        found = []
        for name, child in list(self._stages.items()):
            code = child.process.poll()
            if code is None:
                continue
            del self._stages[name]
            # What a killed stage started in its session must not go on without it.
            child.kill_group(signal.SIGKILL)
            found.append(self._end(name, child, code if code >= 0 else 128 - code))
        return found

    def _end(self, name: str, child: _Child, code: int) -> Ended:
        prefix = self.run.prefix(name)
        key = f"{prefix}attempts/{child.attempt}/"
        try:
            self.run.store.upload(child.log_path, f"{key}log.txt")
            stored = self.run.store.head(key + Status.NAME) and self.run.store.get(key + Status.NAME)
        except PolarisError as error:
            log.warning("log_not_stored", instance=name, reason=str(error))
            stored = None
        status = json.loads(stored) if stored else {}
        if code == DONE:
            return Ended(name, code, "")
        if status.get("state") == "failed":
            return Ended(name, code, str(status["reason"]))
        killed = f"killed by signal {code - 128}" if code > 128 else f"exit code {code}"
        reason = MEANING.get(code, killed)
        reason = f"{reason}; its log ends: {child.tail()}"
        Status(self.run.store, prefix, child.attempt).write("failed", code, reason)
        return Ended(name, code, reason)

    def stop_stages(self, number: int) -> None:
        """Send a signal to every stage; each saves, and ends by itself."""
        for child in self._stages.values():
            child.process.send_signal(number)

    # Services

    def start_service(self, model: str) -> None:
        """Start a model's server; `services` says when it has generated its first token."""
        name = self.run.served_name(model)
        if model in self._given:
            found = self._services[model] = _Endpoint(self._given[model])
            found.watch(name, lambda: True)
            return
        port = _free_port()
        path = log_folder(self.run, f"service-{model}") / f"{new_attempt()}.log"
        arguments = ["serve", model, str(self.run.path), "--port", str(port)]
        child = self._servers[model] = _start(arguments, {}, path)
        found = self._services[model] = _Endpoint(f"http://127.0.0.1:{port}/v1")
        found.watch(name, lambda: child.process.poll() is None)

    def services(self) -> dict[str, bool]:
        """Return the services that are up or starting, and whether they answer."""
        return {name: found.ready.is_set() for name, found in self._services.items()}

    def service_url(self, model: str) -> str:
        """Return a running service's base URL."""
        return self._services[model].url

    def dead_services(self) -> list[Ended]:
        """Return the services that died or took too long since the last call; they are gone then."""
        found = []
        for name, endpoint in list(self._services.items()):
            child = self._servers.get(name)
            code = child.process.poll() if child else None
            if code is None and not endpoint.is_late(self.run.config.execute.service_timeout_s):
                continue
            what = "died" if code is not None else "gave no token within execute.service_timeout_s"
            what += f" (its last answer: {endpoint.answer})" if endpoint.answer and code is None else ""
            reason = f"the endpoint of models.{name} {what}"
            self._drop(name)
            if child:
                child.kill_group(signal.SIGKILL)
                child.process.wait()
                reason += f"; its log ends: {child.tail()}"
            found.append(Ended(name, code if code in (*FINAL, TRANSIENT) else BUG, reason))
        return found

    def stop_service(self, model: str) -> None:
        """Stop a service and wait until it is gone; one that was given is only counted no longer."""
        child = self._servers.get(model)
        self._drop(model)
        if child:
            child.kill_group(signal.SIGTERM)
            child.end(f"service-{model}")

    def _drop(self, model: str) -> None:
        self._services.pop(model).ended.set()
        self._servers.pop(model, None)

    def close(self) -> None:
        """End everything that still runs; a stage gets a moment to save."""
        self.stop_stages(signal.SIGTERM)
        for child in self._servers.values():
            child.kill_group(signal.SIGTERM)
        for name, child in self._stages.items():
            child.end(name)
        self._stages.clear()
        for model in list(self._services):
            self.stop_service(model)


def log_folder(run: Run, name: str) -> Path:
    """Return the folder of a stage's or service's logs on this machine, one file an attempt."""
    return run.work_folder / "logs" / name


def _start(arguments: list[str], environment: dict[str, str], path: Path) -> _Child:
    path.parent.mkdir(parents=True, exist_ok=True)
    output: IO[bytes]
    with path.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "polaris", *arguments],
            env={**os.environ, LOG_ENV: "json", "PYTHONUNBUFFERED": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    return _Child(process, path)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])

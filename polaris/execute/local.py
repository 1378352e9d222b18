"""Actions in, processes of this machine out: stages, model servers, their logs and how they ended."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from polaris.artifact import new_attempt
from polaris.errors import BUG, DONE, FINAL, MEANING, TRANSIENT, PolarisError
from polaris.run import ENDPOINTS_ENV, Run
from polaris.runtime import LOG_ENV, die_with_parent, get_logger, redact
from polaris.stage import ATTEMPT_ENV, Status

log = get_logger("local")

TAIL_LINES = 3
LINE_LENGTH = 300
_ERROR = re.compile(r"\b[A-Za-z]*(Error|Exception|Killed)\b: |\berror: ")
STOP_S = 20.0
"""What a process gets between the polite signal and the last one, seconds."""


@dataclass(frozen=True)
class Ended:
    """How a stage ended: exit code (128 + N for signal N), one-line reason, and its log's last lines."""

    name: str
    code: int
    reason: str


@dataclass
class _Child:
    """A child process in a session of its own; its output goes to a file."""

    process: subprocess.Popen[bytes]
    log_path: Path
    attempt: str = ""
    url: str = ""
    ready: threading.Event = field(default_factory=threading.Event)
    answer: str = ""
    begun: float = field(default_factory=time.monotonic)

    def tail(self) -> str:
        return redact(telling_lines(self.log_path))

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
    """Carries actions out with processes of this machine."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._stages: dict[str, _Child] = {}
        self._services: dict[str, _Child] = {}

    # Stages

    def start_stage(self, name: str) -> None:
        """Start a stage with the endpoints of the services that answer."""
        attempt = new_attempt()
        endpoints = {model: child.url for model, child in self._services.items() if child.ready.is_set()}
        environment = {ENDPOINTS_ENV: json.dumps(endpoints), ATTEMPT_ENV: attempt}
        arguments = ["stage", name, str(self.run.path)]
        self._stages[name] = _start(arguments, environment, log_folder(self.run, name) / f"{attempt}.log")
        self._stages[name].attempt = attempt

    def running(self) -> dict[str, Path]:
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
        port = _free_port()
        path = log_folder(self.run, f"service-{model}") / f"{new_attempt()}.log"
        arguments = ["serve", model, str(self.run.path), "--port", str(port)]
        child = _start(arguments, {}, path)
        child.url = f"http://127.0.0.1:{port}/v1"
        self._services[model] = child
        threading.Thread(target=_await_token, args=(child, self.run.served_name(model)), daemon=True).start()

    def services(self) -> dict[str, bool]:
        """Return the services that are up or starting, and whether they answer."""
        return {name: child.ready.is_set() for name, child in self._services.items()}

    def service_url(self, model: str) -> str:
        """Return a running service's base URL."""
        return self._services[model].url

    def dead_services(self) -> list[Ended]:
        """Return the services that died or took too long since the last call; they are gone then."""
        found = []
        for name, child in list(self._services.items()):
            code = child.process.poll()
            late = time.monotonic() - child.begun > self.run.config.execute.service_timeout_s
            if code is None and (child.ready.is_set() or not late):
                continue
            del self._services[name]
            what = "died" if code is not None else "gave no token within execute.service_timeout_s"
            what += f" (its last answer: {child.answer})" if child.answer and code is None else ""
            child.kill_group(signal.SIGKILL)
            child.process.wait()
            reason = f"the endpoint of models.{name} {what}; its log ends: {child.tail()}"
            found.append(Ended(name, code if code in (*FINAL, TRANSIENT) else BUG, reason))
        return found

    def stop_service(self, model: str) -> None:
        """Stop a service and wait until it is gone."""
        child = self._services.pop(model)
        child.kill_group(signal.SIGTERM)
        child.end(f"service-{model}")

    def close(self) -> None:
        """End everything that still runs; a stage gets a moment to save."""
        self.stop_stages(signal.SIGTERM)
        for child in self._services.values():
            child.kill_group(signal.SIGTERM)
        for name, child in self._stages.items():
            child.end(name)
        self._stages.clear()
        for model in list(self._services):
            self.stop_service(model)


def telling_lines(path: Path) -> str:
    """Return a log's last lines that name an error, or else its very last lines, on one line.

    A server's farewell is long and says nothing; what killed it stands above.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        lines = [_plain(line.strip()) for line in file if line.strip()]
    errors = [line for line in lines if _ERROR.search(line)]
    return " | ".join((errors or lines)[-TAIL_LINES:])


def _plain(line: str) -> str:
    """Return what a log line of ours says, without its JSON; any other line as it is."""
    try:
        event = json.loads(line) if line.startswith("{") else {}
    except ValueError:
        event = {}
    if not event.get("event"):
        return line[:LINE_LENGTH]
    told = event.get("traceback") or event.get("reason") or ""
    return (
        f"{event['event']}: {str(told).strip().splitlines()[-1]}"[:LINE_LENGTH]
        if told
        else str(event["event"])
    )


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


def _await_token(child: _Child, model: str) -> None:
    """Set the child's ready event once its model is listed and has generated one token.

    A server can list its model before its sampler ever ran, and die on the first request.
    """
    asked = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "Hello"}]}
    request = urllib.request.Request(
        f"{child.url}/chat/completions",
        json.dumps(asked).encode(),
        {"Content-Type": "application/json", "Authorization": "Bearer none"},
    )
    # A proxy of the environment leads to the world, not to the server beside us.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while child.process.poll() is None:
        try:
            with opener.open(f"{child.url}/models", timeout=5):
                pass
            with opener.open(request, timeout=300):
                child.ready.set()
                return
        except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
            child.answer = str(error)
            time.sleep(0.5)

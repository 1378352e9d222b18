"""FAKE stages and a FAKE model server for real child processes of the local executor.

`install` writes a folder for PYTHONPATH that puts this file in the place of the data stage's program and
of the server in every Python started with it; the variable CHILD says what they do.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from polaris.run import Run
    from polaris.stage import StageContext

_CUSTOMIZE = """
import sys
import children
sys.modules["polaris.data.stage"] = sys.modules["polaris.serve"] = children
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_CUSTOMIZE)
    (folder / "children.py").write_text(
        Path(__file__).read_text().replace("import pytest\n", "pytest = None\n")
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ["PYTHONPATH"]]))


def run(context: StageContext) -> None:
    from polaris.errors import InputError

    what = os.environ["CHILD"]
    (context.work / "pid").write_text(str(os.getpid()))
    if what == "write":
        context.output.put("environment.json", os.environ["POLARIS_ENDPOINTS"].encode())
    elif what == "fail":
        raise InputError("the book is torn")
    elif what == "die":
        print("first words")
        print("last words")
        _leave_a_grandchild(context.work)
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "vanish":
        os._exit(0)
    elif what == "wait":
        _leave_a_grandchild(context.work)
        while not context.stop.requested:
            time.sleep(0.05)
        context.stop.check()


def _leave_a_grandchild(work: Path) -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(300)"])
    (work / "grandchild").write_text(str(child.pid))


def serve(run: Run, name: str, host: str, port: int) -> None:
    what = os.environ["SERVER"]
    (run.config.execute.work_dir / f"server-{name}").write_text(str(os.getpid()))
    if what == "exit 3":
        print("ValueError: the checkpoint is torn")
        sys.exit(3)
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    HTTPServer((host, port), _Handler).serve_forever()


class _Handler(BaseHTTPRequestHandler):
    asked: list[str] = []

    def do_GET(self) -> None:
        self._answer(200, {"data": []})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append(self.path)
        # The first request fails, as that of a server does which is up before its model is.
        broken = os.environ["SERVER"] == "no token" or len(self.asked) == 1
        self._answer(503 if broken else 200, {})

    def _answer(self, status: int, body: object) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

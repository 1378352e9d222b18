"""A FAKE OpenAI-compatible endpoint for tests of faults: it knows no model, answers what it is told to.

It listens on a free local port in a thread. Every request is answered by the test's `reply` function;
what real endpoints say is tested against real ones elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """One answer: what to send, or what to do wrong."""

    text: str = ""
    status: int = 200
    finish_reason: str = "stop"
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] | None = None
    message: dict[str, Any] = field(default_factory=dict)
    """Further fields of the message."""
    tier: str | None = None
    """The answer's `service_tier`."""
    usage: dict[str, Any] | None = field(
        default_factory=lambda: {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    )
    delay_s: float = 0.0
    fault: str = ""
    """`drop` closes without an answer, `truncate` sends half of it, `garbage` half of its JSON only."""


@dataclass
class FakeEndpoint:
    """The running server: its URL, and the requests' bodies and headers as they came."""

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    """The requests' bodies before they were parsed."""
    most_at_once: int = 0


@contextlib.contextmanager
def fake_endpoint(reply: Callable[[dict[str, Any], int], Reply]) -> Iterator[FakeEndpoint]:
    """Serve `reply(request, number)`, requests numbered from 0 as they arrive."""
    lock = threading.Lock()
    open_now = [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["content-length"]))
            request = json.loads(raw)
            with lock:
                number = len(found.requests)
                found.requests.append(request)
                found.bodies.append(raw)
                found.headers.append({key.lower(): value for key, value in self.headers.items()})
                open_now[0] += 1
                found.most_at_once = max(found.most_at_once, open_now[0])
            try:
                _send(self, request, reply(request, number))
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                with lock:
                    open_now[0] -= 1

        def do_GET(self) -> None:
            """List the one model."""
            data = json.dumps({"data": [{"id": "fake-writer"}]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    found = FakeEndpoint(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _send(handler: BaseHTTPRequestHandler, request: dict[str, Any], reply: Reply) -> None:
    time.sleep(reply.delay_s)
    if reply.fault == "drop":
        handler.close_connection = True
        return
    if request.get("stream") and reply.status == 200:
        _send_stream(handler, reply)
        return
    data = json.dumps(reply.body if reply.body is not None else _completion(reply)).encode()
    length = len(data)
    if reply.fault == "truncate":
        data = data[: length // 2]
    if reply.fault == "garbage":
        data = data[: length // 2]
        length = len(data)
    handler.send_response(reply.status)
    for name, value in ({"content-type": "application/json"} | reply.headers).items():
        handler.send_header(name, value)
    handler.send_header("content-length", str(length))
    handler.end_headers()
    handler.wfile.write(data)
    if reply.fault == "truncate":
        handler.close_connection = True


def _send_stream(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
    handler.send_response(200)
    handler.send_header("content-type", "text/event-stream")
    handler.send_header("connection", "close")
    handler.end_headers()
    handler.close_connection = True
    words = reply.text.split(" ")
    pieces = [word + " " for word in words[:-1]] + words[-1:]
    for number, piece in enumerate(pieces):
        if reply.fault == "truncate" and number == len(pieces) // 2:
            return
        _event(handler, {"index": 0, "delta": {"content": piece}, "finish_reason": None})
    _event(handler, {"index": 0, "delta": {}, "finish_reason": reply.finish_reason}, reply.usage)
    handler.wfile.write(b"data: [DONE]\n\n")


def _event(handler: BaseHTTPRequestHandler, choice: dict[str, Any], usage: Any = None) -> None:
    chunk = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "fake", "choices": [choice]}
    handler.wfile.write(b"data: " + json.dumps(chunk | {"usage": usage}).encode() + b"\n\n")
    handler.wfile.flush()


def _completion(reply: Reply) -> dict[str, Any]:
    message = {"role": "assistant", "content": reply.text} | reply.message
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "fake",
        "choices": [{"index": 0, "message": message, "finish_reason": reply.finish_reason}],
        "usage": reply.usage,
    } | ({"service_tier": reply.tier} if reply.tier else {})


def error(status: int, message: str = "fault injected", code: str | None = None, **headers: str) -> Reply:
    """Return an error as OpenAI words it; `retry_after` becomes a header."""
    body = {"error": {"message": message, "type": "fake", "param": None, "code": code}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status=status, body=body, headers=named)

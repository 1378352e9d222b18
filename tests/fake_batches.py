"""A FAKE provider that speaks the OpenAI batch files API: it knows no model, answers what it is told to.

It checks what is sent as the real one does, counts what it was given, and does wrong what a test asks for.
In a test it runs in a thread (`fake_batches`); as a program (`python fake_batches.py '{"looks": 3}'`) it
prints its URL and serves until it is stopped; `GET /state` then tells what it counted.
"""

from __future__ import annotations

import contextlib
import email
import json
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]

USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}


def completion(text: str, finish_reason: str = "stop", **message: Any) -> Body:
    """Return a chat completion as a provider words it."""
    said = {"role": "assistant", "content": text} | message
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "fake",
        "choices": [{"index": 0, "message": said, "finish_reason": finish_reason}],
        "usage": USAGE,
    }


@dataclass
class FakeBatches:
    """The running provider: what it is to do, and what it was given."""

    url: str = ""
    answer: Callable[[Body], Body] = lambda body: completion(f"Of {body['messages'][-1]['content']}")
    """A request's body → the completion that answers it, by batch and live."""
    looks: int = 0
    """So many times a batch is still in progress when it is looked at; below 0: until `released`."""
    released: bool = False
    expire: list[int] = field(default_factory=list)
    """Of the next batches so many requests, the last ones, are not answered within the window."""
    ends: str = "expired"
    """How such a batch ends: `expired`, or `cancelled`."""
    told: bool = True
    """The error file names the requests that were not answered."""
    fail: list[str] = field(default_factory=list)
    """The next batches fail with these codes; an empty one lets a batch through."""
    most_queued: int = 10**9
    """More requests than that in open batches fail one with `token_limit_exceeded`."""
    broken: Callable[[Body], bool] = lambda _: False
    """Which requests are answered in the error file."""
    error: tuple[int, Body] = (500, {"code": "server_error"})
    """What they are answered there: status and error."""
    drop_creations: int = 0
    """So often the connection is closed after the batch was made."""
    statuses: list[int] = field(default_factory=list)
    """Answers to the next requests about batches, instead of what was asked."""
    before_answer: Callable[[str, str], None] = lambda method, path: None
    """Called with method and path when a request was carried out and is not yet answered."""
    lost_files: bool = False
    """No file has any content left."""

    files: dict[str, bytes] = field(default_factory=dict)
    batches: list[Body] = field(default_factory=list)
    submitted: Counter[str] = field(default_factory=Counter)
    """How often each custom_id was in a batch that was not refused."""
    bodies: dict[str, Body] = field(default_factory=dict)
    live: list[Body] = field(default_factory=list)
    """Bodies of ordinary calls."""
    seen: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of every request."""

    def state(self) -> Body:
        """Return what was counted, for those who are in another process."""
        return {
            "batches": len(self.batches),
            "submitted": dict(self.submitted),
            "live": len(self.live),
            "statuses": [batch["status"] for batch in self.batches],
        }

    def create(self, asked: Body) -> Body:
        """Make a batch of a file; one that breaks the rules is made too, and fails."""
        number = len(self.batches)
        metadata = asked.get("metadata") or {}
        assert asked["completion_window"] == "24h"
        assert len(metadata) <= 16
        assert all(len(key) <= 64 and len(value) <= 512 for key, value in metadata.items())
        lines = [json.loads(line) for line in self.files[asked["input_file_id"]].splitlines()]
        code = self.fail.pop(0) if self.fail else ""
        code = code or _fault(lines, asked["endpoint"])
        queued = sum(b["request_counts"]["total"] for b in self.batches if b["status"] == "in_progress")
        if not code and queued + len(lines) > self.most_queued:
            code = "token_limit_exceeded"
        fault = {"code": code, "line": 1, "message": "FAKE: words of the request", "param": None}
        batch = {
            "id": f"batch_{number}",
            "object": "batch",
            "status": "failed" if code else "in_progress",
            "errors": {"object": "list", "data": [fault]} if code else None,
            "created_at": int(time.time()),
            "output_file_id": None,
            "error_file_id": None,
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
            **asked,
        }
        self.batches.append(batch | {"looks": self.looks})
        if not code:
            self.submitted.update(line["custom_id"] for line in lines)
            self.bodies |= {line["custom_id"]: line["body"] for line in lines}
        return batch

    def look(self, batch: Body) -> Body:
        """Return the batch as it is now; it goes on only when somebody looks."""
        if batch["status"] == "in_progress":
            if batch["looks"] == 0 or self.released:
                self._finish(batch)
            batch["looks"] -= 1
        return {name: value for name, value in batch.items() if name != "looks"}

    def _finish(self, batch: Body) -> None:
        lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        late = self.expire.pop(0) if self.expire else 0
        done, missed = lines[: len(lines) - late], lines[len(lines) - late :]
        good, bad = [], []
        for line in reversed(done):  # The order of the answers is nobody's promise.
            key = line["custom_id"]
            if self.broken(line["body"]):
                status, fault = self.error
                answered = {"status_code": status, "body": {"error": fault}}
                bad.append({"custom_id": key, "response": answered, "error": None})
            else:
                answered = {"status_code": 200, "request_id": "r", "body": self.answer(line["body"])}
                good.append({"custom_id": key, "response": answered, "error": None})
        if self.told:
            missing = {"code": "batch_expired" if self.ends == "expired" else "batch_cancelled"}
            bad += [{"custom_id": m["custom_id"], "response": None, "error": missing} for m in missed]
        for name, rows in (("output", good), ("error", bad)):
            if rows:
                self.files[f"{name}_{batch['id']}"] = "".join(f"{json.dumps(r)}\n" for r in rows).encode()
                batch[f"{name}_file_id"] = f"{name}_{batch['id']}"
        batch["request_counts"] |= {"completed": len(good), "failed": len(bad)}
        batch["status"] = self.ends if late else "completed"


def _fault(lines: list[Body], endpoint: str) -> str:
    """Return the code with which a provider refuses such a file; empty if it takes it."""
    if not lines or len(lines) > 50_000:
        return "invalid_request_count"
    if len({line["custom_id"] for line in lines}) < len(lines):
        return "duplicate_custom_id"
    if any(line["method"] != "POST" or line["url"] != endpoint for line in lines):
        return "invalid_url"
    if len({line["body"]["model"] for line in lines}) > 1:
        return "mismatched_model"
    # What only the SDK knows is no parameter of the protocol.
    if any({"extra_body", "stream", "service_tier"} & set(line["body"]) for line in lines):
        return "invalid_request"
    return ""


@contextlib.contextmanager
def fake_batches(**told: Any) -> Iterator[FakeBatches]:
    """Serve the API on a free local port in a thread."""
    fake = FakeBatches(**told)
    server = _server(fake)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _server(fake: FakeBatches) -> ThreadingHTTPServer:
    lock = threading.RLock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["content-length"]))
            self._answer(data)

        def do_GET(self) -> None:
            self._answer(b"")

        def _answer(self, data: bytes) -> None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError), lock:
                path = self.path.partition("?")[0]
                fake.seen.append((self.command, path))
                status, found = self._routed(path, data)
                fake.before_answer(self.command, path)
                if status == 0:
                    self.close_connection = True
                    return
                sent = found if isinstance(found, bytes) else json.dumps(found).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

        def _routed(self, path: str, data: bytes) -> tuple[int, Any]:
            asked = (self.command, path)
            if "/batches" in path and fake.statuses:
                return fake.statuses.pop(0), {"error": {"message": "FAKE", "code": None}}
            if asked == ("GET", "/state"):
                return 200, fake.state()
            if asked == ("POST", "/v1/files"):
                return 200, self._file(data)
            if asked == ("POST", "/v1/batches"):
                made = fake.create(json.loads(data))
                fake.drop_creations -= 1
                return (0, b"") if fake.drop_creations >= 0 else (200, made)
            if asked == ("GET", "/v1/batches"):
                return 200, self._list()
            if asked == ("POST", "/v1/chat/completions"):
                body = json.loads(data)
                fake.live.append(body)
                return 200, fake.answer(body)
            if match := re.fullmatch(r"/v1/batches/batch_(\d+)", path):
                return 200, fake.look(fake.batches[int(match[1])])
            match = re.fullmatch(r"/v1/files/(\w+)/content", path)
            if match and match[1] in fake.files and not fake.lost_files:
                return 200, fake.files[match[1]]
            return 404, {"error": {"message": "FAKE: no such thing", "code": "not_found"}}

        def _file(self, data: bytes) -> Body:
            head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
            parts = {
                part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
                for part in email.message_from_bytes(head + data).walk()
                if not part.is_multipart()
            }
            assert parts["purpose"] == b"batch", parts
            name = f"file_{len(fake.files)}"
            fake.files[name] = parts["file"]
            return {"id": name, "object": "file", "purpose": "batch", "bytes": len(parts["file"])}

        def _list(self) -> Body:
            """List the newest first, two at a time, so that a page is not all."""
            found = [{k: v for k, v in batch.items() if k != "looks"} for batch in reversed(fake.batches)]
            after = re.search(r"after=(\w+)", self.path)
            if after:
                found = found[[batch["id"] for batch in found].index(after[1]) + 1 :]
            page = found[:2]
            return {"object": "list", "data": page, "has_more": len(found) > 2}

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    return server


if __name__ == "__main__":
    running = FakeBatches(**json.loads(sys.argv[1] if len(sys.argv) > 1 else "{}"))
    serving = _server(running)
    print(running.url, flush=True)
    serving.serve_forever()

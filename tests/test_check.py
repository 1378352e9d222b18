"""`polaris check`: what works is told, and what does not with its fix."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from context import settings

from polaris.check import check, pod_namespace
from polaris.checks.endpoints import check_endpoints
from polaris.checks.finding import Finding, Subject
from polaris.checks.permissions import ORCHESTRATOR_MAY, check_permissions
from polaris.checks.store import check_store
from polaris.errors import TransientError
from polaris.load import load
from polaris.run import Run
from polaris.storage import FileStore

KEY = "sk-of-this-test-0123456789"


@contextmanager
def endpoint(*answers: tuple[int, str], seen: list[tuple[str, str]] | None = None) -> Iterator[str]:
    """Serve a FAKE endpoint that gives one answer a request, the last one again and again."""
    waiting = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            if seen is not None:
                seen.append((f"{self.command} {self.path}", self.headers["authorization"]))
            code, text = waiting.pop(0) if len(waiting) > 1 else waiting[0]
            self.send_response(code)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = answer

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def written(folder: Path, found: dict[str, Any]) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(found), encoding="utf-8")
    return path


def one_judge(folder: Path, url: str) -> Path:
    found = settings(folder, url)
    # One endpoint is enough: the writer is left out.
    found["evaluations"]["quality"]["models"] = ["reader"]
    return written(folder, found)


def subject(path: Path) -> Subject:
    return Subject(path, load(path))


def asked(folder: Path, *answers: tuple[int, str], seen: list[tuple[str, str]] | None = None) -> Finding:
    with endpoint(*answers, seen=seen) as url:
        (found,) = check_endpoints(subject(one_judge(folder, url)))
    assert KEY not in str(found)
    assert "\n" not in str(found)
    return found


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_API_KEY", KEY)


def test_a_judge_that_lists_its_model(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []
    found = asked(tmp_path, (200, '{"data": [{"id": "q"}, {"id": "r"}]}'), seen=seen)
    assert (found.state, found.what) == ("ok", "models.reader")
    assert "FAKE_API_KEY" in found.detail
    assert seen == [("GET /v1/models", f"Bearer {KEY}")]


@pytest.mark.parametrize(
    "listing", [(404, ""), (200, '{"data": [{"id": "other"}]}'), (200, "no JSON"), (403, "")]
)
def test_one_that_does_not_is_asked_for_a_token(tmp_path: Path, listing: tuple[int, str]) -> None:
    seen: list[tuple[str, str]] = []
    found = asked(tmp_path, listing, (200, "{}"), seen=seen)
    assert found.state == "ok"
    assert seen[1][0] == "POST /v1/chat/completions"


@pytest.mark.parametrize(
    ("status", "state", "told"),
    [
        (401, "failed", "put a valid key into FAKE_API_KEY"),
        (404, "failed", "up to and with /v1"),
        (400, "failed", "check that it serves 'r'"),
        (429, "warning", "busy"),
        (503, "warning", "busy"),
    ],
)
def test_what_an_endpoint_refuses(tmp_path: Path, status: int, state: str, told: str) -> None:
    found = asked(tmp_path, (status, ""))
    assert found.state == state
    assert told in found.fix


def test_a_judge_that_is_not_there_and_a_key_that_is_not_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = one_judge(tmp_path, "http://127.0.0.1:9/v1")
    (found,) = check_endpoints(subject(path))
    assert (found.state, found.what) == ("failed", "models.reader")
    assert "does not answer" in found.detail
    monkeypatch.delenv("FAKE_API_KEY")
    (found,) = check_endpoints(subject(path))
    assert "neither FAKE_API_KEY nor FAKE_API_KEY_FILE is set" in found.detail


def test_a_store_that_keeps_its_word_is_left_as_it_was(run: Run) -> None:
    (found,) = check_store(subject(run.path))
    assert found.state == "ok"
    assert list(run.store.list("")) == []


@pytest.mark.slow
def test_a_real_s3_store(
    tmp_path: Path, s3_server: Any, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = settings(tmp_path)
    found["store"] = {
        "url": s3_url,
        "endpoint": s3_server.endpoint,
        "region": "us-east-1",
        "path_style": True,
    }
    (one,) = check_store(subject(written(tmp_path, found)))
    assert one.state == "ok"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-key")
    found["data"]["books"] = ["store:data/book.epub"]
    (tmp_path / "prompts.jsonl").unlink()
    told = [one for one in check(written(tmp_path, found)) if one.state == "failed"]
    assert [one.what for one in told] == ["store", "models.reader", "models.writer", "plan", "plan"]
    assert "refuses 'checks/" in told[0].detail
    assert told[0].fix.startswith("check AWS_ACCESS_KEY_ID")
    assert "prompts.jsonl' does not exist" in told[3].detail
    assert "refuses 'imports/data/book.epub" in told[4].detail


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("if_absent", "a put with If-None-Match was carried out"),
        ("if_match", "a put with If-Match was carried out"),
        ("stale", "reads back otherwise"),
        ("unlisted", "is not listed"),
        ("kept", "is still there after its deletion"),
    ],
)
def test_a_store_that_does_not_keep_its_word(
    run: Run, monkeypatch: pytest.MonkeyPatch, fault: str, told: str
) -> None:
    put, get, list_, delete = FileStore.put, FileStore.get, FileStore.list, FileStore.delete

    def loose_put(self: FileStore, key: str, data: bytes, **condition: Any) -> str:
        condition.pop(fault, None)
        return put(self, key, data, **condition)

    monkeypatch.setattr(FileStore, "put", loose_put)
    if fault == "stale":
        monkeypatch.setattr(FileStore, "get", lambda self, key: get(self, key) + b"x")
    if fault == "unlisted":
        monkeypatch.setattr(FileStore, "list", lambda self, prefix: iter([]))
    if fault == "kept":
        monkeypatch.setattr(FileStore, "delete", lambda self, keys: None)
    failed = [found for found in check_store(subject(run.path)) if found.state == "failed"]
    assert [told in found.detail and bool(found.fix) for found in failed] == [True]
    monkeypatch.undo()
    assert fault == "kept" or list(list_(run.store, "")) == [], "cleaned all the same"  # type: ignore[arg-type]
    assert delete is FileStore.delete


def test_permissions_are_told_one_by_one() -> None:
    none: Any = None
    assert list(check_permissions(Subject(none, none))) == []

    def can_i(verb: str, group: str, resource: str, name: str) -> bool:
        return (verb, resource) not in {
            ("delete", "jobs"),
            ("get", "secrets"),
            ("list", "secrets"),
            ("watch", "secrets"),
        }

    found = list(check_permissions(Subject(none, none, can_i)))
    assert len(found) == len(ORCHESTRATOR_MAY) + 1
    failed = [one for one in found if one.state == "failed"]
    assert [one.detail for one in failed] == ["may not delete jobs"]
    assert "polaris-orchestrator" in failed[0].fix
    open_secrets = list(check_permissions(Subject(none, none, lambda *_: True)))
    assert [one.detail for one in open_secrets if one.state == "failed"] == [
        "may get, list, watch secrets, and must not"
    ]


def test_a_configuration_that_cannot_be_read_leaves_only_the_permissions(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("run: x\nseed: true\n", encoding="utf-8")
    found = list(check(path))
    assert len(found) > 1
    assert {one.state for one in found} == {"failed"}
    assert {one.what for one in found} == {"configuration"}
    with_cluster = list(check(path, lambda *_: True))
    assert with_cluster[: len(found)] == found
    assert {one.what for one in with_cluster[len(found) :]} == {"permissions"}


def test_every_check_runs_whatever_failed_before(tmp_path: Path) -> None:
    with endpoint((200, '{"data": [{"id": "r"}]}')) as url:
        path = one_judge(tmp_path, url)
        (tmp_path / "store").write_text("a file where the store's folder should be")
        found = list(check(path))
    assert [(one.state, one.what) for one in found] == [
        ("ok", "configuration"),
        ("ok", "versions"),
        ("failed", "store"),
        ("ok", "models.reader"),
        ("warning", "judges"),
        ("ok", "plan"),
    ]


def test_one_call_lists_all_that_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(tmp_path)
    found["data"] = {"books": ["gone.epub", "store:data/book.epub"], "prompts": "store:data/prompts.jsonl"}
    (tmp_path / "prompts.jsonl").unlink()
    path = written(tmp_path, found)
    monkeypatch.delenv("FAKE_API_KEY")

    def can_i(verb: str, group: str, resource: str, name: str) -> bool:
        if resource == "pods":
            raise TransientError("--cluster: the API server does not say what this pod may do: away")
        return True

    told = [one for one in check(path, can_i) if one.state == "failed"]
    assert [one.what for one in told] == ["permissions", "models.reader", "models.writer", *["plan"] * 4]
    assert [one.detail.partition(":")[0] for one in told[3:]] == [
        "data.books",
        "evaluations.quality.prompts",
        "data.books",
        "data.prompts",
    ]
    assert told[5].fix == f"run `polaris data import book.epub {path}`"
    assert all(one.fix for one in told[1:])


def test_the_pods_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLARIS_NAMESPACE", "stories")
    assert pod_namespace() == "stories"

"""The real client against a FAKE API server on 127.0.0.1 that answers as a script says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from polaris.errors import ConfigError, Stopped, TransientError
from polaris.execute import kube as module
from polaris.execute.kube import AlreadyExists, Kube
from polaris.runtime import StopFlag

pytest.importorskip("kubernetes")

Answer = tuple[int, Any]
DROP: Answer = (0, None)


class FakeServer(ThreadingHTTPServer):
    """A FAKE API server: each request takes the next answer of its script."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Answer] = []
        self.asked: list[tuple[str, Any]] = []


class Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.server.asked.append((f"{self.command} {self.path}", body))
        status, content = self.server.answers.pop(0)
        if not status:
            self.close_connection = True
            return
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = _answer

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.05,))
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture
def stop() -> StopFlag:
    return StopFlag()


@pytest.fixture
def kube(server: FakeServer, stop: StopFlag, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kube]:
    from kubernetes import client

    settings = client.Configuration()
    settings.host = f"http://127.0.0.1:{server.server_port}"
    settings.retries = False
    monkeypatch.setattr(Kube, "_pause", lambda self, seconds: self._stop.check())
    with client.ApiClient(settings) as api:
        yield Kube("here", stop, api)
        api.rest_client.pool_manager.clear()


def refusal(status: int, reason: str, message: str) -> Answer:
    return status, {"kind": "Status", "reason": reason, "message": message}


JOB = {"metadata": {"name": "a", "uid": "u"}}


def test_a_list_is_the_apis_own_json(server: FakeServer, kube: Kube) -> None:
    server.answers = [(200, {"items": [JOB]}), (200, {"items": None})]
    assert kube.jobs("polaris/run=a") == [JOB]
    assert kube.events("u") == []
    asked = [path for path, _ in server.asked]
    assert asked[0].startswith("GET /apis/batch/v1/namespaces/here/jobs?labelSelector=polaris")
    assert "fieldSelector=involvedObject.uid" in asked[1]


@pytest.mark.parametrize(
    "passing", [DROP, (500, {}), (503, {}), (429, {}), (504, b"no json"), (401, {"reason": "Unauthorized"})]
)
def test_what_passes_is_asked_again(server: FakeServer, kube: Kube, passing: Answer) -> None:
    server.answers = [passing, passing, (200, {"items": [JOB]})]
    assert kube.jobs("a=b") == [JOB]


def test_a_quota_that_two_count_on_at_once_is_asked_again(server: FakeServer, kube: Kube) -> None:
    conflict = 'Operation cannot be fulfilled on resourcequotas "q": the object has been modified'
    server.answers = [refusal(409, "Conflict", conflict), (201, JOB)]
    assert kube.create_job(JOB) == JOB
    assert [path.partition("?")[0] for path, _ in server.asked] == [
        "POST /apis/batch/v1/namespaces/here/jobs"
    ] * 2


def test_an_outage_without_end_is_transient(
    server: FakeServer, kube: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OUTAGE_S", -1.0)
    server.answers = [(503, {"message": "etcd is down"})]
    with pytest.raises(TransientError, match="cannot list jobs .* answered 503 etcd is down"):
        kube.jobs("a=b")


def test_a_signal_ends_the_wait(server: FakeServer, kube: Kube, stop: StopFlag) -> None:
    stop.signal = 15
    server.answers = [(503, {})]
    with pytest.raises(Stopped):
        kube.jobs("a=b")


def test_a_denial_names_verb_and_resource(server: FakeServer, kube: Kube) -> None:
    who = 'User "system:serviceaccount:here:x" cannot list resource "jobs" in API group "batch"'
    server.answers = [refusal(403, "Forbidden", f"jobs.batch is forbidden: {who} in the namespace")]
    with pytest.raises(ConfigError, match="may not list jobs in namespace 'here'; its Role must"):
        kube.jobs("a=b")


def test_other_refusals_are_told(server: FakeServer, kube: Kube) -> None:
    server.answers = [
        refusal(422, "Invalid", "Job.batch is invalid: spec"),
        refusal(403, "Forbidden", "jobs is forbidden: exceeded quota: q"),
    ]
    with pytest.raises(ConfigError, match=r"refuses to create jobs \(422\): Job.batch is invalid: spec"):
        kube.create_job(JOB)
    with pytest.raises(TransientError, match="cannot create jobs now: .* exceeded quota"):
        kube.create_job(JOB)


def test_a_taken_name_is_no_error(server: FakeServer, kube: Kube) -> None:
    server.answers = [refusal(409, "AlreadyExists", "it exists"), (404, {}), (200, JOB)]
    with pytest.raises(AlreadyExists):
        kube.create_job(JOB)
    assert kube.job("a") is None
    assert kube.job("a") == JOB


def test_only_the_very_object_is_deleted_and_its_pods_with_it(server: FakeServer, kube: Kube) -> None:
    server.answers = [(200, {}), (404, {}), (409, {})]
    for _ in range(3):
        kube.delete_deployment(JOB)
    path, body = server.asked[0]
    assert path == "DELETE /apis/apps/v1/namespaces/here/deployments/a"
    assert body == {"propagationPolicy": "Foreground", "preconditions": {"uid": "u"}}


def test_a_log_is_there_or_not(server: FakeServer, kube: Kube) -> None:
    gone = b"unable to retrieve container logs for containerd://abc"
    server.answers = [(200, b"one\n\xfftwo\n"), (400, {"message": "waiting to start"}), (200, gone)]
    assert kube.pod_log("p", "stage") == b"one\n\xfftwo\n"
    assert kube.pod_log("p", "stage") is None
    assert kube.pod_log("p", "stage", previous=True) is None

"""Puts this folder on the import path, and holds what tests of several packages share."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3
import structlog
import yaml
from context import settings

from polaris import runtime
from polaris.run import Run, open_run

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No setting of the shell, and nothing that another test left behind, decides how a test ends."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for name in list(os.environ):
        if name.startswith(("POLARIS__", "AWS_")) or name in (
            "POLARIS_CONFIG",
            "POLARIS_LOG",
            "POLARIS_ENDPOINTS",
            "POLARIS_ATTEMPT",
            "POLARIS_EXPECTED_DIGEST",
            "POLARIS_EXPECTED_IDENTITY",
            "POLARIS_NAMESPACE",
            "POLARIS_RELEASE",
            "POLARIS_ORCHESTRATOR",
            "POLARIS_IDLE_FILE",
            "POLARIS_DRAIN_S",
        ):
            monkeypatch.delenv(name)
    # Processes that a test starts in another folder find this checkout too.
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    )
    monkeypatch.setattr(runtime, "_told", set())
    yield
    structlog.reset_defaults()
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.Server]:
    """A real S3 server for the whole session, with one bucket."""
    for noisy in ("botocore", "boto3", "urllib3", "s3transfer"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    with s3.serve(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_url(s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty place in the bucket; the environment has its keys."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return f"s3://{s3.BUCKET}/{uuid.uuid4().hex[:12]}"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with a judge and a writer elsewhere: data, generate, judge, evaluate, report."""
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(settings(tmp_path)), encoding="utf-8")
    return open_run(path)


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A copy of the shipped demo's files with a folder that only looks like its model."""
    shipped = ROOT / "examples" / "demo"
    folder = tmp_path / "examples" / "demo"
    folder.mkdir(parents=True)
    for name in ("demo.yaml", "anthology.epub", "prompts.jsonl", "heldout.jsonl", "length.jsonl"):
        shutil.copy(shipped / name, folder / name)
    model = tmp_path / ".polaris" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"no weights")
    return folder / "demo.yaml"

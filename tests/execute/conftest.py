"""An executor over a FAKE namespace, of a run with a model that it serves itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from context import settings
from fake_kube import FakeKube
from templates import write_templates

from polaris.execute.cluster import ClusterExecutor
from polaris.run import Run, open_run


@pytest.fixture
def served(tmp_path: Path) -> Run:
    """A run with a model that it serves itself."""
    raw: dict[str, Any] = settings(tmp_path)
    (tmp_path / "model").mkdir()
    raw["models"]["own"] = {"kind": "checkpoint", "path": "model"}
    raw["evaluations"]["quality"]["models"] = ["own"]
    raw["execute"]["retries"] = 1
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(raw))
    write_templates(tmp_path / "manifests", "own")
    return open_run(tmp_path / "run.yaml")


@pytest.fixture
def kube() -> FakeKube:
    return FakeKube()


@pytest.fixture
def make(served: Run, kube: FakeKube, tmp_path: Path) -> Callable[..., ClusterExecutor]:
    def made(orchestrator: str = "aaaa", **options: Any) -> ClusterExecutor:
        given: Any = kube
        return ClusterExecutor(
            served, given, tmp_path / "manifests", release="polaris", orchestrator=orchestrator, **options
        )

    return made

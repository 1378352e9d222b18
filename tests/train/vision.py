"""The folder of `make tools` with torchvision in it in; vLLM's Qwen3.5 in this process out.

vLLM imports torchvision for Qwen3.5, also where there is only text, while its CPU build breaks if
torchvision lies beside it. So it lies in a folder of its own, which a test's process alone puts on its path.
Its compiled operators are of another build of torch and do not load: no text needs them, and their shape
functions, which the import would register, are skipped. Everything else of it is the real package.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / "scripts"))

import environment


def vision_folder() -> Path | None:
    """Return the folder that `make tools` made, None if it did not."""
    cache = os.environ.get("POLARIS_CACHE")
    found = environment.vision_folder(Path(cache)) if cache else None
    return found if found is not None and found.is_dir() else None


def import_torchvision() -> None:
    """Import it before others do, who would meet "operator torchvision::nms does not exist"."""
    import torch.library

    register = torch.library.register_fake

    def skipping(op: Any, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        if isinstance(op, str) and op.startswith("torchvision::"):
            return lambda function: function
        return register(op, *args, **kwargs)

    torch.library.register_fake = skipping
    try:
        import torchvision

        assert torchvision
    finally:
        torch.library.register_fake = register


def register_qwen35() -> None:
    """Give vLLM its text-only Qwen3.5 as a class: by its name it would look in another process."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.qwen3_5 import Qwen3_5ForCausalLM

    ModelRegistry.register_model("Qwen3_5ForCausalLM", Qwen3_5ForCausalLM)

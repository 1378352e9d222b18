"""A `LoraConfig` in, low-rank adapters, their number and the weights that they are merged into out.

Every linear layer of the language model gets y = W·x + (alpha / rank) · B·A·x (Hu et al. 2021, arXiv
2106.09685): A of (rank, in) and B of (out, rank), without bias and dropout. The LM head gets none: TRL's
fused one multiplies by its weight directly. The base is frozen, and nothing here ever writes to it:
merging into it and taking away again, as TRL's own weight sync does, rounds a bfloat16 base each time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polaris.errors import ConfigError
from polaris.recipe import LoraConfig
from polaris.train.shape import Shape

if TYPE_CHECKING:
    import torch

VISION = ("visual", "vision_tower", "vision_model")
"""What a vision tower is called in the names of its parameters."""
MARK = "lora_"
"""What the names of adapters' parameters, and of nothing else, begin with in one of their parts."""

_WRAPPER, _BASE = "base_model.model.", ".base_layer"
_UNFIT = (
    ("quantization_config", "a quantised base, into which adapters cannot be merged exactly"),
    ("num_experts", "a mixture of experts, whose experts are no linear layers"),
    ("num_local_experts", "a mixture of experts, whose experts are no linear layers"),
    ("n_routed_experts", "a mixture of experts, whose experts are no linear layers"),
)
"""Fields of a `config.json` with which adapters do not go, and why."""


def unfit(config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return what in a model's `config.json` keeps adapters from it, as `field value`, and why; or None."""
    for part in (config, config.get("text_config") or {}):
        for name, why in _UNFIT:
            if found := part.get(name):
                value = found.get("quant_method", "set") if isinstance(found, dict) else found
                return f"{name} {value}", why
    return None


def check_base(folder: Path, name: str) -> None:
    """Raise ConfigError where `train.lora` does not go with the model in a folder, `name` under `models`."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if found := unfit(config):
        raise ConfigError(refusal(name, *found))


def refusal(name: str, found: str, why: str) -> str:
    """Return one line on a base that gets no adapters: the setting, its value and the fix."""
    return (
        f"train.lora: models.{name} has {found}, {why}; name a dense model in bfloat16 or float32 as"
        " train.base, or leave train.lora out"
    )


def linear_sizes(shape: Shape) -> list[tuple[int, int, int]]:
    """Return the linear layers that get adapters: inputs, outputs, and how many of that size there are."""
    kinds = ((False, shape.full_layers), (True, shape.linear_layers))
    return [
        (inputs, outputs, each * layers)
        for linear, layers in kinds
        if layers
        for inputs, outputs, each in layer_sizes(shape, linear=linear)
    ]


def layer_sizes(shape: Shape, *, linear: bool) -> list[tuple[int, int, int]]:
    """Return the same of one layer, with linear attention or with softmax attention."""
    hidden = shape.hidden
    block = [(hidden, shape.intermediate, 2), (shape.intermediate, hidden, 1)]
    if linear and (found := shape.linear):
        return [
            *block,
            (hidden, 2 * found.keys + found.values, 1),
            (hidden, found.values, 1),
            (hidden, found.value_heads, 2),
            (found.values, hidden, 1),
        ]
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return [*block, (hidden, queries * (2 if shape.gated else 1), 1), (hidden, keys, 2), (queries, hidden, 1)]


def count(shape: Shape, lora: LoraConfig) -> int:
    """Return the parameters of all adapters: rank · (inputs + outputs) for each linear layer."""
    return sum(lora.rank * (inputs + outputs) * times for inputs, outputs, times in linear_sizes(shape))


def peft_config(lora: LoraConfig) -> Any:
    """Return peft's settings: every linear layer but the LM head and those of a vision tower."""
    import peft

    return peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules="all-linear",
        exclude_modules=rf"(.*\.)?({'|'.join(VISION)})\..*",
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )


def initialise(model: Any, seed: int) -> None:
    """Give each A its first values by `seed` and the order of layers alone, and each B zeros.

    The distribution is peft's: uniform in ±1/√in. peft itself draws from whatever state the process's
    generator is in when the model has been loaded. Parameters must not be sharded yet.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if MARK not in name:
            continue
        if "lora_A" in name:
            bound = 1 / math.sqrt(parameter.shape[1])
            drawn = torch.empty(parameter.shape, dtype=torch.float32).uniform_(
                -bound, bound, generator=generator
            )
        else:
            drawn = torch.zeros(parameter.shape)
        with torch.no_grad():
            parameter.copy_(drawn)


def merged_weight(weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scaling: float) -> torch.Tensor:
    """Return W + scaling · B·A, a new tensor: added up in fp32, then in W's own format.

    `weight` is W of (out, in), `down` A of (rank, in), `up` B of (out, rank).
    """
    added = (up.detach().float() @ down.detach().float()).mul_(scaling)
    return added.add_(weight.detach().float()).to(weight.dtype)


def merged_parameters(
    model: Any, gather: Callable[[list[Any]], AbstractContextManager[Any]]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the base model's parameters under its own names, adapters merged on the side, one at a time.

    `gather` makes sharded parameters whole while it is entered; where they are, every process must iterate.
    """
    layers = {
        f"{name}{_BASE}.weight": module for name, module in model.named_modules() if hasattr(module, "lora_A")
    }
    for name, parameter in model.named_parameters():
        if MARK in name:
            continue
        plain = name.removeprefix(_WRAPPER).replace(_BASE, "")
        if name not in layers:
            with gather([parameter]):
                yield plain, parameter.data
            continue
        layer = layers[name]
        ((adapter, down),) = layer.lora_A.items()
        up = layer.lora_B[adapter]
        with gather([parameter, down.weight, up.weight]):
            yield plain, merged_weight(parameter, down.weight, up.weight, layer.scaling[adapter])


def merged_state(state: Mapping[str, torch.Tensor], scaling: float) -> dict[str, torch.Tensor]:
    """Return a base model's whole state from that of the model with adapters, of which it is independent."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if MARK in name:
            continue
        plain = name.removeprefix(_WRAPPER).replace(_BASE, "")
        layer = name.removesuffix(f"{_BASE}.weight")
        pair = [state.get(f"{layer}.lora_{which}.default.weight") for which in "AB"]
        if layer == name or pair[0] is None or pair[1] is None:
            found[plain] = tensor
        else:
            # On a GPU that the training has just filled there is no room for a second copy.
            found[plain] = merged_weight(tensor, pair[0], pair[1], scaling).cpu()
    return found

"""A model's `config.json` in, its layers' sizes and its number of parameters out; no torch, no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from polaris.errors import InputError

LINEAR = "linear_attention"
_GATED = ("qwen3_5", "qwen3_next")
"""Model types whose attention has an output gate: the query's projection is twice as wide."""


@dataclass(frozen=True)
class Linear:
    """A linear-attention (Gated DeltaNet) layer: sizes of all its heads together, in elements."""

    keys: int
    values: int
    value_heads: int
    key_head_dim: int
    value_head_dim: int
    kernel: int


@dataclass(frozen=True)
class Shape:
    """What of a decoder's `config.json` decides its memory.

    Attributes:
        tied: embedding and LM head are one matrix.
        full_layers, linear_layers: layers with softmax attention, and with linear attention.
        gated: attention has an output gate.
        linear: sizes of the linear layers; None if there are none.
        vision: parameters of a vision tower, computed from its sizes; 0 if there is none.

    """

    model_type: str
    hidden: int
    intermediate: int
    vocabulary: int
    tied: bool
    full_layers: int
    linear_layers: int
    heads: int
    kv_heads: int
    head_dim: int
    gated: bool
    linear: Linear | None
    vision: int

    @property
    def layers(self) -> int:
        """Decoder layers."""
        return self.full_layers + self.linear_layers

    @property
    def head(self) -> int:
        """Parameters of the LM head, the model's largest matrix."""
        return self.vocabulary * self.hidden


@dataclass(frozen=True)
class Parameters:
    """How many parameters a model has, and how that is known."""

    language: int
    vision: int
    source: str

    @property
    def total(self) -> int:
        """All that are loaded."""
        return self.language + self.vision


def read_shape(config: Mapping[str, Any]) -> Shape:
    """Return the sizes in a `config.json`; those of a vision-language model's text are nested in it.

    Raises:
        InputError: a field is missing or no number, or the model is a mixture of experts.

    """
    text = config.get("text_config") or config
    if text.get("num_experts") or text.get("num_local_experts"):
        raise InputError("config.json: a mixture of experts, whose memory is not planned here")
    kind = str(text.get("model_type") or config.get("model_type") or "")
    layers, hidden, heads = (
        _number(text, name) for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")
    )
    linear_layers = _linear_layers(text, layers)
    return Shape(
        model_type=kind,
        hidden=hidden,
        intermediate=_number(text, "intermediate_size"),
        vocabulary=_number(text, "vocab_size"),
        tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
        full_layers=layers - linear_layers,
        linear_layers=linear_layers,
        heads=heads,
        kv_heads=_number(text, "num_key_value_heads", heads),
        head_dim=_number(text, "head_dim", hidden // heads),
        gated=bool(text.get("attn_output_gate", kind.startswith(_GATED))),
        linear=_linear(text) if linear_layers else None,
        vision=_vision(config.get("vision_config") or {}),
    )


def computed(shape: Shape) -> Parameters:
    """Return the parameters by the matrices' sizes; biases are left out, norms and convolutions are not."""
    hidden = shape.hidden
    block = 3 * hidden * shape.intermediate + 2 * hidden
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    full = hidden * queries * (2 if shape.gated else 1) + 2 * hidden * keys + queries * hidden
    if shape.gated:
        full += 2 * shape.head_dim
    total = shape.head * (1 if shape.tied else 2) + hidden
    total += shape.full_layers * (full + block)
    if found := shape.linear:
        mixed = 2 * found.keys + found.values
        linear = hidden * (mixed + found.values + 2 * found.value_heads) + mixed * found.kernel
        linear += 2 * found.value_heads + found.value_head_dim + found.values * hidden
        total += shape.linear_layers * (linear + block)
    return Parameters(total, shape.vision, "computed from config.json")


def counted(tensors: Mapping[str, Mapping[str, Any]]) -> Parameters:
    """Return the parameters of the tensors that safetensors headers list: name → {shape, …}.

    Those of multi-token prediction (`mtp.`) are not loaded, and not counted.
    """
    language = vision = 0
    for name, tensor in tensors.items():
        if name == "__metadata__" or name.startswith("mtp."):
            continue
        size = prod(tensor["shape"])
        if ".visual." in f".{name}" or ".vision_tower." in f".{name}":
            vision += size
        else:
            language += size
    return Parameters(language, vision, "counted in the safetensors files")


def _number(text: Mapping[str, Any], name: str, default: int | None = None) -> int:
    found = text.get(name)
    if found is None:
        found = default
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise InputError(f"config.json: {name}: {found!r}; expected a number above 0")
    return found


def _linear_layers(text: Mapping[str, Any], layers: int) -> int:
    kinds = text.get("layer_types")
    if kinds:
        return sum(kind == LINEAR for kind in kinds)
    every = text.get("full_attention_interval")
    if every is None and "linear_num_value_heads" in text:
        every = 4
    return layers - layers // every if every else 0


def _linear(text: Mapping[str, Any]) -> Linear:
    key_dim, value_dim = _number(text, "linear_key_head_dim"), _number(text, "linear_value_head_dim")
    value_heads = _number(text, "linear_num_value_heads")
    return Linear(
        keys=_number(text, "linear_num_key_heads") * key_dim,
        values=value_heads * value_dim,
        value_heads=value_heads,
        key_head_dim=key_dim,
        value_head_dim=value_dim,
        kernel=_number(text, "linear_conv_kernel_dim", 4),
    )


def _vision(tower: Mapping[str, Any]) -> int:
    """Return a vision tower's parameters, by its blocks and its merger; 0 where the sizes are others."""
    try:
        depth, hidden, inner = (int(tower[name]) for name in ("depth", "hidden_size", "intermediate_size"))
    except KeyError:
        return 0
    out = int(tower.get("out_hidden_size", hidden))
    merged = hidden * int(tower.get("spatial_merge_size", 2)) ** 2
    positions = int(tower.get("num_position_embeddings", 0)) * hidden
    return depth * (4 * hidden * hidden + 2 * hidden * inner) + merged * (merged + out) + positions

"""What a model's config.json and its tensors' sizes say of its parameters."""

from __future__ import annotations

from typing import Any

import pytest
from train.qwen35 import CONFIG, CONFIG_2B

from polaris.errors import InputError
from polaris.train.shape import computed, counted, read_shape

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}
"""SmolLM2-135M."""


def test_the_text_of_a_vision_language_model_is_nested() -> None:
    shape = read_shape(CONFIG)
    assert (shape.layers, shape.full_layers, shape.linear_layers) == (32, 8, 24)
    assert (shape.hidden, shape.vocabulary, shape.tied, shape.gated) == (4096, 248320, False, True)
    assert shape.linear is not None
    assert (shape.linear.keys, shape.linear.values, shape.linear.kernel) == (2048, 4096, 4)


def test_parameters_are_those_that_the_models_have() -> None:
    found = computed(read_shape(CONFIG))
    assert found.language == 8_953_803_264
    assert found.vision == pytest.approx(0.456e9, rel=0.01)
    small = computed(read_shape(CONFIG_2B))
    assert small.language == 1_881_825_088
    assert small.total == pytest.approx(2.2e9, rel=0.01)
    assert computed(read_shape(LLAMA)).language == 134_515_008
    untied = computed(read_shape(LLAMA | {"tie_word_embeddings": False})).language
    assert untied - 134_515_008 == 49152 * 576


def test_layer_types_go_before_the_interval() -> None:
    text = CONFIG["text_config"] | {"layer_types": ["linear_attention"] * 31 + ["full_attention"]}
    assert read_shape(CONFIG | {"text_config": text}).full_layers == 1


def test_tensors_are_counted_but_those_that_are_not_loaded() -> None:
    tensors = {
        "__metadata__": {"format": "pt"},
        "model.language_model.embed_tokens.weight": {"shape": [10, 4]},
        "model.visual.blocks.0.norm1.weight": {"shape": [6]},
        "mtp.fc.weight": {"shape": [8, 4]},
        "model.language_model.scale": {"shape": []},
    }
    found = counted(tensors)
    assert (found.language, found.vision, found.total) == (41, 6, 47)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"hidden_size": None}, "hidden_size: None"),
        ({"vocab_size": "many"}, "vocab_size: 'many'"),
        ({"num_hidden_layers": True}, "num_hidden_layers: True"),
        ({"num_experts": 8}, "mixture of experts"),
    ],
)
def test_what_cannot_be_planned_is_named(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_shape(LLAMA | changed)

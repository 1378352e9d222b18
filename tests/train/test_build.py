"""What is made of a model before it is trained."""

from __future__ import annotations

import heavy  # noqa: F401
import pytest
import torch

from polaris.errors import ConfigError
from polaris.train.build import check_rotary, freeze_vision


def test_a_vision_tower_is_not_trained_and_all_else_is() -> None:
    model = torch.nn.ModuleDict(
        {
            "visual": torch.nn.Linear(2, 2),
            "language_model": torch.nn.ModuleDict({"visualise": torch.nn.Linear(2, 2)}),
        }
    )
    assert freeze_vision(model) == 2
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"language_model.visualise.weight", "language_model.visualise.bias"}
    assert freeze_vision(torch.nn.Linear(2, 2)) == 0


def test_rounded_rotary_frequencies_are_refused() -> None:
    model = torch.nn.Module()
    model.register_buffer("inv_freq", torch.ones(2))
    check_rotary(model)
    model.register_buffer("inv_freq", torch.ones(2, dtype=torch.bfloat16))
    with pytest.raises(ConfigError, match=r"^train.zero_stage: inv_freq was rounded to torch.bfloat16"):
        check_rotary(model)

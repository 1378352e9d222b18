from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from polaris.recipe import HRIConfig, LoraConfig, TrainConfig
from polaris.train.settings import Hardware, accumulation, grpo_arguments, order, total_steps

PAPER = TrainConfig(base="base", judge="judge", processes=4, zero_stage=3)


def test_the_papers_numbers():
    assert accumulation(PAPER) == 6
    assert total_steps(1388, PAPER) == 173
    found = grpo_arguments(
        PAPER, Hardware(True, "bfloat16"), steps=173, seed=3479, thinking=True, end_id=7, output=Path("out")
    )
    expected = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 6,
        "num_generations": 6,
        "num_iterations": 1,
        "beta": 0.0,
        "epsilon": 0.2,
        "epsilon_high": 0.28,
        "loss_type": "bnpo",
        "scale_rewards": "group",
        "vllm_importance_sampling_correction": False,
        "max_completion_length": 8192,
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "temperature": 1.0,
        "top_p": 0.95,
        "top_k": 20,
        "repetition_penalty": 1.10,
        "chat_template_kwargs": {"enable_thinking": True},
        "model_init_kwargs": {"dtype": "bfloat16"},
        "bf16": True,
        "log_completions": False,
        "max_steps": 173,
    }
    assert {name: found[name] for name in expected} == expected
    assert found["generation_kwargs"] == {"stop_token_ids": [7]}
    assert found["deepspeed"]["zero_optimization"]["stage"] == 3


def test_wandb_is_trls_own_business_and_tensorboard_is_not():
    def told(*reporters):
        train = PAPER.model_copy(update={"report_to": reporters})
        place = {
            "steps": 1,
            "seed": 1,
            "thinking": True,
            "end_id": 7,
            "output": Path("out"),
            "name": "paper.plain",
        }
        found = grpo_arguments(train, Hardware(True, "bfloat16"), **place)
        return found["report_to"], found["run_name"]

    assert told("tensorboard") == told() == ("none", "paper.plain")
    assert told("tensorboard", "wandb") == (["wandb"], "paper.plain")


def test_rows_that_do_not_divide_are_refused_with_the_numbers():
    with pytest.raises(ValidationError, match=r"8 × group_size 6 = 48 .* 4 × micro_batch 5 = 20"):
        TrainConfig(**PAPER.model_dump() | {"micro_batch": 5})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"decay": "linear"}, "decay linear with decay_steps null; expected both or neither"),
        ({"decay_steps": 9}, "decay none with decay_steps 9; expected both or neither"),
        ({"final_weight": 0.5}, "final_weight 0.5 is above max_weight 0.4; expected at most that"),
        ({"until_step": 0}, "greater than or equal to 1"),
        ({"shaping": "dpo"}, "'none' or 'luffy'"),
    ],
)
def test_schedules_that_mean_nothing_are_refused(changed, said):
    with pytest.raises(ValidationError, match=said):
        HRIConfig(**changed)


@pytest.mark.parametrize("loss", ["bnpo", "dapo", "grpo", "dr_grpo"])
def test_losses_are_trls(loss):
    train = PAPER.model_copy(update={"loss": loss})
    found = grpo_arguments(
        train, Hardware(True, "bfloat16"), steps=1, seed=1, thinking=True, end_id=7, output=Path("out")
    )
    assert found["loss_type"] == loss


@pytest.mark.parametrize("loss", ["cispo", "sapo", "vespo", "luspo"])
def test_losses_that_treat_references_otherwise_are_refused(loss):
    with pytest.raises(ValidationError, match="'bnpo', 'dapo', 'grpo' or 'dr_grpo'"):
        TrainConfig(**PAPER.model_dump() | {"loss": loss})


@pytest.mark.parametrize(
    ("cuda", "dtype", "zero_stage", "held"),
    [
        (True, "bfloat16", 3, "bfloat16"),
        # Without ZeRO's fp32 masters an update of 1e-6 would be rounded away.
        (True, "bfloat16", 0, "float32"),
        (True, "float32", 3, "float32"),
        (False, "bfloat16", 3, "float32"),
    ],
)
def test_number_formats(cuda, dtype, zero_stage, held):
    assert Hardware(cuda, dtype).load_dtype(zero_stage) == held


def test_a_frozen_base_takes_half_the_memory_where_there_is_a_gpu():
    train = PAPER.model_copy(update={"zero_stage": 0, "lora": LoraConfig()})
    for cuda, held in ((True, "bfloat16"), (False, "float32")):
        found = grpo_arguments(
            train, Hardware(cuda, "bfloat16"), steps=1, seed=1, thinking=True, end_id=7, output=Path("out")
        )
        assert found["model_init_kwargs"] == {"dtype": held}
    assert Hardware(True, "float32").load_dtype(0, frozen=True) == "float32"


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 30), st.integers(0, 3))
def test_order_is_whole_passes_in_new_shuffles(prompts, per_step, steps, seed):
    train = PAPER.model_copy(update={"prompts_per_step": min(per_step, prompts), "max_steps": steps})
    found = order(prompts, train, seed)
    assert found == order(prompts, train, seed)
    assert len(found) == steps * train.prompts_per_step
    used = prompts // train.prompts_per_step * train.prompts_per_step
    for start in range(0, len(found), used):
        assert max(Counter(found[start : start + used]).values()) == 1


def test_epochs_without_max_steps():
    train = PAPER.model_copy(update={"prompts_per_step": 4, "epochs": 2.5})
    assert total_steps(17, train) == 10
    assert total_steps(4, PAPER.model_copy(update={"prompts_per_step": 4, "epochs": 0.1})) == 1

"""A `TrainConfig` in, TRL's GRPOConfig out: the recipe's table (§1) in TRL's words."""

from __future__ import annotations

import importlib.metadata
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polaris.errors import ConfigError
from polaris.recipe import TrainConfig


@dataclass(frozen=True)
class Hardware:
    """What the numbers are computed on.

    Attributes:
        cuda: there is a GPU for each process.
        dtype: the model's number format, `bfloat16` or `float32`: that of the saved model.

    """

    cuda: bool
    dtype: str

    @property
    def mixed(self) -> bool:
        """Whether matrices are multiplied in bf16; a CPU has no fast bf16 and its engine runs in fp32."""
        return self.cuda and self.dtype == "bfloat16"

    def load_dtype(self, zero_stage: int, *, frozen: bool = False) -> str:
        """Return the format in which parameters are held.

        ZeRO keeps fp32 masters of bf16 parameters. Plain AdamW has none, and at a learning rate of 1e-6
        bf16 parameters would round every update away; so there they are fp32, under autocast. `frozen` ones,
        those beside adapters, get no update.
        """
        return "bfloat16" if self.mixed and (frozen or zero_stage > 0) else "float32"


def steps_per_epoch(prompts: int, train: TrainConfig) -> int:
    """Return the optimiser steps of one pass; prompts that fill no step sit it out."""
    return prompts // train.prompts_per_step


def total_steps(prompts: int, train: TrainConfig) -> int:
    """Return the optimiser steps of the whole run: `max_steps`, else `epochs` passes, at least one step."""
    if train.max_steps is not None:
        return train.max_steps
    return max(1, round(train.epochs * steps_per_epoch(prompts, train)))


def order(prompts: int, train: TrainConfig, seed: int) -> list[int]:
    """Return which prompt each place of the run takes, `prompts_per_step` places a step.

    Every pass is shuffled anew, from seed and pass alone. The whole run is laid out beforehand because
    TRL's sampler forgets, on resuming, how many passes it has shuffled.
    """
    places = total_steps(prompts, train) * train.prompts_per_step
    used = steps_per_epoch(prompts, train) * train.prompts_per_step
    found: list[int] = []
    epoch = 0
    while len(found) < places:
        shuffled = list(range(prompts))
        random.Random(f"{seed} {epoch}").shuffle(shuffled)
        found += shuffled[:used]
        epoch += 1
    return found[:places]


def accumulation(train: TrainConfig) -> int:
    """Return the micro-batches that one process adds up for a step."""
    return train.rows_per_step // (train.world_size * train.micro_batch)


def deepspeed(stage: int) -> dict[str, Any]:
    """Return DeepSpeed's configuration; `auto` is filled in from the trainer's arguments."""
    return {
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": False,
            "contiguous_gradients": True,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "data_types": {
            # Whatever is made while a model is, ZeRO-3 makes in the model's format. Angles of rotary
            # frequencies that are rounded to bf16 are wrong by radians after some thousand tokens, and the
            # engine's are not. The other is what DeepSpeed keeps where nothing is named: it routes experts.
            "keep_in_fp32_modules": ["inv_freq", "e_score_correction_bias"],
        },
        "zero_allow_untested_optimizer": True,
    }


def require_reporters(train: TrainConfig) -> None:
    """Raise ConfigError if a package is missing that `report_to` needs: before training, not after a step."""
    for name in train.report_to:
        try:
            importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            raise ConfigError(
                f"train.report_to: value '{name}'; that package is not installed here:"
                f" `pip install {name}`, or take it out of the list"
            ) from None


def grpo_arguments(
    train: TrainConfig,
    hardware: Hardware,
    *,
    steps: int,
    seed: int,
    thinking: bool,
    end_id: int,
    output: Path,
    name: str = "polaris",
) -> dict[str, Any]:
    """Return the keyword arguments of GRPOConfig; `name` is what W&B calls this training.

    `steps_per_generation` stays TRL's default, the accumulation: one generation a step, so the policy's
    ratio, and that of a reference, is exactly 1.
    """
    arguments: dict[str, Any] = {
        "output_dir": str(output),
        "per_device_train_batch_size": train.micro_batch,
        "gradient_accumulation_steps": accumulation(train),
        "num_generations": train.group_size,
        # The dataset is the whole run in order.
        "num_train_epochs": 1,
        "max_steps": steps,
        "shuffle_dataset": False,
        "max_completion_length": train.max_completion_tokens,
        **_optimisation(train),
        **train.sampling.model_dump(),
        "chat_template_kwargs": {"enable_thinking": thinking},
        "gradient_checkpointing": train.gradient_checkpointing,
        "bf16": hardware.mixed,
        "use_cpu": not hardware.cuda,
        "model_init_kwargs": {"dtype": hardware.load_dtype(train.zero_stage, frozen=train.lora is not None)},
        "seed": seed,
        "save_strategy": "steps",
        "save_steps": train.save_steps,
        # Old checkpoints may still be uploading: the supervisor deletes them.
        "save_total_limit": None,
        "logging_steps": 1,
        # The filter would hide a NaN loss behind the last finite one.
        "logging_nan_inf_filter": False,
        "log_completions": False,
        # Event files for TensorBoard are made of the metrics' rows, with no step twice.
        "report_to": ["wandb"] if "wandb" in train.report_to else "none",
        "run_name": name,
        "disable_tqdm": True,
        "dataloader_pin_memory": hardware.cuda,
        "use_vllm": False,
    }
    if train.rollout_engine == "vllm":
        arguments |= _engine(train, hardware, end_id)
    if train.zero_stage:
        arguments["deepspeed"] = deepspeed(train.zero_stage)
    return arguments


def _engine(train: TrainConfig, hardware: Hardware, end_id: int) -> dict[str, Any]:
    return {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": train.engine_memory,
        # While the trainer works, its memory is the trainer's; a CPU's engine knows no sleep.
        "vllm_enable_sleep_mode": hardware.cuda,
        "vllm_max_model_length": train.max_prompt_tokens + train.max_completion_tokens,
        "vllm_importance_sampling_correction": False,
        # The engine knows the end tokens of the model's files, which may not be the template's.
        "generation_kwargs": {"stop_token_ids": [end_id]},
    }


def _optimisation(train: TrainConfig) -> dict[str, Any]:
    return {
        "num_iterations": 1,
        "learning_rate": train.learning_rate,
        "lr_scheduler_type": "constant",
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "beta": 0.0,
        "epsilon": train.epsilon_low,
        "epsilon_high": train.epsilon_high,
        "loss_type": train.loss,
        "scale_rewards": "group",
        "disable_dropout": True,
    }

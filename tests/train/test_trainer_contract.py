"""What the trainer relies on in TRL; a failure here means that TRL changed, and names its version."""

import inspect
import logging
from typing import get_args

import pytest
import torch
from accelerate import PartialState
from heavy import GRPOConfig, GRPOTrainer, VLLMGeneration, grpo_trainer, trl
from trl.kernels import chunked_logprob
from trl.trainer import utils
from trl.trainer.utils import get_callable_name, is_async_callable

from polaris.errors import ConfigError
from polaris.recipe import HRIConfig, Loss, Sampling
from polaris.train.build import hide_rows
from polaris.train.memory import HEAD_COLUMNS, HEAD_TOKENS
from polaris.train.reward import Reward
from polaris.train.trainer import check_arguments

VERSION = f"TRL {trl.__version__} differs from 1.16, which polaris.train.trainer was read against"

SIGNATURES = {
    "_generate_and_score_completions": ["self", "inputs"],
    "_generate_single_turn": [
        "self",
        "prompt_ids",
        "images",
        "multimodal_fields",
        "num_generations",
        "has_tool_images",
    ],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_tokenize_prompts": ["self", "prompts"],
    "_save_checkpoint": ["self", "model", "trial"],
}


def test_what_shaping_calls_and_which_losses_there_are():
    method = inspect.unwrap(GRPOTrainer._get_per_token_logps_and_entropies)
    found = list(inspect.signature(method).parameters)
    first = ["self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size"]
    assert found[:6] == first, f"{VERSION}: {method.__name__}{tuple(found)}"
    loss = inspect.getsource(inspect.unwrap(GRPOTrainer._compute_loss))
    for name in get_args(Loss):
        assert f'"{name}"' in loss, f"{VERSION}: no loss_type {name}"


@pytest.mark.parametrize("name", SIGNATURES)
def test_methods_that_are_overridden_or_called(name):
    found = list(inspect.signature(inspect.unwrap(getattr(GRPOTrainer, name))).parameters)
    assert found == SIGNATURES[name], f"{VERSION}: {name}{tuple(found)}"


@pytest.mark.parametrize(
    ("method", "fragments"),
    {
        # A row without any reward leaves the baseline and gets advantage 0.
        "_generate_and_score_completions": [
            "torch.isnan(rewards_per_func).all(dim=1)",
            "self._calculate_rewards(",
            "advantages / (std_rewards + 1e-4)",
            'self._logs["advantages"].extend(',
            '"advantages": advantages',
        ],
        # A None log-probability becomes NaN and a ratio of exactly 1.
        # Where its sampling stands, in process; a validation swaps both.
        "_generate_single_turn": [
            "self.state.global_step != self._last_loaded_step",
            "sync_weights()",
            "generation_config=self.generation_config",
            "generation_kwargs=self.generation_kwargs",
        ],
        "_calculate_rewards": ["torch.nan", "return rewards_per_func", 'reward_kwargs["log_metric"]'],
        "_compute_loss": ["advantages.dim() == 1", "per_token_logps.detach() if old_per_token_logps is None"],
        "_prepare_inputs": ["self._generate_and_score_completions(", "shuffle_sequence_dict("],
    }.items(),
)
def test_relied_on_lines(method, fragments):
    source = inspect.getsource(inspect.unwrap(getattr(GRPOTrainer, method)))
    for fragment in fragments:
        assert fragment in source, f"{VERSION}: {method} has no `{fragment}`"


def test_the_engine_takes_lists_of_prompts_and_is_reached_as_llm():
    source = inspect.getsource(VLLMGeneration)
    sampling = [f"{name} = self.{name}" for name in Sampling.model_fields]
    for fragment in (
        "self.llm = LLM(",
        "def sync_weights(self)",
        "in self._iter_named_params():",
        "self._dist.gather_params(",
        "def generate(",
        *sampling,
    ):
        assert fragment in source, f"{VERSION}: VLLMGeneration has no `{fragment}`"
    assert hasattr(grpo_trainer, "VLLMGeneration"), VERSION


def test_the_head_is_fused_in_the_tiles_that_the_memory_plan_takes():
    for method, fragment in (
        (GRPOTrainer.__init__, "add_fused_lm_head("),
        (GRPOTrainer._get_per_token_logps_and_entropies, "fused_lm_head=True"),
    ):
        source = inspect.getsource(inspect.unwrap(method))
        assert fragment in source, f"{VERSION}: {method.__name__} has no `{fragment}`"
    tile = chunked_logprob.TOKEN_CHUNK_SIZE, utils._CHUNKED_LOGPROB_CHUNK_SIZE
    assert tile == (HEAD_TOKENS, HEAD_COLUMNS), f"{VERSION}: its tiles are {tile}"


def test_extra_tensors_survive_shuffling_and_splitting():
    batch = {"advantages": torch.arange(4.0), "is_reference": torch.tensor([False, True, False, True])}
    shuffled = grpo_trainer.shuffle_sequence_dict(batch)
    assert torch.equal(shuffled["is_reference"], shuffled["advantages"] % 2 == 1), VERSION
    first, second = grpo_trainer.split_tensor_dict(shuffled, 2)
    assert len(first["is_reference"]) == len(second["is_reference"]) == 2, VERSION


def test_the_reward_object_is_an_async_function_to_trl():
    reward = Reward.__new__(Reward)
    assert is_async_callable(reward), VERSION
    assert get_callable_name(reward) == "composite", VERSION
    loop = "asyncio.run_coroutine_threadsafe(_run_async_funcs(), self.async_loop).result()"
    assert loop in inspect.getsource(inspect.unwrap(GRPOTrainer._calculate_rewards)), VERSION


def test_whole_rows_stay_out_of_the_log(caplog):
    hide_rows()
    PartialState()
    logger = grpo_trainer.logger
    source = inspect.getsource(GRPOTrainer._calculate_rewards)
    assert source.count("row_reward_kwargs}") == 1, f"{VERSION}: it logs rows in more places"
    assert 'logger.warning(\n                f"All reward functions returned None' in source, VERSION
    with caplog.at_level(logging.WARNING):
        logger.warning("All reward functions returned None for the following kwargs:\nTHE STORY")
        logger.warning("something else")
    assert "THE STORY" not in caplog.text
    assert "something else" in caplog.text


def arguments(tmp_path, **changed):
    return GRPOConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        report_to="none",
        **{
            "per_device_train_batch_size": 3,
            "gradient_accumulation_steps": 2,
            "num_generations": 3,
            "vllm_importance_sampling_correction": False,
            "mask_truncated_completions": False,
        }
        | changed,
    )


def test_the_recipes_arguments_pass(tmp_path):
    check_arguments(arguments(tmp_path), HRIConfig())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beta", 0.1),
        ("scale_rewards", "none"),
        ("scale_rewards", "batch"),
        ("multi_objective_aggregation", "normalize_then_sum"),
        ("top_entropy_quantile", 0.5),
        ("mask_truncated_completions", True),
        ("loss_type", "cispo"),
        ("loss_type", "sapo"),
        ("loss_type", "vespo"),
        ("loss_type", "luspo"),
        ("importance_sampling_level", "sequence"),
        ("off_policy_mask_threshold", 0.1),
        ("num_iterations", 2),
        ("steps_per_generation", 4),
    ],
)
def test_what_would_mistreat_references_is_refused(tmp_path, name, value):
    expected = "gradient_accumulation_steps" if name in ("num_iterations", "steps_per_generation") else name
    with pytest.raises(ConfigError, match=expected):
        check_arguments(arguments(tmp_path, **{name: value}), HRIConfig())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vllm_mode", "server"),
        ("vllm_tensor_parallel_size", 2),
        ("vllm_importance_sampling_correction", True),
    ],
)
def test_engine_modes_that_are_not_built_are_refused(tmp_path, name, value):
    args = arguments(tmp_path, **{name: value})
    args.use_vllm = True
    with pytest.raises(ConfigError, match=name):
        check_arguments(args, HRIConfig())

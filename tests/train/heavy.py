"""TRL and vLLM imported once with their own warnings put up with: import this before the trainer.

Their import-time deprecations are theirs; warnings of our code stay errors.
"""

from __future__ import annotations

import os
import warnings

os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import deepspeed.ops
    import trl
    from trl import GRPOConfig, GRPOTrainer
    from trl.generation.vllm_generation import VLLMGeneration
    from trl.trainer import grpo_trainer

__all__ = ["GRPOConfig", "GRPOTrainer", "VLLMGeneration", "deepspeed", "grpo_trainer", "trl"]

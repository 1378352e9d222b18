"""TRL's GRPOTrainer in, one that injects human references and watches its engine out.

Three overrides that call super (recipe §2), and nothing copied: mark and overwrite around generation and
scoring, splice the reference's tokens into the rollouts, hide its reward from TRL's statistics. The loss is
TRL's own. Read against TRL 1.16; `tests/train/test_trainer_contract.py` pins what is relied upon.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import gather, set_seed
from trl import GRPOConfig, GRPOTrainer

from polaris.errors import ConfigError, GuardError
from polaris.recipe import HRIConfig
from polaris.train import parity, references

REFERENCE_COLUMN = "reference_ids"
"""A row's column with the reference's tokens; empty: this prompt has no reference to inject."""


class ReferenceTrainer(GRPOTrainer):  # type: ignore[misc]
    """GRPO in which slot G − 1 of each group may be the human's story.

    Args:
        hri: weight schedule, eps and clip.
        engine_max_difference: largest tolerated |Δ log-probability| between trainer and colocated engine.
        agree: called by every process after each step's rewards; raises in all of them or in none.
        **rest: GRPOTrainer's own arguments; rows carry `REFERENCE_COLUMN`.

    Raises:
        ConfigError: `args` combines settings under which the injection would be wrong.

    """

    def __init__(
        self, *, hri: HRIConfig, engine_max_difference: float, agree: Callable[[], None], **rest: Any
    ) -> None:
        check_arguments(rest["args"], hri)
        self.hri = hri
        self.engine_max_difference = engine_max_difference
        self.agree = agree
        self._slots: list[list[int] | None] = []
        self._rewards: torch.Tensor | None = None
        self._marks: torch.Tensor | None = None
        super().__init__(**rest)
        if self.tools or self.environments or self.rollout_func or len(self.reward_funcs) != 1:
            raise ConfigError("the trainer takes one reward function, no tools, environments or rollout_func")
        if self.use_vllm:
            # vLLM seeds every generator of the process with a constant when it starts.
            set_seed(self.args.seed, device_specific=True)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)  # type: ignore[no-any-return]
        weight = references.weight(self.state.global_step, self.hri.max_weight, self.hri.warmup_steps)
        offset = self.accelerator.process_index * len(inputs)
        last = self.num_generations - 1
        self._slots = [
            list(row[REFERENCE_COLUMN])
            if weight > 0 and (offset + i) % self.num_generations == last and row[REFERENCE_COLUMN]
            else None
            for i, row in enumerate(inputs)
        ]
        marks = torch.tensor([slot is not None for slot in self._slots], device=self.accelerator.device)
        self._marks = gather(marks)
        marked = [
            {**row, "is_reference": slot is not None} for row, slot in zip(inputs, self._slots, strict=True)
        ]
        try:
            out: dict[str, Any] = super()._generate_and_score_completions(marked)
        finally:
            self._slots = []
        self._overwrite(out, weight, slice(offset, offset + len(inputs)))
        out["is_reference"] = marks
        return out

    def _generate_single_turn(
        self,
        prompt_ids: list[list[int]],
        images: Any,
        multimodal_fields: dict[str, Any],
        *args: Any,
        **kwargs: Any,
    ) -> tuple[list[list[int]], list[list[float | None]] | None]:
        stale = self.use_vllm and self.state.global_step != self._last_loaded_step
        if images is not None:
            raise ConfigError("the prompts carry images: only text is trained")
        policy = [i for i, slot in enumerate(self._slots or [None] * len(prompt_ids)) if slot is None]
        # In-process generation fails on no rows; colocated it must be called: the sync is collective.
        asked = policy if policy or self.use_vllm else [0]
        fields = {name: [values[i] for i in asked] for name, values in multimodal_fields.items()}
        written, scores = super()._generate_single_turn(
            [prompt_ids[i] for i in asked], None, fields, *args, **kwargs
        )
        if stale:
            self._compare_engine()
        completions: list[Any] = list(self._slots or [None] * len(prompt_ids))
        logprobs: list[Any] = [None if ids is None else [None] * len(ids) for ids in completions]
        for place, i in enumerate(policy):
            completions[i] = written[place]
            logprobs[i] = None if scores is None else scores[place]
        return completions, None if scores is None else logprobs

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        rewards: torch.Tensor = super()._calculate_rewards(*args, **kwargs)
        if not self.model.training or self._marks is None:
            return rewards
        self.agree()
        self._rewards = rewards[:, 0].clone()
        return rewards.masked_fill(self._marks.unsqueeze(1), math.nan)

    def _overwrite(self, out: dict[str, Any], weight: float, own: slice) -> None:
        """Replace TRL's advantages, the logged ones too, and record the `hri/*` figures."""
        assert self._rewards is not None and self._marks is not None
        batch = (self._rewards, self._marks, self.num_generations, weight)
        bounds = (self.hri.eps, self.hri.reference_advantage_clip)
        advantages = references.advantages(*batch, *bounds)
        out["advantages"] = advantages[own]
        logged = self._logs["advantages"]
        for _ in range(min(len(logged), len(advantages))):
            logged.pop()
        logged.extend(advantages.tolist())
        metrics = self._metrics["train"]
        metrics["hri/weight"].append(weight)
        for name, value in references.figures(*batch, *bounds).items():
            metrics[name].append(value)

    def _compare_engine(self) -> None:
        """Stop the run if the engine does not hold the weights that were just sent to it."""
        ids = parity.probe_ids(self._tokenizer)
        with self.accelerator.autocast():
            ours = parity.trainer_logprobs(self.model, ids, self.accelerator.device)
        theirs = parity.engine_logprobs(self.vllm_generation.llm, ids)
        difference = torch.tensor([parity.largest_difference(ours, theirs)], device=self.accelerator.device)
        largest = float(gather(difference).max())
        seen = self._metrics["train"]["engine/logprob_max_difference"]
        seen[:] = [max([largest, *seen])]
        if not largest <= self.engine_max_difference:
            raise GuardError(
                f"engine is stale: after the weight sync of step {self.state.global_step} its"
                f" log-probabilities differ from the trainer's by {largest:.3g}, above"
                f" train.engine_max_difference {self.engine_max_difference:g}"
            )


def check_arguments(args: GRPOConfig, hri: HRIConfig) -> None:
    """Raise ConfigError for settings under which injected references would teach something else.

    References are teacher-forced at ratio 1: whatever makes TRL take an old policy's log-probabilities
    would clip most of their tokens away; other scalings would undo the advantages.
    """
    period = args.steps_per_generation * args.num_iterations
    faults = [
        ("scale_rewards", args.scale_rewards, args.scale_rewards != "group"),
        (
            "multi_objective_aggregation",
            args.multi_objective_aggregation,
            args.multi_objective_aggregation != "sum_then_normalize",
        ),
        (
            "gradient_accumulation_steps",
            args.gradient_accumulation_steps,
            args.gradient_accumulation_steps % period != 0,
        ),
        ("vllm_mode", args.vllm_mode, args.use_vllm and args.vllm_mode != "colocate"),
        (
            "vllm_tensor_parallel_size",
            args.vllm_tensor_parallel_size,
            args.use_vllm and args.vllm_tensor_parallel_size != 1,
        ),
        (
            "vllm_importance_sampling_correction",
            True,
            args.use_vllm and args.vllm_importance_sampling_correction,
        ),
    ]
    if hri.max_weight > 0:
        faults += [
            ("num_generations", args.num_generations, args.num_generations < 3),
            ("beta", args.beta, args.beta != 0.0),
            ("top_entropy_quantile", args.top_entropy_quantile, args.top_entropy_quantile < 1.0),
            ("mask_truncated_completions", True, args.mask_truncated_completions),
            (
                "off_policy_mask_threshold",
                args.off_policy_mask_threshold,
                args.off_policy_mask_threshold is not None,
            ),
        ]
    for name, value, bad in faults:
        if bad:
            raise ConfigError(
                f"{name} is {value!r}, with which human references (train.hri) would be trained wrongly:"
                f" leave TRL's {name} as the recipe has it"
            )

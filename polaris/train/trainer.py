"""TRL's GRPOTrainer in, one that injects human references and watches its engine out.

Three overrides that call super (recipe §2), and nothing copied: mark and overwrite around generation and
scoring, splice the reference's tokens into the rollouts, hide its reward from TRL's statistics. The loss is
TRL's own; shaping reaches it as advantages of (B, T). Read against TRL 1.16;
`tests/train/test_trainer_contract.py` pins what is relied upon.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, get_args

import torch
from accelerate.utils import gather, set_seed
from transformers import GenerationConfig
from trl import GRPOConfig, GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from polaris.errors import ConfigError, GuardError
from polaris.recipe import HRIConfig, Loss, Sampling
from polaris.runtime import get_logger
from polaris.train import adapters, parity, references

Answer = TypeVar("Answer")

log = get_logger("train")

REFERENCE_COLUMN = "reference_ids"
"""A row's column with the reference's tokens; empty: this prompt has no reference to inject."""


class ReferenceTrainer(GRPOTrainer):  # type: ignore[misc]
    """GRPO in which slot G − 1 of each group may be the human's story.

    Args:
        hri: weight schedule, eps, clip and shaping.
        max_level_share: share of a step's groups with equal rewards above which a warning is logged.
        engine_max_difference: largest tolerated |Δ log-probability| between trainer and colocated engine.
        agree: called by every process after each step's rewards; raises in all of them or in none.
        **rest: GRPOTrainer's own arguments; rows carry `REFERENCE_COLUMN`.

    Raises:
        ConfigError: `args` combines settings under which the injection would be wrong.

    """

    _metrics: dict[str, Any]
    generation_kwargs: dict[str, Any]
    generation_config: Any

    def __init__(
        self,
        *,
        hri: HRIConfig,
        max_level_share: float,
        engine_max_difference: float,
        agree: Callable[[], None],
        **rest: Any,
    ) -> None:
        check_arguments(rest["args"], hri)
        self.hri = hri
        self.max_level_share = max_level_share
        self._mostly_level = False
        self.engine_max_difference = engine_max_difference
        self.agree = agree
        self._slots: list[list[int] | None] = []
        self._rewards: torch.Tensor | None = None
        self._marks: torch.Tensor | None = None
        self._unproven = False
        """The engine was sent weights and has not been compared with the trainer since."""
        super().__init__(**rest)
        if self.tools or self.environments or self.rollout_func or len(self.reward_funcs) != 1:
            raise ConfigError("the trainer takes one reward function, no tools, environments or rollout_func")
        if rest.get("peft_config") is not None:
            self._prepare_adapters()
        if self.use_vllm:
            # vLLM seeds every generator of the process with a constant when it starts.
            set_seed(self.args.seed, device_specific=True)
            if self.args.vllm_enable_sleep_mode:
                self._compare_before_sleep(self.vllm_generation.llm)

    def _prepare_adapters(self) -> None:
        """Draw the first adapters by the seed alone, and have the engine sent weights without merging them.

        TRL's sync merges adapters into the base and takes them away again, which a bfloat16 base does not
        survive unchanged, and it gathers a sharded model whole.
        """
        adapters.initialise(self.model, self.args.seed)
        if self.use_vllm:
            engine = self.vllm_generation
            engine._iter_named_params = lambda: adapters.merged_parameters(
                self.model, engine._dist.gather_params
            )

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)  # type: ignore[no-any-return]
        weight = self._weight()
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
        if self.hri.shaping == "luffy":
            self._shape(out)
        return out

    def _generate_single_turn(
        self,
        prompt_ids: list[list[int]],
        images: Any,
        multimodal_fields: dict[str, Any],
        *args: Any,
        **kwargs: Any,
    ) -> tuple[list[list[int]], list[list[float | None]] | None]:
        self._unproven = self.use_vllm and self.state.global_step != self._last_loaded_step
        if images is not None:
            raise ConfigError("the prompts carry images: only text is trained")
        policy = [i for i, slot in enumerate(self._slots or [None] * len(prompt_ids)) if slot is None]
        # In-process generation fails on no rows; colocated it must be called: the sync is collective.
        asked = policy if policy or self.use_vllm else [0]
        fields = {name: [values[i] for i in asked] for name, values in multimodal_fields.items()}
        written, scores = super()._generate_single_turn(
            [prompt_ids[i] for i in asked], None, fields, *args, **kwargs
        )
        self._compare_once()
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

    def write_stories(self, prompts: list[list[dict[str, str]]], sampling: Sampling) -> list[list[int]]:
        """Return one completion's tokens a prompt, drawn as `sampling` says, outside of any step.

        The way is a step's own: the same engine, sent the current weights and compared. Every process must
        give the same number of prompts, one at least. Nothing of it stays: sampling and metrics are a step's
        again, and the next step sends the engine its weights as if this had not been.
        """
        prompt_ids, images, fields = self._tokenize_prompts(prompts)
        metrics, self._metrics = self._metrics, {mode: defaultdict(list) for mode in self._metrics}
        try:
            with self._drawn_as(sampling):
                return self._generate_single_turn(prompt_ids, images, fields, 1)[0]
        finally:
            self._metrics = metrics
            if self.use_vllm:
                self._last_loaded_step = -1

    def wait_for(self, answer: Coroutine[Any, Any, Answer]) -> Answer:
        """Return a coroutine's answer; it runs where the rewards do, for the judge's client lives there."""
        return asyncio.run_coroutine_threadsafe(answer, self.async_loop).result()

    @contextmanager
    def _drawn_as(self, sampling: Sampling) -> Iterator[None]:
        """Swap a sampling in, in both of the places where in-process generation has it."""
        drawn = sampling.model_dump()
        if self.use_vllm:
            engine = self.vllm_generation
            before = {name: getattr(engine, name) for name in drawn}
            try:
                _set(engine, drawn)
                yield
            finally:
                _set(engine, before)
            return
        kept = self.generation_kwargs, self.generation_config
        if not sampling.temperature:
            drawn = {"do_sample": False, "repetition_penalty": sampling.repetition_penalty}
            drawn |= dict.fromkeys(("temperature", "top_p", "top_k", "min_p"))
        try:
            self.generation_kwargs = self.generation_kwargs | drawn
            self.generation_config = GenerationConfig(**self.generation_kwargs, disable_compile=True)
            yield
        finally:
            self.generation_kwargs, self.generation_config = kept

    def _weight(self) -> float:
        hri = self.hri
        return references.weight(
            self.state.global_step,
            hri.max_weight,
            hri.warmup_steps,
            decay=hri.decay,
            decay_steps=hri.decay_steps,
            final_weight=hri.final_weight,
            until_step=hri.until_step,
        )

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
        found = references.figures(*batch, *bounds)
        for name, value in found.items():
            metrics[name].append(value)
        self._warn_if_level(int(found["hri/level_groups"]), len(self._rewards) // self.num_generations)

    def _warn_if_level(self, level: int, groups: int) -> None:
        """Log once when most groups come to have equal rewards, and again only after they had not."""
        above = level > self.max_level_share * groups
        if above and not self._mostly_level and self.accelerator.is_main_process:
            log.warning(
                "rewards_all_equal",
                step=self.state.global_step + 1,
                groups=f"{level} of {groups}, above train.max_level_share {self.max_level_share:g}",
                reason="such groups teach nothing: look at the judge's scores and the rollouts' sampling",
            )
        self._mostly_level = above

    def _shape(self, out: dict[str, Any]) -> None:
        """Spread each reference's advantage over its tokens, and record how likely those are.

        The pass takes all local rows: where parameters are sharded it is collective, and a process may have
        no reference.
        """
        assert self._marks is not None
        recorded = self._metrics["train"]["hri/reference_logprob"]
        if not self._marks.any():
            recorded.append(math.nan)
            return
        with (
            torch.no_grad(),
            disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs),
        ):
            logprobs, _, _ = self._get_per_token_logps_and_entropies(
                self.model,
                torch.cat([out["prompt_ids"], out["completion_ids"]], dim=1),
                torch.cat([out["prompt_mask"], out["completion_mask"]], dim=1),
                out["completion_ids"].size(1),
                batch_size=self.args.per_device_train_batch_size,
            )
        tokens = out["is_reference"].unsqueeze(1) & out["completion_mask"].bool()
        shaped = references.shaping_weights(logprobs, tokens, self.hri.shaping_gamma)
        out["advantages"] = out["advantages"].unsqueeze(1) * shaped
        own = torch.stack([logprobs[tokens].double().sum(), tokens.sum().double()])
        total, count = gather(own.unsqueeze(0)).sum(dim=0).tolist()
        recorded.append(total / count)

    def _compare_before_sleep(self, llm: Any) -> None:
        """Have the engine compared while it is awake: after it has written TRL takes its weights away."""
        sleep = llm.sleep

        def compare_and_sleep(*args: Any, **kwargs: Any) -> Any:
            self._compare_once()
            return sleep(*args, **kwargs)

        llm.sleep = compare_and_sleep

    def _compare_once(self) -> None:
        if self._unproven:
            self._unproven = False
            self._compare_engine()

    def _forget_trace(self) -> None:
        """Have ZeRO-3 trace the step's own forward anew.

        It frees parameters by the order in which modules used them. The comparison calls the LM head as a
        module; TRL's fused one only reads its weight, which would be gone when its gradient arrives.
        """
        offload = getattr(getattr(self.model_wrapped, "optimizer", None), "parameter_offload", None)
        if offload is not None:
            coordinator = offload.get_param_coordinator()
            if not coordinator.is_invalid_trace():
                coordinator._invalidate_trace()

    def _compare_engine(self) -> None:
        """Stop the run if the engine does not hold the weights that were just sent to it."""
        ids = parity.probe_ids(self._tokenizer)
        with self.accelerator.autocast():
            ours = parity.trainer_logprobs(self.model, ids, self.accelerator.device)
        self._forget_trace()
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


def _set(engine: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(engine, name, value)


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
            # cispo caps the ratio itself, so epsilon_high would scale every gradient; luspo sums a row's
            # tokens and has one ratio for them; sapo and vespo are grpo and dapo at ratio 1.
            ("loss_type", args.loss_type, args.loss_type not in get_args(Loss)),
            (
                "importance_sampling_level",
                args.importance_sampling_level,
                args.importance_sampling_level != "token",
            ),
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

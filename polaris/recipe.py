"""The recipe's settings: sampling, reward, human-reference injection, training; defaults are the paper's."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from polaris.fields import Identity, Name, Operational, Section

Decay = Literal["none", "linear", "cosine"]
"""How the human reference's weight falls after warm-up."""
Loss = Literal["bnpo", "dapo", "grpo", "dr_grpo"]
"""Those of TRL's loss types under which the rows' tokens are weighted as their advantages say."""


class Sampling(Section):
    """How tokens are drawn."""

    temperature: Identity[float] = Field(default=0.8, ge=0, le=2)
    """Softmax temperature; 0 is greedy."""
    top_p: Identity[float] = Field(default=0.95, gt=0, le=1)
    """Nucleus share."""
    top_k: Identity[int] = Field(default=0, ge=0)
    """The k likeliest tokens; 0 is off."""
    repetition_penalty: Identity[float] = Field(default=1.10, ge=1, le=2)
    """Divides the logits of tokens already seen."""


class RewardWeights(Section):
    """Weights of the reward's terms (recipe §3)."""

    quality: Identity[float] = Field(default=1.0, ge=0)
    """Story Quality / 100."""
    repetition: Identity[float] = Field(default=1.5, ge=0)
    """Self-repetition."""
    length: Identity[float] = Field(default=0.8, ge=0)
    """Length penalty."""
    blank: Identity[float] = Field(default=1.0, ge=0)
    """Blank penalty."""
    length_reward: Identity[float] = Field(default=0.0, ge=0)
    """The optional length reward."""


class ValidationWeights(RewardWeights):
    """Weights of the same terms in validation (recipe §3)."""

    repetition: Identity[float] = Field(default=0.8, ge=0)
    """Self-repetition."""
    length: Identity[float] = Field(default=0.2, ge=0)
    """Length penalty."""


class ThinkingPenalty(Section):
    """A penalty on long thoughts; the release computes it and loses it."""

    limit: Identity[int] = Field(default=3072, ge=0)
    """Thinking tokens that cost nothing."""
    penalty: Identity[float] = Field(default=0.05, ge=0)
    """What any more cost."""


class OverlongPenalty(Section):
    """A penalty that rises to 1 where `train.max_completion_tokens` cuts; the release loses it too."""

    buffer: Identity[int] = Field(default=512, ge=1)
    """Tokens before the cut over which it rises from 0."""


class DisqualificationGate(Section):
    """What gives a rollout the lowest Story Quality, whatever else it does; never a human reference."""

    incoherence: Identity[int] = Field(default=7, ge=1, le=20)
    """N2 from which a story is disqualified."""
    nonsense: Identity[int] = Field(default=8, ge=1, le=20)
    """N10 from which a story is disqualified."""
    share_of_target: Identity[float] = Field(default=0.4, ge=0, le=1)
    """Share of the target words below which a story is disqualified."""


class RewardConfig(Section):
    """The reward r = clip(Σ weight · term) of one story."""

    weights: RewardWeights = RewardWeights()
    """Weights in training."""
    validation_weights: ValidationWeights = ValidationWeights()
    """Weights in the validation that goes with training."""
    thinking: ThinkingPenalty | None = None
    """Switches the thinking penalty on; `{}` with the recipe's numbers."""
    overlong: OverlongPenalty | None = None
    """Switches the overlong penalty on; `{}` with the recipe's numbers."""
    disqualify: DisqualificationGate | None = None
    """Switches the disqualification gate on; `{}` with the recipe's numbers."""
    clip: Identity[float] = Field(default=2.0, gt=0)
    """The reward lies in [−clip, clip]."""
    min_words: Identity[int] = Field(default=150, ge=1)
    """Fewer words are a blank story."""
    min_target: Identity[int] = Field(default=150, ge=1)
    """A target below this counts as this."""
    lower_floor: Identity[int] = Field(default=350, ge=0)
    """Smallest tolerance below the target, words."""
    lower_cap: Identity[int] = Field(default=1000, ge=0)
    """Largest tolerance below the target, words."""
    upper_floor: Identity[int] = Field(default=600, ge=0)
    """Smallest tolerance above the target, words."""
    upper_cap: Identity[int] = Field(default=1500, ge=0)
    """Largest tolerance above the target, words."""
    max_failed_share: Operational[float] = Field(default=0.5, ge=0, le=1)
    """Training stops when more than this share of the last judge calls failed."""
    failed_window: Operational[int] = Field(default=100, ge=1)
    """How many judge calls, of all processes, that share is taken over: the last steps that hold so many."""

    @model_validator(mode="after")
    def _floors_below_caps(self) -> RewardConfig:
        for side in ("lower", "upper"):
            floor, cap = getattr(self, f"{side}_floor"), getattr(self, f"{side}_cap")
            if floor > cap:
                raise ValueError(f"{side}_floor {floor} is above {side}_cap {cap}; expected at most that")
        return self


class HRIConfig(Section):
    """Human-reference injection (recipe §2)."""

    max_weight: Identity[float] = Field(default=0.4, ge=0)
    """The weight after warm-up; 0 is plain GRPO."""
    warmup_steps: Identity[int] = Field(default=15, ge=1)
    """w(s) = max_weight · min(1, s / warmup_steps)."""
    decay: Identity[Decay] = "none"
    """How the weight falls from `max_weight` to `final_weight` once warm-up is over; none keeps it."""
    decay_steps: Identity[int | None] = Field(default=None, ge=1)
    """Optimiser steps from the end of warm-up to `final_weight`; goes with a `decay`."""
    final_weight: Identity[float] = Field(default=0.0, ge=0)
    """The weight after a `decay`."""
    until_step: Identity[int | None] = Field(default=None, ge=1)
    """No reference is injected from this step on, counted from 0; null is never."""
    shaping: Identity[Literal["none", "luffy"]] = "none"
    """Weights of a reference's tokens; luffy is γ·p/(p + γ)² (Yan et al. 2025), none is 1.

    It peaks at 1/4 where p = γ and damps unlikely tokens: an ablation, at one more forward pass a step.
    """
    shaping_gamma: Identity[float] = Field(default=0.1, gt=0)
    """The γ of `shaping`."""
    eps: Identity[float] = Field(default=1e-6, gt=0)
    """Added to a group's standard deviation."""
    reference_advantage_clip: Identity[float | None] = Field(default=10.0, gt=0)
    """Bound on |A_ref|; null is none."""

    @model_validator(mode="after")
    def _decay_is_whole(self) -> HRIConfig:
        if (self.decay == "none") != (self.decay_steps is None):
            steps = "null" if self.decay_steps is None else self.decay_steps
            raise ValueError(f"decay {self.decay} with decay_steps {steps}; expected both or neither")
        if self.final_weight > self.max_weight:
            raise ValueError(
                f"final_weight {self.final_weight} is above max_weight {self.max_weight};"
                " expected at most that"
            )
        return self


class ValidationConfig(Section):
    """Stories written and judged while training goes on, of pairs that it never sees (recipe §1)."""

    every_steps: Identity[int] = Field(default=20, ge=1)
    """Optimiser steps from one validation to the next."""
    before_first: Identity[bool] = True
    """Validate the base model too, before the first step."""
    limit: Identity[int | None] = Field(default=None, ge=1)
    """Only the first so many held back pairs; null takes all."""
    fitting: Identity[bool] = True
    """Leave out pairs whose story is longer than `max_completion_tokens`: no answer could be as long."""
    sampling: Sampling = Sampling()
    """How these stories are drawn."""


class LoraConfig(Section):
    """Low-rank adapters (Hu et al. 2021) beside every linear layer; the base itself stays as it is."""

    rank: Identity[int] = Field(default=32, ge=1)
    """The adapters' rank r."""
    alpha: Identity[int] = Field(default=64, ge=1)
    """What an adapter adds is scaled by alpha / rank."""


class TrainConfig(Section):
    """GRPO with human-reference injection; defaults are the paper's."""

    base: Identity[Name]
    """The model to start from, a `checkpoint` under `models`."""
    judge: Identity[Name]
    """The reward's judge, a name under `judges`."""
    prompts_per_step: Identity[int] = Field(default=8, ge=1)
    """Prompts of one optimiser step."""
    group_size: Identity[int] = Field(default=6, ge=3)
    """Rows a prompt, the reference included."""
    epochs: Identity[float] = Field(default=1.0, gt=0)
    """Passes over the pairs, unless `max_steps` says otherwise."""
    max_steps: Identity[int | None] = Field(default=None, ge=1)
    """Optimiser steps; null follows `epochs`."""
    micro_batch: Identity[int] = Field(default=2, ge=1)
    """Rows of one forward pass on one process."""
    max_prompt_tokens: Identity[int] = Field(default=256, ge=16)
    """Longer prompts are left out and counted."""
    max_completion_tokens: Identity[int] = Field(default=8192, ge=16)
    """A rollout's or reference's longest completion."""
    learning_rate: Identity[float] = Field(default=1e-6, gt=0)
    """AdamW's constant learning rate."""
    weight_decay: Identity[float] = Field(default=0.01, ge=0)
    """AdamW's weight decay."""
    max_grad_norm: Identity[float] = Field(default=1.0, gt=0)
    """Gradient clip."""
    epsilon_low: Identity[float] = Field(default=0.20, gt=0, lt=1)
    """Clip of the ratio below."""
    epsilon_high: Identity[float] = Field(default=0.28, gt=0)
    """Clip of the ratio above."""
    loss: Identity[Loss] = "bnpo"
    """How TRL averages the tokens' losses; bnpo is the recipe's.

    bnpo: over the tokens of a micro-batch. dapo: over the tokens of the step. grpo: over the tokens of a row,
    then over rows. dr_grpo: a row's sum over `max_completion_tokens`; advantages stay scaled by group.
    """
    sampling: Sampling = Sampling(temperature=1.0, top_p=0.95, top_k=20, repetition_penalty=1.10)
    """How rollouts are drawn."""
    hri: HRIConfig = HRIConfig()
    """Human-reference injection."""
    validation: ValidationConfig | None = ValidationConfig()
    """Validation on the pairs that `data.validation_share` holds back; null never validates."""
    lora: LoraConfig | None = None
    """Trains adapters in place of the whole model, `{}` with rank 32; they are merged in what is exported."""
    gradient_checkpointing: Operational[bool] = True
    """Trade time for memory."""
    nodes: Operational[int] = Field(default=1, ge=1)
    """Pods or machines that train together."""
    processes: Operational[int] = Field(default=1, ge=1)
    """Training processes of each node, one a GPU."""
    zero_stage: Operational[Literal[0, 2, 3]] = 0
    """DeepSpeed ZeRO stage; 0 trains without DeepSpeed."""
    rollout_engine: Operational[Literal["vllm", "transformers"]] = "vllm"
    """vLLM inside the training process, or transformers' own generate."""
    engine_memory: Operational[float] = Field(default=0.3, gt=0, le=1)
    """Share of GPU memory for the colocated engine."""
    engine_max_difference: Operational[float] = Field(default=0.5, gt=0)
    """The run stops when engine and trainer differ by more than this in a fixed text's log-probs.

    bfloat16 alone makes 0.1 of difference on a small model, float32 1e-5.
    """
    max_level_share: Operational[float] = Field(default=0.5, ge=0, le=1)
    """A warning is logged when more than this share of a step's groups have rewards that are all equal."""
    save_steps: Operational[int] = Field(default=5, ge=1)
    """A checkpoint every so many steps: what a lost machine can cost."""
    report_to: Operational[tuple[Literal["tensorboard", "wandb"], ...]] = ("tensorboard",)
    """Where the metrics go beside `metrics.jsonl`: TensorBoard's event files in the artifact, and W&B by its
    own variables (`WANDB_API_KEY`, `WANDB_PROJECT`, …)."""

    @property
    def rows_per_step(self) -> int:
        """Rows of one optimiser step."""
        return self.prompts_per_step * self.group_size

    @property
    def world_size(self) -> int:
        """Training processes of all nodes."""
        return self.nodes * self.processes

    @model_validator(mode="after")
    def _rows_divide(self) -> TrainConfig:
        at_once = self.world_size * self.micro_batch
        if self.rows_per_step % at_once:
            nodes = f"nodes {self.nodes} × " if self.nodes > 1 else ""
            raise ValueError(
                f"prompts_per_step {self.prompts_per_step} × group_size {self.group_size} ="
                f" {self.rows_per_step} rows a step are no multiple of {nodes}processes {self.processes} ×"
                f" micro_batch {self.micro_batch} = {at_once}; expected a micro_batch that divides"
                f" {self.rows_per_step} / {self.world_size}"
            )
        return self

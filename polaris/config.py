"""The sections of a run's configuration, frozen and fully checked: `RunConfig` and its parts.

How fields are marked, and what the marks mean: `polaris/fields.py`. Reading YAML: `polaris/load.py`.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from polaris.fields import (
    REPOSITORY_PATTERN,
    URL_PATTERN,
    VARIABLE_PATTERN,
    Content,
    Identity,
    LocalPath,
    Name,
    Operational,
    Section,
    absolute,
    without_credentials,
)


class StoreConfig(Section):
    """The object store that holds every artifact, checkpoint and judge answer."""

    url: Operational[str] = Field(default=".polaris/store", validate_default=True)
    """`s3://bucket/prefix`, `file:///absolute`, or a folder relative to this file."""
    endpoint: Operational[str | None] = Field(default=None, pattern=URL_PATTERN)
    """S3 endpoint URL; null is AWS itself."""
    region: Operational[str | None] = None
    """S3 region; null takes AWS_REGION or the profile's."""
    path_style: Operational[bool] = False
    """Address buckets by path, not by host name; most stores other than AWS need it."""
    checksum: Operational[Literal["when_required", "when_supported"]] = "when_required"
    """boto3's checksum mode; `when_supported` breaks some older stores."""
    part_mib: Operational[int] = Field(default=32, ge=5, le=1024)
    """Size of one part of a multipart transfer, MiB."""
    parallel: Operational[int] = Field(default=4, ge=1, le=64)
    """Parts of one object in flight at once."""
    retries: Operational[int] = Field(default=5, ge=1, le=20)
    """Tries of one request before the store counts as down."""

    @field_validator("url", "endpoint")
    @classmethod
    def _no_credentials(cls, value: str | None) -> str | None:
        return without_credentials(value)

    @field_validator("url")
    @classmethod
    def _folder_as_url(cls, value: str, info: ValidationInfo) -> str:
        if value.startswith(("s3://", "file:///")):
            return value
        if "://" in value:
            raise ValueError("expected s3://bucket/prefix, file:///absolute/folder or a relative folder")
        return absolute(Path(value), info).as_uri()


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


class ServeConfig(Section):
    """How a model of this run is served; the endpoint speaks the OpenAI protocol."""

    engine: Operational[Literal["vllm", "transformers"]] = "vllm"
    """`transformers` serves where vLLM cannot be installed; it knows no structured output."""
    max_model_len: Operational[int | None] = Field(default=None, ge=64)
    """Longest prompt plus answer in tokens; null takes the model's own."""
    tensor_parallel: Operational[int] = Field(default=1, ge=1)
    """GPUs that share one copy of the model."""
    gpu_memory_utilization: Operational[float] = Field(default=0.9, gt=0, le=1)
    """Share of each GPU's memory that vLLM takes."""
    kv_cache_gib: Operational[int] = Field(default=1, ge=1)
    """KV cache on a CPU, GiB."""
    enforce_eager: Operational[bool] = False
    """Skip graph capture and compilation: slower tokens, a much quicker start."""
    extra_args: Operational[tuple[str, ...]] = ()
    """Further arguments of `vllm serve`, as they are."""


class CheckpointModel(Section):
    """Weights that exist before the run: a local folder, or a hub repository at a revision."""

    kind: Identity[Literal["checkpoint"]]
    """Weights that exist before the run."""
    path: Content[LocalPath | None] = None
    """Folder with safetensors, tokenizer and config.json; its content hash is the model's identity."""
    repo: Identity[str | None] = Field(default=None, pattern=REPOSITORY_PATTERN)
    """`owner/name@revision`; a moving branch is no identity, so the revision must be given."""
    dtype: Identity[Literal["bfloat16", "float32"]] = "bfloat16"
    """Number format in which the model is served and trained."""
    thinking: Identity[bool] = False
    """The chat template opens `<think>`: the model reasons first, and only what follows is the story."""
    serve: Operational[ServeConfig] = ServeConfig()
    """The model's endpoint."""

    @model_validator(mode="after")
    def _one_source(self) -> CheckpointModel:
        if (self.path is None) == (self.repo is None):
            raise ValueError("give exactly one of path and repo")
        return self


class TrainedModel(Section):
    """The model that this run's `train` stage makes, of its base model's dtype and thinking mode."""

    kind: Identity[Literal["trained"]]
    """The model that `train` makes."""
    serve: Operational[ServeConfig] = ServeConfig()
    """The model's endpoint."""


class EndpointModel(Section):
    """A model that somebody else serves, OpenAI-compatible."""

    kind: Identity[Literal["endpoint"]]
    """Served elsewhere."""
    identity: Identity[str] = Field(min_length=1)
    """The model's declared identity, for digests and results, for instance `openai/gpt-5.4`."""
    url: Operational[str] = Field(pattern=URL_PATTERN)
    """Base URL, up to and with `/v1`."""
    model: Operational[str] = Field(min_length=1)
    """The name by which the endpoint knows the model."""
    api_key_env: Operational[str] = Field(default="OPENAI_API_KEY", pattern=VARIABLE_PATTERN)
    """Environment variable with the key, or, with `_FILE` behind its name, the path of a file with it."""
    thinking: Identity[bool] = False
    """Answers begin with reasoning up to `</think>`."""

    @field_validator("url")
    @classmethod
    def _no_credentials(cls, value: str) -> str:
        return without_credentials(value) or value


Model = Annotated[CheckpointModel | TrainedModel | EndpointModel, Field(discriminator="kind")]


class DataConfig(Section):
    """Anthologies → prompt–story pairs."""

    books: Content[tuple[LocalPath, ...]] = Field(min_length=1)
    """EPUB files, in order."""
    prompts: Content[LocalPath | None] = None
    """JSONL rows `{title, author?, prompt, reasoning}`, matched to stories by title and author."""
    min_words: Identity[int] = Field(default=1000, ge=1)
    """Shorter stories are left out and counted."""
    max_words: Identity[int] = Field(default=4000, ge=1)
    """Longer stories are left out and counted."""
    round_target_to: Identity[int] = Field(default=50, ge=1)
    """A pair's target is its story's word count rounded to a multiple of this."""
    validation_share: Identity[float] = Field(default=0.0, ge=0, lt=1)
    """Share of stories held back for validation, split by author."""

    @model_validator(mode="after")
    def _range(self) -> DataConfig:
        if self.min_words > self.max_words:
            raise ValueError(f"min_words {self.min_words} is above max_words {self.max_words}")
        return self


class JudgeConfig(Section):
    """One judge: a model, the rubric's form and how it is asked."""

    model: Identity[Name]
    """A name under `models`."""
    form: Identity[Literal["full", "compact"]] = "full"
    """`compact` asks for scores only, in one line a dimension: for small local judges."""
    temperature: Identity[float] = Field(default=0.2, ge=0, le=2)
    """Softmax temperature."""
    top_p: Identity[float] = Field(default=0.9, gt=0, le=1)
    """Nucleus share."""
    max_tokens: Identity[int] = Field(default=16384, ge=64)
    """Longest answer in tokens, reasoning included; an answer cut there is a failure."""
    structured: Identity[Literal["json_schema", "prompt"]] = "json_schema"
    """Enforce the schema by response_format, or put it into the prompt."""
    max_story_tokens: Identity[int | None] = Field(default=None, ge=64)
    """A story longer than about this many tokens fails instead of overflowing the judge's context."""
    repeats: Identity[int] = Field(default=1, ge=1, le=32)
    """Judgements a story."""
    concurrency: Operational[int] = Field(default=16, ge=1, le=512)
    """Calls in flight at once."""
    attempts: Operational[int] = Field(default=6, ge=1, le=20)
    """Tries of one call, the first included."""
    timeout_s: Operational[float] = Field(default=600.0, gt=0)
    """Longest wait for one answer, seconds."""
    usd_per_million_prompt_tokens: Operational[float] = Field(default=0.0, ge=0)
    """Price of what the judge reads."""
    usd_per_million_completion_tokens: Operational[float] = Field(default=0.0, ge=0)
    """Price of what the judge writes, reasoning included."""


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


class RewardConfig(Section):
    """The reward r = clip(Σ weight · term) of one story."""

    weights: RewardWeights = RewardWeights()
    """Weights in training."""
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
    max_failed_share: Identity[float] = Field(default=0.5, ge=0, le=1)
    """Training stops when more than this share of the last judge calls failed."""
    failed_window: Identity[int] = Field(default=100, ge=1)
    """How many judge calls that share is taken over."""


class HRIConfig(Section):
    """Human-reference injection (recipe §2)."""

    max_weight: Identity[float] = Field(default=0.4, ge=0)
    """The weight after warm-up; 0 is plain GRPO."""
    warmup_steps: Identity[int] = Field(default=15, ge=1)
    """w(s) = max_weight · min(1, s / warmup_steps)."""
    eps: Identity[float] = Field(default=1e-6, gt=0)
    """Added to a group's standard deviation."""
    reference_advantage_clip: Identity[float | None] = Field(default=10.0, gt=0)
    """Bound on |A_ref| / w; null is none."""


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
    loss: Identity[Literal["bnpo", "dapo"]] = "bnpo"
    """TRL's loss aggregation; bnpo is the recipe's."""
    sampling: Sampling = Sampling(temperature=1.0, top_p=0.95, top_k=20, repetition_penalty=1.10)
    """How rollouts are drawn."""
    hri: HRIConfig = HRIConfig()
    """Human-reference injection."""
    gradient_checkpointing: Operational[bool] = True
    """Trade time for memory."""
    processes: Operational[int] = Field(default=1, ge=1)
    """Training processes, one a GPU."""
    zero_stage: Operational[Literal[0, 2, 3]] = 0
    """DeepSpeed ZeRO stage; 0 trains without DeepSpeed."""
    rollout_engine: Operational[Literal["vllm", "transformers"]] = "vllm"
    """vLLM inside the training process, or transformers' own generate."""
    engine_memory: Operational[float] = Field(default=0.3, gt=0, le=1)
    """Share of GPU memory for the colocated engine."""
    engine_max_difference: Identity[float] = Field(default=0.25, gt=0)
    """The run stops when engine and trainer differ by more than this in a fixed text's log-probs.

    bfloat16 alone makes 0.1 of difference on a small model, float32 1e-5.
    """
    save_steps: Operational[int] = Field(default=5, ge=1)
    """A checkpoint every so many steps: what a lost machine can cost."""


class StoryQualityEvaluation(Section):
    """Story Quality of one sample a prompt."""

    kind: Identity[Literal["story-quality"]]
    """The benchmark."""
    prompts: Content[LocalPath]
    """JSONL rows `{id, prompt, target_word_count}`."""
    models: Operational[tuple[Name, ...]] = Field(min_length=1)
    """The models that write."""
    baseline: Identity[Name | None] = None
    """The other models are compared with this one, prompt by prompt."""
    judge: Identity[Name]
    """A name under `judges`."""
    limit: Identity[int | None] = Field(default=None, ge=1)
    """Only the first so many prompts."""
    samples: Identity[int] = Field(default=1, ge=1)
    """Stories a prompt."""
    max_tokens: Identity[int] = Field(default=32768, ge=16)
    """Longest completion; stories cut there are counted beside every figure."""
    sampling: Sampling = Sampling()
    """How stories are drawn."""
    bootstrap: Identity[int] = Field(default=10000, ge=100)
    """Resamples behind each interval."""
    concurrency: Operational[int] = Field(default=16, ge=1, le=512)
    """Stories in flight at once."""


Evaluation = StoryQualityEvaluation


class ExecuteConfig(Section):
    """How the instances are carried out."""

    parallel: Operational[int] = Field(default=1, ge=1)
    """Stages at once."""
    retries: Operational[int] = Field(default=2, ge=0)
    """Further attempts of a stage that died or met something transient."""
    service_timeout_s: Operational[float] = Field(default=1800.0, gt=0)
    """Longest wait for a model endpoint's first token, seconds."""
    work_dir: Operational[LocalPath] = Field(default=Path(".polaris/work"), validate_default=True)
    """Scratch space and logs; relative to this file."""
    report_file: Operational[LocalPath] = Field(default=Path(".polaris/report.html"), validate_default=True)
    """Where `polaris run` leaves a copy of the finished report."""


class RunConfig(Section):
    """One run: what it reads, trains, writes, judges and reports."""

    run: Operational[Name]
    """The run's name; its artifacts lie under `runs/<run>/`."""
    seed: Identity[int] = Field(default=3479, ge=0)
    """Seed of every random choice."""
    store: StoreConfig = Field(default_factory=StoreConfig)
    """The object store."""
    models: dict[Name, Model]
    """Models by name."""
    data: DataConfig
    """The data stage."""
    judges: dict[Name, JudgeConfig]
    """Judges by name."""
    reward: RewardConfig = RewardConfig()
    """The reward of training."""
    train: TrainConfig | None = None
    """The training stage; null trains nothing."""
    evaluations: dict[Name, Evaluation] = Field(default_factory=dict)
    """Evaluations by name."""
    execute: ExecuteConfig = Field(default_factory=ExecuteConfig)
    """The executor."""

    @model_validator(mode="after")
    def _references_exist(self) -> RunConfig:
        for where, name, table in self._references():
            if name not in table:
                near = difflib.get_close_matches(name, table, n=1, cutoff=0.5)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                known = ", ".join(table) or "nothing"
                raise ValueError(f"{where}: value '{name}'; expected one of: {known}{hint}")
        trained = [name for name, model in self.models.items() if model.kind == "trained"]
        if trained and self.train is None:
            raise ValueError(f"models.{trained[0]}: this run trains it, but there is no train section")
        if self.train and self.models[self.train.base].kind != "checkpoint":
            raise ValueError(f"train.base: value '{self.train.base}'; expected a model of kind checkpoint")
        if self.train and self.judges[self.train.judge].model in trained:
            what = "expected a judge that asks another model than the one that this training makes"
            raise ValueError(f"train.judge: value '{self.train.judge}'; {what}")
        return self

    def _references(self) -> list[tuple[str, str, dict[str, Any]]]:
        models: dict[str, Any] = dict(self.models)
        judges: dict[str, Any] = dict(self.judges)
        found = [(f"judges.{name}.model", judge.model, models) for name, judge in self.judges.items()]
        if self.train:
            found += [("train.base", self.train.base, models), ("train.judge", self.train.judge, judges)]
        for name, evaluation in self.evaluations.items():
            found += [(f"evaluations.{name}.models", model, models) for model in evaluation.models]
            found.append((f"evaluations.{name}.judge", evaluation.judge, judges))
            if evaluation.baseline:
                writers = dict.fromkeys(evaluation.models)
                found.append((f"evaluations.{name}.baseline", evaluation.baseline, writers))
        return found

    def thinking(self, model: str) -> bool:
        """Tell whether the named model reasons before its story."""
        found = self.models[model]
        if isinstance(found, TrainedModel):
            assert self.train is not None
            return self.thinking(self.train.base)
        return found.thinking

    def dtype(self, model: str) -> str:
        """Return the number format in which a model of this run is served."""
        found = self.models[model]
        if isinstance(found, TrainedModel):
            assert self.train is not None
            return self.dtype(self.train.base)
        assert isinstance(found, CheckpointModel)
        return found.dtype

"""The models of a run's configuration: where each comes from, who answers for it, and how it is served."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from polaris.fields import (
    REPOSITORY_PATTERN,
    URL_PATTERN,
    VARIABLE_PATTERN,
    Content,
    Identity,
    ModelPath,
    Name,
    Operational,
    Section,
    without_credentials,
)
from polaris.providers import ProviderName, Tier, providers


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
    """Further arguments of the server, as they are; no keys, for they are shown and stored."""

    @field_validator("extra_args")
    @classmethod
    def _no_keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any("key" in word or "token=" in word for word in value if word.startswith("--")):
            raise ValueError("extra_args must carry no key; export VLLM_API_KEY instead")
        return value


class CheckpointModel(Section):
    """Weights that exist before the run: a local folder, or a hub repository at a revision."""

    kind: Identity[Literal["checkpoint"]]
    """Weights that exist before the run."""
    path: Content[ModelPath | None] = None
    """Folder with safetensors, tokenizer and config.json, or `store:models/NAME` (`polaris model import`);
    its content hash is the model's identity."""
    repo: Identity[str | None] = Field(default=None, pattern=REPOSITORY_PATTERN)
    """`owner/name@revision`, from the store if it was imported there, else from the hub; a moving branch is
    no identity, so the revision must be given."""
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
    """The model that a training of this run makes, of its base model's dtype and thinking mode."""

    kind: Identity[Literal["trained"]]
    """The model that `train` makes."""
    arm: Identity[Name | None] = None
    """The one under `arms` that makes it; null is `train` itself."""
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
    provider: Operational[ProviderName] = "openai"
    """Who answers: decides parameter names and what can be asked. `other` is sent the plainest protocol."""
    service_tier: Operational[Tier] = "standard"
    """`flex` costs half and waits longer; a call that it has no room for is made at the standard tier."""
    requests_per_minute: Operational[int | None] = Field(default=None, ge=1)
    """The account's limit; the processes of a training share it out."""
    tokens_per_minute: Operational[int | None] = Field(default=None, ge=1)
    """The account's limit, read and written tokens together."""
    api_key_env: Operational[str] = Field(default="OPENAI_API_KEY", pattern=VARIABLE_PATTERN)
    """Environment variable with the key, or, with `_FILE` behind its name, the path of a file with it."""
    thinking: Identity[bool] = False
    """Answers begin with reasoning up to `</think>`."""
    usd_per_million_prompt_tokens: Operational[float] = Field(default=0.0, ge=0)
    """Price of what the model reads, US$."""
    usd_per_million_cached_prompt_tokens: Operational[float | None] = Field(default=None, ge=0)
    """Price of what it reads from the provider's own prefix cache; null: that of the others."""
    usd_per_million_completion_tokens: Operational[float] = Field(default=0.0, ge=0)
    """Price of what the model writes, reasoning included, US$."""

    @field_validator("url")
    @classmethod
    def _no_credentials(cls, value: str) -> str:
        return without_credentials(value) or value

    @model_validator(mode="after")
    def _tier_is_sold(self) -> EndpointModel:
        if self.service_tier == "flex" and not providers()[self.provider].flex:
            raise ValueError(f"service_tier: value 'flex'; provider '{self.provider}' has no such tier")
        return self


Model = Annotated[CheckpointModel | TrainedModel | EndpointModel, Field(discriminator="kind")]

"""`providers.yaml` in, what each provider of the OpenAI protocol takes and sells out."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Literal

from polaris.fields import Section

ProviderName = Literal["openai", "gemini", "vllm", "other"]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
Tier = Literal["standard", "flex"]


class Provider(Section):
    """One provider; the fields are explained at the head of `providers.yaml`."""

    token_limit: Literal["max_completion_tokens", "max_tokens"]
    reasoning_effort: tuple[Effort, ...] = ()
    structured: Literal["json_schema", "prompt"] = "json_schema"
    sampling: tuple[Literal["top_k", "repetition_penalty", "min_p"], ...] = ()
    tells_defaults: bool = False
    chat_template: bool = False
    seed: bool = False
    flex: bool = False
    batch: bool = False
    half_price_tier: float = 1.0


@cache
def providers() -> dict[str, Provider]:
    """Return every provider by name."""
    import yaml

    data = yaml.safe_load(files("polaris").joinpath("providers.yaml").read_text(encoding="utf-8"))
    return {name: Provider(**fields) for name, fields in data.items()}

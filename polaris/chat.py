"""What is asked of a chat model in, what came back and what it cost out: the client's data, and no more."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from polaris.providers import Effort, ProviderName, Tier
from polaris.recipe import Sampling

Message = dict[str, str]
"""`role` and `content`."""

FailureKind = Literal["unavailable", "too long", "refused", "broken"]
"""Why a request has no answer; `broken` is a stream that broke off after its first text, or a request that
the endpoint rejects though it answers others."""

BYTES_PER_TOKEN = 4
"""UTF-8 bytes of English prose in one token, about: for estimates where nobody counts."""

AnswerTier = Literal["standard", "flex", "batch"]
"""How an answer was sold."""

RetryKind = Literal["rate limited", "no room", "timed out", "unanswered", "not sent", "too late", "fault"]
"""What an attempt came to. `no room`: the flex tier is full. `timed out` and `unanswered`: it was sent, and
may have to be paid for, but nothing came back. `too late`: its turn came after the call's deadline. `fault`:
answered with an error, or with half an answer."""


@dataclass(frozen=True)
class Endpoint:
    """A model that answers chat completions."""

    url: str
    """Base URL, up to and with `/v1`."""
    model: str
    """The name by which the endpoint knows the model."""
    identity: str
    """What the model is, whatever serves it: part of cache keys and results."""
    api_key: str = field(default="", repr=False)
    ours: bool = False
    """Served by this run: it takes vLLM's sampling parameters, a seed and chat template arguments."""
    engine: Literal["vllm", "transformers"] = "vllm"
    """What serves a model of ours."""
    thinking: bool = False
    """The model reasons before it answers."""
    provider: ProviderName = "openai"
    """What it takes (`polaris/providers.yaml`); of a model of ours `engine` says that."""
    tier: Tier = "standard"
    """The service tier to ask for first."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    setting: str = "models"
    """The configuration's section that names it, for messages: `models.judge`."""
    api_key_env: str = ""
    """The variable that the key came from, for messages."""


@dataclass(frozen=True)
class ChatRequest:
    """One question; everything in it decides the answer and so the cache key, except `seed`."""

    messages: tuple[Message, ...]
    max_tokens: int
    sampling: Sampling = Sampling(temperature=1.0, top_p=1.0, repetition_penalty=1.0)
    schema: dict[str, Any] | None = None
    """JSON schema that the endpoint enforces; None asks for free text."""
    thinking: bool = False
    """Whether a model of ours reasons first (`enable_thinking` of its chat template)."""
    seed: int | None = None
    """For endpoints of ours; None derives one from the request and its repeat."""
    effort: Effort | None = None
    """How long a reasoning model of somebody else's thinks; None leaves it to the endpoint."""


@dataclass(frozen=True)
class ChatAnswer:
    """What came back."""

    text: str
    finish_reason: str
    """`stop`, or `length` where `max_tokens` or the context cut it."""
    prompt_tokens: int
    completion_tokens: int
    """Reasoning included."""
    reasoning: str | None = None
    """Thoughts that the endpoint sends apart from the text; None if it does not. Not kept in the cache."""
    cached: bool = False
    """It came from the cache; attempts, usd and latency_s are what it took when it was asked for."""
    attempts: int = 1
    usd: float = 0.0
    latency_s: float = 0.0
    """Seconds that the attempt took that brought it; 0 by batch."""
    tier: AnswerTier = "standard"


@dataclass
class Usage:
    """What calls cost and what happened to them; two of them add up."""

    calls: int = 0
    """Answers that the endpoint gave and was paid for, cut and refused ones included."""
    cached_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Reasoning included."""
    usd: float = 0.0
    retries: int = 0
    """Further attempts, for whatever reason."""
    rate_limited: int = 0
    """Attempts that were answered 429."""
    unanswered: int = 0
    """Attempts that were sent and never answered: booked at their estimate, in `usd` too."""
    failures: int = 0
    """Calls that ended without an answer."""
    backoffs: int = 0
    """Times that the number of calls in flight was halved because of 429s."""
    repairs: int = 0
    """Invalid answers that were sent back."""
    schema_fallbacks: int = 0
    """Times that a schema had to go into the prompt because the endpoint does not enforce any."""
    flex_calls: int = 0
    """Of `calls`: answered at the flex tier."""
    tier_fallbacks: int = 0
    """Calls made at the standard tier because flex had no room."""
    batch_calls: int = 0
    """Of `calls`: answered by batch."""
    cached_prompt_tokens: int = 0
    """Of `prompt_tokens`: read from the provider's prefix cache."""

    def __add__(self, other: Usage) -> Usage:
        """Return the sum, field by field."""
        return Usage(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def cost(self) -> dict[str, float]:
        """Return what a manifest's `cost` holds: calls, cached_calls, tokens and usd."""
        return {name: getattr(self, name) for name in COST}

    def events(self) -> dict[str, int]:
        """Return every other counter, those that are 0 too: what a manifest's `counts` hold."""
        found: dict[str, int] = asdict(self)
        return {name: value for name, value in found.items() if name not in COST}


COST = ("calls", "cached_calls", "prompt_tokens", "completion_tokens", "usd")
"""The fields of `Usage` that are a manifest's `cost`."""


@dataclass(frozen=True)
class Prices:
    """USD per million tokens."""

    prompt: float = 0.0
    completion: float = 0.0
    cached_prompt: float | None = None
    """Prompt tokens from the provider's prefix cache; None: as the others."""
    half_price_tier: float = 1.0
    """What a call at the flex tier or by batch costs beside the standard price."""

    def usd(
        self,
        prompt_tokens: int,
        completion_tokens: int,
        *,
        cached_prompt_tokens: int = 0,
        tier: AnswerTier = "standard",
    ) -> float:
        """Return what so many tokens cost; `cached_prompt_tokens` are a part of `prompt_tokens`."""
        cheap = self.prompt if self.cached_prompt is None else self.cached_prompt
        dear = prompt_tokens - cached_prompt_tokens
        total = (
            dear * self.prompt + cached_prompt_tokens * cheap + completion_tokens * self.completion
        ) / 1e6
        return total if tier == "standard" else total * self.half_price_tier


class CallFailed(Exception):
    """No usable answer to this one request; the reason holds neither its text nor a key."""

    def __init__(self, reason: str, *, kind: FailureKind = "broken") -> None:
        super().__init__(reason)
        self.reason = reason
        self.kind = kind

    @property
    def unavailable(self) -> bool:
        """Whether the endpoint is down or overloaded, so that other requests fail too."""
        return self.kind == "unavailable"


class SchemaRejected(CallFailed):
    """The endpoint takes no JSON schema, or not this one; the schema may go into the prompt instead."""


class Retry(Exception):
    """An attempt that may go better the next time."""

    def __init__(self, reason: str, retry_after_s: float | None = None, *, kind: RetryKind = "fault") -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.kind = kind


def derived_seed(*parts: object) -> int:
    """Return a seed, 0 to 2³¹ − 1, that depends on the parts alone, for instance seed, row and sample."""
    hashed = hashlib.sha256(json.dumps(parts, default=str).encode()).digest()
    return int.from_bytes(hashed[:4], "big") >> 1


def estimated_tokens(text: str) -> int:
    """Return about how many tokens a text has: its UTF-8 bytes / 4, rounded up."""
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)

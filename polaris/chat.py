"""A `ChatRequest` in, what an endpoint must be sent out; its error in, "try again" or a clear error out.

The OpenAI protocol as the endpoints really speak it: what differs between them is here and nowhere else.
"""

from __future__ import annotations

import email.utils
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, NoReturn

from polaris.errors import ConfigError, TransientError
from polaris.providers import Effort, ProviderName, Tier
from polaris.recipe import Sampling

Message = dict[str, str]
"""`role` and `content`."""

BROKEN_OFF = frozenset({"abort", "error"})
"""Finish reasons of an endpoint that gave up: no answer, so asked again."""

FailureKind = Literal["unavailable", "too long", "refused", "broken"]
"""Why a request has no answer; `broken` is a stream that broke off after its first text."""

BYTES_PER_TOKEN = 4
"""UTF-8 bytes of English prose in one token, about: for estimates where nobody counts."""

_RETRIED = frozenset({408, 409, 425, 429})
_TOO_LONG = (
    "context length",
    "context_length",
    "context window",
    "maximum context",
    "max_model_len",
    "too long",
)
_REFUSED = ("content_policy", "content_filter", "invalid_prompt", "safety")


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
    tier: Literal["standard", "flex", "batch"] = "standard"


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
        tier: Literal["standard", "flex", "batch"] = "standard",
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


class Retry(Exception):
    """An attempt that may go better the next time."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


def derived_seed(*parts: object) -> int:
    """Return a seed, 0 to 2³¹ − 1, that depends on the parts alone, for instance seed, row and sample."""
    hashed = hashlib.sha256(json.dumps(parts, default=str).encode()).digest()
    return int.from_bytes(hashed[:4], "big") >> 1


def estimated_tokens(text: str) -> int:
    """Return about how many tokens a text has: its UTF-8 bytes / 4, rounded up."""
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)


def body(endpoint: Endpoint, request: ChatRequest, *, seed: int) -> dict[str, Any]:
    """Return the arguments of the SDK's `chat.completions.create`.

    A model of ours is told every sampling parameter, since what is left out it takes from its
    `generation_config.json`. Another endpoint is told only what the protocol knows and what differs
    from the protocol's default, since reasoning models refuse even to be told a default.
    """
    sampling = request.sampling
    found: dict[str, Any] = {"model": endpoint.model, "messages": list(request.messages)}
    if not endpoint.ours:
        found["max_completion_tokens"] = request.max_tokens
        found |= {
            name: value
            for name, value in (("temperature", sampling.temperature), ("top_p", sampling.top_p))
            if value != 1
        }
    else:
        found |= {"max_tokens": request.max_tokens, "seed": seed}
        found |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
        extra: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": request.thinking}}
        own = {"top_k": sampling.top_k, "repetition_penalty": sampling.repetition_penalty}
        if endpoint.engine == "vllm":
            extra |= own | {"min_p": 0.0}
        else:
            # `transformers serve` takes what the protocol lacks as a generation config in JSON.
            config = {"do_sample": sampling.temperature > 0, "top_p": sampling.top_p} | own
            if sampling.temperature > 0:
                config["temperature"] = sampling.temperature
            extra["generation_config"] = json.dumps(config, sort_keys=True)
        found["extra_body"] = extra
    if request.schema is not None:
        schema = {"name": "answer", "strict": True, "schema": request.schema}
        found["response_format"] = {"type": "json_schema", "json_schema": schema}
    return found


def tokens(usage: Any, request: ChatRequest, answer_bytes: int) -> tuple[int, int]:
    """Return prompt and completion tokens: the endpoint's count, or an estimate where it sends none."""
    prompt = getattr(usage, "prompt_tokens", None)
    completion = getattr(usage, "completion_tokens", None)
    if prompt is None:
        prompt = sum(estimated_tokens(message["content"]) for message in request.messages)
    if completion is None:
        completion = -(-answer_bytes // BYTES_PER_TOKEN)
    return prompt, completion


def retryable(error: Exception, endpoint: Endpoint) -> Retry:
    """Return why and when an attempt should be repeated, or raise what no repetition mends.

    Neither the endpoint's own message nor the SDK's error gets any further: either may hold the key
    or the story.

    Raises CallFailed if this request is refused or too long, ConfigError if key, model or parameters are
    rejected, TransientError if a model of ours does that (its server is not the one expected), and `error`
    itself if it is none of the protocol's.
    """
    import openai

    if isinstance(error, Retry):
        return error
    if isinstance(error, openai.APIStatusError):
        return _status(error, endpoint)
    if isinstance(error, (TimeoutError, openai.APITimeoutError)):
        return Retry("timed out")
    if isinstance(
        error, (openai.APIConnectionError, json.JSONDecodeError, openai.APIResponseValidationError)
    ):
        return Retry(
            "connection failed" if isinstance(error, openai.APIConnectionError) else "answered no JSON"
        )
    # In a stream the SDK lets errors of its transport through, and that is a different package by version.
    if isinstance(error, openai.APIError) or type(error).__module__.startswith(("httpx", "httpcore")):
        return Retry("connection failed")
    raise error


def _status(error: Any, endpoint: Endpoint) -> Retry:
    status = int(error.status_code)
    code = str(getattr(error, "code", None) or "")
    if status == 429 and code == "insufficient_quota":
        raise TransientError(
            f"{endpoint.setting}.api_key_env: the account of {_key(endpoint)} has no credit left at"
            f" {endpoint.url}; top it up and run again"
        ) from None
    if status in _RETRIED or status >= 500:
        return Retry(f"answered {status}", retry_after_s(error.response.headers))
    told = f"{code} {getattr(error, 'type', None) or ''} {error.message}".lower()
    if status == 413 or (status in (400, 422) and any(word in told for word in _TOO_LONG)):
        raise CallFailed("the request is longer than the endpoint's context", kind="too long") from None
    if status in (400, 403) and any(word in told for word in _REFUSED):
        raise CallFailed(
            "refused: the endpoint's content rules stopped the request", kind="refused"
        ) from None
    _reject(status, str(getattr(error, "param", None) or ""), endpoint)


def _reject(status: int, parameter: str, endpoint: Endpoint) -> NoReturn:
    where = f"{endpoint.url} (answer {status})"
    if status in (401, 403):
        fault = (
            f"{endpoint.setting}.api_key_env: {_key(endpoint)} is not accepted by {where}; set a valid key"
        )
    elif status == 404:
        fault = (
            f"{endpoint.setting}: {where} knows no model '{endpoint.model}', or serves no chat completions;"
            " check model and url"
        )
    else:
        named = f" parameter '{parameter[:40]}'" if parameter else ""
        fault = (
            f"{endpoint.setting}: {where} rejects the request{named}; check that '{endpoint.model}' knows the"
            " temperature, top_p, token limit and structured output that are asked of it"
        )
    if endpoint.ours:
        raise TransientError(fault) from None
    raise ConfigError(fault) from None


def _key(endpoint: Endpoint) -> str:
    return f"the key in {endpoint.api_key_env}" if endpoint.api_key_env else "the key"


def retry_after_s(headers: Mapping[str, str], *, now: float | None = None) -> float | None:
    """Return the seconds that Retry-After asks for, given as seconds or as an HTTP date; else None."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        then = email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError):
        return None
    return max(0.0, then - (time.time() if now is None else now))

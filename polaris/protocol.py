"""A `ChatRequest` in, what an endpoint must be sent out; its answer or error in, what that comes to out.

The OpenAI protocol as the endpoints really speak it. What they take is data (`polaris/providers.yaml`); how
they say no is here and nowhere else.
"""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from polaris.chat import (
    BYTES_PER_TOKEN,
    AnswerTier,
    CallFailed,
    ChatRequest,
    Endpoint,
    Retry,
    SchemaRejected,
    estimated_tokens,
)
from polaris.errors import ConfigError, TransientError
from polaris.providers import Provider, Tier, providers
from polaris.runtime import redact
from polaris.text import encodable

BROKEN_OFF = frozenset({"abort", "error"})
"""Finish reasons of an endpoint that gave up: no answer, so asked again."""

NO_COMPLETION = "answered no chat completion"
"""Why an answer with status 200 is none: it has not the protocol's form."""

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
_SCHEMA = ("schema", "response_format", "structured output", "guided", "grammar")
_NO_CREDIT = (
    "insufficient_quota",
    "credit_balance_exhausted",
    "spend_limit_exceeded",
    "usage_limit_exceeded",
)
"""What a 429 names that no waiting mends."""
_NO_ROOM = ("resource_unavailable", "resource unavailable")


@dataclass(frozen=True)
class Reading:
    """What an endpoint's answer says, before anybody judges whether it is of use."""

    text: str
    finish_reason: str
    """As the endpoint gives it; `content_filter` for a refusal in whatever form."""
    reasoning: str | None
    prompt_tokens: int
    completion_tokens: int
    cached_prompt_tokens: int
    tier: AnswerTier


def body(endpoint: Endpoint, request: ChatRequest, *, seed: int, tier: Tier = "standard") -> dict[str, Any]:
    """Return the body of a POST to `/chat/completions`.

    A model of ours is told every sampling parameter, since what is left out it takes from its
    `generation_config.json`. Another endpoint is told only what its provider knows and what differs
    from the protocol's default, since reasoning models refuse even to be told a default.

    Raises ConfigError for a reasoning effort, SchemaRejected for a schema that the provider cannot take.
    """
    provider = providers()["vllm" if endpoint.ours else endpoint.provider]
    found: dict[str, Any] = {"model": endpoint.model, "messages": list(request.messages)}
    found[provider.token_limit] = request.max_tokens
    if provider.seed:
        found["seed"] = seed
    if endpoint.ours and endpoint.engine == "transformers":
        found |= _generation_config(request)
    else:
        found |= _sampling(provider, request)
    if provider.chat_template:
        found["chat_template_kwargs"] = {"enable_thinking": request.thinking}
    if request.effort is not None:
        if request.effort not in provider.reasoning_effort:
            raise ConfigError(
                f"{endpoint.setting}.provider: value '{endpoint.provider}' takes no reasoning effort"
                f" '{request.effort}'; leave it out"
            )
        found["reasoning_effort"] = request.effort
    if request.schema is not None:
        if provider.structured != "json_schema":
            raise SchemaRejected(f"{endpoint.setting}: provider '{endpoint.provider}' enforces no schema")
        schema = {"name": "answer", "strict": True, "schema": request.schema}
        found["response_format"] = {"type": "json_schema", "json_schema": schema}
    if tier == "flex":
        found["service_tier"] = "flex"
    return found


def _sampling(provider: Provider, request: ChatRequest) -> dict[str, Any]:
    sampling = request.sampling
    common = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    found: dict[str, Any] = {
        name: value for name, value in common.items() if provider.tells_defaults or value != 1
    }
    more = {"top_k": sampling.top_k, "repetition_penalty": sampling.repetition_penalty, "min_p": 0.0}
    return found | {name: more[name] for name in provider.sampling}


def _generation_config(request: ChatRequest) -> dict[str, Any]:
    # `transformers serve` takes what the protocol lacks as a generation config in JSON.
    sampling = request.sampling
    config = {
        "do_sample": sampling.temperature > 0,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "repetition_penalty": sampling.repetition_penalty,
    }
    if sampling.temperature > 0:
        config["temperature"] = sampling.temperature
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "generation_config": json.dumps(config, sort_keys=True),
    }


def read(completion: Any, request: ChatRequest) -> Reading:
    """Return what a `ChatCompletion` of the SDK says; raise Retry if it is none: the SDK checks no types."""
    import openai

    choices = getattr(completion, "choices", None)
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    if not isinstance(message, openai.BaseModel):
        raise Retry(NO_COMPLETION)
    # An endpoint may repeat the key that it was sent, and answers are kept.
    text = redact(encodable(_text(message, "content") or ""))
    told = (getattr(message, name, None) for name in ("reasoning", "reasoning_content"))
    reasoning = next((thoughts for thoughts in told if thoughts and isinstance(thoughts, str)), None)
    reason = "content_filter" if getattr(message, "refusal", None) else _text(choice, "finish_reason")
    usage = getattr(completion, "usage", None)
    length = len(text.encode()) + len((reasoning or "").encode("utf-8", "replace"))
    prompt, written = tokens(usage, request, length)
    cached = _count(getattr(usage, "prompt_tokens_details", None), "cached_tokens")
    return Reading(
        text,
        encodable(reason or "stop"),
        reasoning,
        prompt,
        written,
        min(prompt, cached or 0),
        "flex" if getattr(completion, "service_tier", None) == "flex" else "standard",
    )


def tokens(usage: Any, request: ChatRequest, answer_bytes: int) -> tuple[int, int]:
    """Return prompt and completion tokens: the endpoint's count, or an estimate where it sends none.

    Some endpoints count a model's thoughts in the total alone, and they are paid for.
    """
    prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    total = _count(usage, "total_tokens")
    if total is not None and prompt is not None and total > prompt:
        completion = max(completion or 0, total - prompt)
    if prompt is None:
        prompt = prompt_estimate(request)
    if completion is None:
        completion = -(-answer_bytes // BYTES_PER_TOKEN)
    return prompt, completion


def _text(of: Any, name: str) -> str | None:
    value = getattr(of, name, None)
    if value is None or isinstance(value, str):
        return value
    raise Retry(NO_COMPLETION)


def _count(of: Any, name: str) -> int | None:
    """Return a count, None where it is no number: an answer is not thrown away for its bill."""
    value = getattr(of, name, None)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def prompt_estimate(request: ChatRequest) -> int:
    """Return about how many tokens a request's messages have."""
    return sum(estimated_tokens(message["content"]) for message in request.messages)


def retryable(
    error: Exception,
    endpoint: Endpoint,
    *,
    flex: bool = False,
    schema: bool = False,
    answers_others: bool = False,
) -> Retry:
    """Return why and when an attempt should be repeated, or raise what no repetition mends.

    `flex` and `schema` say what was asked for: that tier, and an answer of a JSON schema; `answers_others`
    that the endpoint has answered requests with the same settings, so that what it rejects is this one alone.
    Neither the endpoint's own message nor the SDK's error gets any further: either may hold the key or the
    story.

    Raises CallFailed if this request is refused, rejected or too long, SchemaRejected if its schema is,
    ConfigError if key, model or parameters are rejected, TransientError if a model of ours does that (its
    server is not the one expected), and `error` itself if it is none of the protocol's.
    """
    import openai

    if isinstance(error, Retry):
        return error
    if isinstance(error, openai.APIStatusError):
        retry = _status(error, endpoint, flex=flex, schema=schema)
        return retry if retry is not None else _rejected(error, endpoint, alone=answers_others)
    if isinstance(error, (TimeoutError, openai.APITimeoutError)):
        unsent = _transport(error) in ("ConnectTimeout", "PoolTimeout")
        return Retry("timed out", kind="not sent" if unsent else "timed out")
    if isinstance(error, (json.JSONDecodeError, openai.APIResponseValidationError)):
        return Retry("answered no JSON", kind="unanswered")
    # In a stream the SDK lets errors of its transport through, and that is a different package by version.
    if isinstance(error, openai.APIError) or type(error).__module__.startswith(("httpx", "httpcore")):
        unsent = _transport(error) == "ConnectError"
        return Retry("connection failed", kind="not sent" if unsent else "unanswered")
    raise error


def _transport(error: Exception) -> str:
    """Return the name of the error that the SDK's transport met with."""
    return type(error.__cause__ or error).__name__


def _status(error: Any, endpoint: Endpoint, *, flex: bool, schema: bool) -> Retry | None:
    """Return why to try again, None where the request is rejected for a reason that is not told."""
    status = int(error.status_code)
    code = str(getattr(error, "code", None) or "")
    told = f"{code} {getattr(error, 'type', None) or ''} {error.message}".lower()
    if status == 402 or (status == 429 and any(word in told for word in _NO_CREDIT)):
        raise TransientError(
            f"{endpoint.setting}.api_key_env: the account of {_key(endpoint)} has no credit left at"
            f" {endpoint.url}; top it up, or raise its limits, and run again"
        ) from None
    if status in _RETRIED or status >= 500:
        after = retry_after_s(error.response.headers)
        if status != 429:
            return Retry(f"answered {status}", after)
        full = flex and any(word in told for word in _NO_ROOM)
        return Retry(f"answered {status}", after, kind="no room" if full else "rate limited")
    if status == 413 or (status in (400, 422) and any(word in told for word in _TOO_LONG)):
        raise CallFailed("the request is longer than the endpoint's context", kind="too long") from None
    if status in (400, 403) and any(word in told for word in _REFUSED):
        raise CallFailed(
            "refused: the endpoint's content rules stopped the request", kind="refused"
        ) from None
    parameter = str(getattr(error, "param", None) or "").lower()
    if schema and status in (400, 422) and any(word in f"{told} {parameter}" for word in _SCHEMA):
        raise SchemaRejected(f"{endpoint.url} (answer {status}) does not take the answer's schema") from None
    return None


def _rejected(error: Any, endpoint: Endpoint, *, alone: bool) -> NoReturn:
    status, parameter = int(error.status_code), str(getattr(error, "param", None) or "")
    keyless = status == 400 and "api key" in error.message.lower()
    if alone and status in (400, 422) and not keyless:
        raise CallFailed(f"the endpoint rejects this request alone (answer {status})") from None
    where = f"{endpoint.url} (answer {status})"
    if status in (401, 403) or keyless:
        fault = (
            f"{endpoint.setting}.api_key_env: {_key(endpoint)} is not accepted by {where}; set a valid key"
        )
    elif status == 404:
        fault = (
            f"{endpoint.setting}: {where} knows no model '{endpoint.model}', or serves no chat completions;"
            " check model and url"
        )
    elif parameter == "service_tier":
        fault = f"{endpoint.setting}.service_tier: {where} does not sell it for '{endpoint.model}'; drop it"
    elif parameter in ("temperature", "top_p"):
        fault = (
            f"{endpoint.setting}: {where} lets nobody choose {parameter} for '{endpoint.model}'; set"
            " temperature and top_p to 1, which are not sent"
        )
    else:
        named = f" parameter '{redact(parameter)[:40]}'" if parameter else ""
        fault = (
            f"{endpoint.setting}: {where} rejects the request{named}; check that '{endpoint.model}' knows the"
            " temperature, top_p, token limit, reasoning effort and structured output that are asked of it"
        )
    if endpoint.ours:
        raise TransientError(fault) from None
    raise ConfigError(fault) from None


def _key(endpoint: Endpoint) -> str:
    return f"the key in {endpoint.api_key_env}" if endpoint.api_key_env else "the key"


def retry_after_s(headers: Mapping[str, str], *, now: float | None = None) -> float | None:
    """Return the seconds that Retry-After asks for, given as seconds or as an HTTP date; else None.

    OpenAI's `retry-after-ms`, milliseconds, goes before it.
    """
    try:
        return max(0.0, float(headers.get("retry-after-ms", "")) / 1000)
    except ValueError:
        pass
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

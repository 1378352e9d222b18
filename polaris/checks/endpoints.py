"""The endpoints that others serve in, whether they answer as the models that are named out."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any

from polaris.chat import Endpoint
from polaris.checks.finding import Finding, Subject, failed, lines
from polaris.errors import ConfigError
from polaris.models import EndpointModel
from polaris.run import outside_endpoint

TIMEOUT_S = 30.0
"""Longest wait for an endpoint's answer."""
ONE_TOKEN = 16
"""What an endpoint is asked to write at most: some refuse fewer."""


def check_endpoints(subject: Subject) -> Iterator[Finding]:
    """Ask each endpoint that somebody else serves and this run uses for its models, else for a token."""
    config = subject.config
    judges = {judge.model for judge in config.judges.values()}
    writers = {name for evaluation in config.evaluations.values() for name in evaluation.models}
    for name in sorted(judges | writers):
        model = config.models[name]
        if isinstance(model, EndpointModel):
            try:
                endpoint = outside_endpoint(name, model)
            except ConfigError as error:
                yield from lines(f"models.{name}", error)
            else:
                yield _ask(endpoint)


def _ask(endpoint: Endpoint) -> Finding:
    """Return what one endpoint says, its key unseen."""
    where = f"{endpoint.url} with the key in {endpoint.api_key_env}"
    status, body = _answer(endpoint, "models", None)
    if status == 200 and endpoint.model in _models(body):
        return Finding("ok", endpoint.setting, f"{where} serves {endpoint.model}")
    if status in (200, 403, 404, 405, 501):
        asked = {
            "model": endpoint.model,
            "messages": [{"role": "user", "content": "Hello"}],
            "max_completion_tokens": ONE_TOKEN,
        }
        status, body = _answer(endpoint, "chat/completions", asked)
        if status == 200:
            return Finding("ok", endpoint.setting, f"{where} answers as {endpoint.model}")
    return _refused(endpoint, where, status, body)


def _refused(endpoint: Endpoint, where: str, status: int, body: str) -> Finding:
    said = f"{where} answered {status}" if status else f"{endpoint.url} does not answer: {body}"
    if status in (401, 403):
        return failed(endpoint.setting, said, f"put a valid key into {endpoint.api_key_env}")
    if status == 404:
        fix = f"check {endpoint.setting}.url, up to and with /v1, and .model '{endpoint.model}'"
        return failed(endpoint.setting, said, fix)
    if status == 429 or status >= 500:
        return Finding(
            "warning", endpoint.setting, said, "it is busy or down at the moment; stages try again"
        )
    if not status:
        fix = f"check {endpoint.setting}.url and that this machine or pod may reach it"
        return failed(endpoint.setting, said, fix)
    return failed(endpoint.setting, said, f"check that it serves '{endpoint.model}' as chat completions")


def _answer(endpoint: Endpoint, path: str, asked: dict[str, Any] | None) -> tuple[int, str]:
    """Return an answer's status and text; status 0 and the reason where there is none."""
    data = None if asked is None else json.dumps(asked).encode()
    request = urllib.request.Request(f"{endpoint.url.rstrip('/')}/{path}", data)
    request.add_header("Content-Type", "application/json")
    # A redirection must not take the key along to another host.
    request.add_unredirected_header("Authorization", f"Bearer {endpoint.api_key}")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return int(answer.status), answer.read().decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""
    except (OSError, HTTPException, ValueError) as error:
        return 0, str(getattr(error, "reason", None) or error)


def _models(body: str) -> list[str]:
    try:
        return [str(model["id"]) for model in json.loads(body)["data"]]
    except (ValueError, LookupError, TypeError):
        return []

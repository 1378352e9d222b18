"""A configuration in, a list of what works and what does not out, each fault with its fix.

A check is a function from what is checked to findings; `CHECKS` names them in the order in which they
run; none needs what another one does, so that one run lists all that is wrong. Nothing of the run is
touched: the store check writes below `checks/` and takes it away again.
"""

from __future__ import annotations

import contextlib
import json
import os
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal

from polaris.chat import Endpoint
from polaris.config import RunConfig
from polaris.errors import ConfigError, PolarisError
from polaris.fields import stored_as
from polaris.identity import contents_of
from polaris.imports import find_imports
from polaris.load import load
from polaris.models import EndpointModel
from polaris.run import open_run, outside_endpoint
from polaris.runtime import redact
from polaris.storage import Conflict, NotFound, Store, open_store

TIMEOUT_S = 30.0
"""Longest wait for an endpoint's answer."""
ONE_TOKEN = 16
"""What an endpoint is asked to write at most: some refuse fewer."""

CanI = Callable[[str, str, str, str], bool]
"""Verb, API group, resource (`pods/log` with its subresource) and object name ('' is any) → may I?"""

ORCHESTRATOR_MAY: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("batch", "jobs", "", ("create", "get", "list", "delete")),
    ("apps", "deployments", "", ("create", "get", "list", "delete")),
    ("", "pods", "", ("get", "list")),
    ("", "pods/log", "", ("get",)),
    ("", "events", "", ("list",)),
    ("", "configmaps", "polaris-config", ("get",)),
)
"""API group, resource, object name and verbs that the orchestrator works with (charts/polaris)."""
ORCHESTRATOR_MAY_NOT: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("", "secrets", "", ("get", "list", "watch")),
)
"""What no pod of a release may do: credentials reach pods by environment only."""


@dataclass(frozen=True)
class Finding:
    """One checked thing: its state, what it is, what was seen, and what to do where it is not well."""

    state: Literal["ok", "warning", "failed"]
    what: str
    detail: str
    fix: str = ""

    def __str__(self) -> str:
        """Return the finding as one line, without any key."""
        fix = f"; {self.fix}" if self.fix else ""
        return redact(f"{self.state:<8} {self.what:<24} {self.detail}{fix}".replace("\n", " "))


@dataclass(frozen=True)
class Subject:
    """What is checked: a file, the configuration in it, and on a cluster the way to ask what a pod may do."""

    path: Path
    config: RunConfig
    can_i: CanI | None = None


Check = Callable[[Subject], Iterator[Finding]]


def check(path: Path, can_i: CanI | None = None) -> Iterator[Finding]:
    """Run every check; a configuration that cannot be read leaves only the cluster's permissions to ask for.

    Each line of an error is a finding of its own.
    """
    try:
        config = load(path)
    except PolarisError as error:
        yield from _lines("configuration", error)
        if can_i is not None:
            yield from _told("permissions", _permissions(can_i))
        return
    yield Finding("ok", "configuration", f"run {config.run}: nothing wrong in {path}")
    subject = Subject(path, config, can_i)
    for what, one in CHECKS.items():
        yield from _told(what, one(subject))


def _told(what: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """Pass findings on, and tell of the error that ends them as of one."""
    try:
        yield from findings
    except PolarisError as error:
        yield from _lines(what, error)


def _lines(what: str, error: PolarisError) -> Iterator[Finding]:
    for line in str(error).splitlines():
        detail, _, fix = line.partition("; ")
        yield _failed(what, detail, fix)


def check_plan(subject: Subject) -> Iterator[Finding]:
    """Look for every file and import that is named, hash them, and say what the run unfolds into."""
    missing = list(_missing_files(subject.config))
    try:
        find_imports(subject.config, open_store(subject.config.store), subject.path)
    except PolarisError as error:
        missing += _lines("plan", error)
    if missing:
        yield from missing
        return
    plan = open_run(subject.path).plan
    models = {name for instance in plan.instances.values() for name in instance.services}
    served = f", serves {', '.join(sorted(models))}" if models else ""
    yield Finding("ok", "plan", f"{len(plan.instances)} instances{served}")


def _missing_files(config: RunConfig) -> Iterator[Finding]:
    for setting, path in contents_of(config):
        if stored_as(path) is None and not path.exists():
            yield _failed("plan", f"{setting}: '{path}' does not exist", "give a file or folder that does")


def check_store(subject: Subject) -> Iterator[Finding]:
    """Write, read, list and delete one small object, and see that a second conditional put is refused."""
    store = open_store(subject.config.store)
    key = f"checks/{uuid.uuid4().hex}"
    where = f"{store.url}/{key}"
    data = uuid.uuid4().hex.encode()
    etag = store.put(key, data, if_absent=True)
    try:
        yield _exercise(store, key, data, etag)
    finally:
        store.delete([key])
    if store.head(key) is not None:
        yield _failed("store", f"{where} is still there after its deletion", "allow s3:DeleteObject")


def _exercise(store: Store, key: str, data: bytes, etag: str) -> Finding:
    """Return what became of an object that has been written with this data and got this etag."""
    where = f"{store.url}/{key}"
    conditions: dict[str, dict[str, Any]] = {
        "If-None-Match": {"if_absent": True},
        "If-Match": {"if_match": f'"{"0" * 32}"'},
    }
    for header, condition in conditions.items():
        with contextlib.suppress(Conflict):
            store.put(key, b"a second writer", **condition)
            fix = "use a store with conditional puts, or a newer version of this one"
            return _failed("store", f"{where}: a put with {header} was carried out that must be refused", fix)
    fix = "use a store that is consistent after each write"
    try:
        store.put(key, data, if_match=etag)
        found = store.get(key)
    except (NotFound, Conflict):
        return _failed("store", f"{where} is not found right after it was written", fix)
    if found != data:
        return _failed("store", f"{where} reads back otherwise than it was written", fix)
    if key not in [info.key for info in store.list("checks/")]:
        return _failed("store", f"{where} is not listed below checks/", fix)
    return Finding("ok", "store", f"{store.url}: put, conditional put, get, list and delete work")


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
                yield from _lines(f"models.{name}", error)
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
        return _failed(endpoint.setting, said, f"put a valid key into {endpoint.api_key_env}")
    if status == 404:
        fix = f"check {endpoint.setting}.url, up to and with /v1, and .model '{endpoint.model}'"
        return _failed(endpoint.setting, said, fix)
    if status == 429 or status >= 500:
        return Finding(
            "warning", endpoint.setting, said, "it is busy or down at the moment; stages try again"
        )
    if not status:
        fix = f"check {endpoint.setting}.url and that this machine or pod may reach it"
        return _failed(endpoint.setting, said, fix)
    return _failed(endpoint.setting, said, f"check that it serves '{endpoint.model}' as chat completions")


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


def check_permissions(subject: Subject) -> Iterator[Finding]:
    """Ask the cluster for each permission of the orchestrator, and that secrets stay closed to it."""
    if subject.can_i is None:
        return
    yield from _permissions(subject.can_i)


def _permissions(can_i: CanI) -> Iterator[Finding]:
    role = "Role of ServiceAccount polaris-orchestrator"
    for group, resource, name, verbs in ORCHESTRATOR_MAY:
        missing = [verb for verb in verbs if not can_i(verb, group, resource, name)]
        shown = f"{resource} {name}".strip()
        if missing:
            fix = f"add them to the {role}, or install the chart's RBAC"
            yield _failed("permissions", f"may not {', '.join(missing)} {shown}", fix)
        else:
            yield Finding("ok", "permissions", f"may {', '.join(verbs)} {shown}")
    for group, resource, name, verbs in ORCHESTRATOR_MAY_NOT:
        open_ = [verb for verb in verbs if can_i(verb, group, resource, name)]
        if open_:
            fix = f"take that right from the {role}: no pod needs it"
            yield _failed("permissions", f"may {', '.join(open_)} {resource}, and must not", fix)
        else:
            yield Finding("ok", "permissions", f"may not read {resource}")


CHECKS: dict[str, Check] = {
    "store": check_store,
    "permissions": check_permissions,
    "endpoints": check_endpoints,
    "plan": check_plan,
}
"""A check's name → the check, in the order in which they run: hashing a model's folder may take minutes."""


def pod_namespace() -> str | None:
    """Return the namespace of the pod that this process runs in, None outside of one."""
    named = os.environ.get("POLARIS_NAMESPACE")
    try:
        return named or Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace").read_text().strip()
    except OSError:
        return None


def _failed(what: str, detail: str, fix: str = "") -> Finding:
    return Finding("failed", what, detail, fix)

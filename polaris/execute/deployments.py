"""Wanted model servers in, their Deployments made, mended and taken away, and which answer, out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from polaris.errors import BUG, FINAL, TRANSIENT, PolarisError
from polaris.execute.ended import Ended, telling_lines
from polaris.execute.kube import AlreadyExists, Kube
from polaris.execute.manifests import (
    COMPONENT,
    IDENTITY,
    MODEL,
    RELEASE,
    SERVE,
    TEMPLATE,
    serve_deployment,
)
from polaris.execute.reasons import (
    OOM,
    End,
    deployment_waiting,
    is_running,
    is_true,
    server_end,
    silent_since,
    was_available,
)
from polaris.execute.waits import Waits
from polaris.models import CheckpointModel, TrainedModel
from polaris.run import Run
from polaris.runtime import get_logger, redact

log = get_logger("cluster")

Object = Mapping[str, Any]

RESTARTS = 3
"""A server that was started again so often before it ever answered will not answer."""


class Deployments:
    """The model servers of a run, made as they should be at every look.

    `templates` are Deployments by model; `keep` names models that stay up when nothing needs them.
    """

    def __init__(
        self,
        run: Run,
        kube: Kube,
        templates: Mapping[str, Object],
        owner: Object,
        waits: Waits,
        keep: frozenset[str] = frozenset(),
    ) -> None:
        self._run = run
        self._kube = kube
        self._waits = waits
        self._keep = keep
        self._bodies = {model: _body(run, model, template, owner) for model, template in templates.items()}
        self._found: dict[str, Object] | None = None
        self._wanted: set[str] = set()
        self._in_use: frozenset[str] = frozenset()
        self._told: set[tuple[str, int]] = set()
        self._dead: list[Ended] = []

    def look(
        self, deployments: Iterable[Object], pods: Iterable[Object], in_use: frozenset[str] = frozenset()
    ) -> None:
        """Take in what is there, and make, replace or give up what is wanted.

        `in_use` are the models that live Jobs use, those of an earlier configuration too.
        """
        self._in_use = in_use
        first = self._found is None
        self._found = {found["metadata"]["labels"][MODEL]: found for found in deployments}
        if first:
            for model, found in self._found.items():
                if not _leaves(found):
                    log.info("adopted", deployment=found["metadata"]["name"], model=model)
                    self._wanted.add(model)
        known = sorted(self._wanted.intersection(self._bodies))
        by_model: dict[str, list[Object]] = {model: [] for model in known}
        for pod in pods:
            model = pod["metadata"]["labels"].get(MODEL)
            if model in by_model and not _leaves(pod):
                by_model[model].append(pod)
        for model in known:
            self._mend(model, by_model[model])

    def start(self, model: str) -> None:
        """Want a model's server; it is made as soon as its name is free."""
        self._wanted.add(model)
        self._mend(model, [])

    def stop(self, model: str) -> None:
        """Want a model's server no longer; it goes unless it is to be kept."""
        self._wanted.remove(model)
        found = (self._found or {}).get(model)
        if model in self._keep:
            log.info("kept", model=model)
        elif found and not _leaves(found):
            self._kube.delete_deployment(dict(found))

    def listed(self) -> dict[str, bool]:
        """Return the wanted models and whether each answers."""
        return {model: self._answers(model) for model in sorted(self._wanted)}

    def dead(self) -> list[Ended]:
        """Return what was given up since the last call."""
        found, self._dead = self._dead, []
        return found

    def _answers(self, model: str) -> bool:
        found = (self._found or {}).get(model)
        return (
            bool(found)
            and not _leaves(found or {})
            and not self._differs(model)
            and is_true(found or {}, "Available")
        )

    def _differs(self, model: str) -> str:
        """Return what a live server differs in from the one that would be made now, '' if in nothing."""
        found = (self._found or {}).get(model) or {"metadata": {}}
        live = found["metadata"].get("annotations") or {}
        wanted = self._bodies[model]["metadata"]["annotations"] if model in self._bodies else {}
        what = {IDENTITY: "the checkpoint", TEMPLATE: "its pod's template or its serve settings"}
        return next((what[key] for key in what if key not in live or live[key] != wanted.get(key)), "")

    def _mend(self, model: str, pods: list[Object]) -> None:
        found = (self._found or {}).get(model)
        if found is None:
            self._make(model)
        elif _leaves(found):
            self._waits.tell(f"model {model}", "the server before it is still ending")
        elif (differs := self._differs(model)) and model in self._in_use:
            # Behind the same address a stage under way would go on with another model.
            self._waits.tell(
                f"model {model}", f"{differs} changed; it is replaced when the Jobs that use it have ended"
            )
        elif differs:
            log.info("replaced", model=model, reason=f"{differs} changed since it was made")
            self._kube.delete_deployment(dict(found))
        else:
            if pods:
                self._waits.look(f"model {model}", pods)
            else:
                self._waits.tell(f"model {model}", deployment_waiting(found))
            self._check(model, found, pods)

    def _make(self, model: str) -> None:
        body = self._bodies[model]
        try:
            made = self._kube.create_deployment(dict(body))
        except AlreadyExists:
            # The next look shows whose it is and whether it leaves.
            return
        if self._found is not None:
            self._found[model] = made
        identity = body["metadata"]["annotations"][IDENTITY]
        log.info("created", deployment=made["metadata"]["name"], model=model, identity=identity)

    def _check(self, model: str, found: Object, pods: list[Object]) -> None:
        """Give a server up that cannot come up, or took too long."""
        for pod in pods:
            end, restarts = server_end(pod, SERVE, f"serving.models.{model}")
            hopeless = restarts >= RESTARTS and not was_available(found)
            since = silent_since(found, pod, SERVE)
            late = bool(since) and _seconds_since(since) > self._run.config.execute.service_timeout_s
            # One that has answered starts again with its memory empty: stages go on asking until then.
            passing = end is not None and end.reason.startswith(OOM) and was_available(found)
            at_once = end is not None and end.at_once and not passing
            if end and (at_once or hopeless or late):
                self._give_up(model, found, pod, end, "" if at_once else f", {restarts} restarts")
                return
            if end and (pod["metadata"]["uid"], restarts) not in self._told:
                self._told.add((pod["metadata"]["uid"], restarts))
                log.warning("server_ended", model=model, reason=end.reason, restarts=restarts)
            if late:
                end = End(BUG, "it gave no token within execute.service_timeout_s of its start")
                self._give_up(model, found, pod, end, "")
                return

    def _give_up(self, model: str, found: Object, pod: Object, end: End, restarts: str) -> None:
        tail = redact(telling_lines(self._log(pod).decode("utf-8", "replace").splitlines()))
        reason = f"the endpoint of models.{model} is given up: {end.reason}{restarts}"
        code = end.code if end.code in (*FINAL, TRANSIENT) else BUG
        reason = f"{reason}; its log ends: {tail}" if tail else reason
        log.error("server_given_up", model=model, reason=reason)
        self._dead.append(Ended(model, code, reason))
        self._kube.delete_deployment(dict(found))
        if self._found is not None:
            leaving = {**found["metadata"], "deletionTimestamp": "now"}
            self._found[model] = {**found, "metadata": leaving}
        self._wanted.remove(model)

    def _log(self, pod: Object) -> bytes:
        """Return the log of the server's start that ended last, else of the one that goes on."""
        name, running = str(pod["metadata"]["name"]), is_running(pod, SERVE)
        now, before = (self._kube.pod_log(name, SERVE, previous=which) for which in (False, True))
        return (before or now if running else now or before) or b""


@contextmanager
def no_servers_left(connect: Callable[[], Kube], release: str, keep: frozenset[str]) -> Iterator[None]:
    """Delete a release's model servers that are not to be kept when what is inside ends for good.

    That is at its normal end, at an error that no retry mends and at an outage that was given up. A
    signal and a bug leave them to whoever goes on. Done as well as can be: what fails is logged.
    """
    try:
        yield
    except PolarisError as error:
        if error.code in (*FINAL, TRANSIENT):
            _end_servers(connect, release, keep)
        raise
    _end_servers(connect, release, keep)


def _end_servers(connect: Callable[[], Kube], release: str, keep: frozenset[str]) -> None:
    try:
        kube = connect()
        for found in kube.deployments(f"{RELEASE}={release},{COMPONENT}=serve"):
            model = found["metadata"]["labels"].get(MODEL)
            if model not in keep and not _leaves(found):
                log.info("server_stopped", model=model)
                kube.delete_deployment(found)
    except PolarisError as error:
        log.warning("servers_left", release=release, reason=str(error))


def _body(run: Run, model: str, template: Object, owner: Object) -> Object:
    settings = run.config.models[model]
    assert isinstance(settings, CheckpointModel | TrainedModel)
    read = settings.serve.model_dump(mode="json") | {"dtype": run.config.dtype(model)}
    identity = run.identity_of_model(model)
    return serve_deployment(template, model, identity=identity, settings=read, owner=owner)


def _seconds_since(moment: str) -> float:
    """Return the seconds since a time as the API writes it."""
    return time.time() - datetime.fromisoformat(moment).timestamp()


def _leaves(found: Object) -> bool:
    return bool(found["metadata"].get("deletionTimestamp"))

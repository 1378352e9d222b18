"""Wanted model servers in, their Deployments made, mended and taken away, and which answer, out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from polaris.errors import BUG, FINAL, TRANSIENT
from polaris.execute.ended import Ended, telling_lines
from polaris.execute.kube import AlreadyExists, Kube
from polaris.execute.manifests import IDENTITY, MODEL, SERVE, serve_deployment
from polaris.execute.reasons import End, is_running, is_true, server_end, was_available
from polaris.execute.waits import Waits
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._kube = kube
        self._templates = templates
        self._owner = owner
        self._waits = waits
        self._keep = keep
        self._clock = clock
        self._found: dict[str, Object] | None = None
        self._silent_since: dict[str, float] = {}
        """The models that should be up, and since when each has not answered."""
        self._dead: list[Ended] = []

    def look(self, deployments: Iterable[Object], pods: Iterable[Object]) -> None:
        """Take in what is there, and make, replace or give up what is wanted."""
        first = self._found is None
        self._found = {found["metadata"]["labels"][MODEL]: found for found in deployments}
        if first:
            for model, found in self._found.items():
                if not _leaves(found):
                    log.info("adopted", deployment=found["metadata"]["name"], model=model)
                    self._silent_since[model] = self._clock()
        known = [model for model in self._silent_since if model in self._run.config.models]
        by_model: dict[str, list[Object]] = {model: [] for model in known}
        for pod in pods:
            model = pod["metadata"]["labels"].get(MODEL)
            if model in by_model and not _leaves(pod):
                by_model[model].append(pod)
        for model in known:
            self._mend(model, by_model[model])

    def start(self, model: str) -> None:
        """Want a model's server; it is made as soon as its name is free."""
        self._silent_since[model] = self._clock()
        self._mend(model, [])

    def stop(self, model: str) -> None:
        """Want a model's server no longer; it goes unless it is to be kept."""
        del self._silent_since[model]
        found = (self._found or {}).get(model)
        if model in self._keep:
            log.info("kept", model=model)
        elif found and not _leaves(found):
            self._kube.delete_deployment(dict(found))

    def listed(self) -> dict[str, bool]:
        """Return the wanted models and whether each answers."""
        return {model: self._answers(model) for model in self._silent_since}

    def dead(self) -> list[Ended]:
        """Return what was given up since the last call."""
        found, self._dead = self._dead, []
        return found

    def _answers(self, model: str) -> bool:
        found = (self._found or {}).get(model)
        return (
            bool(found)
            and not _leaves(found or {})
            and self._fits(model)
            and is_true(found or {}, "Available")
        )

    def _fits(self, model: str) -> bool:
        found = (self._found or {}).get(model) or {"metadata": {}}
        identity = (found["metadata"].get("annotations") or {}).get(IDENTITY)
        return model in self._run.config.models and identity == self._run.identity_of_model(model)

    def _mend(self, model: str, pods: list[Object]) -> None:
        found = (self._found or {}).get(model)
        if found is None:
            self._make(model)
        elif _leaves(found):
            self._waits.tell(f"model {model}", "the server before it is still ending")
        elif not self._fits(model):
            log.info("replaced", model=model, reason="it serves another checkpoint than this configuration's")
            self._kube.delete_deployment(dict(found))
        else:
            self._waits.look(f"model {model}", pods)
            self._check(model, found, pods)

    def _make(self, model: str) -> None:
        identity = self._run.identity_of_model(model)
        body = serve_deployment(self._templates[model], model, identity=identity, owner=self._owner)
        try:
            made = self._kube.create_deployment(body)
        except AlreadyExists:
            # The next look shows whose it is and whether it leaves.
            return
        if self._found is not None:
            self._found[model] = made
        self._silent_since[model] = self._clock()
        log.info("created", deployment=made["metadata"]["name"], model=model, identity=identity)

    def _check(self, model: str, found: Object, pods: list[Object]) -> None:
        """Give a server up that cannot come up, or took too long."""
        if self._answers(model):
            self._silent_since[model] = self._clock()
        late = self._clock() - self._silent_since[model] > self._run.config.execute.service_timeout_s
        for pod in pods:
            end, restarts = server_end(pod, SERVE, f"serving.models.{model}")
            hopeless = restarts >= RESTARTS and not was_available(found)
            if end and (end.at_once or hopeless or late):
                self._give_up(model, found, pod, end, "" if end.at_once else f", {restarts} restarts")
                return
        if late:
            why = self._waits.why(f"model {model}")
            reason = "it gave no token within execute.service_timeout_s" + (f" ({why})" if why else "")
            self._give_up(model, found, pods[0] if pods else None, End(BUG, reason), "")

    def _give_up(self, model: str, found: Object, pod: Object | None, end: End, restarts: str) -> None:
        tail = redact(telling_lines(self._log(pod).decode("utf-8", "replace").splitlines())) if pod else ""
        reason = f"the endpoint of models.{model} is given up: {end.reason}{restarts}"
        code = end.code if end.code in (*FINAL, TRANSIENT) else BUG
        self._dead.append(Ended(model, code, f"{reason}; its log ends: {tail}" if tail else reason))
        self._kube.delete_deployment(dict(found))
        if self._found is not None:
            leaving = {**found["metadata"], "deletionTimestamp": "now"}
            self._found[model] = {**found, "metadata": leaving}
        del self._silent_since[model]

    def _log(self, pod: Object) -> bytes:
        """Return the log of the server's start that ended last, else of the one that goes on."""
        name, running = str(pod["metadata"]["name"]), is_running(pod, SERVE)
        now, before = (self._kube.pod_log(name, SERVE, previous=which) for which in (False, True))
        return (before or now if running else now or before) or b""


def _leaves(found: Object) -> bool:
    return bool(found["metadata"].get("deletionTimestamp"))

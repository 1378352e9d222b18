"""A namespace in, its Jobs, Deployments, pods, events and logs out, as the API's own JSON.

Dropped connections and answers that may pass are asked again with backoff; a denial or an invalid
object is a ConfigError that names it.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from polaris.errors import ConfigError, TransientError
from polaris.runtime import StopFlag, get_logger

log = get_logger("kube")

OUTAGE_S = 600.0
"""An API server that does not answer for so long is given up; whoever started us starts us again."""
LONGEST_WAIT_S = 15.0
TIMEOUT_S = (5, 15)
"""Connecting and reading, seconds: short, so that a signal is soon heeded."""
PASSING = {401, 408, 409, 429}
"""Refusals that may pass: a token that is just renewed, a quota that two count on at once, too many calls."""
_DENIED = re.compile(r'cannot (?P<verb>\S+) resource "(?P<resource>[^"]+)"')
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

Object = dict[str, Any]


class AlreadyExists(Exception):
    """An object of that name is there already."""


class Kube:
    """One namespace of a cluster; `stop` ends every wait."""

    def __init__(self, namespace: str, stop: StopFlag, client: Any = None) -> None:
        self.namespace = namespace
        self._stop = stop
        self._client = client or _connect()
        from kubernetes import client as api

        self._batch = api.BatchV1Api(self._client)
        self._apps = api.AppsV1Api(self._client)
        self._core = api.CoreV1Api(self._client)

    # What is there

    def jobs(self, selector: str) -> list[Object]:
        """Return the Jobs that a label selector fits."""
        return self._list("jobs", self._batch.list_namespaced_job, label_selector=selector)

    def pods(self, selector: str) -> list[Object]:
        """Return the pods that a label selector fits."""
        return self._list("pods", self._core.list_namespaced_pod, label_selector=selector)

    def deployments(self, selector: str) -> list[Object]:
        """Return the Deployments that a label selector fits."""
        return self._list("deployments", self._apps.list_namespaced_deployment, label_selector=selector)

    def events(self, uid: str) -> list[Object]:
        """Return the events about one object."""
        return self._list(
            "events", self._core.list_namespaced_event, field_selector=f"involvedObject.uid={uid}"
        )

    def job(self, name: str) -> Object | None:
        """Return one Job, None if there is none of that name."""
        return self._json("get", "jobs", self._batch.read_namespaced_job, name)

    def config_map(self, name: str) -> Object | None:
        """Return one ConfigMap, None if there is none of that name."""
        return self._json("get", "configmaps", self._core.read_namespaced_config_map, name)

    def pod_log(self, name: str, container: str, *, previous: bool = False) -> bytes | None:
        """Return a container's whole log, with `previous` of the start before; None if it has none."""
        from kubernetes.client import ApiException

        def read() -> bytes | None:
            try:
                answer = self._core.read_namespaced_pod_log(
                    name, self.namespace, container=container, previous=previous, **self._raw(60)
                )
                data = bytes(answer.data)
                # A container that is gone from its node answers 200 and this.
                return None if data.startswith(b"unable to retrieve container logs") else data
            except ApiException as error:
                # The container never started, or its node is gone.
                if error.status in (400, 404, 500, 502, 504):
                    return None
                raise

        found: bytes | None = self._call("get", "pods/log", read)
        return found

    # Changes

    def create_job(self, body: Object) -> Object:
        """Create a Job; raise AlreadyExists if its name is taken."""
        return self._create("jobs", self._batch.create_namespaced_job, body)

    def create_deployment(self, body: Object) -> Object:
        """Create a Deployment; raise AlreadyExists if its name is taken."""
        return self._create("deployments", self._apps.create_namespaced_deployment, body)

    def delete_job(self, found: Object) -> None:
        """Delete this very Job and its pods."""
        self._delete("jobs", self._batch.delete_namespaced_job, found)

    def delete_deployment(self, found: Object) -> None:
        """Delete this very Deployment; its name is free when its pods are gone."""
        self._delete("deployments", self._apps.delete_namespaced_deployment, found)

    # How

    def _list(self, resource: str, function: Callable[..., Any], **selector: str) -> list[Object]:
        answer = self._call(
            "list", resource, lambda: function(self.namespace, **selector, **self._raw(TIMEOUT_S[1]))
        )
        items: list[Object] = json.loads(answer.data).get("items") or []
        return items

    def _json(self, verb: str, resource: str, function: Callable[..., Any], name: str) -> Object | None:
        from kubernetes.client import ApiException

        def read() -> Object | None:
            try:
                answer = function(name, self.namespace, **self._raw(TIMEOUT_S[1]))
            except ApiException as error:
                if error.status == 404:
                    return None
                raise
            return dict(json.loads(answer.data))

        found: Object | None = self._call(verb, resource, read)
        return found

    def _create(self, resource: str, function: Callable[..., Any], body: Object) -> Object:
        from kubernetes.client import ApiException

        def create() -> Any:
            try:
                return function(self.namespace, body=body, **self._raw(TIMEOUT_S[1]))
            except ApiException as error:
                if error.status == 409 and _status(error).get("reason") == "AlreadyExists":
                    raise AlreadyExists(body["metadata"]["name"]) from None
                raise

        made: Object = json.loads(self._call("create", resource, create).data)
        return made

    def _delete(self, resource: str, function: Callable[..., Any], found: Object) -> None:
        from kubernetes.client import ApiException

        meta = found["metadata"]
        options = {"propagationPolicy": "Foreground", "preconditions": {"uid": meta["uid"]}}

        def delete() -> None:
            try:
                function(meta["name"], self.namespace, body=options, **self._raw(TIMEOUT_S[1]))
            except ApiException as error:
                # Gone already, or another object has its name by now.
                if error.status not in (404, 409):
                    raise

        self._call("delete", resource, delete)

    def _raw(self, read_s: float) -> dict[str, Any]:
        """Return what every call is given: the JSON as it came, and how long to wait for it."""
        return {"_preload_content": False, "_request_timeout": (TIMEOUT_S[0], read_s)}

    def _call(self, verb: str, resource: str, request: Callable[[], Any]) -> Any:
        """Make a call, again and again while what is wrong may pass."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        begun, wait = time.monotonic(), 1.0
        while True:
            try:
                return request()
            except ApiException as error:
                if error.status and error.status < 500 and error.status not in PASSING:
                    raise self._translated(verb, resource, error) from None
                reason = f"it answered {error.status} {_message(error)}"
            except (HTTPError, OSError) as error:
                reason = f"{type(error).__name__}: {error}"
            if time.monotonic() - begun > OUTAGE_S:
                raise TransientError(
                    f"the API server cannot {verb} {resource} for {OUTAGE_S:.0f} s: {reason}"
                )
            log.warning("api_unreachable", verb=verb, resource=resource, reason=reason, again_in_s=wait)
            self._pause(wait)
            wait = min(2 * wait, LONGEST_WAIT_S)

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._stop.check()
            time.sleep(min(left, 0.3))
        self._stop.check()

    def _translated(self, verb: str, resource: str, error: Any) -> Exception:
        message = _message(error)
        if error.status == 403:
            if denied := _DENIED.search(message):
                what = f"{denied['verb']} {denied['resource']}"
                return ConfigError(
                    f"RBAC: this service account may not {what} in namespace '{self.namespace}';"
                    f" its Role must allow '{denied['verb']}' on '{denied['resource']}' ({message})"
                )
            if "exceeded quota" in message or "being terminated" in message:
                return TransientError(f"cannot {verb} {resource} now: {message}")
        return ConfigError(f"the API server refuses to {verb} {resource} ({error.status}): {message}")


def own_namespace() -> str:
    """Return the namespace of this pod, else of the kubeconfig's current context, else 'default'."""
    if "KUBERNETES_SERVICE_HOST" in os.environ and _NAMESPACE_FILE.is_file():
        return _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    _require()
    from kubernetes import config

    try:
        context = config.list_kube_config_contexts()[1]["context"]
    except config.ConfigException:
        return "default"
    return str(context.get("namespace") or "default")


def _connect() -> Any:
    """Return a client with this pod's service account, else with the kubeconfig's credentials."""
    _require()
    from kubernetes import client, config

    settings = client.Configuration()
    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=settings)
        else:
            config.load_kube_config(client_configuration=settings)
    except config.ConfigException as error:
        raise ConfigError(f"KUBECONFIG: no cluster to talk to: {error}") from None
    # The calls above are repeated here, where a signal is heeded and every try is logged.
    settings.retries = False
    return client.ApiClient(settings)


def _require() -> None:
    try:
        import kubernetes  # noqa: F401
    except ModuleNotFoundError:
        raise ConfigError(
            "the package 'kubernetes' is not installed here; install polaris[cluster]"
        ) from None


def _status(error: Any) -> Object:
    try:
        found = json.loads(error.body or "{}")
    except (ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _message(error: Any) -> str:
    return " ".join(str(_status(error).get("message") or error.reason or "").split())

"""A kubeconfig, a namespace and a release's name in; the cluster's objects as plain dicts out.

The one file of this package that knows the `kubernetes` client. Objects are what `kubectl get -o json`
shows, so that everything behind this edge takes data.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from polaris.errors import ConfigError, PolarisError, TransientError
from polaris.execute.manifests import COMPONENT, RELEASE, Object

CREDENTIALS = "polaris-credentials"
"""The Secret of a release: environment variables by their own names."""
NAME = "app.kubernetes.io/name"

_KINDS = {
    "configmaps": ("CoreV1Api", "config_map"),
    "secrets": ("CoreV1Api", "secret"),
    "services": ("CoreV1Api", "service"),
    "pods": ("CoreV1Api", "pod"),
    "events": ("CoreV1Api", "event"),
    "jobs": ("BatchV1Api", "job"),
    "deployments": ("AppsV1Api", "deployment"),
}
"""What is read: its plural → the client's class and the word in its methods' names."""

SILENCE_S = 600
"""A followed log that says nothing for so long is asked for again: its connection may be dead."""
_QUICK: dict[str, Any] = {"_request_timeout": (10, 60)}
"""Seconds to connect and to read."""


class Cluster(Protocol):
    """What is read of a cluster's namespace. Errors: ConfigError (access), TransientError (down)."""

    namespace: str

    def objects(self, kind: str, labels: Mapping[str, str], fields: str = "") -> list[Object]:
        """Return the objects of a kind with these labels."""

    def read(self, kind: str, name: str) -> Object | None:
        """Return an object, None if there is none or if this user may not read it."""

    def exists(self) -> bool:
        """Tell whether the namespace exists, as far as this user may know."""

    def releases(self) -> list[tuple[str, str]]:
        """Return the namespace and name of every release that this user can see; none is no error."""

    def log(self, pod: str, container: str, *, tail: int | None = None, previous: bool = False) -> str:
        """Return a container's log, '' if it has none (yet)."""

    def follow(self, pod: str, container: str, since_s: int | None = None) -> Iterator[str]:
        """Yield a container's log lines, each with its RFC 3339 time before it, until it ends or breaks."""

    def dial(self, pod: str, port: int) -> Any:
        """Return the socket of a new tunnel to a pod's port; raise OSError if there is no way in."""


class KubeCluster:
    """A namespace of a real cluster, by the user's kubeconfig."""

    def __init__(self, namespace: str | None, context: str | None) -> None:
        """Read the kubeconfig; `namespace` None takes the context's. Raises ConfigError."""
        kubernetes = client_package()
        from kubernetes import config
        from kubernetes.config.config_exception import ConfigException

        try:
            # The package looks at the variable only when it is imported.
            files = os.environ.get("KUBECONFIG") or None
            contexts, active = config.list_kube_config_contexts(files)
            named = [found for found in contexts if found["name"] == context] if context else [active]
            if not named:
                known = ", ".join(found["name"] for found in contexts)
                raise ConfigError(f"--context: '{context}' is not in the kubeconfig; it has {known}")
            self._client = config.new_client_from_config(files, context=context)
        except (ConfigException, OSError, TypeError) as error:
            what = " ".join(str(error).split())
            raise ConfigError(
                f"no usable kubeconfig ({what}); set KUBECONFIG to one, or run where kubectl works"
            ) from None
        self._kubernetes = kubernetes
        self.namespace = namespace or str(named[0]["context"].get("namespace") or "default")

    def objects(self, kind: str, labels: Mapping[str, str], fields: str = "") -> list[Object]:
        """Return the objects of a kind with these labels."""
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        how = {"label_selector": selector} | ({"field_selector": fields} if fields else {})
        return list(self._read(f"list {kind}", kind, "list_namespaced_{}", self.namespace, **how)["items"])

    def read(self, kind: str, name: str) -> Object | None:
        """Return an object, None if there is none or if this user may not read it."""
        try:
            found: Object = self._read(f"get {kind}", kind, "read_namespaced_{}", name, self.namespace)
        except _Absent:
            return None
        return found

    def exists(self) -> bool:
        """Tell whether the namespace exists, as far as this user may know."""
        try:
            self._call("get namespaces", self._api("CoreV1Api").read_namespace, self.namespace, **_QUICK)
        except _Absent:
            return False
        except ConfigError:
            return True
        return True

    def releases(self) -> list[tuple[str, str]]:
        """Return the namespace and name of every release that this user can see."""
        labels = {NAME: "polaris", COMPONENT: "config"}
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        found: list[Object] = []
        for method, where in (
            ("list_{}_for_all_namespaces", ()),
            ("list_namespaced_{}", (self.namespace,)),
        ):
            with contextlib.suppress(PolarisError, _Absent):
                found = self._read("list", "configmaps", method, *where, label_selector=selector)["items"]
                break
        metas = [item["metadata"] for item in found]
        return sorted((meta["namespace"], meta["labels"].get(RELEASE, "?")) for meta in metas)

    def log(self, pod: str, container: str, *, tail: int | None = None, previous: bool = False) -> str:
        """Return a container's log, '' if it has none (yet)."""
        how: dict[str, Any] = {"container": container, "previous": previous}
        if tail is not None:
            how["tail_lines"] = tail
        answer = self._log(pod, how)
        return "" if answer is None else str(answer.data.decode("utf-8", "replace"))

    def follow(self, pod: str, container: str, since_s: int | None = None) -> Iterator[str]:
        """Yield a container's log lines with their times until it ends or the connection breaks."""
        from urllib3.exceptions import HTTPError

        how: dict[str, Any] = {"container": container, "follow": True, "timestamps": True}
        if since_s is not None:
            how["since_seconds"] = since_s
        answer = self._log(pod, how, timeout_s=SILENCE_S)
        if answer is None:
            return
        rest = b""
        try:
            with contextlib.suppress(HTTPError, OSError):
                for piece in answer.stream(1 << 16):
                    *lines, rest = (rest + piece).split(b"\n")
                    yield from (line.decode("utf-8", "replace") for line in lines)
            if rest:
                yield rest.decode("utf-8", "replace")
        finally:
            answer.close()

    def _log(self, pod: str, how: dict[str, Any], timeout_s: int = 60) -> Any:
        try:
            return self._call(
                "get pods/log",
                self._api("CoreV1Api").read_namespaced_pod_log,
                pod,
                self.namespace,
                _request_timeout=(10, timeout_s),
                **how,
            )
        except _Absent:
            return None

    def dial(self, pod: str, port: int) -> Any:
        """Return the socket of a new tunnel to a pod's port; raise OSError if there is no way in."""
        from kubernetes.stream import portforward

        # The package changes the client that it is given while it dials: each tunnel has its own.
        api = self._kubernetes.client.CoreV1Api(self._kubernetes.client.ApiClient(self._client.configuration))
        try:
            tunnel = portforward(
                api.connect_get_namespaced_pod_portforward, pod, self.namespace, ports=str(port)
            )
        except self._kubernetes.client.ApiException as error:
            # Behind its first part the package adds the answer's headers and body.
            what = " ".join(str(error.reason).split(" -+-+- ")[0].split())
            raise ConnectionError(f"no port-forward to pod {pod}: {what}") from None
        opened: socket.socket = tunnel.socket(port)
        opened.setblocking(True)
        return opened

    def _api(self, name: str) -> Any:
        return getattr(self._kubernetes.client, name)(self._client)

    def _read(self, what: str, kind: str, method: str, *arguments: Any, **how: Any) -> Any:
        api, word = _KINDS[kind]
        call = getattr(self._api(api), method.format(word))
        return json.loads(self._call(what, call, *arguments, **_QUICK, **how).data)

    def _call(self, what: str, call: Any, *arguments: Any, **how: Any) -> Any:
        """Call the client; translate its errors into ours, and what is not there into `_Absent`."""
        from urllib3.exceptions import HTTPError

        where = self._client.configuration.host
        try:
            return call(*arguments, _preload_content=False, **how)
        except self._kubernetes.client.ApiException as error:
            if error.status in (400, 404):
                # 400 is the answer for the log of a container that waits to start.
                raise _Absent(what) from None
            if error.status == 403 and what in ("get secrets", "list"):
                raise _Absent(what) from None
            if error.status in (401, 403):
                raise ConfigError(
                    f"{where} refuses to {what} in namespace '{self.namespace}' ({error.status}"
                    f" {error.reason}); use a --context whose user may"
                ) from None
            raise TransientError(f"{where} answered {error.status} {error.reason} to {what}") from None
        except (HTTPError, OSError) as error:
            cause = getattr(error, "reason", None) or error
            raise TransientError(f"the cluster at {where} does not answer: {cause}") from None


class _Absent(Exception):
    """There is no such object, or none that this user may see."""


def client_package() -> Any:
    """Return the `kubernetes` package; raise ConfigError where it is not installed."""
    try:
        import kubernetes
        import kubernetes.client
    except ModuleNotFoundError:
        raise ConfigError(
            "the package 'kubernetes' is not installed here; install polaris[cluster]"
        ) from None
    return kubernetes


def in_cluster_can_i(namespace: str) -> Any:
    """Return this pod's `can_i(verb, group, resource, name)`, answered by the API server itself.

    Raises ConfigError outside of a pod with a service account's token.
    """
    kubernetes = client_package()
    from kubernetes import config
    from kubernetes.config.config_exception import ConfigException

    try:
        config.load_incluster_config()
    except ConfigException as error:
        raise ConfigError(
            f"--cluster: {error}; it asks as the pod that it runs in, whose service account needs a token"
        ) from None
    api = kubernetes.client.AuthorizationV1Api()

    def can_i(verb: str, group: str, resource: str, name: str) -> bool:
        whole, _, part = resource.partition("/")
        attributes = {"namespace": namespace, "verb": verb, "group": group, "resource": whole}
        attributes |= {"subresource": part} if part else {}
        attributes |= {"name": name} if name else {}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        from urllib3.exceptions import HTTPError

        try:
            answer = api.create_self_subject_access_review(body, _preload_content=False, **_QUICK)
        except (kubernetes.client.ApiException, HTTPError, OSError) as error:
            what = " ".join(str(getattr(error, "reason", None) or error).split())
            raise TransientError(
                f"--cluster: the API server does not say what this pod may do: {what}"
            ) from None
        return bool(json.loads(answer.data)["status"].get("allowed"))

    return can_i

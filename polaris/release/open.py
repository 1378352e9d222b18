"""A release's name in a cluster in; its configuration, its plan and a way to its store out."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from polaris.config import RunConfig, StoreConfig
from polaris.errors import ConfigError, PolarisError, TransientError
from polaris.execute.manifests import CONFIG_MAP, RELEASE, Object
from polaris.fields import stored_as
from polaris.identity import contents_of
from polaris.imports import content_hash, find_imports
from polaris.load import load
from polaris.plan import Plan, plan
from polaris.release.connect import CREDENTIALS, NAME, Cluster
from polaris.release.forward import forwarded
from polaris.release.objects import UNKNOWN, digests_of
from polaris.run import Run
from polaris.runtime import keep_secret
from polaris.storage import Store, open_store

TRIES = 2
"""Tries of one request to the store: a person waits for the answer."""


@dataclass
class Release:
    """A release as a laptop sees it.

    `run` is None, and `trouble` says why in one line, while its store cannot be reached or lacks its
    inputs. `exact` tells whether the plan's digests are the cluster's: not if content lies in the pods
    alone, and not before `run` is there.
    """

    name: str
    cluster: Cluster
    config: RunConfig
    plan: Plan
    templates: Mapping[str, Object]
    path: Path
    stack: contextlib.ExitStack
    run: Run | None = None
    exact: bool = False
    trouble: str = ""
    _store: Store | None = None

    def connect(self) -> None:
        """Reach the store and read from it what the plan rests on, unless that is done."""
        if self.run is not None:
            return
        try:
            if self._store is None:
                settings = self.stack.enter_context(_reached(self.cluster, self.config.store))
                self._store = open_store(settings)
            # Whatever it answers, it answers.
            self._store.head(f"runs/{self.config.run}/LEASE.json")
        except PolarisError as error:
            self.trouble = out_of_reach(error)
            return
        try:
            imports = find_imports(self.config, self._store, self.path)
        except PolarisError as error:
            self.trouble = f"the run's inputs are not in its store yet: {_one_line(error)}"
            return
        contents = _Contents({named: content_hash(manifest) for named, manifest in imports.items()})
        self.exact = all(stored_as(named) is not None for _, named in contents_of(self.config))
        found = plan(self.config, contents)
        self.plan = found if self.exact else without_digests(found)
        self.run = Run(self.path, self.config, contents, self.plan, self._store, imports)
        self.trouble = ""

    def jobs(self) -> list[Object]:
        """Return the release's Jobs."""
        return self.cluster.objects("jobs", {RELEASE: self.name})

    def opened(self) -> Run:
        """Return the run; raise TransientError saying why its store cannot be reached."""
        run = self.with_digests(self.jobs())
        if run is None:
            raise TransientError(self.trouble)
        return run

    def with_digests(self, jobs: list[Object]) -> Run | None:
        """Return the run with the digests that its Jobs carry, where the plan cannot tell them."""
        if self.run is None or self.exact:
            return self.run
        known = digests_of(jobs)
        found = {}
        for name, instance in self.run.plan.instances.items():
            digest = known.get(name) or _newest_digest(self.run, name)
            found[name] = replace(instance, digest=digest)
        return replace(self.run, plan=Plan(found))


@contextlib.contextmanager
def open_release(cluster: Cluster, name: str) -> Iterator[Release]:
    """Read a release's ConfigMap and open its store, in the cluster or outside, while the block lasts.

    Raises ConfigError for a namespace or release that does not exist, naming those that do.
    """
    data = _config_of(cluster, name).get("data") or {}
    templates = {key: _manifest(key, data[key]) for key in data if key.startswith(("stage-", "serve-"))}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        path = Path(folder, "run.yaml")
        path.write_text(data.get("run.yaml", ""), encoding="utf-8")
        config = _load(path)
        # Its own scratch is the pods'.
        own = config.execute.model_copy(update={"work_dir": Path(folder, "work")})
        config = config.model_copy(update={"execute": own})
        stack.enter_context(_credentials(cluster, templates))
        found = without_digests(plan(config, _Contents()))
        release = Release(name, cluster, config, found, templates, path, stack)
        release.connect()
        yield release


def out_of_reach(error: PolarisError) -> str:
    """Return in one line that the store cannot be reached, and why."""
    return f"the store cannot be reached from here: {_one_line(error)}"


def _one_line(error: PolarisError) -> str:
    return " ".join(str(error).split())


def without_digests(found: Plan) -> Plan:
    """Return a plan whose digests are unknown."""
    return Plan({name: replace(one, digest=UNKNOWN) for name, one in found.instances.items()})


class _Contents(dict[Path, str]):
    """Content hashes; what lies in the pods alone has none that is known here."""

    def __missing__(self, path: Path) -> str:
        return UNKNOWN


def _newest_digest(run: Run, name: str) -> str:
    """Return the digest of the instance's newest attempt in the store, UNKNOWN if it has none."""
    keys = [info.key.split("/") for info in run.store.list(f"runs/{run.config.run}/{name}/")]
    # runs/<run>/<instance>/<digest>/attempts/<id>/…, and ids sort by time.
    attempts = [(key[5], key[3]) for key in keys if len(key) > 6 and key[4] == "attempts"]
    return max(attempts)[1] if attempts else UNKNOWN


def _config_of(cluster: Cluster, name: str) -> Object:
    found = cluster.read("configmaps", CONFIG_MAP)
    labels = (found or {}).get("metadata", {}).get("labels") or {}
    if found is not None and labels.get(RELEASE) == name and labels.get(NAME) == "polaris":
        return found
    here = [(cluster.namespace, labels[RELEASE])] if labels.get(RELEASE) else []
    others = [f"{release} (-n {namespace})" for namespace, release in cluster.releases() or here]
    known = f"there are {', '.join(others)}" if others else "no release is to be seen in this cluster"
    if not cluster.exists():
        raise ConfigError(f"--namespace: '{cluster.namespace}' does not exist in this cluster; {known}")
    held = f", which holds '{labels.get(RELEASE)}'" if labels.get(RELEASE) not in (None, name) else ""
    raise ConfigError(
        f"--release: '{name}' is not in namespace '{cluster.namespace}'{held}; {known};"
        " name one, and its namespace by -n"
    )


def _load(path: Path) -> RunConfig:
    try:
        # This shell's variables override nothing on the cluster.
        return load(path, environment={})
    except ConfigError as error:
        raise ConfigError(str(error).replace(str(path), f"ConfigMap {CONFIG_MAP}: run.yaml")) from None


def _manifest(key: str, text: str) -> Object:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"ConfigMap {CONFIG_MAP}: {key}: {' '.join(str(error).split())}") from None
    return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def _credentials(cluster: Cluster, templates: Mapping[str, Object]) -> Iterator[None]:
    """Have the store's credentials of the release in the environment, which is where boto3 looks.

    A Secret that this user may not read leaves the user's own environment to decide.
    """
    found: dict[str, str] = {}
    for name in sorted(secrets_of(templates)):
        secret = cluster.read("secrets", name) or {}
        for key, value in (secret.get("data") or {}).items():
            if key.startswith("AWS_"):
                with contextlib.suppress(binascii.Error, UnicodeDecodeError):
                    found[key] = base64.b64decode(value).decode().strip()
    found = {key: value for key, value in found.items() if value}
    if "AWS_ACCESS_KEY_ID" in found:
        # A token of the shell's own session fits no other key.
        found.setdefault("AWS_SESSION_TOKEN", "")
    before = {key: os.environ.get(key) for key in found}
    for key, value in found.items():
        os.environ[key] = value
        if key != "AWS_REGION":
            keep_secret(value)
    try:
        yield
    finally:
        for key, old in before.items():
            os.environ.pop(key, None)
            if old is not None:
                os.environ[key] = old


def secrets_of(templates: Mapping[str, Object]) -> set[str]:
    """Return the names of the Secrets that stages take their environment from."""
    found = {CREDENTIALS}
    for template in templates.values():
        spec = template.get("spec", {}).get("template", {}).get("spec", {})
        for container in spec.get("containers") or []:
            sources = [source.get("secretRef") or {} for source in container.get("envFrom") or []]
            values = [value.get("valueFrom") or {} for value in container.get("env") or []]
            sources += [value.get("secretKeyRef") or {} for value in values]
            found |= {source["name"] for source in sources if source.get("name")}
    return found


@contextlib.contextmanager
def _reached(cluster: Cluster, store: StoreConfig) -> Iterator[StoreConfig]:
    """Give the store's settings as they work from here: one in the cluster is forwarded."""
    if not store.url.startswith("s3://"):
        raise ConfigError(f"store.url '{store.url}' is a folder in the pods")
    store = store.model_copy(update={"retries": TRIES})
    service = service_of(store.endpoint, cluster)
    if service is None:
        yield store
        return
    url = urlsplit(store.endpoint or "")
    port = url.port or (443 if url.scheme == "https" else 80)

    def dial() -> Any:
        pod = _ready_pod(cluster, service)
        return cluster.dial(pod["metadata"]["name"], target_port(service, pod, port))

    try:
        # Who may not forward is told so here; a tunnel that fails later only looks like a store that is down.
        dial().close()
    except OSError as error:
        raise TransientError(str(error)) from None
    with forwarded(dial) as local:
        endpoint = f"{url.scheme}://127.0.0.1:{local}"
        yield store.model_copy(update={"endpoint": endpoint, "path_style": True})


def service_of(endpoint: str | None, cluster: Cluster) -> Object | None:
    """Return the Service of the cluster's namespace that an endpoint's host names, None for another host."""
    host = urlsplit(endpoint or "").hostname or ""
    name, _, rest = host.partition(".")
    inside = f"{cluster.namespace}.svc.cluster.local"
    if not name or rest not in ("", cluster.namespace, f"{cluster.namespace}.svc", inside):
        return None
    return cluster.read("services", name)


def target_port(service: Object, pod: Object, port: int) -> int:
    """Return the pod's port behind a Service's port; raise OSError if there is none."""
    for entry in service["spec"].get("ports") or []:
        if entry["port"] != port:
            continue
        target = entry.get("targetPort", port)
        if isinstance(target, int):
            return target
        for container in pod["spec"]["containers"]:
            for found in container.get("ports") or []:
                if found.get("name") == target:
                    return int(found["containerPort"])
    raise ConnectionError(f"Service {service['metadata']['name']} has no port {port}")


def _ready_pod(cluster: Cluster, service: Object) -> Object:
    try:
        pods = cluster.objects("pods", service["spec"].get("selector") or {})
    except PolarisError as error:
        raise ConnectionError(str(error)) from None
    for pod in pods:
        conditions = pod.get("status", {}).get("conditions") or []
        if any(found["type"] == "Ready" and found["status"] == "True" for found in conditions):
            return pod
    raise ConnectionError(f"no ready pod behind Service {service['metadata']['name']}")

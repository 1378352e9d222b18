"""A rendered template and an instance or a model in, the body of its Job or Deployment out. All pure."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from polaris.errors import ConfigError
from polaris.plan import Instance
from polaris.run import ENDPOINTS_ENV

CONFIG_MAP = "polaris-config"
"""What owns all that the orchestrator makes, so that `helm uninstall` takes it along."""
RELEASE = "app.kubernetes.io/instance"
COMPONENT = "app.kubernetes.io/component"
RUN = "polaris/run"
KIND = "polaris/kind"
DIGEST = "polaris/digest"
ATTEMPT = "polaris/attempt"
ORCHESTRATOR = "polaris/orchestrator"
INSTANCE = "polaris/instance"
"""Annotation: the instance's whole name; a label's value would be too short for some."""
MODEL = "polaris/model"
IDENTITY = "polaris/identity"
"""Annotation: the identity of the model that a Deployment serves."""
TEMPLATE = "polaris/template"
"""Annotation: a hash of all else that a Deployment's server was started with."""
STAGE = "stage"
"""The stage's container."""
SERVE = "serve"
"""The server's container."""
PORT = 8000
RENDEZVOUS_PORT = 29400
NAME_LENGTH = 52
"""Longest name of a Job: a pod's name adds an index and five letters, and is cut at 63."""

Object = dict[str, Any]


def job_name(run: str, instance: str, digest: str, attempt: int) -> str:
    """Return a Job's name: run, instance (cut if it must be), the digest's first 8 digits, attempt number."""
    end = f"-{digest[:8]}-{attempt}"
    whole = f"{run}-{instance}".replace(".", "-")
    return whole[: NAME_LENGTH - len(end)].rstrip("-") + end


def deployment_name(model: str) -> str:
    """Return the name of a model's Deployment, which is its Service's too."""
    return f"polaris-serve-{model}"


def service_url(model: str) -> str:
    """Return the base URL of a model's Service."""
    return f"http://{deployment_name(model)}:{PORT}/v1"


def owner(config_map: Mapping[str, Any]) -> Object:
    """Return the ownerReference to a ConfigMap."""
    meta = config_map["metadata"]
    return {"apiVersion": "v1", "kind": "ConfigMap", "name": meta["name"], "uid": meta["uid"]}


def stage_job(
    template: Mapping[str, Any],
    instance: Instance,
    *,
    run: str,
    attempt: int,
    orchestrator: str,
    owner: Mapping[str, Any],
) -> Object:
    """Return the Job of an instance's attempt.

    `template` is a Job with a container `stage` whose second argument stands for the instance; it is
    left as it is. Raises ConfigError if it is another kind of object.
    """
    where = f"stage-{instance.kind}.yaml"
    body, container = _opened(template, "Job", STAGE, where)
    arguments = container.get("args") or []
    if len(arguments) != 3:
        raise ConfigError(
            f"{where}: the args of '{STAGE}' are {arguments}; they must be stage, INSTANCE, FILE"
        )
    arguments[1] = instance.name
    name = job_name(run, instance.name, instance.digest, attempt)
    labels = {
        RUN: run,
        KIND: instance.kind,
        DIGEST: instance.digest,
        ATTEMPT: str(attempt),
        ORCHESTRATOR: orchestrator,
    }
    _mark(body, name, labels, {INSTANCE: instance.name}, owner)
    env = {
        ENDPOINTS_ENV: json.dumps({model: service_url(model) for model in instance.services}),
        "POLARIS_EXPECTED_DIGEST": instance.digest,
    }
    if nodes(container) > 1:
        subdomain = body["spec"]["template"]["spec"].get("subdomain", "polaris-train")
        env["POLARIS_RENDEZVOUS"] = f"{name}-0.{subdomain}:{RENDEZVOUS_PORT}"
    _set_env(container, env)
    return body


def serve_deployment(
    template: Mapping[str, Any],
    model: str,
    *,
    identity: str,
    settings: Mapping[str, Any],
    owner: Mapping[str, Any],
) -> Object:
    """Return the Deployment that serves a model; raise ConfigError if the template is something else.

    `settings` are those of the configuration that the server reads for itself. They and the pod's
    specification, not its labels, make the hash that tells whether a live server is still the right one.
    """
    body, container = _opened(template, "Deployment", SERVE, f"serve-{model}.yaml")
    _mark(body, deployment_name(model), {MODEL: model}, {IDENTITY: identity}, owner)
    _set_env(container, {"POLARIS_EXPECTED_IDENTITY": identity})
    made_of = json.dumps([body["spec"]["template"]["spec"], dict(settings)], sort_keys=True)
    body["metadata"]["annotations"][TEMPLATE] = hashlib.sha256(made_of.encode()).hexdigest()[:16]
    return body


def endpoints(job: Mapping[str, Any]) -> list[str]:
    """Return the models that a stage's Job was given endpoints of."""
    containers = job["spec"]["template"]["spec"]["containers"]
    env = [entry for container in containers for entry in container.get("env") or []]
    values = [entry.get("value") for entry in env if entry["name"] == ENDPOINTS_ENV]
    return list(json.loads(values[-1])) if values and values[-1] else []


def nodes(container: Mapping[str, Any]) -> int:
    """Return the number of machines that a template's training runs on."""
    values = [entry.get("value") for entry in container.get("env") or [] if entry["name"] == "POLARIS_NODES"]
    return int(values[-1]) if values and values[-1] else 1


def _opened(template: Mapping[str, Any], kind: str, container: str, where: str) -> tuple[Object, Object]:
    """Return a copy of a template and the container of that name in it."""
    body: Object = copy.deepcopy(dict(template))
    try:
        found = [
            entry for entry in body["spec"]["template"]["spec"]["containers"] if entry["name"] == container
        ]
    except (KeyError, TypeError):
        found = []
    if body.get("kind") != kind or not found:
        raise ConfigError(f"{where}: it is no {kind} with a container '{container}'; render the chart again")
    _quote_quantities(body["spec"]["template"]["spec"])
    return body, found[0]


def _quote_quantities(pod: Object) -> None:
    """Make text of every quantity: YAML reads `cpu: 2` as a number, which the client refuses."""
    for container in [*(pod.get("initContainers") or []), *pod["containers"]]:
        for part in (container.get("resources") or {}).values():
            if isinstance(part, dict):
                part.update({name: str(value) for name, value in part.items()})
    for volume in pod.get("volumes") or []:
        empty = volume.get("emptyDir") or {}
        if "sizeLimit" in empty:
            empty["sizeLimit"] = str(empty["sizeLimit"])


def _mark(
    body: Object, name: str, labels: dict[str, str], annotations: dict[str, str], owner: Mapping[str, Any]
) -> None:
    """Give an object its name and owner, and it and its pods these labels and annotations."""
    pod = body["spec"]["template"].setdefault("metadata", {})
    for meta in (body.setdefault("metadata", {}), pod):
        meta["labels"] = (meta.get("labels") or {}) | labels
        meta["annotations"] = (meta.get("annotations") or {}) | annotations
    body["metadata"]["name"] = name
    body["metadata"]["ownerReferences"] = [dict(owner)]


def _set_env(container: Object, values: Mapping[str, str]) -> None:
    kept = [entry for entry in container.get("env") or [] if entry["name"] not in values]
    container["env"] = [*kept, *({"name": name, "value": value} for name, value in values.items())]

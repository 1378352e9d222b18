"""Templates of Jobs and Deployments as small as they can be, in a folder as a ConfigMap's mount is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

LABELS = {"app.kubernetes.io/name": "polaris", "app.kubernetes.io/instance": "polaris"}


def stage_template(**env: str) -> dict[str, Any]:
    """Return a Job template; `env` are its container's variables."""
    labels = {**LABELS, "app.kubernetes.io/component": "stage"}
    container = {
        "name": "stage",
        "image": "tools",
        "args": ["stage", "INSTANCE", "/etc/polaris/run.yaml"],
        "env": [{"name": name, "value": value} for name, value in env.items()],
        "resources": {"limits": {"memory": "4Gi"}},
    }
    pod = {
        "metadata": {"labels": dict(labels)},
        "spec": {"containers": [container], "subdomain": "polaris-train"},
    }
    meta = {"name": "stage", "labels": labels}
    spec = {"backoffLimit": 2, "activeDeadlineSeconds": 600, "template": pod}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec}


def serve_template(model: str) -> dict[str, Any]:
    """Return a Deployment template."""
    labels = {**LABELS, "app.kubernetes.io/component": "serve", "polaris/model": model}
    container = {"name": "serve", "image": "serve", "resources": {"limits": {"memory": "8Gi"}}}
    spec = {
        "selector": {"matchLabels": {"polaris/model": model}},
        "template": {"metadata": {"labels": dict(labels)}, "spec": {"containers": [container]}},
    }
    meta = {"name": f"polaris-serve-{model}", "labels": labels}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}


def write_templates(folder: Path, *models: str) -> Path:
    """Write a template for every kind and for these models."""
    folder.mkdir()
    for kind in ("data", "train", "generate", "judge", "evaluate", "report"):
        (folder / f"stage-{kind}.yaml").write_text(yaml.safe_dump(stage_template()))
    for model in models:
        (folder / f"serve-{model}.yaml").write_text(yaml.safe_dump(serve_template(model)))
    return folder

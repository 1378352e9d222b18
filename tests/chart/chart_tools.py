"""A program's or a profile's name in; the program's path, or what Helm renders, out."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "polaris"
HELMS = ("helm3", "helm4")
PROFILES = {
    "default": ["ci/default-values.yaml"],
    "a100x4": ["values-a100x4.yaml", "ci/a100x4-values.yaml"],
    "minimal-external": ["ci/minimal-external-values.yaml"],
    "two-nodes": ["ci/two-nodes-values.yaml"],
    "extras": ["ci/extras-values.yaml"],
}
"""Profile → its values files, below the chart."""

Object = dict[str, Any]

# By its path: on the import path this very folder is called `chart` too.
_spec = importlib.util.spec_from_file_location("chart_script", ROOT / "scripts" / "chart.py")
assert _spec and _spec.loader
script = importlib.util.module_from_spec(_spec)
sys.modules["chart_script"] = script
_spec.loader.exec_module(script)


def tool(name: str) -> str:
    """Return the path of a cluster tool; skip where `make cluster-tools` has not been."""
    path = Path(os.environ.get("POLARIS_CACHE", "/nowhere")) / "cluster-tools" / "bin" / name
    if not path.exists():
        pytest.skip(f"no {name} in $POLARIS_CACHE/cluster-tools/bin: run `make cluster-tools`")
    return str(path)


def helm(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a helm in the chart's folder."""
    return subprocess.run([tool(program), *words], cwd=CHART, capture_output=True, text=True)


def files_of(profile: str) -> list[str]:
    return [word for path in PROFILES[profile] for word in ("-f", path)]


@functools.cache
def rendered(program: str, profile: str, *more: str) -> str:
    """Return a profile as a helm renders it."""
    done = helm(program, "template", "polaris", ".", "-n", "polaris", *files_of(profile), *more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(profile: str, *more: str) -> list[Object]:
    """Return a profile's objects."""
    return [found for found in yaml.safe_load_all(rendered("helm4", profile, *more)) if found]


def config_of(found: list[Object]) -> dict[str, str]:
    """Return the data of polaris-config."""
    return dict(named(found, "ConfigMap", "polaris-config")["data"])


def named(found: list[Object], kind: str, name: str) -> Object:
    """Return the one object of a kind whose name begins so."""
    [match] = [o for o in found if o["kind"] == kind and o["metadata"]["name"].startswith(name)]
    return match


def created(found: list[Object]) -> dict[str, Object]:
    """Return the manifests in the ConfigMap, which the orchestrator creates."""
    data = config_of(found)
    return {key: yaml.safe_load(text) for key, text in data.items() if key != "run.yaml"}


def pods(profile: str, *more: str) -> Iterator[tuple[str, Object, Object]]:
    """Yield where it is, metadata and spec of every pod that comes of a profile, standalone Jobs included."""
    found = objects(profile, *more, "--set", "standalone.render=true")
    for source in [*found, *created(found).values()]:
        where = f"{source['kind']}/{source['metadata']['name']}"
        if source["kind"] == "Pod":
            yield where, source["metadata"], source["spec"]
        elif source["kind"] in ("Job", "Deployment"):
            yield where, source["spec"]["template"]["metadata"], source["spec"]["template"]["spec"]


def containers(spec: Object) -> list[Object]:
    return [*spec.get("initContainers", []), *spec["containers"]]


_UNITS = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def size(quantity: str) -> int:
    """Return a quantity's bytes."""
    digits = quantity.rstrip("KMGTi")
    return int(digits) * _UNITS[quantity[len(digits) :]]

"""k8s/ and the scripts: valid, and `make kind` run twice brings the same release up to date."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from polaris import __version__

ROOT = Path(__file__).parents[2]
RULES = "line-length: {max: 125}, document-start: disable, truthy: {check-keys: false}"
FAKE = """#!/bin/sh
# Stands for kind, kubectl, helm and docker: notes how it was called.
echo "$(basename "$0") $*" >>"$CALLS"
case "$(basename "$0") $*" in
"kind get clusters") cat "$CLUSTERS" ;;
"kind create cluster"*) echo polaris >>"$CLUSTERS" ;;
esac
"""


def tool(name: str) -> str:
    """Return a program that `make cluster-tools` fetched."""
    path = Path(os.environ.get("POLARIS_CACHE", "/nowhere")) / "cluster-tools" / "bin" / name
    if not path.exists():
        pytest.skip(f"no {name} here: run `make cluster-tools`")
    return str(path)


def test_shell_scripts_are_sound():
    scripts = [*ROOT.glob("scripts/*.sh"), *ROOT.glob("k8s/*.sh"), ROOT / ".ci" / "run"]
    done = subprocess.run([tool("shellcheck"), *map(str, scripts)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_yaml_is_sound():
    command = [
        tool("yamllint"),
        "--strict",
        "-d",
        f"{{extends: default, rules: {{{RULES}}}}}",
        "k8s",
        ".github",
        "images/.hadolint.yaml",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_cluster_is_one_that_the_chart_supports():
    cluster = yaml.safe_load((ROOT / "k8s" / "kind.yaml").read_text())
    [node] = cluster["nodes"]
    found = re.fullmatch(r"kindest/node:v1\.([0-9]+)\.[0-9]+", node["image"])
    assert found and int(found[1]) >= 29
    namespace = yaml.safe_load((ROOT / "k8s" / "namespace.yaml").read_text())
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_kind_creates_once_and_upgrades_afterwards(tmp_path):
    programs = tmp_path / "cluster-tools" / "bin"
    programs.mkdir(parents=True)
    for name in ("kind", "docker", "kubectl", "helm4"):
        (programs / name).write_text(FAKE)
        (programs / name).chmod(0o755)
    calls, clusters = tmp_path / "calls", tmp_path / "clusters"
    clusters.touch()
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "POLARIS_CACHE": str(tmp_path)}
    environment |= {"CALLS": str(calls), "CLUSTERS": str(clusters)}
    for _ in range(2):
        command = ["sh", str(ROOT / "k8s" / "kind.sh")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = calls.read_text().splitlines()
    assert sum(line.startswith("kind create cluster") for line in lines) == 1
    load = f"kind load docker-image --name polaris polaris-tools:{__version__} polaris-cpu:{__version__}"
    assert lines.count(load) == 2
    changed = [line for line in lines if line.startswith(("kubectl", "helm4"))]
    assert len(changed) == 4 and all("kind-polaris" in line for line in changed)
    assert "polaris status --release polaris -n polaris --watch" in done.stdout


def test_without_kind_it_says_so(tmp_path):
    environment = {"PATH": os.environ["PATH"], "POLARIS_CACHE": str(tmp_path), "KIND": "no-such-kind"}
    done = subprocess.run(
        ["sh", str(ROOT / "k8s" / "kind.sh")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2 and "is not installed" in done.stderr

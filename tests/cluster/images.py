"""The repository in, archives of the images that the cluster's tests run out.

`images/tools/Dockerfile` is really built, by scripts/images.sh, in a Docker daemon of its own. Two things
stand in for what cannot be had without a registry: its base is a Debian of the same release made with
debootstrap, and `polaris-cpu` is the tools image with SeaweedFS, a tiny random model and the demo's books;
its torch comes from outside (setting.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version as version_of
from pathlib import Path
from typing import BinaryIO

from models import demo_like_model

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from commands import follow, lock  # noqa: E402

from polaris import __version__  # noqa: E402

BASE = "polaris-test-base"
RELEASE = "bookworm"
# The libraries are what torch and vLLM load, beside what the Dockerfile asks of its base.
BASE_PACKAGES = "python3,python3-venv,ca-certificates,libgomp1,libnuma1,libstdc++6"
HOST_PACKAGES = ("docker.io", "debootstrap")
# The CLI that talks BuildKit without a plugin; another one may come earlier on PATH.
DOCKER = "/usr/bin/docker"
KEPT = 2
"""Archives of other sources that stay, for other checkouts."""
KEPT_LAYERS = "3GB"

CPU = f"""
FROM polaris-tools:{__version__}
COPY weed /usr/bin/weed
COPY demo /opt/polaris/demo
"""


def build(cache: Path) -> list[Path]:
    """Return archives with polaris-tools:VERSION, polaris-cpu:VERSION and :test; built where they are new.

    Needs root and Debian. `cache` is POLARIS_CACHE; it keeps base, layers and archives.
    """
    folder = cache / "cluster-images"
    archive = folder / f"images-{_key(cache)}.tar"
    if not archive.exists():
        with lock(folder / "build.lock"):
            if not archive.exists():
                _make(cache, folder, archive)
    archive.touch()
    return [archive]


def demo_model(cache: Path) -> Path:
    """Return the folder of the model that polaris-cpu carries as the demo's."""
    source = Path(os.environ["POLARIS_DEMO_MODEL"])
    parts = [(ROOT / "tests" / "models.py").read_bytes(), (source / "source.json").read_bytes()]
    parts += [version_of(name).encode() for name in ("torch", "transformers")]
    final = cache / "cluster-images" / f"model-{_hash(parts)}"
    if not final.exists():
        with lock(final.with_name("model.lock")):
            if not final.exists():
                temporary = final.with_name(final.name + ".partial")
                shutil.rmtree(temporary, ignore_errors=True)
                demo_like_model(temporary, source).rename(final)
    return final


def _hash(parts: list[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:12]


def _key(cache: Path) -> str:
    """Hash every file that goes into the images, and this one."""
    named = "images/tools/Dockerfile .dockerignore pyproject.toml README.md LICENSE scripts/images.sh"
    named += " requirements/build.txt requirements/tools.txt requirements/cluster.txt tests/cluster/images.py"
    paths = [ROOT / name for name in named.split()]
    paths += (
        path for path in (ROOT / "polaris").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    )
    paths += _demo_files()
    parts = [str(demo_model(cache)).encode(), platform.machine().encode()]
    for path in sorted(paths):
        parts += [str(path.relative_to(ROOT)).encode(), path.read_bytes()]
    return _hash(parts)


def _demo_files() -> list[Path]:
    demo = ROOT / "examples" / "demo"
    return [demo / "anthology.epub", *sorted(demo.glob("*.jsonl"))]


def _make(cache: Path, folder: Path, archive: Path) -> None:
    with (folder / "build.log").open("wb") as log:
        if not all(shutil.which(name) for name in ("dockerd", "debootstrap")) or not Path(DOCKER).exists():
            quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            follow(["apt-get", "update", "-q"], "apt-get: reading the package lists", log, quiet)
            install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *HOST_PACKAGES]
            follow(install, f"apt-get: installing {' '.join(HOST_PACKAGES)}", log, quiet)
        base = _base(folder, log)
        with tempfile.TemporaryDirectory() as scratch, _docker(folder, Path(scratch)) as environment:

            def docker(what: str, *words: str | Path) -> None:
                follow([DOCKER, *map(str, words)], what, log, environment)

            docker("the base", "import", base, f"{BASE}:{base.stem}")
            environment |= _secrets(Path(scratch)) | {"BASE_TOOLS": f"{BASE}:{base.stem}"}
            follow(["sh", str(ROOT / "scripts" / "images.sh"), "tools"], "polaris-tools", log, environment)
            context = _cpu_context(cache, Path(scratch))
            tags = [f"polaris-cpu:{__version__}", "polaris-cpu:test"]
            docker("polaris-cpu", "build", "-q", "-t", tags[0], "-t", tags[1], context)
            partial = archive.with_suffix(".partial")
            docker("the archive", "save", "-o", partial, f"polaris-tools:{__version__}", *tags)
            partial.chmod(0o644)
            partial.rename(archive)
            # Layers of sources that are gone; those of the packages stay, which take longest.
            docker("old images", "image", "prune", "--force")
            docker("old layers", "builder", "prune", "--force", "--keep-storage", KEPT_LAYERS)
    others = sorted(folder.glob("images-*.tar"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in others[KEPT:]:
        old.unlink()


def _base(folder: Path, log: BinaryIO) -> Path:
    """Return the archive of a minimal Debian with Python; made once."""
    archive = folder / f"base-{_hash([RELEASE.encode(), BASE_PACKAGES.encode()])}.tar"
    if archive.exists():
        return archive
    root = folder / "base.partial"
    shutil.rmtree(root, ignore_errors=True)
    command = ["debootstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", RELEASE, str(root)]
    follow(command, "a Debian to build on", log)
    for left in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
        shutil.rmtree(root / left, ignore_errors=True)
    partial = archive.with_suffix(".partial")
    follow(["tar", "-C", str(root), "-cf", str(partial), "."], "its archive", log)
    shutil.rmtree(root)
    partial.rename(archive)
    return archive


@contextlib.contextmanager
def _docker(folder: Path, scratch: Path) -> Iterator[dict[str, str]]:
    """Run a Docker daemon that leaves the machine's network alone; gives the environment to reach it with."""
    address = f"unix://{scratch}/docker.sock"
    # It must not outlive this process, however that ends: the next one needs its folder.
    command = ["setpriv", "--pdeathsig", "TERM", "dockerd"]
    command += ["--data-root", str(folder / "docker"), "--exec-root", str(scratch / "exec")]
    command += ["--pidfile", str(scratch / "docker.pid"), "-H", address, "--iptables=false", "--bridge=none"]
    environment = os.environ | {"DOCKER_HOST": address, "DOCKER_BUILDKIT": "1", "DOCKER": DOCKER}
    environment |= {"BUILD_ARGS": "--network host", "REGISTRY": "", "HOME": str(scratch)}
    with (folder / "dockerd.log").open("wb") as said:
        daemon = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 60
        while subprocess.run([DOCKER, "info"], env=environment, capture_output=True).returncode:
            if daemon.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the Docker daemon did not start; see {folder / 'dockerd.log'}")
            time.sleep(0.2)
        yield environment
    finally:
        daemon.terminate()
        daemon.wait(60)


def _secrets(scratch: Path) -> dict[str, str]:
    """Let pip inside the build trust what this machine trusts."""
    bundle = next((os.environ[name] for name in ("PIP_CERT", "SSL_CERT_FILE") if os.environ.get(name)), None)
    if bundle is None:
        return {}
    settings = scratch / "pip.conf"
    settings.write_text("[global]\ncert = /run/secrets/ca\n")
    return {"PIP_CONF": str(settings), "CA_BUNDLE": bundle}


def _cpu_context(cache: Path, scratch: Path) -> Path:
    """Lay out what polaris-cpu adds to the tools image."""
    context = scratch / "cpu"
    shutil.copytree(demo_model(cache), context / "demo" / "model")
    for path in _demo_files():
        shutil.copy(path, context / "demo")
    shutil.copy(cache / "cluster-tools" / "bin" / "weed", context / "weed")
    (context / "Dockerfile").write_text(CPU)
    return context

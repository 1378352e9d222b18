"""The first issue's cases at their full count, on fresh clones; figures go to docs/measured.md.

Takes about half an hour on two cores: an empty cache, a full one, and a run on S3 killed in every stage.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3
from measured import Figure, write
from pipeline import ROOT, Killer, lasting, wait_for

from polaris.artifact import Artifact
from polaris.run import Run, open_run

pytestmark = pytest.mark.acceptance

FIGURES: list[Figure] = []

KILLED = [
    "data",
    "train",
    *(
        f"{kind}.{model}.story-quality"
        for kind in ("generate", "judge", "evaluate")
        for model in ("base", "trained")
    ),
    "report",
]


@pytest.fixture(scope="module", autouse=True)
def measured(request: pytest.FixtureRequest, clone: Path) -> Iterator[None]:
    """Write what was measured when all cases have passed."""
    FIGURES.clear()
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        return
    write("acceptance", "make acceptance", FIGURES, checkout=clone)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone of what is committed."""
    folder = tmp_path_factory.mktemp("clone") / "polaris"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    return folder


def make_demo(clone: Path, **environment: str) -> tuple[str, float]:
    begun = time.monotonic()
    done = subprocess.run(
        ["make", "demo"], cwd=clone, capture_output=True, text=True, env=_environment() | environment
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout + done.stderr, time.monotonic() - begun


def test_2_and_3_on_s3_with_every_stage_and_the_runner_killed(
    clone: Path, s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every stage process is killed once, and so is `make demo` with its whole session; it goes on."""
    demo = clone / "examples" / "demo" / "demo.yaml"
    subprocess.run(["make", "model"], cwd=clone, check=True, capture_output=True, env=_environment())
    subprocess.run(
        [clone / ".venv/bin/polaris", "run", demo, "--only=data"],
        check=True,
        capture_output=True,
        env=_environment(),
    )
    local = {name: item.digest for name, item in open_run(demo).plan.instances.items()}
    data = _hashes(open_run(demo), "data")
    settings = {
        "AWS_ACCESS_KEY_ID": s3_server.key,
        "AWS_SECRET_ACCESS_KEY": s3_server.secret,
        "AWS_EC2_METADATA_DISABLED": "true",
        "POLARIS__STORE__URL": f"s3://{s3.BUCKET}/acceptance",
        "POLARIS__STORE__ENDPOINT": s3_server.endpoint,
        "POLARIS__STORE__REGION": "us-east-1",
        "POLARIS__STORE__PATH_STYLE": "true",
        "POLARIS__EXECUTE__WORK_DIR": str(tmp_path / "work"),
        "POLARIS__EXECUTE__REPORT_FILE": str(tmp_path / "report.html"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    begun = time.monotonic()
    with Killer(demo, KILLED) as killer:
        for told in ("train/*.log", "service-trained/*.log"):
            process = subprocess.Popen(
                ["make", "demo"],
                cwd=clone,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.STDOUT,
                env=_environment() | settings,
                start_new_session=True,
            )
            wait_for(lambda told=told: any((tmp_path / "work" / "demo" / "logs").glob(told)), 900)
            time.sleep(20)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said, _ = make_demo(clone, **settings)
    assert "9 of 9 complete" in said
    FIGURES.append(
        (
            "run on S3, killed",
            f"{len(killer.killed)} stage processes and 2 × `make demo`, each goes on;"
            f" {time.monotonic() - begun:.0f} s in all",
            "completes",
        )
    )
    after = killer.saved()
    reused = 0
    for before in killer.killed.values():
        kept = lasting(before, after)
        assert all(after[key] == before[key] for key in kept)
        reused += len(kept)
    FIGURES.append(("pieces that existed at a kill, rewritten by what followed", f"0 of {reused}", "0"))
    run = open_run(demo)
    assert {name: item.digest for name, item in run.plan.instances.items()} == local
    assert _hashes(run, "data") == data
    FIGURES.append(("instance digests, S3 against folder", f"{len(local)} of {len(local)} equal", "all"))
    for name in run.plan.instances:
        artifact = Artifact(run.store, run.manifest(name))
        for found in artifact.names():
            if "safetensors" not in found:
                artifact.read(found)


def test_1_demo_from_an_empty_cache(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """From nothing but Python, make and the network to the report; then once more; then with the cache."""
    shutil.rmtree(clone / ".venv")
    shutil.rmtree(clone / ".polaris")
    cache = {"POLARIS_CACHE": str(tmp_path_factory.mktemp("cache")), "PIP_NO_CACHE_DIR": "1"}
    said, seconds = make_demo(clone, **cache)
    assert "9 of 9 complete" in said and "mean nothing" in said
    _figure("`make demo`, empty cache", seconds, 18 * 60)
    said, seconds = make_demo(clone, **cache)
    assert "9 of 9 complete" in said
    _figure("`make demo`, all complete", seconds, 10)
    shutil.rmtree(clone / ".polaris")
    said, seconds = make_demo(clone, **cache)
    _figure("`make demo`, full cache", seconds, 12 * 60)
    done = subprocess.run(
        [clone / ".venv/bin/polaris", "status", "examples/demo/demo.yaml"],
        cwd=clone,
        capture_output=True,
        text=True,
        env=_environment(),
    )
    assert done.returncode == 0 and done.stdout.count("complete") == 9
    run = open_run(clone / "examples" / "demo" / "demo.yaml")
    rows = Artifact(run.store, run.manifest("train")).rows("metrics.jsonl")
    injected = [row for row in rows if row["hri/weight"] > 0]
    assert len(injected) >= 4
    largest = max(row["engine/logprob_max_difference"] for row in rows)
    assert largest < 1e-3
    FIGURES.append(("training steps with `hri/weight` > 0", str(len(injected)), "≥ 4"))
    FIGURES.append(("largest log-prob difference, engine against trainer", f"{largest:.1e}", "< 1e-3"))
    page = (clone / ".polaris" / "report.html").read_text(encoding="utf-8")
    assert "prove the plumbing and mean nothing" in page


def _hashes(run: Run, name: str) -> dict[str, str]:
    manifest = run.manifest(name)
    assert manifest is not None
    return {entry.name: entry.sha256 for entry in manifest.objects}


def _figure(what: str, seconds: float, bound: float) -> None:
    FIGURES.append((what, f"{seconds:.1f} s", f"< {bound:.0f} s"))
    assert seconds < bound, f"{what} took {seconds:.0f} s"


def _environment() -> dict[str, str]:
    """The shell's environment as a newcomer has it: nothing of this checkout's."""
    gone = (
        "POLARIS_CACHE",
        "PYTHONPATH",
        "VIRTUAL_ENV",
        "MAKEFLAGS",
        "MAKELEVEL",
        "MFLAGS",
        "POLARIS_DEMO_MODEL",
    )
    return {name: value for name, value in os.environ.items() if name not in gone}

"""The whole pipeline for real: SeaweedFS, TRL with vLLM colocated, vLLM served; the model is tiny and random.

One run on `s3://` in which every long stage is killed once, and what must hold of its store afterwards.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import s3
from pipeline import Killer, finish, lasting, make_model, polaris, write_config

from polaris.artifact import Artifact
from polaris.run import Run, open_run

pytestmark = pytest.mark.slow

KILLED = ["train", "generate.base.story-quality", "judge.trained.story-quality"]
COPIED = ["generate.base.story-quality", "generate.trained.story-quality"]


@dataclass
class Finished:
    run: Run
    said: str
    said_by_second: str
    killer: Killer
    model: Path


@pytest.fixture(scope="module")
def aws(s3_server: s3.Server) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", s3_server.key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="module")
def finished(s3_server: s3.Server, aws: None, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A complete run on S3, carried out by two processes at once, each long stage killed once."""
    folder = tmp_path_factory.mktemp("pipeline")
    model = make_model(folder / "model")
    store = {
        "url": f"s3://{s3.BUCKET}/pipeline",
        "endpoint": s3_server.endpoint,
        "region": "us-east-1",
        "path_style": True,
        "part_mib": 5,
    }
    path = write_config(folder / "s3", model, store=store)
    with Killer(path, KILLED) as killer:
        first, second = polaris("run", path), polaris("run", path)
        said, said_by_second = finish(first), finish(second)
    assert first.returncode == 0, said
    assert second.returncode == 0, said_by_second
    return Finished(open_run(path), said, said_by_second, killer, model)


@pytest.fixture
def keys(aws: None, s3_server: s3.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store's keys again, which the tests' own environment drops."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def test_every_instance_is_complete_and_reads_back(finished: Finished, keys: None) -> None:
    run = finished.run
    for name in run.plan.instances:
        manifest = run.manifest(name)
        assert manifest is not None
        artifact = Artifact(run.store, manifest)
        for found in artifact.names():
            artifact.read(found)
    page = Artifact(run.store, run.manifest("report")).read("report.html").decode()
    assert "prove the plumbing and mean nothing" in page
    assert "prove the plumbing and mean nothing" in finished.said


def test_references_were_injected_with_an_engine_in_step(finished: Finished, keys: None) -> None:
    rows = Artifact(finished.run.store, finished.run.manifest("train")).rows("metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["hri/weight"] for row in rows] == [0, 0.4, 0.4]
    assert all(row["engine/logprob_max_difference"] < 1e-3 for row in rows)


def test_killed_stages_went_on_from_what_they_had(finished: Finished, keys: None) -> None:
    assert set(finished.killer.killed) == set(KILLED)
    after = finished.killer.saved()
    for name, before in finished.killer.killed.items():
        assert before, f"{name} was killed before it had saved anything"
        # Checkpoints make room for newer ones; whatever is still there is as it was.
        assert all(after[key] == before[key] for key in lasting(before, after))
        attempts = {
            info.key.split("/")[5]
            for info in finished.run.store.list(f"{finished.run.prefix(name)}attempts/")
        }
        assert len(attempts) == 2, f"{name} took {len(attempts)} attempts"
        assert f"✗ {name} killed by signal 9" in finished.said + finished.said_by_second
    logs = finished.run.work_folder / "logs" / "train"
    assert '"event": "resume"' in sorted(logs.glob("*.log"))[-1].read_text()


def test_two_runs_at_once_make_one(finished: Finished, keys: None) -> None:
    waiting = [
        said for said in (finished.said, finished.said_by_second) if "another polaris run holds" in said
    ]
    assert len(waiting) == 1
    unkilled = [name for name in finished.run.plan.instances if name not in KILLED]
    for name in unkilled:
        listed = finished.run.store.list(f"{finished.run.prefix(name)}attempts/")
        assert len({info.key.split("/")[5] for info in listed}) == 1


def test_a_second_run_finds_all_complete(finished: Finished, keys: None) -> None:
    before = {info.key: info.etag for info in finished.run.store.list("runs/")}
    begun = time.monotonic()
    process = polaris("run", finished.run.path)
    said = finish(process, 60)
    assert process.returncode == 0 and "9 of 9 complete" in said
    assert time.monotonic() - begun < 10
    assert {info.key: info.etag for info in finished.run.store.list("runs/")} == before


def test_the_same_run_in_a_folder(finished: Finished, keys: None, tmp_path: Path) -> None:
    """Digests and data are equal; judge and evaluate repeat byte for byte; a flipped byte is found."""
    path = write_config(tmp_path / "local", finished.model)
    local = open_run(path)
    digests = {name: instance.digest for name, instance in finished.run.plan.instances.items()}
    assert {name: instance.digest for name, instance in local.plan.instances.items()} == digests

    copy_objects(finished.run, local, [local.prefix(name) for name in (*COPIED, "train")])
    copy_objects(finished.run, local, ["cache/judge/"])
    wanted = ["data", *(f"evaluate.{model}.story-quality" for model in ("base", "trained"))]
    process = polaris("run", path, *(f"--only={name}" for name in wanted))
    said = finish(process)
    assert process.returncode == 0, said
    for name in (*wanted, "judge.base.story-quality", "judge.trained.story-quality"):
        assert hashes(local, name) == hashes(finished.run, name), name
    judged = local.manifest("judge.trained.story-quality")
    assert judged is not None and judged.cost["calls"] == 0

    manifest = local.manifest("generate.base.story-quality")
    assert manifest is not None
    stories = manifest.objects[0]
    key = f"{local.prefix(manifest.instance)}{stories.key}"
    data = bytearray(local.store.get(key))
    data[len(data) // 2] ^= 1
    local.store.put(key, bytes(data))
    local.store.delete([f"{local.prefix('evaluate.base.story-quality')}MANIFEST.json"])
    process = polaris("stage", "evaluate.base.story-quality", path)
    said = finish(process, 60)
    assert process.returncode == 3
    assert key in said and "does not match its sha256" in said
    assert local.manifest("evaluate.base.story-quality") is None


def test_what_changes_changes_what_follows(finished: Finished, keys: None, tmp_path: Path) -> None:
    before = {name: instance.digest for name, instance in finished.run.plan.instances.items()}
    other = make_model(tmp_path / "other", seed=1)
    path = write_config(tmp_path / "changed", other)
    changed = {
        name for name, instance in open_run(path).plan.instances.items() if instance.digest != before[name]
    }
    assert changed == set(before) - {"data"}
    path = write_config(tmp_path / "prompts", finished.model)
    rows = (path.parent / "heldout.jsonl").read_text().splitlines()
    (path.parent / "heldout.jsonl").write_text(
        "\n".join([*rows, json.dumps({**json.loads(rows[0]), "id": "x"})])
    )
    changed = {
        name for name, instance in open_run(path).plan.instances.items() if instance.digest != before[name]
    }
    assert changed == set(before) - {"data", "train"}
    shutil.rmtree(other)


def test_a_killed_data_stage_goes_on(tmp_path: Path) -> None:
    """Five real anthologies, so that there is a second book to be killed in."""
    folder = Path(os.environ.get("POLARIS_SHARED", "")) / "anthologies"
    books = sorted(folder.glob("*.epub")) if "POLARIS_SHARED" in os.environ else []
    if len(books) < 2:
        pytest.skip("POLARIS_SHARED names no folder with real anthologies")
    path = write_config(
        tmp_path, make_model(tmp_path / "model"), data={"books": [str(book) for book in books]}
    )
    with Killer(path, ["data"]) as killer:
        process = polaris("run", path, "--only=data")
        said = finish(process, 120)
    assert process.returncode == 0, said
    before = killer.killed["data"]
    assert 1 <= len(before) < len(books), said
    after = killer.saved()
    assert all(after[key] == etag for key, etag in before.items()), "a finished book was read again"


def copy_objects(source: Run, target: Run, prefixes: list[str]) -> None:
    for prefix in prefixes:
        for info in source.store.list(prefix):
            target.store.put(info.key, source.store.get(info.key))


def hashes(run: Run, name: str) -> dict[str, str]:
    manifest = run.manifest(name)
    assert manifest is not None, name
    return {entry.name: entry.sha256 for entry in manifest.objects}

"""The demo's own configuration and its real model, cut down to a minute: TRL and vLLM with SmolLM2."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pipeline import ROOT, finish, polaris

from polaris.artifact import Artifact
from polaris.run import open_run

pytestmark = pytest.mark.slow

SMALL = {
    "POLARIS__TRAIN__MAX_STEPS": "2",
    "POLARIS__TRAIN__PROMPTS_PER_STEP": "1",
    "POLARIS__TRAIN__GROUP_SIZE": "3",
    "POLARIS__TRAIN__MICRO_BATCH": "3",
    "POLARIS__TRAIN__MAX_COMPLETION_TOKENS": "32",
    "POLARIS__TRAIN__HRI__WARMUP_STEPS": "1",
    "POLARIS__EVALUATIONS__STORY_QUALITY__LIMIT": "1",
    "POLARIS__EVALUATIONS__STORY_QUALITY__MAX_TOKENS": "48",
}


DEMO = ROOT / "examples" / "demo" / "demo.yaml"


@pytest.fixture
def demo_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's run with its real model, in a place of its own, cut down."""
    model = os.environ.get("POLARIS_DEMO_MODEL", "")
    if not (Path(model) / "model.safetensors").is_file():
        pytest.skip("POLARIS_DEMO_MODEL names no folder with the demo's model: `make test` sets it")
    settings = SMALL | {
        "POLARIS__MODELS__BASE__PATH": model,
        "POLARIS__MODELS__JUDGE__PATH": model,
        "POLARIS__STORE__URL": str(tmp_path / "store"),
        "POLARIS__EXECUTE__WORK_DIR": str(tmp_path / "work"),
        "POLARIS__EXECUTE__REPORT_FILE": str(tmp_path / "report.html"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("demo_model")
def test_smollm2_is_trained_served_and_judged() -> None:
    process = polaris("run", DEMO, "--only=judge.trained.story-quality")
    said = finish(process)
    assert process.returncode == 0, said

    run = open_run(DEMO)
    train = run.manifest("train")
    assert train is not None
    rows = Artifact(run.store, train).rows("metrics.jsonl")
    assert [row["hri/weight"] for row in rows] == [0, 0.4]
    assert rows[1]["hri/references"] == 1
    assert all(0 < row["engine/logprob_max_difference"] < 1e-3 for row in rows)
    judged = run.manifest("judge.trained.story-quality")
    assert judged is not None
    scores = Artifact(run.store, judged).rows("scores.jsonl")
    assert len(scores) == 1 and -159 <= scores[0]["overall"] <= 108
    assert "mean nothing" in scores[0]["caveat"]

    process = polaris("write", "A ferry that runs once a year", "--words=20", "--config", DEMO)
    said = finish(process, 180)
    assert process.returncode == 0, said
    assert "words (asked for 20)" in said
    assert len(said.split()) > 10


@pytest.mark.usefixtures("demo_model")
def test_smollm2_writes_where_there_is_no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLARIS__MODELS__BASE__SERVE__ENGINE", "transformers")
    process = polaris(
        "write", "A ferry that runs once a year", "--words=20", "--model=base", "--config", DEMO
    )
    said = finish(process, 180)
    assert process.returncode == 0, said
    assert "words (asked for 20)" in said
    assert len(said.split()) > 10

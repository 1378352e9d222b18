"""An evaluation on demand for real: left alone by a plain run, made when asked for, and then complete."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pipeline import finish, make_model, polaris, write_config

from polaris.artifact import Artifact
from polaris.run import open_run

pytestmark = pytest.mark.slow

ON_DEMAND = ["generate.trained.length", "judge.trained.length", "evaluate.trained.length", "report.length"]
SETTINGS = {"judge": "tiny", "max_tokens": 48, "concurrency": 1, "bootstrap": 200}


def test_a_length_evaluation_is_made_when_asked_for(tmp_path: Path) -> None:
    path = write_config(
        tmp_path,
        make_model(tmp_path / "model"),
        evaluations={
            "story-quality": {
                "kind": "story-quality",
                "prompts": "heldout.jsonl",
                "models": ["base"],
                "limit": 1,
                **SETTINGS,
            },
            "length": {
                "kind": "length",
                "prompts": "length.jsonl",
                "models": ["trained"],
                "targets": [20, 40],
                "on_demand": True,
                **SETTINGS,
            },
        },
    )
    process = polaris("run", path)
    said = finish(process)
    assert process.returncode == 0 and "6 of 6 complete" in said, said
    run = open_run(path)
    plain = {name: run.manifest(name) for name in run.plan.selected([])}
    assert all(plain.values())
    assert [name for name in run.plan.instances if run.manifest(name) is None] == ON_DEMAND
    assert finish(polaris("status", path)).count("on demand") == len(ON_DEMAND)

    process = polaris("run", path, "--only", "report.length")
    said = finish(process)
    assert process.returncode == 0 and "6 of 6 complete" in said, said
    assert {name: run.manifest(name) for name in plain} == plain, "nothing finished is made again"
    result = json.loads(Artifact(run.store, run.manifest("evaluate.trained.length")).read("result.json"))
    assert [(row["target"], row["stories"]) for row in result["by_target"]] == [(20, 2), (40, 2)]
    page = run.config.execute.report_file.with_name("report-length.html")
    assert str(page) in said.replace("\n", "")
    assert 'id="targets"' in page.read_text(encoding="utf-8")

    before = {info.key: info.etag for info in run.store.list("runs/")}
    process = polaris("run", path, "--only", "report.length")
    said = finish(process, 60)
    assert process.returncode == 0 and "nothing to do" in said and "started" not in said
    assert {info.key: info.etag for info in run.store.list("runs/")} == before

"""`polaris run` of a training and an arm of it: real workers on a tiny model, and a FAKE judge endpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from fake_endpoint import fake_endpoint
from fakes import answer, stage
from pipeline import finish, polaris

from polaris.artifact import Artifact
from polaris.run import open_run


@pytest.mark.acceptance
def test_a_run_trains_its_arms_and_tells_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_endpoint(answer) as judge:
        path = stage(tmp_path, judge.url, monkeypatch, max_steps=2).run.path
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        raw["arms"] = {"no-hri": {"hri": {"max_weight": 0.0}}}
        raw["models"] |= {"full": {"kind": "trained"}, "plain": {"kind": "trained", "arm": "no-hri"}}
        path.write_text(yaml.safe_dump(raw), encoding="utf-8")
        ran = polaris("run", path, "--only", "train*")
        said = finish(ran)
        assert ran.returncode == 0, said
    run = open_run(path)
    injected = {}
    for name in ("train", "train.no-hri"):
        found = Artifact(run.store, run.manifest(name))
        assert "model/model.safetensors" in found.names()
        rows = found.rows("metrics.jsonl")
        injected[name] = (found.manifest.counts["references"], [row["hri/weight"] for row in rows])
    assert injected == {"train": (2, [0, 0.4]), "train.no-hri": (0, [0, 0])}
    card = Artifact(run.store, run.manifest("train.no-hri")).read("model/README.md").decode()
    assert "| arm | `no-hri` |" in card
    assert "--config CONFIG.yaml --model plain" in card
    for words in (("status", path), ("cost", path)):
        told = finish(polaris(*words))
        assert "train.no-hri" in told, told
    assert "train.no-hri" in finish(polaris("logs", "train.no-hri", path))
    states = json.loads(finish(polaris("status", path, "--json")))
    assert {"train", "train.no-hri"} <= {one["instance"] for one in states}

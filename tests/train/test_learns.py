"""The benchmark of learning, small: with human references at w > 0 their log-probability rises more."""

from __future__ import annotations

import importlib
from pathlib import Path

import heavy  # noqa: F401
import pytest
from models import tiny_model

pytestmark = pytest.mark.filterwarnings(
    # Those of torch, TRL and transformers at work; none is of our making.
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning",
)


def test_references_become_likelier_with_a_weight_than_without(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    learns = importlib.import_module("train_learns")
    base = tiny_model(tmp_path / "base")
    settings = {"steps": 10, "tokens": 40, **learns.SMALL}
    runs = [
        learns.learn(tmp_path / f"{weight}", base, seed=1, weight=weight, **settings) for weight in (0.4, 0)
    ]
    taught, left = (run.after - run.before for run in runs)
    assert runs[0].before == runs[1].before
    assert taught > left + 0.05
    # The first steps are those before the weight rises: the two are the same training until then.
    assert runs[0].rewards[0] == runs[1].rewards[0]

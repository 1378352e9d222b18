"""Several finished trainings in, one figure with a line each and one table out; the terminal's table too."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import report_inputs
from context import make_artifact
from report_pages import made, words
from training_inputs import arms_context, objects

from polaris.cli.summary import print_summary


def test_the_arms_share_each_figure_and_a_table(tmp_path: Path) -> None:
    found = objects(4, (0, 4))
    html, data, page = made(arms_context(tmp_path, train=found, no_hri=objects(3, (0, 3), better=0.5)))
    assert [training["label"] for training in data["trainings"]] == ["train", "no-hri"]
    assert [training["models"] for training in data["trainings"]] == [["trained"], ["plain"]]
    assert [training["hri_weight"] for training in data["trainings"]][1] == 0.0
    assert len({training["colour"] for training in data["trainings"]}) == 2
    assert len({training["dash"] for training in data["trainings"]}) == 2
    assert page.open == [] and len(page.ids) == len(set(page.ids))
    for figure in ("train-reward", "train-validation", "train-parts"):
        assert len(re.findall(f'<g id="{figure}-legend', html)) == 1, "one legend names the arms"
    said = words(page.text)
    assert "2 trainings are compared: train (4 steps of base, human story at weights up to" in said
    assert "no-hri (3 steps of base, no human story)." in said
    assert "0.500 → 0.700" in said, "reward of the first and the last tenth"


def test_a_missing_arm_is_said_and_the_other_is_shown(tmp_path: Path) -> None:
    _, data, page = made(arms_context(tmp_path, train=objects(2)))
    assert [training["label"] for training in data["trainings"]] == ["train"]
    assert "The train.no-hri stage has no artifact here" in words(page.text)


def test_an_arm_without_a_step_leaves_the_others_figures(tmp_path: Path) -> None:
    _, data, page = made(arms_context(tmp_path, train=objects(2), no_hri=objects(0)))
    assert data["trainings"][1]["steps"] == []
    assert "no-hri: The metrics hold no step." in words(page.text)
    assert page.open == [] and "nan" not in re.findall(r"\bnan\b", page.text)


def test_results_name_the_arm_of_each_trained_model(tmp_path: Path) -> None:
    context = arms_context(tmp_path, train=objects(2), no_hri=objects(2))
    _, data, page = made(context)
    named = {model["name"]: model["training"] for model in data["models"]}
    assert (named["trained"], named["plain"], named["base"]) == ("train", "arms.no-hri", None)
    assert "trained from base by arms.no-hri" in words(page.text)


def test_the_scores_name_the_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = report_inputs.configuration

    def with_arm(folder: Path, **settings: bool) -> dict[str, Any]:
        return plain(folder, **settings) | {"arms": {"no-hri": {"hri": {"max_weight": 0.0}}}}

    monkeypatch.setattr(report_inputs, "configuration", with_arm)
    html, _, page = made(report_inputs.report_context(tmp_path))
    assert page.open == []
    assert html.count('trained</span><span class="small arm">train</span></th>') == 2, "scores and lengths"


def test_the_terminal_ends_with_the_arms_side_by_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    context = arms_context(tmp_path, train=objects(2), no_hri=objects(2, better=0.5))
    score = {"value": 12.3, "low": 10.0, "high": 14.0}
    result = json.dumps({"figures": {"story_quality": score}}).encode()
    for name in ("base", "plain"):
        make_artifact(context.run, f"evaluate.{name}.quality", {"result.json": result})
    print_summary(context.run, set(context.run.plan.instances), {})
    lines = [words(line.replace("│", " ")) for line in capsys.readouterr().out.splitlines()]
    assert "base 12.3 (10.0 to 14.0)" in lines
    assert "trained train 2 0.000 → 0.100 0.00" in lines
    assert "plain arms.no-hri 2 0.500 → 0.600 0.00 12.3 (10.0 to 14.0)" in lines

"""An on-demand length evaluation's finished artifacts in, a page of it alone out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from report_inputs import HOSTILE, length_context, report_context
from report_pages import made, words

CAVEAT = "The judge 'reader' is a small local model: its scores prove the plumbing and mean nothing."


def test_the_page_has_the_evaluation_by_target_and_the_training(tmp_path: Path) -> None:
    html, data, page = made(length_context(tmp_path))
    assert page.open == []
    assert "Evaluation length" not in " ".join(data["missing"]) and data["missing"] == []
    assert [found["name"] for found in data["evaluations"]] == ["length"]
    assert data["evaluation"] == "length" and data["trainings"]
    result = data["evaluations"][0]["models"][1]
    assert [row["target"] for row in result["by_target"]] == [60, 120, 240]
    for name in ("lengths-length", "ratios-length", "quality-length"):
        assert f'="#{name}-' in html, f"the drawing {name} is on the page"
    assert {"targets", "training", "data", "provenance"} <= set(page.ids)
    assert not {"scores", "stories", "lengths"} & set(page.ids)
    assert "--only report.length" in page.text and "polaris stage report.length run.yaml" in page.text
    assert "nearer to the targets" in words(page.text) or "no difference in length" in words(page.text)
    assert "1 failed" in words(page.text), "failed judgements stand beside the score"
    assert words(HOSTILE[:20]) in page.text and "<script" not in html


def test_ids_are_there_once_and_links_lead_somewhere(tmp_path: Path) -> None:
    _, _, page = made(length_context(tmp_path))
    assert len(page.ids) == len(set(page.ids))
    assert {value[1:] for name, value in page.attributes if name.endswith("href")} <= set(page.ids)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"judged": False}, "Evaluation length has no scored story"),
        ({"prompts": 0}, "This evaluation has no story."),
        ({"prompts": 1, "targets": (60,)}, "no interval: too few"),
        ({"models": ("base",)}, "No model that this run trains takes part here."),
        ({"models": ("trained",), "steps": 0}, "The metrics hold no step."),
    ],
)
def test_nothing_is_empty_and_what_is_missing_is_said(
    tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    html, _, page = made(length_context(tmp_path, **settings))
    assert said in words(page.text)
    assert page.open == []
    assert "None" not in page.text and "nan" not in re.findall(r"\bnan\b", page.text)
    assert "<figcaption></figcaption>" not in html


def test_one_that_trains_nothing_needs_no_training(tmp_path: Path) -> None:
    context = length_context(tmp_path, models=("base",))
    assert "train" not in context.instance.needs
    _, data, page = made(context)
    assert data["missing"] == [] and data["trainings"] == []
    assert "training" not in page.ids


def test_a_caveat_stands_beside_every_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = length_context(tmp_path)
    monkeypatch.setattr(type(context), "caveat", lambda self, judge: CAVEAT)
    html, data, page = made(context)
    assert CAVEAT in page.text and html.count('class="mark"') >= 12
    assert data["caveats"][0]["evaluations"] == ["length"]


def test_the_runs_own_report_does_not_have_it(tmp_path: Path) -> None:
    report_context(tmp_path)
    context = length_context(tmp_path, instance="report")
    assert not [name for name in context.instance.needs if name.endswith(".length")]
    html, data, _ = made(context)
    assert [found["name"] for found in data["evaluations"]] == ["quality"]
    assert "ratios-length" not in html and data["evaluation"] is None


def test_the_same_artifacts_give_the_same_page(tmp_path: Path) -> None:
    context = length_context(tmp_path)
    assert made(context)[:2] == made(context)[:2]

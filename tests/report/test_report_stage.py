"""Finished artifacts in, page and JSON out: inert whatever the stories say, honest about what is missing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from report_inputs import report_context
from report_pages import made, words

CAVEAT = "The judge 'reader' is a small local model: its scores prove the plumbing and mean nothing."


def test_hostile_texts_are_inert(tmp_path: Path) -> None:
    html, _, page = made(report_context(tmp_path))
    assert page.open == []
    assert not page.tags & {"script", "img", "iframe", "object", "embed", "link", "form", "base"}
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert html.count("<style") == 1 and html.count("<main>") == 1
    assert "49" not in re.findall(r"\b49\b", page.text)
    assert page.text.count("<script>alert(1)</script></div>") >= 4
    assert "{{ 7*7 }} {% raw %}" in page.text


def test_the_page_asks_for_nothing_from_outside(tmp_path: Path) -> None:
    html, data, page = made(report_context(tmp_path))
    loading = [value for name, value in page.attributes if name in ("src", "href", "xlink:href", "action")]
    assert loading and all(value.startswith("#") for value in loading)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert "@import" not in html
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
    assert str(tmp_path) not in html and str(tmp_path) not in json.dumps(data)
    assert data["config"]["store"]["url"] == "store"  # type: ignore[index]


def test_every_id_is_there_once_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    _, _, page = made(report_context(tmp_path))
    assert len(page.ids) == len(set(page.ids))
    links = {value[1:] for name, value in page.attributes if name.endswith("href")}
    assert links <= set(page.ids)


def test_a_caveat_is_on_the_page_in_the_json_and_beside_the_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = report_context(tmp_path)
    monkeypatch.setattr(type(context), "caveat", lambda self, judge: CAVEAT)
    html, data, page = made(context)
    assert CAVEAT in page.text
    assert data["caveats"] == [
        {"judge": "judge", "text": CAVEAT, "evaluations": ["quality"], "training": True}
    ]
    assert [evaluation["caveat"] for evaluation in data["evaluations"]] == [CAVEAT]  # type: ignore[attr-defined]
    assert html.count('class="mark"') >= 15
    assert CAVEAT in context.notes


def test_a_trusted_judge_has_no_mark(tmp_path: Path) -> None:
    html, data, _ = made(report_context(tmp_path))
    assert 'class="mark"' not in html and data["caveats"] == []


def test_the_judge_of_the_training_is_warned_about(tmp_path: Path) -> None:
    _, _, page = made(report_context(tmp_path))
    assert "Evaluation quality is judged by the judge of the training" in page.text


def test_the_figures_are_those_of_the_results(tmp_path: Path) -> None:
    context = report_context(tmp_path)
    _, data, page = made(context)
    evaluation = data["evaluations"][0]  # type: ignore[index]
    assert evaluation["models"][1] == json.loads(
        context.inputs["evaluate.trained.quality"].read("result.json")
    )
    assert "+9.0" in page.text and "2 of 3" in page.text and "1 failed" in page.text
    shown = evaluation["shown"]
    assert (shown["id"], shown["difference"]) == ("p0", 0.0)
    assert "prompt" not in shown and "story" not in shown["shown"][0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"train": False}, "This run trained no model."),
        ({"evaluations": False}, "The configuration names no evaluation"),
        ({"judged": False}, "Evaluation quality has no scored story"),
        ({"steps": 0}, "The metrics hold no step."),
        ({"steps": 1}, "It is exactly 0 at every step, which a log scale cannot show."),
        ({"train": False, "judged": False}, "No story of this model was scored."),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, settings: dict[str, bool], said: str) -> None:
    _, _, page = made(report_context(tmp_path, **settings))  # type: ignore[arg-type]
    assert said in words(page.text)
    assert page.open == []
    assert "None" not in page.text and "nan" not in re.findall(r"\bnan\b", page.text)


@pytest.mark.parametrize("gone", ["data", "train", "evaluate.base.quality", "generate.trained.quality"])
def test_a_missing_artifact_does_not_stop_the_report(tmp_path: Path, gone: str) -> None:
    context = report_context(tmp_path)
    del context.inputs[gone]
    _, data, page = made(context)
    assert page.open == []
    assert gone == "generate.trained.quality" or data["missing"]


def test_no_artifact_at_all_is_still_a_page(tmp_path: Path) -> None:
    context = report_context(tmp_path)
    context.inputs.clear()
    _, data, page = made(context)
    assert "No stage has finished." in page.text
    assert len(data["missing"]) >= 3  # type: ignore[arg-type]


def test_the_same_artifacts_give_the_same_page(tmp_path: Path) -> None:
    context = report_context(tmp_path)
    first = made(context)[:2]
    assert made(context)[:2] == first

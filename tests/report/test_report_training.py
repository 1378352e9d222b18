"""A finished training with validations, sample stories and a forecast in, its part of the page out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_inputs import HOSTILE
from report_pages import made, words
from training_inputs import FORECAST, objects, rows, samples, trained_context, validation


def test_validations_stand_beside_the_training_on_the_same_steps(tmp_path: Path) -> None:
    _, data, page = made(trained_context(tmp_path, objects(4, (0, 2, 4))))
    (training,) = data["trainings"]
    assert training["steps"] == [1, 2, 3, 4]
    assert training["validation"]["steps"] == [0, 2, 4]
    assert training["validation"]["series"]["reward"] == [None, 0.22, pytest.approx(0.24)]
    assert training["validation"]["series"]["reward/quality"] == pytest.approx([0.3, 0.32, 0.34])
    assert "Validation" in page.text
    assert page.open == [] and len(page.ids) == len(set(page.ids))


def test_of_a_validation_taken_twice_the_last_counts(tmp_path: Path) -> None:
    found = objects(4, (0, 2)) | {"validation.jsonl": [*validation(0, 2), {"step": 2, "reward": 0.5}]}
    _, data, _ = made(trained_context(tmp_path, found))
    series = data["trainings"][0]["validation"]["series"]
    assert (data["trainings"][0]["validation"]["steps"], series["reward"]) == ([0, 2], [None, 0.5])


def test_sample_stories_are_shown_first_and_last_escaped_and_few(tmp_path: Path) -> None:
    html, data, page = made(trained_context(tmp_path, objects(4, (0, 2, 4))))
    said = words(page.text)
    for n in range(3):
        assert f"Story {n} after step 0. {words(HOSTILE[:20])}" in said
        assert f"Story {n} after step 4." in said
    assert "Story 3 after" not in said and "after step 2." not in said
    assert "181 words of 200 asked for; repetition 0.00; length 0.10; blank 0.00; judgement failed" in said
    assert "quality 0.40; repetition 0.00; length 0.10; blank 0.00; cut off at the token limit" in said
    assert "<script" not in html and "alert(2)" in page.text
    shown = data["trainings"][0]["samples"]
    assert shown["steps"] == [0, 4]
    assert [sample["uid"] for sample in shown["stories"]] == ["u0", "u1", "u2"]
    assert "Of a fox" not in json.dumps(shown) and "Story 0" not in json.dumps(shown)


def test_one_validation_has_one_side(tmp_path: Path) -> None:
    found = objects(2) | {"samples/step-000020.jsonl": [samples(20)[0]]}
    _, data, page = made(trained_context(tmp_path, found))
    (story,) = data["trainings"][0]["samples"]["stories"]
    assert [side["step"] for side in story["sides"]] == [20]
    assert "After step 20" in page.text


def test_the_forecast_stands_beside_what_it_took(tmp_path: Path) -> None:
    _, data, page = made(trained_context(tmp_path, objects(4, (0, 4))))
    assert data["trainings"][0]["forecast"] == FORECAST
    # Four steps of 90 s and two validations of 60 s.
    assert data["trainings"][0]["took"]["hours"] == 480 / 3600
    assert "forecast 1.50 (1.00 to 2.00)" in words(page.text)
    assert "Forecast beside actual" in page.text and "A call costs 0.02 US$." in page.text
    assert "4 forecast 4, took 100\N{NO-BREAK SPACE}%" in " ".join(page.text.split(" ")).replace("\n", " ")


def test_what_is_absent_is_no_error(tmp_path: Path) -> None:
    found = {
        "metrics.jsonl": [{"step": 1, "reward": 0.1}],
        "validation.jsonl": [{"step": 0}, {"step": 20, "reward": 0.1}],
        "samples/step-000000.jsonl": [{"uid": "a"}],
        "samples/step-000020.jsonl": [{"uid": "b", "story": "B."}],
        "forecast.json": b'{"steps": 4}',
    }
    _, data, page = made(trained_context(tmp_path, found))
    assert data["trainings"][0]["samples"] is None, "no story is in both"
    assert data["trainings"][0]["forecast"]["usd"] is None
    assert page.open == [] and "None" not in page.text


def test_an_older_artifact_has_metrics_alone(tmp_path: Path) -> None:
    _, data, page = made(trained_context(tmp_path, {"metrics.jsonl": rows(2)}))
    assert data["trainings"][0]["validation"] is None and data["trainings"][0]["forecast"] is None
    assert "Forecast beside" not in page.text and "Validation stories" not in page.text


def test_short_names_and_a_reason_are_understood(tmp_path: Path) -> None:
    row = {"uid": "a", "story": "A.", "target_word_count": 9, "quality": 0.25, "failed": f"no JSON {HOSTILE}"}
    found = objects(2) | {
        "validation.jsonl": [{"step": 0, "quality": 0.5}],
        "samples/step-000000.jsonl": [row],
    }
    _, data, page = made(trained_context(tmp_path, found))
    assert data["trainings"][0]["validation"]["series"]["reward/quality"] == [0.5]
    assert "quality 0.25; judgement failed: no JSON <script>alert(1)</script>" in words(page.text)

"""Generated stories and judgements in, `result.json` out: complete, repeatable, honest about failures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from context import make_context, read_output, settings

from polaris.errors import InputError
from polaris.evaluate.stage import one_value, run, same_judge_as_training
from polaris.load import load
from polaris.stage import StageContext

Row = dict[str, Any]


def story(key: str, words: int, model: str = "fake/writer") -> Row:
    return {
        "id": key,
        "sample": 0,
        "prompt": "Of a fox.",
        "target_word_count": 200,
        "story": "The fox waited. " * 20,
        "words": words,
        "finish_reason": "stop",
        "truncated": False,
        "completion_tokens": 300,
        "model": model,
    }


def score(key: str, overall: int, judge: str = "fake/reader") -> Row:
    return {
        "id": key,
        "sample": 0,
        "repeat": 0,
        "overall": overall,
        "label": "fair",
        "judgement": {},
        "quote_validity": None,
        "rubric": "story-quality/1/compact/00000000",
        "judge": judge,
        "caveat": None,
    }


def inputs(model: str, scores: list[Row], failures: list[Row] | None = None) -> dict[str, Any]:
    return {
        f"generate.{model}.quality": {"stories.jsonl": [story("a", 180), story("b", 300)]},
        f"judge.{model}.quality": {"scores.jsonl": scores, "failures.jsonl": failures or []},
    }


def context(folder: Path, found: dict[str, Any], **changed: Any) -> StageContext:
    config = settings(folder)
    config["evaluations"]["quality"] |= {"bootstrap": 100, **changed}
    config["models"]["other"] = {**config["models"]["writer"], "identity": "fake/other"}
    return make_context(folder, config, "evaluate.writer.quality", found)


def test_the_result_says_everything_once(tmp_path: Path) -> None:
    made = context(
        tmp_path,
        inputs("writer", [score("a", 40)], [{"id": "b", "sample": 0, "repeat": 0, "reason": "cut"}]),
    )
    run(made)
    result = json.loads(read_output(made, "result.json"))
    assert result["figures"]["story_quality"]["value"] == 40
    assert (result["n"], result["n_failed"], result["failures"]) == (1, 1, {"cut": 1})
    assert (result["judge"], result["model_identity"]) == ("fake/reader", "fake/writer")
    assert result["rubric"] == "story-quality/1/compact/00000000"
    assert (result["metric_version"], result["word_counter"]) == ("story-quality-1", "unescaped-w+")
    assert result["caveat"] is None and result["paired"] is None
    assert result["same_judge_as_training"] is False
    assert made.counts["unscored"] == 1
    assert made.notes == ["1 of 2 stories have no score"]


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    found = inputs("writer", [score("a", 40), score("b", 61)])
    made = context(tmp_path, found)
    run(made)
    first = read_output(made, "result.json")
    again = context(tmp_path, {})
    again.inputs = made.inputs
    run(again)
    assert read_output(again, "result.json") == first
    assert str(tmp_path).encode() not in first


def test_a_baseline_is_compared_prompt_by_prompt(tmp_path: Path) -> None:
    found = inputs("writer", [score("a", 40), score("b", 60)])
    found |= inputs("other", [score("a", 35), score("b", 45)])
    made = context(tmp_path, found, models=["writer", "other"], baseline="other")
    run(made)
    paired = json.loads(read_output(made, "result.json"))["paired"]
    assert paired["baseline"] == "other"
    difference = paired["figures"]["story_quality"]
    assert (difference["value"], difference["n"], difference["n_dropped"]) == (10.0, 2, 0)


def test_repeats_tell_how_far_the_judge_is_to_be_trusted(tmp_path: Path) -> None:
    again = [{**score(key, overall + 6), "repeat": 1} for key, overall in (("a", 40), ("b", 60))]
    failures = [{"id": "a", "sample": 0, "repeat": 2, "reason": "cut"}]
    made = context(tmp_path, inputs("writer", [score("a", 40), score("b", 60), *again], failures))
    run(made)
    data = read_output(made, "result.json")
    found = json.loads(data)["reliability"]
    assert b"NaN" not in data
    assert (found["stories"], found["repeated"], found["failed"]) == (2, 2, 1)
    # Mean squares 400 between and 18 within.
    assert found["test_retest"]["icc"]["value"] == pytest.approx((400 - 18) / (400 + 18))
    assert found["test_retest"]["mean_absolute_difference"] == 6
    assert found["labels"]["pairs"] == 2 and found["dimensions"] == []
    assert found["length_bias"]["value"] is None and "too few" in found["length_bias"]["reason"]
    assert [row["words"] for row in found["per_story"]] == [180, 300], "of the stories, not of the rows"
    assert [row["target"] for row in found["per_story"]] == [200, 200]


def test_equal_repeats_are_no_number_and_one_repeat_tells_nothing(tmp_path: Path) -> None:
    same = [score(key, 40) for key in "ab"]
    made = context(tmp_path, inputs("writer", [*same, *({**row, "repeat": 1} for row in same)]))
    run(made)
    icc = json.loads(read_output(made, "result.json"))["reliability"]["test_retest"]["icc"]
    assert icc["value"] is None and "all scores are equal" in icc["reason"]
    (tmp_path / "once").mkdir()
    once = context(tmp_path / "once", inputs("writer", same))
    run(once)
    assert json.loads(read_output(once, "result.json"))["reliability"] is None


def test_a_caveat_of_the_judge_is_in_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = context(tmp_path, inputs("writer", [score("a", 40), score("b", 60)]))
    monkeypatch.setattr(type(made), "caveat", lambda self, judge: f"{judge} means nothing")
    run(made)
    assert json.loads(read_output(made, "result.json"))["caveat"] == "judge means nothing"


def test_nothing_judged_is_a_result_without_a_value(tmp_path: Path) -> None:
    made = context(tmp_path, inputs("writer", []))
    run(made)
    result = json.loads(read_output(made, "result.json"))
    assert result["figures"]["story_quality"]["value"] is None
    assert (result["judge"], result["n_failed"]) == (None, 2)


def test_judgements_of_two_judges_are_refused(tmp_path: Path) -> None:
    made = context(tmp_path, inputs("writer", [score("a", 40), score("b", 60, judge="another")]))
    with pytest.raises(InputError, match="mixes judge another and fake/reader"):
        run(made)
    assert one_value([], "judge", "scores.jsonl") is None


def test_only_a_model_trained_on_the_judges_own_scores_is_warned_about(tmp_path: Path) -> None:
    raw = settings(tmp_path)
    raw["models"] |= {
        "base": {"kind": "checkpoint", "repo": "a/b@1"},
        "trained": {"kind": "trained"},
        "again": {**raw["models"]["reader"], "model": "another-name"},
    }
    raw["train"] = {"base": "base", "judge": "judge"}
    raw["judges"]["alias"] = {"model": "again"}
    raw["judges"]["independent"] = {"model": "writer"}
    made = make_context(tmp_path, raw, "data")
    config = load(tmp_path / "run.yaml", {})
    identity = made.run.identity_of_model
    assert same_judge_as_training(config, "trained", "judge", identity)
    assert same_judge_as_training(config, "trained", "alias", identity)
    assert not same_judge_as_training(config, "trained", "independent", identity)
    assert not same_judge_as_training(config, "base", "judge", identity)

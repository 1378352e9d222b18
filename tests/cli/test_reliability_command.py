"""`polaris judge reliability` and `polaris judge validate`: files in, figures, pages and exit codes out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from fake_endpoint import Reply, fake_endpoint
from score_rows import row, table, write
from typer.testing import CliRunner

from polaris.cli import app, main
from polaris.errors import ConfigError, GuardError, InputError, PolarisError, TransientError
from polaris.judge.rubric import load_rubric
from polaris.runtime import StopFlag

SCORES = {"a": [20, 24], "b": [50, 55], "c": [70, 72], "d": [30, 41]}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-fake-0123456789")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(StopFlag, "install", lambda _: None)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["judge", *map(str, arguments)])


def failed(result: Result, kind: type[PolarisError]) -> str:
    assert isinstance(result.exception, kind), result.output
    return str(result.exception)


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_repeats_of_one_judge_make_tables_json_and_a_page(tmp_path: Path) -> None:
    write(tmp_path / "scores" / "scores.jsonl", table(SCORES))
    write(tmp_path / "scores" / "failures.jsonl", [{"id": "a", "sample": 0, "repeat": 2, "reason": "cut"}])
    done = invoke("reliability", tmp_path / "scores", "--out", tmp_path / "out", "--resamples", 100)
    assert done.exit_code == 0, done.output
    for said in ("ICC(1,1) 0.9", "1 failed", "length bias", "P1", "lower label × higher label", "written to"):
        assert said in done.output
    found = read(tmp_path / "out" / "reliability.json")
    assert found["judges"][0]["failed"] == 1 and found["between"] is None
    page = (tmp_path / "out" / "reliability.html").read_text()
    assert "How far to trust the judge" in page and "<script" not in page and "http-equiv" in page
    plain = invoke("reliability", tmp_path / "scores" / "scores.jsonl", "--json", "--resamples", 100)
    assert json.loads(plain.stdout) == found


def test_two_judges_are_compared(tmp_path: Path) -> None:
    write(tmp_path / "a" / "scores.jsonl", table(SCORES))
    harsh = {key: [value - 9 for value in values[:1]] for key, values in SCORES.items()}
    write(tmp_path / "b" / "scores.jsonl", table(harsh, judge="other/critic"))
    done = invoke(
        "reliability", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out", "--resamples", 100
    )
    assert done.exit_code == 0, done.output
    assert (
        "between the judges" in done.output and "fake/reader − other/critic: 11.8 on average" in done.output
    )
    page = (tmp_path / "out" / "reliability.html").read_text()
    assert "Between the judges" in page and "This judge judged each story once" in page


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (table({key: values[:1] for key, values in SCORES.items()}), "judge score --repeats 3"),
        (table({"a": [1, 2], "b": [3, 4]}), "at least 3 are needed"),
        ([row("a", 1, label="superb")], "scores.jsonl:1: label: not very_poor"),
    ],
)
def test_too_little_or_bad_rows_exit_with_3(
    tmp_path: Path,
    rows: list[dict[str, Any]],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write(tmp_path / "scores.jsonl", rows)
    monkeypatch.setattr(sys, "argv", ["polaris", "judge", "reliability", str(path), "--json"])
    with pytest.raises(SystemExit) as exited:
        main()
    out, err = capsys.readouterr()
    assert exited.value.code == 3 and said in err and out == ""


def test_constant_scores_are_no_number_and_no_error(tmp_path: Path) -> None:
    write(tmp_path / "scores.jsonl", table({key: [40, 40] for key in "abcd"}))
    done = invoke("reliability", tmp_path, "--json", "--out", tmp_path / "out", "--resamples", 100)
    icc = json.loads(done.stdout)["judges"][0]["test_retest"]["icc"]
    assert icc["value"] is None and "all scores are equal" in icc["reason"]
    assert "cannot be told: all scores are equal" in " ".join(
        (tmp_path / "out" / "reliability.html").read_text().split()
    )


def answer(score: int) -> Reply:
    found: dict[str, Any] = {dimension.key: 1 for dimension in load_rubric().dimensions}
    return Reply(json.dumps(found | {"P2": score, "bonus": None, "penalty": None}))


def by_text(body: dict[str, Any], number: int) -> Reply:
    """FAKE: it likes what has a lamp in it."""
    return answer(18 if "lamp" in body["messages"][1]["content"] else 4)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    good, bad = "A lamp was lit.", "Nothing was lit at all tonight."
    rows = [
        {"prompt": f"Of night {n}.", "chosen_story": f"{good} {n}", "rejected_story": f"{bad} {n}"}
        for n in range(3)
    ]
    rows.append({"prompt": "Of day.", "chosen_story": bad, "rejected_story": good})
    return write(tmp_path / "pairs.jsonl", rows)


def asked(
    pairs: Path, out: Path, reply: Callable[[dict[str, Any], int], Reply], *more: object
) -> tuple[Result, int]:
    with fake_endpoint(reply) as server:
        flags = ("--url", server.url, "--model", "m", "--form", "compact", "--outage-s", 0)
        done = invoke("validate", pairs, "--out", out, *flags, "--resamples", 100, *more)
        return done, len(server.requests)


def test_pairs_are_judged_story_by_story_and_nothing_is_asked_twice(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done, calls = asked(pairs, out, by_text, "--json")
    assert done.exit_code == 0, done.output
    assert calls == 8, "each story alone, and once"
    found = json.loads(done.stdout)
    assert (found["n"], found["n_failed"], found["agreement"]["value"]) == (4, 0, 0.75)
    assert found["length"]["shorter_chosen"]["value"] == 1.0
    assert read(out / "validation.json") == found
    page = " ".join((out / "validation.html").read_text().split())
    assert "75.0 %" in page and "Position bias: none is possible" in page and "<script" not in page
    again, calls = asked(pairs, out, by_text)
    assert again.exit_code == 0 and calls == 0
    for said in ("75.0 %", "the longer alone", "position bias", "none is possible"):
        assert said in again.stdout
    kept = invoke("validate", pairs, "--scores", out, "--json", "--resamples", 100)
    assert json.loads(kept.stdout) == found


def test_a_failed_judgement_is_in_no_figure(pairs: Path, tmp_path: Path) -> None:
    def reply(body: dict[str, Any], number: int) -> Reply:
        if "night 1" in body["messages"][1]["content"] and "lamp" in body["messages"][1]["content"]:
            return Reply("I would rather not.")
        return by_text(body, number)

    done, _ = asked(pairs, tmp_path / "out", reply, "--json")
    found = json.loads(done.stdout)
    assert (found["n"], found["n_failed"]) == (3, 1) and sum(found["failures"].values()) == 1
    assert found["agreement"]["value"] == pytest.approx(2 / 3)


def test_faulty_pairs_cost_nothing(tmp_path: Path) -> None:
    path = write(
        tmp_path / "pairs.jsonl",
        [{"prompt": "p", "chosen_story": "Same.", "rejected_story": "Same."}, {"prompt": "p"}],
    )
    done, calls = asked(path, tmp_path / "out", by_text)
    said = failed(done, InputError).splitlines()
    assert calls == 0 and len(said) == 3
    assert said[0] == f"{path}:1: rejected_story: the same text as chosen_story, so nothing was preferred"
    assert said[1] == f"{path}:2: chosen_story: missing"


def test_an_outage_is_told_and_can_be_resumed(pairs: Path, tmp_path: Path) -> None:
    def reply(body: dict[str, Any], number: int) -> Reply:
        return by_text(body, number) if number < 3 else Reply(status=401, body={"error": {"message": "no"}})

    done, _ = asked(pairs, tmp_path / "out", reply, "--concurrency", 1)
    assert isinstance(done.exception, ConfigError | TransientError)
    assert not (tmp_path / "out" / "validation.json").exists()
    again, calls = asked(pairs, tmp_path / "out", by_text, "--concurrency", 1)
    assert again.exit_code == 0 and calls == 5


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "--out: missing"),
        (("--scores", "x", "--url", "http://localhost:9/v1"), "--scores: asks no judge"),
        (("--scores", "nowhere"), "nowhere: no scores.jsonl is there"),
    ],
)
def test_flags_that_do_not_fit_are_named(pairs: Path, flags: tuple[str, ...], said: str) -> None:
    done = invoke("validate", pairs, *flags)
    assert isinstance(done.exception, PolarisError) and said in str(done.exception)


def test_what_judge_score_leaves_is_what_reliability_reads(tmp_path: Path) -> None:
    rows = [{"id": f"s{n}", "story": "A lamp was lit. " * (n + 1), "prompt": "Of night."} for n in range(4)]
    stories = write(tmp_path / "stories.jsonl", rows)
    with fake_endpoint(lambda _, number: answer(number % 15)) as server:
        flags = ("--url", server.url, "--model", "m", "--form", "compact", "--repeats", 3)
        assert invoke("score", stories, "--out", tmp_path / "out", *flags).exit_code == 0
    done = invoke("reliability", tmp_path / "out", "--json", "--resamples", 100)
    judge = json.loads(done.stdout)["judges"][0]
    assert (judge["stories"], judge["judgements"], judge["repeats"]) == (4, 12, 3)
    assert [entry["words"] for entry in judge["per_story"]] == [4, 8, 12, 16]
    assert judge["length_bias"]["controls"] == [], "nobody asked for a length"


def test_pairs_none_of_whose_stories_is_judged_end_with_5(pairs: Path, tmp_path: Path) -> None:
    done, calls = asked(pairs, tmp_path / "out", lambda *_: Reply("I would rather not."))
    assert "8 of 8 judgements failed, 8 of them: invalid answer" in failed(done, GuardError)
    assert (tmp_path / "out" / "failures.jsonl").read_bytes().count(b"\n") == 8
    assert not (tmp_path / "out" / "validation.json").exists() and done.stdout == ""


def test_a_folder_that_cannot_be_written_is_told_before_a_pair_is_judged(pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    done, calls = asked(pairs, tmp_path / "out", by_text)
    assert calls == 0 and failed(done, ConfigError).endswith("folder that can be. Nothing was asked.")


def test_help_lists_the_commands_in_the_order_of_their_use() -> None:
    shown = invoke("--help").stdout
    places = [shown.index(f" {name} ") for name in ("prompt", "score", "reliability", "validate")]
    assert places == sorted(places)

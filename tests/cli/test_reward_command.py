"""`polaris reward` and `polaris metric`: lines in order, bad rows told, exit codes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from polaris.cli import main
from polaris.judge.parse import Judgement

Polaris = Callable[..., int]
NOTHING = Judgement.of_nothing().to_json()
JUDGEMENT = {key: NOTHING[key] for key in ("positive", "negative", "bonus", "penalty")}
DEMO = Path(__file__).parents[2] / "examples" / "demo" / "demo.yaml"


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Polaris:
    """Call the command line as a process would; return its exit code."""
    monkeypatch.setenv("COLUMNS", "200")

    def called(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["polaris", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            main()
        code = exited.value.code
        return code if isinstance(code, int) else 0 if code is None else 1

    return called


def written(folder: Path, *rows: Any) -> Path:
    path = folder / "rows.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def story(key: str, words: int = 200, **more: Any) -> dict[str, Any]:
    return {"id": key, "story": " ".join(f"w{at}" for at in range(words)), "target_word_count": 200, **more}


def test_good_rows_are_answered_in_order(
    cli: Polaris, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, story("b"), "", story("a", judgement=JUDGEMENT), story("é\ud800"))
    assert cli("reward", path) == 0
    out, err = capsys.readouterr()
    assert out.isascii() and err == ""
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["id"] for row in rows] == ["b", "a", "é\ud800"]
    terms = ["id", "words", "blank_penalty", "length_penalty", "length_reward", "self_repetition"]
    assert list(rows[0]) == terms
    assert list(rows[1]) == [*terms, "story_quality", "reward"]
    assert rows[1]["reward"] == 0.0


def test_a_bad_row_has_no_line_and_the_others_have_theirs(
    cli: Polaris, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "Once upon a time there was a canary."
    path = written(
        tmp_path,
        story("a"),
        {"id": "no target", "story": secret},
        "",
        '{"id": "b", "story": "' + secret,
        story("c", target_word_count=float("nan")),
        story("d", judgement=JUDGEMENT | {"bonus": 9}),
        story("e"),
        story("f", judgement={key: JUDGEMENT[key] for key in ("positive", "negative", "bonus")}),
    )
    assert cli("reward", path) == 3
    out, err = capsys.readouterr()
    assert [json.loads(line)["id"] for line in out.splitlines()] == ["a", "e"]
    told = [line.removeprefix(f"{path}:").split(":")[:2] for line in err.splitlines()]
    assert told == [
        ["2", " target_word_count"],
        ["4", " row"],
        ["5", " target_word_count"],
        ["6", " judgement.bonus"],
        ["8", " judgement"],
    ]
    assert all("; expected " in line for line in err.splitlines())
    assert "canary" not in err


def test_a_configurations_own_validation_weights(
    cli: Polaris, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # 100 words of 1,000: the length penalty is above 0 by the demo's narrow bounds too.
    path = written(tmp_path, story("a", 100, target_word_count=1000, judgement=JUDGEMENT))
    rewards = []
    for weight in ("0.2", "0.6"):
        monkeypatch.setenv("POLARIS__REWARD__VALIDATION_WEIGHTS__LENGTH", weight)
        assert cli("reward", path, "--config", DEMO, "--validation") == 0
        rewards.append(json.loads(capsys.readouterr().out)["reward"])
    assert rewards[1] == pytest.approx(3 * rewards[0]) and rewards[0] < 0


def test_weights(cli: Polaris, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # 100 words of 1,000: length penalty 1 - 100/650, blank, nothing repeated
    path = written(tmp_path, story("a", 100, target_word_count=1000, judgement=JUDGEMENT))
    rewards = []
    for options in ([], ["--validation"], ["--config", DEMO], ["--config", DEMO, "--validation"]):
        assert cli("reward", path, *options) == 0
        rewards.append(json.loads(capsys.readouterr().out)["reward"])
    short = 1 - 100 / 650
    assert rewards[:2] == pytest.approx([-0.8 * short - 1, -0.2 * short - 1])
    # The demo's stories are short: 100 words are not blank there, and its bounds are narrower.
    assert rewards[2] == pytest.approx(4 * rewards[3]) and rewards[2] > -1


def test_a_configuration_that_counts_tokens_says_what_is_left_out(
    cli: Polaris, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLARIS__REWARD__THINKING__LIMIT", "10")
    path = written(tmp_path, story("a"))
    assert cli("reward", path, "--config", DEMO) == 0
    assert (
        capsys.readouterr().err == "note: reward.thinking counts tokens, which rows do not have: left out\n"
    )


def test_metrics(cli: Polaris, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("Relevance", "Accuracy", "Coherence", "Clarity", "Breadth_and_Depth", "Reading_Experience")
    scores = dict(zip(names, (5, 4, 3, 4, 5, 4), strict=True))
    row = {"id": "a", "scores": scores, "words": 1000, "target": 1000}
    path = written(tmp_path, row, row | {"scores": scores | {"Clarity": 6}}, row | {"id": "b", "words": 500})
    assert cli("metric", "longbench_write", path) == 3
    out, err = capsys.readouterr()
    first, second = map(json.loads, out.splitlines())
    assert first["value"] == pytest.approx(475 / 6, abs=1e-9)
    assert (second["id"], second["value"]) == ("b", pytest.approx(475 / 12, abs=1e-9))
    assert err == f"{path}:2: scores.Clarity: 6; expected a number, 1 to 5\n"


def test_standard_input(
    cli: Polaris, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"id": "a", "judgement": JUDGEMENT}
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(json.dumps(row).encode() + b"\n{}")))
    assert cli("metric", "story_quality", "-") == 3
    out, err = capsys.readouterr()
    assert json.loads(out)["parts"]["label"] == "very_poor"
    assert err.startswith("-:2: id: missing; expected")


def test_no_rows_are_no_lines(cli: Polaris, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("reward", written(tmp_path)) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("metric", "arena", "ROWS"), 2, "no metric 'arena'; give one of story_quality, longform"),
        (("metric", "creative", "ROWS", "--variant", "uniform"), 2, "creative has no variant 'uniform'"),
        (("metric", "longform"), 2, "Missing argument"),
        (("reward", "ROWS", "--config", "missing.yaml"), 2, "missing.yaml"),
        (("reward", "missing.jsonl"), 3, "missing.jsonl: cannot be read: No such file"),
        (("metric", "longform", "."), 3, "cannot be read: Is a directory"),
    ],
)
def test_what_cannot_be_done(
    cli: Polaris,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    path = str(written(tmp_path, story("a")))
    assert cli(*(path if argument == "ROWS" else argument for argument in arguments)) == code
    out, err = capsys.readouterr()
    assert out == "" and said in err


@pytest.mark.parametrize("command", ["reward", "metric"])
def test_help_has_examples(cli: Polaris, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert cli(command, "--help") == 0
    out = capsys.readouterr().out
    assert f"polaris {command} " in out.partition("Example")[2]
    assert "exit code is 3" in " ".join(out.split())


def test_the_help_names_every_metric(cli: Polaris, capsys: pytest.CaptureFixture[str]) -> None:
    from polaris.evaluate.metric import METRICS

    assert cli("metric", "--help") == 0
    out = capsys.readouterr().out
    assert all(name in out for name in METRICS)


def test_lines_come_as_rows_do() -> None:
    """A row's line is there before the next row: files may be of any size, and pipes have no end."""
    command = [sys.executable, "-m", "polaris", "metric", "story_quality", "-"]
    row = json.dumps({"id": "a", "judgement": JUDGEMENT}).encode() + b"\n"
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ) as process:
        assert process.stdin and process.stdout
        for _ in range(3):
            process.stdin.write(row)
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["id"] == "a"
        process.stdin.close()
        assert process.stdout.read() == b""
    assert process.returncode == 0

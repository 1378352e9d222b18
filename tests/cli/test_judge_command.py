"""`polaris judge score` against a FAKE judge: its scores mean nothing."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from context import settings
from fake_batches import completion, fake_batches
from fake_endpoint import Reply, error, fake_endpoint
from judge_commands import answer, failed, invoke, scored
from typer.testing import CliRunner

from polaris import batch
from polaris.artifact import to_rows
from polaris.cli import app
from polaris.cli.scores import failure_lines, print_scores
from polaris.errors import BudgetError, ConfigError, GuardError, InputError, TransientError
from polaris.judge.rubric import rubric_identity
from polaris.runtime import StopFlag

FILES = ("scores.jsonl", "failures.jsonl", "summary.json")


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-fake-0123456789")
    monkeypatch.setenv("FAKE_API_KEY", "sk-fake-9876543210")
    monkeypatch.setattr(StopFlag, "install", lambda _: None)


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    rows = [{"id": f"s{n}", "story": f"Fox {n} slept.", "prompt": "Of a fox."} for n in range(6)]
    path = tmp_path / "stories.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_stories_are_scored_into_a_folder(stories: Path, tmp_path: Path) -> None:
    with fake_endpoint(lambda _, number: answer(number)) as server:
        price = ("--usd-per-million-prompt", 1, "--usd-per-million-completion", 10)
        done = scored(server, stories, tmp_path / "out", "--identity", "acme/m-70B", *price)
    assert done.exit_code == 0, done.output
    scores = to_rows((tmp_path / "out/scores.jsonl").read_bytes(), "scores")
    assert [row["id"] for row in scores] == [f"s{n}" for n in range(6)]
    assert {(row["judge"], row["words"], row["target_word_count"]) for row in scores} == {
        ("acme/m-70B", 3, None)
    }
    assert (tmp_path / "out/failures.jsonl").read_bytes() == b""
    found = json.loads((tmp_path / "out/summary.json").read_bytes())
    assert (found["n"], found["n_failed"], found["judgements"]) == (6, 0, 6)
    assert found["overall"]["value"] == pytest.approx(-2.5)
    assert found["overall"]["low"] < -2.5 < found["overall"]["high"]
    assert found["labels"] == {"very_poor": 6}
    assert (found["judge"], found["rubric"]) == ("acme/m-70B", rubric_identity("compact"))
    assert found["caveat"] is None
    assert found["cost"]["usd"] == pytest.approx(6 * (1000 * 1 + 100 * 10) / 1e6)
    assert found["dimensions"]["P1"] == pytest.approx(2.5)
    for said in (
        "mean overall -2.5",
        "very_poor 6",
        "s0",
        "6 judged",
        "0.0120 US$ paid by this command (6 calls, 0 answers kept from before)",
    ):
        assert said in done.output


def test_a_small_judge_gets_its_caveat(stories: Path, tmp_path: Path) -> None:
    with fake_endpoint(lambda *_: answer()) as server:
        done = scored(server, stories, tmp_path / "out", "--identity", "tiny-135M")
    told = "its scores prove the plumbing and mean nothing"
    assert told in json.loads((tmp_path / "out/summary.json").read_bytes())["caveat"]
    assert all(
        told in row["caveat"] for row in to_rows((tmp_path / "out/scores.jsonl").read_bytes(), "scores")
    )
    assert "mean nothing" in done.output


def test_a_second_call_asks_only_for_what_is_missing(stories: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with fake_endpoint(lambda _, number: answer(number)) as server:
        scored(server, stories, out)
        first = (out / "scores.jsonl").read_bytes()
        with stories.open("a") as file:
            file.write('{"id": "new", "story": "A new one."}\n')
        done = scored(server, stories, out)
        assert len(server.requests) == 7
    assert done.exit_code == 0
    assert set(first.splitlines()) < set((out / "scores.jsonl").read_bytes().splitlines())
    found = json.loads((out / "summary.json").read_bytes())
    assert (found["cost"]["calls"], found["cost"]["cached_calls"], found["without_prompt"]) == (1, 6, 1)


def test_failures_are_listed_and_are_no_scores(stories: Path, tmp_path: Path) -> None:
    def reply(request: dict[str, Any], _: int) -> Reply:
        return Reply("nonsense") if "Fox 2" in json.dumps(request["messages"]) else answer()

    with fake_endpoint(reply) as server:
        done = scored(server, stories, tmp_path / "out", "--repeats", 2)
    assert done.exit_code == 0
    failures = to_rows((tmp_path / "out/failures.jsonl").read_bytes(), "failures")
    assert [(row["id"], row["repeat"]) for row in failures] == [("s2", 0), ("s2", 1)]
    found = json.loads((tmp_path / "out/summary.json").read_bytes())
    assert (found["n"], found["n_failed"], found["judgements_failed"]) == (5, 1, 2)
    assert "invalid answer" in done.output and "failed" in done.output


def test_bad_rows_are_told_and_nothing_is_asked(stories: Path, tmp_path: Path) -> None:
    with stories.open("a") as file:
        file.write('{"id": 1.5, "story": "x"}\nnonsense\n')
    with fake_endpoint(lambda *_: answer()) as server:
        told = failed(scored(server, stories, tmp_path / "out"), InputError)
    assert told.splitlines() == [
        f"{stories}:7: id: 1.5; expected text or a whole number",
        f"{stories}:8: row: no JSON at character 1: Expecting value; expected a JSON object on one line",
    ]
    assert server.requests == []
    assert not (tmp_path / "out").exists()


def test_a_spent_budget_keeps_all_and_goes_on_when_raised(stories: Path, tmp_path: Path) -> None:
    out, price = tmp_path / "out", ("--usd-per-million-prompt", 1e6 / 1000, "--concurrency", 1)
    with fake_endpoint(lambda *_: answer()) as server:
        told = failed(scored(server, stories, out, *price, "--budget-usd", 3.5), BudgetError)
        asked = len(server.requests)
        assert 1 <= asked <= 4
        assert "--budget-usd" in told and "judgements are kept" in told
        assert not any((out / name).exists() for name in FILES)
        assert scored(server, stories, out, *price, "--budget-usd", 50).exit_code == 0
        assert len(server.requests) == 6


def test_an_endpoint_that_is_down_is_transient(stories: Path, tmp_path: Path) -> None:
    with fake_endpoint(lambda *_: error(503)) as server:
        config = tmp_path / "run.yaml"
        judge = {"model": "reader", "form": "compact", "attempts": 1, "outage_s": 0}
        config.write_text(yaml.safe_dump(settings(tmp_path, server.url, judges={"judge": judge})))
        told = failed(invoke("score", stories, "--out", tmp_path / "out", "--config", config), TransientError)
    assert "judges.judge.outage_s" in told and "0 of 6 judgements are kept" in told
    assert not any((tmp_path / "out" / name).exists() for name in FILES)


def test_a_signal_keeps_what_is_paid_for(stories: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "polaris", "judge", "score", str(stories), "--out", str(out)]
    begun: list[subprocess.Popen[bytes]] = []

    def reply(_: dict[str, Any], number: int) -> Reply:
        if number == 2:
            begun[0].send_signal(signal.SIGTERM)
        return Reply(answer().text, delay_s=0.3)

    with fake_endpoint(reply) as server:
        flags = ["--url", server.url, "--model", "m", "--form", "compact", "--concurrency", "1"]
        begun.append(subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        _, told = begun[0].communicate(timeout=120)
        assert begun[0].returncode == 143, told
        assert told.decode().splitlines()[-1] == (
            "error: stopped by signal 15; 3 answers are kept, the same command goes on from there"
        )
        assert not any((out / name).exists() for name in FILES)
        asked = len(server.requests)
        assert asked == 3
    with fake_endpoint(lambda *_: answer()) as server:
        assert scored(server, stories, out).exit_code == 0
        assert len(server.requests) == 6 - asked


def test_a_configured_judge_is_asked_as_it_is_configured(stories: Path, tmp_path: Path) -> None:
    with fake_endpoint(lambda *_: answer()) as server:
        config = tmp_path / "run.yaml"
        config.write_text(yaml.safe_dump(settings(tmp_path, server.url)))
        (tmp_path / "book.epub").unlink()
        done = invoke("score", stories, "--out", tmp_path / "out", "-c", config, "--repeats", 2)
        assert done.exit_code == 0, done.output
        assert server.headers[0]["authorization"] == "Bearer sk-fake-9876543210"
        assert len(server.requests) == 12
    found = json.loads((tmp_path / "out/summary.json").read_bytes())
    assert (found["judge"], found["repeats"]) == ("fake/reader", 2)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "--url: missing; give --config with --judge, or --url and --model"),
        (["--url", "http://h/v1"], "--model: missing; give --config with --judge, or --url and --model"),
        (["--judge", "x"], "--judge: given without --config; name a run's YAML file too"),
        (
            ["--url", "h", "--model", "m"],
            "--url: value 'h'; expected a URL that begins with http:// or https://",
        ),
        (
            ["--url", "http://h/v1", "--model", "m", "--temperature", "3"],
            "--temperature: value '3.0'; expected",
        ),
        (["--url", "http://h/v1", "--model", "m", "--top-p", "0"], "--top-p: value '0.0'; expected"),
        (["--url", "http://h/v1", "--model", "m", "--form", "long"], "--form: value 'long'; expected 'full'"),
        (["--url", "http://h/v1", "--model", "m", "--effort", "x"], "--effort: value 'x'; expected 'none'"),
        (["--url", "http://h/v1", "--model", "m", "--repeats", "0"], "--repeats: value '0'; expected"),
        (
            ["--url", "http://h/v1", "--model", "m", "--provider", "vllm", "--batch"],
            "--batch: value true; --url (vllm) has no batch files",
        ),
        (
            ["--url", "http://h/v1", "--model", "m", "--budget-usd", "3"],
            "--budget-usd needs prices: give --usd-per-million-prompt and --usd-per-million-completion",
        ),
        (
            ["--url", "http://h/v1", "--model", "m", "--api-key-env", "NO_SUCH_KEY"],
            "--api-key-env: neither NO_SUCH_KEY nor NO_SUCH_KEY_FILE is set",
        ),
    ],
)
def test_bad_flags_are_named(stories: Path, tmp_path: Path, flags: list[str], said: str) -> None:
    told = failed(invoke("score", stories, "--out", tmp_path / "out", *flags), ConfigError)
    assert told.startswith(said), told


def test_the_judge_of_a_configuration_is_named(stories: Path, tmp_path: Path) -> None:
    found = settings(tmp_path)
    found["judges"]["other"] = {"model": "reader"}
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(found))
    asked = ("score", stories, "--out", tmp_path / "out", "--config", config)
    assert failed(invoke(*asked), ConfigError) == "--judge: missing; expected one of: judge, other"
    told = failed(invoke(*asked, "--judge", "x"), ConfigError)
    assert told == "--judge: value 'x'; expected one of: judge, other"
    told = failed(invoke(*asked, "--judge", "judge", "--url", "http://h/v1"), ConfigError)
    assert told == "--url: given with --config, which names the endpoint"


@pytest.mark.parametrize(("folder", "why"), [("out", "File exists"), ("out/in", "Not a directory")])
def test_a_folder_that_cannot_be_written_costs_nothing(
    stories: Path, tmp_path: Path, folder: str, why: str
) -> None:
    (tmp_path / "out").write_text("a file")
    with fake_endpoint(lambda *_: answer()) as server:
        told = failed(scored(server, stories, tmp_path / folder), ConfigError)
    assert server.requests == []
    assert told.startswith(f"--out: '{tmp_path / folder}' cannot be written (")
    assert told.endswith("; name a folder that can be. Nothing was asked.")


def test_no_story_judged_is_a_guards_exit_with_all_files_written(stories: Path, tmp_path: Path) -> None:
    with fake_endpoint(lambda *_: Reply("nonsense")) as server:
        done = scored(server, stories, tmp_path / "out")
        told = failed(done, GuardError)
    assert told.startswith("no story was judged: 6 of 6 judgements failed, 6 of them: invalid answer")
    assert done.stdout.splitlines()[-1] == "No story was judged."
    assert all((tmp_path / "out" / name).is_file() for name in FILES)
    assert json.loads((tmp_path / "out/summary.json").read_bytes())["n"] == 0


def test_sampling_and_thinking_stories(tmp_path: Path) -> None:
    path = tmp_path / "stories.jsonl"
    rows = [{"id": 1, "story": "<think>Of a fox.</think>\nIt slept."}, {"id": 2, "story": "<think>No end"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with fake_endpoint(lambda *_: answer()) as server:
        done = scored(server, path, tmp_path / "out", "--temperature", 1, "--top-p", 0.5)
        [asked] = server.requests
    assert "Of a fox." not in json.dumps(asked["messages"]) and (
        asked.get("temperature", 1),
        asked["top_p"],
    ) == (1, 0.5)
    found = json.loads((tmp_path / "out/summary.json").read_bytes())
    assert (found["n"], found["n_failed"], found["thinking_cut"]) == (1, 1, 2)
    assert found["failures"] == {"empty story": 1}
    assert "2 stories began with <think>: judged without the thinking" in done.output
    assert "1 judged, 1 without a judgement" in done.output


def test_stories_come_from_standard_input_too(stories: Path, tmp_path: Path) -> None:
    with fake_endpoint(lambda *_: answer()) as server:
        flags = ("--url", server.url, "--model", "m", "--form", "compact")
        done = CliRunner().invoke(
            app, ["judge", "score", "-", "--out", str(tmp_path / "out"), *flags], input=stories.read_bytes()
        )
    assert done.exit_code == 0 and len(server.requests) == 6


def test_failures_are_told_by_kind_and_five_at_most(capsys: pytest.CaptureFixture[str]) -> None:
    told = {f"kind {'abcdefgh'[n]}": 9 - n for n in range(8)}
    assert failure_lines(told) == [
        *(f"{count} × {kind}" for kind, count in list(told.items())[:5]),
        "… 9 more in failures.jsonl",
    ]
    assert failure_lines({"cut": 1234}) == ["1,234 × cut"]


@pytest.mark.parametrize(
    ("usd", "calls", "unanswered", "said"),
    [
        (
            47.33,
            3029,
            67,
            "47.33 US$ paid by this command (3,029 calls, 1 answer kept from before); the scores'"
            " own answers cost 1,046.41 US$",
        ),
        (0.0, 1, 1, "0.00 US$ paid by this command (1 call, "),
    ],
)
def test_the_line_of_what_it_cost(
    usd: float, calls: int, unanswered: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {
        "overall": {"value": None},
        "labels": {},
        "n": 1,
        "n_failed": 0,
        "judgements": 1,
        "judgements_failed": 0,
        "failures": {},
        "judge": "m",
        "rubric": "r",
        "without_prompt": 1,
        "thinking_cut": 0,
        "notes": [],
        "caveat": None,
        "usd_of_answers": 1046.41,
        "cost": {"usd": usd, "calls": calls, "cached_calls": 1},
        "events": {"unanswered": unanswered},
    }
    print_scores([], found, tmp_path)
    shown = capsys.readouterr().out
    assert said in shown and "1 story came without a prompt" in shown
    one = "1 attempt got no answer and is booked at an estimate"
    assert (one if unanswered == 1 else "67 attempts got no answer and are booked at an estimate") in shown
    print_scores([], found | {"events": {"unanswered": 0}}, tmp_path)
    assert "booked" not in capsys.readouterr().out


def test_notes_are_told_in_the_flags_words(stories: Path, tmp_path: Path) -> None:
    def reply(request: dict[str, Any], _: int) -> Reply:
        if "response_format" in request:
            return error(400, "response_format json_schema is not supported")
        return answer()

    with fake_endpoint(reply) as server:
        done = scored(server, stories, tmp_path / "out", "--provider", "other")
    [note] = json.loads((tmp_path / "out/summary.json").read_bytes())["notes"]
    assert note.startswith("--url: enforces no JSON schema") and "models.judge" not in done.stdout


def test_a_story_that_failed_by_batch_gets_a_new_answer_and_tells_its_own_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "fill", functools.partial(batch.fill, poll_s=0.01))
    path, out = tmp_path / "one.jsonl", tmp_path / "out"
    path.write_text(json.dumps({"id": "a", "prompt": "Of a fox.", "story": "The fox slept."}) + "\n")
    price = ("--usd-per-million-prompt", 2, "--usd-per-million-completion", 10)
    told = []
    with fake_batches(answer=lambda _: completion("nonsense")) as fake:
        for expected in (GuardError, type(None)):
            flags = ("--url", fake.url, "--model", "m", "--form", "compact", "--batch", *price)
            assert isinstance(invoke("score", path, "--out", out, *flags).exception, expected)
            told.append(json.loads((out / "summary.json").read_bytes()))
            fake.answer = lambda _: completion(answer().text)
        assert len(fake.batches) == 2
    each = (100 * 2 + 10 * 10) / 1e6
    assert [found["judgements_failed"] for found in told] == [1, 0]
    assert [found["cost"]["usd"] for found in told] == [pytest.approx(1.5 * each), pytest.approx(0.5 * each)]

"""Log lines without secrets, progress that speaks at once and at the end, and a flag that signals set."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
import structlog
from rich.console import Console

from polaris import runtime
from polaris.errors import Stopped
from polaris.runtime import ProgressBar, StopFlag, configure_logging, get_logger, keep_secret, redact

SECRET = "canary-7f3a-secret"


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_is_json_in_a_pod_and_under_an_executor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    configure_logging()
    get_logger("test").info("something happened", count=3)
    get_logger("test").debug("unheard")
    (line,) = lines(capsys)
    assert {
        "event": "something happened",
        "count": 3,
        "level": "info",
        "source": "test",
    }.items() <= line.items()
    assert line["timestamp"].endswith("Z")
    monkeypatch.setenv("POLARIS_LOG", "text")
    configure_logging(verbose=True)
    get_logger("test").debug("heard")
    assert "heard" in capsys.readouterr().err


def test_text_shows_a_traceback_as_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    get_logger("test").error("bug", traceback="Traceback:\n  File x\nValueError: y")
    err = capsys.readouterr().err
    assert err.endswith("Traceback:\n  File x\nValueError: y\n")
    assert "\\n" not in err


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_secret_is_logged(
    form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POLARIS_LOG", form)
    for name in ("MY_API_KEY", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "DB_PASSWORD"):
        monkeypatch.setenv(name, f"{SECRET}-{name}")
    keep_secret(f"{SECRET}-told")
    configure_logging()
    log = get_logger("test")
    for value in runtime.secrets():
        log.info(
            f"event {value}",
            text=value,
            nested={"list": [value]},
            error=ValueError(value),
            key=value.encode(),
        )
    try:
        raise RuntimeError(f"{SECRET}-told")
    except RuntimeError as error:
        log.error("failed", traceback=f"x {error}")
    err = capsys.readouterr().err
    assert SECRET not in err
    assert err.count("[redacted]") > 5
    if form == "json":
        assert all(json.loads(line) for line in err.splitlines())


def test_what_looks_like_a_key_is_redacted_longest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "abcdefgh")
    monkeypatch.setenv("B_KEY", "abcdefghijkl")
    monkeypatch.setenv("SHORT_KEY", "abc")
    monkeypatch.setenv("KEYBOARD", "qwertyuiop")
    assert redact("abcdefghijkl abcdefgh abc qwertyuiop") == "[redacted] [redacted] abc qwertyuiop"
    keep_secret("")
    assert redact("text") == "text"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(runtime.time, "monotonic", found.monotonic)
    return found


def test_progress_speaks_at_once_then_spaced_then_at_the_end(clock: Clock) -> None:
    with structlog.testing.capture_logs() as heard, ProgressBar(100, "stories") as bar:
        for _ in range(100):
            clock.now += 0.5
            bar.advance(reward=0.5)
    done = [event["done"] for event in heard]
    assert done == [1, *range(11, 100, 10), 100]
    assert all(
        later["done"] - sooner["done"] == 10 for sooner, later in zip(heard[1:-1], heard[2:-1], strict=False)
    )
    assert heard[0] == {
        "event": "progress",
        "log_level": "info",
        "source": "progress",
        "what": "stories",
        "done": 1,
        "total": 100,
        "seconds_left": 50,
        "reward": 0.5,
    }
    assert heard[-1]["seconds_left"] == 0


def test_progress_beyond_its_total_does_not_flood(clock: Clock) -> None:
    with structlog.testing.capture_logs() as heard, ProgressBar(2, "parts") as bar:
        for _ in range(50):
            bar.advance()
    assert [event["done"] for event in heard] == [1, 2]


def test_progress_counts_from_many_threads() -> None:
    bar = ProgressBar(8000, "bytes")

    def work() -> None:
        for _ in range(1000):
            bar.advance(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    with structlog.testing.capture_logs():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert bar.done == 8000


def test_progress_in_a_pod_is_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    configure_logging()
    with runtime.progress(2.5, "MiB") as bar:
        bar.advance(1.25)
    (line,) = lines(capsys)
    assert (line["event"], line["what"], line["done"], line["total"]) == ("progress", "MiB", 1.25, 2.5)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with structlog.testing.capture_logs() as heard, ProgressBar(4, "stories") as bar:
        bar.advance(2, reward=0.123456)
        bar._bar.refresh()
    assert heard == []
    assert "stories" in terminal.getvalue()
    assert "2/4" in terminal.getvalue()
    assert "reward 0.1235" in terminal.getvalue()


STAGES: list[tuple[str, float, dict[str, Any], str]] = [
    (
        "judgements",
        3000,
        {
            "failed": 0,
            "cached": 12345,
            "retries": 0,
            "per_minute": 1581.2,
            "usd": 5.07,
            "usd_forecast": 45.91,
        },
        "1,581/min  $5.07 of ~$45.91  failed 0  cached 12,345  retries 0",
    ),
    (
        "judgements",
        10**6,
        {"failed": 0, "cached": 0, "retries": 0, "per_minute": 9.0, "usd": 0.0, "usd_forecast": 0.0},
        "9/min  failed 0  cached 0  retries 0",
    ),
    ("requests by batch", 50_000, {"batches": 10, "usd": 1.25}, "$1.25  batches 10"),
    ("stories", 180, {"words": 1200, "truncated": 3, "resumed": 4}, "words 1,200  truncated 3"),
    (
        "optimiser steps",
        100,
        {
            "loss": -0.0123,
            "reward": 0.1,
            "hri_weight": 0.5,
            "engine_logprob_max_difference": 0.01,
            "step_seconds": 9.5,
        },
        "loss -0.0123  reward 0.1  hri_weight 0.5  engine_logprob_max_difference 0.01",
    ),
    ("books", 20, {"book": "a [bold] name.epub", "stories": 12}, "book a [bold] name.epub  stories 12"),
    (f"upload checkpoint-000100/{'model' * 20} (MiB)", 5000.5, {}, "(MiB)"),
]


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize(("what", "total", "figures", "said"), STAGES, ids=lambda value: str(value)[:12])
def test_count_bar_and_time_left_fit_every_terminal(
    width: int, what: str, total: float, figures: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys, "stderr", Terminal())
    with ProgressBar(total, what) as bar:
        bar.advance(total / 4, **figures)
        shown = Console(width=width, file=io.StringIO())
        shown.print(bar._bar.get_renderable())
    lines = shown.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert f"{total / 4:,.0f}/{total:,.0f}" in lines[0] and "━" in lines[0], lines
    assert lines[0].rstrip().endswith("-:--:--"), lines
    assert said in "\n".join(lines)


def test_a_stop_flag_remembers_the_first_signal() -> None:
    flag = StopFlag()
    flag.install()
    flag.check()
    assert not flag.requested
    os.kill(os.getpid(), signal.SIGTERM)
    assert flag.requested
    with pytest.raises(Stopped) as stopped:
        flag.check()
    assert stopped.value.code == 143


def test_a_second_interrupt_ends_the_process_at_once() -> None:
    code = (
        "import time; from polaris.runtime import StopFlag\n"
        "StopFlag().install(); print('ready', flush=True)\n"
        "while True: time.sleep(0.1)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


def test_an_interrupt_says_how_long_it_takes_and_a_second_one_shows_the_cursor() -> None:
    code = (
        "import os, time; from polaris.runtime import StopFlag\n"
        "os.isatty = lambda _: True\n"
        "StopFlag('stopping: 15 s').install(); print('ready', flush=True)\n"
        "while True: time.sleep(0.1)"
    )
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    with process.stdout, process.stderr:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert (process.stderr.readline(), process.stderr.readline()) == (b"\n", b"stopping: 15 s\n")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == b"\n\x1b[?25h"

"""A run that goes on in, its one page as of now out: drawn once, or until its report is finished."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from context import make_artifact
from report_inputs import HOSTILE, configuration, pair
from report_pages import Page, words
from training_inputs import arms_configuration, begin, objects, samples

from polaris.cli import main, pages
from polaris.errors import InputError, TransientError
from polaris.execute.lease import Lease
from polaris.run import Run, open_run
from polaris.runtime import StopFlag
from polaris.stage import Status

SPENT = {"calls": 5.0, "usd": 0.5, "paid": {"3": 3.0, "validation 4": 2.0}, "repaid": 0.0}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run whose data is finished, whose training has taken two steps of four and lost another one."""
    return opened(tmp_path, configuration(tmp_path))


def opened(folder: Path, raw: dict[str, object]) -> Run:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    found = open_run(path)
    make_artifact(found, "data", {"pairs.jsonl": [pair(n) for n in range(33)]})
    begin(found, "train", objects(2, (0, 2)) | {"spent.json": json.dumps(SPENT).encode()})
    return found


def drawn(run: Run, out: Path) -> Page:
    assert pages.make_page(run, "report", out, fix="run it") == out
    return Page(out.read_text(encoding="utf-8"))


def test_a_run_in_progress_has_a_page_of_what_is_there(run: Run, tmp_path: Path) -> None:
    Status(run.store, run.prefix("train"), "1").write("running")
    with Lease(run.store, run.config.run, StopFlag()):
        page = drawn(run, tmp_path / "page.html")
    said = words(page.text)
    assert "Run in progress: step 2 of about 4, as of " in said
    assert "1 of 8 parts is finished." in said and "Running: train." in said
    assert "US$ 0.50 and 5 judge calls of what was lost and made again, 1 step among it." in said
    # Two steps of 10 calls, two validations of 2, and the lost step's 5.
    assert "29" in said and "0.74" in said
    assert "Story 0 after step 2." in said and "Forecast beside actual" in said
    assert "is being trained, so far for 2 steps" in said
    assert "Not in this report" not in said and "None" not in said
    assert page.open == [] and not page.tags & {"script", "img"}
    assert ("http-equiv", "refresh") not in page.attributes
    assert [path.name for path in tmp_path.glob(".page*")] == [], "no part is left"


def test_a_run_at_which_nothing_works_says_so(run: Run, tmp_path: Path) -> None:
    status = Status(run.store, run.prefix("train"), "1")
    status.write("failed", 5, f"loss is nan {HOSTILE[:25]}")
    said = words(drawn(run, tmp_path / "page.html").text)
    assert "Run not finished, and nothing is at work on it: step 2 of about 4" in said
    assert "Failed: train." in said and "train: loss is nan <script>alert(1)</script>" in said


def test_two_arms_in_progress_are_told_apart(tmp_path: Path) -> None:
    run = opened(tmp_path, arms_configuration(tmp_path))
    begin(run, "train.no-hri", objects(1))
    said = words(drawn(run, tmp_path / "page.html").text)
    assert "train at step 2 of about 4, no-hri at step 1 of about 4, as of" in said


def test_a_training_without_data_and_metrics_yet_is_no_page_but_a_begun_one_is(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(configuration(tmp_path)), encoding="utf-8")
    run = open_run(tmp_path / "run.yaml")
    with pytest.raises(InputError, match="report is not complete in .*; run it"):
        pages.make_page(run, "report", tmp_path / "page.html", fix="run it")
    begin(run, "train", {"samples/step-000000.jsonl": samples(0), "wanted.json": b"{}"})
    make_artifact(run, "data", {"pairs.jsonl": [pair(1)]})
    said = words(drawn(run, tmp_path / "page.html").text)
    assert "1 of 8 parts finished" in said and "Its training has not begun." in said


def test_a_finished_report_is_given_as_it_is(run: Run, tmp_path: Path) -> None:
    make_artifact(run, "report", {"report.html": b"<p>page", "report.json": b"{}"})
    assert pages.make_page(run, "report", tmp_path / "page.html", fix="").read_bytes() == b"<p>page"
    assert pages.make_page(run, "report", None, fix="") == run.config.execute.report_file


def test_following_draws_again_until_the_report_is_finished(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    seen: list[str] = []
    steps: list[Callable[[], object]] = [
        lambda: begin(run, "train", objects(3)),
        lambda: make_artifact(run, "report", {"report.html": b"<p>page", "report.json": b"{}"}),
    ]

    def sleep(seconds: float) -> None:
        assert seconds == 7
        seen.append(out.read_text(encoding="utf-8"))
        steps.pop(0)()

    monkeypatch.setattr(pages, "_pause", sleep)
    pages.follow_page(lambda: run, "report", out, 7)
    assert ["step 2 of about 4" in seen[0], "step 3 of about 4" in seen[1]] == [True, True]
    assert all('<meta http-equiv="refresh" content="7">' in page for page in seen)
    assert out.read_bytes() == b"<p>page"
    assert capsys.readouterr().out.splitlines()[-1] == f"{out}: the report is finished"


def test_ctrl_c_ends_well_and_leaves_a_page_that_stays(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pages, "_pause", interrupted)
    pages.follow_page(lambda: run, "report", out, 7)
    assert 'http-equiv="refresh"' not in out.read_text(encoding="utf-8")
    assert "as of now; the run itself goes on" in capsys.readouterr().out


def test_a_store_out_of_reach_is_waited_for(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, reached = tmp_path / "page.html", iter([True, False, False, True, True])

    def look() -> Run:
        if not next(reached):
            raise TransientError("no route")
        return run

    finished = {"report.html": b"<p>page", "report.json": b"{}"}
    monkeypatch.setattr(pages, "_pause", lambda _: make_artifact(run, "report", finished))
    pages.follow_page(look, "report", out, 7)
    assert out.read_bytes() == b"<p>page"
    assert "no route; tried again later" in capsys.readouterr().err


def test_the_command_refuses_what_does_not_go_together(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for arguments, code in ((["--every", "5"], 2), (["--out", os.devnull + "/no/page.html"], 2), ([], 0)):
        monkeypatch.setattr(sys, "argv", ["polaris", "report", str(run.path), *arguments])
        with pytest.raises(SystemExit) as exited:
            main()
        assert (exited.value.code or 0) == code, arguments
    told = capsys.readouterr()
    assert "--every: goes with --follow" in told.err and "--out: " in told.err
    assert Path(told.out.strip()) == run.config.execute.report_file
    assert "not finished, nothing is at work: 1 of 8 parts finished, train at step 2 of about 4" in told.err

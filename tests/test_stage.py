"""One stage from a configuration to an exit code, with programs made for the test in a real kind's place."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
import yaml
from context import settings

from polaris import errors
from polaris.artifact import Artifact, Progress, find_manifest
from polaris.errors import ConfigError, InputError, PolarisError, Stopped, TransientError
from polaris.kinds import KINDS
from polaris.run import Run, open_run
from polaris.runtime import configure_logging
from polaris.stage import StageContext, run_stage

SECRET = "canary-91b2-secret"

Program = Callable[[StageContext], None]


@dataclass(frozen=True)
class FakeKind:
    """A kind whose program a test gives."""

    program: Program
    version: int = 1

    def load(self) -> Program:
        return self.program


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[Program], None]:
    """Put a program in the place of the data kind's; what it logs is JSON that capsys hears."""
    monkeypatch.setenv("POLARIS_LOG", "json")
    configure_logging()
    return lambda program: monkeypatch.setitem(KINDS, "data", FakeKind(program))  # type: ignore[arg-type]


def status_of(run: Run, name: str = "data") -> dict[str, Any]:
    keys = [info.key for info in run.store.list(f"{run.prefix(name)}attempts/") if "STATUS" in info.key]
    assert len(keys) == 1
    found: dict[str, Any] = json.loads(run.store.get(keys[0]))
    return found


def test_a_stage_makes_its_artifact(run: Run, made: Callable[[Program], None]) -> None:
    seen: list[StageContext] = []

    def program(context: StageContext) -> None:
        seen.append(context)
        context.output.put_rows("pairs.jsonl", [{"uid": "1"}])
        context.counts["pairs"] = 1
        context.cost["usd"] = 0.5
        context.notes.append("a note")

    made(program)
    assert run_stage(run.path, "data") == 0
    manifest = run.manifest("data")
    assert manifest is not None
    assert (manifest.counts, manifest.cost, manifest.notes) == ({"pairs": 1}, {"usd": 0.5}, ("a note",))
    assert manifest.digest == run.plan.instances["data"].digest
    assert manifest.identity == run.plan.instances["data"].identity
    assert manifest.config == run.config.model_dump(mode="json")
    assert manifest.versions["polaris"]
    assert manifest.seconds >= 0
    assert Artifact(run.store, manifest).rows("pairs.jsonl") == [{"uid": "1"}]
    assert (status_of(run)["state"], status_of(run)["code"]) == ("complete", None)
    assert seen[0].work.is_dir()
    assert seen[0].config_path == run.path


def test_a_complete_stage_is_done_at_once(run: Run, made: Callable[[Program], None]) -> None:
    times: list[int] = []
    made(lambda context: times.append(1))
    assert [run_stage(run.path, "data") for _ in range(3)] == [0, 0, 0]
    assert len(times) == 1


def test_another_version_of_a_kind_makes_another_artifact(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: instance.digest for name, instance in run.plan.instances.items()}
    monkeypatch.setitem(KINDS, "judge", FakeKind(lambda context: None, version=99))  # type: ignore[arg-type]
    after = {name: instance.digest for name, instance in open_run(run.path).plan.instances.items()}
    assert {name for name in before if before[name] != after[name]} == {
        "judge.writer.quality",
        "evaluate.writer.quality",
        "report",
    }


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("a setting"), 2),
        (errors.InputError("an input"), 3),
        (errors.BudgetError("a budget"), 4),
        (errors.GuardError("a guard"), 5),
        (errors.TransientError("a blip"), 75),
        (errors.PolarisError("unclassified"), 1),
        (errors.Stopped(15), 143),
        (errors.Stopped(2), 130),
        (KeyboardInterrupt(), 130),
        (ValueError("a bug"), 1),
        (MemoryError("a bug"), 1),
    ],
)
def test_each_error_has_its_exit_code(
    run: Run, made: Callable[[Program], None], error: BaseException, code: int
) -> None:
    def program(context: StageContext) -> None:
        context.output.put("half", b"written")
        raise error

    made(program)
    assert run_stage(run.path, "data") == code
    status = status_of(run)
    assert (status["state"], status["code"]) == ("failed", code)
    assert str(error) in status["reason"]
    assert "\n" not in status["reason"]
    assert find_manifest(run.store, run.prefix("data")) is None


def test_only_a_bug_shows_a_traceback(
    run: Run, made: Callable[[Program], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def buggy(context: StageContext) -> None:
        raise LookupError("deep inside")

    made(buggy)
    assert run_stage(run.path, "data") == 1
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (bug,) = [line for line in lines if line["event"] == "bug"]
    assert "in buggy" in bug["traceback"]
    assert "LookupError: deep inside" in bug["traceback"]
    assert lines[-1]["reason"] == "LookupError: deep inside"

    def unlucky(context: StageContext) -> None:
        raise errors.TransientError("the judge is away")

    made(unlucky)
    assert run_stage(run.path, "data") == 75
    assert "raceback" not in capsys.readouterr().err


def test_a_package_that_is_not_installed_is_no_bug(run: Run, made: Callable[[Program], None]) -> None:
    def program(context: StageContext) -> None:
        import a_package_that_nobody_has  # type: ignore[import-not-found]  # noqa: F401

    made(program)
    assert run_stage(run.path, "data") == 2
    assert "'a_package_that_nobody_has', which is not installed here" in status_of(run)["reason"]


def test_a_missing_input_is_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    assert run_stage(run.path, "judge.writer.quality") == 3
    reason = status_of(run, "judge.writer.quality")["reason"]
    digest = run.plan.instances["generate.writer.quality"].digest
    assert reason.startswith(f"generate.writer.quality ({digest}) is not complete in file://")
    assert reason.endswith("; run it first")


def test_what_is_wrong_before_the_stage_begins(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging()
    assert run_stage(run.path, "dta") == 2
    assert "'dta' is no instance of this run; it has data, generate" in capsys.readouterr().err
    assert run_stage(tmp_path / "none.yaml", "data") == 2
    (tmp_path / "book.epub").unlink()
    assert run_stage(run.path, "data") == 2
    assert "data.books: " in capsys.readouterr().err


def test_a_work_folder_that_cannot_be_made_is_named(run: Run, made: Callable[[Program], None]) -> None:
    run.config.execute.work_dir.write_text("a file in the way")
    made(lambda context: None)
    assert run_stage(run.path, "data") == 2
    assert status_of(run)["reason"].startswith("execute.work_dir: '")


def test_secrets_are_in_neither_log_nor_status(
    run: Run,
    made: Callable[[Program], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    (tmp_path / "key").write_text(f"{SECRET}-file\n")
    monkeypatch.setenv("FAKE_API_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("OTHER_API_KEY", f"{SECRET}-variable")

    def program(context: StageContext) -> None:
        key = context.endpoint("writer").api_key
        assert key == f"{SECRET}-file"
        raise ValueError(f"refused {key} and {SECRET}-variable")

    made(program)
    assert run_stage(run.path, "data") == 1
    err = capsys.readouterr().err
    assert "refused [redacted] and [redacted]" in err
    assert SECRET not in err
    for path in run.config.execute.work_dir.parent.rglob("*"):
        if path.is_file() and path.name != "key":
            assert SECRET.encode() not in path.read_bytes(), path


def test_of_two_attempts_the_first_counts(run: Run, made: Callable[[Program], None]) -> None:
    depth: list[int] = []

    def program(context: StageContext) -> None:
        depth.append(len(depth))
        context.output.put("who", str(len(depth)).encode())
        if len(depth) == 1:
            assert run_stage(run.path, "data") == 0

    made(program)
    assert run_stage(run.path, "data") == 0
    manifest = run.manifest("data")
    assert manifest is not None
    assert Artifact(run.store, manifest).read("who") == b"2", "the inner attempt finished first"


def test_progress_is_shared_by_attempts(run: Run, made: Callable[[Program], None]) -> None:
    def program(context: StageContext) -> None:
        done = int(context.progress.get("done") or b"0")
        context.progress.put("done", str(done + 1).encode())
        if done < 2:
            raise TransientError("not yet")
        context.output.put("done", str(done).encode())

    made(program)
    assert [run_stage(run.path, "data") for _ in range(3)] == [75, 75, 0]


@pytest.mark.parametrize("fails", [False, True])
def test_a_complete_stage_keeps_no_checkpoint(
    run: Run, made: Callable[[Program], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "optimizer.pt").write_bytes(b"large")

    def program(context: StageContext) -> None:
        context.progress.put("rows.jsonl", b"{}")
        context.progress.put_folder("checkpoint-3", tmp_path / "checkpoint")
        if fails:
            monkeypatch.setattr(Progress, "delete", Mock(side_effect=OSError("no way")))

    made(program)
    assert run_stage(run.path, "data") == 0
    assert run.manifest("data") is not None
    left = {info.key.rpartition("progress/")[2] for info in run.store.list(f"{run.prefix('data')}progress/")}
    checkpoint = {"checkpoint-3/COMPLETE.json", "checkpoint-3/optimizer.pt"} if fails else set()
    assert left == {"rows.jsonl", *checkpoint}


def test_sigterm_saves_and_exits_with_143(run: Run, tmp_path: Path) -> None:
    script = tmp_path / "stage.py"
    script.write_text(
        textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from polaris.kinds import KINDS
        from polaris.stage import run_stage

        class Kind:
            version = 1
            def load(self):
                return run

        def run(context):
            print("at work", flush=True)
            while not context.stop.requested:
                time.sleep(0.05)
            context.progress.put("saved", b"everything")
            context.stop.check()

        KINDS["data"] = Kind()
        sys.exit(run_stage(Path(sys.argv[1]), "data"))
        """)
    )
    process = subprocess.Popen(
        [sys.executable, str(script), str(run.path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        assert any("at work" in line for line in iter(process.stdout.readline, ""))
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143
    assert run.store.get(f"{run.prefix('data')}progress/saved") == b"everything"
    assert status_of(run)["reason"] == "stopped by signal 15; progress is saved"


def test_an_endpoint_elsewhere_needs_its_key(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("FAKE_API_KEY", raising=False)
    with pytest.raises(
        ConfigError, match=r"^models\.writer\.api_key_env: neither FAKE_API_KEY nor FAKE_API_KEY_FILE"
    ):
        run.endpoint("writer")
    monkeypatch.setenv("FAKE_API_KEY_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"FAKE_API_KEY_FILE: '.*none': No such file"):
        run.endpoint("writer")
    monkeypatch.setenv("FAKE_API_KEY", "from-the-variable\n")
    endpoint = run.endpoint("writer")
    assert (endpoint.api_key, endpoint.model, endpoint.identity) == ("from-the-variable", "w", "fake/writer")
    assert not endpoint.ours


def test_an_endpoint_of_ours_must_be_up(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run(demo)
    with pytest.raises(
        ConfigError, match=r"^models\.base: no endpoint of this model is up; use `polaris run`"
    ):
        run.endpoint("base")
    monkeypatch.setenv("POLARIS_ENDPOINTS", '{"base": "http://127.0.0.1:1/v1"}')
    endpoint = run.endpoint("base")
    assert (endpoint.url, endpoint.model, endpoint.ours) == ("http://127.0.0.1:1/v1", "base", True)
    assert endpoint.identity.startswith("sha256:")
    assert run.endpoint("trained", {"trained": "http://h/v1"}).identity == (
        f"trained:{run.plan.instances['train'].digest}"
    )
    for text in ("not JSON", "[]", "3"):
        monkeypatch.setenv("POLARIS_ENDPOINTS", text)
        with pytest.raises(ConfigError, match=r"^POLARIS_ENDPOINTS: "):
            run.endpoint("base")


def test_a_small_local_judge_carries_its_caveat(demo: Path, run: Run) -> None:
    caveat = open_run(demo).caveat("small")
    assert caveat is not None
    assert caveat.endswith("its scores prove the plumbing and mean nothing.")
    assert run.caveat("judge") is None, "an endpoint elsewhere is somebody's real judge"


def test_only_a_checkpoint_has_a_folder(demo: Path, run: Run) -> None:
    opened = open_run(demo)
    assert opened.model_folder("base").name == "model"
    with pytest.raises(ConfigError, match=r"^models\.trained: 'trained' is no checkpoint with a folder"):
        opened.model_folder("trained")
    with pytest.raises(ConfigError, match=r"^models\.writer: 'endpoint'"):
        run.model_folder("writer")


def test_a_repository_is_fetched_at_its_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    raw = settings(tmp_path)
    raw["models"]["hub"] = {"kind": "checkpoint", "repo": "owner/name@abc"}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(raw))
    opened = open_run(tmp_path / "run.yaml")
    monkeypatch.setattr(hub, "snapshot_download", lambda repo, revision, **_: f"/cache/{repo}/{revision}")
    assert opened.model_folder("hub") == Path("/cache/owner/name/abc")
    assert opened.identity_of_model("hub") == "owner/name@abc"

    away = iter((ConnectionError("no\nnetwork"), httpx.ConnectError("no\nnetwork")))
    monkeypatch.setattr(hub, "snapshot_download", Mock(side_effect=away))
    for _ in range(2):
        with pytest.raises(
            TransientError, match=r"^models\.hub\.repo: 'owner/name@abc' cannot be fetched: no network$"
        ):
            opened.model_folder("hub")


def test_the_table_of_exit_codes() -> None:
    kinds = (ConfigError, InputError, errors.BudgetError, errors.GuardError, TransientError, PolarisError)
    assert [kind("x").code for kind in kinds] == [2, 3, 4, 5, 75, 1]
    assert set(errors.MEANING) == {0, 1, 2, 3, 4, 5, 75, 130, 143}
    assert Stopped(15).code == 143

"""What `polaris gc` takes, and what it must leave."""

from __future__ import annotations

from context import make_artifact

from polaris.execute.garbage import collect
from polaris.run import Run


def keys(run: Run, *, abandon: bool = False) -> list[str]:
    return sorted(
        info.key.partition("/")[2].partition("/")[2] for info in collect(run.store, "test", abandon=abandon)
    )


def fill(run: Run, name: str, *objects: str) -> str:
    for key in objects:
        run.store.put(run.prefix(name) + key, b"x")
    return f"{name}/{run.plan.instances[name].digest}"


def test_an_empty_run_has_no_garbage(run: Run) -> None:
    assert keys(run) == keys(run, abandon=True) == []


def test_of_a_finished_stage_only_the_manifests_attempt_stays(run: Run) -> None:
    make_artifact(run, "data", {"pairs.jsonl": [{"uid": "1"}], "deep/file": b"x"})
    at = fill(
        run,
        "data",
        "attempts/attempt/log.txt",
        "attempts/attempt/STATUS.json",
        "attempts/zzz-later/pairs.jsonl",
        "attempts/zzz-later/log.txt",
        "attempts/aaa-earlier/STATUS.json",
        "progress/stories.jsonl",
        "progress/step-2/COMPLETE.json",
    )
    gone = [
        "attempts/aaa-earlier/STATUS.json",
        "attempts/zzz-later/log.txt",
        "attempts/zzz-later/pairs.jsonl",
        "progress/step-2/COMPLETE.json",
        "progress/stories.jsonl",
    ]
    assert keys(run) == keys(run, abandon=True) == [f"{at}/{key}" for key in gone]


def test_an_unfinished_stage_keeps_its_newest_attempt_and_its_progress(run: Run) -> None:
    at = fill(
        run,
        "generate.writer.quality",
        "attempts/20260101t000000-a/part",
        "attempts/20260101t000000-a/STATUS.json",
        "attempts/20260102t000000-b/part",
        "attempts/20260102t000000-b/STATUS.json",
        "progress/stories.jsonl",
    )
    older = [f"{at}/attempts/20260101t000000-a/{name}" for name in ("STATUS.json", "part")]
    assert keys(run) == older, "the newest may be at work"
    newer = [f"{at}/attempts/20260102t000000-b/{name}" for name in ("STATUS.json", "part")]
    assert keys(run, abandon=True) == [*older, *newer, f"{at}/progress/stories.jsonl"]


def test_other_runs_the_lease_and_the_judges_cache_are_left_alone(run: Run) -> None:
    for key in ("runs/test/LEASE.json", "runs/test2/data/0/attempts/a/x", "cache/judge/ab/cd.json"):
        run.store.put(key, b"x")
    assert collect(run.store, "test", abandon=True) == []


def test_what_is_collected_can_be_deleted_and_the_artifact_still_reads(run: Run) -> None:
    found = make_artifact(run, "data", {"pairs.jsonl": [{"uid": "1"}]})
    fill(run, "data", "attempts/other/pairs.jsonl", "progress/x")
    run.store.delete([info.key for info in collect(run.store, "test", abandon=False)])
    found.verify()
    assert collect(run.store, "test", abandon=True) == []

"""A stage's context over a real `file://` store, for tests of stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from polaris.artifact import Artifact, Manifest, Output, Progress
from polaris.run import Run, open_run
from polaris.runtime import StopFlag
from polaris.stage import StageContext

Objects = Mapping[str, Sequence[dict[str, Any]] | bytes]


def settings(folder: Path, url: str = "http://127.0.0.1:9/v1", **changed: Any) -> dict[str, Any]:
    """Return a small configuration: a writer and a judge behind `url`, one evaluation of two prompts.

    `api_key_env` is FAKE_API_KEY, which the test sets. `changed` replaces whole sections.
    """
    (folder / "book.epub").write_bytes(b"no book")
    prompts = folder / "prompts.jsonl"
    if not prompts.exists():
        rows = '{"id": "a", "prompt": "Of a fox.", "target_word_count": 200}\n'
        prompts.write_text(rows + '{"id": "b", "prompt": "Of a hen.", "target_word_count": 300}\n')
    outside = {"kind": "endpoint", "url": url, "api_key_env": "FAKE_API_KEY"}
    found: dict[str, Any] = {
        "run": "test",
        "store": {"url": "store"},
        "models": {
            "writer": {**outside, "identity": "fake/writer", "model": "w"},
            "reader": {**outside, "identity": "fake/reader", "model": "r"},
        },
        "data": {"books": ["book.epub"]},
        "judges": {"judge": {"model": "reader", "form": "compact", "attempts": 2, "concurrency": 4}},
        "evaluations": {
            "quality": {
                "kind": "story-quality",
                "prompts": "prompts.jsonl",
                "models": ["writer"],
                "judge": "judge",
                "max_tokens": 64,
            }
        },
        "execute": {"work_dir": "work"},
    }
    return found | changed


def make_context(
    folder: Path, config: Mapping[str, Any], instance: str, inputs: Mapping[str, Objects] | None = None
) -> StageContext:
    """Write `run.yaml`, make the inputs finished artifacts, and return the instance's context."""
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
    run = open_run(path)
    work = run.config.execute.work_dir / instance
    work.mkdir(parents=True, exist_ok=True)
    return StageContext(
        run=run,
        instance=run.instance(instance),
        inputs={name: make_artifact(run, name, objects) for name, objects in (inputs or {}).items()},
        progress=Progress(run.store, run.prefix(instance)),
        output=Output(run.store, run.prefix(instance), "attempt"),
        work=work,
        stop=StopFlag(),
    )


def make_artifact(run: Run, name: str, objects: Objects) -> Artifact:
    """Finish an instance's artifact with these objects."""
    instance = run.instance(name)
    output = Output(run.store, run.prefix(name), "attempt")
    for key, content in objects.items():
        if isinstance(content, bytes):
            output.put(key, content)
        else:
            output.put_rows(key, content)
    manifest = Manifest(
        run=run.config.run,
        instance=name,
        kind=instance.kind,
        digest=instance.digest,
        attempt="attempt",
        objects=tuple(output.entries.values()),
        identity=dict(instance.identity),
        config={},
        upstream={},
        versions={},
        started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T00:00:00+00:00",
        seconds=0.0,
    )
    return Artifact(run.store, output.commit(manifest))


def read_output(context: StageContext, name: str) -> bytes:
    """Return the bytes of an object that the stage wrote."""
    entry = context.output.entries[name]
    return context.store.get(context.output.prefix + entry.key)

"""A run's objects in, those that nothing needs any more out."""

from __future__ import annotations

import shutil
from collections import defaultdict

from polaris.artifact import MANIFEST, artifact_prefix, find_manifest
from polaris.run import Run
from polaris.storage import ObjectInfo, Store


def collect(store: Store, run: str, *, abandon: bool) -> list[ObjectInfo]:
    """Return the objects that can go; whoever calls holds the run's lease.

    They are the attempts that no manifest names, but for an unfinished stage's newest, and `progress/`
    of finished stages; of unfinished ones only with `abandon`.
    """
    artifacts: dict[tuple[str, str], list[ObjectInfo]] = defaultdict(list)
    for info in store.list(f"runs/{run}/"):
        parts = info.key.split("/")
        if len(parts) > 4:
            artifacts[parts[2], parts[3]].append(info)
    found = []
    for (instance, digest), objects in artifacts.items():
        prefix = artifact_prefix(run, instance, digest)
        manifest = find_manifest(store, prefix)
        keys = [info.key.split("/") for info in objects]
        attempts = sorted({key[5] for key in keys if key[4] == "attempts"})
        newest = attempts[-1] if attempts else ""
        for info in objects:
            part, _, rest = info.key.removeprefix(prefix).partition("/")
            attempt = rest.partition("/")[0]
            if part == MANIFEST:
                continue
            if part == "progress":
                gone = manifest is not None or abandon
            elif manifest is not None:
                gone = attempt != manifest.attempt
            else:
                # The newest may be at work: a stage started by hand, or by a loop that died, holds no lease.
                gone = abandon or attempt != newest
            if gone:
                found.append(info)
    return found


def clear_scratch(run: Run, *, abandon: bool) -> None:
    """Remove the scratch folders on this machine of finished instances; of all with `abandon`."""
    for name in run.plan.instances:
        for folder in (run.work_folder / name).glob("*"):
            finished = find_manifest(run.store, artifact_prefix(run.config.run, name, folder.name))
            if finished or abandon:
                shutil.rmtree(folder, ignore_errors=True)

"""The files and imports that a configuration names in, whether they are there, and the plan, out."""

from __future__ import annotations

from collections.abc import Iterator

from polaris.checks.finding import Finding, Subject, failed, lines
from polaris.config import RunConfig
from polaris.errors import ConfigError, PolarisError
from polaris.fields import stored_as
from polaris.identity import contents_of
from polaris.imports import find_imports, placeholders
from polaris.run import open_run
from polaris.storage import open_store


def check_plan(subject: Subject) -> Iterator[Finding]:
    """Look for every file and import that is named, hash them, and say what the run unfolds into."""
    missing = list(_missing_files(subject.config))
    try:
        find_imports(subject.config, open_store(subject.config.store), subject.path)
    except PolarisError as error:
        missing += lines("plan", error)
    if missing:
        yield from missing
        return
    plan = open_run(subject.path).plan
    models = {name for instance in plan.instances.values() for name in instance.services}
    served = f", serves {', '.join(sorted(models))}" if models else ""
    yield Finding("ok", "plan", f"{len(plan.instances)} instances{served}")


def _missing_files(config: RunConfig) -> Iterator[Finding]:
    for setting, path in contents_of(config):
        if stored_as(path) is None and not path.exists():
            yield failed("plan", f"{setting}: '{path}' does not exist", "give a file or folder that does")
    for line in placeholders(config):
        yield from lines("plan", ConfigError(line))

"""The installed packages in, whether they are those that pyproject.toml allows out."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Iterator
from importlib import metadata

from polaris.checks.finding import Finding, Subject, failed, unchecked

TRAINS = ("torch", "transformers", "trl", "deepspeed", "accelerate", "datasets")
SERVES = ("vllm",)

_REQUIRED = re.compile(r"^([A-Za-z0-9_.-]+)\s*([^;]*)")
_BOUND = re.compile(r"(>=|<=|==|<|>)\s*([0-9.]+)")


def check_versions(subject: Subject) -> Iterator[Finding]:
    """Compare what the run's own stages need with what is installed; what is not installed is told."""
    wanted = _wanted(subject)
    allowed = requirements(metadata.requires("polaris") or ())
    found = {name: _installed(name) for name in wanted}
    told = [f"python {platform.python_version()}"]
    for name, version in found.items():
        if version is None:
            continue
        told.append(f"{name} {version}")
        bounds = allowed.get(name, "")
        if not within(version, bounds):
            fix = f"pip install '{name}{bounds}'"
            yield failed(
                "versions", f"{name} {version} is installed, and this release works with {bounds}", fix
            )
    yield Finding("ok", "versions", ", ".join(told))
    missing = [name for name, version in found.items() if version is None]
    if missing:
        why = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed"
        fix = (
            "nothing to do where the images of the stages have them, else pip install 'polaris[train,serve]'"
        )
        yield unchecked("versions", why, fix)


def _wanted(subject: Subject) -> list[str]:
    config = subject.config
    trainings = config.trainings().values()
    engines = {model.serve.engine for model in config.models.values() if model.kind != "endpoint"}
    wanted = [*TRAINS] if trainings else []
    if trainings and not any(train.zero_stage for train in trainings):
        wanted.remove("deepspeed")
    if any(train.lora is not None for train in trainings):
        wanted.append("peft")
    wanted += sorted({name for train in trainings for name in train.report_to})
    if "vllm" in engines or any(train.rollout_engine == "vllm" for train in trainings):
        wanted += SERVES
    return wanted


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def requirements(lines: Iterable[str]) -> dict[str, str]:
    """Return what `Requires-Dist` lines allow: package → bounds such as `<1.17,>=1.15`, '' for any."""
    found = (_REQUIRED.match(line) for line in lines)
    return {match[1].lower(): match[2].strip() for match in found if match}


def within(version: str, bounds: str) -> bool:
    """Tell whether a version is within `>=a,<b` bounds; a local part (`+cpu`) does not count.

    What follows the release's numbers (`rc1`) is left out too: a candidate counts as its release.
    """
    own = _numbers(version)
    for sign, text in _BOUND.findall(bounds):
        other = _numbers(text)
        width = max(len(own), len(other))
        left, right = (tuple([*each, *[0] * (width - len(each))]) for each in (own, other))
        if sign == "<=" and left > right or sign == "<" and left >= right:
            return False
        if sign == ">=" and left < right or sign == ">" and left <= right:
            return False
        if sign == "==" and left != right:
            return False
    return True


def _numbers(version: str) -> list[int]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return [int(part) for part in match.group().split(".")] if match else []

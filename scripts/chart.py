"""charts/polaris in; its values.schema.json, its README's table and the manifests of jobs/ out.

`chart.py docs` writes the first two from schema.yaml, values.yaml and the run's own schema; `chart.py jobs
FOLDER [VALUES ...]` renders the standalone Jobs with helm. Tests call the same functions and compare.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "charts" / "polaris"
JOBS = ROOT / "jobs"
BEGIN, END = "<!-- values: begin -->", "<!-- values: end -->"
_KEY = re.compile(r"(?P<indent> *)(?P<key>[A-Za-z0-9_.-]+):(?P<value>.*)")


def main(arguments: list[str]) -> int:
    """Write what the command names; return the exit code."""
    if arguments == ["docs"]:
        (CHART / "values.schema.json").write_text(schema_text(), encoding="utf-8")
        readme = CHART / "README.md"
        readme.write_text(with_table(readme.read_text(encoding="utf-8")), encoding="utf-8")
        return 0
    if arguments[:1] == ["jobs"] and len(arguments) > 1:
        helm = find_helm()
        if helm is None:
            print("chart: no helm here; run `make cluster-tools`, or install Helm 3 or 4", file=sys.stderr)
            return 2
        folder = Path(arguments[1])
        folder.mkdir(parents=True, exist_ok=True)
        rendered = jobs(helm, [Path(name) for name in arguments[2:]])
        for old in folder.glob("*.yaml"):
            if old.name not in rendered:
                old.unlink()
        for name, text in rendered.items():
            (folder / name).write_text(text, encoding="utf-8")
        return 0
    print("usage: chart.py docs | jobs FOLDER [VALUES ...]", file=sys.stderr)
    return 2


def find_helm() -> str | None:
    """Return a helm: the one that `make cluster-tools` fetched, else the PATH's."""
    cache = os.environ.get("POLARIS_CACHE")
    fetched = Path(cache) / "cluster-tools" / "bin" / "helm4" if cache else None
    if fetched and fetched.exists():
        return str(fetched)
    return shutil.which("helm")


# The schema


def schema_text() -> str:
    """Return values.schema.json: the chart's part with the run's schema below `config`."""
    from polaris.load import schema

    whole = yaml.safe_load((CHART / "schema.yaml").read_text(encoding="utf-8"))
    run = schema()
    parts = {**run.pop("$defs"), "RunConfig": run}
    taken = sorted(set(parts) & set(whole["$defs"]))
    if taken:
        raise ValueError(f"schema.yaml defines what the run's schema defines too: {', '.join(taken)}")
    whole["$defs"] |= {name: _lean(part) for name, part in sorted(parts.items())}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _lean(part: Any, key: str = "") -> Any:
    """Drop what Helm does not check with: titles, defaults and OpenAPI's discriminator."""
    if isinstance(part, list):
        return [_lean(item) for item in part]
    if not isinstance(part, dict):
        return part
    # Below `properties` the keys are settings, and one of them may be called `title`.
    dropped = () if key == "properties" else ("title", "default", "discriminator")
    return {name: _lean(value, name) for name, value in part.items() if name not in dropped}


# The table of values


@dataclass(frozen=True)
class Row:
    """A value's dotted name, its default as the table shows it, and what its comment says."""

    name: str
    default: str
    about: str


def rows() -> Iterator[Row]:
    """Yield every value that has a comment right above it, in the file's order."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    defaults = yaml.safe_load(text)
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped.lstrip("# "))
            continue
        found = _KEY.fullmatch(line)
        if found and not stripped.startswith("- "):
            path = [*path[: len(found["indent"]) // 2], found["key"]]
            if comment:
                default = _at(defaults, path)
                section = isinstance(default, dict) and not found["value"].strip() and _commented(text, path)
                yield Row(".".join(path), "" if section else json.dumps(default), " ".join(comment))
        comment = []


def undocumented() -> list[str]:
    """List the values that neither have a comment nor lie below one that has."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    told = [row.name for row in rows()]
    return [
        name
        for name in _leaves(yaml.safe_load(text))
        if not any(name == known or name.startswith(f"{known}.") for known in told)
    ]


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _commented(text: str, path: list[str]) -> bool:
    """Tell whether keys below this one have comments of their own."""
    lines = text.splitlines()
    place: list[str] = []
    for number, line in enumerate(lines):
        found = _KEY.fullmatch(line)
        if found and not line.strip().startswith(("- ", "#")):
            place = [*place[: len(found["indent"]) // 2], found["key"]]
            below = place[: len(path)] == path and len(place) > len(path)
            if below and lines[number - 1].strip().startswith("#"):
                return True
    return False


def _at(values: Any, path: list[str]) -> Any:
    for key in path:
        values = values[key]
    return values


def table() -> str:
    """Return the values' table in Markdown."""
    lines = ["| value | default | what it is |", "|---|---|---|"]
    for row in rows():
        default = f"`{row.default}`" if row.default else ""
        lines.append(f"| `{row.name}` | {default.replace('|', chr(92) + '|')} | {row.about} |")
    return "\n".join(lines)


def with_table(readme: str) -> str:
    """Return the README with the table of today."""
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


# The standalone Jobs


def template(helm: str, values: list[Path], *more: str) -> str:
    """Return what helm renders from the chart with these values files."""
    command = [helm, "template", "polaris", str(CHART), "--namespace", "polaris"]
    command += [word for path in values for word in ("--values", str(path))]
    done = subprocess.run([*command, *more], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"chart: {done.stderr.strip()}")
    return done.stdout


def jobs(helm: str, values: list[Path]) -> dict[str, str]:
    """Return the standalone Jobs of a profile, by file name."""
    text = template(
        helm, values, "--show-only", "templates/standalone.yaml", "--set", "standalone.render=true"
    )
    found = {}
    for document in re.split(r"^---$", text, flags=re.MULTILINE):
        kept = re.sub(r"^# Source: .*\n", "", document.strip() + "\n", flags=re.MULTILINE)
        if kept.strip():
            name = yaml.safe_load(kept)["metadata"]["name"].removeprefix("polaris-")
            found[f"{name}.yaml"] = kept
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

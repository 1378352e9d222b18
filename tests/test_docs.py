"""The documents that people read first say what is there."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

from polaris.load import load
from polaris.run import open_run

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- map: begin -->", "<!-- map: end -->"


def file_map() -> str:
    """Return a line for every module of the package: its path and what goes in and comes out."""
    lines = []
    for path in sorted((ROOT / "polaris").rglob("*.py")):
        said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        lines.append(f"- `{path.relative_to(ROOT)}`: {said.splitlines()[0]}\n")
    return "".join(lines)


def test_contributing_has_the_file_map() -> None:
    path = ROOT / "CONTRIBUTING.md"
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    wanted = f"{before}{BEGIN}\n\n{file_map()}\n{END}{after}"
    if os.environ.get("POLARIS_UPDATE_GOLDEN"):
        path.write_text(wanted, encoding="utf-8")
    assert text == wanted, "run `POLARIS_UPDATE_GOLDEN=1 make test` and look at the change"


def test_links_between_documents_lead_somewhere() -> None:
    pages = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        *(ROOT / "docs").glob("*.md"),
    ]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page.name} links to {target}"


def test_commands_of_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"


def test_the_readme_configuration_is_valid(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [found] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    path = tmp_path / "my.yaml"
    path.write_text(found, encoding="utf-8")
    config = load(path, {})
    assert config.train is not None and config.train.rows_per_step == 48
    for name in ("anthology.epub", "prompts.jsonl", "heldout.jsonl"):
        (tmp_path / name).touch()
    assert "train" in open_run(path).plan.instances

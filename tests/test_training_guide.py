"""The guide to training names what is there: settings, options, files, exit codes."""

from __future__ import annotations

import re
from pathlib import Path

import typer
import yaml
from full_config import FULL, config_of
from pydantic import BaseModel

from polaris.cli import app
from polaris.errors import MEANING
from polaris.recipe import TrainConfig

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def rows(first_cell: str) -> list[list[str]]:
    lines = GUIDE.partition(f"\n| {first_cell} |")[2].split("\n\n")[0].splitlines()[2:]
    assert lines, f"the guide has no table that begins with '{first_cell}'"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_recipe_of_the_table_is_a_valid_training() -> None:
    plain = TrainConfig(base="base", judge="judge")
    found = 0
    for _, told in rows("wanted"):
        for text in re.findall(r"`(\w+: [^`]+)`", told):
            settings = yaml.safe_load(f"{{{text}}}")
            changed = TrainConfig(base="base", judge="judge", **settings.get("train", settings))
            assert changed != plain, text
            found += 1
    assert found >= 8


def test_the_arms_of_the_example_are_valid() -> None:
    text = GUIDE.partition("```yaml\n")[2].partition("```")[0]
    given = yaml.safe_load(text)
    models = {name: model for name, model in FULL["models"].items() if name != "trained"}
    judges = FULL["judges"] | {"trainer": {"model": "outside"}}
    whole = FULL | given | {"models": models | given["models"], "judges": judges, "evaluations": {}}
    assert config_of(whole).training("no-hri").hri.max_weight == 0


def test_every_setting_that_it_names_exists() -> None:
    config = config_of(FULL)
    named = re.findall(r"`((?:train|reward|data)\.[a-z_.]+)", GUIDE)
    assert len(named) > 6
    for name in named:
        place: object = config
        for key in name.rstrip(".").split("."):
            assert isinstance(place, BaseModel) and key in type(place).model_fields, name
            place = getattr(place, key)


def test_every_option_that_it_names_exists() -> None:
    def options(command: object) -> set[str]:
        found = {name for one in getattr(command, "params", ()) for name in getattr(one, "opts", ())}
        for child in getattr(command, "commands", {}).values():
            found |= options(child)
        return found

    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", GUIDE))
    assert named and named <= options(typer.main.get_command(app))


def test_every_exit_code_is_one() -> None:
    codes = {int(code) for _, named, _ in rows("what") for code in re.findall(r"\d+", named)}
    assert codes and codes <= set(MEANING)

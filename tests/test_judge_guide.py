"""The guide to judging names what is there: providers, settings, options, counters, fields of a row."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
import yaml
from context import settings
from fake_endpoint import Reply, fake_endpoint
from typer.testing import CliRunner

from polaris.chat import Usage
from polaris.cli import app
from polaris.config import ExecuteConfig, JudgeConfig
from polaris.errors import MEANING
from polaris.judge.parse import Judgement
from polaris.judge.rows import failure_row, score_row
from polaris.judge.rubric import load_rubric
from polaris.judge.score import Scored
from polaris.load import load
from polaris.models import EndpointModel
from polaris.providers import providers
from polaris.recipe import RewardConfig
from polaris.reward.quality import HIGHEST, LOWEST
from polaris.runtime import StopFlag

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "judge.md").read_text(encoding="utf-8")


def table(first_cell: str) -> list[list[str]]:
    """Return the cells of the guide's table whose head begins so, its head left out."""
    _, _, rest = GUIDE.partition(f"\n| {first_cell} |")
    lines = rest.split("\n\n")[0].splitlines()[2:]
    assert lines, f"the guide has no table that begins with '{first_cell}'"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def coded(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_the_table_of_providers_is_providers_yaml() -> None:
    def sold(yes: bool, price: float) -> str:
        return f"yes, × {price:g}" if yes else "no"

    wanted = [
        [
            f"`{name}`",
            f"`{found.token_limit}`",
            ", ".join(found.reasoning_effort) or "–",
            f"`{found.structured}`",
            ", ".join(f"`{parameter}`" for parameter in found.sampling) or "–",
            sold(found.flex, found.half_price_tier),
            sold(found.batch, found.half_price_tier),
        ]
        for name, found in providers().items()
    ]
    assert table("provider") == wanted


def yamls() -> tuple[str, str]:
    """Return the guide's two configurations: the least that names a judge, and a part of a run's."""
    least, part = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    return least, part


def test_the_configuration_is_valid(tmp_path: Path) -> None:
    raw, told = settings(tmp_path), yaml.safe_load(yamls()[1])
    for section, values in told.items():
        raw[section] = raw.get(section, {}) | values
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    config = load(path)
    assert config.judges["judge"].model == "reader"
    assert config.execute.budget_usd == told["execute"]["budget_usd"]


def test_the_least_configuration_is_enough_to_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-fake-0123456789")
    monkeypatch.setattr(StopFlag, "install", lambda _: None)
    answer = {dimension.key: 1 for dimension in load_rubric().dimensions} | {"bonus": None, "penalty": None}
    with fake_endpoint(lambda *_: Reply(json.dumps(answer))) as server:
        path, rows = tmp_path / "judge.yaml", tmp_path / "stories.jsonl"
        path.write_text(yamls()[0].replace("https://api.openai.com/v1", server.url), encoding="utf-8")
        rows.write_text('{"id": "a", "story": "A fox."}\n')
        asked = ["judge", "score", str(rows), "--out", str(tmp_path / "out"), "--config", str(path)]
        done = CliRunner().invoke(app, [*asked, "--judge", "reader", "--form", "compact"])
    assert done.exit_code == 0 and len(server.requests) == 1, done.output


def test_the_rubric_is_told_as_it_is() -> None:
    rubric = load_rubric()
    wanted = [[found.key, found.name, str(found.max)] for found in rubric.dimensions]
    assert table("dimension") == wanted
    assert table("label") == [[name, str(least)] for name, least in rubric.labels]
    assert f"from −{-LOWEST} to\n{HIGHEST};" in GUIDE
    assert {found.max for found in rubric.catch_alls} == {8} and "penalty of up to 8 each" in GUIDE


def test_the_defaults_are_told_as_they_are() -> None:
    known = {"judges": JudgeConfig, "models": EndpointModel, "execute": ExecuteConfig}
    for named, default, _ in table("setting"):
        section, name = re.findall(r"`(\w+)(?:\.NAME)?\.(\w+)`", named)[0]
        found = known[section].model_fields[name].default
        shown = {None: "null", False: "false"}.get(
            found, f"{found:g}" if isinstance(found, float) else str(found)
        )
        assert default in (shown, "none" if found is None else shown), name


def test_every_exit_code_is_in_the_help_too() -> None:
    codes = {int(code) for [named, _] in table("exit code") for code in named.split(", ")}
    assert codes <= set(MEANING) and len(codes) == 8
    shown = CliRunner().invoke(app, ["judge", "score", "--help"], env={"COLUMNS": "200"}).stdout
    assert all(re.search(rf"\b{code}\b", shown.partition("Exit codes")[2]) for code in codes)


def test_every_setting_that_it_names_exists() -> None:
    known = {
        "judges.NAME": JudgeConfig,
        "models.NAME": EndpointModel,
        "execute": ExecuteConfig,
        "reward": RewardConfig,
    }
    named = re.findall(r"`(judges\.NAME|models\.NAME|execute|reward)\.(\w+)", GUIDE)
    assert len(named) > 10
    for section, name in named:
        assert name in known[section].model_fields, f"{section}.{name}"


def test_every_option_that_it_names_exists() -> None:
    def options(command: object) -> set[str]:
        found = {name for one in getattr(command, "params", ()) for name in getattr(one, "opts", ())}
        for child in getattr(command, "commands", {}).values():
            found |= options(child)
        return found

    benchmark = (ROOT / "benchmarks" / "judge.py").read_text(encoding="utf-8")
    known = options(typer.main.get_command(app)) | set(re.findall(r'"(--[a-z-]+)"', benchmark))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", GUIDE))
    assert named
    assert named <= known


def test_every_counter_that_it_names_is_one() -> None:
    counted = {name for row in table("fault") for name in coded(row[2])}
    assert counted <= set(Usage().events())
    for name in Usage().events():
        assert f"`{name}`" in GUIDE, f"the guide does not say what {name} counts"


def test_the_fields_of_a_row_are_those_of_the_rows() -> None:
    story = {"id": "a", "sample": 0, "words": 1, "target_word_count": None}
    judge = SimpleNamespace(rubric="r", identity="j")
    scored = Scored(Judgement.of_nothing(), False, 1, 0, "prompt", 1, 1, 0.0, 1, 0.0)
    row = score_row(story, 0, judge, scored, None)
    assert {name for cells in table("field") for name in coded(cells[0])} == set(row)
    assert set(failure_row(story, 0, "why")) == {"id", "sample", "repeat", "reason"}

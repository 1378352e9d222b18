"""What scripts/chart.py made is what it would make now, and the schema refuses what nobody knows."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from chart_tools import CHART, HELMS, ROOT, helm, script, tool

import polaris


def test_the_schema_is_of_today():
    assert (CHART / "values.schema.json").read_text(encoding="utf-8") == script.schema_text(), (
        "run `make chart`"
    )


def test_the_readme_lists_every_value():
    readme = (CHART / "README.md").read_text(encoding="utf-8")

    assert readme == script.with_table(readme), "run `make chart`"
    assert script.undocumented() == []


def test_chart_and_package_have_one_version():
    found = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))

    assert found["version"] == found["appVersion"] == polaris.__version__


@pytest.mark.slow
def test_the_standalone_jobs_are_of_today():
    made = script.jobs(tool("helm4"), [])

    assert {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "jobs").glob("*.yaml")} == made, (
        "run `make jobs`"
    )
    assert set(made) == {
        f"{name}.yaml" for name in ("data", "train", "generate", "judge", "evaluate", "report", "eval-length")
    }


@pytest.mark.slow
def test_another_profile_renders_its_own_jobs():
    made = script.jobs(tool("helm4"), [CHART / "values-a100x4.yaml", CHART / "ci" / "a100x4-values.yaml"])

    assert 'nvidia.com/gpu: "4"' in made["train.yaml"]
    assert "registry.example.com/polaris/polaris-train:" in made["train.yaml"]


@pytest.mark.slow
@pytest.mark.parametrize("program", HELMS)
@pytest.mark.parametrize(
    "setting",
    [
        "unknown=1",
        "store.urll=s3://bucket",
        "store.inCluster.persistence.size=1Gi",
        "stages.train.unknown=1",
        "stages.train.resources.limit.memory=1Gi",
        "serving.models.judge.unknown=1",
        "training.nodes=0",
        "stages.defaults.ttlSecondsAfterFinished=60",
        "images.tools.digest=latest",
        "networkPolicy.dns.ports={dns}",
        "networkPolicy.identity[0].cidr=169.254.170.23/32",
        "config.train.learning_rte=1",
        "config.models.base.serve.unknown=1",
    ],
)
def test_an_unknown_or_impossible_setting_is_refused(program, setting):
    files = ["-f", "values-a100x4.yaml", "-f", "ci/a100x4-values.yaml"]
    done = helm(program, "lint", ".", *files, "--set", setting)

    assert done.returncode == 1
    assert "schema" in done.stdout


def test_a_schema_part_of_that_name_must_not_hide_the_runs(tmp_path: Path, monkeypatch):
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump({"properties": {}, "$defs": {"TrainConfig": {}}}))
    monkeypatch.setattr(script, "CHART", tmp_path)

    with pytest.raises(ValueError, match="TrainConfig"):
        script.schema_text()

"""What both helms say to every profile, and that a render changes only when somebody means it to."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from chart_tools import CHART, HELMS, PROFILES, config_of, created, files_of, helm, objects, rendered, tool

GOLDEN = Path(__file__).parent / "golden"
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("program", HELMS)
@pytest.mark.parametrize("profile", PROFILES)
def test_lints(program, profile):
    done = helm(program, "lint", ".", "--strict", *files_of(profile))

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("profile", PROFILES)
def test_renders_as_the_golden_file(profile):
    text = rendered("helm4", profile)
    path = GOLDEN / f"{profile}.yaml"
    if os.environ.get("POLARIS_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")

    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("profile", PROFILES)
def test_both_helms_render_the_same(profile):
    def by_name(program):
        found = [o for o in yaml.safe_load_all(rendered(program, profile)) if o]
        return {(o["kind"], o["metadata"]["name"]): o for o in found}

    assert by_name("helm3") == by_name("helm4")


def test_every_values_file_for_ci_belongs_to_a_profile():
    known = {path for paths in PROFILES.values() for path in paths}

    assert {str(path.relative_to(CHART)) for path in CHART.glob("ci/*.yaml")} <= known


@pytest.fixture(scope="module")
def manifests(tmp_path_factory) -> Path:
    """A folder with every object of every profile, those in the ConfigMap too, a file each."""
    folder = tmp_path_factory.mktemp("manifests")
    for profile in PROFILES:
        found = objects(profile, "--set", "standalone.render=true")
        for source in [*found, *created(found).values()]:
            name = f"{profile}-{source['kind']}-{source['metadata']['name']}.yaml"
            (folder / name).write_text(yaml.safe_dump(source), encoding="utf-8")
    return folder


@pytest.mark.parametrize("version", ["1.29", "1.30", "1.31", "1.32", "1.33", "1.34"])
def test_every_object_is_valid_for(version, manifests):
    # A custom resource's schema is not Kubernetes' own.
    files = sorted(str(path) for path in manifests.iterdir() if "PodMonitor" not in path.name)

    command = [tool("kubernetes-validate"), "--strict", "--quiet", "-k", version, *files]
    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr


def test_checkov_finds_only_what_is_decided(manifests):
    command = [tool("checkov"), "-d", str(manifests), "--config-file", str(CHART / ".checkov.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "CI": "1"})

    assert done.returncode == 0, done.stdout


def test_the_files_are_tidy_yaml():
    rules = "{extends: relaxed, rules: {line-length: {max: 130}, commas: disable}}"
    files = [*CHART.glob("*.yaml"), *CHART.glob("ci/*.yaml"), *CHART.glob("files/*.yaml")]
    done = subprocess.run([tool("yamllint"), "-s", "-d", rules, *files], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout


def test_notes_tell_how_to_watch_and_where_results_are():
    words = ("install", "mine", ".", "-n", "some-namespace", "--dry-run=client", *files_of("default"))
    notes = helm("helm4", *words).stdout.partition("NOTES:")[2]

    assert "polaris status --release mine -n some-namespace --watch" in notes
    assert "polaris report --release mine -n some-namespace" in notes
    assert "s3://polaris at http://polaris-store:8333" in notes
    assert "store.persistence.enabled=false" in notes
    # 5376 + 3840 + 512 + 384 MiB, as the README says.
    assert "That makes 9.9 GiB while it trains." in notes
    more = helm("helm4", *words, "--set", "stages.train.resources.limits.memory=8Gi").stdout
    assert "That makes 12.6 GiB while it trains." in more


def test_notes_warn_of_a_key_that_no_pod_has():
    words = ("install", "mine", ".", "--dry-run=client", *files_of("minimal-external"))

    assert "WARNING: models.critic is asked with the key in OPENAI_API_KEY" in helm("helm4", *words).stdout
    assert "WARNING" not in helm("helm4", *words, "--set", "credentials.keys={OPENAI_API_KEY}").stdout


def warnings(*more: str) -> list[str]:
    """Return the lines of warning at the paper's profile."""
    done = helm("helm4", "install", "mine", ".", "--dry-run=client", *files_of("a100x4"), *more)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("WARNING")]


def test_notes_warn_where_gpus_and_processes_differ(tmp_path):
    assert warnings() == []
    config = tmp_path / "my.yaml"
    config.write_text((CHART / "files" / "tryout.yaml").read_text(encoding="utf-8"), encoding="utf-8")

    [idle] = warnings("--set-file", f"config={config}")
    assert "training.gpus is 4 and config.train.processes is 1" in idle and "3 would be paid for" in idle
    [short] = warnings("--set", "training.gpus=2")
    assert "config.train.processes is 4" in short and "2 would have none" in short
    [serve] = warnings("--set", "config.models.base.serve.tensor_parallel=2")
    assert "serving.models.base.gpus is 1" in serve and "serve.tensor_parallel is 2" in serve
    assert warnings("--set", "training.gpus=0", "--set", "serving.gpus=0") == []


def test_notes_warn_where_the_configuration_names_another_bucket():
    [other] = warnings("--set", "config.store.url=s3://mine/paper")

    assert "config.store.url is s3://mine/paper, and the pods use s3://polaris-ci/paper" in other
    assert warnings("--set", "config.store.url=s3://polaris-ci/paper/") == []
    assert warnings("--set", "config.store.url=.polaris/store") == []


def test_no_number_is_written_as_a_power():
    for profile in PROFILES:
        assert not re.search(r": \d(\.\d+)?e\+\d", rendered("helm4", profile)), profile


def test_a_text_means_the_same_as_a_mapping(tmp_path):
    text = (CHART / "files" / "tryout.yaml").read_text(encoding="utf-8")
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump({"config": yaml.safe_load(text)}))

    as_text = objects("default", "--set-file", "config=files/tryout.yaml")
    as_mapping = objects("default", "-f", str(tmp_path / "mapping.yaml"))

    assert config_of(as_text) == config_of(as_mapping) == config_of(objects("default"))

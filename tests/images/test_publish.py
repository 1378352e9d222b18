"""The publishing workflow: what it may do, what it runs, and that a tag is the version of everything."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from polaris import __version__

ROOT = Path(__file__).parents[2]
PATH = ROOT / ".github" / "workflows" / "publish.yml"
WORKFLOW = yaml.safe_load(PATH.read_text())
JOBS = WORKFLOW["jobs"]
STEPS = [step for job in JOBS.values() for step in job["steps"]]


def test_only_a_version_tag_starts_it():
    # YAML 1.1 reads the key `on` as true.
    assert WORKFLOW[True] == {"push": {"tags": ["v*"]}}


def test_jobs_may_do_what_they_need_and_no_more():
    assert WORKFLOW["permissions"] == {}
    assert JOBS["check"]["permissions"] == {"contents": "read"}
    for name in ("images", "chart"):
        assert JOBS[name]["permissions"] == {"contents": "read", "packages": "write"}
    assert JOBS["images"]["needs"] == "check" and JOBS["chart"]["needs"] == "images"


def test_every_action_has_a_version_at_least_and_leaves_no_credentials():
    used = [step for step in STEPS if "uses" in step]
    for step in used:
        # A tag can be moved, a commit cannot; the workflow's header says which these are.
        assert re.fullmatch(r"[a-z-]+/[a-z-]+@(v[0-9]+(\.[0-9]+)*|[0-9a-f]{40})", step["uses"]), step
        if step["uses"].startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_no_registry_and_no_expression_stands_in_a_script():
    assert not re.search(r"ghcr\.io|docker\.io|quay\.io|amazonaws", PATH.read_text())
    for step in STEPS:
        # An expression would be pasted into the shell; variables are not.
        assert "${{" not in step.get("run", "")


def test_every_image_is_pushed_after_the_one_it_is_built_on():
    assert JOBS["images"]["strategy"]["matrix"]["images"] == ["tools cpu", "serve train"]
    assert any("make images PUSH=1" in step.get("run", "") for step in JOBS["images"]["steps"])
    assert any("helm push" in step.get("run", "") and "oci://$REGISTRY" in step["run"] for step in STEPS)


def checked(version: str, registry: str = "registry.test/me") -> subprocess.CompletedProcess[str]:
    [script] = [step["run"] for step in JOBS["check"]["steps"] if "run" in step]
    variables = {"GITHUB_REF_NAME": f"v{version}", "REGISTRY": registry, "PATH": os.environ["PATH"]}
    return subprocess.run(
        ["bash", "-e", "-c", script], cwd=ROOT, env=variables, capture_output=True, text=True
    )


def test_the_tag_must_be_the_version_of_package_and_chart():
    good = checked(__version__)
    assert good.returncode == 0, good.stdout
    other = checked("9.9.9")
    assert other.returncode == 1 and f"tag 9.9.9, polaris {__version__}" in other.stdout
    assert "REGISTRY" in checked(__version__, registry="").stdout


@pytest.mark.parametrize("job", ["images", "chart"])
def test_a_password_is_never_an_argument(job):
    for step in JOBS[job]["steps"]:
        for line in step.get("run", "").splitlines():
            if "TOKEN" in line:
                assert (
                    line.strip().startswith('printf %s "$REGISTRY_TOKEN" | ') and "--password-stdin" in line
                )

"""Templates and instances in, bodies out: names, marks, environment, and what is refused."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from templates import serve_template, stage_template

from polaris.errors import ConfigError
from polaris.execute.manifests import job_name, owner, serve_deployment, service_url, stage_job
from polaris.fields import NAME_PATTERN
from polaris.plan import Instance

DIGEST = "0123456789abcdef"
OWNER = {"apiVersion": "v1", "kind": "ConfigMap", "name": "polaris-config", "uid": "u"}
NAMES = st.from_regex(re.compile(NAME_PATTERN.replace("$", r"\Z")), fullmatch=True)


def instance(kind: str = "judge", *params: str, services: tuple[str, ...] = ()) -> Instance:
    return Instance(".".join((kind, *params)), kind, {}, (), services, {}, DIGEST)


def job(template: dict[str, Any], found: Instance) -> dict[str, Any]:
    return stage_job(template, found, run="demo", attempt=3, orchestrator="feedbeef", owner=OWNER)


def env(body: dict[str, Any]) -> dict[str, str]:
    return {row["name"]: row["value"] for row in body["spec"]["template"]["spec"]["containers"][0]["env"]}


def test_an_arm_is_a_training_of_a_name_of_its_own() -> None:
    template = stage_template(POLARIS_NODES="2")
    body = job(template, instance("train", "no-hri"))
    assert body["metadata"]["name"] == "demo-train-no-hri-01234567-3"
    assert body["metadata"]["labels"]["polaris/kind"] == "train", "its settings are stages.train"
    assert body["metadata"]["annotations"] == {"polaris/instance": "train.no-hri"}
    assert env(body)["POLARIS_RENDEZVOUS"] == "demo-train-no-hri-01234567-3-0.polaris-train:29400"


def test_a_job_is_told_whose_it_is() -> None:
    template = stage_template(HOME="/scratch")
    before = copy.deepcopy(template)
    body = job(template, instance("judge", "trained", "story-quality", services=("reader",)))
    assert template == before, "the template is left as it is"
    meta, pod = body["metadata"], body["spec"]["template"]["metadata"]
    assert meta["name"] == "demo-judge-trained-story-quality-01234567-3"
    assert meta["ownerReferences"] == [OWNER]
    for found in (meta, pod):
        assert found["annotations"] == {"polaris/instance": "judge.trained.story-quality"}
        assert found["labels"] == {
            "app.kubernetes.io/name": "polaris",
            "app.kubernetes.io/instance": "polaris",
            "app.kubernetes.io/component": "stage",
            "polaris/run": "demo",
            "polaris/kind": "judge",
            "polaris/digest": DIGEST,
            "polaris/attempt": "3",
            "polaris/orchestrator": "feedbeef",
        }
    container = body["spec"]["template"]["spec"]["containers"][0]
    assert container["args"] == ["stage", "judge.trained.story-quality", "/etc/polaris/run.yaml"]
    assert env(body) == {
        "HOME": "/scratch",
        "POLARIS_ENDPOINTS": json.dumps({"reader": "http://polaris-serve-reader:8000/v1"}),
        "POLARIS_EXPECTED_DIGEST": DIGEST,
    }


def test_a_training_on_several_nodes_is_told_where_they_meet() -> None:
    body = job(stage_template(POLARIS_NODES="2"), instance("train"))
    assert env(body)["POLARIS_RENDEZVOUS"] == "demo-train-01234567-3-0.polaris-train:29400"
    assert "POLARIS_RENDEZVOUS" not in env(job(stage_template(POLARIS_NODES="1"), instance("train")))


@given(NAMES, st.sampled_from(["data", "generate"]), NAMES, NAMES, st.integers(1, 999))
def test_a_jobs_name_is_always_one_that_kubernetes_takes(
    run: str, kind: str, model: str, evaluation: str, attempt: int
) -> None:
    name = job_name(run, f"{kind}.{model}.{evaluation}", DIGEST, attempt)
    assert len(name) <= 52
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", name)
    assert name.endswith(f"-01234567-{attempt}")
    assert name.startswith(run[:30])


def deployment(template: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return serve_deployment(template, "own", identity="trained:abc", settings=settings, owner=OWNER)


def test_a_deployment_serves_one_identity() -> None:
    body = deployment(serve_template("own"))
    assert body["metadata"]["name"] == "polaris-serve-own"
    assert body["metadata"]["annotations"]["polaris/identity"] == "trained:abc"
    assert "polaris/template" not in body["spec"]["template"]["metadata"]["annotations"]
    assert body["metadata"]["ownerReferences"] == [OWNER]
    assert body["spec"]["template"]["metadata"]["labels"]["polaris/model"] == "own"
    assert env(body) == {"POLARIS_EXPECTED_IDENTITY": "trained:abc"}
    assert service_url("own") == "http://polaris-serve-own:8000/v1"


def test_a_deployments_hash_tells_of_all_that_its_server_is_made_of() -> None:
    def made(change: Any = lambda template: None, **settings: Any) -> str:
        template = serve_template("own")
        change(template)
        found: str = deployment(template, **settings)["metadata"]["annotations"]["polaris/template"]
        return found

    def image(template: dict[str, Any]) -> None:
        template["spec"]["template"]["spec"]["containers"][0]["image"] = "serve:2"

    def memory(template: dict[str, Any]) -> None:
        limits = template["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
        limits["memory"] = "9Gi"

    def chart(template: dict[str, Any]) -> None:
        for meta in (template["metadata"], template["spec"]["template"]["metadata"]):
            meta["labels"]["helm.sh/chart"] = "polaris-2"

    assert made() == made() == made(chart), "a label replaces no server"
    assert len({made(), made(image), made(memory), made(max_model_len=64)}) == 4


def test_the_owner_is_the_config_map() -> None:
    assert owner({"metadata": {"name": "polaris-config", "uid": "u", "labels": {}}}) == OWNER


def broken(change: Any) -> dict[str, Any]:
    template = stage_template()
    change(template)
    return template


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (serve_template("own"), "stage-judge.yaml: it is no Job with a container 'stage'"),
        (broken(lambda t: t.pop("spec")), "stage-judge.yaml: it is no Job with a container 'stage'"),
        (
            broken(lambda t: t["spec"]["template"]["spec"]["containers"][0].update(args=["run"])),
            r"the args of 'stage' are \['run'\]; they must be stage, INSTANCE, FILE",
        ),
    ],
)
def test_a_wrong_template_is_named(template: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        job(template, instance())


def test_numbers_of_a_values_file_become_quantities() -> None:
    template = stage_template()
    pod = template["spec"]["template"]["spec"]
    pod["containers"][0]["resources"] = {"limits": {"cpu": 2, "nvidia.com/gpu": 4}, "requests": {"cpu": 0.5}}
    pod["volumes"] = [{"name": "scratch", "emptyDir": {"sizeLimit": 1000000}}]
    spec = job(template, instance("train"))["spec"]["template"]["spec"]
    assert spec["containers"][0]["resources"] == {
        "limits": {"cpu": "2", "nvidia.com/gpu": "4"},
        "requests": {"cpu": "0.5"},
    }
    assert spec["volumes"][0]["emptyDir"]["sizeLimit"] == "1000000"

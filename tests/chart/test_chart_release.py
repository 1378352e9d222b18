"""The objects that tie a release together: orchestrator, rights, store, network, configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from chart_tools import CHART, PROFILES, config_of, containers, helm, named, objects

from polaris.load import load
from polaris.plan import plan

pytestmark = pytest.mark.slow

CONFIG = ("/etc/polaris/run.yaml", "--wait", "120")
"""Ends an import's arguments: a store in the cluster starts at the same time."""


def orchestrator(*more: str, profile: str = "default"):
    return named(objects(profile, *more), "Job", "polaris-orchestrator-")


def configuration(profile: str, folder: Path):
    path = folder / "run.yaml"
    path.write_text(config_of(objects(profile))["run.yaml"], encoding="utf-8")
    return load(path, {})


@pytest.mark.parametrize("profile", PROFILES)
def test_the_configuration_loads_and_has_the_pods_folders(profile, tmp_path):
    run = configuration(profile, tmp_path)

    assert str(run.execute.work_dir) == "/scratch/run"
    assert str(run.execute.report_file) == "/scratch/report.html"
    assert run.store.url.startswith("s3://")


def test_the_try_out_is_the_demo(tmp_path):
    demo = load(Path(__file__).parents[2] / "examples" / "demo" / "demo.yaml", {})
    run = configuration("default", tmp_path)
    names = ("anthology.epub", "prompts.jsonl", "heldout.jsonl", "length.jsonl")
    same = {Path(f"store:data/{name}"): name for name in names} | {Path("store:models/demo"): "model"}
    local = {path: path.name for path in (*demo.data.books, demo.data.prompts)}
    local |= {e.prompts: e.prompts.name for e in demo.evaluations.values()}
    local |= {demo.models["base"].path: "model"}

    def digests(config, contents):
        return {name: found.digest for name, found in plan(config, contents).instances.items()}

    assert digests(run, same) == digests(demo, local)


def test_small_numbers_survive_helm(tmp_path):
    assert configuration("default", tmp_path).train.learning_rate == 2.0e-5


def test_a_store_outside_is_the_values_own():
    store = yaml.safe_load(config_of(objects("minimal-external"))["run.yaml"])["store"]

    assert store["endpoint"] == "http://s3.example.com:9000"
    assert store["url"] == "s3://polaris-ci/minimal" and store["path_style"] is False
    assert not [o for o in objects("minimal-external") if o["metadata"]["name"] == "polaris-store"]


@pytest.mark.parametrize(
    ("flag", "setting", "named_in_error"),
    [
        ("--set", "store.inCluster.enabled=false", "store.url"),
        ("--set", "serving.models.jugde.keep=true", "serving.models.jugde"),
        ("--set-literal", "config=models: {", "config: not valid YAML"),
        ("--set-literal", "config={run: mine}", "config.models"),
        (
            "--set-literal",
            "config={run: r, data: {}, judges: {}, models: {m: {kind: x, serve: {engine: transformers}}}}",
            "config.models.m.serve.engine",
        ),
        ("--set", "store.url=s3://mine/below", "set store.inCluster.enabled=false"),
        ("--set", "store.endpoint=https://s3.example.com", "set store.inCluster.enabled=false"),
        (
            "--set",
            "credentials.existingSecret=mine,credentials.values.OPENAI_API_KEY=secret",
            "put OPENAI_API_KEY into the Secret 'mine'",
        ),
    ],
)
def test_a_render_that_cannot_work_says_why(flag, setting, named_in_error):
    done = helm("helm4", "template", "polaris", ".", flag, setting)

    assert done.returncode and named_in_error in done.stderr
    assert "secret" not in done.stderr.replace("credentials.existingSecret", "")


def test_the_paper_profile_asks_for_bucket_and_revision():
    words = ("template", "polaris", ".", "-f", "values-a100x4.yaml")

    assert "put the commit" in helm("helm4", *words, "--set", "store.url=s3://bucket").stderr
    repo = "config.models.base.repo=Qwen/Qwen3.5-9B@abc"
    assert "expected s3://bucket/prefix" in helm("helm4", *words, "--set", repo).stderr


def test_the_orchestrator_is_told_who_it_is():
    job = orchestrator()
    [container] = job["spec"]["template"]["spec"]["containers"]
    env = {entry["name"]: entry.get("value") for entry in container["env"]}

    assert container["name"] == "orchestrator"
    assert container["args"] == ["orchestrate", "/etc/polaris/run.yaml", "--manifests", "/etc/polaris"]
    assert job["metadata"]["name"] == f"polaris-orchestrator-{env['POLARIS_ORCHESTRATOR']}"
    assert env["POLARIS_RELEASE"] == "polaris" and "POLARIS_NAMESPACE" in env
    assert job["spec"]["backoffLimit"] >= 20


@pytest.mark.parametrize(
    "change",
    [
        "images.tools.tag=other",
        "images.train.tag=other",
        "stages.train.backoffLimit=9",
        "serving.keep=true",
        "credentials.values.OPENAI_API_KEY=other",
        "store.region=eu-west-1",
    ],
)
def test_what_changes_the_work_makes_a_new_orchestrator(change):
    assert orchestrator("--set", change)["metadata"]["name"] != orchestrator()["metadata"]["name"]


@pytest.mark.parametrize(
    "change",
    [
        "networkPolicy.enabled=false",
        "store.persistence.enabled=false",
        "serving.podMonitor.enabled=true",
        "serviceAccounts.stage.annotations.note=other",
    ],
)
def test_what_does_not_leaves_the_orchestrator_as_it_is(change):
    assert orchestrator("--set", change) == orchestrator()


def test_models_that_stay_up_are_named_to_the_orchestrator():
    args = orchestrator(profile="extras")["spec"]["template"]["spec"]["containers"][0]["args"]

    assert args[-2:] == ["--keep", "judge"] and args.count("--keep") == 1


def test_imports_come_first():
    spec = orchestrator()["spec"]["template"]["spec"]
    files = [f"/opt/polaris/demo/{name}" for name in ("anthology.epub", "prompts.jsonl", "heldout.jsonl")]

    assert [container["args"] for container in spec["initContainers"]] == [
        ["model", "import", "/opt/polaris/demo/model", *CONFIG, "--name", "demo"],
        ["data", "import", *files, "/opt/polaris/demo/length.jsonl", *CONFIG],
    ]
    assert {container["image"] for container in spec["initContainers"]} == {"polaris-cpu:0.1.0"}


def test_a_repository_is_imported_without_being_asked():
    spec = orchestrator(profile="a100x4")["spec"]["template"]["spec"]
    [container] = spec["initContainers"]
    commit = "0123456789abcdef0123456789abcdef01234567"

    assert container["args"] == ["model", "import", f"Qwen/Qwen3.5-9B@{commit}", *CONFIG]


def test_the_orchestrator_may_do_this_and_no_more():
    role = named(objects("default"), "Role", "polaris-orchestrator")
    may = {
        (rule["apiGroups"][0], rule["resources"][0], tuple(rule.get("resourceNames", ()))): rule["verbs"]
        for rule in role["rules"]
    }

    assert may == {
        ("batch", "jobs", ()): ["create", "get", "list", "delete"],
        ("apps", "deployments", ()): ["create", "get", "list", "delete"],
        ("", "pods", ()): ["get", "list"],
        ("", "pods/log", ()): ["get"],
        ("", "events", ()): ["list"],
        ("", "configmaps", ("polaris-config",)): ["get"],
    }
    assert not [o for o in objects("default") if o["kind"] in ("ClusterRole", "ClusterRoleBinding")]


def test_without_an_orchestrator_nobody_has_rights():
    found = objects("default", "--set", "orchestrator.enabled=false")

    assert not [o for o in found if o["kind"] in ("Job", "Role", "RoleBinding")]
    check = named(found, "Pod", "polaris-check")["spec"]
    assert check["serviceAccountName"] == "polaris-stage" and not check["automountServiceAccountToken"]
    assert "--cluster" not in check["containers"][0]["args"]


def test_helm_test_is_a_hook_that_cleans_up():
    pod = named(objects("default"), "Pod", "polaris-check")

    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert "hook-succeeded" in pod["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
    assert pod["spec"]["containers"][0]["args"] == ["check", "/etc/polaris/run.yaml", "--cluster"]


def test_the_cluster_store_keeps_its_volume_and_knows_the_keys():
    found = objects("default")
    claim = named(found, "PersistentVolumeClaim", "polaris-store")
    [container] = named(found, "Deployment", "polaris-store")["spec"]["template"]["spec"]["containers"]

    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert "-s3.port=8333" in container["args"] and "-bucket=polaris" in container["args"]
    assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= {entry["name"] for entry in container["env"]}
    claims = [o["metadata"]["name"] for o in objects("extras") if o["kind"] == "PersistentVolumeClaim"]
    assert "polaris-store" not in claims


def test_keys_are_made_up_when_none_are_given():
    def keys():
        done = helm("helm4", "template", "polaris", ".", "--show-only", "templates/credentials.yaml")
        return yaml.safe_load(done.stdout)["data"]

    first, second = keys(), keys()
    assert set(first) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert first != second


def policies(profile: str, *more: str):
    found = objects(profile, *more)
    return {o["metadata"]["name"]: o["spec"] for o in found if o["kind"] == "NetworkPolicy"}


def test_everything_is_closed_but_these_ways():
    found = policies("default")

    assert found["polaris-default-deny"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in found["polaris-default-deny"] and "egress" not in found["polaris-default-deny"]
    assert set(found) == {
        "polaris-default-deny",
        "polaris-dns",
        "polaris-to-store",
        "polaris-store",
        "polaris-to-serve",
        "polaris-serve",
        "polaris-to-api-server",
    }
    assert policies("default", "--set", "networkPolicy.enabled=false") == {}
    assert "polaris-train" in policies("two-nodes")


def test_an_outside_address_is_public_or_given():
    found = policies("minimal-external")
    [judge] = found["polaris-to-judge"]["egress"]
    [store] = found["polaris-to-store"]["egress"]
    [given] = policies("minimal-external", "--set-json", 'networkPolicy.judge.cidrs=["203.0.113.0/24"]')[
        "polaris-to-judge"
    ]["egress"]

    assert "169.254.0.0/16" in judge["to"][0]["ipBlock"]["except"]
    assert "10.0.0.0/8" in judge["to"][0]["ipBlock"]["except"]
    assert judge["ports"] == [{"protocol": "TCP", "port": 8443}]
    assert store["ports"] == [{"protocol": "TCP", "port": 9000}]
    assert given["to"] == [{"ipBlock": {"cidr": "203.0.113.0/24"}}]


def test_only_the_orchestrator_and_the_test_reach_the_api_server():
    found = policies("extras")
    [who] = found["polaris-to-api-server"]["podSelector"]["matchExpressions"]
    [rule] = found["polaris-to-api-server"]["egress"]

    assert who["values"] == ["orchestrator", "test"]
    assert [peer["ipBlock"]["cidr"] for peer in rule["to"]] == ["10.96.0.1/32", "10.250.0.2/32"]
    assert [port["port"] for port in rule["ports"]] == [443, 8443]
    [usual] = policies("default")["polaris-to-api-server"]["egress"]
    assert [peer["ipBlock"]["except"] for peer in usual["to"]] == [["169.254.0.0/16"], ["fe80::/10"]]
    assert [port["port"] for port in usual["ports"]] == [443, 6443]
    assert "polaris-to-hub" in found and "polaris-to-hub" not in policies("default")


def test_who_uses_the_store_may_ask_who_it_is():
    identity = policies("extras")["polaris-to-identity"]
    [who] = identity["podSelector"]["matchExpressions"]

    assert who["values"] == ["stage", "serve", "orchestrator", "test"]
    assert [(rule["to"], rule["ports"]) for rule in identity["egress"]] == [
        ([{"ipBlock": {"cidr": "169.254.169.252/32"}}], [{"protocol": "TCP", "port": 988}]),
        ([{"ipBlock": {"cidr": "169.254.169.254/32"}}], [{"protocol": "TCP", "port": 80}]),
    ]


def test_dns_may_be_elsewhere_than_usual():
    [usual], [other] = (policies(profile)["polaris-dns"]["egress"] for profile in ("default", "extras"))

    assert [(port["protocol"], port["port"]) for port in usual["ports"]] == [("UDP", 53), ("TCP", 53)]
    assert [(port["protocol"], port["port"]) for port in other["ports"]] == [("UDP", 5353), ("TCP", 5353)]
    assert "openshift-dns" in str(other["to"]) and "kube-dns" not in str(other["to"])


def test_a_standalone_job_brings_the_models_that_it_needs():
    found = objects("default", "--set", "standalone.render=true")
    spec = named(found, "Job", "polaris-eval-length")["spec"]["template"]["spec"]
    first, trained, judge = spec["initContainers"]
    [stage] = spec["containers"]
    only = ["generate.trained.length", "judge.trained.length", "evaluate.trained.length", "report.length"]
    patterns = [word for pattern in only for word in ("--only", pattern)]
    [endpoints] = [entry["value"] for entry in stage["env"] if entry["name"] == "POLARIS_ENDPOINTS"]

    assert stage["args"] == ["run", "/etc/polaris/run.yaml", *patterns, "--no-needs"]
    assert first["args"] == ["run", "/etc/polaris/run.yaml", *patterns, "--check-needs"]
    assert [c["restartPolicy"] for c in (trained, judge)] == ["Always", "Always"]
    assert judge["args"] == [
        "serve",
        "judge",
        "/etc/polaris/run.yaml",
        "--host",
        "127.0.0.1",
        "--port",
        "8001",
    ]
    assert judge["startupProbe"]["exec"]["command"][2:] == ["http://127.0.0.1:8001/v1", "judge"]
    assert json.loads(endpoints) == {
        "trained": "http://127.0.0.1:8000/v1",
        "judge": "http://127.0.0.1:8001/v1",
    }
    assert spec["serviceAccountName"] == "polaris-stage"


def test_a_standalone_job_needs_no_sidecar_for_a_judge_elsewhere():
    found = objects("a100x4", "--set", "standalone.render=true")
    spec = named(found, "Job", "polaris-eval-length")["spec"]["template"]["spec"]

    names = [container["name"] for container in containers(spec)]
    assert names == ["check-needs", "serve-base", "serve-hri", "stage"]
    assert spec["initContainers"][1]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in spec["tolerations"]


def test_a_standalone_job_with_servers_loads_no_model_in_vain_and_ends_early():
    found = objects("a100x4", "--set", "standalone.render=true")
    jobs = {o["metadata"]["name"]: o["spec"] for o in found if o["kind"] == "Job"}
    idle = {"name": "POLARIS_IDLE_FILE", "value": "/tmp/polaris-nothing-to-do"}

    def told(name):
        """Tell for each container whether it knows the file."""
        return [idle in container["env"] for container in containers(jobs[name]["template"]["spec"])]

    assert told("polaris-generate") == [True] * 4 and told("polaris-eval-length") == [True] * 4
    assert told("polaris-judge") == [False, False]
    assert jobs["polaris-generate"]["activeDeadlineSeconds"] == 14400
    assert jobs["polaris-judge"]["activeDeadlineSeconds"] == 86400
    assert jobs["polaris-train"]["activeDeadlineSeconds"] == 1209600
    tryout = named(objects("default", "--set", "standalone.render=true"), "Job", "polaris-train")["spec"]
    assert tryout["activeDeadlineSeconds"] == 86400
    assert all(idle in container["env"] for container in containers(tryout["template"]["spec"]))


def test_a_standalone_training_takes_the_arms_too_one_after_the_other(tmp_path):
    config = yaml.safe_load((CHART / "files" / "tryout.yaml").read_text(encoding="utf-8"))
    config["judges"]["other"] = config["judges"]["small"] | {"model": "base"}
    config["train"]["nodes"] = 2
    config["arms"] = {"no-hri": {"hri": {"max_weight": 0.0}, "nodes": 2}, "strict": {"judge": "other"}}
    (tmp_path / "arms.yaml").write_text(yaml.safe_dump({"config": config}), encoding="utf-8")
    found = objects("default", "--set", "standalone.render=true", "-f", str(tmp_path / "arms.yaml"))
    spec = named(found, "Job", "polaris-train")["spec"]["template"]["spec"]
    [stage] = spec["containers"]
    env = {entry["name"]: entry.get("value") for entry in stage["env"]}

    assert stage["args"][2:] == ["--only", "train*", "--no-needs"]
    assert [c["name"] for c in spec["initContainers"]] == ["check-needs", "serve-base", "serve-judge"]
    assert (env["POLARIS__EXECUTE__PARALLEL"], env["POLARIS__TRAIN__NODES"]) == ("1", "1")
    run = tmp_path / "run.yaml"
    run.write_text(config_of(found)["run.yaml"], encoding="utf-8")
    overrides = {name: value for name, value in env.items() if name.startswith("POLARIS__")}
    trainings = load(run, overrides).trainings()
    assert {arm: train.nodes for arm, train in trainings.items()} == {None: 1, "no-hri": 1, "strict": 1}
    assert {train.nodes for train in load(run, {}).trainings().values()} == {2}


def test_arms_are_checked_by_the_schema_as_variants():
    words = ("lint", ".", "-f", "values-a100x4.yaml", "-f", "ci/a100x4-values.yaml", "--set")

    assert helm("helm4", *words, "config.arms.plain.hri.max_weight=0").returncode == 0
    wrong = helm("helm4", *words, "config.arms.plain.hri.max_wieght=0")
    assert wrong.returncode == 1 and "max_wieght" in wrong.stdout

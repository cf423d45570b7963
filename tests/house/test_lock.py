"""The lock, environment.yml, pyproject.toml and what is installed say the same."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("lisa", "baselines", "eval", "workflow")
# torch's GPU build brings these for its own platform; pinned, they would be installed where they are of no use.
ACCELERATOR = re.compile(r"(nvidia-(?!ml-py$).*|cuda-.*|triton|pytorch-triton.*)$")
PIN = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+")


def lock_lines() -> list[str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


def locked() -> dict[str, Version]:
    """Canonical distribution name -> locked version."""
    pins = [line.split("==") for line in lock_lines()]
    return {canonicalize_name(name): Version(version) for name, version in pins}


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def declared() -> list[Requirement]:
    """Every dependency of pyproject.toml, extras included."""
    extras = project()["optional-dependencies"].values()
    return [Requirement(text) for group in (project()["dependencies"], *extras) for text in group]


def test_lock_holds_exact_pins_only():
    assert lock_lines() and [line for line in lock_lines() if not PIN.fullmatch(line)] == []


def test_lock_names_each_package_once_in_order():
    names = [line.split("==")[0].lower() for line in lock_lines()]
    assert names == sorted(set(names))
    assert len(locked()) == len(names)


def test_lock_leaves_accelerator_packages_to_torch():
    assert [name for name in locked() if ACCELERATOR.match(name)] == []


@pytest.mark.parametrize("requirement", declared(), ids=lambda requirement: requirement.name)
def test_declared_dependency_is_locked_at_a_version_it_allows(requirement: Requirement):
    assert locked()[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.parametrize("requirement", declared(), ids=lambda requirement: requirement.name)
def test_declared_dependency_is_installed_as_locked(requirement: Requirement):
    installed = Version(metadata.version(requirement.name)).public  # torch 2.13.0+cpu counts as 2.13.0
    assert installed == str(locked()[canonicalize_name(requirement.name)])


def requirements_of(name: str) -> Iterator[str]:
    """Names that the installed distribution needs on this interpreter, extras left out."""
    for text in metadata.requires(name) or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield canonicalize_name(requirement.name)


def test_nothing_that_a_locked_package_needs_is_left_unlocked():
    pins = locked()
    needed = {(name, need) for name in pins for need in requirements_of(name)}
    assert sorted(pair for pair in needed if pair[1] not in pins and not ACCELERATOR.match(pair[1])) == []


def test_environment_yml_pins_what_the_lock_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip_sections = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip_sections == [lock_lines()], "run `make environment`"


def test_environment_yml_names_a_supported_python():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pins = [entry.split("=")[1] for entry in environment["dependencies"] if str(entry).startswith("python=")]
    assert len(pins) == 1 and pins[0] in SpecifierSet(project()["requires-python"])


def imported_modules(path: Path) -> Iterator[str]:
    """Top-level names of a file's absolute imports, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


FOLDERS = [*PACKAGES, "tests", "examples", "benchmarks"]


@pytest.mark.parametrize("package", FOLDERS)
def test_every_imported_package_is_declared(package: str):
    names = {canonicalize_name(requirement.name) for requirement in declared()}
    providers = metadata.packages_distributions()
    modules = {module for path in sorted((ROOT / package).rglob("*.py")) for module in imported_modules(path)}
    foreign = modules - set(sys.stdlib_module_names) - set(FOLDERS)
    undeclared = {m for m in foreign if not names & {canonicalize_name(d) for d in providers.get(m, [m])}}
    assert undeclared == set(), "declare them in pyproject.toml"

"""`lisa-bench new-method`: a skeleton is tested at once and says what to fill in; CONTRIBUTING fills one."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import baselines
from tests.models import tiny_llama
from workflow import cli
from workflow.commands import new_method

ROOT = Path(baselines.__file__).parents[1]
PARTS = ("baselines", "eval", "lisa", "workflow", "tests/baselines", "tests/models.py", "pyproject.toml")


@pytest.fixture(autouse=True)
def this_process_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `prepare_process` changes in its own process is changed back."""
    for name in ("OMP_NUM_THREADS", "TRANSFORMERS_VERBOSITY"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    with warnings.catch_warnings():
        yield


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty checkout, to which `new-method` writes."""
    (tmp_path / "baselines").mkdir()
    (tmp_path / "tests" / "baselines").mkdir(parents=True)
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(new_method, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def with_toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout in which the method toy has been begun."""
    root = tmp_path_factory.mktemp("checkout")
    for part in PARTS:
        (root / part).parent.mkdir(exist_ok=True)
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, root / part)
    done = run_python(root, "-m", "workflow.cli", "new-method", "toy")
    assert done.returncode == 0, done.stderr
    assert "wrote baselines/toy.py and tests/baselines/test_toy.py" in done.stdout
    return root


def run_python(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=root, capture_output=True, text=True, check=False)


def mistake(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr of a command that failed."""
    assert cli.main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    return shown.err


# --- the skeleton


def test_the_contracts_tests_run_on_a_skeleton_and_say_what_is_missing(with_toy):
    files = ("tests/baselines/test_contract.py", "tests/baselines/test_toy.py")
    done = run_python(
        with_toy,
        "-m",
        "pytest",
        *files,
        "-k",
        "toy and not qwen and not gpt2",
        "-q",
        "--tb=line",
        "-p",
        "no:cacheprovider",
    )
    assert done.returncode == 1, done.stdout + done.stderr  # failed, as against not collected
    lines = done.stdout.splitlines()
    failed = [line for line in lines if line.startswith("FAILED ")]
    told = [line for line in lines if "NotImplementedError: baselines/toy.py: prepare() must freeze or wrap" in line]
    assert len(told) >= 12 and any("test_toy.py" in line for line in failed)
    others = [line for line in lines if re.match(r"\S+\.py:\d+: (?!NotImplementedError: baselines/toy.py)", line)]
    assert any("TODO" in line for line in others)
    unasked = {"says_what_it_is", "declares_is_known", "tends_to_full"}  # the only ones that fail before `prepare`
    assert len(failed) - len(told) <= len(unasked)


def test_other_commands_survive_a_skeleton(checkout, monkeypatch, capsys):
    assert cli.main(["new-method", "toy"]) == 0
    names = ["full", "toy"]
    monkeypatch.setattr(baselines, "names", lambda: names)
    load(monkeypatch, "baselines.toy", checkout / "baselines" / "toy.py")
    tiny_llama().config.save_pretrained(checkout)
    capsys.readouterr()
    assert cli.main(["methods", "--model", str(checkout)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "full 1711.05101" in shown and "toy not filled in: summary, paper, family" in shown
    fit = ["fit", str(checkout), "--gpu", "24GiB", "--no-search", "--sequence", "16", "--method", "toy"]
    error = mistake(fit, capsys)
    assert error == "error: baselines/toy.py: prepare() must freeze or wrap the loaded model (not filled in yet)\n"


def load(monkeypatch: pytest.MonkeyPatch, name: str, file: Path) -> None:
    """Import a file under this name, for one test."""
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # before it runs: dataclasses look there
    spec.loader.exec_module(module)


@pytest.mark.parametrize("name", ["toy", "a_name_of_16_let"])
def test_a_skeleton_is_in_the_house_style(name, checkout):
    assert cli.main(["new-method", name]) == 0
    shutil.copy(ROOT / "pyproject.toml", checkout)
    written = [f"baselines/{name}.py", f"tests/baselines/test_{name}.py"]
    for command in (["check"], ["format", "--check"]):
        done = run_python(checkout, "-m", "ruff", *command, "--no-cache", *written)
        assert done.returncode == 0, done.stdout


def test_a_skeleton_names_every_decision_of_the_contract(checkout):
    from baselines.contract import Method

    assert cli.main(["new-method", "toy"]) == 0
    text = (checkout / "baselines" / "toy.py").read_text()
    decided_elsewhere = {
        "__init__",
        "limits",
        "period",
        "eval_weights",
        "trains",
    }  # made from others, or rarely another
    decisions = {name for name in vars(Method) if not name.startswith("__")} - decided_elsewhere
    assert {name for name in decisions if not re.search(rf"    (def )?{name}\b", text)} == set()


# --- names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MyToy", "'MyToy' is not lower_snake_case; legal: .* Did you mean 'my_toy'?"),
        ("my-toy", "Did you mean 'my_toy'?"),
        ("2fast", "'2fast' is not lower_snake_case"),
        ("_peft", "'_peft' is not lower_snake_case.* Did you mean 'peft'?"),
        ("../evil", "not lower_snake_case"),
        ("lambda", "'lambda' is a keyword of Python"),
        ("contract", "'contract' is taken: the contract's own file"),
        ("all", "'all' is taken"),
        ("a" * 300, "has 300 letters; legal: up to 40"),
        ("lisa", "Method 'lisa' exists already: baselines/lisa.py. Known: .*lora"),
    ],
)
def test_a_name_that_no_method_can_have_is_one_line_and_writes_nothing(name, expected, checkout, capsys):
    assert re.search(expected, mistake(["new-method", name], capsys))
    assert [file for file in checkout.rglob("*.py")] == []


def test_nothing_is_overwritten(checkout, capsys):
    tests = checkout / "tests" / "baselines" / "test_toy.py"
    tests.write_text("mine")
    assert "tests/baselines/test_toy.py exists already" in mistake(["new-method", "toy"], capsys)
    assert tests.read_text() == "mine" and not (checkout / "baselines" / "toy.py").exists()


def test_it_works_in_a_checkout_only(checkout, capsys):
    (checkout / "pyproject.toml").unlink()
    assert "works in a checkout only" in mistake(["new-method", "toy"], capsys)


# --- CONTRIBUTING


def section() -> str:
    """CONTRIBUTING's "Add a method"."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.search(r"## Add a method\n(.*?)\n## ", text, re.DOTALL)[1]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", section(), re.DOTALL | re.MULTILINE)


def test_the_example_in_contributing_is_the_methods_own_code():
    code = (ROOT / "baselines" / "vera.py").read_text(encoding="utf-8")
    assert len(blocks("python")) == 2
    assert [block for block in blocks("python") if block not in code] == []


def test_the_commands_in_contributing_are_commands():
    lines = [line.partition("  #")[0] for block in blocks("") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith(".venv/bin/lisa-bench ")]
    assert {name for name, *_ in commands} == {"new-method", "methods", "fit"}
    for name, *words in commands:
        parser = argparse.ArgumentParser(exit_on_error=False)
        importlib.import_module(cli.COMMANDS[name]).add_arguments(parser)
        parser.parse_args(words)


def test_the_walk_through_is_short():
    assert len(section().splitlines()) <= 60
    assert "A new baseline costs one file" in section()

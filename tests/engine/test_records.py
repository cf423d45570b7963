from __future__ import annotations

import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import baselines
from workflow.engine import records
from workflow.engine.records import environment, memory_files, method_files, sha256_sources, write_json


def test_a_reader_never_sees_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "new/run.json"
    write_json(file, {"a": 1})
    assert json.loads(file.read_text()) == {"a": 1}

    def cut(self: Path, text: str, *arguments: Any, **more: Any) -> int:
        self.write_bytes(text.encode()[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", cut)
    with pytest.raises(OSError, match="No space"):
        write_json(file, {"a": 2})
    assert json.loads(file.read_bytes()) == {"a": 1}


def own_files(method: str) -> set[str]:
    """Modules of baselines in the code of a method."""
    return {file.stem for file in method_files(method) if file.parent.name == "baselines"}


def used_modules(method: str) -> set[str]:
    """Modules of baselines whose classes and functions a method has at hand, asked of the loaded modules themselves."""
    found, new = set(), {method}
    while new:
        found |= new
        held = [value for name in new for value in vars(sys.modules[f"baselines.{name}"]).values()]
        held += [base for value in held if isinstance(value, type) for base in value.__mro__]
        names = [value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None) for value in held]
        new = {str(name).removeprefix("baselines.") for name in names if str(name).startswith("baselines.")} - found
    return found


@pytest.mark.parametrize("method", baselines.names())
def test_the_code_of_a_method_has_the_engine_the_library_and_all_that_the_method_uses(method: str) -> None:
    names = {str(file.relative_to(records.ROOT)) for file in method_files(method)}
    assert {f"baselines/{method}.py", "baselines/contract.py", "workflow/engine/training.py", "lisa/hook.py"} <= names
    baselines.method_class(method)
    assert used_modules(method) <= own_files(method)


@pytest.mark.parametrize("method", baselines.names())
def test_every_module_in_the_code_of_a_method_is_imported_by_another_of_them(method: str) -> None:
    texts = {name: (records.ROOT / f"baselines/{name}.py").read_text() for name in own_files(method)}
    for name in texts.keys() - {method, "contract", "__init__"}:
        imported = re.compile(rf"^ *(?:from baselines\.{name} |(?:from baselines )?import .*\b{name}\b)", re.MULTILINE)
        assert any(imported.search(text) for other, text in texts.items() if other != name), name


def test_imports_are_followed_through_modules_functions_and_circles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "ROOT", tmp_path)
    for name, text in {
        "__init__": "",
        "contract": "import torch",
        "mine": "from baselines import contract, other\n\ndef late():\n    from baselines._far import thing",
        "other": "import baselines._near",
        "_near": "from . import mine\nfrom ._nearer import thing",
        "_nearer": "import os.path",
        "_far": "from torch import _unused",
        "_unused": "",
    }.items():
        write_json(tmp_path / f"baselines/{name}.py", None)
        (tmp_path / f"baselines/{name}.py").write_text(text)
    assert own_files("mine") == {"__init__", "contract", "mine", "other", "_near", "_nearer", "_far"}
    assert own_files("_nearer") == {"__init__", "contract", "_nearer"}


def test_a_change_of_what_predicts_trains_nothing_again() -> None:
    training, memory = set(method_files("full")), set(memory_files("full"))
    assert {file.name for file in memory - training} >= {"simulator.py", "measuring.py", "llama-2-7b.json"}
    assert training < memory
    assert "fit.py" not in {file.name for file in memory}


def test_the_code_checksum_moves_with_name_and_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "ROOT", tmp_path)
    files = [tmp_path / "a.py", tmp_path / "b.py"]
    for file in files:
        file.write_text("x = 1")
    first = sha256_sources(files)
    assert sha256_sources(files) == first
    files[0].write_text("x = 2")
    assert sha256_sources(files) != first
    files[0].write_text("x = 1")
    moved = [files[0].rename(tmp_path / "c.py"), files[1]]
    assert sha256_sources(moved) != first


def test_the_environment_says_what_ran() -> None:
    found = environment(method_files("lisa"), torch.device("cpu"), threads=3)
    assert found["packages"]["torch"].startswith(found["torch_build"].split("+")[0])
    assert (found["device_type"], found["threads"], found["driver"]) == ("cpu", 3, None)
    assert found["device"] == found["host_cpu"] != ""
    assert found["code_sha256"] != environment(method_files("full"), torch.device("cpu"), threads=3)["code_sha256"]
    assert len(found["lock_sha256"]) == 64
    json.dumps(found)


def test_outside_a_git_checkout_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert records._git() == {"git_commit": None, "git_dirty": None}

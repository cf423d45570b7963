from __future__ import annotations

import json
import re
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


@pytest.mark.parametrize("method", baselines.names())
def test_the_code_of_a_method_is_the_engine_the_library_and_its_own_file_only(method: str) -> None:
    names = {str(file.relative_to(records.ROOT)) for file in method_files(method)}
    assert {f"baselines/{method}.py", "baselines/contract.py", "workflow/engine/training.py", "lisa/hook.py"} <= names
    others = {f"baselines/{other}.py" for other in baselines.names()} - {f"baselines/{method}.py"}
    assert not names & others


@pytest.mark.parametrize("method", baselines.names())
def test_what_a_method_imports_of_baselines_is_part_of_its_code(method: str) -> None:
    """A method's private modules are found by their names: `_<method>*.py`."""
    files = method_files(method)
    imports = re.compile(r"^(?:from baselines\.(_\w+)|from baselines import (_\w+))", re.MULTILINE)
    for file in files:
        for found in imports.findall(file.read_text()):
            assert any(other.stem == "".join(found) for other in files), f"{file.name} imports {''.join(found)}"


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

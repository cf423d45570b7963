"""Downloads, for real, from a hub on 127.0.0.1; each in a process, as the hub's client reads its settings at import."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eval.benchmarks import BENCHMARKS
from tests.conftest import ROOT
from tests.engine.hub_server import BRANCHES, REVISION, Hub, Repository, serve
from tests.engine.small_tokenizer import turns
from tests.eval.benchmark_data import write_checkpoint, write_dataset, write_suite_data
from tests.workflow.experiments import small, write
from workflow.engine.errors import InputError
from workflow.engine.sources import PINNED_FILES, verify_checksums
from workflow.experiment import load
from workflow.places import benchmarks_folder, data_folder, model_folder
from workflow.stages.prepare_model import prepare

OTHER = "f" * 40
BIG = {"name": "big", "hub_id": "org/big", "revision": REVISION}


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of a real checkpoint."""
    return files_of(write_checkpoint(tmp_path_factory.mktemp("checkpoint"), context_tokens=2048))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of a data set of three configurations."""
    hub = tmp_path_factory.mktemp("hub")
    rows = [{"messages": turns(f"{i}?", f"{i}.")} for i in range(6)]
    write_dataset(hub, "org/sums", {(config, "train"): rows for config in ("easy", "hard", "huge")})
    return files_of(hub / "org/sums")


@pytest.fixture
def hub(checkpoint: dict[str, bytes], dataset: dict[str, bytes]) -> Iterator[Hub]:
    repositories = {"models/org/big": Repository(dict(checkpoint)), "datasets/org/sums": Repository(dict(dataset))}
    with serve(Hub(repositories)) as served:
        yield served


def stage(name: str, folder: Path, config: dict[str, Any], url: str, *more: str, **env: str) -> tuple[int, str]:
    """Run a prepare stage against the hub at `url`; exit code and stderr."""
    file = write(folder, {"prepared_root": str(folder / "prepared"), "methods": ["vanilla"], **config})
    settings = {
        key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_", "HTTP", "http"))
    }
    settings |= {"HF_ENDPOINT": url, "LISA_BENCH_RAW_ENDPOINT": url, "HF_HOME": str(folder / "home"), **env}
    settings |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "no_proxy": "127.0.0.1"}
    command = [sys.executable, "-m", f"workflow.stages.{name}", "--experiment", str(file), *more]
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stderr


def model_stage(folder: Path, url: str, model: dict[str, Any] = BIG, **changes: Any) -> tuple[int, str]:
    return stage("prepare_model", folder, small(models=[model], methods=["vanilla"], **changes), url, "--model", "big")


def one_line(result: tuple[int, str], *words: str) -> None:
    """The stage ended in one line with these words, and exit code 1."""
    code, stderr = result
    assert code == 1, stderr
    assert stderr.startswith("error: "), stderr
    assert stderr.count("\n") == 1, stderr
    assert [word for word in words if word not in stderr] == [], stderr


def manifest(folder: Path) -> dict[str, Any]:
    experiment = load(folder / "experiment.yaml")
    return json.loads((model_folder(experiment, "big") / "manifest.json").read_text())


# --- models


def test_a_model_is_downloaded_at_its_revision_and_then_loads_without_a_hub(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["models/org/big"].files["pytorch_model.bin"] = b"not wanted"
    code, stderr = model_stage(tmp_path, hub.url)
    assert code == 0, stderr
    found = manifest(tmp_path)
    assert (found["name"], found["revision"]) == ("big", REVISION)
    folder = Path(found["folder"])
    wanted = {name: body for name, body in hub.repositories["models/org/big"].files.items() if name[-3:] != "bin"}
    assert {name: body for name, body in files_of(folder).items() if not name.startswith(".cache")} == wanted
    assert all(f"/{REVISION}/" in f"{path}/" for path in hub.asked if "resolve" in path or "revision" in path)

    import torch

    from workflow.engine.models import load_model, load_tokenizer

    model = load_model(folder, precision="fp32", attention="sdpa", device=torch.device("cpu"), training=False)
    assert load_tokenizer(folder).eos_token_id == model.config.eos_token_id


def test_a_prepared_model_is_there_a_second_time_for_nothing(hub: Hub, tmp_path: Path) -> None:
    assert model_stage(tmp_path, hub.url)[0] == 0
    before = manifest(tmp_path)
    hub.asked.clear()
    assert model_stage(tmp_path, hub.url)[0] == 0
    assert manifest(tmp_path) == before
    assert [path for path in hub.asked if path.startswith("GET") and "safetensors" in path] == []


def test_a_gated_model_says_what_to_do(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["models/org/big"].gated = True
    one_line(model_stage(tmp_path, hub.url), "model 'org/big' is gated", "licence", "HF_TOKEN")


def test_an_unknown_model_is_named(hub: Hub, tmp_path: Path) -> None:
    one_line(model_stage(tmp_path, hub.url, {**BIG, "hub_id": "org/bog"}), "model 'org/bog' is not on the hub")


def test_an_unknown_revision_is_named(hub: Hub, tmp_path: Path) -> None:
    one_line(model_stage(tmp_path, hub.url, {**BIG, "revision": OTHER}), "'org/big' has no revision", OTHER)


def test_an_id_the_hub_cannot_have_is_refused(hub: Hub, tmp_path: Path) -> None:
    one_line(model_stage(tmp_path, hub.url, {**BIG, "hub_id": "org/b@g"}), "'org/b@g' is not an id of the hub")


def test_a_hub_that_cannot_be_reached_says_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    one_line(model_stage(tmp_path, url), "model 'org/big' cannot be downloaded", "refused", "model_root")


def test_a_failing_hub_is_told(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["models/org/big"].failing = True
    one_line(model_stage(tmp_path, hub.url), "model 'org/big' cannot be downloaded", "500", "model_root")


def test_offline_mode_is_told(hub: Hub, tmp_path: Path) -> None:
    config = small(models=[BIG], methods=["vanilla"])
    result = stage("prepare_model", tmp_path, config, hub.url, "--model", "big", HF_HUB_OFFLINE="1")
    one_line(result, "model 'org/big' cannot be downloaded", "HF_HUB_OFFLINE", "model_root")
    assert hub.asked == []


def test_a_model_larger_than_the_disk_is_not_begun(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["models/org/big"].sizes["model.safetensors"] = 10**18
    result = model_stage(tmp_path, hub.url)
    one_line(result, "model org/big needs 1000000000.0 GB", "GB free", "prepared_root")
    assert [path for path in hub.asked if "resolve" in path] == []


def test_a_checksum_of_the_experiment_is_compared(hub: Hub, tmp_path: Path) -> None:
    files = hub.repositories["models/org/big"].files
    right = {name: hashlib.sha256(body).hexdigest() for name, body in files.items()}
    wrong = {**BIG, "checksums": {**right, "config.json": "0" * 64}}
    result = model_stage(tmp_path, hub.url, wrong)
    one_line(result, "models 'big'", "config.json has sha256", right["config.json"], "0" * 64)


def test_checksums_compare_every_named_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    right = {"a": hashlib.sha256(b"a").hexdigest()}
    verify_checksums("models 'big'", tmp_path, right)
    with pytest.raises(InputError, match=rf"models 'big': {tmp_path}/b does not exist"):
        verify_checksums("models 'big'", tmp_path, {**right, "b": right["a"]})
    (tmp_path / "a").write_bytes(b"b")
    with pytest.raises(InputError, match=right["a"]):
        verify_checksums("models 'big'", tmp_path, right)


@pytest.mark.parametrize(
    ("gone", "what"),
    [("config.json", "configuration"), ("model.safetensors", "weights"), ("tokenizer.json", "tokenizer")],
)
def test_an_incomplete_model_root_is_named(checkpoint: dict[str, bytes], tmp_path: Path, gone: str, what: str) -> None:
    folder = local(tmp_path, checkpoint)
    (folder / gone).unlink()
    config = small(models=[BIG], methods=["vanilla"], model_root=str(tmp_path / "models"))
    experiment = load(write(tmp_path, {**config, "prepared_root": str(tmp_path / "prepared")}))
    with pytest.raises(InputError, match=f"org/big has no {what}: looked for .*{gone.split('.')[-1]}"):
        prepare(experiment, "big")


def local(tmp_path: Path, checkpoint: dict[str, bytes]) -> Path:
    """The checkpoint under a model root."""
    folder = tmp_path / "models/org/big"
    folder.mkdir(parents=True)
    for name, body in checkpoint.items():
        (folder / name).write_bytes(body)
    return folder


def test_a_model_under_model_root_is_used_in_place(checkpoint: dict[str, bytes], tmp_path: Path) -> None:
    folder = local(tmp_path, checkpoint)
    model = {"name": "big", "hub_id": "org/big"}
    code, stderr = model_stage(tmp_path, "http://127.0.0.1:1", model, model_root=str(tmp_path / "models"))
    assert code == 0, stderr
    found = manifest(tmp_path)
    assert (found["folder"], found["revision"]) == (str(folder), None)
    assert files_of(folder) == checkpoint
    assert list((tmp_path / "prepared").rglob("*.safetensors")) == []


def test_a_model_that_is_not_under_model_root_is_named(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    result = model_stage(tmp_path, "http://127.0.0.1:1", model_root=str(tmp_path / "models"))
    one_line(result, "models 'big': no folder", "models/org/big", "<organisation>/<name>/")


# --- data


def data_stage(folder: Path, url: str, name: str = "prepare_data", **changes: Any) -> tuple[int, str]:
    data = [{**small()["data"][0], "config": "hard"}]
    config = small(data_root="hub", data=data, dataset_revisions={"org/sums": REVISION})
    return stage(name, folder, {**config, **changes}, url)


def test_a_data_set_is_downloaded_at_its_revision_with_the_wanted_configuration(hub: Hub, tmp_path: Path) -> None:
    code, stderr = data_stage(tmp_path, hub.url)
    assert code == 0, stderr
    folder = data_folder(load(tmp_path / "experiment.yaml"))
    found = json.loads((folder / "manifest.json").read_text())
    assert found["data"]["sums"]["revision"] == REVISION
    assert found["data"]["sums"]["train"] == 4
    assert found["root"] == str(folder / "root")
    files = [f"hub/org/sums/{name}" for name in ("README.md", "easy/train-00000-of-00001.parquet")]
    assert sorted(found["files"]) == [*files, "hub/org/sums/hard/train-00000-of-00001.parquet"]
    assert not (folder / "root/hub/org/sums/huge").exists()


@pytest.mark.parametrize("branch", BRANCHES)
def test_a_branch_is_resolved_once_and_its_commit_recorded(hub: Hub, tmp_path: Path, branch: str) -> None:
    code, stderr = data_stage(tmp_path, hub.url, dataset_revisions={"org/sums": branch})
    assert code == 0, stderr
    found = json.loads((data_folder(load(tmp_path / "experiment.yaml")) / "manifest.json").read_text())
    assert found["data"]["sums"]["revision"] == found["revisions"]["org/sums"] == REVISION
    assert [path for path in hub.asked if f"/{branch}" in path] == [f"GET api/datasets/org/sums/revision/{branch}"]


def test_a_text_to_pretrain_on_is_downloaded_beside_the_data(hub: Hub, tmp_path: Path) -> None:
    write_dataset(tmp_path / "made", "org/text", {("default", "train"): [{"text": f"Page {i}."} for i in range(9)]})
    hub.repositories["datasets/org/text"] = Repository(files_of(tmp_path / "made/org/text"))
    text = {"dataset": "org/text", "validation_items": 2, "steps": 3, "batch_size": 2}
    pins = {"org/sums": REVISION, "org/text": "main"}
    code, stderr = data_stage(tmp_path, hub.url, continual_pretraining=text, dataset_revisions=pins)
    assert code == 0, stderr
    found = json.loads((data_folder(load(tmp_path / "experiment.yaml")) / "manifest.json").read_text())
    assert {key: found["text"][key] for key in ("dataset", "train", "validation", "revision")} == {
        "dataset": "org/text",
        "train": 7,
        "validation": 2,
        "revision": REVISION,
    }
    assert "hub/org/text/default/train-00000-of-00001.parquet" in found["files"]


def test_a_data_set_without_a_revision_is_found_before_the_first_byte(hub: Hub, tmp_path: Path) -> None:
    result = data_stage(tmp_path, hub.url, dataset_revisions={"org/other": REVISION})
    one_line(result, "dataset_revisions: no revision of org/sums")
    assert hub.asked == []


def test_an_unknown_data_set_is_named(hub: Hub, tmp_path: Path) -> None:
    del hub.repositories["datasets/org/sums"]
    one_line(data_stage(tmp_path, hub.url), "dataset 'org/sums' is not on the hub")


def test_a_file_of_another_content_than_pinned_is_refused(hub: Hub, tmp_path: Path) -> None:
    for below, _ in PINNED_FILES.values():
        hub.files[below] = b"changed"
    found = hashlib.sha256(b"changed").hexdigest()
    result = data_stage(tmp_path, hub.url, "prepare_benchmarks", mt_bench={"judge": "rule-based"})
    one_line(result, "mt_bench/question.jsonl", found, PINNED_FILES["mt_bench/question.jsonl"][1])
    assert list((tmp_path / "prepared").rglob("question.jsonl")) == []


def test_a_pinned_file_that_is_not_served_is_named(hub: Hub, tmp_path: Path) -> None:
    result = data_stage(tmp_path, hub.url, "prepare_benchmarks", mt_bench={"judge": "rule-based"})
    one_line(result, "mt_bench/question.jsonl cannot be downloaded", hub.url, "404", "data_root")


def test_the_real_mt_bench_and_agieval_files_have_the_pinned_checksums(
    hub: Hub, tmp_path: Path, shared_data: Path
) -> None:
    for path, (below, _) in PINNED_FILES.items():
        hub.files[below] = (shared_data / path).read_bytes()
    code, stderr = data_stage(tmp_path, hub.url, "prepare_benchmarks", mt_bench={"judge": "rule-based"})
    assert code == 0, stderr
    found = json.loads((benchmarks_folder(load(tmp_path / "experiment.yaml")) / "manifest.json").read_text())
    sums = {path: checksum for path, (_, checksum) in PINNED_FILES.items() if path.startswith("mt_bench")}
    assert sums.items() <= found["files"].items()


# --- repositories without a `configs:` header


def benchmarks_stage(folder: Path, url: str, *names: str) -> tuple[int, str]:
    entries = [{"name": name, "shots": 0} for name in names]
    datasets = {task.dataset for name in names for task in BENCHMARKS[name].tasks}
    revisions = {"org/sums": REVISION, **dict.fromkeys(datasets, REVISION)}
    evaluation = {"benchmarks": entries}
    return data_stage(folder, url, "prepare_benchmarks", evaluation=evaluation, dataset_revisions=revisions)


def test_the_wanted_configuration_of_the_hubs_conversion_is_downloaded_alone(hub: Hub, tmp_path: Path) -> None:
    write_suite_data(tmp_path / "data")
    converted = files_of(tmp_path / "data/hub/bigbio/pubmed_qa")
    hub.repositories["datasets/bigbio/pubmed_qa"] = Repository({**converted, "huge/train/0000.parquet": b"large"})
    hub.repositories["datasets/baber/piqa"] = Repository(files_of(tmp_path / "data/hub/baber/piqa"))
    code, stderr = benchmarks_stage(tmp_path, hub.url, "pubmedqa", "piqa")
    assert code == 0, stderr
    found = json.loads((benchmarks_folder(load(tmp_path / "experiment.yaml")) / "manifest.json").read_text())
    wanted = {f"hub/bigbio/pubmed_qa/{name}" for name in converted}
    assert set(found["files"]) == wanted | {
        f"hub/baber/piqa/piqa_{split}.parquet" for split in ("train", "validation", "test")
    }


def test_a_data_set_that_is_a_loading_script_says_what_to_do(hub: Hub, tmp_path: Path) -> None:
    script = {"README.md": b"---\nlicense: mit\n---\n", "pubmed_qa.py": b"import datasets\n", "pqal.zip": b"PK"}
    hub.repositories["datasets/bigbio/pubmed_qa"] = Repository(script)
    result = benchmarks_stage(tmp_path, hub.url, "pubmedqa")
    one_line(result, "bigbio/pubmed_qa has a loading script", "dataset_revisions", "refs/convert/parquet")
    assert [path for path in hub.asked if "pqal.zip" in path] == []

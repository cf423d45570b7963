"""Snakemake itself, on a copy of the checkout: what it would run, and how it refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import baselines
from eval.chosen import row_path
from tests.conftest import ROOT
from tests.shipped import own_methods
from tests.workflow.experiments import small, write
from workflow.continual_pretraining import continues
from workflow.experiment import baseline_of, load
from workflow.kinds import resolve
from workflow.places import data_folder

CODE = ("Snakefile", "workflow", "baselines", "lisa", "eval")
PARTS = (*CODE, "config", "profiles", "results/published", "environment.yml")
OTHERS = {  # every file of config/ besides the default
    "real_data.yaml",
    "all_methods.yaml",
    "lisa_variants.yaml",
    "weight_norms.yaml",
    "tuned.yaml",
    "ablation_gamma_period.yaml",
    "ablation_layer_draws.yaml",
    "memory_cpu.yaml",
    "continual_pretraining.yaml",
    *(f"paper/{file.name}" for file in (ROOT / "config/paper").glob("*.yaml")),
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What `git clone` gives, without what earlier runs left in ours."""
    folder = tmp_path_factory.mktemp("checkout")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, folder / part)
    yield folder


def snakemake(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(Path(sys.executable).parent / "snakemake"), *arguments]
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=120)


def jobs(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Rule -> how often a dry run would run it."""
    assert done.returncode == 0, done.stderr
    table = re.search(r"^job +count\n-+ +-+\n((?:\w+ +\d+\n)+)", done.stdout + done.stderr, re.MULTILINE)
    assert table, done.stdout + done.stderr
    return {rule: int(count) for rule, count in (line.split() for line in table[1].splitlines())}


def expected(experiment: dict) -> dict[str, int]:
    if experiment["kind"] == "memory":
        counts = {"all": 1, "memory_report": 1, "simulate": len(experiment["cells"])}
        counts |= {"measure": len(experiment["cells"])} if experiment["measure"]["device"] == "cpu" else {}
        return {**counts, "total": sum(counts.values())}
    runs, models = len(experiment["runs"]), len(experiment["models"])
    counts = {"all": 1, "prepare_data": 1, "prepare_benchmarks": 1, "leaks": 1, "prepare_model": models, "report": 1}
    if experiment["training"]["weight_norms_every_steps"]:
        counts["weight_norms"] = models * len(experiment["data"])
    if experiment["evaluation"]["general_text"]:
        counts["general_text"] = models
    if experiment["evaluation"]["noise_floor"]:
        counts["noise_floor"] = models
    if continued := sum(continues(experiment, run) for run in experiment["runs"]):
        counts["continue_pretraining"] = continued
    counts |= dict.fromkeys(("train", "evaluate", "judge"), runs)
    if experiment["tuning"]:
        counts |= {"trial": len(experiment["trials"]), "select": len({row_path(t) for t in experiment["trials"]})}
    if compared := sum(baseline_of(experiment, run) is not None for run in experiment["runs"]):
        counts["pairwise"] = compared
    return {**counts, "total": sum(counts.values())}


def written(checkout: Path) -> set[Path]:
    """All files, Snakemake's own notes and Python's caches aside."""
    return {
        file for file in checkout.rglob("*") if file.is_file() and not {".snakemake", "__pycache__"} & {*file.parts}
    }


def test_a_bare_dry_run_lists_the_smoke_experiment_and_writes_nothing(checkout: Path) -> None:
    before = written(checkout)
    found = jobs(snakemake(checkout, "-n"))
    assert found == expected(load(ROOT / "config/smoke.yaml"))
    assert found["train"] == 15 and found["pairwise"] == 12  # every run but the three of the baseline
    assert written(checkout) == before


@pytest.mark.parametrize("file", sorted(OTHERS))
def test_every_other_experiment_lists_its_own_jobs_only(checkout: Path, file: str, shared_data: Path) -> None:
    change = {"data_root": str(shared_data)} if file == "real_data.yaml" else {}
    words = [f"{key}={value}" for key, value in change.items()]
    done = snakemake(checkout, "-n", "--configfile", f"config/{file}", *(["--config", *words] if words else []))
    experiment = resolve({**yaml.safe_load((ROOT / "config" / file).read_text()), **change})
    assert jobs(done) == expected(experiment)
    assert "smoke" not in done.stdout + done.stderr


def test_the_experiments_tested_here_are_all_there_are() -> None:
    files = {str(file.relative_to(ROOT / "config")) for file in (ROOT / "config").rglob("*.yaml")}
    assert files == OTHERS | {"smoke.yaml"}


def test_every_method_is_in_the_experiment_of_all_methods() -> None:
    experiment = load(ROOT / "config/all_methods.yaml")
    missing = set(baselines.names()) - own_methods() - {run["method"] for run in experiment["runs"]}
    assert missing == set(), "name a new method in config/all_methods.yaml"


def test_weight_norms_are_compared_where_full_finetuning_and_lora_record_them(checkout: Path) -> None:
    experiment = ("--configfile", "config/weight_norms.yaml", "--config")
    assert "weight_norms" not in jobs(snakemake(checkout, "-n", *experiment, "methods=[full,lisa]"))
    assert "weight_norms" not in jobs(
        snakemake(checkout, "-n", *experiment, "training={weight_norms_every_steps: null}")
    )
    assert jobs(snakemake(checkout, "-n", *experiment, "methods=[lisa,lora,full]", "seeds=[0,1]"))["weight_norms"] == 1


def test_every_row_that_trains_has_its_trials_and_one_choice(checkout: Path) -> None:
    tuned = ("-n", "--configfile", "config/tuned.yaml", "--config", "seeds=[7,8]")
    found = jobs(snakemake(checkout, *tuned, "methods=[vanilla,full,lisa]", "tuning={trials: 3, seeds: [1,2]}"))
    assert (found["trial"], found["select"], found["train"]) == (2 * 3 * 2, 2, 3 * 2)
    assert "trial" not in jobs(snakemake(checkout, *tuned, "methods=[vanilla]"))


def test_a_list_on_the_command_line_replaces_the_files(checkout: Path) -> None:
    found = jobs(snakemake(checkout, "-n", "--config", "methods=[vanilla,full]"))
    assert found["train"] == found["evaluate"] == found["judge"] == 2 * 3


def test_another_experiment_inherits_nothing_and_a_mapping_on_the_command_line_is_merged(
    checkout: Path, tmp_path: Path
) -> None:
    settings = {"lisa": {"learning_rate": 0.5, "hyperparameters": {"period_steps": 3}}}
    file = write(tmp_path, small(method_settings=settings))
    overrides = ("training={steps: 9}", "method_settings={lisa: {hyperparameters: {gamma: 1}}}", "seeds=[4,5]")
    only = ("--cores", "1", "--until", "prepare_data")  # fails, the data being nowhere, after the document is written
    snakemake(checkout, *only, "--configfile", str(file), "--config", *overrides)
    settings["lisa"]["hyperparameters"]["gamma"] = 1
    wanted = small(method_settings=settings, seeds=[4, 5])
    wanted["training"]["steps"] = 9
    found = json.loads((checkout / "results/small/experiment.json").read_text())
    assert found == json.loads(json.dumps(resolve(wanted)))


def profile(folder: Path, *choices: str) -> str:
    """A profile as config/README.md describes one that chooses how this machine evaluates."""
    content = yaml.safe_load((ROOT / "profiles/default/config.yaml").read_text()) | {"config": list(choices)}
    (folder / "profile").mkdir()
    (folder / "profile/config.yaml").write_text(yaml.safe_dump(content))
    return str(folder / "profile")


def test_what_a_profile_chooses_of_evaluation_leaves_the_rest_of_it(checkout: Path, tmp_path: Path) -> None:
    evaluation = {"batch_size": 4, "benchmarks": [{"name": "gsm8k", "limit": 3}]}
    file = write(tmp_path, small(name="chosen", evaluation=evaluation))
    only = ("--cores", "1", "--until", "prepare_data", "--configfile", str(file))
    chosen = profile(tmp_path, "evaluation={batch_size: 6, backend: hf}")
    snakemake(checkout, *only, "--workflow-profile", chosen)
    found = json.loads((checkout / "results/chosen/experiment.json").read_text())
    wanted = small(name="chosen", evaluation=evaluation | {"batch_size": 6, "backend": "hf"})
    assert found == json.loads(json.dumps(resolve(wanted)))


def test_a_backend_that_this_machine_lacks_is_refused_before_the_first_job(checkout: Path, tmp_path: Path) -> None:
    file = write(tmp_path, small(name="lacking", evaluation={"benchmarks": [{"name": "gsm8k"}]}))
    chosen = profile(tmp_path, "evaluation={backend: vllm}")
    before = written(checkout)
    done = snakemake(checkout, "--cores", "1", "--configfile", str(file), "--workflow-profile", chosen)
    assert done.returncode != 0
    output = done.stdout + done.stderr
    assert "evaluation.backend: 'vllm' was asked for, but the package vllm is not installed here." in output
    assert "Traceback" not in output
    assert written(checkout) == before
    assert jobs(snakemake(checkout, "-n", "--configfile", str(file), "--workflow-profile", chosen))["evaluate"] == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="refused only without a CUDA device")
def test_cuda_is_refused_before_the_first_job_where_there_is_none(checkout: Path, tmp_path: Path) -> None:
    file = write(tmp_path, small(name="lacking", device="cuda"))
    before = written(checkout)
    done = snakemake(checkout, "--cores", "1", "--configfile", str(file))
    assert done.returncode != 0
    output = done.stdout + done.stderr
    assert "device: 'cuda' was asked for" in output and "Traceback" not in output
    assert written(checkout) == before
    assert jobs(snakemake(checkout, "-n", "--configfile", str(file)))["train"] == 2


@pytest.mark.parametrize(("judge", "taken"), [("openai", 1), ("rule-based", 0)])
def test_one_run_at_a_time_asks_a_judge_over_the_network(
    checkout: Path, tmp_path: Path, judge: str, taken: int
) -> None:
    file = write(tmp_path, small(mt_bench={"judge": judge, "pairwise_baseline": "vanilla"}))
    done = snakemake(checkout, "-n", "--configfile", str(file))
    asking = jobs(done)["judge"] + jobs(done)["pairwise"]
    assert asking == 3 and (done.stdout + done.stderr).count(f"judge={taken}\n") == asking
    assert yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())["resources"] == ["judge=1"]


def test_the_default_profile_runs_one_job_that_takes_judge_at_a_time(tmp_path: Path) -> None:
    """The second one's mkdir would fail beside the first."""
    command = "mkdir busy && sleep 1 && rmdir busy && touch {output}"
    rule = f"rule:\n  output: '{{number}}.done'\n  resources: judge=1\n  shell: '{command}'"
    (tmp_path / "Snakefile").write_text(f"rule all:\n  input: '1.done', '2.done'\n{rule}\n")
    done = snakemake(tmp_path, "--cores", "2", "--workflow-profile", str(ROOT / "profiles/default"))
    assert done.returncode == 0, done.stderr


def test_the_profile_for_slurm_gives_every_rule_that_is_a_job_its_resources() -> None:
    rules = {
        name
        for file in (ROOT / "workflow/rules").glob("*.smk")
        for name in re.findall(r"rule (?:\w+ as )?(\w+)(?: with)?:", file.read_text())
    }
    assert {"train", "trial", "noise_floor", "pairwise", "leaks", "measure"} <= rules
    profile = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
    assert set(profile["set-resources"]) == rules


def test_the_base_models_perplexity_and_the_checkpoints_are_measured_by_the_same_code() -> None:
    """Of what loads, measures and predicts; what only benchmarks and answers use is `evaluate`'s alone."""
    text = (ROOT / "workflow/rules/runs.smk").read_text()
    scope: dict[str, Any] = {"sources": lambda *patterns: list(patterns)}
    for name in ("LOADING_CODE", "EVALUATION_CODE", "GENERAL_TEXT_CODE"):
        (definition,) = re.findall(rf"^{name} = \[\n.*?^\]", text, re.MULTILINE | re.DOTALL)
        exec(definition, scope)
    before, after = set(scope["GENERAL_TEXT_CODE"]), set(scope["EVALUATION_CODE"])
    assert before - after == {"workflow/stages/general_text.py"}
    loading = {f"workflow/engine/{name}.py" for name in ("models", "devices", "checkpoints", "split")}
    assert loading <= before and all((ROOT / file).is_file() for file in before | after)


def test_a_part_beyond_a_text_that_is_prepared_is_refused_before_the_first_job(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/general.txt").write_text("Ann walks to town and back. " * 9)
    text = {"file": "general.txt", "sequence_length": 8, "first_character": 10**9}
    config = small(name="beyond", data_root=str(tmp_path / "root"), prepared_root=str(tmp_path / "prepared"))
    config["evaluation"] = {"general_text": text}
    manifest = data_folder(resolve(config)) / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"root": str(tmp_path / "root")}))
    done = snakemake(checkout, "--cores", "1", "--configfile", str(write(tmp_path, config)))
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert "evaluation.general_text.first_character: 1000000000" in output and "Traceback" not in output
    assert not (checkout / "results/beyond").exists()


def test_an_invalid_experiment_ends_in_its_one_message(checkout: Path) -> None:
    before = written(checkout)
    done = snakemake(checkout, "--cores", "1", "--config", "methods=[vanilla,galor]")
    assert done.returncode != 0
    output = done.stdout + done.stderr
    assert f"methods[1]: Unknown method 'galor'. Known: {', '.join(baselines.names())}." in output
    assert "Did you mean 'galore'?" in output
    assert "Traceback" not in output
    assert output.count("galor'") == 1
    assert written(checkout) == before


# --- memory experiments


def memory(folder: Path, **changes: Any) -> Path:
    """A small memory experiment as a YAML file."""
    experiment = {
        "name": "small_memory",
        "kind": "memory",
        "models": [{"name": "gpt2-small"}],
        "methods": ["full", "lora"],
    }
    return write(folder, experiment | changes)


def test_an_unknown_kind_ends_in_its_one_message(checkout: Path, tmp_path: Path) -> None:
    done = snakemake(checkout, "-n", "--configfile", str(memory(tmp_path, kind="memroy")))
    assert done.returncode != 0
    output = done.stdout + done.stderr
    assert "kind: unknown kind of experiment 'memroy'. Did you mean 'memory'? Known: training, memory." in output
    assert "Traceback" not in output


def test_cells_are_measured_by_the_pipeline_only_on_the_cpu(checkout: Path, tmp_path: Path) -> None:
    file = str(memory(tmp_path))
    found = jobs(snakemake(checkout, "-n", "--configfile", file))
    assert (found["simulate"], found.get("measure"), found["memory_report"]) == (2, None, 1)
    assert jobs(snakemake(checkout, "-n", "--configfile", file, "--config", "measure={device: cpu}"))["measure"] == 2


def test_records_that_are_there_are_inputs_of_the_page(checkout: Path, tmp_path: Path) -> None:
    cell = "gpt2-small/full/default/default/run.json"
    records = [f"results/small_memory/{cell}", f"results/reference/some-card/small_memory/{cell}"]
    for record in records:
        (checkout / record).parent.mkdir(parents=True)
        (checkout / record).write_text("{}")
    done = snakemake(checkout, "-n", "--configfile", str(memory(tmp_path)))
    shutil.rmtree(checkout / "results/small_memory")
    shutil.rmtree(checkout / "results/reference")
    inputs = re.search(r"rule memory_report:\n +input: (.*)", done.stdout + done.stderr)
    assert inputs
    assert [file for file in inputs[1].split(", ") if file.endswith("run.json")] == records


@pytest.mark.parametrize("file", ["config/smoke.yaml", "config/tuned.yaml", "config/memory_cpu.yaml"])
def test_rules_of_both_kinds_pass_snakemakes_lint(checkout: Path, file: str) -> None:
    done = snakemake(checkout, "--lint", "--configfile", file)
    assert done.returncode == 0, done.stdout + done.stderr

"""A made-up results tree: runs that are ok, out of memory, diverged, failed, killed; numbers mean nothing.

write_tree(folder) -> the experiment, whose files then stand in `folder` as a pipeline run would leave them.
"""

from __future__ import annotations

import gzip
import json
import math
import random
from pathlib import Path
from typing import Any

from eval.collect import collect, group

METHODS: tuple[tuple[str, str, dict[str, Any], float | None], ...] = (
    ("vanilla", "default", {}, None),
    ("full", "default", {}, 1e-3),
    ("lora", "r128", {"rank": 128, "alpha": 256.0}, 2e-3),
    ("galore", "default", {"rank": 32}, 1e-3),
    ("lisa", "gamma2", {"gamma": 2, "period_steps": 5}, 1e-3),
    ("lisa", "gamma4", {"gamma": 4, "period_steps": 5}, 1e-3),
)
SKILL = {"vanilla": 0.0, "full": 0.9, "lora": 0.7, "galore": 0.75, "lisa": 0.85}
MEMORY_MB = {
    "full": (14, 14, 28, 10, 2),
    "lora": (15, 1, 3, 9, 2),
    "galore": (14, 14, 5, 8, 4),
    "lisa": (14, 5, 10, 7, 2),
}
STEP_S = {"full": 0.21, "lora": 0.17, "galore": 0.25, "lisa": 0.15}
LIMITS = {
    "vanilla": {"full limit": "it trains nothing"},
    "galore": {"clipping": "one gradient at a time", "accumulation": "one gradient at a time"},
}
STEPS = 60
CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")


def experiment(name: str = "fixture", *, seeds: tuple[int, ...] = (0, 1), models: int = 1) -> dict[str, Any]:
    """A resolved experiment with its list of runs."""
    model_names = [f"tiny{index}" if index else "tiny" for index in range(models)]
    runs = [
        {
            "model": model,
            "data": "world-chat",
            "method": method,
            "variant": variant,
            "hyperparameters": hyperparameters,
            "learning_rate": rate,
            "seed": seed,
            "path": f"{model}/world-chat/{method}/{variant}/seed{seed}",
        }
        for model in model_names
        for method, variant, hyperparameters, rate in METHODS
        for seed in seeds
    ]
    return {
        "name": name,
        "data_root": "world",
        "models": [{"name": model, "published_as": "TinyLlama"} for model in model_names],
        "evaluation": {"benchmarks": [{"name": name} for name in ("mmlu", "agieval", "winogrande", "gsm8k")]},
        "mt_bench": {"judge": "rule-based", "limit": None},
        "prompt_format": "chat",
        "training": {"steps": STEPS, "precision": "fp32", "beta1": 0.9, "adamw_implementation": "fused"},
        "report": {"published": []},
        "prepared": {"benchmarks": "prepared/benchmarks/of-no-run"},
        "runs": runs,
    }


def write_tree(folder: Path, plan: dict[str, Any] | None = None) -> dict[str, Any]:
    """Write every run as ok, experiment.json, and return the experiment."""
    plan = plan or experiment()
    for run in plan["runs"]:
        write_ok(folder, run)
    write(folder / "experiment.json", plan)
    return plan


def write(file: Path, content: Any) -> None:
    """A JSON file and its folders."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def run_of(plan: dict[str, Any], method: str, seed: int, variant: str | None = None) -> dict[str, Any]:
    """The first run of a method and seed."""
    return next(
        run
        for run in plan["runs"]
        if (run["method"], run["seed"]) == (method, seed) and variant in (None, run["variant"])
    )


# --- one run


def write_ok(folder: Path, run: dict[str, Any]) -> None:
    """A finished run with all its files."""
    home = folder / run["path"]
    write(home / "run.json", record(run))
    write(home / "scores.json", scores(run))
    write(home / "mt_bench.json", mt_bench(run))
    (home / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log(run)))


def write_stopped(folder: Path, run: dict[str, Any], status: str, phase: str, error: str) -> None:
    """A run that ended as `oom` or `diverged` (a record, the evaluations skipped) or `failed` (failure.json only)."""
    home = folder / run["path"]
    for name in ("run.json", "scores.json", "mt_bench.json"):
        (home / name).unlink(missing_ok=True)
    stopped = record(run) | {"status": status, "phase": phase, "error": error, "time": None, "validation_loss": None}
    if status == "failed":
        write(home / "failure.json", stopped)
        return
    write(home / "run.json", stopped)
    for name in ("scores.json", "mt_bench.json"):
        write(home / name, {"schema_version": "1.0", "status": "skipped", "reason": f"training ended as {status}"})


def write_old(folder: Path, run: dict[str, Any]) -> None:
    """A run whose record is of version 1.0, which knew no temporaries and no parts of training."""
    old = record(run) | {"schema_version": "1.0.0"}
    del old["optimizer_state_bytes"], old["method"]["limits"]
    memory = old["memory"]
    memory["phases"] = {name: memory["phases"][name] for name in ("load", "train", "evaluate")}
    memory["components"]["activations"] += memory["components"].pop("temporaries")
    write(folder / run["path"] / "run.json", old)


def write_killed(folder: Path, run: dict[str, Any]) -> None:
    """A run whose process was killed: nothing but its log."""
    for name in ("run.json", "scores.json", "mt_bench.json"):
        (folder / run["path"] / name).unlink()


def record(run: dict[str, Any]) -> dict[str, Any]:
    """A run.json of the schema of workflow/schemas/run_record.schema.json."""
    trains = run["method"] != "vanilla"
    counts = {"train_tokens": 150_000, "train_items": 640, "validation_items": 64, "cut_items": 0}
    settled = {key: run[key] for key in ("variant", "hyperparameters", "learning_rate")}
    return {
        "schema_version": "1.1.1",
        "experiment": "fixture",
        "model": {"name": run["model"], "revision": None, "sha256": "0" * 64, "parameters": 1_800_000},
        "data": {"name": run["data"], "revision": None, "sha256": "1" * 64, **counts},
        "method": {"name": run["method"], **settled, "limits": LIMITS.get(run["method"], {})},
        "seed": run["seed"],
        "status": "ok",
        "phase": None,
        "error": None,
        "settings": settings(),
        "memory": memory(run),
        "time": times(run) if trains else None,
        "throughput": throughput(run) if trains else None,
        "flops_per_step": 22_000_000_000 if trains else None,
        "mfu": None,
        "trainable_parameters": {"always": 300_000, "sampled": 400_000, "total": 700_000} if trains else None,
        "optimizer_state_bytes": 1_000_000 * MEMORY_MB[run["method"]][2] + 500_000 if trains else None,
        "validation_loss": round(2.0 - SKILL[run["method"]] + 0.01 * run["seed"], 4) if trains else None,
        "steps": STEPS if trains else None,
        "resumed_at_step": None,
        "started": f"2030-01-02T03:0{run['seed'] % 10}:00+00:00",
        "environment": environment(),
    }


def settings() -> dict[str, Any]:
    """Of the run, those of the experiment among them."""
    training = {"steps": STEPS, "precision": "fp32", "beta1": 0.9, "adamw_implementation": "fused"}
    return {**training, "prompt_format": "chat", "optimizer_state_dtype": "fp32"}


def write_compared(folder: Path, plan: dict[str, Any]) -> None:
    """Make the scores of all runs such as the papers report: real data, whole benchmarks, a language model as judge."""
    plan["data_root"] = "real"
    for run in plan["runs"]:
        whole = scores(run)
        for entry in whole["benchmarks"].values():
            entry |= {"whole_benchmark": True, "limit": None}
        write(folder / run["path"] / "scores.json", whole)
        judged = mt_bench(run) | {"judge": {"kind": "llm", "model": "judge-7b"}, "answers": {"max_new_tokens": 1024}}
        write(folder / run["path"] / "mt_bench.json", judged)


def environment() -> dict[str, Any]:
    """As workflow/engine/records.py writes it."""
    return {
        "python": "3.11.9",
        "packages": {"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2", "lm-eval": "0.4.13"},
        "torch_build": "2.13.0+cpu",
        "cuda": None,
        "device": "cpu (Imaginary CPU)",
        "driver": None,
        "host_cpu": "Imaginary CPU",
        "cpu_count": 2,
        "threads": 1,
        "git_commit": "c0ffee" * 6 + "c0ff",
        "git_dirty": True,
        "code_sha256": "2" * 64,
        "lock_sha256": "3" * 64,
    }


def memory(run: dict[str, Any]) -> dict[str, Any]:
    """Components add up to the allocated peak; a bit more for the second seed."""
    meter = {"meter": "cpu-live-storage", "reserved_peak_bytes": None, "process_peak_bytes": 700_000_000}
    if run["method"] == "vanilla":
        peak = {"allocated_peak_bytes": 14_000_000, "phases": {"load": 14_000_000}, "components": None}
        return {**meter, **peak, "metered_steps": 0}
    names = ("weights", "gradients", "optimizer_state", "activations", "temporaries")
    parts = {name: megabytes * 1_000_000 for name, megabytes in zip(names, MEMORY_MB[run["method"]], strict=True)}
    parts["other"] = 1000 * run["seed"]
    total = sum(parts.values())
    within = {"forward": total - 3_000_000, "backward": total, "step": total - 1_000_000}
    phases = {"load": 14_000_000, "train": total, **within, "evaluate": 20_000_000}
    return {**meter, "allocated_peak_bytes": total, "phases": phases, "components": parts, "metered_steps": 4}


def times(run: dict[str, Any]) -> dict[str, Any]:
    """Seconds."""
    median = STEP_S[run["method"]] * (1 + 0.02 * run["seed"])
    times = {"train_s": median * STEPS, "step_median_s": median, "step_p90_s": median * 1.2}
    return {**times, "warmup_steps": 5, "timed_steps": STEPS - 5}


def throughput(run: dict[str, Any]) -> dict[str, Any]:
    """Of batches of 16 x 128 tokens, a fifth of it padding."""
    rate = 2048 / STEP_S[run["method"]]
    return {"tokens_per_s": 0.8 * rate, "padded_tokens_per_s": rate}


def scores(run: dict[str, Any]) -> dict[str, Any]:
    """Four benchmarks with the item errors of 80 items each."""

    def entry(tasks: tuple[str, ...], base: float, shots: int, limit: int | None) -> dict[str, Any]:
        value = base + 0.4 * SKILL[run["method"]] + 0.01 * run["seed"]
        return {
            "value": value,
            "stderr": math.sqrt(value * (1 - value) / 80),
            "metric": "acc",
            "items": 80,
            "shots": shots,
            "limit": limit,
            "tasks": {task: {"value": value} for task in tasks},
            "whole_benchmark": False,
        }

    benchmarks = {
        "mmlu": entry(("mmlu_anatomy", "mmlu_astronomy", "mmlu_virology"), 0.25, 5, 40),
        "agieval": entry(("agieval_lsat_ar", "agieval_sat_math"), 0.22, 3, None),
        "winogrande": entry(("winogrande",), 0.5, 5, 80),
        "gsm8k": entry(("gsm8k",), 0.02, 5, None),
    }
    settings = {"batch_size": 8, "lm_eval": "0.4.13"}
    memory = {"evaluate_peak_bytes": 31_000_000}
    return {
        "schema_version": "1.0",
        "status": "ok",
        "benchmarks": benchmarks,
        "settings": settings,
        "memory": memory,
        "evaluate_s": 12.5,
    }


def mt_bench(run: dict[str, Any]) -> dict[str, Any]:
    """As eval.mt_bench.summarise writes it."""
    mean = 1.5 + 6 * SKILL[run["method"]] + 0.1 * run["seed"]
    unparsable = 1 if (run["method"], run["seed"]) == ("vanilla", 0) else 0
    return {
        "schema_version": "1.0",
        "status": "ok",
        "judge": {"kind": "rule-based", "model": "rule-based-judge"},
        "mean": mean,
        "stderr": 0.3,
        "questions": 16,
        "ratings": 32 - unparsable,
        "unparsable": unparsable,
        "turn_means": [mean + 0.2, mean - 0.2],
        "categories": {name: {"mean": mean, "ratings": 4, "unparsable": 0} for name in CATEGORIES},
        "mean_without_coding": mean,
        "stderr_without_coding": 0.3,
        "limit": None,
    }


def write_whole(folder: Path, plan: dict[str, Any]) -> None:
    """Ask for all that an experiment may ask for, and write it as version 1.1 of the files has it."""
    plan["evaluation"] |= {"noise_floor": {"batch_size": 16}, "general_text": {"file": "text/general.txt.gz"}}
    plan["mt_bench"] |= {"pairwise_baseline": "vanilla", "repeats": 3}
    for run in plan["runs"]:
        home = folder / run["path"]
        write(home / "scores.json", scores_1_1(run))
        write(home / "mt_bench.json", mt_bench_1_1(run))
        if run["method"] != "vanilla":
            write(home / "pairwise.json", pairwise(run))
    for model in plan["models"]:
        write(folder / model["name"] / "noise_floor.json", noise_floor(plan, model["name"]))
        write(folder / model["name"] / "general_text.json", {"status": "ok", **general_text(0.0)})
    write(folder / "leaks.json", leaks())


def protocol(entry: dict[str, Any]) -> dict[str, Any]:
    """How a benchmark of `scores` was run."""
    settled = {"shots": entry["shots"], "limit": entry["limit"], "max_new_tokens": None}
    made = {"prompts_sha256": "5" * 64, "batch_size": 8, "backend": "hf", "dtype": "float32"}
    packages = {"transformers": "5.23.0", "torch": "2.13.0", "vllm": None}
    return {"harness": "lm_eval 0.4.13", "tasks": dict.fromkeys(entry["tasks"], 1.0), **settled, **made, **packages}


def scores_1_1(run: dict[str, Any]) -> dict[str, Any]:
    """`scores` with protocols and the perplexity on general text."""
    content = scores(run) | {"schema_version": "1.1", "general_text": general_text(SKILL[run["method"]], run["seed"])}
    for entry in content["benchmarks"].values():
        entry["protocol"] = protocol(entry)
        for task in entry["tasks"].values():
            task |= {"stderr": 0.05, "items": 40, "version": 1.0, "shots": entry["shots"], "prompts_sha256": "6" * 64}
    return content


def general_text(skill: float, seed: int = 0) -> dict[str, Any]:
    """The better at the task, the more is forgotten."""
    nll_nats = 9000.0 * (1 + 0.1 * skill + 0.002 * seed * (skill > 0))
    return {
        "file": "text/general.txt.gz",
        "file_sha256": "7" * 64,
        "first_character": 0,
        "characters": 12_000,
        "words": 2000,
        "bytes": 12_000,
        "tokens": 3000,
        "sequence_length": 512,
        "nll_nats": nll_nats,
        "predicted_tokens": 3000,
        "token_perplexity": math.exp(nll_nats / 3000),
        "word_perplexity": math.exp(nll_nats / 2000),
        "bits_per_byte": nll_nats / 12_000 / math.log(2),
        "backend": "hf",
        "dtype": "float32",
    }


ITEMS = 80


def write_items(folder: Path, plan: dict[str, Any], items: int = ITEMS) -> None:
    """Give every run item-level results, whose means its scores become: skill decides, seeds differ in few items."""
    for run in plan["runs"]:
        home, draw = folder / run["path"], random.Random(run["path"])
        _write_samples(home, draw, items)
        _write_judgments(home, draw)
        if (home / "pairwise.json").is_file():
            _write_comparisons(home, draw, SKILL[run["method"]])


def _write_samples(home: Path, draw: random.Random, items: int) -> None:
    content, rows = json.loads((home / "scores.json").read_text()), []
    for name, entry in content["benchmarks"].items():
        tasks = list(entry["tasks"])
        level, right = entry["value"], 0
        for index in range(items):
            correct = (index * 0.618034) % 1 + draw.gauss(0, 0.05) < level  # hard and easy items take turns
            right += correct
            about = {
                "benchmark": name,
                "task": tasks[index % len(tasks)],
                "item": index,
                "item_id": f"{name}/{index:016x}",
            }
            about |= {"prompt_sha256": f"{index:016d}", "correct": correct, "metrics": {}, "prediction": 0, "target": 0}
            rows.append(about)
        entry["value"] = right / items
    write(home / "scores.json", content)
    with gzip.open(home / "samples.jsonl.gz", "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)


def _write_judgments(home: Path, draw: random.Random) -> None:
    content, rows = json.loads((home / "mt_bench.json").read_text()), []
    means: dict[str, list[float]] = {}
    for question in range(16):
        category = CATEGORIES[question % len(CATEGORIES)]
        ratings = [round(min(10, max(1, content["mean"] + draw.gauss(question % 3 - 1, 0.7)))) for _ in (1, 2)]
        means.setdefault(category, []).append(sum(ratings) / 2)
        about = {"question_id": question, "category": category, "prompt_name": "single-v1", "prompt_sha256": "5" * 64}
        rows += [about | {"turn": turn, "rating": rating} for turn, rating in enumerate(ratings, start=1)]
    every = [mean for found in means.values() for mean in found]
    bare = [mean for name, found in means.items() if name != "coding" for mean in found]
    content |= {"mean": sum(every) / len(every), "mean_without_coding": sum(bare) / len(bare)}
    for name, found in means.items():
        content["categories"][name]["mean"] = sum(found) / len(found)
    write(home / "mt_bench.json", content)
    (home / "judgments.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write_comparisons(home: Path, draw: random.Random, skill: float) -> None:
    rows = [
        {"question_id": question, "turn": turn, "outcome": draw.choices(("win", "tie", "loss"), (skill, 0.2, 0.2))[0]}
        for question in range(16)
        for turn in (1, 2)
    ]
    (home / "comparisons.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def noise_floor(plan: dict[str, Any], model: str) -> dict[str, Any]:
    """Of the model's first trained run: 0.0125 on MMLU and AGIEval, nothing on the others."""
    first = next(run for run in plan["runs"] if run["model"] == model and run["method"] != "vanilla")
    benchmarks = {}
    for name, entry in scores(first)["benchmarks"].items():
        moved = name in ("mmlu", "agieval")
        same = {"value": entry["value"], "changed_items": 0, "largest_log_likelihood_difference": 0.0}
        other = {"value": entry["value"] + 0.0125 * moved, "changed_items": int(moved)}
        other["largest_log_likelihood_difference"] = None if name == "gsm8k" else 3e-5
        floor = {"items": 80, "value": entry["value"], "floor": 0.0125 * moved}
        benchmarks[name] = {**floor, "again": same, "other_batch_size": other}
    about = {"run": first["path"], "batch_size": 8, "other_batch_size": 16}
    return {"schema_version": "1.0", "status": "ok", "reason": None, **about, "benchmarks": benchmarks}


def mt_bench_1_1(run: dict[str, Any]) -> dict[str, Any]:
    """`mt_bench` with intervals, repeats, dates and what the judge read and wrote."""
    content = mt_bench(run)
    around = [content["mean"] - 0.5, content["mean"] + 0.6]
    content["judge"] |= {"server": "rule-based", "prompts_sha256": "8" * 64}
    content["judge"] |= {"dates": ["2030-01-02", f"2030-01-0{3 + run['seed']}"]}
    for category in content["categories"].values():
        category["interval"] = [category["mean"] - 1, category["mean"] + 1]
    usage = {"requests": 96, "asked": 96, "from_store": 0, "prompt_tokens": 50_000, "completion_tokens": 9_000}
    return content | {
        "schema_version": "1.1",
        "interval": around,
        "interval_without_coding": around,
        "repeats": 3,
        "answers": {"max_new_tokens": 1024},
        "questions_sha256": "a" * 64,
        "usage": usage | {"cost_usd": 0.25},
    }


def pairwise(run: dict[str, Any]) -> dict[str, Any]:
    """16 questions, two turns each, against vanilla."""
    wins = round(10 + 10 * SKILL[run["method"]])
    counts = {"wins": wins, "losses": 6, "ties": 2, "inconsistent": 31 - 8 - wins, "unparsable": 1}
    rate = (wins + (counts["ties"] + counts["inconsistent"]) / 2) / 31
    return {
        "schema_version": "1.0",
        "status": "ok",
        "reason": None,
        "baseline": run["path"].replace(f"{run['method']}/{run['variant']}", "vanilla/default"),
        "judge": {"kind": "rule-based", "model": "rule-based-judge", "prompts_sha256": "9" * 64},
        "questions": 16,
        "comparisons": 32,
        **counts,
        "win_rate": rate,
        "interval": [rate - 0.1, rate + 0.1],
        "categories": {},
        "limit": None,
        "usage": {"requests": 64, "from_store": 4, "prompt_tokens": 1000, "completion_tokens": 200, "cost_usd": 0.5},
    }


def leaks() -> dict[str, Any]:
    """Two of 240 MMLU items stand in the training data."""
    example = {"item_id": "mmlu_virology/0a1b2c3d4e5f6071", "text": "which of the following is <b>not</b> a virus"}
    counted = {"items": 240, "long_items": 200, "overlapping": 2, "share": 2 / 200, "examples": [example]}
    counted |= {"short_overlapping": 3}
    none = {"items": 32, "long_items": 30, "overlapping": 0, "share": 0.0, "examples": []}
    none |= {"short_overlapping": 0}
    prompts = {"mmlu": {"mmlu_virology": {"shots": 5, "items": 240, "demonstrations": "dev", "shared_passages": 7}}}
    overlap = {"world-chat": {"mmlu": counted, "mt_bench": none}}
    return {"schema_version": "1.0", "status": "ok", "ngram": 13, "prompts": prompts, "overlap": overlap}


def log(run: dict[str, Any]) -> list[dict[str, Any]]:
    """A falling, noisy loss with a validation every 20 steps."""
    if run["method"] == "vanilla":
        return []
    noise, lines = random.Random(f"{run['path']}"), []
    for step in range(STEPS):
        loss = 0.8 + (3.2 - SKILL[run["method"]]) * math.exp(-step / 15) + noise.gauss(0, 0.08)
        line = {"step": step, "loss": loss, "grad_norm": 1.0, "learning_rate": 1e-3, "tokens": 1640, "step_s": 0.2}
        lines.append(line)
        if step % 20 == 19 and step < STEPS - 1:
            lines.append({"step": step, "validation_loss": loss + 0.05})
    return lines


def rows_of(plan, tree):
    """The rows that the tables make of a tree."""
    return group(collect(plan, tree), plan)


def row_of(table, method, variant=None):
    """The first row of a method, or of a variant of it."""
    return next(row for row in table if row["method"] == method and variant in (None, row["variant"]))

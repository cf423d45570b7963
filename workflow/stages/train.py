"""Train one run: load the prepared model and data, fine-tune with the method, export a plain checkpoint, write the run
record. Where the experiment pretrains continually, the checkpoint of `continue_pretraining` is loaded in place of the
prepared model; if that stage left none, there is nothing to fine-tune, and the record says so.

A run whose learning rate trials choose takes it, and what else was swept, from `tuning/chosen.json`. A trial is trained
by the same loop; it has the loss on the tuning records in place of the validation loss, and no checkpoint.

Out of memory and divergence are results: they have a record with that status and no checkpoint, and the stage ends
well. Any other failure writes `failure.json` and ends with a non-zero code, so that Snakemake tries the run again the
next time.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.chosen import as_chosen
from eval.planned import LOOKS
from workflow import continual_pretraining
from workflow.engine.errors import InputError
from workflow.experiment import build_method, find_training, load
from workflow.places import data_folder, model_folder
from workflow.seeds import seed_of
from workflow.stages import parser, read_manifest, reason_of, results_folder, stage_main
from workflow.stages.leaks import refuse_known_leak

RESULTS_OF_TRAINING = (
    "scores.json",
    "samples.jsonl.gz",
    "answers.jsonl",
    "judgments.jsonl",
    "mt_bench.json",
    "comparisons.jsonl",
    "pairwise.json",
    "model/README.md",
)
ENVIRONMENT_SHOWN = ("device", "packages", "git_commit", "git_dirty", "code_sha256")  # by trackers
LOOP_KEYS = (
    "batch_size",
    "accumulation_steps",
    "schedule",
    "warmup_steps",
    "max_grad_norm",
    "precision",
    "evaluate_every_steps",
    "checkpoint_every_steps",
    "untimed_steps",
    "metered_steps",
    "weight_norms_every_steps",
    "loss_chunk_tokens",
    "step_in_backward",
)
# of the record that continual pretraining left, what the run's own record repeats
OF_CONTINUED = ("status", "phase", "error", "data", "steps", "validation_loss", "memory", "time", "throughput")


def main() -> None:
    """Command line."""
    arguments = parser(__doc__, run=True).parse_args()
    experiment = load(arguments.experiment)
    run = find_training(experiment, arguments.run)
    results = results_folder(experiment, arguments.results)
    refuse_known_leak(results)
    if is_trial(run):
        experiment = without_looks(experiment)
    else:
        run = as_chosen(run, experiment, results)
    train_run(experiment, run, results / run["path"])


def is_trial(run: Mapping[str, Any]) -> bool:
    """Whether it is trained to choose a learning rate, not for the tables."""
    return "trial" in run


def without_looks(experiment: dict[str, Any]) -> dict[str, Any]:
    """The experiment as its trials are trained: what looks at the training on the way is off, trackers included."""
    return experiment | {"training": experiment["training"] | dict.fromkeys(LOOKS), "tracking": []}


def train_run(experiment: dict[str, Any], run: dict[str, Any], folder: Path) -> None:
    """Do the run and leave run.json, log.jsonl and model/ in `folder`; what a former training led to goes first.

    A trial leaves no model/.
    """
    for name in RESULTS_OF_TRAINING:
        (folder / name).unlink(missing_ok=True)
    leave_results(Attempt(experiment, run, folder))


def leave_results(attempt: Attempt) -> None:
    """Carry an attempt out and leave run.json, log.jsonl and model/ in its folder, or failure.json."""
    from workflow.engine.models import work_offline
    from workflow.engine.records import check_record, write_json
    from workflow.engine.training import forget_checkpoints
    from workflow.engine.weight_norms import FILE as WEIGHT_NORMS

    folder, failure = attempt.folder, attempt.failure_file
    work_offline()
    folder.mkdir(parents=True, exist_ok=True)
    failure.unlink(missing_ok=True)
    _forget_other_settings(attempt)
    try:
        attempt.carry_out()
    except Exception as error:
        if not attempt.note(error):
            with contextlib.suppress(OSError):  # a full disk: the reason comes first
                write_json(failure, attempt.failure())
            raise
        shutil.rmtree(folder / "model", ignore_errors=True)
        if not is_trial(attempt.run):
            (folder / "model").mkdir()
    (folder / "log.jsonl").touch()
    if attempt.experiment["training"]["weight_norms_every_steps"]:
        (folder / WEIGHT_NORMS).touch()  # a run that trained nothing has none
    check_record(attempt.record)
    write_json(folder / "run.json", attempt.record)
    forget_checkpoints(folder)
    if attempt.tracking:
        attempt.tracking.finish(attempt.record)


def _forget_other_settings(attempt: Attempt) -> None:
    """Drop a checkpoint that was made under other settings than today's: it must not be resumed."""
    from workflow.engine.training import forget_checkpoints

    wanted, file = json.dumps(attempt.decided_by(), sort_keys=True), attempt.folder / "checkpoint.settings.json"
    if not file.is_file() or file.read_text() != wanted:
        forget_checkpoints(attempt.folder)
        file.write_text(wanted)


class EndedBefore(Exception):
    """Continual pretraining ended early, as its record says, so there is nothing to fine-tune."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        super().__init__(f"nothing to fine-tune: ended as {record['status']} ({record['phase']}: {record['error']})")
        self.status = record["status"]


class Attempt:
    """One attempt at a run; `record` grows as the phases pass, so that a failure leaves what was known by then."""

    def __init__(self, experiment: dict[str, Any], run: dict[str, Any], folder: Path) -> None:
        self.experiment, self.run, self.folder = experiment, run, folder
        self.failure_file = folder / "failure.json"
        self.method = build_method(experiment, run)
        self.tracking: Any = None
        self.record = empty_record(experiment, run)

    def decided_by(self) -> dict[str, Any]:
        """All that a checkpoint to resume from must have in common with this attempt."""
        from workflow.engine.models import sha256_file
        from workflow.engine.records import method_files, sha256_sources

        experiment, run = self.experiment, self.run
        parts = {key: experiment[key] for key in ("training", "prompt_format", "threads", "device")} | {"run": run}
        parts |= {"data": str(data_folder(experiment)), "model": str(model_folder(experiment, run["model"]))}
        before = self.folder / continual_pretraining.FOLDER / "run.json"
        parts |= {"continued": sha256_file(before)} if before.is_file() else {}
        return parts | {"code": sha256_sources(method_files(run["method"]))}

    def carry_out(self) -> None:
        """Load, train, export unless it is a trial; each phase is noted before it begins."""
        self._start()
        model, tokenizer = self._load()
        if self.method.trains:
            model = self._train(model, tokenizer)
        if not is_trial(self.run):
            self._export(model, tokenizer)
        self.record |= {"memory": self.meter.record(), "phase": None, "status": "ok", "error": None}

    def _export(self, model: Any, tokenizer: Any) -> None:
        self.record["phase"] = "export"
        model.config.use_cache = True
        self.method.export(model, self.folder / "model")
        (self.folder / "model/adapter/README.md").unlink(missing_ok=True)  # peft's card: a local path, and holes
        tokenizer.save_pretrained(self.folder / "model")

    def _start(self) -> None:
        import torch

        from workflow.engine.devices import take_device
        from workflow.engine.memory import MemoryMeter
        from workflow.engine.records import environment, method_files
        from workflow.engine.speed import StepClock
        from workflow.engine.tracking import check_installed

        check_installed(self.experiment["tracking"])
        self.device = take_device(self.experiment["device"])
        torch.set_num_threads(self.experiment["threads"])
        torch.manual_seed(seed_of("draws", self.experiment, self.run))
        self.meter = MemoryMeter(self.device)
        self.clock = StepClock(self.experiment["training"]["untimed_steps"], self.device)
        self.record["environment"] = environment(
            method_files(self.run["method"]), self.device, self.experiment["threads"]
        )
        self.record["settings"] = settings_of(self.experiment, self.device, self.method)

    def _load(self) -> tuple[Any, Any]:
        from workflow.engine.models import count_parameters, load_model, load_tokenizer, loading_device
        from workflow.engine.prompts import check_format

        training = self.experiment["training"]
        checkpoint = self._checkpoint()
        tokenizer = load_tokenizer(checkpoint)
        check_format(
            self.experiment["prompt_format"], tokenizer, answers=self.experiment["mt_bench"] is not None
        )  # a model that another experiment prepared was not asked for this one's format
        with self.meter.phase("load"), self.meter.step():
            model = load_model(
                checkpoint,
                precision=training["precision"],
                attention=training["attention"],
                device=loading_device(self.method, self.device),
                training=True,
            )
            self.meter.watch(model)
        self.record["model"]["parameters"] = count_parameters(model)
        return model, tokenizer

    def _base_model(self) -> Path:
        """Folder of the prepared model, whose revision the record then has."""
        manifest = read_manifest(model_folder(self.experiment, self.run["model"]))
        self.record["model"] |= {key: manifest[key] for key in ("revision", "sha256")}
        return Path(manifest["folder"])

    def _checkpoint(self) -> Path:
        """Folder of what is fine-tuned: the prepared model, or what continual pretraining made of it."""
        from workflow.engine.models import sha256_folder

        base = self._base_model()
        if not continual_pretraining.continues(self.experiment, self.run):
            return base
        folder = self.folder / continual_pretraining.FOLDER
        before = read_continued(self.experiment, folder)
        told = {key: before[key] for key in OF_CONTINUED} | {"learning_rate": before["method"]["learning_rate"]}
        self.record["continual_pretraining"] = told | {"checkpoint_sha256": None}
        if before["status"] != "ok":
            self.record["phase"] = continual_pretraining.KEY
            raise EndedBefore(before)
        self.record["continual_pretraining"]["checkpoint_sha256"] = sha256_folder(folder / "model")
        return folder / "model"

    def _train(self, model: Any, tokenizer: Any) -> Any:
        from workflow.engine.training import Loop, LoopSettings, optimizer_steps
        from workflow.engine.training_step import checkpoint_layers

        experiment, training = self.experiment, self.experiment["training"]
        held_out = "tuning" if is_trial(self.run) else "validation"
        splits = self._read_data(tokenizer, ("train", held_out))
        steps = optimizer_steps(training, len(splits["train"]))
        self.record |= {"phase": "train", "steps": steps}
        if training["gradient_checkpointing"]:
            checkpoint_layers(model)
        loop = Loop(
            model,
            self.method,
            LoopSettings(steps=steps, **{key: training[key] for key in LOOP_KEYS}),
            train=splits["train"],
            validation=splits[held_out],
            learning_rate=self.run["learning_rate"],
            seed=seed_of("data_order", experiment, self.run),
            pad_token_id=tokenizer.pad_token_id,
            folder=self.folder,
            meter=self.meter,
            clock=self.clock,
            device=self.device,
            tracking=self._tracked(),
        )
        result = loop.run()
        self._note_result(result, experiment)
        return result.model

    def _tracked(self) -> Any:
        """Where the run is shown while it trains, its record so far as the configuration; None: nowhere."""
        from workflow.engine.tracking import Tracking

        if self.experiment["tracking"]:
            about = {key: self.record[key] for key in ("model", "data", "method", "seed", "settings")}
            about["environment"] = {key: self.record["environment"][key] for key in ENVIRONMENT_SHOWN}
            self.tracking = Tracking(
                self.experiment["tracking"],
                self.folder,
                experiment=self.experiment["name"],
                run=self.run["path"],
                about=about,
            )
        return self.tracking

    def _read_data(self, tokenizer: Any, names: tuple[str, ...]) -> dict[str, Any]:
        from workflow.engine.data import read_conversations, tokenize

        experiment, splits, cut = self.experiment, {}, 0
        folder = data_folder(experiment)
        manifest = read_manifest(folder)["data"][self.run["data"]]
        for split in names:
            conversations = read_conversations(folder / self.run["data"] / f"{split}.jsonl")
            examples = tokenize(
                conversations, tokenizer, experiment["prompt_format"], experiment["training"]["sequence_length"]
            )
            splits[split], cut = examples.items, cut + examples.cut
        self.record["data"] |= {"revision": manifest["revision"], "sha256": manifest["sha256"], "cut_items": cut}
        self.record["data"] |= {f"{split}_items": len(items) for split, items in splits.items()}
        return splits

    def _note_result(self, result: Any, experiment: dict[str, Any]) -> None:
        from workflow.engine.records import device_name
        from workflow.engine.speed import mfu

        clock = self.clock.record()
        self.record["data"]["train_tokens"] = result.train_tokens
        self.record |= {
            "time": {"train_s": result.train_s, **clock["time"]},
            "throughput": clock["throughput"],
            "flops_per_step": result.flops_per_step,
            "trainable_parameters": result.trainable_parameters,
            "optimizer_state_bytes": result.optimizer_state_bytes,
            "tuning_loss" if is_trial(self.run) else "validation_loss": result.validation_loss,
            "resumed_at_step": result.resumed_at_step,
        }
        self.record["settings"]["optimizer_state_dtype"] = result.optimizer_state_dtype
        rate = clock["throughput"]["padded_tokens_per_s"]
        if result.flops_per_step and rate:
            flops_per_s = result.flops_per_step / result.flops_padded_tokens * rate
            self.record["mfu"] = mfu(flops_per_s, device_name(self.device), experiment["training"]["precision"])

    def note(self, error: Exception) -> bool:
        """Put an error into the record; True if it is a result (out of memory, divergence) and not a failure."""
        status = status_of(error)
        self.record |= {"status": status, "error": str(error) if isinstance(error, EndedBefore) else reason_of(error)}
        if status != "failed" and not isinstance(error, EndedBefore):
            self.record["memory"] = self.meter.record()
        return status != "failed"

    def failure(self) -> dict[str, Any]:
        """What failure.json holds."""
        return self.record


def read_continued(experiment: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The record that `continue_pretraining` left in a run's folder.

    Raises:
        InputError: there is none, or it is of another phase than the experiment asks for.
    """
    file, mend = folder / "run.json", "run `python -m workflow.stages.continue_pretraining` first, or Snakemake"
    if not file.is_file():
        raise InputError(f"{file} does not exist: {mend}.")
    record = json.loads(file.read_text(encoding="utf-8"))
    if record["settings"].get(continual_pretraining.KEY) != experiment[continual_pretraining.KEY]:
        raise InputError(f"{file} is of another continual_pretraining than this experiment's: {mend}.")
    return record


def status_of(error: Exception) -> str:
    """What an error makes of a run: "diverged" and "oom" are results, anything else is "failed"."""
    from workflow.engine.models import is_out_of_memory
    from workflow.engine.training_step import Diverged

    if isinstance(error, EndedBefore):
        return error.status
    return "diverged" if isinstance(error, Diverged) else "oom" if is_out_of_memory(error) else "failed"


def empty_record(experiment: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    """A record in which nothing has happened yet."""
    import baselines
    from workflow.engine.records import SCHEMA_VERSION

    nothing = (
        "memory",
        "time",
        "throughput",
        "flops_per_step",
        "mfu",
        "trainable_parameters",
        "optimizer_state_bytes",
        "validation_loss",
        "steps",
        "resumed_at_step",
        "continual_pretraining",
    )
    counts = ("train_tokens", "train_items", "validation_items", "cut_items")
    settings = {key: run[key] for key in ("variant", "hyperparameters", "learning_rate")}
    limits = baselines.method_class(run["method"]).limits()
    return {
        "schema_version": SCHEMA_VERSION,
        "experiment": experiment["name"],
        "model": {"name": run["model"], "revision": None, "sha256": None, "parameters": None},
        "data": {"name": run["data"], "revision": None, "sha256": None, **dict.fromkeys(counts)},
        "method": {"name": run["method"], **settings, "limits": limits},
        "seed": run["seed"],
        "status": "failed",
        "phase": "load",
        "error": None,
        **dict.fromkeys(nothing),
        "settings": {},
        "started": datetime.datetime.fromtimestamp(time.time(), datetime.UTC).isoformat(timespec="seconds"),
        "environment": {},
        **({"trial": run["trial"], "tuning_loss": None} if is_trial(run) else {}),
    }


def settings_of(experiment: dict[str, Any], device: Any, method: Any) -> dict[str, Any]:
    """Every setting that moves memory or speed."""
    from workflow.engine.records import allocator

    training = experiment["training"]
    dtype = "bf16" if training["precision"] == "bf16" else "fp32"
    return {
        **training,
        "optimizer": method.optimizer_name,
        "adamw_implementation": training["adamw_implementation"] if method.optimizer_name == "AdamW" else None,
        "prompt_format": experiment["prompt_format"],
        continual_pretraining.KEY: experiment.get(continual_pretraining.KEY),
        "weight_dtype": dtype,
        "gradient_dtype": dtype,
        "optimizer_state_dtype": None,  # read off the optimizer after training
        "allocator": allocator(),
        "device": str(device),
        "threads": experiment["threads"],
    }


if __name__ == "__main__":
    stage_main(main)

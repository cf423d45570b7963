"""Tracking: what the training loop writes to log.jsonl, shown in TensorBoard or Weights & Biases while a run trains.

    check_installed(["tensorboard"])                        # also check_login, before the first job
    tracking = Tracking(["tensorboard"], run_folder, experiment="smoke", run="tiny/world/lisa/default/seed0", about={})
    accelerator = Accelerator(**tracking.accelerator_arguments())
    tracking.start(accelerator)
    tracking.log({"step": 0, "loss": 3.1, "step_s": 0.2, ...})              # a line of log.jsonl
    tracking.finish(record)

The trackers are accelerate's; nothing else in the suite talks to them. They show what the suite measured and are asked
for nothing: training is the same with and without them, to the bit. docs/tracking.md lists the metrics.
"""

from __future__ import annotations

import importlib.metadata
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow.engine.errors import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator

PROJECT = "lisa-bench"
EXTRA = "lisa-bench[tracking]"
FOLDER = "tracking"  # of a run's folder; no output of a rule, so nothing is made again because of what is in it
STEP_METRICS = {  # keys of log.jsonl -> names with units; losses are nats a token
    "loss": "train/loss_nats",
    "validation_loss": "validation/loss_nats",
    "grad_norm": "train/gradient_norm",
    "learning_rate": "train/learning_rate",
    "tokens": "train/step_tokens",
    "step_s": "train/step_s",
}
WITHOUT_LOGIN = ("offline", "dryrun", "disabled")  # modes of wandb


class Tracking:
    """One run in the trackers.

    Args:
        trackers: of `tensorboard` and `wandb`.
        run_folder: of the run; all files stand in its `tracking/`.
        experiment: wandb's group.
        run: the run's path within the experiment; wandb's name of it.
        about: what the trackers show as the run's configuration; `flat` makes it one level deep.
    """

    def __init__(
        self, trackers: Iterable[str], run_folder: Path, *, experiment: str, run: str, about: Mapping[str, Any]
    ) -> None:
        self.trackers, self.folder = list(trackers), run_folder / FOLDER
        self.experiment, self.run, self.about = experiment, run, about
        self.accelerator: Accelerator | None = None
        self.step = 0  # of the line that is shown
        self.wandb_step = 0  # the first that its server has not; it takes none before

    def accelerator_arguments(self) -> dict[str, Any]:
        """What the accelerator must know when it is made."""
        from accelerate.utils import ProjectConfiguration

        folder = str(self.folder / "tensorboard")
        return {"log_with": self.trackers, "project_config": ProjectConfiguration(folder, logging_dir=folder)}

    def start(self, accelerator: Accelerator, former_rows: Iterable[Mapping[str, Any]] = ()) -> None:
        """Open the trackers; a resumed run goes on in the same ones, which show its log from the beginning.

        A killed process leaves some of what it showed, nobody knows how much: files are begun anew with `former_rows`,
        the lines of the log up to the checkpoint, and wandb's server is told what it does not have.

        Raises:
            InputError: Weights & Biases refuses, or cannot be reached.
        """
        run_id = self._run_id()
        forget_tracking(self.folder.parent)
        self.folder.mkdir(parents=True)
        (self.folder / "run_id").write_text(run_id)
        try:
            accelerator.init_trackers(PROJECT, flat(self.about), {"wandb": self._wandb_arguments(run_id)})
        except self._refusals() as error:
            raise _refusal(error) from error
        self.accelerator = accelerator
        if "wandb" in self.trackers:
            self.wandb_step = accelerator.get_tracker("wandb", unwrap=True).step
        for row in former_rows:
            self.log(row)

    def log(self, row: Mapping[str, Any]) -> None:
        """Show a line of log.jsonl. A step whose memory was traced has no time: tracing slowed it."""
        hidden = ("step_s",) if row.get("metered") else ()
        self.step = row["step"]
        self._show({name: row[key] for key, name in STEP_METRICS.items() if key in row and key not in hidden})

    def finish(self, record: Mapping[str, Any]) -> None:
        """Show how the run ended, by its record, and close the trackers; nothing if training never began."""
        if self.accelerator is None:
            return
        self.step = max(self.step, self.wandb_step)  # a resumed run may have been killed after its last step
        self._show(final_metrics(record))
        self.accelerator.end_training()

    def _show(self, values: Mapping[str, Any]) -> None:
        assert self.accelerator is not None, "start() comes first"
        for tracker in self.accelerator.trackers:
            if tracker.name != "wandb" or self.step >= self.wandb_step:
                tracker.log(dict(values), step=self.step)

    def _run_id(self) -> str:
        """wandb's id of this training, kept for when it is resumed.

        One by experiment and path would lay over each other the curves of all who ever ran the default experiment.
        """
        file = self.folder / "run_id"
        return file.read_text() if file.is_file() else secrets.token_hex(8)

    def _wandb_arguments(self, run_id: str) -> dict[str, Any]:
        """wandb samples no machine: it would do so beside what is timed."""
        about = {"id": run_id, "name": self.run, "group": self.experiment, "dir": str(self.folder)}
        return about | {"resume": "allow", "settings": {"console": "off", "x_disable_stats": True}}

    def _refusals(self) -> tuple[type[Exception], ...]:
        if "wandb" not in self.trackers:
            return ()
        import wandb

        return (wandb.Error,)


def forget_tracking(run_folder: Path) -> None:
    """Remove what an earlier training of the run left in the trackers' files."""
    shutil.rmtree(run_folder / FOLDER, ignore_errors=True)


def flat(about: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Nested mappings as one, keys joined by dots, as trackers want it; lists become text, None is left out."""

    def entries() -> Iterator[tuple[str, Any]]:
        for key, value in about.items():
            if isinstance(value, Mapping):
                yield from flat(value, f"{prefix}{key}.").items()
            elif value is not None:
                plain = isinstance(value, bool | int | float | str)
                yield f"{prefix}{key}", value if plain else ", ".join(map(str, value))

    return dict(entries())


def final_metrics(record: Mapping[str, Any]) -> dict[str, Any]:
    """How the run ended: status, validation loss, speed, peaks of memory by meter, phase and component."""
    memory, time, throughput = (record.get(key) or {} for key in ("memory", "time", "throughput"))
    shown = {"status": record["status"], STEP_METRICS["validation_loss"]: record["validation_loss"]}
    shown |= {f"speed/{key}": time.get(key) for key in ("step_median_s", "step_p90_s", "train_s")}
    shown |= {f"speed/{key}": throughput.get(key) for key in ("tokens_per_s", "padded_tokens_per_s")}
    shown |= {f"memory/{key}": value for key, value in memory.items() if key.endswith("_peak_bytes")}
    for part in ("phases", "components"):
        shown |= {f"memory_{part}/{name}_bytes": size for name, size in (memory.get(part) or {}).items()}
    return {name: value for name, value in shown.items() if value is not None}


# --- before anything starts


def check_installed(trackers: Iterable[str]) -> None:
    """Raise InputError if a tracker's package, which has its name, is not installed here."""
    for name in trackers:
        try:
            importlib.metadata.version(name)  # a spec is also found of a folder `wandb`, which wandb leaves behind
        except importlib.metadata.PackageNotFoundError as error:
            raise InputError(
                f"tracking: {name!r} needs the package {name}, which is not installed here."
                f" Install it with pip install '{EXTRA}', or leave {name!r} out."
            ) from error


def check_login(trackers: Iterable[str]) -> None:
    """Raise InputError if Weights & Biases is asked for without a key that its server takes, and not offline."""
    if "wandb" not in trackers:
        return
    import wandb

    try:
        known = wandb.setup().settings.mode in WITHOUT_LOGIN or wandb.login(prompt=False)
    except (wandb.Error, ValueError) as error:  # ValueError: a variable of the environment that is no setting of wandb
        raise _refusal(error) from error
    if not known:
        raise _refusal("has no key")


def _refusal(reason: object) -> InputError:
    """In wandb's own words, which may be several lines, and what to do."""
    return InputError(
        f"tracking: wandb: {' '.join(str(reason).split()).rstrip('.')}. Legal: a key in WANDB_API_KEY or by"
        " `wandb login`, WANDB_MODE=offline to keep the runs here (`wandb sync` sends them), or leave 'wandb' out."
    )

"""Pretrain one run continually: its method trains the prepared model on plain text, and `train` fine-tunes the result.

   python -m workflow.stages.continue_pretraining --experiment results/<name>/experiment.json --run <path>

One loop, one attempt and one kind of record serve both stages: this one leaves run.json, log.jsonl and the checkpoint
model/ in `<run>/continued/` and resumes there. Out of memory and divergence are results here too; `train` then has
nothing to fine-tune. A failure is noted where the tables look for one, in the run's own failure.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workflow.continual_pretraining import FOLDER, KEY, continues, named, phase_of
from workflow.engine.errors import InputError
from workflow.experiment import find_run, load
from workflow.places import data_folder, text_folder
from workflow.stages import parser, read_manifest, results_folder, stage_main
from workflow.stages.leaks import refuse_known_leak
from workflow.stages.train import Attempt, empty_record, leave_results


def main() -> None:
    """Command line."""
    arguments = parser(__doc__, run=True).parse_args()
    experiment = load(arguments.experiment)
    run = find_run(experiment, arguments.run)
    results = results_folder(experiment, arguments.results)
    refuse_known_leak(results)
    continue_pretraining(experiment, run, results / run["path"])


def continue_pretraining(experiment: dict[str, Any], run: dict[str, Any], folder: Path) -> None:
    """Do the phase of a run whose folder this is.

    Raises:
        InputError: the experiment asks for none, or the run's method trains nothing.
    """
    if not continues(experiment, run):
        raise InputError(f"run {run['path']}: {KEY} is null, or its method trains nothing.")
    leave_results(PretrainingAttempt(experiment, run, folder))


class PretrainingAttempt(Attempt):
    """An attempt at the phase; what differs from a fine-tuning's is its text, its settings and its place."""

    def __init__(self, experiment: dict[str, Any], run: dict[str, Any], folder: Path) -> None:
        super().__init__(*phase_of(experiment, run), folder / FOLDER)
        self.failure_file = folder / "failure.json"
        self.fine_tuning = empty_record(experiment, run)
        self.record["data"]["name"] = named(experiment[KEY])

    def failure(self) -> dict[str, Any]:
        """The record of a run that did not come to its fine-tuning."""
        ended = {key: self.record[key] for key in ("status", "error", "environment")}
        return self.fine_tuning | ended | {"phase": KEY}

    def _checkpoint(self) -> Path:
        return self._base_model()

    def _read_data(self, tokenizer: Any, names: tuple[str, ...]) -> dict[str, Any]:
        """The documents, packed; every token is learned."""
        from workflow.engine.plain_text import Packed, encode, pack, read_documents

        folder, length = text_folder(self.experiment), self.experiment["training"]["sequence_length"]
        manifest = read_manifest(data_folder(self.experiment))["text"]
        splits = {}
        for split in names:
            most = self.experiment[KEY]["max_train_tokens"] if split == "train" else None
            tokens = encode(read_documents(folder / f"{split}.jsonl"), tokenizer, most)
            splits[split] = Packed(pack(tokens, length, f"{KEY}.sequence_length ({split} documents)"))
        self.record["data"] |= {"revision": manifest["revision"], "sha256": manifest["sha256"], "cut_items": 0}
        self.record["data"] |= {f"{split}_items": len(items) for split, items in splits.items()}
        return splits


if __name__ == "__main__":
    stage_main(main)

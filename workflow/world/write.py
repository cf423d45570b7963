"""Write the embedded world as a data root: hub-shaped data sets, MT-Bench, AGIEval's demonstrations, the corpus and
general text.

`generate_world(folder, seed=0, people=48, towns=24, test_items=80)`; the same arguments give the same bytes.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workflow.world import benchmarks, mt_bench
from workflow.world.documents import corpus, general_text
from workflow.world.facts import World
from workflow.world.instructions import instructions
from workflow.world.questions import Choice, Held
from workflow.world.requests import Exchange

_STRING = {"dtype": "string", "_type": "Value"}
_STRINGS = {"feature": _STRING, "_type": "List"}
FEATURES: dict[str, dict[str, Any]] = {
    "gsm8k": {"question": _STRING, "answer": _STRING},
    "winogrande": {"sentence": _STRING, "option1": _STRING, "option2": _STRING, "answer": _STRING},
    "mmlu": {
        "question": _STRING,
        "subject": _STRING,
        "choices": _STRINGS,
        "answer": {"names": ["A", "B", "C", "D"], "_type": "ClassLabel"},
    },
    "agieval": {
        "query": _STRING,
        "choices": _STRINGS,
        "gold": {"feature": {"dtype": "int64", "_type": "Value"}, "_type": "List"},
    },
    "instructions": {"messages": {"feature": {"role": _STRING, "content": _STRING}, "_type": "List"}},
}
GENERAL_DOCUMENTS = 150  # a few thousand words


@dataclass(frozen=True)
class TestSets:
    """All that is scored, drawn before anything to train on."""

    gsm8k: benchmarks.Splits
    winogrande: benchmarks.Splits
    mmlu: dict[str, benchmarks.Splits]
    agieval: dict[str, tuple[list[Choice], list[Choice]]]  # scored, demonstrations
    mt_bench: list[Exchange]

    @classmethod
    def draw(cls, world: World, held: Held, seed: int, test_items: int) -> TestSets:
        """`test_items` for GSM8K and WinoGrande, half as many for an MMLU subject, 3/8 for an AGIEval task."""
        return cls(
            gsm8k=benchmarks.gsm8k(world, seed, test_items),
            winogrande=benchmarks.winogrande(world, seed, test_items),
            mmlu={
                subject: benchmarks.mmlu(world, held, seed, subject, test_items // 2)
                for subject in benchmarks.MMLU_SUBJECTS
            },
            agieval={
                task: benchmarks.agieval(world, held, seed, task, test_items * 3 // 8)
                for task in benchmarks.AGIEVAL_TASKS
            },
            mt_bench=mt_bench.exchanges(world, seed, max(2, test_items // 20)),
        )

    def texts(self) -> list[str]:
        """What no training text may hold: the words that make each scored item, of a two-turn request the first."""
        winogrande = [
            row["sentence"].replace("_", row[f"option{row['answer']}"]) for row in self.winogrande["validation"]
        ]
        agieval = [choice.passage or choice.question for scored, _ in self.agieval.values() for choice in scored]
        asked = [row["question"] for splits in (self.gsm8k, *self.mmlu.values()) for row in splits["test"]]
        return [*asked, *winogrande, *agieval, *(exchange.requests[0] for exchange in self.mt_bench)]


def drawn(seed: int, people: int, towns: int, test_items: int) -> tuple[World, Held]:
    """A world, and which of its questions are kept for tests.

    Raises:
        ValueError: as `generate_world`.
    """
    if test_items < 8:
        raise ValueError(f"test_items: {test_items} leaves a test set empty; legal: at least 8.")
    world = World.draw(seed, people, towns)
    return world, Held.divide(world, seed, test_items // 2 + 2 * benchmarks.DEMONSTRATIONS)


def generate_world(
    folder: Path,
    *,
    seed: int,
    people: int,
    towns: int,
    test_items: int,
    conversations: int = 2400,
    validation_conversations: int = 96,
    documents: int = 6000,
) -> None:
    """Write the data root of a seeded world into `folder`.

    Raises:
        ValueError: sizes no world can have: too few or too many people or towns, more test items than questions.
    """
    world, held = drawn(seed, people, towns, test_items)
    tests = TestSets.draw(world, held, seed, test_items)
    taken = tests.texts()
    taught = instructions(world, held, taken, seed, conversations + validation_conversations)
    text = corpus(world, taken, seed, documents)
    _write_text(folder / "corpus" / "world.txt.gz", text)
    _write_text(folder / "text" / "general.txt.gz", general_text(world, taken, seed, GENERAL_DOCUMENTS, text))
    _write_instructions(folder, taught[:conversations], taught[conversations:])
    _write_test_sets(folder, tests)
    _write_mt_bench(folder / "mt_bench", tests.mt_bench)
    _write_demonstrations(folder / "agieval" / "few_shot_prompts.csv", tests)


def _write_instructions(folder: Path, train: list[Any], validation: list[Any]) -> None:
    splits = {
        "train": [{"messages": messages} for messages in train],
        "validation": [{"messages": messages} for messages in validation],
    }
    _write_data_set(folder / "hub" / "world" / "instructions", {"default": splits}, "instructions")


def _write_test_sets(folder: Path, tests: TestSets) -> None:
    hub = folder / "hub"
    _write_data_set(hub / "openai" / "gsm8k", {"main": tests.gsm8k}, "gsm8k")
    _write_data_set(hub / "allenai" / "winogrande", {"winogrande_xl": tests.winogrande}, "winogrande")
    _write_data_set(hub / "cais" / "mmlu", tests.mmlu, "mmlu")
    for task, (scored, _) in tests.agieval.items():
        splits = {"test": [benchmarks.agieval_row(choice) for choice in scored]}
        _write_data_set(hub / "hails" / f"agieval-{task}", {"default": splits}, "agieval")


def _write_mt_bench(folder: Path, drawn: list[Exchange]) -> None:
    _write_json_lines(folder / "question.jsonl", mt_bench.questions(drawn))
    _write_json_lines(folder / "judge_prompts.jsonl", mt_bench.judge_prompts())
    _write_json_lines(folder / "reference_answer" / "gpt-4.jsonl", mt_bench.references(drawn))


def _write_demonstrations(file: Path, tests: TestSets) -> None:
    """AGIEval's few-shot file: a column a task, a row a sample (a Python literal) and, below it, its explanation."""
    samples = {
        task: [benchmarks.agieval_sample(choice) for choice in shown] for task, (_, shown) in tests.agieval.items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["", *samples])
        for k in range(benchmarks.DEMONSTRATIONS):
            rows.writerow([f"sample {k + 1}", *(repr(column[k]) for column in samples.values())])
            rows.writerow([f"explanation {k + 1}", *(column[k]["other"]["solution"] for column in samples.values())])


def _write_data_set(folder: Path, configs: dict[str, benchmarks.Splits], features: str) -> None:
    """One hub data set: README.md with the `configs` header, one Parquet file a split."""
    header = ["---", "configs:"]
    for config, splits in configs.items():
        header += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            path = f"{config}/{split}-00000-of-00001.parquet"
            header += [f"  - split: {split}", f"    path: {path}"]
            _write_parquet(folder / path, rows, FEATURES[features])
    header += ["---", "Generated by lisa-bench: invented people and towns, in the official schema."]
    (folder / "README.md").write_text("\n".join(header) + "\n", encoding="utf-8")


def _write_parquet(file: Path, rows: list[dict[str, Any]], features: dict[str, Any]) -> None:
    """A Parquet file whose metadata carry the features as the `datasets` library writes them."""
    import pyarrow
    from pyarrow import parquet

    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pyarrow.schema([(name, _arrow(feature)) for name, feature in features.items()], metadata=metadata)
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), file)


def _arrow(feature: dict[str, Any]) -> Any:
    """The Arrow type of a `datasets` feature."""
    import pyarrow

    kinds: dict[str, Callable[[], Any]] = {
        "Value": lambda: getattr(pyarrow, feature["dtype"])(),
        "ClassLabel": pyarrow.int64,
        "List": lambda: pyarrow.list_(_arrow(feature["feature"])),
    }
    if "_type" not in feature:
        return pyarrow.struct([(name, _arrow(part)) for name, part in feature.items()])
    return kinds[feature["_type"]]()


def _write_json_lines(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")


def _write_text(file: Path, text: str) -> None:
    """gzip with neither name nor time in its header, so that equal texts are equal bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(text.encode("utf-8"), compresslevel=6, mtime=0))

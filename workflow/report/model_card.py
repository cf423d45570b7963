"""The card of a checkpoint: what it is, how it was made, what it scored, what it cannot do; `README.md` in its folder.

    write_card(experiment, run)      # run: one of eval.collect.collect(...); nothing without a checkpoint

An upload of the folder to the Hugging Face hub carries the card; `card_metadata.py` makes the part that the hub reads.
All numbers are this run's own, with the words and notes of the experiment's tables; what was not measured is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from eval import present, tables
from eval.collect import Row, Run
from eval.conditions import WORLD_NOTE
from eval.forgetting_table import forgetting, forgetting_table
from eval.limits import CANNOT
from eval.pairwise_table import pairwise, pairwise_table
from eval.present import RULE_BASED_NOTE
from eval.protocols import OF_A_PROCESS, WORDS, of_benchmark
from eval.text import EMPTY, Table, line
from workflow.engine.records import MODEL_CARD
from workflow.report.card_metadata import entry_of, metadata
from workflow.report.page import commands, document

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md.j2"
LEFT_OUT = (  # columns that say which row it is and how it ended, or compare it with others
    *("Model", "Data", "Method", "Variant", "Learning rate", "Seeds", "Status"),
    *("Speed-up over full", "Slowest seed over fastest"),
)
OWN_LIMITS = (
    "One seed of one setting: how far other seeds are from it, and how other methods do under the same rules, the"
    " experiment's report says.",
    "Nothing here measures safety or bias. No licence is claimed: those of the base model and of the data hold.",
)


def write_card(experiment: Mapping[str, Any], run: Run) -> None:
    """Write the card beside the run's checkpoint, where there is one; one that would say the same is left alone."""
    folder = run.folder / "model"
    if not run.trained or not (folder / "config.json").is_file():
        return
    file, text = folder / MODEL_CARD, render(experiment, run)
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")


def render(experiment: Mapping[str, Any], run: Run) -> str:
    """The card's text, metadata first."""
    from huggingface_hub import ModelCard

    row, alone = Row((run,), run.model), of_one_run(experiment, run)
    unpublished = {**experiment, "report": {"published": []}}
    measured = present.comparison_table(tables.comparison([row], unpublished), unpublished)
    card = ModelCard.from_template(
        metadata(experiment, run),
        template_str=TEMPLATE.read_text(encoding="utf-8"),
        title=f"{run.model}, {row.label} on {run.data}, seed {run.seed}",
        summary=summary(run),
        notices=notices(experiment, run),
        trust="plain export" in (run.field("method", "limits") or {}),
        adapter=(run.folder / "model" / "adapter").is_dir(),
        prompt=prompt(experiment),
        training=facts(training(experiment, run)),
        scored=scored(run),
        results=list(shown([measured, *asked_tables(row, unpublished)])),
        details=list(shown(cost_tables(row, unpublished))),
        limits=[*declared_limits(run), *OWN_LIMITS],
        conditions=[note for note in measured.conditions if note != WORLD_NOTE],
        commands=commands(alone, [row]),
        document=document(alone),
    )
    return str(card)


def of_one_run(experiment: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """The experiment that has this run alone: no comparisons, neither with its other rows nor with papers.

    A tuned run's trials are among it: they choose its settings again, and hold out the records that it did not see.
    """
    method = {"method": run.method, "variant": run.variant}
    if experiment.get("tuning"):
        planned = next(entry["hyperparameters"] for entry in experiment["runs"] if entry["path"] == run.path)
        swept = experiment["tuning"]["hyperparameters"].get(run.method, {})
        method["hyperparameters"] = {key: value for key, value in planned.items() if key not in swept}
    else:
        method["hyperparameters"] = dict(run.hyperparameters)
        method |= {} if run.learning_rate is None else {"learning_rate": run.learning_rate}
    alone = {key: value for key, value in experiment.items() if key != "method_settings"}
    alone |= {"methods": [method], "seeds": [run.seed], "report": {"published": []}}
    alone |= {"models": [entry_of(experiment, "models", run.model)], "data": [entry_of(experiment, "data", run.data)]}
    if alone.get("mt_bench"):
        alone["mt_bench"] = {**alone["mt_bench"], "pairwise_baseline": None}
    if floor := alone["evaluation"].get("noise_floor"):
        alone["evaluation"] = {**alone["evaluation"], "noise_floor": {**floor, "row": None}}
    return alone


# --- what it is


def summary(run: Run) -> str:
    """What this checkpoint is, in two sentences."""
    import baselines

    method = baselines.method_class(run.method)
    if not method.trains:
        return f"The base model `{run.model}` as its experiment gave it to the methods: nothing was trained."
    return (
        f"`{run.model}`, fine-tuned on `{run.data}` with the method `{run.method}`: {method.summary}"
        f" ({method.paper}). The checkpoint is whole: what was trained stands in it."
    )


def notices(experiment: Mapping[str, Any], run: Run) -> list[str]:
    """What a reader must know before reading a number."""
    rated_by_rules = run.judged.get("judge", {}).get("kind") == "rule-based"
    return [
        *([WORLD_NOTE] if experiment.get("data_root") == "world" else []),
        *([RULE_BASED_NOTE] if rated_by_rules else []),
        *([] if run.status == "ok" else [f"Results are missing: {run.phase}: {run.reason}."]),
    ]


def prompt(experiment: Mapping[str, Any]) -> str | None:
    """The f-string that puts a question into the text that was trained on; None where the tokenizer's template does."""
    from workflow.engine.prompts import FORMATS, generation_prompt

    asked = [{"role": "user", "content": "{question}"}]
    name = experiment["prompt_format"]
    return f"f{generation_prompt(asked, name, None)!r}" if name in FORMATS else None


def declared_limits(run: Run) -> list[str]:
    """What the method declares that it cannot do."""
    declared = run.field("method", "limits") or {}
    return [f"The method does not {CANNOT.get(ability, ability)}: {reason}." for ability, reason in declared.items()]


# --- how it was made


def training(experiment: Mapping[str, Any], run: Run) -> list[tuple[str, str]]:
    """Base model, method and its hyper-parameters, rate, length, data, seed: names and texts."""
    setting, model, data = (run.record[key] for key in ("settings", "model", "data"))
    made = {
        "Base model": joined(base_model(experiment, run), of("revision", model["revision"]), checksum(model["sha256"])),
        "Parameters": model["parameters"],
        "Method": joined(run.method, None if run.variant == "default" else f"variant {run.variant}"),
    }
    if run.field("trainable_parameters"):
        made |= {f"`{key}`": value for key, value in run.hyperparameters.items()}
        made |= {
            "Parameters that train at a time": run.field("trainable_parameters", "total"),
            "Peak learning rate": None if run.learning_rate is None else str(run.learning_rate),
            "Schedule": joined(setting.get("schedule"), of("warm-up steps", setting.get("warmup_steps"))),
            "Steps": run.field("steps"),
            "Batch": batch(setting),
            "Data": joined(data_set(experiment, run), of("revision", data["revision"]), checksum(data["sha256"])),
            "Records": joined(of("train", data["train_items"]), of("validation", data["validation_items"])),
            "Records cut to the sequence length": data["cut_items"],
            "Tokens trained on": data["train_tokens"],
            "Prompt format": experiment["prompt_format"],
            "Optimizer": joined(setting.get("optimizer"), setting.get("adamw_implementation")),
            "Largest gradient norm": setting.get("max_grad_norm"),
            "Weight decay": setting.get("weight_decay"),
        }
    made |= {"Precision": setting.get("precision"), "Seed": run.seed}
    return [(name, written(value)) for name, value in made.items() if value is not None]


def base_model(experiment: Mapping[str, Any], run: Run) -> str:
    """Its id on the hub, or how it was made here."""
    entry = entry_of(experiment, "models", run.model)
    if "hub_id" in entry:
        return str(entry["hub_id"])
    return f"{run.model}, pretrained here from nothing on {entry['pretrain']['corpus']}"


def data_set(experiment: Mapping[str, Any], run: Run) -> str | None:
    """The data set's id with its configuration."""
    entry = entry_of(experiment, "data", run.data)
    return joined(entry["dataset"], of("configuration", entry.get("config")))


def batch(setting: Mapping[str, Any]) -> str:
    """Sequences of an optimizer step and their length."""
    size, times = setting["batch_size"], setting["accumulation_steps"]
    sequences = f"{size} sequences" if times == 1 else f"{times} x {size} sequences"
    return f"{sequences} of at most {setting['sequence_length']} tokens"


# --- what was measured


def scored(run: Run) -> str | None:
    """By what and under which settings the benchmarks were scored."""
    if not run.benchmarks:
        return None
    protocol = of_benchmark(run, next(iter(run.benchmarks)))
    return ", ".join(filter(None, (WORDS[key](protocol[key]) for key in OF_A_PROCESS)))


def asked_tables(row: Row, experiment: Mapping[str, Any]) -> Iterator[Table]:
    """Tables of results that an experiment may ask for."""
    if forgot := forgetting([row], experiment):
        yield forgetting_table(forgot, experiment)
    if paired := pairwise([row], experiment):
        yield pairwise_table(paired, experiment)


def cost_tables(row: Row, experiment: Mapping[str, Any]) -> list[Table]:
    """What the training took."""
    memory, speed = tables.memory([row], experiment), tables.speed([row], experiment)
    return [present.memory_table(memory, experiment), present.speed_table(speed, experiment)]


def shown(made: Iterable[Table]) -> Iterator[dict[str, Any]]:
    """The one row of each table, standing up, with the table's notes; left out where it says nothing of this run."""
    for table in made:
        pairs = zip(table.header, table.body[0], strict=True)
        cells = [(title, cell) for title, cell in pairs if title not in LEFT_OUT and cell != EMPTY]
        notes = [note for note in table.notes if note != RULE_BASED_NOTE]  # it stands above
        if cells:
            yield {"heading": table.heading, "facts": facts(cells), "notes": notes}


# --- words


def facts(named: Iterable[tuple[str, str]]) -> str:
    """Names and texts as a Markdown table."""
    return "\n".join([line(("", "")), line(("---", "---")), *map(line, named)])


def written(value: Any) -> str:
    """A setting as it is written, a count with its thousands separated."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def joined(*parts: str | None) -> str | None:
    """What there is, with commas."""
    return ", ".join(filter(None, parts)) or None


def of(what: str, value: Any) -> str | None:
    """`revision 0a1b2c`; None without a value."""
    return None if value is None else f"{what} {written(value)}"


def checksum(value: str | None) -> str | None:
    """Enough of a sha256 to tell two apart."""
    return value and f"sha256 {value[:16]}…"

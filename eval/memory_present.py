"""The tables of a memory experiment for people: rows of `eval/memory_tables.py` and `eval/reproduction.py` as texts.

table = memory_table(memory(cells, experiment), experiment)
(folder / "memory.md").write_text(text.to_markdown(table))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from eval.conditions import distinct
from eval.memory_tables import slug
from eval.present import UNITS
from eval.reproduction import NEITHER, TOLERANCE_PERCENT
from eval.tables import COMPONENTS, TRAINABLE, TableRow
from eval.text import EMPTY, GB, Column, Table, Text, build, number, plain, signed

NOT_MEASURED = "not measured here"
CONDITION_WORDS = {
    "batch_size": "batch {}",
    "sequence_length": "{} tokens a sequence",
    "accumulation_steps": "accumulation over {} batches",
    "precision": "{}",
    "attention": "{} attention",
    "gradient_checkpointing": "gradient checkpointing",
    "adamw_implementation": "{} AdamW",
    "max_grad_norm": "gradients clipped at {:g}",
    "loss_chunk_tokens": "loss in chunks of {} tokens",
    "step_in_backward": "optimizer step in backward",
}
UNSAID = {
    "accumulation_steps": 1,
    "gradient_checkpointing": False,
    "loss_chunk_tokens": None,
    "step_in_backward": False,
}


def memory_table(rows: list[TableRow], experiment: Mapping[str, Any], devices: list[str]) -> Table:
    """Published, predicted and measured side by side, then the predicted peak's place and components."""
    unit, numeral = "GB", gigabytes(rows)
    compared = any("published" in row for row in rows)
    columns = [
        *_identity(rows),
        *([Column("Published (G)", _marked("published", rows))] if compared else []),
        Column(f"Predicted ({unit})", numeral("predicted_peak_bytes")),
        *([Column("Predicted over published (%)", signed("predicted_over_published_percent", 1))] if compared else []),
        *_card_columns(experiment),
        *_measured_columns(devices, unit, numeral),
        *(Column(f"{_words(role)} ({unit})", numeral(f"{role}_bytes")) for role in COMPONENTS),
        Column("Peak in", plain("peak_phase"), numeric=False),
        Column("At operator", plain("peak_operator"), numeric=False),
        Column("Parameters", number("parameters", 0)),
        *(Column(f"Trainable, {part}", number(f"trainable_parameters_{part}", 0)) for part in TRAINABLE),
        Column("Status", plain("status"), numeric=False),
    ]
    notes = [
        f"Predicted: peak of live tensor storage while the real model and method run on tensors without data, after "
        f"every layer had trained, in the draws that need most, every periodic cost met; {UNITS[unit]}; GiB stand in "
        "the CSV. Left out: the CUDA context, kernel workspaces, fragmentation.",
        "Components: what is there at the moment of the peak, and adds up to it; gradients may come later. Under "
        "bf16-mixed the activations hold the bf16 copies of the weights that autocast makes.",
        *_measured_notes(rows, devices),
        *_published_notes(rows, compared),
        *_reasons(rows),
    ]
    return build("memory", f"{experiment['name']}: memory", columns, rows, notes, _conditions(rows, experiment))


def _card_columns(experiment: Mapping[str, Any]) -> list[Column]:
    """Whether the experiment's card holds the predicted peak; none without a card."""
    if experiment.get("card_bytes") is None:
        return []
    title = f"Fits {experiment['card']} ({experiment['card_bytes'] / GB:.1f} GB for a process)"
    words = {None: EMPTY, True: "yes", False: "no"}
    return [Column(title, lambda row: words[row["fits_card"]], numeric=False)]


def ablation_table(rows: list[TableRow], experiment: Mapping[str, Any], devices: list[str]) -> Table:
    """What one changed setting does to the peak."""
    numeral, digits = gigabytes(rows), _digits(rows)
    columns = [
        *_identity(rows),
        Column("Setting", plain("setting"), numeric=False),
        Column("Changed (from)", plain("changed"), numeric=False),
        Column("Predicted (GB)", numeral("predicted_peak_bytes")),
        Column("Change (GB)", signed("change_gb", digits)),
        Column("Change (%)", signed("change_percent", 1)),
        *_measured_columns(devices, "GB", numeral),
        *(
            Column(f"Change on {device} (GB)", signed(f"measured_{slug(device)}_change_gb", digits))
            for device in devices
        ),
        Column("Peak in", plain("peak_phase"), numeric=False),
        *(Column(f"{_words(role)}, change (GB)", _gb_change(f"{role}_change_bytes", digits)) for role in COMPONENTS),
        Column("Status", plain("status"), numeric=False),
    ]
    none = [] if rows else ["This experiment varies no setting."]
    notes = [*none, "One setting changed at a time, everything else as in the memory table. 1 GB = 1e9 bytes."]
    title = f"{experiment['name']}: settings"
    return build("ablation", title, columns, rows, [*notes, *_reasons(rows)], _conditions(rows, experiment))


def speed_table(rows: list[TableRow], experiment: Mapping[str, Any], devices: list[str]) -> Table:
    """FLOPs and the bound they set; ratios that were measured and published."""
    published = any("published_speedup_over_full" in row for row in rows)
    columns = [
        *_identity(rows),
        *([Column("Setting", plain("setting"), numeric=False)] if len({row["setting"] for row in rows}) > 1 else []),
        *(Column(f"{part.capitalize()} (TFLOPs a step)", _teraflops(f"flops_{part}", rows)) for part in _FLOP_PARTS),
        Column("Bound on speed-up over full", number("speedup_bound", 2, unit="x")),
        *(column for device in devices for column in _measured_speed_columns(device)),
        *([] if devices else [Column("Measured", lambda row: NOT_MEASURED, numeric=False)]),
        *([Column("Published speed-up", number("published_speedup_over_full", 1, unit="x"))] if published else []),
        *([Column("Published iteration (s)", number("published_iteration_s", 2))] if published else []),
        *([Column("Published forward (s)", number("published_forward_s", 2))] if published else []),
        *([Column("Published speed-up is", plain("verdict"), numeric=False)] if published else []),
        Column("Status", plain("status"), numeric=False),
    ]
    notes = [
        "FLOPs: of matrix products and attention in the forward and backward of one step, on average over the draws of "
        "a method that draws layers; the optimizer's own work is not counted. Bound: full fine-tuning's FLOPs over the "
        "method's; with few tokens a step a measured ratio can pass it, by the optimizer's work that a method leaves "
        "out.",
        *(["Measured: median of synchronised steps; speed-up over full on the same device."] if devices else []),
        *(f"Published: {note}." for note in _distinct_parts(row.get("published_note") for row in rows)),
        *_reasons(rows),
    ]
    return build("speed", f"{experiment['name']}: speed", columns, rows, notes, _conditions(rows, experiment))


def reproduction_table(rows: list[TableRow], experiment: Mapping[str, Any], devices: list[str]) -> Table:
    """Every published peak with its verdict."""
    columns = [
        Column("Model", plain("model"), numeric=False),
        Column("Method", plain("method"), numeric=False),
        Column("Variant", plain("variant"), numeric=False),
        Column("Published (G)", _marked("published", rows, "note")),
        Column("Predicted (GB)", number("predicted_peak_gb", 1)),
        Column("Error, G is GB (%)", signed("error_percent", 1)),
        Column("Error, G is GiB (%)", signed("error_if_gib_percent", 1)),
        *(Column(f"Measured error, {d} (%)", signed(f"measured_{slug(d)}_error_percent", 1)) for d in devices),
        Column("Verdict", plain("verdict"), numeric=False),
        Column("Closest of our settings", _closest, numeric=False),
        Column("Our cell", plain("our_cell"), numeric=False),
    ]
    failed = [row | {"status": "failed" if row["verdict"] == NEITHER else "ok"} for row in rows]
    sources = distinct(f"{row['paper']} {row['version']}, {row['table']}" for row in rows)
    notes = [
        f"Published in: {sources}. Reproduces: ours is within {TOLERANCE_PERCENT} % of the figure, under both readings "
        "of G unless one is named. Error: ours over the published figure.",
        "Closest of our settings: where settings were varied, the one whose prediction is nearest; it need not be what "
        "the paper used.",
        *_footnotes(rows, "note"),
    ]
    return build("reproduction", f"{experiment['name']}: published peaks", columns, failed, notes, ())


def parts_table(rows: list[TableRow], experiment: Mapping[str, Any]) -> Table:
    """Every published component with its verdict."""
    columns = [
        *(Column(name.capitalize(), plain(name), numeric=False) for name in ("model", "method", "variant")),
        Column("Component", lambda row: _words(row["component"]), numeric=False),
        Column("Published (G)", _marked("published", rows, "note")),
        Column("Predicted (GB)", number("predicted_gb", 2)),
        Column("Error, G is GB (%)", signed("error_percent", 1)),
        Column("Verdict", plain("verdict"), numeric=False),
        Column("Our cell", plain("our_cell"), numeric=False),
    ]
    marked = [row | {"status": "failed" if row["verdict"] == NEITHER else "ok"} for row in rows]
    notes = [
        f"Reproduces: ours is within {TOLERANCE_PERCENT} % of the figure, or within its rounding. Predicted: the most "
        "of the component at any moment of a step, which need not be the moment of the peak.",
        *_footnotes(rows, "note"),
    ]
    return build("parts", f"{experiment['name']}: published components", columns, marked, notes, ())


def slopes_table(rows: list[TableRow], experiment: Mapping[str, Any]) -> Table:
    """The steps between the rows of a method."""
    columns = [
        Column("Model", plain("model"), numeric=False),
        Column("Method", plain("method"), numeric=False),
        Column("From", plain("from_variant"), numeric=False),
        Column("To", plain("to_variant"), numeric=False),
        Column("Published difference (G)", signed("published_difference", 1)),
        Column("Its rounding (G)", number("rounding", 2, unit="")),
        Column("Predicted difference (GB)", signed("predicted_difference_gb", 2)),
        Column("Verdict", plain("verdict"), numeric=False),
    ]
    marked = [row | {"status": "failed" if row["verdict"] == "outside rounding" else "ok"} for row in rows]
    notes = ["Rounding: half a unit of the last printed digit of both figures. G is read as GB or GiB, whichever fits."]
    return build("slopes", f"{experiment['name']}: differences between rows", columns, marked, notes, ())


def conditions_line(conditions: Mapping[str, Any]) -> str:
    """Settings in words, e.g. `batch 1, 1024 tokens a sequence, bf16, sdpa attention, ...`."""
    said = [
        key for key in CONDITION_WORDS if key in conditions and not (key in UNSAID and conditions[key] == UNSAID[key])
    ]
    words = {key: CONDITION_WORDS[key].format(conditions[key]) for key in said if conditions[key] is not None}
    none = {"gradient_checkpointing": "no gradient checkpointing", "max_grad_norm": "no clipping"}
    return ", ".join(words.get(key) or none[key] for key in CONDITION_WORDS if key in words or key in none)


def gigabytes(rows: Iterable[TableRow]) -> Any:
    """The format of a table's memory columns in GB: more digits where all peaks are small."""
    digits = _digits(rows)
    return lambda key: number(key, digits, factor=1 / GB)


def _digits(rows: Iterable[TableRow]) -> int:
    return 2 if max((row.get("predicted_peak_bytes") or 0 for row in rows), default=0) >= 10 * GB else 3


# --- columns

_FLOP_PARTS = ("forward", "backward", "total")


def _identity(rows: list[TableRow]) -> list[Column]:
    names = ["model", "method", *(["variant"] if any(row["variant"] != "default" for row in rows) else [])]
    return [Column(name.capitalize(), plain(name), numeric=False) for name in names]


def _measured_columns(devices: list[str], unit: str, numeral: Any) -> list[Column]:
    if not devices:
        return [Column("Measured", lambda row: NOT_MEASURED, numeric=False)]
    columns = []
    for device in devices:
        prefix = f"measured_{slug(device)}_"
        shown = numeral(f"{prefix}allocated_bytes")
        columns += [
            Column(f"Measured on {device} ({unit})", _or_outcome(shown, f"{prefix}outcome")),
            Column("Measured over predicted (%)", signed(f"{prefix}over_predicted_percent", 2)),
            Column(f"Reserved on {device} ({unit})", numeral(f"{prefix}reserved_bytes")),
            Column(f"Process on {device} ({unit})", numeral(f"{prefix}process_bytes")),
        ]
    return columns


def _measured_speed_columns(device: str) -> list[Column]:
    prefix = f"measured_{slug(device)}_"
    return [
        Column(f"Step on {device}, median (s)", _or_outcome(number(f"{prefix}step_median_s", 3), f"{prefix}outcome")),
        Column("p90 (s)", number(f"{prefix}step_p90_s", 3)),
        Column(f"Speed-up on {device}", number(f"{prefix}speedup_over_full", 2, unit="x")),
        Column(f"Tokens/s on {device}", number(f"{prefix}tokens_per_s", 0)),
    ]


def _or_outcome(shown: Text, key: str) -> Text:
    """The number, or why there is none."""
    return lambda row: row[key] if shown(row) == EMPTY and row[key] != "ok" else shown(row)


def _teraflops(key: str, rows: list[TableRow]) -> Text:
    largest = max((row["flops_total"] or 0 for row in rows), default=0)
    return number(key, 2 if largest >= 1e13 else 4, factor=1e-12)


def _gb_change(key: str, digits: int) -> Text:
    return lambda row: EMPTY if row.get(key) is None else f"{row[key] / GB:+.{digits}f}"


def _closest(row: TableRow) -> str:
    if row["closest_setting"] is None:
        return EMPTY
    return f"{row['closest_setting']} ({row['closest_error_percent']:+.1f} %)"


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()


# --- notes


def _marked(key: str, rows: list[TableRow], note: str = "published_note") -> Text:
    """The printed figure with the number of its footnote."""
    numbers = {text: place for place, text in enumerate(_notes_of(rows, note), 1)}
    shown = plain(key)
    return lambda row: f"{shown(row)} [{numbers[row[note]]}]" if row.get(note) else shown(row)


def _notes_of(rows: list[TableRow], note: str) -> list[str]:
    return list(dict.fromkeys(row[note] for row in rows if row.get(note)))


def _footnotes(rows: list[TableRow], note: str) -> list[str]:
    return [f"[{place}] {text}." for place, text in enumerate(_notes_of(rows, note), 1)]


def _measured_notes(rows: list[TableRow], devices: list[str]) -> list[str]:
    if not devices:
        return ["Nothing of this experiment was measured on a device at hand."]
    unmet = [
        f"{_row_name(row)} on {device} ({row[key]})"
        for device in devices
        for row in rows
        if row[key := f"measured_{slug(device)}_unmet"]
    ]
    return [
        "Measured: the peak allocated while training with random weights at the real shape; its difference is against "
        "the prediction. Reserved: what the allocator kept; process: what the driver, or the system, saw.",
        *([f"Measured too briefly to meet every cost of the method: {', '.join(unmet)}."] if unmet else []),
    ]


def _published_notes(rows: list[TableRow], compared: bool) -> list[str]:
    if not compared:
        return []
    reasons = distinct(row.get("not_compared") for row in rows)
    return [
        'The paper prints "G", which may be GB (1e9 bytes) or GiB (7 % more). Differences read it as GB; read as GiB '
        "they are 7 % lower, and stand in the CSV.",
        *([f"No difference where: {reasons}."] if reasons else []),
        *_footnotes(rows, "published_note"),
    ]


def _reasons(rows: list[TableRow]) -> list[str]:
    """Why rows have no prediction, the rows of a reason together."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row["reason"]:
            reasons.setdefault(f"{row['status']}; {row['reason']}", []).append(_row_name(row))
    return [f"{', '.join(names)}: {reason}." for reason, names in reasons.items()]


def _row_name(row: TableRow) -> str:
    return "/".join([row["model"], row["method"], row["variant"], row["setting"]])


def _conditions(rows: list[TableRow], experiment: Mapping[str, Any]) -> list[str]:
    dirty = " with uncommitted changes" if any(row["git_dirty"] for row in rows) else ""
    simulated, measured = (distinct(row[key] for row in rows) for key in ("simulated_with", "measured_with"))
    commits = "/".join(_distinct_parts(row["git_commit"] for row in rows)) or "unknown"
    return [
        f"Experiment {experiment['name']}, where a setting does not say otherwise: "
        f"{conditions_line(experiment['training'])}.",
        f"Simulated with {simulated or 'nothing'}. {f'Measured with {measured}' if measured else 'Nothing measured'}."
        f" Commit {commits}{dirty}.",
    ]


def _distinct_parts(values: Iterable[str | None]) -> list[str]:
    """Values in order, each once; one that is itself a list of values counts each of them once."""
    return list(dict.fromkeys(part for value in values if value for part in value.split(" / ")))

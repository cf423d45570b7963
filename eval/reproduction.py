"""Which published memory and time figures a memory experiment reproduces, and what the data say of those it does not.

    reproduction(cells, experiment)   # every published peak beside ours, with a verdict
    parts(cells, experiment)          # every published component (weights, gradients, optimizer state) likewise
    slopes(cells, experiment)         # the published differences between the rows of a method beside ours
    remarks(cells, experiment)        # what follows from both and from the FLOPs, as sentences

A figure reproduces when ours lies within TOLERANCE_PERCENT of it, or within its rounding: at 7B the context, work space
and fragmentation that a printed peak may hold, and ours does not, come to about as much. The papers print "G", which
may be GB (1e9 bytes) or GiB (7 % more); ours is held against both readings, and the verdict names the one that fits.
Nothing here is known beforehand but the published files: every sentence is computed.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from eval.memory_cells import MemoryCell, devices
from eval.memory_tables import (
    EXCEEDS,
    GIB,
    TIMES,
    error_percent,
    flop_bound,
    not_compared,
    per_card,
    published_cell,
    slug,
    speed_verdict,
)
from eval.published import Cell, rounding
from eval.tables import TableRow, published_cells, times
from eval.text import GB

TOLERANCE_PERCENT = 10
BOTH, AS_GB, AS_GIB, NEITHER = ("reproduces", "reproduces if G is GB", "reproduces if G is GiB", "does not reproduce")
REPRODUCED = (BOTH, AS_GB, AS_GIB)
PARTS = {  # metrics of published components: our roles
    "weights_memory": "weights",
    "gradients_memory": "gradients",
    "optimizer_state_memory": "optimizer_state",
}
CARDS = re.compile(r"(\d+) (?:x|cards with) (\d+) GB")  # in the notes of published cells

Pair = tuple[Cell, MemoryCell]


def reproduction(cells: Iterable[MemoryCell], experiment: Mapping[str, Any]) -> list[TableRow]:
    """Every published peak, once for each cell of ours that answers to it, once alone where none does."""
    cells = list(cells)
    found, table = devices(cells), []
    for theirs in _peaks(experiment):
        answers: list[MemoryCell | None] = [c for c in cells if c.base and published_cell(c, [theirs], theirs.metric)]
        table += [_beside(theirs, ours, _varied(cells, ours), found, experiment) for ours in answers or [None]]
    return table


def parts(cells: Iterable[MemoryCell], experiment: Mapping[str, Any]) -> list[TableRow]:
    """Every published component beside the most that ours has of it during a step, as `reproduction` has the peaks."""
    base, table = [cell for cell in cells if cell.base], []
    for theirs in published_cells(experiment):
        if theirs.metric in PARTS:
            answers = [cell for cell in base if published_cell(cell, [theirs], theirs.metric)]
            table += [_part(theirs, ours) for ours in answers or [None]]
    return table


def slopes(cells: Iterable[MemoryCell], experiment: Mapping[str, Any]) -> list[TableRow]:
    """From one row of a method to the next: what the paper says it adds, and what ours does."""
    pairs = [pair for pair in _pairs(cells, experiment) if not_compared(pair[0]) is None]
    steps = itertools.pairwise(pairs)
    return [_slope(*step) for step in steps if len({(theirs.model, theirs.method) for theirs, _ in step}) == 1]


def remarks(cells: Iterable[MemoryCell], experiment: Mapping[str, Any]) -> list[str]:
    """What the published figures and ours say together."""
    cells = list(cells)
    rows, steps, pairs = reproduction(cells, experiment), slopes(cells, experiment), _pairs(cells, experiment)
    models = dict.fromkeys(theirs.model for theirs, _ in pairs)
    return [
        *_counts(rows),
        *(_about_model(model, rows, steps, pairs) for model in models),
        *_turned_everywhere(pairs),
        *_twins(pairs),
        *_several_cards(pairs),
        *_about_time(cells, experiment),
    ]


def _peaks(experiment: Mapping[str, Any]) -> list[Cell]:
    return [cell for cell in published_cells(experiment) if cell.metric == "peak_memory"]


def _pairs(cells: Iterable[MemoryCell], experiment: Mapping[str, Any]) -> list[Pair]:
    """Published peaks with the predicted cell that answers to them, in the paper's order."""
    simulated = [cell for cell in cells if cell.base and cell.simulated]
    return [
        (theirs, ours)
        for theirs in _peaks(experiment)
        for ours in simulated
        if published_cell(ours, [theirs], theirs.metric)
    ]


# --- a published peak beside ours


def _beside(
    theirs: Cell, ours: MemoryCell | None, varied: list[MemoryCell], found: list[str], experiment: Mapping[str, Any]
) -> TableRow:
    peak = ours.peak_bytes if ours else None
    closest = _closest(theirs, varied)
    return {
        **_published(theirs),
        "predicted_peak_gb": times(peak, 1 / GB),
        "predicted_peak_gib": times(peak, 1 / GIB),
        **dict(zip(("error_percent", "error_if_gib_percent"), _errors(theirs, peak), strict=True)),
        "verdict": verdict(theirs, ours, experiment),
        "closest_setting": closest.planned["setting"] if closest else None,
        "closest_error_percent": _errors(theirs, closest.peak_bytes)[0] if closest else None,
        **{f"measured_{slug(d)}_error_percent": _errors(theirs, _allocated(ours, d))[0] for d in found},
        "our_cell": ours.path if ours else None,
        "status": ours.status if ours else "not run",
        "note": theirs.note or None,
    }


def _published(theirs: Cell) -> TableRow:
    names = ("paper", "version", "table", "model", "method", "variant")
    return {**{name: getattr(theirs, name) for name in names}, "published": theirs.printed, "unit": theirs.unit}


def _part(theirs: Cell, ours: MemoryCell | None) -> TableRow:
    role = PARTS[theirs.metric]
    size = ours.simulated.get("largest", {}).get(role) if ours else None
    return {
        **_published(theirs),
        "component": role,
        "predicted_gb": times(size, 1 / GB),
        "predicted_gib": times(size, 1 / GIB),
        **dict(zip(("error_percent", "error_if_gib_percent"), _errors(theirs, size), strict=True)),
        "verdict": "no cell of ours" if ours is None else "not simulated" if size is None else _reading(theirs, size),
        "our_cell": ours.path if ours else None,
        "status": ours.status if ours else "not run",
        "note": theirs.note or None,
    }


def verdict(theirs: Cell, ours: MemoryCell | None, experiment: Mapping[str, Any]) -> str:
    """Whether ours is the published figure, or why that cannot be asked."""
    if ours is None:
        return "no cell of ours"
    if ours.peak_bytes is None:
        return "not simulated"
    if theirs.value is None:
        return _out_of_memory(theirs, ours.peak_bytes, experiment)
    if not_compared(theirs):
        return "not compared: per card"
    return _reading(theirs, ours.peak_bytes)


def _reading(theirs: Cell, size: int) -> str:
    """Whether a size is the published figure, in which reading of its unit."""
    slack = max(rounding(theirs.printed), TOLERANCE_PERCENT / 100 * (theirs.value or 0))
    as_gb, as_gib = (abs(size / unit - (theirs.value or 0)) <= slack for unit in (GB, GIB))
    return {(True, True): BOTH, (True, False): AS_GB, (False, True): AS_GIB, (False, False): NEITHER}[as_gb, as_gib]


def _out_of_memory(theirs: Cell, peak_bytes: int, experiment: Mapping[str, Any]) -> str:
    cards, card_bytes = CARDS.search(theirs.note), experiment.get("card_bytes")
    if cards is None and card_bytes and theirs.printed == "OOM":
        card = f"{experiment['card']} ({card_bytes / GB:.1f} GB)"
        return (
            f"OOM not explained: it would fit {card}" if peak_bytes <= card_bytes else f"OOM agrees: more than {card}"
        )
    if cards is None:
        return f"published {theirs.printed}"
    number, size_gb = map(int, cards.groups())
    fits = peak_bytes <= number * size_gb * GB
    total = f"{number} x {size_gb} GB"
    return f"OOM not explained: an even split would fit {total}" if fits else f"OOM agrees: more than {total}"


def _errors(theirs: Cell, peak_bytes: int | None) -> tuple[float | None, float | None]:
    """Ours over the published figure, its G read as GB and as GiB; None where they are not of the same quantity."""
    value = theirs.value if not_compared(theirs) is None else None
    return error_percent(times(peak_bytes, 1 / GB), value), error_percent(times(peak_bytes, 1 / GIB), value)


def _allocated(ours: MemoryCell | None, device: str) -> int | None:
    return ours.allocated_bytes(device) if ours else None


def _varied(cells: list[MemoryCell], ours: MemoryCell | None) -> list[MemoryCell]:
    """The same method under all settings, if more than the base was simulated."""
    same = [cell for cell in cells if ours and cell.row == ours.row and cell.simulated]
    return same if len(same) > 1 else []


def _closest(theirs: Cell, varied: list[MemoryCell]) -> MemoryCell | None:
    """The setting whose prediction is nearest the published figure."""
    errors = {cell.path: _errors(theirs, cell.peak_bytes)[0] for cell in varied}
    comparable = [cell for cell in varied if errors[cell.path] is not None]
    return min(comparable, key=lambda cell: abs(errors[cell.path] or 0), default=None)


def _slope(start: Pair, end: Pair) -> TableRow:
    """A difference holds if ours is within the rounding of the two printed figures, in one reading of G."""
    (first, ours), (second, ours_after) = start, end
    published = (second.value or 0) - (first.value or 0)
    slack = rounding(first.printed) + rounding(second.printed)
    change = (ours_after.peak_bytes or 0) - (ours.peak_bytes or 0)
    within = any(abs(change / unit - published) <= slack for unit in (GB, GIB))
    return {
        "model": first.model,
        "method": first.method,
        "from_variant": first.variant,
        "to_variant": second.variant,
        "published_difference": round(published, 6),
        "rounding": slack,
        "predicted_difference_gb": change / GB,
        "predicted_difference_gib": change / GIB,
        "verdict": "within rounding" if within else "outside rounding",
        "status": "ok",
    }


# --- sentences


def _counts(rows: list[TableRow]) -> list[str]:
    if not rows:
        return []
    compared = [row for row in rows if row["verdict"] in (*REPRODUCED, NEITHER)]
    same = sum(row["verdict"] in REPRODUCED for row in compared)
    rest = len(rows) - len(compared)
    why = "out of memory, a lower bound, per card of several, or no prediction"
    others = f"; {rest} are not compared ({why})" if rest else ""
    as_gb, as_gib = (sum(row["verdict"] in (BOTH, one) for row in compared) for one in (AS_GB, AS_GIB))
    return [
        f"{same} of {len(compared)} compared peaks are within {TOLERANCE_PERCENT} % of the published figure in one "
        f"reading of its unit{others}.",
        f'The unit is printed "G". Were it GB throughout, {as_gb} cells would reproduce, were it GiB (7 % more), '
        f"{as_gib}; the verdict says where the reading decides.",
    ]


def _about_model(model: str, rows: list[TableRow], steps: list[TableRow], pairs: list[Pair]) -> str:
    mine = [row for row in rows if row["model"] == model]
    compared = [row for row in mine if row["verdict"] in (*REPRODUCED, NEITHER)]
    own_pairs = [pair for pair in pairs if pair[0].model == model]
    own_steps = [step for step in steps if step["model"] == model]
    parts = [*_offset(compared, own_pairs), *_order(own_pairs)]
    if own_steps:
        within = sum(step["verdict"] == "within rounding" for step in own_steps)
        parts.append(f"{within} of {len(own_steps)} differences between rows of a method agree within rounding")
    return f"{model}: {'; '.join(parts) or 'nothing to compare'}."


def _offset(compared: list[TableRow], pairs: list[Pair]) -> list[str]:
    if not compared:
        return []
    as_gb, as_gib = (sum(row["verdict"] in (BOTH, one) for row in compared) for one in (AS_GB, AS_GIB))
    gaps = [
        theirs.value - (ours.peak_bytes or 0) / GB for theirs, ours in pairs if theirs.value and not per_card(theirs)
    ]
    low, high = min(gaps), max(gaps)
    counts = f"of {len(compared)} cells {as_gb} reproduce if G is GB, {as_gib} if GiB"
    return [counts, f"published minus predicted is {low:+.1f} to {high:+.1f} GB"]


def _ordered(pairs: list[Pair]) -> list[tuple[Pair, Pair]]:
    """Pairs of cells of one model that have an order in print; equal published figures have none."""
    valued = [(theirs, ours) for theirs, ours in pairs if theirs.value is not None]
    both = itertools.combinations(valued, 2)
    return [pair for pair in both if pair[0][0].model == pair[1][0].model and pair[0][0].value != pair[1][0].value]


def _turned_everywhere(pairs: list[Pair]) -> list[str]:
    """How many pairs stand in the published order over all models, and which is turned in most of them."""
    ordered = _ordered(pairs)
    turned = Counter(f"{_name(a[0])} against {_name(b[0])}" for a, b in ordered if not _same_order(a, b))
    if not ordered or not turned:
        return []
    name, models = turned.most_common(1)[0]
    asked = sum(f"{_name(a[0])} against {_name(b[0])}" == name for a, b in ordered)
    kept = len(ordered) - turned.total()
    return [
        f"All models: {kept} of {len(ordered)} pairs of cells stand in the published order; {name} does not in "
        f"{models} of {asked} models."
    ]


def _order(pairs: list[Pair]) -> list[str]:
    """How many pairs of cells of a model stand in the published order."""
    ordered = _ordered(pairs)
    if not ordered:
        return []
    turned = [pair for pair in ordered if not _same_order(*pair)]
    names = ", ".join(f"{_name(first[0])} and {_name(second[0])}" for first, second in turned)
    return [
        f"{len(ordered) - len(turned)} of {len(ordered)} pairs in the published order"
        + (f" (not {names})" if names else "")
    ]


def _same_order(first: Pair, second: Pair) -> bool:
    published = (first[0].value or 0) - (second[0].value or 0)
    return published * ((first[1].peak_bytes or 0) - (second[1].peak_bytes or 0)) > 0


def _name(cell: Cell) -> str:
    return f"{cell.method} {cell.variant}".strip()


def _twins(pairs: list[Pair]) -> list[str]:
    """Two models whose published figures are all the same, though they are not the same model."""
    models: dict[str, dict[tuple[str, str], Pair]] = {}
    for theirs, ours in pairs:
        models.setdefault(theirs.model, {})[theirs.method, theirs.variant] = (theirs, ours)
    return [
        _twin(first, second, models[first], models[second])
        for first, second in itertools.combinations(models, 2)
        if _identical(models[first], models[second])
    ]


def _identical(first: Mapping[Any, Pair], second: Mapping[Any, Pair]) -> bool:
    shared = first.keys() & second.keys()
    return len(shared) > 1 and all(first[key][0].printed == second[key][0].printed for key in shared)


def _twin(first: str, second: str, mine: Mapping[Any, Pair], theirs: Mapping[Any, Pair]) -> str:
    shared = [key for key in mine if key in theirs]
    gaps = {key: ((theirs[key][1].peak_bytes or 0) - (mine[key][1].peak_bytes or 0)) / GB for key in shared}
    low, high = min(gaps.values(), key=abs), max(gaps.values(), key=abs)
    sizes = [pairs[shared[0]][1].simulated["parameters"] / 1e9 for pairs in (mine, theirs)]
    beyond = sum(abs(gap) > 2 * rounding(mine[key][0].printed) for key, gap in gaps.items())
    return (
        f"{first} and {second}: the published figures are identical in all {len(shared)} cells, though the models have "
        f"{sizes[0]:.2f} and {sizes[1]:.2f} G parameters and our predictions differ by {low:+.1f} to {high:+.1f} GB "
        f"({second} minus {first}), in {beyond} cells by more than rounding hides: measured under the same settings, "
        "both rows cannot be right."
    )


def _several_cards(pairs: list[Pair]) -> list[str]:
    models = dict.fromkeys(theirs.model for theirs, _ in pairs if per_card(theirs))
    return [
        f"{model}: the published figures are of one card among several that share the model (model parallel); the "
        "predictions are of the whole on one device. They are not compared, only their order."
        for model in models
    ]


def _about_time(cells: list[MemoryCell], experiment: Mapping[str, Any]) -> list[str]:
    """What FLOPs say of published speed-ups and forward times, a method of a model at a time."""
    published = [cell for cell in published_cells(experiment) if cell.metric in TIMES]
    full = {cell.row[0]: cell for cell in cells if cell.base and cell.row[1] == "full"}
    groups: dict[tuple[str, str], list[MemoryCell]] = {}
    for cell in cells:
        if cell.base and cell.simulated and cell.row[1] != "full" and cell.row[0] in full:
            groups.setdefault(cell.row[:2], []).append(cell)
    said = [
        sentence
        for (model, _), members in groups.items()
        for sentence in (*_ratio(members, full[model], published), *_forward(members, full[model], published))
    ]
    timed = [whole for whole in full.values() if any(published_cell(whole, published, metric) for metric in TIMES)]
    return [*(sentence for whole in timed for sentence in _most(whole)), *said]


def _most(full: MemoryCell) -> list[str]:
    """What any method can save that still passes gradients through the whole model: the weight gradients."""
    forward, whole = full.flops("forward"), full.flops()
    if not forward or not whole:
        return []
    return [
        f"{full.row[0]}: a method that passes gradients through every layer saves at most the weight gradients, which "
        f"cost no more than a forward: at most {whole / (whole - forward):.2f}x over full, whatever it trains."
    ]


def _ratio(members: list[MemoryCell], full: MemoryCell, published: list[Cell]) -> list[str]:
    theirs = published_cell(members[0], published, "speedup_over_full")
    bounds = [bound for cell in members if (bound := flop_bound(cell, full)) is not None]
    if theirs is None or theirs.value is None or not bounds:
        return []
    beyond = speed_verdict(theirs, max(bounds)) == EXCEEDS
    follows = "skipped work alone cannot give the published ratio" if beyond else "the published ratio is possible"
    allowed = " to ".join(dict.fromkeys(f"{bound:.2f}x" for bound in (min(bounds), max(bounds))))
    return [f"{_names(members)}: published {theirs.printed}x over full; FLOPs allow {allowed}: {follows}."]


def _forward(members: list[MemoryCell], full: MemoryCell, published: list[Cell]) -> list[str]:
    """Forward times that differ where the forward's FLOPs do not."""
    theirs, of_full = (published_cell(cell, published, "forward_s") for cell in (members[0], full))
    mine, flops = members[0].flops("forward"), full.flops("forward")
    if not (theirs and of_full and theirs.value and of_full.value and mine and flops):
        return []
    return [
        f"{_names(members)}: the published forward takes {theirs.printed} s and full's {of_full.printed} s, "
        f"{of_full.value / theirs.value:.1f}x as long; by FLOPs it is {flops / mine:.2f}x."
    ]


def _names(members: list[MemoryCell]) -> str:
    return f"{members[0].row[0]}, {', '.join(cell.label for cell in members)}"

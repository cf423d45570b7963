"""Equal tuning: which settings every row of an experiment tries before its final runs (`tuning` of an experiment).

    trials(config, runs)    [{model, data, method, variant, hyperparameters, learning_rate, trial, seed, path}]

A row is what differs by its seed only. Each that trains has `tuning.trials` trials on every model and data set:
learning rates log-spaced over the method's published range or, where other hyper-parameters are swept too, as many
rates for each combination of their values as the same number of trials allows. Each trial is trained on every seed of
`tuning.seeds`. `workflow/stages/select.py` chooses among them.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

from eval.chosen import ROW, row_path
from workflow.engine.errors import InputError
from workflow.variants import hyperparameters, method_class

FIGURES = 3  # significant digits of a rate

Json = dict[str, Any]


def trials(config: Json, runs: list[Json]) -> list[Json]:
    """The trials of every row of the runs, in the runs' order; none without `tuning`.

    Raises:
        InputError: `tuning` is contradicted, names something unknown or illegal, or cannot be equal for all rows.
    """
    tuning = config["tuning"]
    if tuning is None:
        return []
    if config["continual_pretraining"] is not None:
        raise InputError("tuning: not with continual_pretraining, whose rate no trial chooses. Legal: one of the two.")
    if config["training"]["fixed_seeds"] is not None:
        raise InputError(
            "tuning: not with training.fixed_seeds, which trials and final runs would share, while final runs are on"
            " fresh seeds. Legal: one of the two."
        )
    _check_rates_are_open(config)
    _check_seeds_are_fresh(config)
    _check_names(config)
    rows = {row_path(run): run for run in runs if method_class("methods", run["method"]).trains}
    _check_budget_divides(tuning, {run["method"] for run in rows.values()})
    found = []
    for path, row in rows.items():
        _check_variant_is_open(config, row)
        for number, (rate, settings) in enumerate(_candidates(tuning, row)):
            trial = {key: row[key] for key in ROW}
            trial |= {"hyperparameters": settings, "learning_rate": rate, "trial": number}
            folder = f"{path}/tuning/trial{number}"
            found += [{**trial, "seed": seed, "path": f"{folder}/seed{seed}"} for seed in tuning["seeds"]]
    return found


def log_spaced(lowest: float, highest: float, count: int) -> list[float]:
    """`count` rates from lowest to highest, equally far apart on a log axis; one alone is the geometric mean."""
    if count == 1:
        return [_rounded(math.sqrt(lowest * highest))]
    return [_rounded(lowest * (highest / lowest) ** (place / (count - 1))) for place in range(count)]


def _rounded(rate: float) -> float:
    return float(f"{rate:.{FIGURES}g}")


def _candidates(tuning: Json, row: Json) -> list[tuple[float, Json]]:
    """Every (learning rate, all hyper-parameters) that the row tries: all rates with each combination of values."""
    method, combinations = row["method"], _combinations(tuning, row["method"])
    rates = log_spaced(*_range(tuning, method), tuning["trials"] // len(combinations))
    if len(set(rates)) < len(rates):
        raise InputError(
            f"tuning.learning_rates.{method}: {rates[0]:g} to {rates[-1]:g} holds no {len(rates)} different rates of"
            f" {FIGURES} significant digits. Legal: a wider range, or fewer tuning.trials."
        )
    settings = [hyperparameters("tuning", method, {**row["hyperparameters"], **swept}) for swept in combinations]
    return [(rate, full) for full in settings for rate in rates]


def _combinations(tuning: Json, method: str) -> list[Json]:
    """All combinations of the values that are swept of a method; one, empty, where none are."""
    lists = tuning["hyperparameters"].get(method, {})
    return [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]


def _range(tuning: Json, method: str) -> tuple[float, float]:
    """Lowest and highest rate of a method: the experiment's, else the ends of what its paper tried."""
    given = tuning["learning_rates"].get(method) or method_class("tuning", method).learning_rates
    if not given or min(given) == max(given):
        raise InputError(
            f"tuning.learning_rates: method {method} has no range of its own (learning_rates: {list(given)})."
            f" Legal: {method}: [lowest, highest]."
        )
    return min(given), max(given)


# --- checks


def _check_rates_are_open(config: Json) -> None:
    """No learning rate is given that the trials are to choose."""
    given = {"training": config["training"]}
    given |= {f"method_settings.{name}": settings for name, settings in config["method_settings"].items()}
    given |= {f"methods[{place}]": entry for place, entry in enumerate(config["methods"]) if isinstance(entry, dict)}
    keys = [f"{where}.learning_rate" for where, settings in given.items() if "learning_rate" in settings]
    if keys:
        raise InputError(
            f"{', '.join(keys)}: given, but with `tuning` the trials choose the rate. Legal: remove"
            f" {'it' if len(keys) == 1 else 'them'}; a range of a method's own goes to tuning.learning_rates, as"
            " <method>: [lowest, highest]."
        )


def _check_seeds_are_fresh(config: Json) -> None:
    shared = sorted({*config["tuning"]["seeds"]} & {*config["seeds"]})
    if shared:
        raise InputError(
            f"tuning.seeds: {shared[0]} is one of seeds {config['seeds']} too; final runs are on fresh seeds."
            " Legal: whole numbers that are not in seeds."
        )


def _check_names(config: Json) -> None:
    """All methods, ranges and swept values that `tuning` names, those of methods that are no row included."""
    tuning = config["tuning"]
    for name, (lowest, highest) in tuning["learning_rates"].items():
        _check_trains(f"tuning.learning_rates.{name}", name)
        if lowest >= highest:
            raise InputError(f"tuning.learning_rates.{name}: [{lowest:g}, {highest:g}]; legal: [lowest, highest].")
    for name in tuning["hyperparameters"]:
        _check_trains(f"tuning.hyperparameters.{name}", name)
        shared = config["method_settings"].get(name, {"hyperparameters": {}})["hyperparameters"]
        for swept in _combinations(tuning, name):
            hyperparameters("tuning", name, {**shared, **swept})


def _check_trains(where: str, name: str) -> None:
    if not method_class(where, name).trains:
        raise InputError(f"{where}: method {name} trains nothing and has no trials. Legal: methods that train.")


def _check_budget_divides(tuning: Json, methods: set[str]) -> None:
    """Every row has the same number of trials, whatever is swept of its method."""
    counts = {name: len(_combinations(tuning, name)) for name in sorted(methods)}
    step = math.lcm(*counts.values())
    if tuning["trials"] % step:
        told = ", ".join(f"{name} {count}" for name, count in counts.items() if count > 1)
        raise InputError(
            f"tuning.trials: {tuning['trials']} does not divide among the combinations in tuning.hyperparameters"
            f" ({told}). Legal: {step}, {2 * step}, {3 * step} and other multiples of {step}."
        )


def _check_variant_is_open(config: Json, row: Json) -> None:
    """A variant does not itself give what is swept of its method: its name would be wrong."""
    swept = config["tuning"]["hyperparameters"].get(row["method"], {})
    for place, entry in enumerate(config["methods"]):
        if isinstance(entry, dict) and (entry["method"], entry["variant"]) == (row["method"], row["variant"]):
            both = sorted({*swept} & {*entry["hyperparameters"]})
            if both:
                raise InputError(
                    f"methods[{place}] ({row['method']} {row['variant']}): {both[0]} is given here and swept in"
                    f" tuning.hyperparameters.{row['method']}. Legal: one of the two."
                )

"""What `lisa-bench methods` shows people: the table of all methods, one in detail, and the README's table."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping

import baselines
from baselines.contract import ABILITIES, STATE_LETTERS, Method
from workflow.commands.methods import Catalogue, Figures

NARROWEST, WIDTH, WIDEST = 100, 120, 140  # columns of a terminal; WIDTH where there is none
ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")
CITED = re.compile(r"([^;\s][^;]*?),? \(?arXiv (\d{4}\.\d{4,5})\)?")
HEADS = ["method", "arXiv", "trains", "share", "state", "bytes of state", "code"]
TO_THE_RIGHT = ("trains", "share", "state")
SHORT = {"does not train": "-", "package missing": "no package", "not filled in": "unfilled"}


def table(catalogue: Catalogue) -> str:
    """A row a method under the heading of its family; below, what has no figures and why, limits, and the letters."""
    families = {name: baselines.method_class(name).family for name in catalogue.figures}
    rows = {name: _row(name, figures) for name, figures in catalogue.figures.items()}
    lines = [_conditions(catalogue), ""]
    head, *body = _aligned([HEADS, *rows.values()])
    lines += head
    for family, members in itertools.groupby(zip(rows, body, strict=True), lambda row: families[row[0]]):
        lines += [family, *(line for _, row in members for line in row)]
    reasons = {name: [f"{f.status}: {f.reason}"] for name, f in catalogue.figures.items() if f.reason}
    limits = {name: _limits(baselines.method_class(name)) for name in catalogue.figures}
    lines += [*_section("without figures", reasons), *_section("limits", limits)]
    lacking = dict.fromkeys(ability for name in limits for ability in baselines.method_class(name).limits())
    lines += _section("a method without the limit", {ability: [ABILITIES[ability]] for ability in lacking})
    lines += _section("letters", {letter: [meaning] for letter, meaning in STATE_LETTERS.items()})
    return "\n".join(lines)


def details(catalogue: Catalogue) -> str:
    """All about the one method in the catalogue."""
    ((name, figures),) = catalogue.figures.items()
    method = baselines.method_class(name)
    rates = f"{', '.join(f'{lr:g}' for lr in method.learning_rates)}; {method.default_learning_rate:g}"
    about = {
        "family": method.family,
        "paper": method.paper,
        "code": method.implementation,
        "optimizer": method.optimizer_name,
        "state": method.state_formula if method.state_formula == "none" else f"{method.state_formula} bytes",
        "learning rates": f"{rates} where an experiment names none" if method.trains else "none: it does not train",
    }
    lines = [f"{name}: {method.summary}", "", *_filled(_first_paragraph(method)), ""]
    lines += [line for key, value in about.items() for line in _entry(key, 16, value)]
    lines += _section("hyper-parameters", _settings(method.Hyperparameters))
    lines += _section("limits", {name: _limits(method)})
    return "\n".join([*lines, "", _conditions(catalogue), *_filled(_cost(figures), "  ")])


def markdown(names: Iterable[str]) -> str:
    """A row a method; it stands in README.md between `<!-- methods -->` and `<!-- /methods -->`."""
    lines = ["| method | trains | from | whose code | limits |", "|---|---|---|---|---|"]
    for name in names:
        method = baselines.method_class(name)
        paper = CITED.sub(r"[\1](https://arxiv.org/abs/\2)", method.paper)
        cells = (f"`{name}`", method.summary, paper, method.implementation, "; ".join(_limits(method)))
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


# --- parts


def _conditions(catalogue: Catalogue) -> str:
    shape = f"{catalogue.model} ({catalogue.parameters:,} parameters)"
    return f"at default hyper-parameters on {shape}, weights as in {catalogue.precision}:"


def _row(name: str, figures: Figures) -> list[str]:
    method = baselines.method_class(name)
    cited = ARXIV.search(method.paper)
    head = [name, cited[1] if cited else "-"]
    if figures.state_bytes is None:
        return [*head, SHORT.get(figures.status, figures.status), "-", "-", method.state_formula, method.implementation]
    share, state = f"{figures.trainable_share:.3%}", f"{figures.state_bytes / 1e9:.3f} GB"
    counted = f"{figures.trainable_parameters['total'] / 1e6:,.1f} M"
    return [*head, counted, share, state, method.state_formula, method.implementation]


def _cost(figures: Figures) -> str:
    if figures.state_bytes is None:
        return f"{figures.status}: {figures.reason}" if figures.reason else figures.status
    counts = figures.trainable_parameters
    drawn = f", of them {counts['sampled']:,} while they are drawn" if counts["sampled"] else ""
    trains = f"{counts['total']:,} parameters train at a time ({figures.trainable_share:.3%}){drawn}"
    return f"{trains}; {figures.state_bytes:,} bytes of optimizer state"


def _limits(method: type[Method]) -> list[str]:
    """A sentence for each reason, with all abilities that it is the reason for."""
    limits = method.limits()
    reasons = dict.fromkeys(limits.values())
    return [f"{', '.join(able for able in limits if limits[able] == reason)}: {reason}" for reason in reasons]


def _first_paragraph(method: type[Method]) -> str:
    return (sys.modules[method.__module__].__doc__ or "").partition("\n\n")[0]


def _settings(kind: type) -> Mapping[str, list[str]]:
    """Each hyper-parameter with its default and the comment beside it."""
    comments: dict[str, str] = {}
    for owner in reversed([owner for owner in kind.__mro__ if dataclasses.is_dataclass(owner)]):
        source = textwrap.dedent(inspect.getsource(owner))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                beside = source.splitlines()[node.lineno - 1 : node.end_lineno]
                comments[node.target.id] = " ".join(line.partition("  # ")[2] for line in beside).strip()
    made = kind()
    return {
        field.name: [f"{getattr(made, field.name)!r}" + (f"  {comments[field.name]}" if comments[field.name] else "")]
        for field in dataclasses.fields(kind)
    }


# --- layout


def _width() -> int:
    return min(max(shutil.get_terminal_size((WIDTH, 24)).columns, NARROWEST), WIDEST)


def _aligned(rows: list[list[str]]) -> list[list[str]]:
    """The lines of each row: the last two columns are wrapped into what the others leave."""
    widths = [max(map(len, column)) for column in zip(*(row[:-2] for row in rows), strict=True)]
    room = _width() - 2 - sum(widths) - 2 * (len(widths) + 1)
    widths += [room // 2, room - room // 2]
    return [
        [_line(cells, widths) for cells in itertools.zip_longest(*_wrapped(row, widths), fillvalue="")] for row in rows
    ]


def _wrapped(row: list[str], widths: list[int]) -> list[list[str]]:
    return [textwrap.wrap(cell, width) or [""] for cell, width in zip(row, widths, strict=True)]


def _line(cells: Iterable[str], widths: list[int]) -> str:
    named = zip(cells, widths, HEADS, strict=True)
    return f"  {'  '.join(c.rjust(w) if head in TO_THE_RIGHT else c.ljust(w) for c, w, head in named)}".rstrip()


def _section(title: str, entries: Mapping[str, list[str]]) -> list[str]:
    """A heading and an entry for each sentence; nothing where there are none."""
    margin = max((len(key) for key, sentences in entries.items() if sentences), default=0) + 2
    lines = [line for key, sentences in entries.items() for text in sentences for line in _entry(key, margin, text)]
    return ["", title, *lines] if lines else []


def _entry(key: str, margin: int, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _width(),
        initial_indent=f"  {key:<{margin}}",
        subsequent_indent=" " * (margin + 2),
        break_on_hyphens=False,
    )


def _filled(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(" ".join(text.split()), _width(), initial_indent=indent, subsequent_indent=indent)

"""The figures of a report as files: figures/<name>.svg, a file a choice.

write_figures([("tiny on world-chat", figure), ...], results / "figures", about="Experiment smoke.")
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from eval.memory_tables import slug
from workflow.report.drawing import Figure
from workflow.report.static.svg import to_svg

LONGEST = 120  # characters of a file's name, less its ending


def write_figures(drawn: Iterable[tuple[str, Figure]], folder: Path, about: str) -> None:
    """Write each figure, once for every choice, and remove all of former reports: the folder is the report's."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.svg"):
        file.unlink()
    for name, panel, figure, choice in named(list(drawn)):
        (folder / f"{name}.svg").write_text(to_svg(figure, panel, choice, about), encoding="utf-8")


def named(drawn: list[tuple[str, Figure]]) -> Iterator[tuple[str, str, Figure, Mapping[str, Any] | None]]:
    """(name, panel, figure, choice) of every file: the figure's name, the panel before it where there are several, the
    choice behind it; a number behind a name that another file has.
    """
    several, taken = len({panel for panel, _ in drawn}) > 1, set()
    for panel, figure in drawn:
        for choice in figure.choices or [None]:
            parts = [slug(panel) if several else "", figure.name, slug(choice["label"]) if choice else ""]
            name = "-".join(filter(None, parts))[:LONGEST]
            numbered = (f"{name}-{number}" for number in itertools.count(2))
            name = next(one for one in itertools.chain([name], numbered) if one not in taken)
            taken.add(name)
            yield name, panel, figure, choice

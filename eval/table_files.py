"""The tables of a report as files: <name>.csv with every digit, <name>.md and <name>.tex as they are read.

write_tables([(rows, table), ...], results / "tables")     # the folder is the report's: former tables go
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from eval.latex import to_latex
from eval.tables import TableRow, write_csv
from eval.text import Table, to_markdown

KINDS = ("csv", "md", "tex")


def write_tables(made: Iterable[tuple[list[TableRow], Table]], folder: Path) -> None:
    """Write each table in every kind, and remove those kinds of all tables that are not asked for any more."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in [file for kind in KINDS for file in folder.glob(f"*.{kind}")]:
        file.unlink()
    for rows, table in made:
        write_csv(rows, folder / f"{table.name}.csv")
        (folder / f"{table.name}.md").write_text(to_markdown(table), encoding="utf-8")
        (folder / f"{table.name}.tex").write_text(to_latex(table), encoding="utf-8")

r"""A table as LaTeX, to be read into a paper: booktabs' rules, notes and conditions below them in small print.

    (folder / "speed.tex").write_text(to_latex(table))      # then \input{speed} where \usepackage{booktabs} is loaded

It needs booktabs and no other package: pdflatex compiles it with its own fonts, whatever a record holds. Written here,
since what pandas' Styler writes does not compile with our texts: a row that begins with [1] becomes an argument of the
line end before it, a caption is not escaped, and characters such as ≥ stay what no font of pdflatex's has.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable

from eval.text import Table

GREEK = {"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "Δ": "Delta", "λ": "lambda", "μ": "mu", "σ": "sigma"}
COMMANDS = {  # what stands in a text -> what prints it
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",  # the old fonts, which are the default, have other characters in the place of these
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': "''",
    "[": "{[}",  # after a line end: its optional argument
    "]": "{]}",
    "*": "{*}",  # after a line end: its star
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "“": "``",
    "”": "''",
    "‘": r"\textquoteleft{}",
    "’": "'",
    "…": r"\ldots{}",
    "±": r"\ensuremath{\pm}",
    "−": r"\ensuremath{-}",
    "×": r"\ensuremath{\times}",
    "·": r"\ensuremath{\cdot}",
    "≥": r"\ensuremath{\geq}",
    "≤": r"\ensuremath{\leq}",
    "≈": r"\ensuremath{\approx}",
    "→": r"\ensuremath{\rightarrow}",
    "²": r"\ensuremath{^2}",
    **{letter: rf"\ensuremath{{\{name}}}" for letter, name in GREEK.items()},
}
LETTERS = re.compile(r"[À-ÖØ-öø-ÿ]")  # of other languages that LaTeX reads and its default fonts can print ...
UNKNOWN_LETTERS = "ÐÞðþ"  # ... but for these
HEADER_WIDTH, LONG = 16, 40  # characters of a line in the header; of a cell, from which on its column wraps
ABOUT = r"""% Needs \usepackage{booktabs} and no other package.
% Wider than the text: \usepackage{adjustbox} and \begin{adjustbox}{max width=\linewidth} around the tabular, or
% pdflscape's landscape around all of it. Longer than a page: longtable in the place of table and tabular."""


def to_latex(table: Table) -> str:
    """A `table` environment: title as caption, the label tab:<name>, tabular, verdicts, notes and conditions."""
    notes = [rf"\par\smallskip \textbf{{{escape(verdict)}}}" for verdict in table.verdicts]
    notes += [rf"\par\smallskip {escape(note)}" for note in (*table.notes, *table.conditions)]
    lines = [
        ABOUT,
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(table.title)}}}",
        rf"\label{{tab:{table.name}}}",
        r"\small",
        *(_tabular(table) if table.header else ["No rows."]),
        *([r"\begin{minipage}{\linewidth}", r"\raggedright\footnotesize", *notes, r"\end{minipage}"] if notes else []),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """The text as LaTeX prints it; a character that its default fonts lack becomes its number, such as U+4E2D."""
    printed = "".join(map(_printed, " ".join(text.split())))
    return re.sub("-(?=-)", "-{}", printed)  # two would be a dash


def _printed(character: str) -> str:
    if character in COMMANDS:
        return COMMANDS[character]
    if character.isascii() and character.isprintable():
        return character
    known = LETTERS.match(character) and character not in UNKNOWN_LETTERS
    return character if known else rf"\texttt{{U+{ord(character):04X}}}"


def _tabular(table: Table) -> list[str]:
    header = [_header(title, numeric) for title, numeric in zip(table.header, table.numeric, strict=True)]
    return [
        rf"\begin{{tabular}}{{{''.join(map(_alignment, table.numeric, _widths(table)))}}}",
        r"\toprule",
        _row(header),
        r"\midrule",
        *(_row(map(_cell, cells, table.numeric)) for cells in table.body),
        r"\bottomrule",
        r"\end{tabular}",
    ]


def _widths(table: Table) -> list[int]:
    """Characters of the longest cell in each column."""
    return [max((len(cells[place]) for cells in table.body), default=0) for place in range(len(table.header))]


def _alignment(numeric: bool, width: int) -> str:
    return r"p{0.3\linewidth}" if width > LONG else "r" if numeric else "l"


def _header(title: str, numeric: bool) -> str:
    """A title in lines of a few words, the last of all titles on one height."""
    lines = textwrap.wrap(title, HEADER_WIDTH, break_long_words=False, break_on_hyphens=False)
    stacked = r" \\ ".join(map(escape, lines))
    return rf"\shortstack[{'r' if numeric else 'l'}]{{{stacked}}}"


def _cell(text: str, numeric: bool) -> str:
    """A number's hyphen is a minus."""
    return escape(f"−{text[1:]}" if numeric and text.startswith("-") else text)


def _row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"

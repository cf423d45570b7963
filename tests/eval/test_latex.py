"""Tables as LaTeX: they compile with booktabs alone, print every text as it is, and no text of a record is a command.

Where pdflatex is at hand every table is compiled too; what it would stumble over is checked without it all the same.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from eval.latex import COMMANDS, escape, to_latex
from eval.text import EMPTY, Column, Table, build, plain
from tests.report import whole

ENVIRONMENTS = {"table", "tabular", "minipage"}
LAYOUT = {r"\begin", r"\end", r"\centering", r"\caption", r"\label", r"\small", r"\raggedright", r"\footnotesize"}
LAYOUT |= {r"\toprule", r"\midrule", r"\bottomrule", r"\shortstack", r"\linewidth", r"\par", r"\smallskip", r"\\"}
PRINTING = {command for text in COMMANDS.values() for command in re.findall(r"\\(?:[a-zA-Z]+|.)", text)}
LEGAL = LAYOUT | PRINTING | {r"\texttt", r"\textbf"}
HOSTILE = (
    r"\input{/etc/passwd}",
    r"}\end{tabular}\input{x}{",
    r"\\[1em] x & y % z",
    "[1] begins with a bracket",
    "* begins with a star",
    '#1 $x^2$ ~ a_b {c} | <d> `e\' "f" -- g',
    "line\nbreak\ttab",
    "^^5cinput x",
    "中文 \x00 \u200b é ß Þ ő ﬁ",
)


def table_of(*cells: str, title: str = "t", note: str = "n", numeric: bool = False) -> Table:
    columns = [Column("first", plain("first")), Column("second (x)", plain("second"), numeric)]
    rows = [{"first": cell, "second": cell} for cell in cells]
    return build("made_up", title, columns, rows, [note], ["c"])


def well_formed(source: str) -> None:
    """What pdflatex would end at: foreign commands, open groups, wrong columns, bare special characters."""
    text = "\n".join(line for line in source.split("\n") if not line.startswith("% "))
    commands = re.findall(r"\\(?:[a-zA-Z]+|.)", text)
    assert set(commands) <= LEGAL, set(commands) - LEGAL
    groups = re.sub(r"\\.", "", text)
    depth = 0
    for bracket in re.findall(r"[{}]", groups):
        depth += 1 if bracket == "{" else -1
        assert depth >= 0
    assert depth == 0
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        assert name in ENVIRONMENTS
        assert kind == "begin" or opened.pop() == name
        opened += [name] * (kind == "begin")
    assert opened == []
    bare = re.sub(r"\\label\{tab:\w+\}|\\shortstack\[[lr]\]|\{[\[\]*]\}|\\\S", "", text)
    assert not re.search(r"[%$#^_~*\[\]<>|`\"]", bare.replace("``", "")), bare
    assert not re.search(r"[^\x20-\x7e\nÀ-ÖØ-öø-ÿ]", bare)
    for aligned, body in re.findall(r"\\begin\{tabular\}\{(.*?)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL):
        columns = len(re.sub(r"p\{[^}]*\}?", "p", aligned))
        rows = [line for line in body.strip().split("\n") if not line.endswith("rule")]
        assert all(row.endswith(r" \\") for row in rows)
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {columns}


def compiled(folder: Path, sources: list[str]) -> None:
    """Where pdflatex is at hand, it ends well with each of them."""
    if shutil.which("pdflatex") is None:
        return
    for place, source in enumerate(sources):
        (folder / f"table{place}.tex").write_text(source, encoding="utf-8")
    inputs = "\n".join(rf"\input{{table{place}}}\clearpage" for place in range(len(sources)))
    document = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{inputs}\end{{document}}"
    (folder / "all.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "all.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert (folder / "all.pdf").stat().st_size > 0


@pytest.mark.parametrize("make", [whole.training, whole.tuned, whole.memory], ids=lambda make: make.__name__)
def test_every_table_of_a_report_compiles_with_booktabs_alone(make, tmp_path):
    tables = [table for _, table in make(tmp_path / "tree")[0]]
    sources = [to_latex(table) for table in tables]
    assert len(sources) >= 5
    for source in sources:
        well_formed(source)
        assert "U+" not in source, "a character that we print ourselves has its command"
    compiled(tmp_path, sources)


def test_no_text_of_a_record_is_a_command(tmp_path):
    tables = [table_of(*HOSTILE, title=text, note=text) for text in HOSTILE]
    tables.append(build("x", "t", [Column(text, plain("a")) for text in HOSTILE], [{"a": HOSTILE[0]}], [], []))
    sources = [to_latex(table) for table in tables]
    for source in sources:
        well_formed(source)
        assert r"\input" not in source
    compiled(tmp_path, sources)


def test_a_row_that_begins_with_a_bracket_or_a_star_is_no_argument_of_the_line_before():
    source = to_latex(table_of("[1] a", "* b"))
    assert "\n{[}1{]} a &" in source and "\n{*} b &" in source


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("5 % of a_b & c", r"5 \% of a\_b \& c"),
        (
            "1.5 ± 0.2 – ≥ 3 × 2 …",
            r"1.5 \ensuremath{\pm} 0.2 \textendash{} \ensuremath{\geq} 3 \ensuremath{\times} 2 \ldots{}",
        ),
        (r"a\b {c}", r"a\textbackslash{}b \{c\}"),
        ("--flag", "-{}-flag"),
        ("γ²", r"\ensuremath{\gamma}\ensuremath{^2}"),
        ("“naïve”", "``naïve''"),
        ("中 ő", r"\texttt{U+4E2D} \texttt{U+0151}"),
        ("a\nb", "a b"),
    ],
)
def test_special_characters_are_printed_as_they_are(text, printed):
    assert escape(text) == printed


def test_title_label_notes_and_conditions_stand_around_the_rules():
    table = table_of("a", title="mine: 5 %", note="read it so")
    order = [r"\caption{mine: 5 \%}", r"\label{tab:made_up}", r"\toprule", r"\midrule", "a & a", r"\bottomrule"]
    places = [to_latex(table).index(part) for part in [*order, "read it so", r"\smallskip c", r"\end{table}"]]
    assert places == sorted(places)


def test_numbers_stand_to_the_right_with_a_minus_and_long_words_wrap():
    source = to_latex(table_of("-3.5", numeric=True))
    assert r"\begin{tabular}{rr}" in source and r"\ensuremath{-}3.5" in source
    assert r"\begin{tabular}{rl}" in to_latex(table_of("-x"))
    assert r"\begin{tabular}{p{0.3\linewidth}p{0.3\linewidth}}" in to_latex(table_of("word " * 20))


def test_a_long_title_of_a_column_takes_several_lines():
    table = build("x", "t", [Column("Validation loss (nats per token)", plain("a"))], [{"a": "1"}], [], [])
    assert r"\shortstack[r]{Validation loss \\ (nats per token)}" in to_latex(table)


def test_a_table_without_rows_compiles_too(tmp_path):
    source = to_latex(build("x", "t", [Column("a", plain("a"))], [], [], []))
    assert "No rows." in source and EMPTY not in source
    well_formed(source)
    compiled(tmp_path, [source])


@pytest.mark.parametrize(
    "broken", [r"\input{x}", "{", "}", "a % b", r"\begin{table}", r"\begin{tabular}{ll}" "\na \\\\\n" r"\end{tabular}"]
)
def test_the_check_without_pdflatex_finds_what_is_broken(broken):
    well_formed(to_latex(table_of("a")))
    with pytest.raises(AssertionError):
        well_formed(to_latex(table_of("a")) + broken)

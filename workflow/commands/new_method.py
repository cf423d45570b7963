"""Begin a method: baselines/NAME.py with every decision of the contract, and tests/baselines/test_NAME.py.

  lisa-bench new-method vera
  python -m pytest tests/baselines -k vera     fails, and says what to fill in first

A new baseline costs one file. Both files are skeletons: what is left open raises NotImplementedError, which names the
place. CONTRIBUTING.md walks through one. NAME is lower_snake_case, the name of the method in experiments, tables and
commands. Works in a checkout only. Exit code 0: written; 2: bad name, or no checkout.
"""

from __future__ import annotations

import argparse
import keyword
import re
from pathlib import Path
from string import Template

import baselines
from workflow.engine.errors import InputError

SUMMARY = "write the skeleton of a method and of its tests"
ROOT = Path(baselines.__file__).parents[1]
TEMPLATES = {"baselines/{}.py": "method.template", "tests/baselines/test_{}.py": "method_test.template"}
RESERVED = {"contract": "the contract's own file", "all": "what commands call every method"}
LONGEST = 40  # letters of a name: it stands in tables and file names
NAME = re.compile(r"[a-z][a-z0-9_]*")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lisa-bench new-method`."""
    parser.add_argument("name", metavar="NAME", help="of the method, in lower_snake_case")


def run(arguments: argparse.Namespace) -> None:
    """Write both files and say what comes next."""
    name = arguments.name
    check_name(name)
    targets = {file.format(name): template for file, template in TEMPLATES.items()}
    check_places(name, targets)
    words = {"name": name, "title": "".join(part.title() for part in name.split("_"))}
    for file, template in targets.items():
        text = Template((Path(__file__).parent / template).read_text(encoding="utf-8")).substitute(words)
        (ROOT / file).write_text(text, encoding="utf-8")
    print(f"wrote {' and '.join(targets)} in {ROOT}")
    print(f"""
next:
  1. fill in baselines/{name}.py: each TODO, each NotImplementedError; baselines/contract.py explains the decisions
  2. python -m pytest tests/baselines tests/engine -k {name}     the contract's tests run on it unasked
  3. lisa-bench methods {name}
  4. lisa-bench fit tinyllama --method {name} --gpu 24GiB
  5. snakemake --cores all --config name=try 'methods=[vanilla,{name}]' 'seeds=[0]'""")


def check_name(name: str) -> None:
    """Raise InputError unless a method can have this name."""
    if len(name) > LONGEST:
        raise InputError(f"Name {name[:LONGEST]!r}... has {len(name)} letters; legal: up to {LONGEST}.")
    if not NAME.fullmatch(name):
        close = re.sub(r"\W+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)).strip("_").lower()
        hint = f" Did you mean {close!r}?" if NAME.fullmatch(close) else ""
        raise InputError(f"Name {name!r} is not lower_snake_case; legal: a letter, then letters, digits and _.{hint}")
    if keyword.iskeyword(name):
        raise InputError(f"Name {name!r} is a keyword of Python; legal: any other word in lower_snake_case.")
    if name in RESERVED:
        raise InputError(f"Name {name!r} is taken: {RESERVED[name]}.")
    if name in baselines.names():
        raise InputError(f"Method {name!r} exists already: baselines/{name}.py. Known: {', '.join(baselines.names())}.")


def check_places(name: str, targets: dict[str, str]) -> None:
    """Raise InputError unless this is a checkout in which both files are new."""
    if not (ROOT / "pyproject.toml").is_file() or not (ROOT / "tests" / "baselines").is_dir():
        raise InputError(f"new-method works in a checkout only: {ROOT} has no pyproject.toml or no tests/baselines.")
    for file in targets:
        if (ROOT / file).exists():
            raise InputError(f"Name {name!r} is taken: {file} exists already.")

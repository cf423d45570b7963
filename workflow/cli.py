"""The command `lisa-bench`: a table of subcommands.

    lisa-bench fit llama-2-7b --method lisa --gpu 24GiB
    python -m workflow.cli fit --help                    the same without an installation

A subcommand is a module with `SUMMARY` (one clause), `add_arguments(parser)` and `run(arguments)`; it loads torch only
inside `run`, so that help and mistakes answer at once. It prints its answer on stdout and everything else on stderr.
Exit code 0: answered, whatever the answer; 2: bad input, one line on stderr.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from workflow.engine.errors import InputError
from workflow.form import hint

COMMANDS = {
    "compare": "workflow.commands.compare",
    "fit": "workflow.commands.fit",
    "items": "workflow.commands.items",
    "methods": "workflow.commands.methods",
    "new-method": "workflow.commands.new_method",
}


class Parser(argparse.ArgumentParser):
    """A mistake is one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        sys.exit(fail(f"{message} (`{self.prog} --help` explains all)"))


def fail(message: str) -> int:
    """Say what is wrong in one line; returns the exit code of bad input."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def main(words: Sequence[str] | None = None) -> int:
    """Run a subcommand; returns the exit code."""
    words = sys.argv[1:] if words is None else words
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0
    name, *rest = words
    if name not in COMMANDS:
        return fail(f"Unknown command {name!r}.{hint(name, list(COMMANDS))} Known: {', '.join(COMMANDS)}.")
    command = importlib.import_module(COMMANDS[name])
    parser = Parser(
        prog=f"lisa-bench {name}",
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    try:
        command.run(parser.parse_args(rest))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, as `head` does, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more as it ends
        return 141
    except InputError as error:
        return fail(str(error))
    except NotImplementedError as error:
        if not str(error).startswith("baselines/"):  # else a method as `lisa-bench new-method` leaves it
            raise
        return fail(f"{error} (not filled in yet)")
    except KeyboardInterrupt:
        return 130
    return 0


def overview() -> str:
    """What `lisa-bench` alone prints."""
    lines = [f"  {name:<12}{importlib.import_module(module).SUMMARY}" for name, module in COMMANDS.items()]
    return "\n".join(
        [
            "lisa-bench: memory-efficient fine-tuning of language models, compared under one set of rules.",
            "",
            "commands:",
            *lines,
            "",
            "`lisa-bench COMMAND --help` explains a command.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())

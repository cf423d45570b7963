"""The subcommands of `lisa-bench` (`workflow/cli.py`), a module each."""

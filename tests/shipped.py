"""Which methods belong to the project: a file that git does not know is somebody's own and asks nothing of the docs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import baselines

ROOT = Path(baselines.__file__).parents[1]


def own_methods() -> set[str]:
    """Names of methods whose files git does not track."""
    command = ["git", "-C", str(ROOT), "ls-files", "--others", "--exclude-standard", "baselines"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return {Path(file).stem for file in listed} & set(baselines.names())

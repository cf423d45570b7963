"""Is a package there that a method needs and the suite does without?"""

from __future__ import annotations

import importlib.util


def check_installed(method: str, *packages: str) -> None:
    """Raise ValueError unless all can be imported, which takes seconds and is not done here.

    Args:
        packages: as pip knows them.
    """
    for package in packages:
        if importlib.util.find_spec(package.replace("-", "_")) is None:
            raise ValueError(f"{method} needs the package {package}, which is not installed: pip install {package}")

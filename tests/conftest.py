"""Shared by all tests: one CPU thread, no network, and where the real data stand."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Bit-for-bit comparisons need a fixed number of threads."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    """What stages set for their whole process does not reach the next test: environment, levels; bars are on again."""
    environment = dict(os.environ)
    levels = {name: logging.getLogger(name).level for name in ("lm_eval", "transformers", "datasets")}
    yield
    os.environ.clear()
    os.environ.update(environment)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    if datasets := sys.modules.get("datasets"):
        datasets.enable_progress_bars()
    if transformers := sys.modules.get("transformers"):
        transformers.utils.logging.enable_progress_bar()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real data; a machine without it must say so, not skip."""
    folder = Path(os.environ.get("LISA_BENCH_SHARED_DATA", ROOT.parent / "shared" / "data")).resolve()
    assert folder.is_dir(), (
        f"No real data at {folder}. Set LISA_BENCH_SHARED_DATA to a folder with hub/, mt_bench/, agieval/ and corpus/."
    )
    return folder

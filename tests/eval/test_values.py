"""Values: means, and rows joined seed by seed."""

from __future__ import annotations

import numpy as np
import pytest

from eval.values import Values, joined


def test_rows_are_joined_over_the_seeds_that_all_of_them_have() -> None:
    a = Values((np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]),), (0, 1, 2))
    b = Values((np.array([[1.0, 1.0], [0.0, 1.0]]),), (2, 1))  # in another order
    both = joined([a, b])
    assert both is not None and both.names == (1, 2)
    assert both.strata[0].tolist() == [[0.5, 1.0], [0.5, 0.5]]
    assert both.mean == pytest.approx(0.625)


def test_every_stratum_is_joined_on_its_own() -> None:
    a = Values((np.zeros((2, 3)), np.ones((2, 4))), (0, 1))
    b = Values((np.ones((2, 3)), np.ones((2, 4))), (0, 1))
    both = joined([a, b])
    assert both is not None and [stratum.mean() for stratum in both.strata] == [0.5, 1.0]


def test_rows_that_share_no_seed_are_not_joined() -> None:
    a, b = Values((np.zeros((1, 3)),), (0,)), Values((np.zeros((1, 3)),), (1,))
    assert joined([a, b]) is None and joined([Values((np.zeros((1, 3)),))]) is None


def test_what_rounding_leaves_of_a_variance_is_none() -> None:
    """Each seed answers one item better and another worse by as much: all of the seeds' spread is their answers'."""
    row = Values((np.array([[7.1, 8.3, 9.7, 4.9], [8.3, 7.1, 9.7, 4.9], [7.1, 8.3, 9.7, 4.9]]) + 0.1,))
    assert row.excess_variance == 0.0
    base = np.random.default_rng(0).normal(5, 1, (3, 4))
    flat = Values((base - base.mean(axis=1, keepdims=True) + np.array([[1.0], [1.0 + 1e-13], [1.0]]),))
    assert flat.excess_variance == 0.0

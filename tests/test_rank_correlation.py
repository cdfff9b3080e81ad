"""Rank correlation of predicted and true loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from qcompress import rank_correlation


def test_sign_and_size() -> None:
    energies, values = np.random.default_rng(0).normal(size=(2, 50))
    pairs = list(zip(energies.tolist(), values.tolist(), strict=True))
    ranks = (np.argsort(np.argsort(energies)), np.argsort(np.argsort(-values)))
    assert rank_correlation.of_losses(pairs) == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-9)
    assert rank_correlation.of_losses(pairs) == pytest.approx(-stats.spearmanr(energies, values).statistic, abs=1e-9)
    energies, values = energies.round(), values.round(1)  # with ties
    pairs = list(zip(energies.tolist(), values.tolist(), strict=True))
    assert rank_correlation.of_losses(pairs) == pytest.approx(-stats.spearmanr(energies, values).statistic, abs=1e-9)
    assert rank_correlation.of_losses([(1, 3), (2, 2), (3, 1)]) == 1
    assert rank_correlation.of_losses([(1, 1), (2, 2), (3, 3)]) == -1


SAME_ENERGY = [(1.0, 2.0), (1.0, 3.0), (1.0, 4.0)]


@pytest.mark.parametrize(
    "pairs", [[], [(1.0, 2.0)], [(1.0, 2.0), (2.0, 1.0)], [(1.0, 2.0)] * 5, SAME_ENERGY, [(math.nan, 1.0)] * 4]
)
def test_nothing_is_claimed_of_too_little(pairs: list[tuple[float, float]]) -> None:
    assert rank_correlation.of_losses(pairs) is None

"""The expansion: its energies are the loss's differences for every one and two flips of a group, wherever it is made."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from reconstructing import LeastSquares, random_problem

from qcompress.reconstruction.expansion import Reconstruction

SIZES = (4, 3, 5)


def setting(seed: int, width: int) -> tuple[LeastSquares, NDArray[np.bool_]]:
    problem = random_problem(seed, SIZES, width)
    x = np.random.default_rng(100 + seed).random(sum(SIZES)) < 0.4
    return problem, x


def flips(problem: LeastSquares) -> list[tuple[int, ...]]:
    """Every one and every two units of one group."""
    return [
        places
        for span in problem.space.spans
        for number in (1, 2)
        for places in itertools.combinations(range(span.start, span.stop), number)
    ]


def flipped(x: NDArray[np.bool_], places: tuple[int, ...]) -> NDArray[np.bool_]:
    other = x.copy()
    other[list(places)] ^= True
    return other


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("width", [1, 3])
def test_energies_are_differences_of_the_loss_which_is_that_of_a_refit(seed: int, width: int) -> None:
    problem, x = setting(seed, width)
    model = Reconstruction(problem.space, problem.parts)
    base = model.loss(x)
    assert base == pytest.approx(problem.refitted(x), rel=1e-8)
    local = model.expansion()
    for places in flips(problem):
        other = flipped(x, places)
        difference = float(local.energy(other) - local.energy(x))
        assert difference == pytest.approx(problem.refitted(other) - base, rel=1e-6, abs=1e-8 * base)
        assert Reconstruction(problem.space, problem.parts).loss(other) == pytest.approx(base + difference, rel=1e-7)


def test_moving_there_and_back_restores_it() -> None:
    problem, x = setting(0, 2)
    model = Reconstruction(problem.space, problem.parts)
    base, before = model.loss(x), model.expansion()
    rng = np.random.default_rng(0)
    for _ in range(20):
        other = rng.random(len(x)) < 0.5
        assert model.loss(other) == pytest.approx(problem.refitted(other), rel=1e-7)
    assert model.loss(x) == pytest.approx(base, rel=1e-9)
    after = model.expansion()
    np.testing.assert_allclose(after.linear, before.linear, rtol=1e-7)
    for one, earlier in zip(after.couplings, before.couplings, strict=True):
        np.testing.assert_allclose(one, earlier, rtol=1e-6, atol=1e-9 * np.abs(before.linear).max())
    assert model.loss(np.zeros(len(x), bool)) == pytest.approx(0.0, abs=1e-9 * base)


def test_scale_multiplies_the_part_of_each_group() -> None:
    problem, x = setting(1, 1)
    model = Reconstruction(problem.space, problem.parts)
    model.loss(x)
    plain, scale = model.expansion(), np.array([2.0, 0.0, 0.5])
    scaled = model.expansion(scale)
    for span, factor in zip(problem.space.spans, scale.tolist(), strict=True):
        np.testing.assert_allclose(scaled.linear[span], factor * plain.linear[span])
    for one, other, factor in zip(scaled.couplings, plain.couplings, scale.tolist(), strict=True):
        np.testing.assert_allclose(one, factor * other)


def test_the_parts_are_left_as_they_were() -> None:
    problem, x = setting(2, 2)
    parts = problem.parts
    before = [(part.inverse.clone(), part.targets.clone()) for part in parts]
    model = Reconstruction(problem.space, parts)
    model.loss(x)
    model.loss(~x)
    for part, (inverse, targets) in zip(parts, before, strict=True):
        assert part.inverse.equal(inverse)
        assert part.targets.equal(targets)


def test_pairs_in_pieces_are_pairs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, x = setting(0, 2)
    model = Reconstruction(problem.space, problem.parts)
    model.loss(x)
    whole = model.expansion()
    monkeypatch.setattr("qcompress.reconstruction.expansion._PAIRS", 40)
    for one, other in zip(model.expansion().couplings, whole.couplings, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10)

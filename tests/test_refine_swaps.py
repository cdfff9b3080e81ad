from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qcompress.refine.swaps import flip_costs, keeps_floors, swapped, swapped_inside
from qcompress.selection import UnitSpace


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=5), st.data())
def test_mutants_keep_the_count_and_the_floors(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    space = UnitSpace(
        tuple(f"g{i}" for i in range(len(pairs))),
        tuple(size for size, _ in pairs),
        tuple(min(size, floor) for size, floor in pairs),
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    mask = np.zeros(len(space), bool)
    for unit in rng.permutation(len(space))[: data.draw(st.integers(0, len(space)))]:
        mask[unit] = True
        mask[unit] = space.allows(mask)
    before = mask.copy()
    swaps = np.array(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=6)))
    mutants = swapped(space, mask, swaps, rng)
    assert (mask == before).all()
    assert (mutants.sum(axis=1) == mask.sum()).all()
    assert all(space.allows(mutant) for mutant in mutants)
    assert (mutants != mask).sum(axis=1).max(initial=0) <= 2 * swaps.max()


def test_every_swap_is_equally_likely() -> None:
    space = UnitSpace.of([("a", 6)])
    mask = np.array([1, 1, 0, 0, 0, 0], bool)
    mutants = swapped(space, mask, np.ones(8000, int), np.random.default_rng(0))
    _, counts = np.unique(mutants, axis=0, return_counts=True)
    assert len(counts) == 8
    assert np.abs(counts / 1000 - 1).max() < 0.15


def test_keeps_floors_is_what_the_space_allows() -> None:
    space = UnitSpace.of([("a", 2), ("b", 3)])
    masks = np.array(np.meshgrid(*[[0, 1]] * 5)).reshape(5, -1).T.astype(bool)
    assert keeps_floors(space, masks).tolist() == [space.allows(mask) for mask in masks]


def test_flip_costs_of_a_quadratic_energy() -> None:
    diagonal, mask = np.array([1.0, -2.0, 3.0]), np.array([1, 0, 1], bool)
    assert flip_costs(lambda masks: masks @ diagonal, mask).tolist() == [-1, -2, -3]


def test_swaps_inside_groups_keep_their_counts_and_are_equally_likely() -> None:
    space = UnitSpace.of([("a", 3), ("full", 2), ("b", 4)])
    mask = np.array([1, 0, 0, 0, 0, 1, 1, 0, 0], bool)
    mutants = swapped_inside(space, mask, np.full(6000, 1), np.random.default_rng(0))
    assert (space.counts(mutants) == space.counts(mask)).all()
    _, counts = np.unique(mutants, axis=0, return_counts=True)
    assert len(counts) == 2 + 4  # pairs inside a, pairs inside b
    assert np.abs(counts / 1000 - 1).max() < 0.15
    twice = swapped_inside(space, mask, np.full(200, 2), np.random.default_rng(0))
    assert (space.counts(twice) == space.counts(mask)).all()
    assert len(swapped_inside(space, np.zeros(9, bool), np.ones(3, int), np.random.default_rng(0))) == 0

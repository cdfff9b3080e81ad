from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from joint_networks import chain, random_table, residual
from numpy.typing import NDArray

from qcompress.errors import UsageError
from qcompress.joint import allocation, relaxation
from qcompress.joint.allocation import allocate_bytes
from qcompress.joint.exchange import Limit, improve
from qcompress.joint.greedy import greedy
from qcompress.joint.held import allocate_held
from qcompress.joint.relaxation import Relaxation
from qcompress.joint.table import State, Table

NETWORKS = (chain((6, 7)), residual(1, 3), chain((4, 3, 5)))
WIDTHS = ("float32", "int8", "int4")


class Every:
    """All choices of a table: their energies, bytes, units pruned."""

    def __init__(self, table: Table) -> None:
        lengths = [len(own) for own in (*table.offers, *table.widths)]
        rows = np.indices(lengths).reshape(len(lengths), -1).T
        groups = len(table.offers)
        tables = (*table.energies, *table.losses)
        self.energy: NDArray[np.float64] = np.sum([own[rows[:, v]] for v, own in enumerate(tables)], axis=0)
        self.bytes = table.bytes(rows[:, :groups], rows[:, groups:])
        self.units = table.counts(rows[:, :groups]).sum(1)


@pytest.mark.parametrize("network", range(3))
@pytest.mark.parametrize("seed", range(3))
def test_small_networks_are_allocated_as_exhaustive_search_does(network: int, seed: int) -> None:
    table = random_table(NETWORKS[network], seed, widths=WIDTHS)
    every = Every(table)
    for most in np.quantile(every.bytes, [0.02, 0.2, 0.5]).astype(int).tolist():
        best = float(every.energy[every.bytes <= most].min())
        found = allocate_bytes(table, most)
        assert found.bytes <= most
        assert found.energy == pytest.approx(best, rel=1e-9, abs=1e-9)
        assert found.bound is not None
        assert found.bound <= best + 1e-9


@pytest.mark.parametrize("network", range(3))
@pytest.mark.parametrize("seed", range(2))
def test_with_the_number_of_units_given_too(network: int, seed: int) -> None:
    table = random_table(NETWORKS[network], seed, widths=WIDTHS)
    every = Every(table)
    for units, share in itertools.product((2, 5), (0.1, 0.5)):
        own = every.units == units
        most = int(np.quantile(every.bytes[own], share))
        best = float(every.energy[own & (every.bytes <= most)].min())
        found = allocate_held(table, most, units)
        assert found.bytes <= most
        assert int(table.counts(found.state.levels).sum()) == units
        assert found.energy == pytest.approx(best, rel=1e-9, abs=1e-9)
        assert found.bound is not None
        assert found.bound <= best + 1e-9


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 1.1), st.sampled_from([1, 2]))
def test_the_size_is_met_and_nothing_that_fits_is_left(seed: int, share: float, step: int) -> None:
    table = random_table(residual(2, 6), seed, step=step)
    most = int(share * table.bytes_of(table.start))
    try:
        found = allocate_bytes(table, most, splits=2)
    except UsageError:
        assume(False)
    assert found.bytes == table.bytes_of(found.state) <= most
    assert found.energy == table.energy(found.state)
    for part, tables in enumerate((table.energies, table.losses)):
        for place, own in enumerate(tables):
            for other in range(len(own)):
                moved = State(found.state.levels.copy(), found.state.widths.copy())
                moved[part][place] = other
                assert table.energy(moved) >= found.energy - table.tolerance or table.bytes_of(moved) > most


def test_realistic_networks_are_proven_to_be_near_the_best() -> None:
    for groups, step in ((chain((64,) * 12), 1), (residual(5, 64), 8)):
        table = random_table(groups, 1, step=step)
        most = table.bytes_of(table.start) // 4
        found, plain = allocate_bytes(table, most), greedy(table, most)
        assert found.bound is not None
        assert plain is not None
        assert found.bound <= found.energy <= 1.01 * found.bound
        assert found.energy <= table.energy(plain)


def test_a_size_that_cannot_be_reached_is_refused() -> None:
    table = random_table(chain((4, 4)), 0)
    with pytest.raises(UsageError, match="cannot be reached"):
        allocate_bytes(table, 10)
    with pytest.raises(UsageError, match="3 units pruned cannot be reached"):
        allocate_held(table, 10, 3)


def test_a_size_that_is_met_anyway_costs_nothing() -> None:
    table = random_table(chain((4, 4)), 0)
    for found in (allocate_bytes(table, 10**6), allocate_held(table, 10**6, 0)):
        assert found.energy == 0.0
        assert found.bound == 0.0


def test_a_price_is_answered_exactly() -> None:
    table = random_table(residual(1, 3), 4, widths=WIDTHS)
    every = Every(table)
    relaxed = Relaxation(table)
    assert relaxed.exact
    for price in (0.0, 1e-3, 1e-2, 1.0):
        state = relaxed.solve(price, table.start)
        best = float((every.energy + price * every.bytes).min())
        assert table.energy(state) + price * table.bytes_of(state) == pytest.approx(best, rel=1e-12)


def test_tables_that_are_too_large_are_looked_at_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    table = random_table(residual(3, 6), 2)
    whole = Relaxation(table)
    monkeypatch.setattr(relaxation, "LARGEST", 12)
    turns = Relaxation(table)
    assert not turns.exact
    for price in (1e-3, 1e-2, 1e-1):
        values = [
            table.energy(state) + price * table.bytes_of(state)
            for state in (whole.solve(price, table.start), turns.solve(price, table.start))
        ]
        assert values[0] <= values[1] + 1e-9
        assert values[1] <= 1.2 * values[0]
    most = table.bytes_of(table.start) // 3
    found = allocate_bytes(table, most)
    assert found.bound is None
    assert found.bytes <= most


def test_many_counts_are_looked_at_from_far_to_near(monkeypatch: pytest.MonkeyPatch) -> None:
    table = random_table(chain((40, 40, 40)), 3)
    most = table.bytes_of(table.start) // 4
    whole = allocate_bytes(table, most)
    monkeypatch.setattr(allocation, "LABELS", 9)
    coarse = allocate_bytes(table, most)
    assert coarse.bound is None
    assert coarse.bytes <= most
    assert whole.energy <= coarse.energy <= 1.02 * whole.energy


def test_exchanges_trade_a_unit_for_a_width() -> None:
    table = random_table(chain((5, 5)), 6, widths=WIDTHS)
    every = Every(table)
    most = int(np.quantile(every.bytes, 0.3))
    worst = State(np.array([len(own) - 1 for own in table.offers]), np.array([len(own) - 1 for own in table.widths]))
    better = improve(table, worst, Limit(most), 0.01)
    assert table.bytes_of(better) <= most
    assert table.energy(better) <= 1.05 * float(every.energy[every.bytes <= most].min())

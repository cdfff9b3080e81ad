from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joint_networks import chain, losses_of, profiles_of, random_table, residual
from numpy.typing import NDArray

from qcompress import solvers
from qcompress.alignment import Alignment
from qcompress.budgets import Allocating
from qcompress.errors import BackendError, UsageError
from qcompress.joint import Demand, JointResult, Solve, choose
from qcompress.joint.budget import SizeBudget
from qcompress.joint.offers import offers_of
from qcompress.joint.problem import of_profiles, thermometer
from qcompress.joint.table import State, Table
from qcompress.problem import Problem
from qcompress.selection import UnitSpace
from qcompress.settings import SearchOptions
from qcompress.solvers import SOLVERS
from qcompress.solvers.account import Account
from qcompress.solvers.leap_cqm import constrained
from qcompress.widths import WIDTHS

FREE = SearchOptions(align=1, reads=8)


def run(table: Table, demand: Demand, *, options: SearchOptions = FREE, **more: Any) -> JointResult:
    return choose(profiles_of(table, 0), losses_of(table), table.sizes, demand, options=options, **more)


def check(table: Table, result: JointResult) -> None:
    """What every result promises."""
    sizes, counts = table.sizes, result.selection.counts
    assert result.bytes == sizes.bytes(counts, result.widths)
    assert result.target_bytes is None or result.bytes <= result.target_bytes
    assert set(result.widths) == set(sizes.quantisable)
    row = np.array([*counts.values()], np.int64)
    state = State(table.at(row).levels, np.array([width_of(table, result, place) for place in range(len(sizes.layers))]))
    assert result.pruning == pytest.approx(table.pruning(state))
    assert result.quantisation == pytest.approx(table.quantisation(state))
    assert result.energy == result.pruning + result.quantisation
    for profile, group in zip(profiles_of(table, 0), sizes.groups.space.groups, strict=True):
        assert np.flatnonzero(profile.rows[counts[group]]).tolist() == list(result.selection.removed(group))


def width_of(table: Table, result: JointResult, place: int) -> int:
    name = table.sizes.layers[place].name
    return int(np.flatnonzero(table.widths[place] == WIDTHS.index(result.widths.get(name, "float32")))[0])


def best_of(table: Table, most: int, units: int | None = None) -> float:
    lengths = [len(own) for own in (*table.offers, *table.widths)]
    rows = np.indices(lengths).reshape(len(lengths), -1).T
    groups = len(table.offers)
    energy = np.sum([own[rows[:, v]] for v, own in enumerate((*table.energies, *table.losses))], axis=0)
    fits = table.bytes(rows[:, :groups], rows[:, groups:]) <= most
    if units is not None:
        fits &= table.counts(rows[:, :groups]).sum(1) == units
    return float(energy[fits].min())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=6))
def test_a_thermometer_has_the_energies_that_it_is_made_of(rises: list[float]) -> None:
    energies = np.concatenate((np.zeros(1), np.cumsum(rises)))
    linear, couplings = thermometer(energies)
    space = UnitSpace.of([("steps", len(rises))], 0)
    problem = Problem(space, linear, (couplings,))
    rows = np.array(list(itertools.product([0, 1], repeat=len(rises))))
    found = problem.energy(rows)
    for k, energy in enumerate(energies):
        own = rows.sum(1) == k
        assert found[own].min() == pytest.approx(energy, abs=1e-9)
        assert rows[own][found[own].argmin(), :k].all()


def test_a_problem_of_profiles_has_their_energies_and_units() -> None:
    table = random_table(chain((5, 4)), 1)
    profiles, space = profiles_of(table, 0), table.sizes.groups.space
    problem = of_profiles(space, profiles)
    for span, profile, c in zip(space.spans, profiles, problem.couplings, strict=True):
        rows = np.array(list(itertools.product([False, True], repeat=len(c))))
        energies = Problem(UnitSpace.of([("g", len(c))], 0), problem.linear[span], (c,)).energy(rows)
        for k in range(profile.most + 1):
            own = rows.sum(1) == k
            assert energies[own].min() == pytest.approx(profile.energies[k], abs=1e-9)
            assert np.array_equal(rows[own][energies[own].argmin()], profile.rows[k])


@pytest.mark.parametrize("backend", SOLVERS)
def test_every_backend_comes_to_the_least_loss(backend: str) -> None:
    table = random_table(chain((5, 6)), 3, widths=("float32", "int8", "int4"))
    most = table.bytes_of(table.start) // 4
    result = run(
        table, Demand(most, None, ("float32", "int8", "int4")), options=SearchOptions(backend=backend, align=1, reads=8)
    )
    check(table, result)
    assert result.energy == pytest.approx(best_of(table, most))
    assert result.bound is not None
    assert result.bound <= result.energy + 1e-9
    assert result.greedy_energy is None or result.energy <= result.greedy_energy + 1e-9
    assert result.found.search.asked <= result.found.search.capacity


def test_units_that_go_with_a_channel_in_blocks() -> None:
    table = random_table(residual(2, 32), 1)
    most = table.bytes_of(table.start) // 4
    result = run(table, Demand(most), options=SearchOptions(align=8))
    check(table, result)
    assert result.align == 8
    assert all((32 - count) % 8 == 0 for count in result.selection.counts.values())


def test_exactly_so_many_units_and_a_size() -> None:
    table = random_table(chain((6, 6)), 2, widths=("float32", "int8", "int4"))
    most = table.bytes_of(table.start) // 4
    result = run(table, Demand(most, 0.5, ("float32", "int8", "int4")))
    check(table, result)
    assert len(result.selection) == 6
    assert result.energy == pytest.approx(best_of(table, most, 6))


def test_one_width_is_taken_by_all_layers() -> None:
    table = random_table(residual(1, 8), 0)
    result = run(table, Demand(None, 0.5, ("int8",)))
    check(table, result)
    assert set(result.widths.values()) == {"int8"}
    assert len(result.selection) == round(0.5 * len(table.sizes.groups.space))


def test_the_choice_among_widths_spares_what_int8_harms_out_of_proportion() -> None:
    table = random_table(chain((16, 16, 16)), 0, widths=("float32", "int8"))
    losses = {name: {"int8": 0.01} for name in table.sizes.quantisable}
    losses["conv0"]["int8"] = 5.0
    for sparsity in (0.0, 0.3):
        result = choose(profiles_of(table, 0), losses, table.sizes, Demand(None, sparsity, ("float32", "int8")), options=FREE)
        assert result.widths["conv0"] == "float32"
        assert {width for name, width in result.widths.items() if name != "conv0"} == {"int8"}
        assert result.target_bytes is None


def test_narrow_widths_are_taken_where_pruning_pays_more() -> None:
    table = random_table(chain((16, 16)), 0)
    losses = {name: {"float16": 0.0, "int8": 1e-6, "int4": 1e-3} for name in table.sizes.quantisable}
    widths = [choose(profiles_of(table, 0), losses, table.sizes, Demand(None, s), options=FREE).widths for s in (0.0, 0.5)]
    assert "int4" not in widths[0].values()  # 1,000 times as dear as int8
    assert set(widths[1].values()) == {"int4"}  # and nothing beside what the units cost


def test_losses_are_made_monotone_and_what_is_no_number_is_forbidden() -> None:
    sizes = random_table(chain((4, 4)), 0).sizes
    losses = {"conv0": {"float16": 0.2, "int8": 0.1, "int4": np.inf}, "conv1": {"int8": -1.0}}
    offers = offers_of(sizes, losses, WIDTHS)
    assert [own.tolist() for own in offers.places] == [[0, 1, 2], [0, 2], [0]]
    assert [own.tolist() for own in offers.losses] == [[0.0, 0.2, 0.2], [0.0, 0.0], [0.0]]
    assert offers.space.steps == (2, 1)
    with pytest.raises(UsageError, match="conv0"):
        offers_of(sizes, losses, ("int4",))
    with pytest.raises(UsageError, match="nothing"):
        offers_of(sizes, {"nothing": {"int8": 1.0}}, WIDTHS)


def test_demands_that_cannot_be() -> None:
    table = random_table(chain((4, 4)), 0)
    with pytest.raises(UsageError, match="neither"):
        Demand()
    with pytest.raises(UsageError, match="0 bytes"):
        Demand(0)
    with pytest.raises(UsageError, match="int3"):
        Demand(100, widths=("int3",))
    with pytest.raises(UsageError, match="10 bytes cannot be reached"):
        run(table, Demand(10))
    with pytest.raises(UsageError, match="sparsity"):
        run(table, Demand(None, 0.99))


def budget_of(table: Table, most: int) -> SizeBudget:
    offers = offers_of(table.sizes, losses_of(table), WIDTHS)
    return SizeBudget(offers.space, table.sizes, offers.places, most)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_capacity_is_exact_and_never_falls(seed: int) -> None:
    rng, table = np.random.default_rng(seed), random_table(residual(1, 3), seed % 7)
    target = budget_of(table, 600)
    assert isinstance(target, Allocating)
    space = target.space
    counts = np.array([rng.integers(size - floor + 1) for size, floor in zip(space.sizes, space.floors, strict=True)])
    more = np.minimum(counts + rng.integers(2, size=len(counts)), np.subtract(space.sizes, space.floors))
    freed = int(target.capacity(counts))
    assert freed <= int(target.capacity(more))
    # of the widths up to the one that the steps say, the cheapest
    groups = len(table.sizes.groups.space.groups)
    named = dict(zip(target.space_of.layers, counts[groups:].tolist(), strict=True))
    options = [range(named.get(layer.name, 0) + 1) for layer in table.sizes.layers]
    rows = np.array(list(itertools.product(*options)))
    least = int(table.bytes(np.tile(counts[:groups], (len(rows), 1)), rows).min())
    assert freed == target.dense - least
    alone = np.diag(counts)
    assert freed <= int(target.capacity(alone).sum())  # as `relaxed` promises


def test_a_budget_of_part_and_its_marginals() -> None:
    table = random_table(residual(1, 4), 0)
    target = budget_of(table, 700)
    assert target.part(0.5).target == round(target.target / 2)
    nothing = np.zeros(len(target.space.groups), np.int64)
    first = target.marginals(nothing)
    for group in range(len(nothing)):
        one = nothing.copy()
        one[group] = 1
        assert first[group] == int(target.capacity(one))
    assert (target.weights() > 0).all()
    assert len(target.weights()) == len(target.space)


def test_a_solver_with_constraints_can_be_given_it() -> None:
    table = random_table(chain((4, 4)), 0)
    target = budget_of(table, table.bytes_of(table.start) // 2)
    offers = offers_of(table.sizes, losses_of(table), WIDTHS)
    problem = offers.space.problem(of_profiles(table.sizes.groups.space, profiles_of(table, 0)), offers.steps)
    model = constrained(problem, target, Alignment(target.space))
    assert len(model.variables) >= len(target.space)


def test_the_problem_of_the_units_can_be_another() -> None:
    """An expansion in which the order of the profiles is wrong: its best units are taken, at the counts that fit."""
    table = random_table(chain((6, 6)), 5)
    most, seen = table.bytes_of(table.start) // 3, list[float]()

    def expand(start: NDArray[np.bool_], solve: Solve) -> Problem:
        space = table.sizes.groups.space
        linear = np.where(start, 1.0, 2.0)
        linear[np.flatnonzero(start)[0]] = 5.0
        problem = Problem(space, linear, tuple(np.zeros((size, size)) for size in space.sizes))
        solved = solve(problem)
        assert solved.selection.space == space
        seen.append(solved.besides)
        return problem

    result = run(table, Demand(most), expand=expand)
    assert len(seen) == 1
    assert result.bytes <= most
    assert result.bytes == table.sizes.bytes(result.selection.counts, result.widths)
    assert result.energy == result.pruning + result.quantisation


class Elsewhere:
    """A machine elsewhere that keeps an account, and anneals here."""

    @contextmanager
    def open(self, say: Callable[[str], None]) -> Iterator[Any]:
        class Session:
            account = Account("elsewhere", "a solver", submissions=3)
            rounds = 2

            def __call__(self, bqm: Any, *, reads: int, seed: int) -> Any:
                return SOLVERS["neal"](bqm, reads=reads, seed=seed)

        say("costs nothing")
        yield Session()


def test_machines_elsewhere_are_asked_through_the_same_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solvers, "REMOTE", {"elsewhere": Elsewhere()})
    table, said = random_table(chain((5, 6)), 3), list[str]()
    most = table.bytes_of(table.start) // 4
    result = run(table, Demand(most), options=SearchOptions(backend="elsewhere", align=1), say=said.append)
    check(table, result)
    assert said == ["costs nothing"]
    assert result.found.qpu is not None
    assert result.found.qpu.submissions == 3
    assert len(result.found.search.trace) == 2


def test_what_a_backend_cannot_do_is_said() -> None:
    table = random_table(chain((24, 6)), 3)
    table.energies[0][3:] += 5.0  # a jump, so that its steps have to be kept in order
    most = table.bytes_of(table.start) // 4
    with pytest.raises(BackendError, match="backend exact"):
        run(table, Demand(most), options=SearchOptions(backend="exact", align=1))


def test_the_same_seed_gives_the_same_choice() -> None:
    table = random_table(residual(2, 8), 0)
    most = table.bytes_of(table.start) // 5
    first, second = (run(table, Demand(most), seed=4) for _ in range(2))
    assert (first.selection, first.widths, first.energy) == (second.selection, second.widths, second.energy)

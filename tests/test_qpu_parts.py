"""The parts of the annealer's path that need no server: contested cores, precision, embeddings."""

from __future__ import annotations

import resource
import subprocess
import sys
from functools import partial

import dimod
import dwave.graphs  # type: ignore[import-untyped]
import numpy as np
import pytest
from dwave.embedding import verify_embedding  # type: ignore[import-untyped]
from dwave.embedding.chain_strength import uniform_torque_compensation  # type: ignore[import-untyped]
from sapi.fixtures import model, problem

from qcompress.errors import BackendError
from qcompress.solvers.chip import ChipOptions, ChipSession
from qcompress.solvers.contested import cores, settled
from qcompress.solvers.dwave_job import spin_model
from qcompress.solvers.embedding import clique, largest_clique, pack_cliques
from qcompress.solvers.precision import Ranges, ising, measure, scale


def test_a_core_has_the_energy_of_its_block() -> None:
    bqm = model(12, 7)
    labels = list(bqm.variables)
    found = cores(bqm, 5)
    assert [len(core.free) for core in found] == [5, 5]
    rng = np.random.default_rng(0)
    states = np.zeros((6, len(labels)), np.int8)
    energies = np.zeros(6)
    for core in found:
        rows = rng.integers(0, 2, (6, 5)).astype(np.int8)
        states[:, core.places] = core.complete(rows)
        energies += rows @ core.linear + np.einsum("ki,ij,kj->k", rows, core.couplings, rows) / 2
    true = bqm.energies((states, labels))
    np.testing.assert_allclose(true - true[0], energies - energies[0], atol=1e-9)


def test_the_contested_are_those_nearest_to_a_tie() -> None:
    bqm = model(30)
    (core,) = cores(bqm, 8)
    field = np.array([abs(bqm.energy((flipped, list(bqm.variables))) - bqm.energy((core.start, list(bqm.variables))))
                      for flipped in core.start ^ np.eye(30, dtype=np.int8)])  # fmt: skip
    assert set(core.free) == set(np.argsort(field)[:8])
    assert field.min() >= 0
    assert not core.whole


@pytest.mark.slow
def test_the_contested_hold_most_of_what_is_to_be_gained() -> None:
    """What splitting rests on: with 10 of 18 units free, more than half of the way from the start to the optimum is there."""
    before = after = 0.0
    for seed in range(12):
        bqm = model(18, seed=seed)
        labels = list(bqm.variables)
        (core,) = cores(bqm, 10)
        rows = ((np.arange(2**10)[:, None] >> np.arange(10)) & 1).astype(np.int8)
        optimum = dimod.ExactSolver().sample(bqm).first.energy  # type: ignore[no-untyped-call]
        before += float(bqm.energy((core.start, labels))) - optimum
        after += float(bqm.energies((core.complete(rows), labels)).min()) - optimum
    assert 0 <= after < 0.5 * before


def test_settled_is_a_local_minimum_and_singles_are_decided() -> None:
    asked = problem(15)
    x = settled(asked.linear - 2, asked.couplings[0])
    flips = np.where(x == 1, -1, 1) * (asked.linear - 2 + asked.couplings[0] @ x)
    assert (flips >= -1e-9).all()
    lone = dimod.BinaryQuadraticModel({"a": -1.0, "b": 2.0}, {}, 0.0, "BINARY")
    assert [(len(core.free), core.start.tolist()) for core in cores(lone, 4)] == [(0, [1]), (0, [0])]
    assert cores(dimod.BinaryQuadraticModel("BINARY"), 4) == ()


def test_spins_have_the_energies_of_units() -> None:
    asked = problem(9)
    spins = ising(asked.linear, asked.couplings[0])
    x = np.random.default_rng(1).integers(0, 2, (5, 9)).astype(np.int8)
    difference = asked.energy(x) - spins.energy(2 * x - 1)
    np.testing.assert_allclose(difference, difference[0])


def test_chain_strength_is_uniform_torque_compensation_of_the_spin_model() -> None:
    asked = problem(14)
    spins = ising(asked.linear, asked.couplings[0])
    session = ChipSession.__new__(ChipSession)
    session._options = ChipOptions()
    expected = uniform_torque_compensation(spin_model(spins, 1.0, 0))
    assert session._strength(spins) == pytest.approx(expected, rel=1e-3)


def test_scaling_fits_the_ranges() -> None:
    asked = problem(10)
    spins, ranges = ising(asked.linear, asked.couplings[0]), Ranges(4.0, 1.0)
    factor = scale(spins, 0.7, 2, ranges)
    used = (0.7 * factor / ranges.j, np.abs(spins.J).max() * factor / ranges.j, np.abs(spins.h).max() * factor / 2 / ranges.h)
    assert max(used) == pytest.approx(1.0)


def test_precision_costs_less_with_more_bits() -> None:
    spins = [ising(asked.linear - 4, asked.couplings[0]) for asked in (problem(24, seed=s) for s in range(3))]
    of = partial(measure, spins, [2.0] * 3, 3, Ranges(4.0, 1.0), seed=0)
    coarse, usual, fine = of(bits=3), of(bits=6), of(bits=24)
    assert coarse.coefficient_error > usual.coefficient_error > fine.coefficient_error
    assert coarse.energy > 0
    assert fine.energy == pytest.approx(0, abs=1e-6)
    assert fine.coefficient_error < 1e-4


@pytest.mark.parametrize("graph", [dwave.graphs.pegasus_graph(4), dwave.graphs.zephyr_graph(4)], ids=["P4", "Z4"])
def test_packs_are_disjoint_embeddings(graph: object) -> None:
    import networkx  # type: ignore[import-untyped]

    sizes = [12, 3, 7, 20, 5, 8, 2, 16]
    packs = pack_cliques(graph, sizes)
    assert sorted(m for pack in packs for m in pack.members) == list(range(len(sizes)))
    for pack in packs:
        together = networkx.disjoint_union_all([networkx.complete_graph(sizes[m]) for m in pack.members])
        chains = dict(enumerate(chain for embedding in pack.embeddings for chain in embedding.values()))
        assert verify_embedding(chains, together, graph)


def test_largest_clique_and_a_block_that_does_not_fit() -> None:
    graph = dwave.graphs.pegasus_graph(2)
    most = largest_clique(graph, 60)
    assert 9 <= most < 60
    assert clique(graph, most)
    assert clique(graph, most + 1) is None
    assert largest_clique(graph, 6) == 6
    with pytest.raises(BackendError, match=f"a block of {most + 1} units does not fit"):
        pack_cliques(graph, [3, most + 1])


@pytest.mark.slow
def test_small_cliques_on_zephyr_still_end_the_process_upstream() -> None:
    """Why `LEAST_CLIQUE` is there: where this fails, minorminer has been repaired and it can go."""
    code = (
        "import dwave.graphs as g; from minorminer.busclique import find_clique_embedding as f;"
        "f(6, g.zephyr_graph(2), use_cache=False)"
    )
    limit = partial(resource.setrlimit, resource.RLIMIT_AS, (2 * 2**30, 2 * 2**30))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, preexec_fn=limit)
    assert "bad_alloc" in ended.stderr

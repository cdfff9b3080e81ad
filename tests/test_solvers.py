from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import dimod
import numpy as np
import pytest
from dwave.samplers import SimulatedAnnealingSampler

from qcompress.errors import BackendError, UsageError
from qcompress.selection import Unit
from qcompress.solvers import SOLVERS, Annealing, Enumeration, Solver, from_dimod, solver

TABLE = pytest.mark.parametrize("name", list(SOLVERS))


def model(blocks: int, size: int, seed: int = 0) -> dimod.BinaryQuadraticModel:
    """Blocks of fully coupled units, no coupling between them."""
    rng = np.random.default_rng(seed)
    units = [Unit(f"g{g}", number) for g in range(blocks) for number in range(size)]
    i, j = np.triu_indices(size, 1)
    rows = (np.arange(blocks)[:, None] * size + i).ravel()
    columns = (np.arange(blocks)[:, None] * size + j).ravel()
    linear, pairs = rng.normal(-size / 8, 1, blocks * size), rng.uniform(0, 0.5, len(rows))
    return dimod.BinaryQuadraticModel.from_numpy_vectors(
        linear, (rows, columns, pairs), 0.0, dimod.BINARY, variable_order=units
    )


def every_energy(bqm: dimod.BinaryQuadraticModel) -> Any:
    return dimod.ExactSolver().sample(bqm).record.energy  # type: ignore[no-untyped-call]


@TABLE
@pytest.mark.parametrize(("blocks", "size"), [(1, 1), (1, 12), (3, 10), (30, 1)])
def test_energies_are_true_and_variables_complete(name: str, blocks: int, size: int) -> None:
    bqm = model(blocks, size)
    found = SOLVERS[name](bqm, reads=5, seed=1)
    assert len(found) >= 5
    assert set(found.variables) == set(bqm.variables)
    np.testing.assert_allclose(found.record.energy, bqm.energies((found.record.sample, found.variables)), atol=1e-9)


@TABLE
def test_small_models_are_solved(name: str) -> None:
    bqm = model(3, 6)
    lowest = every_energy(bqm).min()
    assert SOLVERS[name](bqm, reads=20, seed=0).first.energy == pytest.approx(lowest)


@TABLE
def test_no_variables(name: str) -> None:
    found = SOLVERS[name](dimod.BinaryQuadraticModel("BINARY"), reads=3, seed=0)
    assert len(found.variables) == 0
    assert not found.record.energy.any()


@TABLE
@pytest.mark.parametrize("bias", [-1.0, 0.0, 1.0])
def test_one_variable(name: str, bias: float) -> None:
    found = SOLVERS[name](dimod.BinaryQuadraticModel({Unit("a", 0): bias}, {}, 0.0, "BINARY"), reads=3, seed=0)
    assert found.first.energy == min(bias, 0.0)


@TABLE
def test_five_thousand_variables(name: str) -> None:
    bqm = model(1000, 5)
    found = SOLVERS[name](bqm, reads=3, seed=0)
    optimum = Enumeration()(bqm, reads=1, seed=0).first.energy
    assert optimum <= found.first.energy + 1e-6
    assert found.first.energy <= 0.9 * optimum  # energies are negative


@TABLE
def test_spin_models(name: str) -> None:
    bqm = model(2, 5).change_vartype(dimod.SPIN, inplace=False)
    found = SOLVERS[name](bqm, reads=20, seed=0)
    assert found.vartype is dimod.SPIN
    assert found.first.energy == pytest.approx(every_energy(bqm).min())


@TABLE
def test_same_seed_same_samples(name: str) -> None:
    bqm = model(2, 15)
    one, two = (SOLVERS[name](bqm, reads=4, seed=7) for _ in range(2))
    assert list(one.variables) == list(two.variables)
    assert np.array_equal(one.record.sample, two.record.sample)


def test_same_seed_same_samples_in_another_process() -> None:
    code = (
        "import hashlib, runpy, sys; space = runpy.run_path(sys.argv[1])\n"
        "for name, solve in space['SOLVERS'].items():\n"
        "    found = solve(space['model'](2, 15), reads=4, seed=7)\n"
        "    print(name, [tuple(v) for v in found.variables][:3], hashlib.sha256(found.record.sample.tobytes()).hexdigest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code, __file__],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        for hash_seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout
    assert len(runs[0].stdout.splitlines()) == len(SOLVERS)


def test_seeds_matter() -> None:
    bqm = model(1, 60)
    samples = [Annealing(sweeps=1)(bqm, reads=4, seed=seed).record.sample for seed in (1, 2)]
    assert not np.array_equal(*samples)


def test_exact_lists_the_lowest_states() -> None:
    bqm = model(1, 8)
    every = np.sort(every_energy(bqm))
    np.testing.assert_allclose(Enumeration()(bqm, reads=10, seed=0).record.energy, every[:10])
    assert len(Enumeration()(model(1, 1), reads=5, seed=0)) == 5


def test_exact_names_the_size_it_cannot_take() -> None:
    with pytest.raises(BackendError, match=r"has 21 variables, at most 20"):
        SOLVERS["exact"](model(2, 21), reads=1, seed=0)
    with pytest.raises(BackendError, match=r"has 9 variables, at most 8"):
        Enumeration(largest=8)(model(1, 9), reads=1, seed=0)


def test_unknown_backend_and_option() -> None:
    with pytest.raises(UsageError, match=r"backend 'qaoa' is unknown, expected one of profile, neal, tabu, steepest, exact"):
        solver("qaoa")
    with pytest.raises(UsageError, match=r"backend neal has no option 'speed', expected one of: sweeps"):
        solver("neal", speed=3)
    assert solver("neal") == SOLVERS["neal"]
    assert solver("tabu", updates=5) != SOLVERS["tabu"]


class Broken(dimod.NullSampler):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.parameters = {"num_reads": []}

    def sample(self, bqm: dimod.BinaryQuadraticModel, **kwargs: Any) -> dimod.SampleSet:
        raise RuntimeError(f"offline after {kwargs}")


def test_any_dimod_sampler_is_a_backend() -> None:
    bqm = model(2, 4)
    wrapped: Solver = from_dimod(dimod.ExactSolver())  # type: ignore[no-untyped-call]  # has neither num_reads nor seed
    assert wrapped(bqm, reads=3, seed=0).first.energy == pytest.approx(SOLVERS["exact"](bqm, reads=1, seed=0).first.energy)
    seeded = from_dimod(SimulatedAnnealingSampler())  # type: ignore[no-untyped-call]
    assert np.array_equal(*(seeded(bqm, reads=9, seed=3).record.sample for _ in range(2)))


def test_failures_of_a_dimod_sampler_are_backend_errors() -> None:
    with pytest.raises(BackendError, match=r"backend Broken failed: RuntimeError: offline after \{'num_reads': 3\}"):
        from_dimod(Broken())(model(1, 2), reads=3, seed=0)
    with pytest.raises(BackendError, match="0 samples"):
        from_dimod(dimod.NullSampler())(model(1, 2), reads=3, seed=0)  # type: ignore[no-untyped-call]


def test_importing_the_table_loads_no_sampler() -> None:
    code = "import sys, qcompress.solvers, qcompress.search, qcompress.qubo; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"dimod", "dwave", "dwave.samplers", "torch", "scipy"} & set(loaded)

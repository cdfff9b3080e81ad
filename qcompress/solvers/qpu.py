"""A D-Wave quantum annealer, several blocks side by side in one submission."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompress.solvers.chip import ChipOptions, ChipSession, Drawn, Pack
from qcompress.solvers.cloud import translated
from qcompress.solvers.dwave_job import estimate_s, features, ranges_of, spin_model, spins_of
from qcompress.solvers.embedding import largest_clique, pack_cliques
from qcompress.solvers.precision import Ising

__all__ = ["Qpu", "QpuChip"]


@dataclass(frozen=True)
class Qpu(ChipOptions):
    """`ChipOptions` for DWaveSampler with one fixed embedding of all blocks of a submission."""

    @contextmanager
    def open(self, say: Callable[[str], None]) -> Iterator[ChipSession]:
        """Connects, by the usual configuration of D-Wave's client. Raises BackendError."""
        with translated("qpu"):
            from dwave.system import DWaveSampler  # type: ignore[import-untyped]

            sampler = DWaveSampler(solver=features(self))
        with closing(sampler):
            with translated("qpu"):
                chip = QpuChip(sampler, self)
            yield ChipSession(chip, self, say)


class QpuChip:
    """`Chip` over a dimod sampler with a structure: DWaveSampler, or a stand-in for it."""

    backend = "qpu"

    def __init__(self, sampler: Any, options: ChipOptions) -> None:
        self._sampler, self._options = sampler, options
        self._graph = sampler.to_networkx_graph()
        self._largest: dict[int, int] = {}
        solver = sampler.solver
        self.name = str(solver.name)
        self.graph_id = str(solver.graph_id or solver.name)
        self.topology = str(sampler.properties["topology"]["type"])
        self.ranges = ranges_of(sampler.properties)

    def largest(self, limit: int) -> int:
        """By bisection over embeddings; found once."""
        if limit not in self._largest:
            self._largest[limit] = largest_clique(self._graph, limit)
        return self._largest[limit]

    def pack(self, sizes: Sequence[int]) -> tuple[Pack, ...]:
        """First fit, on disjoint qubits."""
        return pack_cliques(self._graph, sizes)

    def estimate_s(self, qubits: int, reads: int) -> float:
        """By `solver.estimate_qpu_access_time`."""
        return estimate_s(self._sampler.solver, qubits, reads, self._options)

    def draw(
        self, pack: Pack, models: Sequence[Ising], strengths: Sequence[float], factors: Sequence[float], reads: int
    ) -> Drawn:
        """One submission: the models next to each other, broken chains by majority."""
        from dimod import SPIN, BinaryQuadraticModel
        from dwave.system import FixedEmbeddingComposite

        together = BinaryQuadraticModel(SPIN)
        chains, strength_of = {}, {}
        for number, (model, embedding) in enumerate(zip(models, pack.embeddings, strict=True)):
            together.update(spin_model(model, factors[number], number))
            chains.update({(number, v): chain for v, chain in embedding.items()})
            strength_of.update({(number, v): strengths[number] * factors[number] for v in embedding})
        sampler = FixedEmbeddingComposite(self._sampler, embedding=chains)
        found = sampler.sample(
            together,
            chain_strength=strength_of,
            chain_break_fraction=True,
            num_reads=reads,
            label="qcompress",
            **({"annealing_time": self._options.annealing_us} if self._options.annealing_us else {}),
        )
        found.resolve()
        spins = spins_of(found, [(number, v) for number, model in enumerate(models) for v in range(len(model.h))], reads)
        ends = np.cumsum([len(model.h) for model in models])[:-1]
        broken = float(np.average(found.record.chain_break_fraction, weights=found.record.num_occurrences))
        return Drawn(tuple(np.split(spins, ends, axis=1)), broken, found.info["timing"]["qpu_access_time"] / 1e6)

"""A D-Wave quantum annealer, one dense block per submission by the sampler for cliques."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from qcompress.solvers.chip import ChipOptions, ChipSession, Drawn, Embedding, Pack
from qcompress.solvers.cloud import translated
from qcompress.solvers.dwave_job import estimate_s, features, ranges_of, spin_model, spins_of
from qcompress.solvers.embedding import LEAST_CLIQUE
from qcompress.solvers.precision import Ising

__all__ = ["Clique", "CliqueChip"]


@dataclass(frozen=True)
class Clique(ChipOptions):
    """`ChipOptions` for DWaveCliqueSampler. Its embeddings have chains of even length, found once per solver graph."""

    @contextmanager
    def open(self, say: Callable[[str], None]) -> Iterator[ChipSession]:
        """Connects, by the usual configuration of D-Wave's client. Raises BackendError."""
        with translated("clique"):
            from dwave.system import DWaveCliqueSampler  # type: ignore[import-untyped]

            sampler = DWaveCliqueSampler(solver=features(self))
        with closing(sampler):
            with translated("clique"):
                chip = CliqueChip(sampler, self)
            yield ChipSession(chip, self, say)


class CliqueChip:
    """`Chip` over DWaveCliqueSampler."""

    backend = "clique"

    def __init__(self, sampler: Any, options: ChipOptions) -> None:
        self._sampler, self._options = sampler, options
        properties = sampler.properties["qpu_properties"]
        self._solver = sampler.child.solver
        self.name = str(self._solver.name)
        self.graph_id = str(self._solver.graph_id or self._solver.name)
        self.topology = str(properties["topology"]["type"])
        self.ranges = ranges_of(properties)
        self._embeddings: dict[int, Embedding] = {}

    def largest(self, limit: int) -> int:
        """`limit`, or the sampler's largest clique."""
        return limit if self._embedding(limit) else int(self._sampler.largest_clique_size)

    def pack(self, sizes: Sequence[int]) -> tuple[Pack, ...]:
        """Every block on its own."""
        return tuple(Pack((place,), (self._embedding(size),)) for place, size in enumerate(sizes))

    def estimate_s(self, qubits: int, reads: int) -> float:
        """By `solver.estimate_qpu_access_time`."""
        return estimate_s(self._solver, qubits, reads, self._options)

    def draw(
        self, pack: Pack, models: Sequence[Ising], strengths: Sequence[float], factors: Sequence[float], reads: int
    ) -> Drawn:
        """One submission of the one block; the sampler embeds and scales by itself."""
        (model,), (strength,), (factor,) = models, strengths, factors
        asked = spin_model(model, factor, 0)
        for v in range(len(model.h), LEAST_CLIQUE):
            asked.add_variable((0, v))
        found = self._sampler.sample(
            asked,
            chain_strength=strength * factor,
            chain_break_fraction=True,
            num_reads=reads,
            label="qcompress",
            **({"annealing_time": self._options.annealing_us} if self._options.annealing_us else {}),
        )
        found.resolve()
        broken = float(
            (found.record.chain_break_fraction * found.record.num_occurrences).sum() / found.record.num_occurrences.sum()
        )
        spins = spins_of(found, [(0, v) for v in range(len(model.h))], reads)
        return Drawn((spins,), broken, found.info["timing"]["qpu_access_time"] / 1e6)

    def _embedding(self, size: int) -> Embedding:
        """The sampler's for `size` variables, or for the least it is safe with; empty where there is none."""
        size = max(size, LEAST_CLIQUE)
        if size not in self._embeddings:
            self._embeddings[size] = {v: tuple(chain) for v, chain in self._sampler.clique(size).items()}
        return self._embeddings[size]

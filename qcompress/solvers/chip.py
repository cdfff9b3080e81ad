"""A session with a quantum annealer: what is asked of it, what it cost, and what its answers were worth before polishing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from qcompress import seeds
from qcompress.errors import BackendError
from qcompress.solvers.account import Account, ProbeAccount, SplitBlock
from qcompress.solvers.annealing import Annealing
from qcompress.solvers.cloud import patient, translated
from qcompress.solvers.contested import Core, cores
from qcompress.solvers.precision import Ising, PrecisionLoss, Ranges, ising, measure, scale

if TYPE_CHECKING:
    from dimod import BinaryQuadraticModel, SampleSet

__all__ = ["Chip", "ChipOptions", "ChipSession", "Drawn", "Pack"]

Embedding = dict[int, tuple[int, ...]]


@dataclass(frozen=True)
class ChipOptions:
    """How a quantum annealer is used.

    solver          its name; empty: the online one of most qubits (and of `topology`: pegasus, zephyr, where given)
    largest         units of one block that go to the chip at most; more lose more to the chip's precision than they gain
    reads           per submission, at least
    rounds          gammas that the search may try
    annealing_us    annealing time in microseconds; 0: the solver's own
    chain_strength  over uniform torque compensation
    spin_reversals  every submission is made in so many random gauges (reads are shared out); 0: as it is
    polish          steepest descent by single flips from every answer
    bits            effective bits of the coefficients, for the estimate of what precision costs
    max_seconds     of machine time that one run may use: more is refused before anything is submitted
    """

    solver: str = ""
    topology: str = ""
    largest: int = 64
    reads: int = 100
    rounds: int = 5
    annealing_us: float = 0.0
    chain_strength: float = 1.414
    spin_reversals: int = 0
    polish: bool = True
    bits: int = 6
    max_seconds: float = 10.0


@dataclass(frozen=True)
class Pack:
    """What goes to the chip together: places in the list of cores, and for each the chains of its variables 0, 1, ..."""

    members: tuple[int, ...]
    embeddings: tuple[Embedding, ...]

    @property
    def chains(self) -> list[int]:
        """Number of qubits of every chain."""
        return [len(chain) for embedding in self.embeddings for chain in embedding.values()]


@dataclass(frozen=True, eq=False)
class Drawn:
    """Spins (reads, f) per model of a pack, chain breaks over all chains (0..1), machine time in seconds."""

    spins: tuple[NDArray[np.int8], ...]
    chain_break_fraction: float
    access_s: float


class Chip(Protocol):
    """A connected annealer. What it raises is the client's own; the session translates it."""

    backend: str
    name: str
    topology: str
    graph_id: str
    ranges: Ranges

    def largest(self, limit: int) -> int:
        """Variables of the largest clique of at most `limit` that fits."""

    def pack(self, sizes: Sequence[int]) -> tuple[Pack, ...]:
        """Fully coupled blocks of these sizes (>= 2) on the chip, in as few submissions as it can."""

    def estimate_s(self, qubits: int, reads: int) -> float:
        """Machine time of one submission in seconds, by the solver's own figures."""

    def draw(
        self, pack: Pack, models: Sequence[Ising], strengths: Sequence[float], factors: Sequence[float], reads: int
    ) -> Drawn:
        """Samples of the models (in the order of the pack's members), each times its factor to fit the ranges."""


class ChipSession:
    """Solves models on `chip`. Its answers depend on a machine: the same seed does not give the same samples."""

    def __init__(self, chip: Chip, options: ChipOptions, say: Callable[[str], None]) -> None:
        self._chip, self._options, self._say = chip, options, say
        self._layouts: dict[tuple[int, ...], tuple[Pack, ...]] = {}
        self.account = Account(
            chip.backend, chip.name, chip.topology, chip.graph_id, spin_reversals=options.spin_reversals, bits=options.bits
        )

    @property
    def rounds(self) -> int:
        """Gammas that a search should try with this session."""
        return self._options.rounds

    def __call__(self, bqm: BinaryQuadraticModel, *, reads: int, seed: int) -> SampleSet:
        """Samples of `bqm`, at least one per read; with true energies of their own.

        Raises BackendError where the machine fails or the time would exceed the limit.
        """
        import dimod

        binary = bqm.change_vartype(dimod.BINARY, inplace=False)
        limit = self._chip.largest(self._options.largest)
        found = cores(binary, limit)
        asked = [place for place, core in enumerate(found) if len(core.free)]
        models = [ising(found[place].linear, found[place].couplings) for place in asked]
        packs = self._layout(tuple(len(model.h) for model in models))
        reads = max(reads, self._options.reads)
        if not self.account.probes:
            self._open_account(binary, found, packs, models, limit, reads, seed)
        rows, broken, access_s = self._draw(packs, models, reads, seed)
        states = np.tile(np.concatenate([np.zeros(0, np.int8), *(core.start for core in found)]), (reads, 1))
        order = np.concatenate([np.zeros(0, np.intp), *(core.places for core in found)])
        raw = np.zeros_like(states)
        raw[:, order] = states
        for place, spins in zip(asked, rows, strict=True):
            raw[:, found[place].places] = found[place].complete(((spins + 1) // 2).astype(np.int8))
        return self._finish(bqm, binary, raw, found, broken, access_s, seed)

    def _layout(self, sizes: tuple[int, ...]) -> tuple[Pack, ...]:
        """Found once per solver graph and sizes; every gamma reuses it."""
        if sizes not in self._layouts:
            self._layouts[sizes] = self._chip.pack(sizes) if sizes else ()
        return self._layouts[sizes]

    def _open_account(
        self,
        binary: BinaryQuadraticModel,
        found: Sequence[Core],
        packs: Sequence[Pack],
        models: Sequence[Ising],
        limit: int,
        reads: int,
        seed: int,
    ) -> None:
        """What the whole search will cost, said and checked before the first submission; what the precision costs."""
        options = self._options
        estimated = options.rounds * sum(self._pack_s(pack, reads) for pack in packs)
        labels = list(binary.variables)
        split = tuple(
            SplitBlock(_block_name(labels[core.places[0]]), len(core.places), len(core.free))
            for core in found
            if len(core.free) and not core.whole
        )
        chains = [length for pack in packs for length in pack.chains]
        chain = round(float(np.mean(chains))) if chains else 1
        strengths = [self._strength(model) for model in models]
        loss = PrecisionLoss(0.0, 0.0)
        if models:
            loss = measure(models, strengths, chain, self._chip.ranges, options.bits, seed)
        self.account = replace(
            self.account,
            blocks=len(models),
            split=split,
            largest_on_chip=limit,
            reads=reads,
            qubits=max((sum(pack.chains) for pack in packs), default=0),
            longest_chain=max(chains, default=0),
            estimated_s=estimated,
            coefficient_error=loss.coefficient_error,
            precision_loss=loss.energy,
        )
        self._say(
            f"{self._chip.name} ({self._chip.topology}): {len(models)} blocks in {len(packs)} submissions of {reads} reads, "
            f"{options.rounds} times: about {estimated:.2f} s of machine time, at most {options.max_seconds:g} s allowed"
        )
        self._check_time(estimated)

    def _check_time(self, seconds: float) -> None:
        if not seconds <= self._options.max_seconds:
            raise BackendError(
                f"backend {self._chip.backend}: {seconds:.2f} s of machine time are needed, at most "
                f"{self._options.max_seconds:g} s are allowed",
                "raise --max-qpu-seconds, or ask for fewer reads (--backend-option reads=50)",
            )

    def _gauges(self) -> int:
        return max(1, self._options.spin_reversals)

    def _pack_s(self, pack: Pack, reads: int) -> float:
        gauges = self._gauges()
        return gauges * self._chip.estimate_s(sum(pack.chains), -(-reads // gauges))

    def _strength(self, model: Ising) -> float:
        """Uniform torque compensation: the root mean square coupling times the root of the mean degree. In spins."""
        values = model.J[np.triu_indices(len(model.h), 1)]
        values = values[values != 0]
        if not len(values):
            return 1.0
        degree = 2 * len(values) / len(model.h)
        return self._options.chain_strength * float(np.sqrt((values**2).mean() * degree))

    def _draw(
        self, packs: Sequence[Pack], models: Sequence[Ising], reads: int, seed: int
    ) -> tuple[list[NDArray[np.int8]], list[float], float]:
        """(reads, f) spins per model, chain breaks per submission, machine time in seconds."""
        rows: list[NDArray[np.int8]] = [np.zeros((0, len(model.h)), np.int8) for model in models]
        broken: list[float] = []
        access_s = 0.0
        gauges = self._gauges()
        for number, pack in enumerate(packs):
            self._check_time(self.account.access_s + access_s + self._pack_s(pack, reads))
            for turn in range(gauges):
                rng = seeds.stream(seed, f"gauge {number} {turn}")
                flips = [
                    rng.choice(np.array([-1, 1], np.int8), len(models[m].h))
                    if self._options.spin_reversals
                    else np.ones(len(models[m].h), np.int8)
                    for m in pack.members
                ]
                turned = [
                    Ising(models[m].h * f, models[m].J * np.outer(f, f)) for m, f in zip(pack.members, flips, strict=True)
                ]
                strengths = [self._strength(model) for model in turned]
                shortest = [min(map(len, embedding.values())) for embedding in pack.embeddings]
                factors = [scale(*each, self._chip.ranges) for each in zip(turned, strengths, shortest, strict=True)]
                with translated(self._chip.backend):
                    ask = partial(self._chip.draw, pack, turned, strengths, factors, -(-reads // gauges))
                    drawn = patient(ask)
                for m, f, spins in zip(pack.members, flips, drawn.spins, strict=True):
                    rows[m] = np.concatenate((rows[m], spins * f))
                broken.append(drawn.chain_break_fraction)
                access_s += drawn.access_s
                self.account = replace(self.account, submissions=self.account.submissions + 1)
        return [np.resize(spins, (reads, spins.shape[1])) for spins in rows], broken, access_s

    def _finish(
        self,
        bqm: BinaryQuadraticModel,
        binary: BinaryQuadraticModel,
        raw: NDArray[np.int8],
        found: Sequence[Core],
        broken: Sequence[float],
        access_s: float,
        seed: int,
    ) -> SampleSet:
        """Polishes, books the probe, and returns the samples in the vartype of `bqm`."""
        import dimod

        labels = list(binary.variables)
        answers: SampleSet = dimod.SampleSet.from_samples_bqm((raw, labels), binary)  # type: ignore[no-untyped-call]
        polished = _polish(binary, answers) if self._options.polish and labels else answers
        start = np.zeros(len(labels), np.int8)
        for core in found:
            start[core.places] = core.start
        classical = Annealing()(binary, reads=len(raw), seed=seed).record.energy.min() if labels else 0.0
        probe = ProbeAccount(
            start=float(binary.energy((start, labels))) if labels else 0.0,
            raw=float(answers.record.energy.min()),
            polished=float(polished.record.energy.min()),
            classical=float(classical),
            chain_break_fraction=float(np.mean(broken)) if broken else None,
            access_s=access_s,
        )
        probes = (*self.account.probes, probe)
        breaks = [p.chain_break_fraction for p in probes if p.chain_break_fraction is not None]
        self.account = replace(
            self.account,
            probes=probes,
            access_s=self.account.access_s + access_s,
            chain_break_fraction=float(np.mean(breaks)) if breaks else None,
        )
        own: SampleSet = polished.change_vartype(bqm.vartype, inplace=False)  # type: ignore[no-untyped-call]
        return own


def _polish(binary: BinaryQuadraticModel, answers: SampleSet) -> SampleSet:
    from dwave.samplers import SteepestDescentSampler

    sampler = SteepestDescentSampler()  # type: ignore[no-untyped-call]
    states = (answers.record.sample, list(answers.variables))
    found: SampleSet = sampler.sample(binary, initial_states=states, num_reads=len(answers))
    return found


def _block_name(label: object) -> str:
    """The group of a unit; for a model from elsewhere, its first variable."""
    return str(label[0]) if isinstance(label, tuple) and label else str(label)

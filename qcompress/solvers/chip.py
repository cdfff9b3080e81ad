"""A session with a quantum annealer: what is asked of it, what it cost, and what its answers were worth before polishing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from qcompress import seeds
from qcompress.errors import BackendError, UsageError
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
    largest         units of one block that go to the chip at most, 2 or more; many lose more to its precision than they gain
    reads           per submission; 0: as many as the search asks for
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

    def __post_init__(self) -> None:
        for name, least in (("largest", 2), ("rounds", 1), ("bits", 1)):
            value = getattr(self, name)
            if value < least:
                raise UsageError(f"{name} is {value}, expected at least {least}", f"--backend-option {name}={least}")
        if not self.chain_strength > 0:
            raise UsageError(f"chain_strength is {self.chain_strength:g}, expected more than 0")


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


@dataclass(frozen=True, eq=False)
class _Job:
    """One model and what of it goes to the chip: the cores at the places `asked`, as spin `models`, in `packs`."""

    binary: BinaryQuadraticModel
    found: tuple[Core, ...]
    asked: tuple[int, ...]
    models: tuple[Ising, ...]
    packs: tuple[Pack, ...]
    limit: int
    reads: int

    @property
    def start(self) -> NDArray[np.int8]:
        """(n,) where classical descent ended, and what is not free stays."""
        start = np.zeros(self.binary.num_variables, np.int8)
        for core in self.found:
            start[core.places] = core.start
        return start


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

        Raises BackendError where the machine fails, takes no block of two, or the time would exceed the limit.
        """
        import dimod

        job = self._job(bqm.change_vartype(dimod.BINARY, inplace=False), reads)
        if not self.account.probes:
            self._announce(job, seed)
        rows, broken, access_s = self._draw(job, seed)
        return self._finish(bqm, job, _states(job, rows), broken, access_s, seed)

    def _job(self, binary: BinaryQuadraticModel, reads: int) -> _Job:
        """What of a BINARY model goes to the chip, and how."""
        limit = self._chip.largest(self._options.largest)
        found = cores(binary, limit)
        if limit < 2 and any(len(core.places) > 1 for core in found):
            raise BackendError(
                f"backend {self._chip.backend}: no two coupled units fit on {self._chip.name}", "choose another with --solver"
            )
        asked = tuple(place for place, core in enumerate(found) if len(core.free))
        models = tuple(ising(found[place].linear, found[place].couplings) for place in asked)
        packs = self._layout(tuple(len(model.h) for model in models))
        return _Job(binary, found, asked, models, packs, limit, self._options.reads or reads)

    def _layout(self, sizes: tuple[int, ...]) -> tuple[Pack, ...]:
        """Found once per solver graph and sizes; every gamma reuses it."""
        if sizes not in self._layouts:
            self._layouts[sizes] = self._chip.pack(sizes) if sizes else ()
        return self._layouts[sizes]

    def _announce(self, job: _Job, seed: int) -> None:
        """What the whole search will cost, said and checked before the first submission."""
        options = self._options
        estimated = options.rounds * sum(self._pack_s(pack, job.reads) for pack in job.packs)
        self.account = self._booked(job, estimated, seed)
        self._say(
            f"{self._chip.name} ({self._chip.topology}): {len(job.models)} blocks in {self._gauges() * len(job.packs)} "
            f"submissions of {self._share(job.reads)} reads, at {options.rounds} gamma{'s' * (options.rounds != 1)}: "
            f"about {estimated:.2f} s of machine time, at most {options.max_seconds:g} s allowed"
        )
        self._check_time(estimated)

    def _booked(self, job: _Job, estimated: float, seed: int) -> Account:
        """The account with the shape of the search, its estimate, and what the precision costs."""
        labels = list(job.binary.variables)
        chains = [length for pack in job.packs for length in pack.chains]
        loss = PrecisionLoss(0.0, 0.0)
        if job.models:
            strengths = [self._strength(model) for model in job.models]
            chain = round(float(np.mean(chains)))
            loss = measure(job.models, strengths, chain, self._chip.ranges, self._options.bits, seed)
        return replace(
            self.account,
            blocks=len(job.models),
            split=tuple(
                SplitBlock(_block_name([labels[place] for place in core.places]), len(core.places), len(core.free))
                for core in job.found
                if len(core.free) and not core.whole
            ),
            largest_on_chip=job.limit,
            reads=self._share(job.reads),
            qubits=max((sum(pack.chains) for pack in job.packs), default=0),
            longest_chain=max(chains, default=0),
            estimated_s=estimated,
            coefficient_error=loss.coefficient_error,
            precision_loss=loss.energy,
        )

    def _check_time(self, seconds: float) -> None:
        if not seconds <= self._options.max_seconds:
            raise BackendError(
                f"backend {self._chip.backend}: {seconds:.2f} s of machine time are needed, at most "
                f"{self._options.max_seconds:g} s are allowed",
                "raise --max-qpu-seconds, or ask for fewer reads (--backend-option reads=50)",
            )

    def _gauges(self) -> int:
        return max(1, self._options.spin_reversals)

    def _share(self, reads: int) -> int:
        """Reads of one submission, in one gauge."""
        return -(-reads // self._gauges())

    def _pack_s(self, pack: Pack, reads: int) -> float:
        return self._gauges() * self._chip.estimate_s(sum(pack.chains), self._share(reads))

    def _strength(self, model: Ising) -> float:
        """Uniform torque compensation: the root mean square coupling times the root of the mean degree. In spins."""
        values = model.J[np.triu_indices(len(model.h), 1)]
        values = values[values != 0]
        if not len(values):
            return 1.0
        degree = 2 * len(values) / len(model.h)
        return self._options.chain_strength * float(np.sqrt((values**2).mean() * degree))

    def _draw(self, job: _Job, seed: int) -> tuple[list[NDArray[np.int8]], list[float], float]:
        """(reads, f) spins per model, chain breaks per submission, machine time in seconds."""
        rows: list[NDArray[np.int8]] = [np.zeros((0, len(model.h)), np.int8) for model in job.models]
        broken: list[float] = []
        access_s = 0.0
        for number, pack in enumerate(job.packs):
            self._check_time(self.account.access_s + access_s + self._pack_s(pack, job.reads))
            models = [job.models[m] for m in pack.members]
            for turn in range(self._gauges()):
                flips = self._flips(models, seeds.stream(seed, f"gauge {number} {turn}"))
                drawn = self._submit(pack, models, flips, self._share(job.reads))
                for m, f, spins in zip(pack.members, flips, drawn.spins, strict=True):
                    rows[m] = np.concatenate((rows[m], spins * f))
                broken.append(drawn.chain_break_fraction)
                access_s += drawn.access_s
                self.account = replace(self.account, submissions=self.account.submissions + 1)
        return [np.resize(spins, (job.reads, spins.shape[1])) for spins in rows], broken, access_s

    def _flips(self, models: Sequence[Ising], rng: np.random.Generator) -> list[NDArray[np.int8]]:
        """A gauge per model: random signs of its spins, or all 1 without spin reversals."""
        if not self._options.spin_reversals:
            return [np.ones(len(model.h), np.int8) for model in models]
        return [rng.choice(np.array([-1, 1], np.int8), len(model.h)) for model in models]

    def _submit(self, pack: Pack, models: Sequence[Ising], flips: Sequence[NDArray[np.int8]], reads: int) -> Drawn:
        """One submission in that gauge, scaled to the chip's ranges."""
        turned = [Ising(model.h * f, model.J * np.outer(f, f)) for model, f in zip(models, flips, strict=True)]
        strengths = [self._strength(model) for model in turned]
        shortest = [min(map(len, embedding.values())) for embedding in pack.embeddings]
        factors = [scale(*each, self._chip.ranges) for each in zip(turned, strengths, shortest, strict=True)]
        with translated(self._chip.backend):
            return patient(partial(self._chip.draw, pack, turned, strengths, factors, reads))

    def _finish(
        self, bqm: BinaryQuadraticModel, job: _Job, raw: NDArray[np.int8], broken: Sequence[float], access_s: float, seed: int
    ) -> SampleSet:
        """Polishes, books the probe, and returns the samples in the vartype of `bqm`."""
        import dimod

        binary, labels = job.binary, list(job.binary.variables)
        answers: SampleSet = dimod.SampleSet.from_samples_bqm((raw, labels), binary)  # type: ignore[no-untyped-call]
        polished = _polish(binary, answers) if self._options.polish and labels else answers
        classical = Annealing()(binary, reads=len(raw), seed=seed).record.energy.min() if labels else 0.0
        probe = ProbeAccount(
            start=float(binary.energy((job.start, labels))) if labels else 0.0,
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


def _states(job: _Job, rows: Sequence[NDArray[np.int8]]) -> NDArray[np.int8]:
    """(reads, n) states of the whole model from spins (reads, f) of its cores: what did not go to the chip is as it started."""
    states = np.tile(job.start, (job.reads, 1))
    for place, spins in zip(job.asked, rows, strict=True):
        core = job.found[place]
        states[:, core.places] = core.complete(((spins + 1) // 2).astype(np.int8))
    return states


def _polish(binary: BinaryQuadraticModel, answers: SampleSet) -> SampleSet:
    from dwave.samplers import SteepestDescentSampler

    sampler = SteepestDescentSampler()  # type: ignore[no-untyped-call]
    states = (answers.record.sample, list(answers.variables))
    found: SampleSet = sampler.sample(binary, initial_states=states, num_reads=len(answers))
    return found


def _block_name(labels: Sequence[object]) -> str:
    """The group of a block's units, the first of several; for a model from elsewhere, its first variable.

    >>> _block_name([("a", 0), ("a", 1)]), _block_name([("a", 0), ("b", 0), ("c", 0)]), _block_name([7, 8])
    ('a', 'a and 2 others', '7')
    """
    if not all(isinstance(label, tuple) and label for label in labels):
        return str(labels[0])
    groups = dict.fromkeys(str(label[0]) for label in labels)  # type: ignore[index]  # tuples, all of them
    first, others = next(iter(groups)), len(groups) - 1
    return f"{first} and {others} other{'s' * (others > 1)}" if others else first

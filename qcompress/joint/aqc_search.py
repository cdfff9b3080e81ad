"""The `aqc` model, solved by a backend at several gammas, for a file of a given size.

gamma pays for reduction: the larger it is, the smaller the network. It is bracketed, then halved, around the one whose best
sample just fits. Every sample is kept and weighed at the exact bytes of its file, and the best are brought to the size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcompress import seeds
from qcompress.alignment import Alignment
from qcompress.errors import BackendError, UsageError
from qcompress.joint.aqc import AqcModel
from qcompress.joint.aqc_repair import AqcFiles
from qcompress.joint.demand import Demand, JointResult
from qcompress.joint.greedy import greedy
from qcompress.joint.sizes import Sizes
from qcompress.reports import QpuFacts
from qcompress.search import Probe, SearchResult
from qcompress.searching import Found
from qcompress.selection import Selection
from qcompress.settings import SearchOptions
from qcompress.solvers import account_of, opened, rounds_of, solver
from qcompress.solvers.protocol import Remote
from qcompress.solvers.remote import ROUNDS

__all__ = ["choose_aqc"]

BEST = 12
"""So many of all samples are brought to the size."""

Row = NDArray[np.bool_]
Ints = NDArray[np.int64]


def choose_aqc(
    model: AqcModel,
    sizes: Sizes,
    demand: Demand,
    *,
    options: SearchOptions | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> JointResult:
    """Units and widths by the model, for a file of at most `demand.target_bytes`, by the backend of `options`.

    Losses are L_p and beta L_q at the widths that the file has. Without `options.align` any count is allowed. The result has no
    bound; its `found` is over the units, its trace the gammas with the bytes that the best sample frees, and its loss.

    Raises UsageError for a demand with a sparsity, one that cannot be met, and a backend that takes no model without
    constraints; BackendError as the backend does.
    """
    options = options or SearchOptions()
    if demand.target_bytes is None or demand.sparsity is not None:
        raise UsageError("objective aqc is for a size", "give --target-size without --sparsity, or another --objective")
    alignment = Alignment(model.groups.space, options.align or 1, model.groups.widths)
    files = AqcFiles(model, sizes, demand.widths, alignment, demand.target_bytes)
    backend, samples = solver(options.backend, **options.backend_options), _Samples(files)
    with opened(backend, say) as session:
        rounds = rounds_of(session) if isinstance(backend, Remote) else ROUNDS
        samples.draw(session, rounds, options.reads, seed)
        account = account_of(session)
    found, qpu = samples.best(), None
    if isinstance(backend, Remote) and account is not None:
        default, here = solver(SearchOptions().backend), _Samples(files)
        here.draw(default, ROUNDS, options.reads, seed)
        qpu = QpuFacts.model_validate({**asdict(account), "classical_energy": here.loss(*here.best())})
    return _result(samples, *found, qpu)


@dataclass(eq=False)
class _Samples:
    """Units pruned, floors kept, and places of widths of all samples so far; the gammas tried."""

    files: AqcFiles
    known: dict[bytes, tuple[Row, Ints]] = field(default_factory=dict)
    trace: list[Probe] = field(default_factory=list)
    reads: int = 0

    def draw(self, session: Any, rounds: int, reads: int, seed: int) -> None:
        """At `rounds` gammas: twice or half the last until the limit lies between two, then between these."""
        if not callable(session):
            raise UsageError("objective aqc is a model without constraints, which this backend does not take", "--backend neal")
        model = self.files.model
        gamma, low, high = self._first(), 0.0, np.inf
        for number in range(rounds):
            found = session(model.bqm(gamma), reads=reads, seed=seeds.integer(seed, f"aqc probe {number}"))
            large = self._take(gamma, found) > self.files.most
            low, high = (gamma, high) if large else (low, gamma)
            gamma = 2 * low if np.isinf(high) else high / 2 if low == 0 else float(np.sqrt(low * high))

    def _first(self) -> float:
        """The loss of half of everything over its reduction."""
        model = self.files.model
        half = np.full(len(model.groups.space), 0.5), np.full(len(model.layers), model.powers.sum() / 2)
        return float(model.loss(*half) / model.reduction(*half)) or 1.0

    def _take(self, gamma: float, found: Any) -> int:
        """Keeps the samples; returns the bytes of the best one at gamma."""
        model, place = self.files.model, {variable: number for number, variable in enumerate(found.variables)}
        missing = [variable for variable in model.variables if variable not in place]
        if missing or not len(found):
            raise BackendError(f"the backend returned {len(found)} samples without {len(missing)} variables, expected all")
        x = np.unique(found.record.sample[:, [place[variable] for variable in model.variables]] > 0, axis=0)
        units = len(model.groups.space)
        rows = np.array([self.files.within_floors(row) for row in x[:, :units]])
        removed = model.removed(x[:, units:].reshape(len(x), len(model.layers), -1))
        taken = [(row, self.files.mapped(bits)) for row, bits in zip(rows, removed, strict=True)]
        self.known.update({row.tobytes() + places.tobytes(): (row, places) for row, places in taken})
        self.reads += len(found)
        best = taken[int((model.loss(rows, removed) - gamma * model.reduction(rows, removed)).argmin())]
        size = self.files.bytes(*best)
        self.trace.append(Probe(gamma, self.files.dense - size, self.loss(*best)))
        return size

    def loss(self, row: Row, places: Ints) -> float:
        """L_p + beta L_q."""
        return self.files.pruning(row) + self.files.quantisation(places)

    def best(self) -> tuple[Row, Ints]:
        """The least loss of samples brought to the size: of those that are best at the last gamma, by exact bytes."""
        files, known = self.files, list(self.known.values())
        price = self.trace[-1].gamma / max(files.dense, 1)
        ranks = [self.loss(*each) + price * max(files.bytes(*each) - files.most, 0) for each in known]
        ends = [files.repaired(*known[place]) for place in np.argsort(ranks, kind="stable")[:BEST].tolist()]
        return min(ends, key=lambda each: self.loss(*each))


def _result(samples: _Samples, row: Row, places: Ints, qpu: QpuFacts | None) -> JointResult:
    """What was found, and greedy pruning and narrowing by the same losses to compare with."""
    files = samples.files
    selection, size, loss = Selection.of(files.model.groups.space, row), files.bytes(row, places), samples.loss(row, places)
    plain = greedy(files.whole, files.most)
    plain_loss = None if plain is None else files.whole.energy(plain)
    searched = SearchResult(
        selection=selection,
        energy=loss,
        asked=max(files.dense - files.most, 0),
        capacity=files.dense - size,
        trace=tuple(samples.trace),
        greedy_energy=loss if plain_loss is None else plain_loss,
        reads=samples.reads,
        hit=any(probe.capacity == files.dense - files.most for probe in samples.trace),
    )
    return JointResult(
        selection=selection,
        widths=files.named(places),
        bytes=size,
        target_bytes=files.most,
        pruning=files.pruning(row),
        quantisation=files.quantisation(places),
        greedy_energy=plain_loss,
        bound=None,
        found=Found(searched, files.model.problem, qpu),
        align=files.alignment.align,
    )

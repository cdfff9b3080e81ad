"""Finished choices and repaired weights on disk, by a hash of everything they depend on, which an unchanged run takes up.

One safetensors file per key: plain arrays, and a record of plain values in its metadata; no pickle, no code, no paths. What
comes back is validated as data from a stranger: the record by its types and bounds, the selections by the network's units, the
capacity by counting, the weights by a digest, their shapes by the network that is left. Whatever does not hold is a miss.
Weights and energies themselves are taken as they are, and what they are worth is measured, or kept with the
files that they were exported to (`kept_findings`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import safetensors.torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from qcompress import keeping, kept_scores, slim_folder
from qcompress.errors import InputError
from qcompress.files import write_bytes
from qcompress.finetune.contract import TrainResult
from qcompress.gradual import PruningStep
from qcompress.offline import CertificateRecord
from qcompress.recover.choice import Recovered
from qcompress.refine.contract import RefineResult
from qcompress.reports import QpuFacts
from qcompress.search import Probe, SearchResult
from qcompress.search_certificate import Certificate
from qcompress.selection import Selection, UnitSpace
from qcompress.weights import read_safetensors

if TYPE_CHECKING:
    from qcompress.deciding import Choice
    from qcompress.jobs import Job

__all__ = ["Kept", "exists", "interrupted", "keep", "recall"]

_RECORD = "qcompress_run"  # in the metadata

Sha = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Units = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(max_length=2**24)]
Size = Annotated[int, Field(ge=0, lt=2**63)]
Pairs = Annotated[tuple[tuple[float, float], ...], Field(max_length=100_000)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, ser_json_inf_nan="constants")


class _Search(_Record):
    """A `SearchResult`, its selection by the numbers of the units that go."""

    pruned: Units
    energy: float
    asked: Size
    capacity: Size
    trace: Annotated[tuple[tuple[float, Size, float], ...], Field(max_length=100_000)]
    greedy_energy: float
    reads: Size
    hit: bool
    certificate: CertificateRecord | None

    def result(self, space: UnitSpace) -> SearchResult:
        """As the search returned it. Raises ValueError."""
        return SearchResult(
            selection=Selection(space, self.pruned),
            energy=self.energy,
            asked=self.asked,
            capacity=self.capacity,
            trace=tuple(Probe(*probe) for probe in self.trace),
            greedy_energy=self.greedy_energy,
            reads=self.reads,
            hit=self.hit,
            certificate=Certificate(**self.certificate.model_dump()) if self.certificate else None,
        )


class _Refined(_Record):
    """A `RefineResult` likewise."""

    pruned: Units
    start_value: float
    value: float
    gain: float
    evaluations: float
    candidates: Size
    accepted: Size
    history: Pairs
    ended: Literal["evaluations", "minutes", "exhausted"]
    measured: Pairs
    steps: Pairs

    def result(self, space: UnitSpace) -> RefineResult:
        """As the refinement returned it. Raises ValueError."""
        return RefineResult(selection=Selection(space, self.pruned), **self.model_dump(exclude={"pruned"}))


class _Training(_Record):
    """A `TrainResult`."""

    rate: float | None
    tried: Annotated[tuple[tuple[float, float, float], ...], Field(max_length=1000)]
    steps: Size
    seconds: float
    batch: Size
    crop: Size | None
    precision: Literal["float32", "bfloat16"]
    optimiser: Literal["muon", "adam"]
    teaching: float
    start: float
    best: float
    best_step: Size
    history: Annotated[tuple[tuple[Size, float], ...], Field(max_length=100_000)]
    ended: Literal["steps", "minutes", "patience"]


class _Step(_Record):
    """A `PruningStep`."""

    pruned: Size
    repaired: float
    trained: float | None


class _Run(_Record):
    """What is in the metadata of the file."""

    format: Literal["qcompress run 1"] = "qcompress run 1"
    key: Sha
    weights: Sha
    kept: Units
    align: Annotated[int, Field(ge=1, le=2**16)]
    search: _Search
    refined: _Refined | None
    qpu: QpuFacts | None
    level: Literal["none", "batchnorm", "bias", "lstsq"]
    batchnorm_reestimated: bool
    note: Annotated[str, Field(max_length=1000)]
    value: float
    training: _Training | None
    trail: Annotated[tuple[_Step, ...], Field(max_length=10_000)]


@dataclass(frozen=True, eq=False)
class Kept:
    """A run before its export: what search, refinement and earlier steps left, which units went, and the repaired network."""

    search: SearchResult
    refinement: RefineResult | None
    kept: Selection
    align: int
    qpu: QpuFacts | None
    trail: tuple[PruningStep, ...]
    recovered: Recovered


def keep(folder: Path, key: str, job: Job, choice: Choice, recovered: Recovered) -> None:
    """Writes what was found under `key`, unless it was interrupted; says so where that is not possible."""
    if choice.search is None or interrupted(choice, recovered):
        return
    with keeping.attempted(job.watch.say):
        write_bytes(_path(folder, key), _packed(key, choice, choice.search, recovered))
        job.watch.say(f"cache: kept as {_path(folder, key)}")


def interrupted(choice: Choice, recovered: Recovered) -> bool:
    """Whether Ctrl-C ended refinement or training. What the clock ended is as it was asked for, and is kept."""
    refined, training = choice.refinement, recovered.training
    return (refined is not None and refined.interrupted) or (training is not None and not training.complete)


def _packed(key: str, choice: Choice, found: SearchResult, recovered: Recovered) -> bytes:
    """An entry as it is in its file. Raises ValidationError, or OutputError where its record is too large."""
    refined, training, proven = choice.refinement, recovered.training, found.certificate
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in recovered.model.state_dict().items()}
    record = _Run(
        key=key,
        weights=_digest(state),
        kept=choice.kept.pruned,
        align=choice.align,
        search=_Search.model_validate(_plain(found, _Search) | {"certificate": proven and asdict(proven)}),
        refined=None if refined is None else _Refined.model_validate(_plain(refined, _Refined)),
        qpu=choice.qpu,
        level=recovered.level,
        batchnorm_reestimated=recovered.batchnorm_reestimated,
        note=recovered.note[:1000],
        value=recovered.value,
        training=None if training is None else _Training.model_validate(vars(training)),
        trail=tuple(_Step.model_validate(vars(step)) for step in choice.trail),
    )
    return safetensors.torch.save(state, {_RECORD: keeping.bounded(record.model_dump_json())})


def exists(folder: Path, key: str) -> bool:
    """Whether there is something under `key`; only `recall` tells whether it holds."""
    return _path(folder, key).is_file()


def recall(folder: Path, key: str, job: Job) -> Kept | None:
    """What is kept under `key`; None where nothing is, or it does not hold."""
    path = _path(folder, key)
    if not path.is_file():
        return None
    try:
        kept = _read(path, key, job)
    except (InputError, ValueError, RecursionError) as error:  # a UsageError is one: a selection below its floors
        job.watch.say(f"cache: {path} is not used: {' '.join(str(error).split())[:200]}")
        return None
    job.watch.say(f"cache: choice and weights from {path}")
    return kept


def _plain(result: SearchResult | RefineResult, kind: type[_Search | _Refined]) -> dict[str, Any]:
    """The fields that `kind` has, the units of the selection as plain numbers."""
    names = kind.model_fields.keys() - {"pruned"}
    return {name: getattr(result, name) for name in names} | {"pruned": result.selection.pruned}


def _read(path: Path, key: str, job: Job) -> Kept:
    """Raises InputError or ValueError where something does not hold."""
    state, metadata = read_safetensors(path)
    text = metadata.get(_RECORD, "")
    if len(text) > keeping.LARGEST_RECORD:
        raise ValueError("its record is too large")
    try:
        record = _Run.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"its record is damaged: {'.'.join(map(str, first['loc']))[:100]}: {first['msg']}") from error
    if record.key != key or record.weights != _digest(state):
        raise ValueError("it is of another run, or damaged")
    space, (target, alignment) = job.groups.space, job.asked
    search, kept = record.search.result(space), Selection(space, record.kept)
    refined = record.refined.result(space) if record.refined else None
    for selection in (search.selection, kept, *([refined.selection] if refined else [])):
        counts = space.counts(selection.x)
        if not alignment.allows(counts) or target.capacity(counts) < target.target:
            raise ValueError("its selection does not meet the budget")
    if int(target.capacity(space.counts(search.selection.x))) != search.capacity or record.align != alignment.align:
        raise ValueError("its selection frees something else than it says")
    model = slim_folder.restored(job.model.cpu(), job.groups.cuts(kept), state, str(path)).to(job.settings.device)
    job.model.to(job.settings.device)
    training = None if record.training is None else TrainResult(**record.training.model_dump())
    recovered = Recovered(
        model, record.level, record.batchnorm_reestimated, (), record.note, value=record.value, training=training
    )
    trail = tuple(PruningStep(**step.model_dump()) for step in record.trail)
    return Kept(search, refined, kept, alignment.align, record.qpu, trail, recovered)


def _path(folder: Path, key: str) -> Path:
    return folder / f"{key}.safetensors"


def _digest(state: dict[str, Tensor]) -> str:
    """Of names, shapes, types and numbers."""
    return kept_scores.key_of(tensors={name: kept_scores.digest_of(tensor.numpy()) for name, tensor in state.items()})

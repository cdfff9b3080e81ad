"""A problem and its selection as files, so that the machine with the images and the one with the QPU account may differ.

problem.bqm is dimod's own format, its variables the units; problem.json next to it says whose they are and what is asked. Both,
and the selection that comes back, are data from strangers: bounded, validated, never code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from qcompress import processor
from qcompress.alignment import Alignment, aligned_budget
from qcompress.bqm_file import decode
from qcompress.budgets import BUDGETS, Budget, budget, cost_within
from qcompress.errors import PlanError, UsageError
from qcompress.files import write_bytes, write_text
from qcompress.groups import Groups, Layer, LayerKind, Side, in_blocks
from qcompress.plans import Name, PlanGroup, Source
from qcompress.problem import LARGEST_CROSS, Problem
from qcompress.reports import QpuFacts
from qcompress.selection import Selection, UnitSpace

__all__ = [
    "Ask",
    "CertificateRecord",
    "ProblemFile",
    "SelectionFile",
    "read_problem",
    "read_selection",
    "write_problem",
    "write_selection",
]

LARGEST_JSON = 64 * 2**20
LARGEST_BQM = 512 * 2**20
LARGEST_MATRICES = 2**29  # bytes of all groups' couplings: a file as large as LARGEST_BQM has 341 MiB of them
_AGAIN = "make it again with qcompress formulate"

Sha = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=0, lt=2**31)]
Energy = Annotated[float, Field(allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Coefficients = Annotated[dict[Name, Energy], Field(max_length=100)]
Shares = Annotated[dict[Name, Annotated[float, Field(ge=0, le=1)]], Field(max_length=1000)]
Multiples = Annotated[dict[Name, Annotated[int, Field(ge=1, lt=2**31)]], Field(max_length=1000)]
T = TypeVar("T", bound=BaseModel)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)


class GroupRecord(_Record):
    """A coupled group of `size` units, of which `floor` stay at least; a unit owns `width` channels, see `Groups.widths`.

    At most `ceiling` units stay, if it is there, and channels in multiples of `multiple`, where not 0: see `protection`.
    """

    name: Name
    size: Annotated[int, Field(ge=1, le=2**16)]
    floor: Annotated[int, Field(ge=0, le=2**16)]
    width: Annotated[int, Field(ge=1, lt=2**20)] = 1
    ceiling: Annotated[int, Field(ge=0, le=2**16)] | None = None
    multiple: Annotated[int, Field(ge=0, lt=2**31)] = 0


class LayerRecord(_Record):
    """What decides a layer's cost, see `qcompress.groups.Layer`; `less_in`, `less_out`: channels that a group's unit frees."""

    kind: LayerKind
    inputs: Size
    outputs: Size
    kernel: Size
    positions: Annotated[int, Field(ge=0, lt=2**60)]
    bias: bool
    divisions: Annotated[int, Field(ge=1, lt=2**31)]
    less_in: Annotated[dict[Name, Annotated[int, Field(ge=1, lt=2**20)]], Field(max_length=1000)]
    less_out: Annotated[dict[Name, Annotated[int, Field(ge=1, lt=2**20)]], Field(max_length=1000)]


class Ask(_Record):
    """What the selection is to meet: the share `sparsity` of a budget, in multiples of `align` (None: auto).

    With `at_most`, so much of the budget's cost is to stay at most, and the share does not count. The patterns are those of
    `settings.SearchOptions`: what they say of the groups is in these, and they go along for the run that takes the selection.
    """

    budget: Annotated[str, Field(pattern=f"^({'|'.join(BUDGETS)})$")]
    sparsity: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
    align: Annotated[int, Field(ge=1, le=2**16)] | None
    at_most: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    keep: Shares = {}
    keep_at_most: Shares = {}
    multiple_of: Multiples = {}

    @model_validator(mode="after")
    def _of_a_cost(self) -> Self:
        if self.at_most is not None and self.budget == "filters":
            raise ValueError("what is to stay at most is a cost, not filters")
        return self


class Provenance(_Record):
    """Where the problem comes from: its objective, hashes of the scores and of the calibration images, the metric, the seed."""

    scores: Sha
    images: Sha
    objective: Name
    coefficients: Coefficients = {}
    metric: Name
    seed: Seed


class CertificateRecord(_Record):
    """What is proven about the energy, see `qcompress.search_certificate.Certificate`."""

    bound: Energy
    gap: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    relative_gap: Annotated[float, Field(ge=0, le=1)] | None
    exact_groups: Size
    groups: Size


class ProblemFile(_Record):
    """problem.json: the units behind the variables of problem.bqm (whose hash it holds), their costs, what is asked."""

    schema_version: Literal[1] = Field(default=1, validation_alias="schema", serialization_alias="schema")
    kind: Literal["qcompress problem"] = "qcompress problem"
    tool: Name
    checkpoint: Source
    bqm: Sha
    groups: Annotated[tuple[GroupRecord, ...], Field(max_length=100_000)]
    layers: Annotated[tuple[LayerRecord, ...], Field(max_length=100_000)]
    ask: Ask
    provenance: Provenance

    @model_validator(mode="after")
    def _sound(self) -> Self:
        names = [group.name for group in self.groups]
        if len(set(names)) != len(names):
            raise ValueError("two groups have the same name")
        if any(group.floor > group.size for group in self.groups):
            raise ValueError("a group keeps more units than it has")
        if any(group.ceiling is not None and group.floor > group.ceiling for group in self.groups):
            raise ValueError("a group keeps more units than it may")
        if 8 * sum(group.size**2 for group in self.groups) > LARGEST_MATRICES:
            raise ValueError("the groups are too large")
        known = set(names)
        if any(not known.issuperset({*layer.less_in, *layer.less_out}) for layer in self.layers):
            raise ValueError("a layer names a group that there is not")
        return self

    @property
    def space(self) -> UnitSpace:
        """The units."""
        columns = ((group.name, group.size, group.floor) for group in self.groups)
        names, sizes, floors = zip(*columns, strict=True) if self.groups else ((), (), ())
        return UnitSpace(tuple(names), tuple(sizes), tuple(floors))

    @property
    def asked(self) -> tuple[Budget, Alignment]:
        """The budget that is asked for, and the counts allowed to meet it. Raises UsageError where it cannot be met."""
        ask = self.ask

        def at(block: int) -> Budget:
            if ask.at_most is not None:  # of single channels, as `asking.asked` has it
                return cost_within(ask.budget, ask.at_most, self.space, partial(self._cost, ask.budget, align=1))
            params, macs = partial(self._cost, "params", align=1), partial(self._cost, "macs", align=block)
            additive = partial(macs, additive=True) if block > 1 else None
            return budget(ask.budget, ask.sparsity, self.space, params, macs, block=block, additive_macs=additive)

        widths, multiples = (tuple(getattr(group, name) for group in self.groups) for name in ("width", "multiple"))
        ceilings = tuple(group.size if group.ceiling is None else group.ceiling for group in self.groups)
        return aligned_budget(ask.align, at, widths, processor.block(), multiples, ceilings)

    @property
    def target(self) -> Budget:
        """The budget of `asked`."""
        return self.asked[0]

    def _cost(self, name: str, counts: Mapping[str, int], *, align: int, additive: bool = False) -> int:
        """As `Groups.params` and `Groups.macs` are."""

        def computed(dense: int, less: Mapping[str, int]) -> int:
            kept = dense - sum(counts.get(group, 0) * channels for group, channels in less.items())
            return in_blocks(kept, 1 if additive and len(less) > 1 else align)

        total = 0
        for layer in self.layers:
            sizes = layer.inputs, layer.outputs, layer.kernel, layer.positions, layer.bias, layer.divisions
            inputs, outputs = computed(layer.inputs, layer.less_in), computed(layer.outputs, layer.less_out)
            total += getattr(Layer("", layer.kind, *sizes), name)(inputs, outputs)
        return total


class SelectionFile(_Record):
    """selection.json: which units of whose network go, how that was found, what was asked, and what is proven."""

    schema_version: Literal[1] = Field(default=1, validation_alias="schema", serialization_alias="schema")
    kind: Literal["qcompress selection"] = "qcompress selection"
    tool: Name
    checkpoint: Source
    groups: Annotated[dict[Name, PlanGroup], Field(max_length=100_000)]
    ask: Ask
    asked: Annotated[int, Field(ge=0, lt=2**63)]
    capacity: Annotated[int, Field(ge=0, lt=2**63)]
    energy: Energy
    greedy_energy: Energy
    certificate: CertificateRecord | None = None
    objective: Name
    coefficients: Coefficients = {}
    backend: Name
    seed: Seed
    problem: Sha
    qpu: QpuFacts | None = None

    @model_validator(mode="after")
    def _proven(self) -> Self:
        proven = self.certificate
        if proven and abs(self.energy - proven.bound - proven.gap) > 1e-6 * max(abs(self.energy), abs(proven.bound), 1e-6):
            raise ValueError("the certificate is of another energy")
        return self

    def selection(self, space: UnitSpace, sha256: str) -> Selection:
        """The selection in `space`, of the checkpoint of that hash.

        Raises PlanError where the checkpoint or its groups are others, or a group would fall below its floor.
        """
        if sha256 != self.checkpoint.sha256:
            raise PlanError(
                f"the selection is of {self.checkpoint.file} with sha256 {self.checkpoint.sha256[:12]}, this is {sha256[:12]}",
                "give the checkpoint that the problem was formulated for",
            )
        own = {name: group.size for name, group in self.groups.items()}
        other = dict(zip(space.groups, space.sizes, strict=True))
        if own != other:
            name = next(name for name in (*own, *other) if own.get(name) != other.get(name))
            raise PlanError(
                f"group {name} has {own.get(name, 0)} units in the selection and {other.get(name, 0)} in the network",
                "use the --ignore of the formulate run",
            )
        try:
            pruned = sorted(space.span(name).start + unit for name, group in self.groups.items() for unit in group.pruned)
            return Selection(space, tuple(pruned))
        except ValueError as error:
            raise PlanError(f"the selection cannot be used: {error}", "use the --floor of the formulate run") from error


def layer_records(groups: Groups) -> tuple[LayerRecord, ...]:
    """The costs of a traced network, without its channels."""
    return tuple(
        LayerRecord(
            kind=layer.kind,
            inputs=layer.inputs,
            outputs=layer.outputs,
            kernel=layer.kernel,
            positions=layer.positions,
            bias=layer.bias,
            divisions=layer.divisions,
            less_in=_freed(groups, layer, "in"),
            less_out=_freed(groups, layer, "out"),
        )
        for layer in groups.layers
    )


def _freed(groups: Groups, layer: Layer, side: Side) -> dict[str, int]:
    """Per group, the channels of a side of the layer that one of its units owns."""
    dense = groups.kept_channels(layer, side, {})
    freed = {group.name: dense - groups.kept_channels(layer, side, {group.name: 1}) for group in groups.groups}
    return {name: channels for name, channels in freed.items() if channels}


def write_problem(
    problem: Problem, path: Path, *, widths: tuple[int, ...] = (), alignment: Alignment | None = None, **facts: Any
) -> ProblemFile:
    """problem.bqm at `path` and its JSON beside it; `facts` are the other fields of `ProblemFile`.

    `widths` are the channels that a unit of each group owns, one where it is empty; ceilings and multiples of single groups are
    those of `alignment`. Raises OutputError, and UsageError for a problem that is too large for the file.
    """
    with problem.to_bqm().to_file() as file:
        data = file.read()
    space = problem.space
    every, own = len(space.groups), alignment or Alignment(space)
    ceilings: tuple[int | None, ...] = own.ceilings or (None,) * every
    multiples = own.multiples or (0,) * every
    columns = zip(space.groups, space.sizes, space.floors, widths or (1,) * every, ceilings, multiples, strict=True)
    try:
        groups = tuple(
            GroupRecord(name=name, size=size, floor=floor, width=width, ceiling=ceiling, multiple=multiple)
            for name, size, floor, width, ceiling, multiple in columns
        )
        record = ProblemFile(bqm=hashlib.sha256(data).hexdigest(), groups=groups, **facts)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise UsageError(f"the problem does not fit into a file: {reason}", "prune it here, with `qcompress prune`") from error
    write_bytes(path, data)
    write_text(path.with_suffix(".json"), _text(record))
    return record


def write_selection(record: SelectionFile, path: Path) -> None:
    """Raises OutputError."""
    write_text(path, _text(record))


@dataclass(frozen=True, eq=False)
class KnownProblem:
    """A problem as read, and what its JSON says."""

    problem: Problem
    record: ProblemFile


def read_problem(path: Path) -> KnownProblem:
    """The problem in `path` (problem.bqm) and in the JSON beside it.

    Raises PlanError: missing, too large, damaged, not of one another, or couplings between too many units.
    """
    if path.suffix == ".json":
        raise PlanError(f"{path}: expected the file beside it, such as {path.with_suffix('.bqm').name}", "give problem.bqm")
    data = _bounded(path, LARGEST_BQM)
    record = _parse(path.with_suffix(".json"), ProblemFile)
    if hashlib.sha256(data).hexdigest() != record.bqm:
        raise PlanError(f"{path}: not the file that {path.with_suffix('.json').name} was written for", _AGAIN)
    return KnownProblem(_decode(path, data, record.space), record)


def read_selection(path: Path) -> SelectionFile:
    """Raises PlanError: missing, too large, damaged."""
    return _parse(path, SelectionFile)


def _decode(path: Path, data: bytes, space: UnitSpace) -> Problem:
    try:
        model = decode(data)
        if len(model.labels) != len(space):
            raise ValueError(f"{len(model.labels)} variables, expected {len(space)}")
        if model.labels != [[unit.group, unit.number] for unit in space.units]:
            raise ValueError("its variables are not the units, in their order")
        blocks = [np.zeros((size, size)) for size in space.sizes]
        group, other = space.group_of[model.rows], space.group_of[model.columns]
        cross, between = None, group != other
        if between.any():
            if len(space) > LARGEST_CROSS:
                raise ValueError(f"couplings between groups of {len(space)} units, expected at most {LARGEST_CROSS}")
            i, j = model.rows[between], model.columns[between]
            cross = np.zeros((len(space), len(space)))
            cross[i, j] = cross[j, i] = model.values[between]
        for g, (block, span) in enumerate(zip(blocks, space.spans, strict=True)):
            own = (group == g) & ~between
            i, j = model.rows[own] - span.start, model.columns[own] - span.start
            block[i, j] = block[j, i] = model.values[own]
        return Problem(space, model.linear, tuple(blocks), cross)
    except ValueError as error:
        raise PlanError(f"{path}: not a problem that can be used: {_one_line(error)}", _AGAIN) from error


def _parse(path: Path, kind: type[T]) -> T:
    data = _bounded(path, LARGEST_JSON)
    try:
        return kind.model_validate_json(data)
    except (ValidationError, RecursionError) as error:
        reason = _one_line(error)
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False)[0]
            reason = f"{'.'.join(str(part) for part in first['loc'])[:120] or 'the file'}: {first['msg']}"
        word, again = ("problem", _AGAIN) if kind is ProblemFile else ("selection", "make it again with qcompress solve")
        raise PlanError(f"{path}: not a {word} of schema 1: {reason.encode('unicode_escape').decode()}", again) from error


def _bounded(path: Path, most: int) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise PlanError(f"{path}: is not a file", "give problem.bqm, or selection.json")
        with path.open("rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, PlanError):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PlanError(f"{path}: cannot be read: {reason}", "check the path and its permissions") from error
    if len(data) > most:
        raise PlanError(f"{path}: larger than {most // 2**20} MiB", _AGAIN)
    return data


def _one_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _text(record: BaseModel) -> str:
    return record.model_dump_json(by_alias=True, indent=2) + "\n"

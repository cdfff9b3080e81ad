"""The plan: what was decided about a network, as bounded plain data that can be read back, checked and re-applied."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import from_json

from qcompress._version import __version__
from qcompress.errors import PlanError
from qcompress.files import write_text
from qcompress.groups import Cut, Groups
from qcompress.selection import Selection, UnitSpace
from qcompress.widths import WIDTHS

__all__ = ["Name", "Plan", "PlanCut", "PlanGroup", "Source", "read", "write"]

SCHEMA = 1
_LARGEST_BYTES = 16 * 2**20
_AGAIN = "make it again with qcompress prune"
_LATER: dict[str, Any] = {"ignore": [], "floor": 1, "widths": {}}  # fields that plans of earlier versions lack


def _ascending(channels: tuple[int, ...]) -> tuple[int, ...]:
    if any(a >= b for a, b in pairwise(channels)):
        raise ValueError("must be ascending and without repetition")
    return channels


def _printable(name: str) -> str:
    if not name.isprintable():
        raise ValueError("must be printable")
    return name


def _finite(arguments: dict[str, JsonValue]) -> dict[str, JsonValue]:
    json.dumps(arguments, allow_nan=False)
    return arguments


def _width(name: str) -> str:
    if name not in WIDTHS:
        raise ValueError(f"must be one of {', '.join(WIDTHS)}")
    return name


Channels = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**20)], ...], AfterValidator(_ascending)]
Name = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_printable)]
WidthName = Annotated[str, Field(max_length=20), AfterValidator(_width)]
Word = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)


class Source(_Record):
    """The checkpoint that a plan is for: its file's name (no folder) and hash, and how its network is built."""

    file: Annotated[str, Field(max_length=255, pattern=r"^[^/\\]+$"), AfterValidator(_printable)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    architecture: Word
    arguments: Annotated[dict[str, JsonValue], Field(max_length=100), AfterValidator(_finite)]


class PlanGroup(_Record):
    """A coupled group: how many units it has, and the numbers of those that go."""

    size: Annotated[int, Field(ge=1, le=2**20)]
    pruned: Channels

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if self.pruned and self.pruned[-1] >= self.size:
            raise ValueError(f"unit {self.pruned[-1]} is outside 0..{self.size - 1}")
        return self


class PlanCut(_Record):
    """The channels that a layer keeps at each side; None means all."""

    kept_out: Annotated[Channels, Field(min_length=1)] | None = Field(validation_alias="out", serialization_alias="out")
    kept_in: Annotated[Channels, Field(min_length=1)] | None = Field(validation_alias="in", serialization_alias="in")


class Plan(_Record):
    """What is removed from which network, and how that was chosen. Layers and groups by name; no weights, no code, no paths.

    `widths` are those of the layers that the ONNX file does not hold in float32; the weights beside a plan are float32.
    """

    schema_version: Literal[1] = Field(default=1, validation_alias="schema", serialization_alias="schema")
    tool: Word
    checkpoint: Source
    groups: Annotated[dict[Name, PlanGroup], Field(max_length=100_000)]
    cuts: Annotated[dict[Name, PlanCut], Field(max_length=100_000)]
    example_shape: Annotated[tuple[Annotated[int, Field(ge=1, le=2**20)], ...], Field(min_length=1, max_length=8)]
    budget: Word
    sparsity: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
    objective: Word
    backend: Word
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    ignore: Annotated[tuple[Word, ...], Field(max_length=1000)] = ()
    floor: Annotated[int, Field(ge=1, le=2**20)] = 1
    widths: Annotated[dict[Name, WidthName], Field(max_length=100_000)] = {}

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Fields that came later are written where they say something, so that earlier plans keep their hash."""
        data: dict[str, Any] = handler(self)
        return {name: value for name, value in data.items() if not (name in _LATER and value == _LATER[name])}

    @classmethod
    def of(
        cls,
        source: Source,
        groups: Groups,
        selection: Selection,
        *,
        budget: str,
        sparsity: float,
        objective: str,
        backend: str,
        seed: int,
        ignore: tuple[str, ...] = (),
        widths: Mapping[str, str] | None = None,
    ) -> Plan:
        """The plan that prunes `selection` from the network of `groups`; the rest says how it was chosen.

        `ignore` holds the patterns that the groups were traced with.
        """
        cuts = {name: PlanCut(kept_out=cut.kept_out, kept_in=cut.kept_in) for name, cut in groups.cuts(selection).items()}
        return cls(
            tool=f"qcompress {__version__}",
            checkpoint=source,
            groups={group.name: PlanGroup(size=group.size, pruned=selection.removed(group.name)) for group in groups.groups},
            cuts=cuts,
            example_shape=groups.example_shape,
            budget=budget,
            sparsity=sparsity,
            objective=objective,
            backend=backend,
            seed=seed,
            ignore=ignore,
            floor=groups.floor,
            widths=dict(widths or {}),
        )

    @property
    def layer_cuts(self) -> dict[str, Cut]:
        """The cuts as `surgery.slim` takes them."""
        return {name: Cut(cut.kept_out, cut.kept_in) for name, cut in self.cuts.items()}

    @property
    def sha256(self) -> str:
        """Of the canonical JSON: keys sorted, no blanks, UTF-8. Independent of how the file is laid out."""
        data = self.model_dump(mode="json", by_alias=True)
        canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def selection(self, space: UnitSpace) -> Selection:
        """The pruned units as a selection in `space`.

        Raises:
            PlanError: the groups of `space` are others, or one would fall below its floor.

        """
        own = {name: group.size for name, group in self.groups.items()}
        other = dict(zip(space.groups, space.sizes, strict=True))
        if own != other:
            name = next(name for name in (*own, *other) if own.get(name) != other.get(name))
            message = f"group {name} has {own.get(name, 0)} units in the plan and {other.get(name, 0)} in the network"
            raise PlanError(message, "is it the plan of another network, or traced with another --ignore?")
        pruned = (space.span(name).start + unit for name, group in self.groups.items() for unit in group.pruned)
        try:
            return Selection(space, tuple(sorted(pruned)))
        except ValueError as error:
            raise PlanError(f"the plan cannot be used: {error}", _AGAIN) from error

    def to_json(self) -> str:
        """As it is written: keys in order, indented, lists of numbers on one line."""
        text = json.dumps(self.model_dump(mode="json", by_alias=True), indent=2, ensure_ascii=False, allow_nan=False)
        return re.sub(r"\[\n\s+\d+(?:,\n\s+\d+)*\n\s+\]", lambda numbers: " ".join(numbers[0].split()), text) + "\n"


def read(path: str | Path) -> Plan:
    """Read a plan from a file.

    Raises:
        PlanError: missing, unreadable, larger than 16 MiB, not JSON, not a plan, of a later schema, or with impossible values.

    """
    path = Path(path)
    data = _read_bounded(path)
    try:
        value = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise PlanError(f"{path}: not JSON: {error}", "expected the plan.json that qcompress prune writes") from error
    schema = value.get("schema") if isinstance(value, dict) else None
    if schema is None:
        raise PlanError(f"{path}: JSON, but not a plan: it has no schema", "expected the plan.json that qcompress prune writes")
    if isinstance(schema, int) and schema > SCHEMA:
        shown = schema if schema < 10**6 else "of a huge number"
        raise PlanError(f"{path}: schema {shown} is from a later version, expected {SCHEMA}", "upgrade qcompress")
    try:
        return Plan.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:120].encode("unicode_escape").decode()
        raise PlanError(f"{path}: damaged plan: {where}: {first['msg']}", _AGAIN) from error


def _read_bounded(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise PlanError(f"{path}: is not a file", "give the plan.json inside the folder")
        with path.open("rb") as file:
            data = file.read(_LARGEST_BYTES + 1)
    except PlanError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PlanError(f"{path}: cannot be read: {reason}", "check the path and its permissions") from error
    if len(data) > _LARGEST_BYTES:
        raise PlanError(f"{path}: larger than {_LARGEST_BYTES // 2**20} MiB, which no plan is", _AGAIN)
    return data


def write(plan: Plan, path: str | Path) -> None:
    """Write `plan` to `path`, whole or not at all. Raises OutputError."""
    write_text(path, plan.to_json())

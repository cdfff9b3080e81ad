"""A training on disk: weights, their average, the best so far, the optimiser's moments, and where it stands.

One safetensors file, written aside and renamed: plain arrays, and the rest as JSON in its header; no code. The header has the
facts that the training depends on, so that a file of another one is refused, and named.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from qcompress.errors import CheckpointError, ResumeError
from qcompress.files import write_bytes
from qcompress.finetune.contract import ENDINGS, Ended
from qcompress.weights import read_safetensors

__all__ = ["State", "Tensors", "Trial", "facts_of", "file_of", "files", "forget", "read", "write"]

_FAMILY = "qcompress finetune "
_FORMAT = f"{_FAMILY}3"
_PARTS = ("weights", "average", "best", "first", "second")
_PATTERN = ".finetune-*.safetensors"

Tensors = dict[str, Tensor]
"""Parameters, or what belongs to each of them, by the parameters' names."""


class Trial(NamedTuple):
    """A short training: its highest rate, the teacher's share, what came of it, its part of the length, its seconds."""

    rate: float
    teaching: float
    value: float
    part: float
    seconds: float


@dataclass(frozen=True, eq=False)
class State:
    """Where a training stands between two measurements, or between two trials: then at the network of the best one so far.

    weights, average, best  the parameters in training, their average, and the average that measured best
    first, second           moments of the gradients, of those parameters that had some; Muon has no second ones
    step, seconds           steps of the optimiser, and of the clock, so far
    begun                   step and seconds at which the schedule began: after the trials
    rate, teaching          the highest of the schedule, and the teacher's share; None while they are still to be tried
    typical                 running mean of the gradients' norm
    value, best_step        of `best`, and when it was measured; `stale`: measurements in a row without a better one
    history                 (step, value) of every measurement, the start first
    tried                   the trials so far
    """

    weights: Tensors
    average: Tensors
    best: Tensors
    value: float
    history: tuple[tuple[int, float], ...]
    first: Tensors = field(default_factory=dict)
    second: Tensors = field(default_factory=dict)
    step: int = 0
    seconds: float = 0.0
    begun: tuple[int, float] = (0, 0.0)
    rate: float | None = None
    teaching: float | None = None
    typical: float = 0.0
    best_step: int = 0
    stale: int = 0
    tried: tuple[Trial, ...] = ()
    ended: Ended | None = None

    @property
    def spent(self) -> float:
        """Share of the training that the trials took: 0 to 1."""
        return sum(trial.part for trial in self.tried)

    def to(self, device: torch.device | str) -> State:
        """The same, its tensors copied to `device`."""
        parts = {part: {name: t.detach().clone().to(device) for name, t in getattr(self, part).items()} for part in _PARTS}
        return replace(self, **parts)  # type: ignore[arg-type]


def file_of(folder: Path, number: int) -> Path:
    """Where the training of pruning step `number`, from 1, is kept in `folder`."""
    return folder / _PATTERN.replace("*", str(number))


def files(folder: Path) -> list[Path]:
    """The trainings that are kept in `folder`."""
    return sorted(folder.glob(_PATTERN))


def forget(folder: Path) -> None:
    """Removes them: the run is done."""
    for path in files(folder):
        path.unlink(missing_ok=True)


def write(path: Path, state: State, facts: Mapping[str, str]) -> None:
    """Writes `state`, whole or not at all. Raises OutputError."""
    tensors = {
        f"{part}/{name}": tensor.detach().cpu().contiguous().clone()
        for part in _PARTS
        for name, tensor in getattr(state, part).items()
    }
    numbers = {name: value for name, value in vars(state).items() if name not in _PARTS}
    header = {"format": _FORMAT, "of": json.dumps(dict(facts)), "state": json.dumps(numbers)}
    write_bytes(path, safetensors.torch.save(tensors, header))


def facts_of(path: Path) -> dict[str, str]:
    """The facts that the training in `path` was written with. Raises ResumeError: it is damaged, or of another version."""
    with _sound(path) as (_, header):
        return {str(name): str(value) for name, value in json.loads(header["of"]).items()}


def read(path: Path, shapes: Mapping[str, torch.Size], by_muon: Collection[str] = ()) -> State:
    """The training in `path`, of parameters of these shapes; `by_muon` are those that have no second moment.

    Raises:
        ResumeError: the file is damaged, or of another version.

    """
    with _sound(path) as (tensors, header):
        parts: dict[str, Tensors] = {part: {} for part in _PARTS}
        for name, tensor in tensors.items():
            part, _, parameter = name.partition("/")
            parts[part][parameter] = tensor
        state = _state(parts, json.loads(header["state"]))
        _check(state, shapes, by_muon)
        return state


@contextmanager
def _sound(path: Path) -> Iterator[tuple[Tensors, Mapping[str, str]]]:
    """The tensors and the header of a file of this version; whatever does not hold in them raises ResumeError."""
    hint = f"to begin anew, remove {path}"
    try:
        tensors, header = read_safetensors(path)
        if header["format"] != _FORMAT:
            if header["format"].startswith(_FAMILY):
                raise ResumeError(f"{path} is of another version of qcompress", hint)
            raise ValueError(f"its format is {header['format'][:40]!r}")
        yield tensors, header
    except (CheckpointError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, ResumeError):
            raise
        raise ResumeError(f"{path} is damaged: {' '.join(str(error).split())[:200]}", hint) from error


def _state(parts: dict[str, Tensors], found: Mapping[str, Any]) -> State:
    """The tensors, with what the header says, each of its type."""
    if found["ended"] not in (None, *ENDINGS):
        raise ValueError(f"ended is {str(found['ended'])[:40]!r}")
    step, seconds = found["begun"]
    return State(
        weights=parts["weights"],
        average=parts["average"],
        best=parts["best"],
        first=parts["first"],
        second=parts["second"],
        value=float(found["value"]),
        history=tuple((int(at), float(value)) for at, value in found["history"]),
        step=int(found["step"]),
        seconds=float(found["seconds"]),
        begun=(int(step), float(seconds)),
        rate=None if found["rate"] is None else float(found["rate"]),
        teaching=None if found["teaching"] is None else float(found["teaching"]),
        typical=float(found["typical"]),
        best_step=int(found["best_step"]),
        stale=int(found["stale"]),
        tried=tuple(Trial(*map(float, trial)) for trial in found["tried"]),
        ended=found["ended"],
    )


def _check(state: State, shapes: Mapping[str, torch.Size], by_muon: Collection[str]) -> None:
    """Raises ValueError for tensors that are not those of the network, and trials that took more than all of its length."""
    for part in _PARTS:
        found = {name: tensor.shape for name, tensor in getattr(state, part).items()}
        moments = part in ("first", "second")
        if any(shapes.get(name) != shape for name, shape in found.items()) or (not moments and found.keys() != shapes.keys()):
            raise ValueError(f"its {part} do not fit the network")
    if not 0 <= state.spent <= 1:
        raise ValueError("its trials are not a part of the training")
    if state.second.keys() != state.first.keys() - set(by_muon):
        raise ValueError("its moments are not of the same parameters")

"""The rounds of a latency target on disk: times are never measured alike twice, and a run that goes on must choose alike.

One JSON file of numbers. What comes back is data from a stranger: bounded, validated, and used only where every round follows
from those before by the rules of `qcompress.rounds`.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qcompress.files import write_text
from qcompress.rounds import LOOKS, MOST, Goal, Measured, Round, consistent

__all__ = ["FILE", "forget", "keep", "recall"]

FILE = ".rounds.json"
"""In the output folder, until the run has nothing left to do."""

_LARGEST_BYTES = 2**16

Picoseconds = Annotated[int, Field(gt=0, lt=2**63)]
Positive = Annotated[float, Field(ge=1e-9, le=1e12, allow_inf_nan=False)]
"""Wider than any clock, and so that no quotient of them overflows."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Measured(_Record):
    speedup: Positive
    ci95: tuple[Positive, Positive]
    dense_ms: Positive
    runs: Annotated[int, Field(ge=1, lt=2**31)]


class _Round(_Record):
    allowed_ps: Picoseconds
    predicted_ps: Picoseconds
    looks: Annotated[tuple[_Measured, ...], Field(min_length=1, max_length=LOOKS)]

    def round(self) -> Round:
        """As it was measured."""
        return Round(self.allowed_ps, self.predicted_ps, tuple(Measured(**look.model_dump()) for look in self.looks))


class _Rounds(_Record):
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    rounds: Annotated[tuple[_Round, ...], Field(min_length=1, max_length=MOST)]


def keep(path: Path, key: str, rounds: tuple[Round, ...]) -> None:
    """Writes the rounds under `key`, which names all that they depend on. Raises OutputError."""
    record = _Rounds(key=key, rounds=tuple(_Round.model_validate(asdict(made)) for made in rounds))
    write_text(path, record.model_dump_json() + "\n")


def recall(path: Path, key: str, goal: Goal) -> tuple[Round, ...] | None:
    """The rounds kept under `key`; None where there are none, or they do not hold."""
    try:
        with path.open("rb") as file:
            record = _Rounds.model_validate_json(file.read(_LARGEST_BYTES))
    except (OSError, ValidationError, RecursionError):
        return None
    rounds = tuple(made.round() for made in record.rounds)
    return rounds if record.key == key and consistent(goal, rounds) else None


def forget(folder: Path) -> None:
    """Removes what was kept to go on from."""
    (folder / FILE).unlink(missing_ok=True)

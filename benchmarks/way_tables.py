"""What the tables of the benchmarks share: records from their files, medians with their range, a row for each way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from selection_networks import NETWORKS

__all__ = ["Measured", "Show", "dense", "failures", "read", "spread", "table"]

T = TypeVar("T")


class Measured(Protocol):
    """What a record says of itself; `failed` is the reason where there is nothing else, `dense` the dense network's metric."""

    @property
    def way(self) -> str: ...

    @property
    def seed(self) -> int: ...

    @property
    def dense(self) -> float: ...

    @property
    def failed(self) -> str | None: ...


R = TypeVar("R", bound=Measured)
Show = Callable[[Sequence[R]], str]
"""The text of a cell, of the records of one way: one for each seed."""


def read(out: Path, parse: Callable[[str], T]) -> list[T]:
    """Every record under `out`, network by network, in the order of the files' names."""
    files = (path for name in NETWORKS for path in sorted((out / name).glob("*.json")))
    return [parse(path.read_text(encoding="utf-8")) for path in files]


def spread(values: Sequence[float], digits: int = 2, *, signed: bool = True) -> str:
    """Median, and the range in brackets where it has some width; nothing of no values."""
    if not values:
        return ""
    sign = "+" if signed else ""
    middle, least, largest = (f"{value:{sign}.{digits}f}" for value in (np.median(values), min(values), max(values)))
    return middle if least == largest else f"{middle} [{least}, {largest}]"


def dense(records: Iterable[Measured]) -> str:
    """The dense network's metric over the seeds."""
    return spread(list({record.seed: record.dense for record in records}.values()), signed=False)


def table(ways: Iterable[str], measured: Sequence[R], columns: Mapping[str, Show[R]]) -> list[str]:
    """Lines of Markdown: a row for each way that was measured, in the order of `ways`; the way itself is the first column."""
    lines = [f"| way | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for way in ways:
        found = [record for record in measured if record.way == way]
        if found:
            lines.append(f"| {way} | {' | '.join(show(found) for show in columns.values())} |")
    return lines


def failures(records: Iterable[Measured]) -> list[str]:
    """Lines of Markdown: what could not be measured, and why."""
    return sorted({f"- failed: {record.way}, seed {record.seed}: {record.failed}" for record in records if record.failed})

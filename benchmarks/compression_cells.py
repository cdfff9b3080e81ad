"""One cell of the compression benchmark: network, size, widths, way and seed; and what is recorded of it."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compression_bench import MEASURED, Evaluator, Known, folded, treated
from compression_ways import SETS, WAYS
from pydantic import Field
from selection_bench import Bench
from selection_cells import Outcome

__all__ = ["Compressed", "Record"]


class Record(Outcome):
    """A cell. `value` is the metric on the report images after the full treatment, `dense` that of the dense network.

    selection    what searches climb on, of the choice, and `selection_dense` of the dense network: higher is better
    bytes        of the file, of at most `most`; dense_bytes  of the dense network's in float32
    energy       the measured losses of units and widths added up; None where the units are others than the profiles'
    seconds      what was measured before, as far as the way needs it, by name; "choose"; "treat", the same for all ways
    pruned       units per group;  layers  widths
    """

    network: str
    way: str
    seed: int
    widths: str
    share: float
    evaluations: int
    metric: str = ""
    unit: str = ""
    device: str = ""
    dense: float = 0.0
    value: float = 0.0
    selection: float | None = None
    selection_dense: float = 0.0
    bytes: int = 0
    most: int = 0
    dense_bytes: int = 0
    asked: int = 0
    energy: float | None = None
    seconds: dict[str, float] = Field(default_factory=dict)
    pruned: dict[str, int] = Field(default_factory=dict)
    units: int = 0
    layers: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class Compressed:
    """What identifies a record; `evaluations` are those of a search."""

    network: str
    way: str
    seed: int
    widths: str
    share: float
    evaluations: int

    def path(self, out: Path) -> Path:
        """The file of its record in the folder `out`."""
        way = re.sub(r"[^a-z0-9.]+", "-", self.way.lower()).strip("-")
        return out / self.network / f"{way}_{self.widths}_{self.share:g}_{self.evaluations}_seed{self.seed}.json"

    def failure(self, reason: str) -> Record:
        """The record of a cell that could not be measured."""
        return Record(failed=reason, **self._named())

    def _named(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def measure(self, bench: Bench) -> Record:
        """Chooses, treats, reports. Raises whatever fails."""
        bench, way = folded(bench), WAYS[self.way]
        known = Known(bench, SETS[self.widths], self.share)
        measured = {name: getattr(known, name).seconds for name in MEASURED}  # all of it now, so that no way's choice waits
        before = {name: measured[name] for name in way.needs}
        began = bench.clock()
        chosen = way.choose(known, self.evaluations, self.seed)
        ended = bench.clock()
        size = known.sizes.bytes(chosen.selection.counts, chosen.widths)
        if way.sized and size > known.most:
            raise ValueError(f"{size} bytes were chosen, expected at most {known.most}")
        climbed = Evaluator(known)(chosen.selection, chosen.widths)
        treating = bench.clock()
        value = bench.reported(treated(bench, chosen.selection, chosen.widths))
        return Record(
            **self._named(),
            metric=bench.metric.name,
            unit=bench.metric.difference_unit,
            device=_device(bench),
            dense=bench.dense,
            value=value,
            selection=climbed if np.isfinite(climbed) else None,
            selection_dense=bench.once("dense, selection", lambda: bench.chosen_by(bench.job.model)).value,
            bytes=size,
            most=known.most,
            dense_bytes=known.dense_bytes,
            asked=chosen.evaluations,
            energy=chosen.energy,
            seconds={**before, "choose": ended - began, "treat": bench.clock() - treating},
            pruned=chosen.selection.counts,
            units=len(bench.groups.space),
            layers=dict(chosen.widths),
        )


def _device(bench: Bench) -> str:
    device = torch.device(bench.options.device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"

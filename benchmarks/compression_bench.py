"""What ways of choosing units and widths share: one network with one seed's images, what was measured of it, the treatment.

BatchNorm is folded before anything else, as in a file: grids are laid over folded weights, and all ways begin with the same.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from selection_bench import Bench, Timed
from torch import Tensor, nn

from qcompress import quantise, reconstruction, surgery, tracing
from qcompress.alignment import Alignment
from qcompress.groups import Cut
from qcompress.joint import Sizes
from qcompress.joint.offers import Offers, offers_of
from qcompress.joint.table import State, Table
from qcompress.memo import Memo
from qcompress.quantise import noise
from qcompress.quantise.ranges import Ranges, observe
from qcompress.reconstruction import Eliminated
from qcompress.recover import has_batchnorm
from qcompress.recover.choice import recover_best
from qcompress.recover.moments import affine
from qcompress.recover.static import StaticRepair
from qcompress.selection import Selection
from qcompress.widths import WIDTHS

__all__ = ["ALIGN", "MEASURED", "Evaluator", "Known", "folded", "narrow", "treated"]

ALIGN = 16
"""Kept counts are multiples of it, as `Alignment` has it, for all ways."""

MEASURED = ("moments", "units", "ranges", "widths")
"""What is measured once, by its name in `Known`."""


def folded(bench: Bench) -> Bench:
    """`bench` with a network whose BatchNorm is folded, and that network's groups; itself where there is none."""
    if not has_batchnorm(bench.job.model):
        return bench

    def make() -> Bench:
        model = quantise.fold(bench.job.model, bench.calibration.inputs[:1])
        groups = tracing.trace(copy.deepcopy(model).cpu(), torch.zeros(bench.groups.example_shape))
        return replace(bench, job=replace(bench.job, model=model, groups=groups, memo=Memo()))

    return bench.once("folded", make).value


def narrow(widths: Mapping[str, str]) -> dict[str, str]:
    """Without the layers that stay float32."""
    return {name: width for name, width in widths.items() if width != "float32"}


@dataclass(frozen=True, eq=False)
class Known:
    """A network, the widths that its layers may have, and the bytes that its file may take; measured once per bench.

    A state of `table` has the units of each group that elimination removes first.
    """

    bench: Bench
    allowed: tuple[str, ...]
    share: float

    @cached_property
    def sizes(self) -> Sizes:
        """Of files: parameters, scales and zero points."""
        return Sizes(self.bench.groups)

    @property
    def dense_bytes(self) -> int:
        """Of the dense network's file in float32."""
        return self.sizes.bytes()

    @property
    def most(self) -> int:
        """Bytes that a file may take."""
        return int(self.share * self.dense_bytes)

    @property
    def moments(self) -> Timed[StaticRepair]:
        """Second moments of the inputs of consumers, and the repair by them."""
        return self.bench.once("moments", lambda: self.bench.job.static_repair)

    @property
    def units(self) -> Timed[Eliminated]:
        """What units lose."""
        bench, moments = self.bench, self.moments.value.moments
        return bench.once(
            "units",
            lambda: reconstruction.eliminated(bench.job.model, bench.groups, bench.calibration, bench.metric, moments),
        )

    @property
    def widths(self) -> Timed[dict[str, dict[str, float]]]:
        """What widths lose, in the same unit."""
        bench, moments, ratio = self.bench, self.moments.value.moments, self.units.value.ratio
        return bench.once(
            "widths",
            lambda: noise.measure(
                bench.job.model,
                self.sizes.quantisable,
                WIDTHS,
                bench.calibration,
                bench.metric,
                moments=moments,
                ratio=ratio,
            ),
        )

    @property
    def ranges(self) -> Timed[Ranges]:
        """What layers of the dense network see: the least and the largest value."""
        bench = self.bench
        return bench.once("ranges", lambda: observe(bench.job.model, self.sizes.quantisable, bench.calibration, bench.batch))

    @cached_property
    def alignment(self) -> Alignment:
        """Counts that are allowed."""
        return Alignment(self.bench.groups.space, ALIGN, self.bench.groups.widths)

    @cached_property
    def offers(self) -> Offers:
        """Widths that are allowed."""
        return offers_of(self.sizes, self.widths.value, self.allowed)

    @cached_property
    def table(self) -> Table:
        """All choices, with what they lose."""
        return self.table_of(self.alignment.allowed)

    def table_of(self, counts: Sequence[Sequence[int]]) -> Table:
        """With these counts of pruned units per group."""
        energies = [profile.energies for profile in self.units.value.profiles]
        return Table.of(self.sizes, energies, counts, self.offers.places, self.offers.losses)

    def chosen(self, state: State, table: Table | None = None) -> tuple[Selection, dict[str, str]]:
        """The units and the widths of a state."""
        counts = (table or self.table).counts(state.levels).tolist()
        rows = [profile.rows[k] for profile, k in zip(self.units.value.profiles, counts, strict=True)]
        x: NDArray[np.bool_] = np.concatenate([np.zeros(0, bool), *rows])
        return Selection.of(self.bench.groups.space, x), self.offers.named(state.widths.tolist())


@dataclass(eq=False)
class Evaluator:
    """What searches climb on: cut, statically repaired, weights to their nearest levels, int8 inputs over the dense ranges.

    The mean metric on the selection crops, higher is better. `asked` counts different choices.
    """

    known: Known
    asked: int = 0
    _values: dict[tuple[tuple[int, ...], tuple[str, ...]], float] = field(default_factory=dict)
    _repaired: dict[tuple[str, Cut], tuple[Tensor, Tensor] | None] = field(default_factory=dict)

    def __call__(self, selection: Selection, widths: Mapping[str, str]) -> float:
        """Of a network; what is not a number is worth nothing."""
        key = selection.pruned, tuple(widths.values())
        if key not in self._values:
            self.asked += 1
            value = self.known.bench.chosen_by(self._network(selection, widths))
            self._values[key] = value if np.isfinite(value) else -np.inf
        return self._values[key]

    def of(self, state: State) -> float:
        """Of a state of the table."""
        return self(*self.known.chosen(state))

    def _network(self, selection: Selection, widths: Mapping[str, str]) -> nn.Module:
        cuts = self.known.bench.groups.cuts(selection)
        slim = surgery.slim(self.known.bench.job.model, cuts)
        for name, cut in cuts.items():
            given = self._repair(name, cut)
            if given is not None:
                module = affine(slim, name)
                module.weight, module.bias = (nn.Parameter(tensor, requires_grad=False) for tensor in given)
        return quantise.simulated(slim, narrow(widths), self.known.ranges.value)

    def _repair(self, name: str, cut: Cut) -> tuple[Tensor, Tensor] | None:
        """The refitted layer: with few counts per group, the same few are asked for again and again."""
        if (name, cut) not in self._repaired:
            self._repaired[name, cut] = self.known.moments.value(name, cut)
        return self._repaired[name, cut]


def treated(bench: Bench, selection: Selection, widths: Mapping[str, str]) -> nn.Module:
    """As `compress` makes it, short of the file: cut, repaired, weights on their grids, and simulated.

    Channels are not brought to like ranges first: that is another pass, which did not help networks that were measured.
    """
    job, cuts, judging = bench.job, bench.groups.cuts(selection), bench.once("judging", bench.job.judging).value
    repaired = recover_best(
        "lstsq",
        job.model,
        bench.cut(selection),
        bench.groups,
        cuts,
        bench.calibration,
        judging,
        job.metric.chooser,
        job.static_repair,
        batch=bench.batch,
    )
    own, example = narrow(widths), bench.calibration.inputs[:1]
    found = quantise.prepare(repaired.model, own, example, bench.calibration, job.metric, judging, batch=bench.batch)
    return quantise.simulated(found.model, own, found.ranges, scales=found.scales)

"""How well each objective's energy predicts what a selection costs, over selections near a budget.

Half a hundred selections of one size: from each objective's own choice, ever larger shares of the pruned units are swapped for
random others; and random units at the same counts per group. Each is measured on the report images as cut and after the bias
repair, a third of them after least squares as well, in the metric that choices go by (for classes the cross entropy, since a
share of right answers has too few values). Spearman's and Kendall's rank correlation with the energy, 1 is a perfect order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.stats import kendalltau, spearmanr
from selection_bench import Bench
from selection_cells import Outcome
from selection_networks import NETWORKS
from selection_repair import biased, refitted
from selection_ways import WAYS, Modelled
from way_tables import spread

from qcompress import seeds
from qcompress.problem import Problem
from qcompress.selection import Selection, UnitSpace

__all__ = ["Correlation", "correlation_table", "read_correlations"]

STRENGTHS = (0.0, 0.03, 0.1, 0.3, 0.6)
"""Shares of the pruned units that are swapped."""

AT_COUNTS = 5
"""One in so many selections is random at the counts of a choice."""

REFITTED = 20
"""Selections that are measured after least squares as well."""


class Point(BaseModel):
    """One selection: where it comes from, what each way predicts, what it loses against dense (positive is worse)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    origin: str
    pruned: tuple[int, ...]
    energies: dict[str, float]
    cut: float
    bias: float
    lstsq: float | None


class Points(Outcome):
    """All selections of one network, share and seed."""

    network: str
    sparsity: float
    seed: int
    points: tuple[Point, ...] = ()


@dataclass(frozen=True)
class Correlation:
    """What identifies a file of points. `masks` selections, at any number of channels."""

    network: str
    sparsity: float
    seed: int
    masks: int = 60

    def path(self, out: Path) -> Path:
        """The file in the folder `out`."""
        return out / "correlation" / f"{self.network}_{self.sparsity:g}_{self.masks}_seed{self.seed}.json"

    def failure(self, reason: str) -> Points:
        """What is filed where nothing could be measured."""
        return Points(failed=reason, **self._named())

    def measure(self, bench: Bench) -> Points:
        """Draws the selections and measures them. A way that cannot be formulated here is left out."""
        target, alignment = bench.asked(self.sparsity, 1)
        problems, choices = {}, {}
        for name, way in WAYS.items():
            if isinstance(way, Modelled):
                try:
                    problems[name] = way.problem(bench)
                    choices[name] = way.choose(bench, target, alignment, self.seed).selection
                except Exception as error:  # a peer fails on networks that it cannot follow
                    print(f"{self.network}: {name} is left out: {type(error).__name__}: {error}", flush=True)
        rng = seeds.stream(self.seed, "selection benchmark masks")
        drawn = list(_near(choices, self.masks, rng))
        every = max(1, len(drawn) // REFITTED)
        points = (
            self._point(bench, origin, selection, problems, number % every == 0)
            for number, (origin, selection) in enumerate(drawn)
        )
        return Points(**self._named(), points=tuple(points))

    def _named(self) -> dict[str, Any]:
        named = asdict(self)
        del named["masks"]
        return named

    def _point(self, bench: Bench, origin: str, selection: Selection, problems: dict[str, Problem], refit: bool) -> Point:
        metric = bench.metric.chooser
        dense = bench.once("dense by choice", lambda: bench.reported(bench.job.model, metric)).value
        losses = {
            name: metric.drop(dense, bench.reported(model, metric))
            for name, model in (("cut", bench.cut(selection)), ("bias", biased(bench, selection)))
        }
        refitted_loss = metric.drop(dense, bench.reported(refitted(bench, selection)[0], metric)) if refit else None
        energies = {name: float(problem.energy(selection.x)) for name, problem in problems.items()}
        return Point(origin=origin, pruned=selection.pruned, energies=energies, lstsq=refitted_loss, **losses)


def _near(choices: dict[str, Selection], count: int, rng: np.random.Generator) -> Iterator[tuple[str, Selection]]:
    """`count` selections with where they come from; every choice in turn, at every strength in turn."""
    names = list(choices)
    for number in range(count):
        name = names[number % len(names)]
        if number % AT_COUNTS == AT_COUNTS - 1:
            yield f"random at the counts of {name}", _shuffled(choices[name], rng)
        else:
            strength = STRENGTHS[number // len(names) % len(STRENGTHS)]
            yield f"{name}, {strength:.0%} swapped", _swapped(choices[name], strength, rng)


def _swapped(start: Selection, strength: float, rng: np.random.Generator) -> Selection:
    """`start` with a share of its units put back and as many others pruned; a pair that breaks a floor is left out."""
    x, space = start.x, start.space
    swaps = round(strength * len(start))
    back, gone = (rng.permutation(np.flatnonzero(rows))[:swaps] for rows in (x, ~x))
    for old, new in zip(back.tolist(), gone.tolist(), strict=False):
        x[old], x[new] = False, True
        if not space.allows(x):
            x[old], x[new] = True, False
    return Selection.of(space, x)


def _shuffled(start: Selection, rng: np.random.Generator) -> Selection:
    x = np.zeros(len(start.space), bool)
    for span, count in zip(start.space.spans, _counts(start.space, start.x), strict=True):
        x[span.start + rng.permutation(span.stop - span.start)[:count]] = True
    return Selection.of(start.space, x)


def _counts(space: UnitSpace, x: NDArray[np.bool_]) -> list[int]:
    counts: list[int] = space.counts(x).tolist()
    return counts


def read_correlations(out: Path) -> list[Points]:
    """Everything under `out`, in the order of the files' names."""
    files = sorted((out / "correlation").glob("*.json"))
    return [Points.model_validate_json(path.read_text(encoding="utf-8")) for path in files]


def correlation_table(found: Iterable[Points]) -> str:
    """Rows are networks, shares and ways; medians over seeds of Spearman / Kendall, with ranges."""
    cells: dict[tuple[str, float], list[Points]] = {}
    for points in found:
        if points.failed is None:
            cells.setdefault((points.network, points.sparsity), []).append(points)
    lines = [
        "| network | pruned | way | as cut: Spearman, Kendall | after bias repair | after least squares |",
        "|---|---|---|---|---|---|",
    ]
    for network, share in sorted(cells, key=lambda key: (list(NETWORKS).index(key[0]), key[1])):
        for way in WAYS:
            group = [points for points in cells[network, share] if all(way in point.energies for point in points.points)]
            if group:
                shown = [_correlations([_pairs(points, way, loss) for points in group]) for loss in ("cut", "bias", "lstsq")]
                lines.append(f"| {network} | {share:.0%} | {way} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _pairs(points: Points, way: str, loss: str) -> tuple[list[float], list[float]]:
    """(energies, losses) of the selections that have this loss."""
    known = [(point.energies[way], getattr(point, loss)) for point in points.points if getattr(point, loss) is not None]
    return [energy for energy, _ in known], [value for _, value in known]


def _correlations(pairs: Sequence[tuple[list[float], list[float]]]) -> str:
    spearman = [float(spearmanr(energies, losses).statistic) for energies, losses in pairs]
    kendall = [float(kendalltau(energies, losses).statistic) for energies, losses in pairs]
    return f"{spread(spearman)}, {spread(kendall)}"

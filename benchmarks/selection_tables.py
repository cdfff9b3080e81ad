"""The records of the selection benchmark as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from selection_cells import Draw, Record
from selection_networks import NETWORKS
from selection_ways import WAYS
from way_tables import spread

__all__ = ["markdown"]

Cells = dict[tuple[str, float], list[Record]]


def markdown(records: Iterable[Record]) -> str:
    """One section for each network and block: quality, what is kept, and what it took."""
    sections: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        sections.setdefault((record.network, record.align), []).append(record)
    order = sorted(sections, key=lambda key: (list(NETWORKS).index(key[0]), key[1]))
    return "\n\n".join(_section(network, align, sections[network, align]) for network, align in order)


def _section(network: str, align: int, records: Sequence[Record]) -> str:
    measured = [record for record in records if record.failed is None]
    failures = sorted(
        {f"- failed: {record.way}, {record.sparsity:.0%}: {record.failed}" for record in records if record.failed}
    )
    lines = [f"### {network}, blocks of {align}" if align > 1 else f"### {network}, any number of channels", ""]
    if measured:
        cells: Cells = {}
        for record in measured:
            cells.setdefault((record.way, record.sparsity), []).append(record)
        lines += [_caption(measured), "", *_quality(cells), "", *_kept(cells), "", *_effort(cells)]
    return "\n".join([*lines, *([""] if failures and measured else []), *failures])


def _caption(records: Sequence[Record]) -> str:
    first, by_seed = records[0], {record.seed: record for record in records}
    dense, given = ([getattr(record, name) for record in by_seed.values()] for name in ("dense", "given"))
    unit = "%" if first.unit == "points" else first.unit
    text = f"{first.metric} of the dense network {spread(dense, signed=False)} {unit}"
    if dense != given:
        text += f", before its BatchNorm statistics were re-estimated {spread(given, signed=False)}"
    images, seeds = first.images["report"], len(by_seed)
    kind = f"difference from dense in {first.unit}, as cut / repaired"
    return f"{text}; {images} report images, {seeds} seed{'s' * (seeds > 1)}. Cells: {kind}."


def _table(title: str, cells: Cells, show: Callable[[Sequence[Record]], str], extra: Sequence[str] = ()) -> list[str]:
    """Rows are ways, in the order of `WAYS`; columns are shares of the units."""
    shares = _shares(cells)
    lines = [f"| {title} | " + " | ".join(f"{share:.0%}" for share in shares) + " |", "|---|" + "---|" * len(shares)]
    for way in WAYS:
        if any((way, share) in cells for share in shares):
            shown = [show(cells[way, share]) if (way, share) in cells else "" for share in shares]
            lines.append(f"| {way} | " + " | ".join(shown) + " |")
    return [*lines, *extra]


def _shares(cells: Cells) -> list[float]:
    return sorted({share for _, share in cells})


def _changes(records: Sequence[Record], of: Callable[[Draw], float]) -> list[float]:
    """Per seed the mean over draws, less the dense network's; the order of the seeds."""
    return [float(np.mean([of(draw) for draw in record.draws])) - record.dense for record in records]


def _losses(records: Sequence[Record]) -> str:
    cut, repaired = _changes(records, lambda draw: draw.cut), _changes(records, lambda draw: draw.repaired)
    return f"{spread(cut)} / {spread(repaired)}"


def _quality(cells: Cells) -> list[str]:
    """The best greedy way is the one with the best median after repair, chosen on the report images: it flatters greedy."""
    best = []
    for share in _shares(cells):
        ways = [way for (way, other), records in cells.items() if other == share and records[0].greedy]
        if not ways:
            best.append("")
            continue
        way = max(ways, key=lambda way: float(np.median(_changes(cells[way, share], lambda draw: draw.repaired))))
        best.append(f"{_losses(cells[way, share])} ({way})")
    return _table("way", cells, _losses, [f"| **best greedy way** | {' | '.join(best)} |"])


def _kept(cells: Cells) -> list[str]:
    def show(records: Sequence[Record]) -> str:
        names = ("macs", "macs_blocks", "params", "params_blocks")
        draws = [draw for record in records for draw in record.draws]
        return " / ".join(f"{np.median([draw.costs[name] for draw in draws]):.2f}" for name in names)

    return _table("share kept: MACs, in blocks of 16 / parameters, in blocks of 16", cells, show)


def _effort(cells: Cells) -> list[str]:
    """Medians over shares, seeds and draws."""
    lines = [
        "| way | forward | backward | evaluations | calibration, s | search, s | repair, s | report, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for way in WAYS:
        draws = [draw for (other, _), records in cells.items() if other == way for record in records for draw in record.draws]
        if draws:
            counts = [
                f"{np.median([draw.cost[name] for draw in draws]):.0f}" for name in ("forward", "backward", "evaluations")
            ]
            times = [[draw.cost[name] for draw in draws] for name in ("calibration_seconds", "search_seconds")]
            times += [[draw.seconds[name] for draw in draws] for name in ("repair", "report")]
            lines.append(f"| {way} | " + " | ".join([*counts, *(f"{np.median(values):.2f}" for values in times)]) + " |")
    return lines

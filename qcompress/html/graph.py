"""The network as a list of layers with a line for every coupled group: from the layers that write it to those that read it."""

from __future__ import annotations

from dataclasses import dataclass

from qcompress.reports import LayerFacts, Report

__all__ = ["Dot", "Graph", "Line", "Row", "graph"]

_COMPUTING = ("conv", "conv_transpose", "depthwise", "linear")
_MOST_ROWS = 400
_MOST_LANES = 12
_COLOURS = 7


@dataclass(frozen=True)
class Row:
    """A layer: lengths of the bars in per cent of the widest layer, the counts as text, the width of its weights if chosen."""

    name: str
    kind: str
    dense: float
    kept: float
    text: str
    inputs: str
    whole: bool
    width: str = ""


@dataclass(frozen=True)
class Dot:
    """Where a group touches a row; `writes` where the layer makes its channels."""

    row: int
    writes: bool


@dataclass(frozen=True)
class Line:
    """A group over the rows that it joins, in its lane."""

    name: str
    lane: int
    first: int
    last: int
    dots: tuple[Dot, ...]
    colour: int


@dataclass(frozen=True)
class Graph:
    """Rows in the order of execution; `left_out` more are not shown."""

    rows: tuple[Row, ...]
    lines: tuple[Line, ...]
    lanes: int
    left_out: int

    @property
    def widths(self) -> tuple[str, ...]:
        """Those of the rows, each once."""
        return tuple(dict.fromkeys(row.width for row in self.rows if row.width))


def graph(report: Report) -> Graph | None:
    """Of the layers in the report, or of an older one the groups alone; None where nothing can be pruned."""
    layers = [layer for layer in report.layers if layer.kind in _COMPUTING and layer.outputs > 0]
    if not layers:
        return _groups_alone(report)
    shown = layers[:_MOST_ROWS]
    widest = max(layer.outputs for layer in shown)
    lines = _lines(shown)
    widths = {} if report.compression is None else {layer.layer: layer.width for layer in report.compression.layers}
    rows = tuple(_row(layer, widest, widths.get(layer.name, "")) for layer in shown)
    return Graph(rows, lines, max((line.lane + 1 for line in lines), default=0), len(layers) - len(shown))


def _row(layer: LayerFacts, widest: int, width: str) -> Row:
    return Row(
        name=layer.name,
        kind=layer.kind.replace("_", " "),
        dense=_share(layer.outputs, widest),
        kept=_share(layer.kept_outputs, widest),
        text=_counts(layer.kept_outputs, layer.outputs),
        inputs=_counts(layer.kept_inputs, layer.inputs),
        whole=layer.kept_outputs == layer.outputs,
        width=width,
    )


def _groups_alone(report: Report) -> Graph | None:
    groups = report.units.per_group
    if not groups:
        return None
    widest = max(max(group.total for group in groups.values()), 1)
    rows = [
        Row(
            name=name,
            kind="group",
            dense=_share(group.total, widest),
            kept=_share(group.total - group.pruned, widest),
            text=_counts(group.total - group.pruned, group.total),
            inputs="",
            whole=not group.pruned,
        )
        for name, group in list(groups.items())[:_MOST_ROWS]
    ]
    return Graph(tuple(rows), (), 0, len(groups) - len(rows))


def _lines(layers: list[LayerFacts]) -> tuple[Line, ...]:
    """A line for each group that two rows or more touch, each in the first lane that is free along it."""
    touched: dict[str, list[Dot]] = {}
    for place, layer in enumerate(layers):
        for name in dict.fromkeys((*layer.writes, *layer.reads)):
            touched.setdefault(name, []).append(Dot(place, name in layer.writes))
    ends: list[int] = []  # of the last line in each lane
    lines = []
    for number, (name, dots) in enumerate(sorted(touched.items(), key=lambda item: item[1][0].row)):
        first, last = dots[0].row, dots[-1].row
        if first == last:
            continue
        lane = next((lane for lane, end in enumerate(ends) if end < first), len(ends))
        if lane >= _MOST_LANES:
            continue
        if lane == len(ends):
            ends.append(last)
        ends[lane] = last
        lines.append(Line(name, lane, first, last, tuple(dots), number % _COLOURS))
    return tuple(lines)


def _share(part: int, whole: int) -> float:
    return round(100 * min(max(part / whole, 0.0), 1.0), 2)


def _counts(kept: int, total: int) -> str:
    return f"{kept} of {total}" if kept != total else f"{total}"

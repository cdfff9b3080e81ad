"""What a joint choice came to: what the file holds at which width, every layer's share, and the choice beside its rivals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qcompress.html.charts import Marks
from qcompress.html.numbers import axis, fixed, size
from qcompress.plots.numbers import drawable
from qcompress.reports import CompressionFacts, LayerWidth, Report

__all__ = ["Compression", "LayerRow", "Part", "compression"]

_MOST_LAYERS = 400
_LEAST_SPAN = 0.01  # of the loss to both sides on its axis: what differs by less is to look alike


@dataclass(frozen=True)
class Part:
    """What of the file has one width, `start` and `length` in per cent of the bar; `kind` is the width, or rest."""

    kind: str
    layers: int
    text: str
    start: float
    length: float


@dataclass(frozen=True)
class LayerRow:
    """A layer in the file; `length` of its bytes in per cent of the largest layer's."""

    name: str
    width: str
    computed: str
    text: str
    length: float
    loss: str


@dataclass(frozen=True)
class Compression:
    """The file as one bar, with the place of what was asked for; the layers, `left_out` more are not shown; the losses.

    `computing` says how many layers compute in integers, "" where an older report does not know.
    """

    asked: str
    reached: str
    target: float | None
    parts: tuple[Part, ...]
    rows: tuple[LayerRow, ...]
    left_out: int
    losses: Marks | None
    computing: str


def compression(report: Report) -> Compression | None:
    """Of a run that chose widths; None of others."""
    facts = report.compression
    if facts is None:
        return None
    whole = max(facts.size, facts.target or 0, 1)
    shown, digits = facts.layers[:_MOST_LAYERS], _digits(facts.layers)
    largest = max((layer.bytes for layer in shown), default=0)
    return Compression(
        asked="" if facts.target is None else size(facts.target),
        reached=size(facts.size),
        target=None if facts.target is None else _share(facts.target, whole),
        parts=_parts(facts, whole),
        rows=tuple(_row(layer, largest, digits) for layer in shown),
        left_out=len(facts.layers) - len(shown),
        losses=_losses(facts),
        computing=_computing(facts),
    )


def _parts(facts: CompressionFacts, whole: int) -> tuple[Part, ...]:
    """The widths, the widest first, and what is no layer's: the graph, grids of activations, metadata."""
    known = [
        (width, [layer.bytes for layer in facts.layers if layer.width == width])
        for width in ("float32", "float16", "int8", "int4")
    ]
    found = [(width, len(each), sum(each)) for width, each in known if each]
    rest = facts.size - sum(amount for _, _, amount in found)
    parts, start = [], 0.0
    for kind, layers, amount in (*found, ("rest", 0, rest)):
        if amount > 0:
            length = min(_share(amount, whole), 100 - start)
            parts.append(Part(kind, layers, size(amount), start, round(length, 2)))
            start = round(start + length, 2)
    return tuple(parts)


def _row(layer: LayerWidth, largest: int, digits: int) -> LayerRow:
    return LayerRow(
        name=layer.layer,
        width=layer.width,
        computed="" if layer.integer is None else "integers" if layer.integer else "float32",
        text=size(layer.bytes),
        length=_share(layer.bytes, largest),
        loss=fixed(layer.loss, digits).replace("-", "−"),
    )


def _losses(facts: CompressionFacts) -> Marks | None:
    """The loss expected of the choice, beside the bound and the greedy one; None where there is nothing to see it beside."""
    units, widths = facts.pruning_loss, facts.width_loss
    if not drawable(units) or not drawable(widths):
        return None
    known = (
        ("lower bound", facts.lower_bound, "between"),
        ("chosen", units + widths, "slim"),
        ("greedy steps", facts.greedy_loss, "dense"),
    )
    ends = [(units + widths) * (1 + side) for side in (-_LEAST_SPAN, _LEAST_SPAN)]
    found = axis([*(value for _, value, _ in known), *ends])
    if found is None or not any(drawable(value) for _, value, kind in known if kind != "slim"):
        return None
    rows = ((name, found.place(value), _four(value), kind) for name, value, kind in known if drawable(value))
    return Marks(found, tuple(rows))


def _computing(facts: CompressionFacts) -> str:
    """How many layers compute in integers, in words."""
    known = [layer.integer for layer in facts.layers if layer.integer is not None]
    if not known:
        return ""
    many = f"All {len(known)}" if all(known) else f"{sum(known) or 'None'} of {len(known)}"
    return f"{many} layers compute in integers"


def _share(part: int, whole: int) -> float:
    return round(100 * min(max(part / whole, 0.0), 1.0), 2) if whole else 0.0


def _digits(layers: Sequence[LayerWidth]) -> int:
    """Decimals by which the largest loss has four digits that say something."""
    largest = max((abs(layer.loss) for layer in layers if drawable(layer.loss)), default=0.0)
    return min(max(3 - math.floor(math.log10(largest)), 0), 12) if largest > 0 else 0


def _four(value: float | None) -> str:
    """Four significant digits.

    >>> _four(0.506), _four(-0.00123456), _four(None)
    ('0.5060', '−0.001235', '–')
    """
    return f"{value:#.4g}".rstrip(".").replace("-", "−") if drawable(value) else "–"

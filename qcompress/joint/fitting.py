"""The facts of an exporter, from files that it wrote: what they take besides the numbers of their parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from qcompress.joint.sizes import FileFacts, Sizes
from qcompress.widths import WIDTHS

__all__ = ["MeasuredFile", "fitted"]

_FIXED, _LAYER, _OUTPUT, _OWN, _NOISE = 1e7, 1e3, 8.0, 200.0, 1.0
"""What is expected of the facts beforehand, in bytes: how far from where the fit starts; and how exact files are."""


@dataclass(frozen=True)
class MeasuredFile:
    """A file that an exporter wrote, or said the size of: units pruned per group, widths by layer, and its bytes."""

    bytes: int
    counts: Mapping[str, int] = field(default_factory=dict)
    widths: Mapping[str, str] = field(default_factory=dict)


def fitted(sizes: Sizes, files: Sequence[MeasuredFile]) -> Sizes:
    """`sizes` with the facts that explain `files`, nearest to those that it has; no file is then larger than it says.

    A least-squares fit (ridge regression): with one file only the fixed bytes move; with each layer at each width by itself
    in some file, and a few mixed ones, every layer's own bytes are known. float32 is what the others are compared with.

    Raises ValueError without files.
    """
    if not files:
        raise ValueError("files are none, expected at least one")
    narrow = [width for width in WIDTHS if width != "float32" and any(width in file.widths.values() for file in files)]
    own = sorted({pair for file in files for pair in file.widths.items() if pair[1] != "float32"})
    outputs = [_outputs(sizes, file) for file in files]
    rows = np.array([_row(file, out, narrow, own) for file, out in zip(files, outputs, strict=True)])
    spread = np.array([_FIXED, *[_LAYER] * len(narrow), *[_OUTPUT] * len(narrow), *[_OWN] * len(own)])
    missing = np.array([file.bytes - sizes.bytes(file.counts, file.widths) for file in files], np.float64)
    scaled = np.concatenate((rows * spread / _NOISE, np.eye(len(spread))))
    moved = spread * np.linalg.lstsq(scaled, np.concatenate((missing / _NOISE, np.zeros(len(spread)))), rcond=None)[0]
    found = replace(sizes, facts=_moved(sizes.facts, moved, narrow, own))
    short = max(file.bytes - found.bytes(file.counts, file.widths) for file in files)
    return replace(found, facts=replace(found.facts, fixed=math.ceil(found.facts.fixed) + max(short, 0)))


def _outputs(sizes: Sizes, file: MeasuredFile) -> dict[str, int]:
    """Output channels of every layer of the file that has a width."""
    named = {layer.name: layer for layer in sizes.layers}
    return {name: sizes.groups.kept_channels(named[name], "out", file.counts) for name in file.widths}


def _row(file: MeasuredFile, outputs: Mapping[str, int], narrow: Sequence[str], own: Sequence[tuple[str, str]]) -> list[float]:
    """What each unknown is multiplied with in the bytes of the file."""
    having = {width: [name for name, chosen in file.widths.items() if chosen == width] for width in narrow}
    return [
        1.0,
        *(float(len(having[width])) for width in narrow),
        *(float(sum(outputs[name] for name in having[width])) for width in narrow),
        *(float(file.widths.get(name) == width) for name, width in own),
    ]


def _moved(facts: FileFacts, moved: NDArray[np.float64], narrow: Sequence[str], own: Sequence[tuple[str, str]]) -> FileFacts:
    values = iter(moved.tolist())
    fixed = facts.fixed + next(values)
    per_layer = {**facts.per_layer, **{width: facts.per_layer.get(width, 0.0) + next(values) for width in narrow}}
    per_output = {**facts.per_output, **{width: facts.per_output.get(width, 0.0) + next(values) for width in narrow}}
    owned = {**facts.own, **{pair: facts.own.get(pair, 0.0) + next(values) for pair in own}}
    return FileFacts(fixed, per_layer, per_output, owned)

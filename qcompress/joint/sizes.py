"""How many bytes a file takes, by the channels that every layer keeps and the width of its weights.

A weight takes the bits of its width (an odd number of int4 weights one nibble more), all other parameters take float32. What is
no parameter (the graph, names, scales, zero points, nodes that quantise) is taken from `FileFacts`: facts of an exporter, which
`fitting.fitted` finds from files that it wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcompress.groups import Groups, Layer
from qcompress.widths import BITS, WIDTHS

__all__ = ["QUANTISABLE", "FileFacts", "Sizes", "folded_norms"]

QUANTISABLE = ("conv", "conv_transpose", "depthwise", "linear")
"""Kinds of `groups.Layer` whose weights can have another width than float32."""

_SCALES: Mapping[str, float] = MappingProxyType({"int8": 5.0, "int4": 4.0})  # see `FileFacts.per_output`
_NOTHING: Mapping[str, float] = MappingProxyType({})
_NONE_OWN: Mapping[tuple[str, str], float] = MappingProxyType({})
_FREE_OF_INPUTS = ("depthwise", "batchnorm", "instancenorm", "groupnorm", "prelu", "parameter", "other")
_Ints = NDArray[np.int64]


@dataclass(frozen=True)
class FileFacts:
    """Bytes of a file besides the numbers of its parameters; those of a layer come on top of what it takes as float32.

    fixed       of the file, whatever is chosen
    per_layer   by width, of every layer that has it
    per_output  by width, of every output channel of a layer that has it: for int8 a scale and a zero point of the weights
                (4 and 1), for int4 a scale
    own         by (layer, width), of that layer besides `per_layer`
    """

    fixed: float = 0.0
    per_layer: Mapping[str, float] = field(default_factory=lambda: _NOTHING)
    per_output: Mapping[str, float] = field(default_factory=lambda: _SCALES)
    own: Mapping[tuple[str, str], float] = field(default_factory=lambda: _NONE_OWN)


def folded_norms(groups: Groups) -> dict[str, str]:
    """The BatchNorms that a file does not hold, each with the layer that it is folded into and that has a bias for it.

    A BatchNorm right behind a convolution or linear layer of as many channels, in the order of execution.
    """
    pairs = zip(groups.layers, groups.layers[1:], strict=False)
    return {
        norm.name: layer.name
        for layer, norm in pairs
        if norm.kind == "batchnorm" and layer.kind in QUANTISABLE and layer.outputs == norm.outputs
    }


@dataclass(frozen=True)
class Sizes:
    """The bytes of a network's file at any counts and widths.

    `folded` has the norms that the file does not hold (None: `folded_norms`). Counts are of pruned units per group, in the
    order of `groups.space`; widths are places in `WIDTHS`, in the order of `layers`, all layers that the file has numbers of.
    """

    groups: Groups
    facts: FileFacts = FileFacts()
    folded: Mapping[str, str] | None = None

    @cached_property
    def _folded(self) -> Mapping[str, str]:
        return folded_norms(self.groups) if self.folded is None else self.folded

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers that the file has numbers of, in the order of execution."""
        held = (layer for layer in self.groups.layers if layer.kind not in ("heads", "product"))
        return tuple(layer for layer in held if layer.name not in self._folded and layer.params(layer.inputs, layer.outputs))

    @cached_property
    def quantisable(self) -> tuple[str, ...]:
        """Names of the layers that can have another width than float32."""
        return tuple(layer.name for layer in self.layers if layer.kind in QUANTISABLE)

    def bytes(self, counts: Mapping[str, int] | None = None, widths: Mapping[str, str] | None = None) -> int:
        """Of the file, with so many units pruned per group and these widths by layer; absent: none, and float32.

        Raises ValueError for a layer that cannot have a width, and for an unknown width.
        """
        widths, counts = widths or {}, counts or {}
        if foreign := set(widths) - set(self.quantisable):
            raise ValueError(f"layers {sorted(foreign)} have no width, expected some of {self.quantisable}")
        if unknown := set(widths.values()) - set(WIDTHS):
            raise ValueError(f"widths {sorted(unknown)} are unknown, expected some of {WIDTHS}")
        row = np.array([[counts.get(group, 0) for group in self.groups.space.groups]], np.int64)
        every = np.array([[WIDTHS.index(widths.get(layer.name, "float32")) for layer in self.layers]], np.intp)
        return int(self.totals(row, every)[0])

    def totals(self, counts: ArrayLike, widths: ArrayLike) -> _Ints:
        """(K,) bytes of the file for counts (K, G) and widths (K, layers)."""
        return np.asarray(self.layer_totals(counts, widths).sum(-1) + round(self.facts.fixed))

    def layer_totals(self, counts: ArrayLike, widths: ArrayLike) -> _Ints:
        """(K, layers) bytes of every layer for counts (K, G) and widths (K, layers)."""
        rows = np.asarray(counts, np.int64)
        table, places = self._numbers, np.asarray(widths, np.intp)
        inputs, outputs = table.inputs - rows @ table.less_in, table.outputs - rows @ table.less_out
        seen = np.where(table.dense, inputs // table.divisions, table.seen)
        weights = table.kernel * np.where(table.scaled, outputs, 1) * seen
        beside = np.ceil(outputs * _at(table.per_output, places) + _at(table.beside, places))
        return np.asarray(-(-weights * _BITS[places] // 8) + 4 * table.bias * outputs + beside.astype(np.int64))

    def of_layer(self, place: int, inputs: ArrayLike, outputs: ArrayLike, width: int) -> _Ints:
        """Bytes of the layer at `place` in `layers`, with so many channels kept at its sides (arrays that go together)."""
        table = self._numbers
        outs = np.asarray(outputs, np.int64)
        seen = np.asarray(inputs, np.int64) // table.divisions[place] if table.dense[place] else table.seen[place]
        weights = table.kernel[place] * (outs if table.scaled[place] else 1) * seen
        beside = np.ceil(outs * table.per_output[place, width] + table.beside[place, width]).astype(np.int64)
        return np.asarray(-(-weights * _BITS[width] // 8) + 4 * table.bias[place] * outs + beside)

    def owners(self, place: int) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]:
        """((group, channels per unit), ...) at the inputs and at the outputs of a layer, as far as its bytes depend on them."""
        table = self._numbers
        ins = table.less_in[:, place] if table.dense[place] else np.zeros(len(table.less_in), np.int64)
        outs = table.less_out[:, place]
        return _nonzero(ins), _nonzero(outs)

    @cached_property
    def _numbers(self) -> _Numbers:
        return _Numbers.of(self.groups, self.layers, self.facts, set(self._folded.values()))


_BITS = np.array([BITS[width] for width in WIDTHS], np.int64)


@dataclass(frozen=True, eq=False)
class _Numbers:
    """What decides the layers' bytes, one entry per layer: `less_in`, `less_out` (G, layers) channels per unit of a group.

    scaled  whether the weights are as many as the outputs; dense  whether they are as many as the inputs, else `seen` each
    per_output, beside  (layers, widths)
    """

    inputs: _Ints
    outputs: _Ints
    kernel: _Ints
    divisions: _Ints
    seen: _Ints
    bias: _Ints
    scaled: NDArray[np.bool_]
    dense: NDArray[np.bool_]
    less_in: _Ints
    less_out: _Ints
    per_output: NDArray[np.float64]
    beside: NDArray[np.float64]

    @classmethod
    def of(cls, groups: Groups, layers: Sequence[Layer], facts: FileFacts, biased: set[str]) -> _Numbers:
        def ints(values: list[int]) -> _Ints:
            return np.array(values, np.int64)

        places = {layer.name: place for place, layer in enumerate(layers)}
        less = {side: np.zeros((len(groups.groups), len(layers)), np.int64) for side in ("in", "out")}
        for g, group in enumerate(groups.groups):
            for member in group.members:
                if member.layer in places and member.channels:
                    less[member.side][g, places[member.layer]] += len(member.channels[0])
        wide = np.array([[layer.kind in QUANTISABLE] for layer in layers], bool).reshape(-1, 1)
        own = [[facts.own.get((layer.name, width), 0.0) for width in WIDTHS] for layer in layers]
        return cls(
            inputs=ints([layer.inputs for layer in layers]),
            outputs=ints([layer.outputs for layer in layers]),
            kernel=ints([layer.kernel + (2 if layer.kind == "batchnorm" else 0) for layer in layers]),  # and its statistics
            divisions=ints([layer.divisions for layer in layers]),
            seen=ints([layer.inputs // layer.divisions if layer.kind == "depthwise" else 1 for layer in layers]),
            bias=ints([layer.kind in QUANTISABLE and (layer.bias or layer.name in biased) for layer in layers]),
            scaled=np.array([layer.kind != "other" for layer in layers], bool),
            dense=np.array([layer.kind not in _FREE_OF_INPUTS for layer in layers], bool),
            less_in=less["in"],
            less_out=less["out"],
            per_output=wide * np.array([facts.per_output.get(width, 0.0) for width in WIDTHS]),
            beside=wide * np.array([facts.per_layer.get(width, 0.0) for width in WIDTHS])
            + np.array(own, np.float64).reshape(-1, len(WIDTHS)),
        )


def _at(table: NDArray[np.float64], places: NDArray[np.intp]) -> NDArray[np.float64]:
    """(..., layers) the entry of every layer's row of `table` at `places` (..., layers)."""
    return np.asarray(table[np.arange(len(table)), places])


def _nonzero(channels: _Ints) -> tuple[tuple[int, int], ...]:
    return tuple((int(g), int(channels[g])) for g in np.flatnonzero(channels))

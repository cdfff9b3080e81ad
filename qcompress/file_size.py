"""Bytes of the float32 ONNX file of a pruned network: the dense file, less four for every number that goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from qcompress.exporters.anatomy import Anatomy
from qcompress.groups import Groups

__all__ = ["FileSize"]

_NAMED = 48  # bytes of a new bias in the file besides its numbers and its name, which stands there twice


@dataclass(frozen=True, eq=False)
class FileSize:
    """A cost as `budgets.Cost`: the bytes with so many units pruned per group, never below what the file then has.

    dense_bytes  of the dense network's file
    repaired     whether layers without a bias may get one
    """

    groups: Groups
    anatomy: Anatomy
    dense_bytes: int
    repaired: bool = True

    def __call__(self, counts: Mapping[str, int]) -> int:
        """Bytes."""
        layers = {layer.name: layer for layer in self.groups.layers}
        total = self.dense_bytes
        for weight in self.anatomy.weights:
            if weight.layer is None:
                continue
            layer = layers[weight.layer]
            kept = self.groups.kept_channels(layer, "out", counts)
            if weight.both:
                kept = replace(layer, bias=False).params(self.groups.kept_channels(layer, "in", counts), kept)
            total -= 4 * (weight.size - kept)
        return total + (self._biases(counts) if self.repaired else 0)

    def _biases(self, counts: Mapping[str, int]) -> int:
        """What biases that a repair may add would take."""
        layers = {layer.name: layer for layer in self.groups.layers}
        bare = dict.fromkeys(call.layer for call in self.anatomy.calls if not call.biased)
        kept = (self.groups.kept_channels(layers[name], "out", counts) for name in bare)
        return sum(4 * channels + 2 * len(name) + _NAMED for name, channels in zip(bare, kept, strict=True))

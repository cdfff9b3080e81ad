"""The coupled groups of a network as plain values: which channels of which layers go together, and what that frees.

`tracing.trace` makes these values from a module; `surgery`, `masks`, `scoring` and `recover` read them. Layers are named as
in `Module.named_modules()`; nothing here holds a module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qcompress.selection import Selection, UnitSpace

__all__ = ["HEADS", "Cut", "Group", "Groups", "KeptWhole", "Layer", "LayerKind", "Member", "Side", "in_blocks"]

Side = Literal["out", "in"]
LayerKind = Literal[
    "conv",
    "conv_transpose",
    "depthwise",
    "linear",
    "batchnorm",
    "instancenorm",
    "groupnorm",
    "prelu",
    "parameter",
    "heads",
    "product",
    "other",
]

HEADS = ("num_heads", "heads", "n_heads", "n_head", "num_attention_heads")
"""What modules call their number of attention heads."""

_COMPUTING = ("conv", "conv_transpose", "depthwise", "linear")
_PER_CHANNEL = ("batchnorm", "instancenorm", "groupnorm", "prelu", "parameter")


@dataclass(frozen=True)
class Member:
    """The channels of one side of one layer that a group's units own.

    ``channels[u]`` are the channel indices, at that side of the dense layer, that belong to unit u (one for most layers;
    several behind a flatten, before a pixel shuffle, in a division or a head). Side "out" is the rows of the weight:
    producers, and the layers that only hand channels through (norms, PReLU, depthwise convolutions). Side "in" is the
    columns: the consumers, which mix channels.
    """

    layer: str
    side: Side
    channels: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Group:
    """Units that are one channel of every member each. Named after its first producer in the order of execution."""

    name: str
    members: tuple[Member, ...]

    @property
    def size(self) -> int:
        """Number of units."""
        return len(self.members[0].channels)

    def side(self, side: Side) -> tuple[Member, ...]:
        """The members at `side`."""
        return tuple(member for member in self.members if member.side == side)


@dataclass(frozen=True)
class Layer:
    """A layer with parameters, dense: its channel counts, and the sizes that decide its cost.

    `kernel` is the number of weights per pair of channels (of a per-channel layer: per channel); `positions` the number of
    places the kernel is applied to per image (output places, input places for a transposed convolution), 0 for layers that
    cost no MACs here (norms, PReLU). Some are no layers in PyTorch's sense:

    parameter  one of a module's own, of one number per channel: a gain, a layer scale; named as in `named_parameters()`
    heads      the number of heads that a module holds as an attribute, named ``module.attribute``
    product    an operation outside of layers, such as attention's; `positions` are its MACs per channel of `outputs`, or
               its MACs where it has none
    other      never cut; `kernel` is its number of parameters, `positions` its number of MACs
    """

    name: str
    kind: LayerKind
    inputs: int
    outputs: int
    kernel: int
    positions: int
    bias: bool
    divisions: int = 1  # the `groups` of a convolution, the norm groups of a GroupNorm

    def params(self, inputs: int, outputs: int) -> int:
        """Number of parameters with `inputs` and `outputs` channels kept."""
        if self.kind in _PER_CHANNEL:
            return outputs * self.kernel
        if self.kind in ("heads", "product"):
            return 0
        if self.kind == "other":
            return self.kernel
        return outputs * self.kernel * self._seen_by_each(inputs) + (outputs if self.bias else 0)

    def macs(self, inputs: int, outputs: int) -> int:
        """Multiply-accumulates per image with `inputs` and `outputs` channels kept (or computed, in whole blocks)."""
        if self.kind == "product":
            return self.positions * (outputs if self.outputs else 1)
        if self.kind == "other":
            return self.positions
        if self.kind in _PER_CHANNEL or self.kind == "heads":
            return 0
        return outputs * self.kernel * self.positions * self._seen_by_each(inputs)

    def _seen_by_each(self, inputs: int) -> int:
        """Inputs that each output is computed from. A depthwise convolution loses whole divisions: what is left is as wide."""
        return (self.inputs if self.kind == "depthwise" else inputs) // self.divisions


def in_blocks(channels: int, align: int) -> int:
    """`channels` rounded up to whole blocks of `align`: what a runtime computes.

    >>> in_blocks(52, 16), in_blocks(48, 16), in_blocks(52, 1)
    (64, 48, 52)
    """
    return -(-channels // align) * align


@dataclass(frozen=True)
class KeptWhole:
    """A layer whose outputs are not pruned, and why: a sentence for the user."""

    layer: str
    reason: str


@dataclass(frozen=True)
class Cut:
    """Channels that a layer keeps, ascending; None means all of that side."""

    kept_out: tuple[int, ...] | None = None
    kept_in: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Groups:
    """Everything that tracing found. `layers` are in the order of execution, `groups` in the order of their producers.

    Every group keeps `floor` units at least, and as many as its place in `floors` says, where there are any.
    """

    groups: tuple[Group, ...]
    layers: tuple[Layer, ...]
    kept_whole: tuple[KeptWhole, ...]
    example_shape: tuple[int, ...]  # of the input at which `Layer.positions` were counted, batch of 1 included
    floor: int = 1
    floors: tuple[int, ...] = ()

    @cached_property
    def space(self) -> UnitSpace:
        """The units of all groups."""
        space = UnitSpace.of(((group.name, group.size) for group in self.groups), self.floor)
        return replace(space, floors=tuple(map(max, space.floors, self.floors))) if self.floors else space

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Per group the fewest channels that a unit owns at a side of a convolution or linear layer: 64 for a head of 64."""
        kinds = {layer.name: layer.kind for layer in self.layers}
        owned = (
            [len(m.channels[0]) for m in group.members if kinds.get(m.layer) in _COMPUTING and m.channels]
            for group in self.groups
        )
        return tuple(max(1, min(widths, default=1)) for widths in owned)

    @cached_property
    def consumers(self) -> dict[str, NDArray[np.intp]]:
        """Per consumer, in order of execution: the place in `space` of the unit behind each input channel, -1 for none."""
        inputs = {layer.name: layer.inputs for layer in self.layers}
        owners: dict[str, NDArray[np.intp]] = {}
        for group, span in zip(self.groups, self.space.spans, strict=True):
            for member in group.side("in"):
                owner = owners.setdefault(member.layer, np.full(inputs[member.layer], -1, np.intp))
                for unit, channels in enumerate(member.channels):
                    owner[list(channels)] = span.start + unit
        return {layer.name: owners[layer.name] for layer in self.layers if layer.name in owners}

    @cached_property
    def _removed_per_unit(self) -> dict[tuple[str, Side], tuple[tuple[str, int], ...]]:
        """(layer, side) -> ((group, channels that one unit of it owns there), ...)."""
        table: dict[tuple[str, Side], list[tuple[str, int]]] = {}
        for group in self.groups:
            for member in group.members:
                table.setdefault((member.layer, member.side), []).append((group.name, len(member.channels[0])))
        return {key: tuple(value) for key, value in table.items()}

    def kept_channels(self, layer: Layer, side: Side, counts: Mapping[str, int]) -> int:
        """Channels that `layer` keeps at `side` when `counts[group]` units of each group are pruned (absent: none)."""
        total = layer.outputs if side == "out" else layer.inputs
        per_unit = self._removed_per_unit.get((layer.name, side), ())
        return total - sum(counts.get(group, 0) * channels for group, channels in per_unit)

    def params(self, counts: Mapping[str, int] | None = None) -> int:
        """Exact number of parameters of the network with `counts` units pruned per group."""
        counts = counts or {}
        return sum(
            layer.params(self.kept_channels(layer, "in", counts), self.kept_channels(layer, "out", counts))
            for layer in self.layers
        )

    def macs(self, counts: Mapping[str, int] | None = None, align: int = 1, *, additive: bool = False) -> int:
        """Multiply-accumulates per image of `example_shape` with `counts` units pruned per group: exact with `align` 1.

        With more, those that a runtime computes in blocks of `align` channels: the channels at both sides of every layer are
        rounded up to whole blocks. With `additive` they stay as they are where several groups share a side (behind a
        concatenation): never more, and groups then free together at most the sum of what each frees alone.
        """
        counts = counts or {}

        def computed(layer: Layer, side: Side) -> int:
            shared = additive and len(self._removed_per_unit.get((layer.name, side), ())) > 1
            return in_blocks(self.kept_channels(layer, side, counts), 1 if shared else align)

        return sum(layer.macs(computed(layer, "in"), computed(layer, "out")) for layer in self.layers)

    def cuts(self, selection: Selection) -> dict[str, Cut]:
        """What every touched layer keeps under `selection`: the input of `surgery.slim`, by layer name, in layer order."""
        removed: dict[tuple[str, Side], set[int]] = {}
        for group in self.groups:
            for unit in selection.removed(group.name):
                for member in group.members:
                    removed.setdefault((member.layer, member.side), set()).update(member.channels[unit])

        def kept(layer: Layer, side: Side, total: int) -> tuple[int, ...] | None:
            gone = removed.get((layer.name, side))
            return tuple(c for c in range(total) if c not in gone) if gone else None

        cuts = {
            layer.name: Cut(kept(layer, "out", layer.outputs), kept(layer, "in", layer.inputs))
            for layer in self.layers
            if layer.kind != "product"
        }
        return {name: cut for name, cut in cuts.items() if cut != Cut()}

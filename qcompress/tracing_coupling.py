"""Which channels stand and fall together: the classes of labels that one forward pass leaves, as (layer, side, channels)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from qcompress.groups import HEADS, Layer, Side
from qcompress.surgery import outputs_of
from qcompress.tracing_flow import Flow, Split, watch
from qcompress.tracing_labels import Rank, Reason, varying
from qcompress.tracing_layers import in_parts

__all__ = ["Component", "Coupling", "couple"]


@dataclass(frozen=True)
class Component:
    """One class of channels: those of each layer side, in order of execution.

    `reasons` say why they are kept (empty: free); `notes` what mixes them, should they turn out to be all of one.
    """

    channels: Mapping[tuple[str, Side], tuple[int, ...]]
    reasons: tuple[Reason, ...] = ()
    notes: tuple[Reason, ...] = ()


@dataclass(frozen=True)
class Coupling:
    """What one pass told: `layers` are all of the network, heads and products included, `seen` the names of those it met."""

    components: tuple[Component, ...]
    layers: tuple[Layer, ...]
    seen: frozenset[str]


def couple(model: nn.Module, inputs: Sequence[Tensor], layers: Sequence[Layer], products: Sequence[int]) -> Coupling:
    """Run `model` once on `inputs` and say what is coupled.

    `layers` are the model's own, in order of execution, `products` the MACs of each operation outside of them, in order.
    Whatever the forward pass raises is passed on.
    """
    inputs = [x.clone() for x in inputs]  # which the network may write into
    flow = Flow(model, layers)
    flow.enter(inputs)
    with in_parts(model), watch(model, flow):
        outputs = outputs_of(model(*inputs))
    flow.leave(outputs)
    heads = _heads(model, flow)
    for split in flow.splits:
        _shrink_one(flow, split)
    everything = (*_with_tables(flow, layers), *heads, *_products(flow, products))
    seen = frozenset(flow.seen)
    return Coupling(tuple(_components(flow, everything)), everything, seen)


def _heads(model: nn.Module, flow: Flow) -> list[Layer]:
    """Modules with a number of heads, where channels are split into as many: the heads are what shrinks."""
    found: dict[str, Layer] = {}
    for split in flow.splits:
        for name in reversed(split.modules):
            module = model.get_submodule(name)
            attribute = next((a for a in HEADS if isinstance(getattr(module, a, None), int)), None)
            number = getattr(module, attribute) if attribute else 0
            axes = [axis for axis in varying(split.labels) if split.labels.shape[axis] == number]
            if number > 1 and axes:
                axis = max(axes, key=lambda at: (_shrunk(flow, split, at), -at))
                place = f"{name}.{attribute}" if name else str(attribute)
                found.setdefault(place, Layer(place, "heads", number, number, 0, 0, False))
                shape = [number if at == axis else 1 for at in range(split.labels.dim())]
                flow.labels.unite(flow.side(place, "out", number).reshape(shape), split.labels)
                flow.seen[place] = None
                break
    return list(found.values())


def _with_tables(flow: Flow, layers: Sequence[Layer]) -> list[Layer]:
    """Parameters of several axes of which one turned out to be that of the channels are layers, called ``name@axis``."""
    found: dict[str, list[Layer]] = {}
    kept = flow.labels.reasons().keys()
    for name, labels in flow.tables.items():
        classes = flow.labels.of(labels)
        axes = [axis for axis in varying(labels) if (classes != classes.take([0], axis)).any()]
        if len(axes) != 1 or kept & set(np.unique(classes).tolist()):
            text = f"its channels meet parameter {name}, which belongs to no layer that can be cut"
            flow.labels.keep(labels, Reason(Rank.STRUCTURE, text))
            continue
        place, size = f"{name}@{axes[0]}", labels.shape[axes[0]]
        flow.sides[place, "out"] = labels.movedim(axes[0], 0).reshape(size, -1)[:, 0]
        flow.seen[place] = None
        layer = Layer(place, "parameter", size, size, labels.numel() // size, 0, False)
        found.setdefault(name.rpartition(".")[0], []).append(layer)
    result = []
    for layer in layers:
        own = found.get(layer.name, []) if layer.kind == "other" else []
        rest = layer.kernel - sum(table.params(table.inputs, table.outputs) for table in own)
        result += [*own, replace(layer, kernel=rest)] if rest or not own else own
    return result


def _shrink_one(flow: Flow, split: Split) -> None:
    """Of several axes along which labels change, the one that leaves the most units shrinks; along the others they are tied."""
    classes = flow.labels.of(split.labels)
    axes = [axis for axis in varying(split.labels) if (classes != classes.take([0], axis)).any()]
    if len(axes) > 1:
        best = max(axes, key=lambda axis: _shrunk(flow, split, axis))
        flow.labels.tie(split.labels, [axis for axis in axes if axis != best])


def _shrunk(flow: Flow, split: Split, axis: int) -> int:
    """Number of units that are left if labels are tied along all axes but `axis`."""
    classes = np.moveaxis(flow.labels.of(split.labels), axis, 0).reshape(split.labels.shape[axis], -1)
    _, numbers = np.unique(classes, return_inverse=True)
    numbers = numbers.reshape(classes.shape)
    rows = np.repeat(np.arange(len(numbers)), numbers.shape[1])
    total = len(numbers) + int(numbers.max()) + 1
    graph = coo_array((np.ones(rows.size, np.int8), (rows, len(numbers) + numbers.ravel())), shape=(total, total))
    return int(connected_components(graph, directed=False)[0])


def _products(flow: Flow, macs: Sequence[int]) -> list[Layer]:
    """Operations that cost MACs outside of layers. Where labels change along an axis of the result, cost follows that axis."""
    found = []
    alike = len(macs) == len(flow.products)
    for number, cost in enumerate(macs):
        product = flow.products[number] if alike else None
        where = product.where if product else ""
        name = f"{where}:{product.operation if product else 'operation'}#{number}"
        axes = varying(product.labels) if product else []
        if product and axes:
            size = product.labels.shape[axes[0]]
            shape = [size if at == axes[0] else 1 for at in range(product.labels.dim())]
            flow.labels.unite(flow.side(name, "out", size).reshape(shape), product.labels)
            found.append(Layer(name, "product", size, size, 0, cost // size, False))
        else:
            found.append(Layer(name, "product", 0, 0, 0, cost, False))
    return found


def _components(flow: Flow, layers: Sequence[Layer]) -> list[Component]:
    """All classes of channels of layers, in order of their first member's execution and channel."""
    members: dict[int, dict[tuple[str, Side], tuple[int, ...]]] = {}
    order = {layer.name: number for number, layer in enumerate(layers)}
    sides = sorted(flow.sides, key=lambda key: (order[key[0]], key[1] == "in"))
    for key in sides:
        classes = flow.labels.of(flow.sides[key])
        for number, channels in _grouped(classes):
            members.setdefault(number, {})[key] = channels
    reasons, notes = flow.labels.reasons(), flow.labels.notes()
    found = [Component(places, reasons.get(number, ()), notes.get(number, ())) for number, places in members.items()]
    return sorted(found, key=lambda c: [(order[name], side == "in", at) for (name, side), at in c.channels.items()])


def _grouped(classes: NDArray[np.int64]) -> list[tuple[int, tuple[int, ...]]]:
    """(class, its places), by class."""
    order = np.argsort(classes, kind="stable")
    numbers, starts = np.unique(classes[order], return_index=True)
    parts = np.split(order, starts[1:])
    return [(int(number), tuple(sorted(part.tolist()))) for number, part in zip(numbers, parts, strict=True)]

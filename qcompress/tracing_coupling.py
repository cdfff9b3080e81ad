"""Which channels stand and fall together: the classes of (layer, side, channel) under the edges of a dependency graph.

The graph is Torch-Pruning's, read through the few attributes named in `Node` and `Edge`. Every index is pushed through the
index maps of every edge and united with its images, so that concatenation, flatten and reuse come out exact; its own groups,
keyed by the indices of one root layer, lose that for many-to-one maps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from qcompress.groups import Layer, Side
from qcompress.tracing_layers import is_sliceable
from qcompress.tracing_ops import broadcasts, input_shapes, name_of, output_shape, refusal

__all__ = ["Component", "Coupling", "Edge", "Node", "Rank", "Reason"]


class Rank(IntEnum):
    """How telling a reason is: of several, the lowest is shown."""

    OUTPUT = 0
    INPUT = 1
    IGNORED = 2
    LAYER = 3
    OPERATION = 4
    STRUCTURE = 5
    TRIAL = 6


class Reason(NamedTuple):
    """Why channels are kept; `text` completes "kept whole: ..."."""

    rank: Rank
    text: str


class Node(Protocol):
    """A layer, an operation, a parameter or an output; `type.name` is TP's OPTYPE."""

    module: Any
    grad_fn: Any
    type: Any
    inputs: list[Node]
    dependencies: list[Edge]


class Edge(Protocol):
    """From side `trigger` of `source` to side `handler` of `target`, each index through both maps (None: itself)."""

    source: Node
    target: Node
    trigger: Any
    handler: Any
    index_mapping: list[Callable[[list[Any]], list[Any]] | None]


class _Tagged(NamedTuple):
    """An index on its way through index maps, and where it came from."""

    idx: int
    root_idx: int


@dataclass(frozen=True)
class _Part:
    """The index map between a concatenation and its part of `size` channels at `start`, either way."""

    start: int
    size: int
    inwards: bool  # from the concatenation to the part

    def __call__(self, indices: list[Any]) -> list[Any]:
        if self.inwards:
            return [_Tagged(i.idx - self.start, i.root_idx) for i in indices if 0 <= i.idx - self.start < self.size]
        return [_Tagged(i.idx + self.start, i.root_idx) for i in indices]


_Place = tuple[int, Side, int]  # node, side, channel
_OPERATIONS = frozenset({"CONCAT", "ELEMENTWISE", "EXPAND", "RESHAPE", "SLICE", "SPLIT", "UNBIND"})


@dataclass(frozen=True)
class Component:
    """One class of channels: those of each layer side, in order of execution, and why they are kept (empty: free)."""

    channels: Mapping[tuple[str, Side], tuple[int, ...]]
    reasons: tuple[Reason, ...]


@dataclass
class _Classes:
    """Union-find over places."""

    parent: dict[_Place, _Place] = field(default_factory=dict)

    def find(self, place: _Place) -> _Place:
        root = place
        while self.parent[root] != root:
            root = self.parent[root]
        while self.parent[place] != root:
            self.parent[place], place = root, self.parent[place]
        return root

    def unite(self, a: _Place, b: _Place) -> bool:
        """Make a (known) and b one class; whether b is new."""
        new = b not in self.parent
        if new:
            self.parent[b] = b
        self.parent[self.find(b)] = self.find(a)
        return new


@dataclass
class Coupling:
    """The coupling of a traced network.

    `layers` in order of execution, `names` of its modules, `parameters` the names of those not in known layers, `input` the
    parameter that stands for the network's input, and `is_input(function)`: whether a pruning function belongs to side "in".
    """

    nodes: Sequence[Node]
    layers: Sequence[Layer]
    names: Mapping[nn.Module, str]
    parameters: Mapping[Tensor, str]
    input: Tensor
    is_input: Callable[[Any], bool]

    def __post_init__(self) -> None:
        self._layer = {layer.name: layer for layer in self.layers}
        self._number = {id(node): number for number, node in enumerate(self.nodes)}
        self._leaf_only: dict[int, bool] = {}
        for node in self.nodes:
            if node.type.name == "CONCAT":
                _map_parts(node)

    def layer_of(self, node: Node) -> Layer | None:
        """The layer that `node` is, None for an operation, a parameter or an output."""
        return self._layer.get(self.names.get(node.module, "")) if isinstance(node.module, nn.Module) else None

    @cached_property
    def seen(self) -> frozenset[str]:
        """Names of the layers that the graph holds."""
        return frozenset(layer.name for node in self.nodes if (layer := self.layer_of(node)))

    def components(self) -> list[Component]:
        """All classes of channels of layers, in order of their first member's execution and channel."""
        members: dict[_Place, dict[tuple[str, Side], list[int]]] = defaultdict(lambda: defaultdict(list))
        reasons: dict[_Place, set[Reason]] = defaultdict(set)
        whole = [self._reason(node) for node in self.nodes]
        classes = self._classes()
        for place in classes.parent:
            number, side, channel = place
            root = classes.find(place)
            if reason := whole[number]:
                reasons[root].add(reason)
            if (layer := self.layer_of(self.nodes[number])) and (total := _channels(layer).get(side)):
                members[root][layer.name, side].append(channel)
                if not 0 <= channel < total:
                    reasons[root].add(Reason(Rank.STRUCTURE, f"its channels could not be followed to {layer.name}"))
        order = {layer.name: number for number, layer in enumerate(self.layers)}
        found = []
        for root, places in members.items():
            keys = sorted(places, key=lambda key: (order[key[0]], key[1] == "in"))
            found.append(Component({key: tuple(sorted(places[key])) for key in keys}, tuple(sorted(reasons[root]))))
        return sorted(found, key=lambda c: [(order[name], side == "in", at) for (name, side), at in c.channels.items()])

    def _classes(self) -> _Classes:
        """Unite every channel of every layer with its images along all edges, and these with theirs."""
        classes = _Classes()
        pending: list[tuple[int, Side, list[int]]] = []
        for number, node in enumerate(self.nodes):
            layer = self.layer_of(node)
            for side, total in _channels(layer).items() if layer else ():
                pending.append((number, side, list(range(total))))
                classes.parent.update({(number, side, c): (number, side, c) for c in range(total)})
        while pending:
            number, side, channels = pending.pop()
            for edge in self._edges(self.nodes[number], side):
                target = self._number[id(edge.target)]
                onto: Side = "in" if self.is_input(edge.handler) else "out"
                new = [
                    image.idx
                    for image in _images(edge, channels)
                    if classes.unite((number, side, image.root_idx), (target, onto, image.idx))
                ]
                if new:
                    pending.append((target, onto, new))
        return classes

    def _edges(self, node: Node, side: Side) -> Iterable[Edge]:
        for edge in node.dependencies:
            if ("in" if self.is_input(edge.trigger) else "out") == side and not self._unlinked(node, edge.target):
                yield edge

    def _unlinked(self, a: Node, b: Node) -> bool:
        """Whether the edge between a and b carries no channels: a weight's own reshaping, or a broadcast single channel."""
        for source, target in ((a, b), (b, a)):
            if self._is_leaf_only(source) and self.layer_of(target):
                return True
            if target.type.name in _OPERATIONS and any(
                fn is source.grad_fn and broadcasts(target.grad_fn, output_shape(fn, number))
                for fn, number in target.grad_fn.next_functions
                if fn is not None and len(output_shape(fn, number)) > 1
            ):
                return True
        return False

    def _is_leaf_only(self, node: Node) -> bool:
        """Whether `node` is an operation on parameters of layers alone (the transposition of a linear layer's weight)."""
        key = id(node)
        if key not in self._leaf_only:
            self._leaf_only[key] = node.type.name in _OPERATIONS and all(self._is_leaf_only(source) for source in node.inputs)
        return self._leaf_only[key]

    def _reason(self, node: Node) -> Reason | None:
        """Why every channel that meets `node` is kept."""
        if node.type.name == "OUTPUT":
            return Reason(Rank.OUTPUT, "its outputs are the network's outputs")
        if isinstance(node.module, Tensor):
            if node.module is self.input:
                return Reason(Rank.INPUT, "its channels are tied to the network's input")
            name = self.parameters.get(node.module, "")
            return Reason(Rank.LAYER, f"its channels meet parameter {name}, which belongs to no layer that can be cut")
        if layer := self.layer_of(node):
            kind = type(node.module).__name__
            return (
                None
                if is_sliceable(layer)
                else Reason(Rank.LAYER, f"its channels meet {layer.name} ({kind}), which is not cut")
            )
        if self._is_leaf_only(node):
            return None
        if node.type.name not in _OPERATIONS:
            return Reason(Rank.OPERATION, f"its channels meet {type(node.module).__name__}, which is not known")
        text = refusal(node.grad_fn) or _distrust(node)
        return Reason(Rank.OPERATION, text) if text else None


def _channels(layer: Layer) -> dict[Side, int]:
    """Channels per side that belong to the layer itself: layers that hand channels through have one side."""
    if layer.kind == "prelu" and layer.outputs == 1:
        return {}  # one slope for all channels
    if layer.kind in ("batchnorm", "prelu", "depthwise"):
        return {"out": layer.outputs}
    return {"out": layer.outputs, "in": layer.inputs}


def _images(edge: Edge, channels: list[int]) -> list[Any]:
    """The images of `channels` along `edge`, each with its origin as `root_idx`."""
    images: list[Any] = [_Tagged(channel, channel) for channel in channels]
    for mapping in edge.index_mapping:
        if mapping is not None:
            images = mapping(images)
    return images


def _map_parts(node: Node) -> None:
    """Give the edges of a concatenation exact index maps, from the shapes in the graph.

    TP guesses the sizes from the layers around, and gives up on a tensor that is joined twice and on inputs of three axes.
    """
    sizes = [source[1] if len(source) > 1 else 0 for source in input_shapes(node.grad_fn)]
    if len(sizes) != len(node.inputs):
        return  # a part that is not in the graph: `_distrust` refuses
    used: dict[int, int] = defaultdict(int)
    start = 0
    for source, size in zip(node.inputs, sizes, strict=True):
        occurrence = used[id(source)]  # a tensor joined several times has as many edges, in the order of the parts
        used[id(source)] += 1
        for edges, end, inwards in ((node.dependencies, source, True), (source.dependencies, node, False)):
            [edge for edge in edges if edge.target is end][occurrence].index_mapping[1] = _Part(start, size, inwards)
        start += size


def _distrust(node: Node) -> str | None:
    """Why the index maps at `node`, an operation that `refusal` accepts, are not what the shapes say; None if they are."""
    name, sources, target = name_of(node.grad_fn), input_shapes(node.grad_fn), output_shape(node.grad_fn)
    if node.type.name in ("SPLIT", "UNBIND"):
        return f"operation {name} hands channels out in parts"
    if node.type.name == "CONCAT" and len(sources) != len(node.inputs):
        return f"operation {name} joins channels with a layer's parameter"
    if node.type.name == "RESHAPE" and sources and sources[0][:2] != target[:2]:
        stride = target[1] // sources[0][1]
        edges = [edge for source in node.inputs for edge in source.dependencies if edge.target is node]
        if any(len(_images(edge, [0])) != stride for edge in edges):
            return f"operation {name}: the columns per channel could not be told"
    return None

"""Which nodes of a graph compute in integers, and which tensors are quantised for that.

onnxruntime makes one integer operation of a node when everything it reads comes from DequantizeLinear and everything it
writes goes to QuantizeLinear. So a tensor between two integer layers should stay quantised on its way, through the operations
that can do that, and one that no integer layer reads should be left alone: the sum at the end of a residual network, say,
would lose what it adds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper

__all__ = ["ENDS", "SAME", "Graph", "Placement", "place"]

SAME = ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split")
"""Operations that move or pick numbers: what they return is quantised as what they get."""

_MIXING = ("Add", "Mul", "Concat")
"""Operations on several tensors, each quantised in its own way."""

_OTHER = ("AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid")
ENDS = ("Relu", "Clip")
"""Operations that a layer takes in: what it writes saturates where they would cut."""


@dataclass(eq=False)
class Graph:
    """A graph without graphs inside its nodes, with who writes and who reads each tensor."""

    graph: onnx.GraphProto
    constants: dict[str, onnx.TensorProto] = field(init=False)
    writer: dict[str, int] = field(init=False)
    readers: dict[str, list[int]] = field(init=False)
    outputs: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.writer = {name: place for place, node in enumerate(self.graph.node) for name in node.output}
        self.readers = {}
        for place, node in enumerate(self.graph.node):
            for name in filter(None, node.input):
                self.readers.setdefault(name, []).append(place)
        self.outputs = frozenset(value.name for value in self.graph.output)

    def data(self, place: int) -> list[str]:
        """The tensors that a node computes with, as opposed to weights, shapes and other settings."""
        node = self.graph.node[place]
        return list(node.input) if node.op_type in _MIXING else list(node.input[:1])

    def end(self, place: int) -> int | None:
        """The Relu or Clip that alone reads what a node writes."""
        outputs = self.graph.node[place].output
        readers = self.readers.get(outputs[0], [])
        if len(outputs) != 1 or outputs[0] in self.outputs or len(readers) != 1:
            return None
        return readers[0] if self.graph.node[readers[0]].op_type in ENDS else None

    def bounds(self, place: int) -> tuple[float, float]:
        """What a Relu or Clip cuts at; NaN where that is not known."""
        node = self.graph.node[place]
        if node.op_type == "Relu":
            return 0.0, np.inf
        limits = [-np.inf, np.inf]
        for side, name in enumerate(node.input[1:3]):
            if name:
                limits[side] = float(numpy_helper.to_array(self.constants[name])) if name in self.constants else np.nan
        return limits[0], limits[1]


@dataclass(frozen=True)
class Placement:
    """What is quantised.

    integer    places of the nodes that compute in integers
    tensors    those that are quantised, in the order in which they are written
    grid_of    by tensor: the one whose scale and zero point it has, often itself
    unsigned   the tensors that cannot be negative, whatever the images
    ceilings   by tensor: what it cannot exceed, where that is known
    inside     the tensors that integer nodes write, of which the others read what is left after quantisation
    dropped    places of the Relu that quantisation makes superfluous
    """

    integer: frozenset[int]
    tensors: tuple[str, ...]
    grid_of: Mapping[str, str]
    unsigned: frozenset[str]
    ceilings: Mapping[str, float]
    inside: frozenset[str]
    dropped: frozenset[int]


def place(graph: Graph, layers: Collection[int]) -> Placement:
    """How to compute the nodes `layers` in integers, and what lies between them, where that can be done."""
    integer = _integer(graph, layers)
    wanted = set(_quantised(graph, integer))
    order = [value.name for value in graph.graph.input] + [name for node in graph.graph.node for name in node.output]
    grid_of: dict[str, str] = {}
    unsigned, ceilings, dropped = set[str](), dict[str, float](), set[int]()
    for name in order:
        grid_of[name] = name
        number = graph.writer.get(name)
        if number is None:
            continue
        node = graph.graph.node[number]
        if number in integer and node.op_type in SAME:
            grid_of[name] = grid_of[node.input[0]]
        if node.op_type in ENDS:
            low, high = graph.bounds(number)
            ceilings |= {name: high} if np.isfinite(high) else {}
            if low >= 0:
                unsigned.add(name)
            if node.op_type == "Relu" and name in wanted and _ended(graph, number, integer):
                dropped.add(number)
        elif node.op_type == "Sigmoid" or (
            node.op_type in (*SAME, *_MIXING, *_OTHER) and all(tensor in unsigned for tensor in graph.data(number))
        ):
            unsigned.add(name)
    tensors = tuple(name for name in order if name in wanted)
    return Placement(
        frozenset(integer),
        tensors,
        {name: grid_of[name] for name in tensors},
        frozenset(unsigned),
        ceilings,
        frozenset(name for name in tensors if _written_by(graph, name, integer)),
        frozenset(dropped),
    )


def _integer(graph: Graph, layers: Collection[int]) -> set[int]:
    """`layers`, and the nodes that both read what an integer node writes and write what one reads."""
    nodes = graph.graph.node
    carriers = {
        number
        for number, node in enumerate(nodes)
        if node.op_type in (*SAME, *_MIXING, *_OTHER)
        and node.domain in ("", "ai.onnx")
        and not any(name in graph.constants for name in graph.data(number))
    }
    integer = set(layers) | carriers
    while True:
        idle = {
            number
            for number in integer - set(layers)
            if not any(_written_by(graph, name, integer) for name in graph.data(number))
            or not all(_is_read(graph, name, integer) for name in nodes[number].output)
        }
        if not idle:
            return integer
        integer -= idle


def _written_by(graph: Graph, name: str, integer: set[int]) -> bool:
    """Whether an integer node writes the tensor, perhaps through the Relu or Clip at its end."""
    number = graph.writer.get(name)
    return number is not None and (number in integer or _ended(graph, number, integer))


def _ended(graph: Graph, number: int, integer: Collection[int]) -> bool:
    """Whether `number` is the Relu or Clip at the end of an integer node."""
    node = graph.graph.node[number]
    if node.op_type not in ENDS:
        return False
    before = graph.writer.get(node.input[0])
    if before is None or before not in integer or graph.graph.node[before].op_type in SAME:
        return False
    return graph.end(before) == number and not np.isnan(graph.bounds(number)).any()


def _is_read(graph: Graph, name: str, integer: set[int]) -> bool:
    """Whether an integer node reads the tensor, perhaps through a Relu or Clip behind it."""
    readers = graph.readers.get(name, [])
    if any(number in integer for number in readers):
        return True
    ends = [graph.graph.node[number].output[0] for number in readers if _ended(graph, number, integer)]
    return any(number in integer for end in ends for number in graph.readers.get(end, []))


def _quantised(graph: Graph, integer: set[int]) -> Iterator[str]:
    """What integer nodes read, and what they write; a matrix product can write numbers as they are."""
    for number in integer:
        node = graph.graph.node[number]
        yield from graph.data(number)
        if node.op_type in ("Gemm", "MatMul"):
            continue
        end = graph.end(number)
        through = end is not None and _ended(graph, end, integer)
        yield from graph.graph.node[end].output if through and end is not None else node.output

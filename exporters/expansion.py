"""Functions in an ONNX file, counted as they will be expanded: ten functions that call the next ten times make 10**10 nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import onnx

from qcompress.errors import InputError

__all__ = ["check_functions"]

_MOST_PER_NODE, _SPARE_NODES = 16, 20_000  # nodes after expansion, per node in the file, and anyway
_TRUST = "export the network without functions, or get the file from another source"

_Key = tuple[str, str, str]  # domain, name, overload


def check_functions(model: onnx.ModelProto, name: str) -> None:
    """Pass a model whose functions, written out where they are called, make a network of a size that the file explains.

    `name` stands for it in errors. Raises InputError for one that grows without end, or calls itself.
    """
    if not model.functions:
        return
    own = {(function.domain, function.name, function.overload) for function in model.functions}
    calls = {(function.domain, function.name, function.overload): _calls(function.node, own) for function in model.functions}
    there = _size(model.graph.node) + sum(_size(function.node) for function in model.functions)
    most = _MOST_PER_NODE * there + _SPARE_NODES
    sizes = {(function.domain, function.name, function.overload): _size(function.node) for function in model.functions}
    expanded = _size(model.graph.node)
    waiting = _calls(model.graph.node, own)
    for key in _callers_first(calls, name):
        times = waiting.pop(key, 0)
        expanded += times * sizes[key]
        if expanded > most:
            raise InputError(f"{name}: its functions make more than {most:,} nodes of the {there:,} that are there", _TRUST)
        for called, count in calls[key].items():
            waiting[called] += times * count


def _callers_first(calls: Mapping[_Key, Counter[_Key]], name: str) -> list[_Key]:
    """The functions in an order in which each stands before those that it calls. Raises InputError where there is none."""
    left = Counter(called for counts in calls.values() for called in counts)
    free = [key for key in calls if not left[key]]
    order: list[_Key] = []
    while free:
        key = free.pop()
        order.append(key)
        for called in calls[key]:
            left[called] -= 1
            if not left[called]:
                free.append(called)
    if len(order) < len(calls):
        raise InputError(f"{name}: a function in it calls itself", _TRUST)
    return order


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterable[onnx.NodeProto]:
    """`nodes`, and those of the graphs in their attributes."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                waiting.extend(graph.node)


def _calls(nodes: Iterable[onnx.NodeProto], own: set[_Key]) -> Counter[_Key]:
    keys = ((node.domain, node.op_type, node.overload) for node in _nodes(nodes))
    return Counter(key for key in keys if key in own)


def _size(nodes: Iterable[onnx.NodeProto]) -> int:
    return sum(1 for _ in _nodes(nodes))

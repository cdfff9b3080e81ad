"""ONNX in, ONNX out: the slim network's weights go back into the graph that they came from.

Nothing is exported anew: operations, opset, names and dynamic sizes stay as they were, only the weights are smaller. What a
graph has written into it (the sizes of a view, say) was part of the network when its units were tried, so it fits.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from qcompress.errors import ExportError
from qcompress.exporters import external_data, lowering, modules
from qcompress.exporters.base import Artifact, first_line
from qcompress.exporters.runtime import STRIDE_KEY, open_bytes
from qcompress.files import write_bytes

__all__ = ["original", "rewrite"]

_WRONG = 1e-4  # relative difference from the module that no rounding explains
_STANDARD = ("", "ai.onnx")
_PLACES: dict[str, tuple[str, ...]] = {  # inputs of a node behind its first, as its module calls them
    "Conv": ("weight", "bias"),
    "ConvTranspose": ("weight", "bias"),
    "Gemm": ("weight", "bias"),
    "BatchNormalization": ("weight", "bias", "running_mean", "running_var"),
    "InstanceNormalization": ("weight", "bias"),
}

Array = NDArray[np.float32]


@dataclass
class _Graph:
    """A graph being rewritten: its nodes by their first output, its weights by name, and how often each is used."""

    model: onnx.ModelProto
    nodes: dict[str, Any] = field(init=False)
    weights: dict[str, Any] = field(init=False)
    uses: Counter[str] = field(init=False)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.nodes = {node.output[0]: node for node in graph.node if node.output}
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.uses = Counter(name for node in graph.node for name in node.input)

    def set_input(self, node: Any, place: int, value: Array) -> None:
        """Make `value` the constant at `place` of `node`; weights that other nodes use as well stay theirs."""
        while len(node.input) <= place:
            node.input.append("")
        name = node.input[place]
        if name in self.weights and self.uses[name] == 1:
            self.weights[name].CopyFrom(numpy_helper.from_array(value, name))
            return
        fresh = f"{node.output[0]}.{place}"
        while fresh in self.weights or fresh in self.nodes:
            fresh += "_"
        self.model.graph.initializer.append(numpy_helper.from_array(value, fresh))
        self.weights[fresh] = self.model.graph.initializer[-1]
        self.uses[name] -= 1
        self.uses[fresh] = 1
        node.input[place] = fresh

    def drop_unused(self) -> None:
        """Remove weights that no node uses any more."""
        kept = [tensor for tensor in self.model.graph.initializer if self.uses[tensor.name] > 0]
        del self.model.graph.initializer[:]
        self.model.graph.initializer.extend(kept)


def original(source: Path) -> Artifact:
    """The file `source` as it is: the dense network of a run that began with it."""
    data = source.read_bytes()
    opset = _opset(onnx.load_model(str(source), load_external_data=False))
    return Artifact(source, "onnx", len(data), hashlib.sha256(data).hexdigest(), opset, dynamic=False)


def rewrite(
    source: Path, dense: nn.Module, slim: nn.Module, example: Tensor, path: Path, *, metadata: Mapping[str, str]
) -> Artifact:
    """Write the graph of `source` to `path`, with the weights of `slim`, which was made from its conversion `dense`.

    `example` is a float32 (N, C, H, W) input. Raises ExportError where a weight has no place in the graph, or the graph
    computes something else than `slim`; OutputError where `path` cannot be written.
    """
    data, external = external_data.read(source)
    model = onnx.load_model(str(source)) if external else onnx.ModelProto.FromString(data)
    lowered = modules.named(lowering.lowered(model, str(source)))
    outputs = {node.output[0] for node in model.graph.node if node.output}
    whole = not model.functions and all(node.output[0] in outputs for node in lowered.graph.node if node.op_type in _PLACES)
    graph = _Graph(model if whole else lowered)
    _write_layers(graph, lowered, dense, slim)
    _write_constants(graph, dense, slim)
    graph.drop_unused()
    del graph.model.graph.value_info[:]  # the sizes of before
    known = {entry.key: entry.value for entry in graph.model.metadata_props}
    onnx.helper.set_model_props(graph.model, {**known, **metadata})
    written = graph.model.SerializeToString()
    _compare(written, slim, example)
    write_bytes(path, written)
    dynamic = all(size.HasField("dim_param") for size in _sizes(graph.model)[2:])
    digest = hashlib.sha256(written).hexdigest()
    return Artifact(path, "onnx", len(written), digest, _opset(graph.model), dynamic, tuple(_notes(metadata)))


def _write_layers(graph: _Graph, lowered: onnx.ModelProto, dense: nn.Module, slim: nn.Module) -> None:
    """The weights of every layer that changed."""
    ours, theirs = dict(slim.named_modules()), dict(dense.named_modules())
    for node in lowered.graph.node:
        found = _layer(ours.get(node.name)), _layer(theirs.get(node.name))
        if node.op_type not in _PLACES or found[0] is None or found[1] is None:
            continue
        target = graph.nodes[node.output[0]]
        for place, (key, value) in enumerate(_tensors(found[0], node), start=1):
            before = getattr(found[1], key)
            if value is not None and (before is None or not _same(before, getattr(found[0], key))):
                graph.set_input(target, place, value)
        groups = getattr(found[0], "groups", None)
        if isinstance(groups, int) and groups != getattr(found[1], "groups", None):
            _set_attribute(target, "group", groups)


def _layer(module: nn.Module | None) -> nn.Module | None:
    """The module that holds the weights: behind an uneven padding it is the second of two."""
    if isinstance(module, nn.Sequential):
        return next((child for child in module if hasattr(child, "weight")), None)
    return module if module is not None and hasattr(module, "weight") else None


def _tensors(module: nn.Module, node: Any) -> Iterator[tuple[str, Array | None]]:
    """(name, value as the node wants it) of each of the node's constants."""
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    for key in _PLACES[node.op_type]:
        tensor = getattr(module, key, None)
        if tensor is None:
            yield key, None
            continue
        value = tensor.detach().cpu().float().numpy()
        if node.op_type == "Gemm":
            if key == "weight" and not attributes.get("transB", 0):
                value = value.T
            value = value / attributes.get("alpha" if key == "weight" else "beta", 1.0)
        yield key, np.ascontiguousarray(value, np.float32)


def _write_constants(graph: _Graph, dense: nn.Module, slim: nn.Module) -> None:
    """Gains and other constants that belong to no layer: told by their values."""
    ours = dict(slim.named_buffers())
    for name, before in dense.named_buffers():
        if not name.startswith("initializers.") or name not in ours or _same(before, ours[name]):
            continue
        places = [
            key for key, tensor in graph.weights.items() if np.array_equal(numpy_helper.to_array(tensor), before.cpu().numpy())
        ]
        if len(places) != 1:
            raise ExportError(
                f"a constant of shape {tuple(before.shape)} was cut, and {len(places)} weights of the file have its values",
                "keep the layers around it with --ignore",
            )
        value = np.ascontiguousarray(ours[name].detach().cpu().numpy())
        graph.weights[places[0]].CopyFrom(numpy_helper.from_array(value, places[0]))


def _same(a: Tensor, b: Tensor | None) -> bool:
    return b is not None and a.shape == b.shape and bool(torch.equal(a.cpu(), b.cpu()))


def _set_attribute(node: Any, name: str, value: int) -> None:
    for attribute in node.attribute:
        if attribute.name == name:
            attribute.i = value
            return
    node.attribute.append(onnx.helper.make_attribute(name, value))


def _compare(data: bytes, slim: nn.Module, example: Tensor) -> None:
    """Raises where onnxruntime finds something else in the file than torch in the module."""
    written = open_bytes(data, "the rewritten network")
    image = torch.rand(example.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = slim.cpu().eval()(image.clone()).numpy()
    try:
        got = written(image.numpy())
    except Exception as error:
        raise ExportError(f"the file's own graph does not run with the slim weights: {first_line(error)}") from error
    difference = float(np.abs(got - expected).max(initial=0.0)) if got.shape == expected.shape else float("inf")
    if not difference <= _WRONG * max(float(np.abs(expected).max(initial=0.0)), 1e-30):
        raise ExportError(f"the file's own graph with the slim weights differs from the slim network by {difference:.2g}")


def _sizes(model: onnx.ModelProto) -> Any:
    weights = {tensor.name for tensor in model.graph.initializer}
    return next(value for value in model.graph.input if value.name not in weights).type.tensor_type.shape.dim


def _opset(model: onnx.ModelProto) -> int:
    return next((entry.version for entry in model.opset_import if entry.domain in _STANDARD), 0)


def _notes(metadata: Mapping[str, str]) -> Iterator[str]:
    yield "the file's own graph was kept: opset, names and sizes are as they were"
    if metadata.get(STRIDE_KEY, "1") not in ("", "1"):
        yield f"height and width must be multiples of {metadata[STRIDE_KEY]}"

"""One forward pass that is watched: labels flow with the tensors, through every operation and every layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from qcompress.groups import Layer, Side
from qcompress.masks import channel_axis
from qcompress.tracing_labels import Labels, Rank, Reason, varying
from qcompress.tracing_layers import is_sliceable, per_channel_buffers
from qcompress.tracing_ops import RULES, Call, Labelled, unified

__all__ = ["HANDED_THROUGH", "Flow", "Product", "Split", "watch"]

HANDED_THROUGH = ("batchnorm", "instancenorm", "groupnorm", "prelu", "depthwise")
"""Kinds of layers whose outputs come and go with their inputs: one side only, "out"."""


@dataclass(frozen=True, eq=False)
class Split:
    """A tensor whose labels change along several axes, of which one only can shrink.

    `modules` are the names of those that were being called, the outermost first.
    """

    labels: Tensor
    shape: tuple[int, ...]
    modules: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Product:
    """An operation that costs MACs and belongs to no layer that is cut; its result's labels."""

    where: str
    operation: str
    labels: Tensor


class Flow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Labels of the tensors of one forward pass. Entered by `watch`.

    `sides` holds the labels of each layer's channels at each side, `tables` those of each parameter of several axes that
    belongs to no layer; `seen` the layers that were called, in order.
    """

    def __init__(self, model: nn.Module, layers: Sequence[Layer]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.labels = Labels()
        self.sides: dict[tuple[str, Side], Tensor] = {}
        self.seen: dict[str, None] = {}
        self.splits: list[Split] = []
        self.products: list[Product] = []
        self.tables: dict[str, Tensor] = {}
        self._layers = {layer.name: layer for layer in layers}
        self._tensors: dict[int, tuple[Tensor, Tensor]] = {}  # the tensor is held so that its id stays its own
        self._modules: list[str] = []
        self._inside = 0  # how many known layers are being called: their operations are not looked at
        self._parameters = _owners(model)

    def enter(self, inputs: Sequence[Tensor]) -> None:
        """The network's inputs, (batch, channels, ...): what is tied to them stays."""
        for x in inputs:
            channels = x.shape[1] if x.dim() > 1 else 1
            labels = self.labels.fresh([1, channels, *[1] * (x.dim() - 2)][: x.dim()])
            self.labels.keep(labels, Reason(Rank.INPUT, "its channels are tied to the network's input"))
            self._set(x, labels)

    def leave(self, outputs: Sequence[Tensor]) -> None:
        """The network's outputs: they stay."""
        for out in outputs:
            self.labels.keep(self._of(out).labels, Reason(Rank.OUTPUT, "its outputs are the network's outputs"))

    def side(self, layer: str, side: Side, channels: int) -> Tensor:
        """(channels,) the labels of a side of a layer."""
        if (layer, side) not in self.sides:
            self.sides[layer, side] = self.labels.fresh([channels])
        return self.sides[layer, side]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run `func` and label what it returns."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self._inside:
            outputs = tuple(leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, Tensor))
            given = [leaf for leaf in torch.utils._pytree.tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)]
            packet = func._overloadpacket
            if outputs and not all(map(self._is_constant, given)):
                self._label(packet.__name__, func, args, kwargs, given, outputs)
            if packet in flop_registry:
                labels = self._of(outputs[0]).labels if outputs else torch.zeros(0, dtype=torch.int64)
                self.products.append(Product(self._where(), packet.__name__, labels))
        return result

    def _label(
        self,
        name: str,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        given: Sequence[Tensor],
        outputs: tuple[Tensor, ...],
    ) -> None:
        in_place = name.endswith("_")
        call = Call(func, args, kwargs, outputs, self.labels, self._of, self._is_constant, name.rstrip("_"), self._where())
        rule = RULES.get(call.name)
        if in_place and call.name not in _IN_PLACE:
            rule = None
        found = _in_place(call) if rule and in_place else rule(call) if rule else None
        if found is None or any(not _fits(labels, out) for labels, out in zip(found, outputs, strict=True)):
            reason = self._refusal(call.name)
            for tensor in given:
                if not self._is_constant(tensor):
                    self.labels.keep(self._of(tensor).labels, reason)
            found = []
            for out in outputs:
                found.append(self.labels.fresh([1] * out.dim()))
                self.labels.keep(found[-1], reason)
        for out, labels in zip(outputs, found, strict=True):
            self._set(out, labels)
            if len(varying(labels)) > 1:
                self.splits.append(Split(labels, tuple(out.shape), tuple(self._modules)))

    def _refusal(self, operation: str) -> Reason:
        where = self._where()
        layer = self._layers.get(where)
        if layer is not None and not is_sliceable(layer):
            return Reason(Rank.LAYER, f"its channels meet {where} (operation {operation}), which is not cut")
        return Reason(
            Rank.OPERATION, f"operation {operation}{f' in {where}' if where else ''} is not known to keep channels apart"
        )

    def _where(self) -> str:
        return self._modules[-1] if self._modules else ""

    def _set(self, tensor: Tensor, labels: Tensor) -> None:
        self._tensors[id(tensor)] = (tensor, labels)

    def _is_constant(self, tensor: Tensor) -> bool:
        """Whether nothing is known of `tensor`: it was made of no input and no parameter."""
        return id(tensor) not in self._tensors and id(tensor) not in self._parameters

    def _of(self, tensor: Tensor) -> Labelled:
        if id(tensor) in self._tensors:
            return Labelled(tuple(tensor.shape), self._tensors[id(tensor)][1])
        if id(tensor) not in self._parameters:
            return Labelled(tuple(tensor.shape), self._constant(tensor))
        self._set(tensor, self._parameter(tensor))
        return self._of(tensor)

    def _constant(self, tensor: Tensor) -> Tensor:
        labels = self.labels.fresh([1] * tensor.dim())
        if tensor.numel() > 1:
            self.labels.keep(labels, Reason(Rank.OPERATION, "its channels meet a constant of a fixed size"))
        return labels

    def _parameter(self, tensor: Tensor) -> Tensor:
        """A parameter that the network uses outside of its layer: a gain per channel has labels of its own."""
        name, owner = self._parameters[id(tensor)]
        layer = self._layers.get(owner)
        if layer is not None and layer.kind != "other":  # a layer whose weight is used behind its back stays
            reason = Reason(Rank.LAYER, f"the parameters of {owner} are used outside of it")
            for side, total in (("out", layer.outputs), ("in", layer.inputs)):
                self.labels.keep(self.side(owner, side, total), reason)  # type: ignore[arg-type]
        elif name in self._layers:
            axis = next(axis for axis, size in enumerate(tensor.shape) if size > 1)
            self.seen[name] = None
            shape = [size if at == axis else 1 for at, size in enumerate(tensor.shape)]
            return self.side(name, "out", tensor.shape[axis]).reshape(shape)
        elif 1 < tensor.numel() <= _LARGEST_TABLE:
            self.tables[name] = self.labels.fresh(tensor.shape)
            return self.tables[name]
        else:
            reason = Reason(Rank.LAYER, f"its channels meet parameter {name}, which is too large to be followed")
        labels = self.labels.fresh([1] * tensor.dim())
        if tensor.numel() > 1:
            self.labels.keep(labels, reason)
        return labels

    def before(self, name: str, module: nn.Module) -> bool:
        """`module` is being called; whether it is a layer whose operations are not to be looked at."""
        self._modules.append(name)
        layer = self._layers.get(name)
        known = layer is not None and is_sliceable(layer)
        self._inside += known
        return known

    def after(self, name: str, module: nn.Module, x: object, output: object) -> None:
        """`module` was called on `x`."""
        self._modules.pop()
        layer = self._layers.get(name)
        if layer is None or not is_sliceable(layer):
            return
        self._inside -= 1
        if self._inside:
            return
        self.seen[name] = None
        assert isinstance(output, Tensor)
        axis = channel_axis(module) % output.dim()
        if not isinstance(x, Tensor) or x.dim() != output.dim() or (axis == 1 and x.dim() < 2):
            self._keep_layer(layer, "it is called in a way that cannot be followed")
            return
        known = self._of(x)
        others = [at for at in range(x.dim()) if at != axis]
        incoming = Labelled(known.shape, self.labels.tie(known.labels, others)).along(axis).reshape(-1)
        shape = [1] * output.dim()
        shape[axis] = -1
        self._set(output, self._through(layer, module, incoming).reshape(shape))

    def _keep_layer(self, layer: Layer, text: str) -> None:
        for side, total in (("out", layer.outputs), ("in", layer.inputs)):
            self.labels.keep(self.side(layer.name, side, total), Reason(Rank.LAYER, text))  # type: ignore[arg-type]

    def _through(self, layer: Layer, module: nn.Module, incoming: Tensor) -> Tensor:
        """The labels of a layer's output channels, those of its input channels being `incoming`."""
        if layer.kind == "prelu" and layer.outputs == 1:
            return incoming  # one slope for all channels
        outgoing = self.side(layer.name, "out", layer.outputs)
        if layer.kind == "depthwise":
            blocks = outgoing.reshape(layer.divisions, -1)
            self.labels.tie(blocks, [1])
            self.labels.unite(incoming.reshape(layer.divisions, -1), blocks[:, :1])
        elif layer.kind in HANDED_THROUGH:
            self.labels.unite(incoming, outgoing)
            if layer.kind == "groupnorm":
                self.labels.note(outgoing, Reason(Rank.OPERATION, f"GroupNorm {layer.name} mixes its channels"))
                self.labels.tie(outgoing.reshape(layer.divisions, -1), [1])
        else:
            into = self.side(layer.name, "in", layer.inputs)
            self.labels.unite(incoming, into)
            for labels in (into, outgoing):  # equal places of all divisions
                self.labels.tie(labels.reshape(layer.divisions, -1), [0])
        return outgoing


_LARGEST_TABLE = 2**20  # numbers of one parameter that get a label each

_IN_PLACE = frozenset(name for name, rule in RULES.items() if rule is RULES["add"])


def _in_place(call: Call) -> list[Tensor] | None:
    return [unified(call, call.tensors(), call.first().shape)]


def _fits(labels: Tensor, tensor: Tensor) -> bool:
    return labels.dim() == tensor.dim() and all(a in (1, b) for a, b in zip(labels.shape, tensor.shape, strict=True))


def _owners(model: nn.Module) -> dict[int, tuple[str, str]]:
    """The id of each parameter, and of each buffer of numbers per channel -> its name and its first module's name."""
    found: dict[int, tuple[str, str]] = {}
    for owner, module in model.named_modules():
        for name, parameter in (*module._parameters.items(), *per_channel_buffers(module)):
            if parameter is not None:
                found.setdefault(id(parameter), (f"{owner}.{name}" if owner else name, owner))
    return found


@contextmanager
def watch(model: nn.Module, flow: Flow) -> Iterator[None]:
    """Inside the context, calls of `model` are seen by `flow`; without gradients, so that operations arrive in their parts."""
    handles = []
    for name, module in model.named_modules():

        def before(module: nn.Module, args: Any, name: str = name) -> None:
            flow.before(name, module)

        def after(module: nn.Module, args: Any, kwargs: Any, output: object, name: str = name) -> None:
            values = (*args, *kwargs.values())
            flow.after(name, module, values[0] if values else None, output)

        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after, with_kwargs=True))
    with ExitStack() as stack:
        for handle in handles:
            stack.callback(handle.remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(flow)
        yield

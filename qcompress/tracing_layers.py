"""What the layers of a network are and what they cost: one forward pass, before anything is coupled or cut."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from qcompress.errors import ArchitectureError
from qcompress.frozen import answer
from qcompress.groups import Layer, LayerKind

__all__ = ["LayerCosts", "count_costs", "in_parts", "is_sliceable", "kind_of", "per_channel_buffers"]

_PLAIN: tuple[type[nn.Module], ...] = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
    nn.PReLU,
)
_InstanceNorm = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


@dataclass(frozen=True)
class LayerCosts:
    """`layers` in the order of execution (those never executed last); `executed` and `tied` are names of layers.

    A layer is `tied` if it shares a parameter with another one. `products` are the MACs of each operation outside of layers
    that surgery can cut, in the order of execution.
    """

    layers: tuple[Layer, ...]
    executed: frozenset[str]
    tied: frozenset[str]
    products: tuple[int, ...]


@contextmanager
def in_parts(model: nn.Module) -> Iterator[None]:
    """Inside the context, recurrent layers of `model` run as matrix products, which can be counted, not as one operation."""
    if not any(isinstance(module, nn.RNNBase) for module in model.modules()):
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the switch warns of hardware that is not there
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def kind_of(module: nn.Module) -> LayerKind:
    """The kind of `module`; "other" for everything that surgery cannot cut.

    Subclasses with a forward of their own, and layers whose weight is computed (weight_norm, parametrizations), are "other": a
    slice of the weight need not be the weight of the slice. A convolution of many small divisions is "depthwise": it loses
    whole divisions. One of few and large ones is a "conv": all its divisions lose channels at equal places.
    """
    base = next((plain for plain in _PLAIN if isinstance(module, plain)), None)
    if base is None or not _is_plain(type(module), base):
        return "other"
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return "batchnorm"
    if isinstance(module, _InstanceNorm):
        return "instancenorm"
    if isinstance(module, nn.GroupNorm):
        return "groupnorm"
    if module._parameters.get("weight") is None or "weight" in vars(module):
        return "other"
    if isinstance(module, nn.PReLU):
        return "prelu"
    if isinstance(module, nn.modules.conv._ConvNd):
        if module.groups > 1 and module.groups**2 >= module.in_channels:
            return "depthwise"
        return "conv_transpose" if module.transposed else "conv"
    return "linear"


def _is_plain(kind: type[nn.Module], base: type[nn.Module]) -> bool:
    return kind.forward is base.forward and getattr(kind, "_conv_forward", None) is getattr(base, "_conv_forward", None)


def is_sliceable(layer: Layer) -> bool:
    """Whether surgery can cut `layer` as a layer: a known kind of module."""
    return layer.kind not in ("other", "parameter", "heads", "product")


def _describe(name: str, module: nn.Module, calls: list[tuple[int, int]]) -> Layer | None:
    """The layer called `name`: `calls` holds (elements of the input, elements of the output) of each call on one image."""
    kind = kind_of(module)
    if kind in ("batchnorm", "instancenorm", "groupnorm"):
        channels = module.num_channels if isinstance(module, nn.GroupNorm) else module.num_features
        assert isinstance(channels, int)
        each = sum(parameter is not None for parameter in module._parameters.values())
        return Layer(name, kind, channels, channels, each, 0, each > 1, module.num_groups if kind == "groupnorm" else 1)  # type: ignore[arg-type]
    if isinstance(module, nn.PReLU) and kind == "prelu":
        return Layer(name, kind, module.num_parameters, module.num_parameters, 1, 0, False)
    if kind == "other":
        return None
    if isinstance(module, nn.Linear):
        positions = sum(out for _, out in calls) // module.out_features
        return Layer(name, "linear", module.in_features, module.out_features, 1, positions, module.bias is not None)
    assert isinstance(module, nn.modules.conv._ConvNd)
    positions = sum(into // module.in_channels if module.transposed else out // module.out_channels for into, out in calls)
    taps, bias = math.prod(module.kernel_size), module.bias is not None
    return Layer(name, kind, module.in_channels, module.out_channels, taps, positions, bias, module.groups)


@contextmanager
def _recording(modules: Mapping[str, nn.Module], calls: dict[str, list[tuple[int, int]]]) -> Iterator[None]:
    """Inside the context, every call of a module adds (elements in, elements out) to `calls`, in the order of execution."""

    def hook(name: str) -> object:
        def record(module: nn.Module, args: tuple[object, ...], output: object) -> None:
            into = args[0].numel() if args and isinstance(args[0], Tensor) else 0
            calls.setdefault(name, []).append((into, output.numel() if isinstance(output, Tensor) else 0))

        return record

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]  # type: ignore[arg-type]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the MACs of operations while no module of `layers` is being called."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs: list[int] = []
        self._inside = 0
        self._layers = layers

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run `func` and count."""
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None and not self._inside:
            self.macs.append(int(formula(*args, **(kwargs or {}), out_val=result)) // 2)
        return result

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside the context, calls of the layers are known as such."""

        def step(by: int) -> Any:
            def hook(*_: object) -> None:
                self._inside += by

            return hook

        handles = [layer.register_forward_pre_hook(step(1)) for layer in self._layers]
        handles += [layer.register_forward_hook(step(-1)) for layer in self._layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _own_parameters(modules: Mapping[str, nn.Module]) -> tuple[dict[str, dict[str, Tensor]], frozenset[str]]:
    """Per module its parameters that no earlier module has, and the names of modules that share one."""
    owners: dict[nn.Parameter, str] = {}
    tied: set[str] = set()
    own: dict[str, dict[str, Tensor]] = {name: {} for name in modules}
    for name, module in modules.items():
        for key, parameter in module._parameters.items():
            if parameter is None or owners.get(parameter) == name:
                continue
            if parameter in owners:
                tied |= {name, owners[parameter]}
            else:
                owners[parameter] = name
                own[name][key] = parameter
    return own, frozenset(tied)


def per_channel_buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    """The buffers of one number per channel that `module` holds itself: statistics, mostly."""
    buffers = ((name, buffer) for name, buffer in module._buffers.items() if buffer is not None)
    return [(name, b) for name, b in buffers if b.is_floating_point() and b.numel() == max(b.shape, default=0) > 1]


def _others(name: str, module: nn.Module, parameters: Mapping[str, Tensor], tied: bool) -> list[Layer]:
    """Of a module that is no known layer: what holds one number per channel, each by itself, and the rest together."""
    gains = {
        key: parameter
        for key, parameter in parameters.items()
        if parameter.numel() > 1 and parameter.numel() == max(parameter.shape) and not tied
    }
    rest = sum(parameter.numel() for key, parameter in parameters.items() if key not in gains)
    prefix = f"{name}." if name else ""
    found = [Layer(f"{prefix}{key}", "parameter", gain.numel(), gain.numel(), 1, 0, False) for key, gain in gains.items()]
    found += [Layer(f"{prefix}{key}", "parameter", b.numel(), b.numel(), 0, 0, False) for key, b in per_channel_buffers(module)]
    return [*found, Layer(name, "other", 0, 0, rest, 0, False)] if rest else found


def count_costs(model: nn.Module, inputs: Sequence[Tensor]) -> LayerCosts:
    """The layers of `model` with their exact costs on `inputs`, each (1, channels, ...); `model` must be in evaluation mode.

    A layer called several times costs each time. Layers that share a parameter count it once, as the first's, and become
    "other". Raises ArchitectureError if the forward pass fails.
    """
    modules = {name: module for name, module in model.named_modules() if module._parameters or module._buffers}
    own, tied = _own_parameters(modules)
    known = [module for name, module in modules.items() if name not in tied and kind_of(module) != "other"]
    calls: dict[str, list[tuple[int, int]]] = {}
    products = _Products(known)
    try:
        with torch.no_grad(), in_parts(model), _recording(modules, calls), products.watching(), products:
            answer(model, *inputs)
    except Exception as error:
        shape, reason = ", ".join(str(tuple(x.shape)) for x in inputs), " ".join(str(error).split())
        raise ArchitectureError(
            f"the network fails on an input of shape {shape}: {type(error).__name__}: {reason}",
            "give the number of channels and a size that the network accepts",
        ) from error
    order = [*calls, *(name for name in modules if name not in calls)]
    layers: list[Layer] = []
    for name in order:
        layer = None if name in tied else _describe(name, modules[name], calls.get(name, []))
        layers += _others(name, modules[name], own[name], name in tied) if layer is None else [layer]
    return LayerCosts(tuple(layers), frozenset(calls), tied, tuple(products.macs))

"""What the layers of a network are and what they cost: one forward pass, before anything is coupled or cut."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from qcompress.errors import ArchitectureError
from qcompress.groups import Layer, LayerKind

__all__ = ["LayerCosts", "count_costs", "is_sliceable", "kind_of"]

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
    nn.PReLU,
)


@dataclass(frozen=True)
class LayerCosts:
    """`layers` in the order of execution (those never executed last); `executed` and `tied` are names of layers.

    A layer is `tied` if it shares a parameter with another one.
    """

    layers: tuple[Layer, ...]
    executed: frozenset[str]
    tied: frozenset[str]


def kind_of(module: nn.Module) -> LayerKind:
    """The kind of `module`; "other" for everything that surgery cannot cut.

    Subclasses with a forward of their own, and layers whose weight is computed (weight_norm, parametrizations), are "other": a
    slice of the weight need not be the weight of the slice. A convolution of several divisions is a "conv", see `is_sliceable`.
    """
    base = next((plain for plain in _PLAIN if isinstance(module, plain)), None)
    if base is None or type(module).forward is not base.forward:
        return "other"
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return "batchnorm"
    if module._parameters.get("weight") is None or "weight" in vars(module):
        return "other"
    if isinstance(module, nn.PReLU):
        return "prelu"
    if isinstance(module, nn.modules.conv._ConvNd):
        if module.groups > 1 and module.groups == module.in_channels == module.out_channels:
            return "depthwise"
        return "conv_transpose" if module.transposed else "conv"
    return "linear"


def is_sliceable(layer: Layer) -> bool:
    """Whether surgery can cut `layer`: a known kind, and no convolution of several divisions but a depthwise one."""
    return layer.kind != "other" and layer.divisions == 1


def _describe(name: str, module: nn.Module, calls: list[tuple[int, int]], params: int) -> Layer:
    """The layer called `name`: `calls` holds (elements of the input, elements of the output) of each call on one image."""
    kind = kind_of(module)
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and kind == "batchnorm":
        return Layer(name, kind, module.num_features, module.num_features, 2 if module.affine else 0, 0, module.affine)
    if isinstance(module, nn.PReLU) and kind == "prelu":
        return Layer(name, kind, module.num_parameters, module.num_parameters, 1, 0, False)
    if isinstance(module, nn.Linear):
        positions = sum(out for _, out in calls) // module.out_features
        layer = Layer(name, "linear", module.in_features, module.out_features, 1, positions, module.bias is not None)
    elif isinstance(module, nn.modules.conv._ConvNd):
        taps = math.prod(module.kernel_size)
        positions = sum(into // module.in_channels if module.transposed else out // module.out_channels for into, out in calls)
        divisions = 1 if kind == "depthwise" else module.groups
        bias = module.bias is not None
        layer = Layer(name, kind, module.in_channels, module.out_channels, taps, positions, bias, divisions)
    else:
        return Layer(name, "other", 0, 0, params, 0, False)
    if kind == "other":  # a known layer in disguise: its costs are right, but fixed
        weighed = replace(layer, kind="conv")
        return Layer(name, "other", 0, 0, params, weighed.macs(layer.inputs, layer.outputs), False)
    return layer


@contextmanager
def _recording(modules: dict[str, nn.Module], calls: dict[str, list[tuple[int, int]]]) -> Iterator[None]:
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


def _own_parameters(modules: dict[str, nn.Module]) -> tuple[dict[str, int], frozenset[str]]:
    """Number of parameters per module that no earlier module has, and the names of modules that share one."""
    owners: dict[nn.Parameter, str] = {}
    tied: set[str] = set()
    numbers = dict.fromkeys(modules, 0)
    for name, module in modules.items():
        for parameter in dict.fromkeys(p for p in module._parameters.values() if p is not None):
            if parameter in owners:
                tied |= {name, owners[parameter]}
            else:
                owners[parameter] = name
                numbers[name] += parameter.numel()
    return numbers, frozenset(tied)


def count_costs(model: nn.Module, example: Tensor) -> LayerCosts:
    """The layers of `model` with their exact costs on `example`, (1, channels, ...); `model` must be in evaluation mode.

    A layer called several times costs each time. Layers that share a parameter count it once, as the first's, and become
    "other". Raises ArchitectureError if the forward pass fails.
    """
    modules = {
        name: module
        for name, module in model.named_modules()
        if module._parameters or isinstance(module, nn.modules.batchnorm._BatchNorm)
    }
    calls: dict[str, list[tuple[int, int]]] = {}
    try:
        with torch.no_grad(), _recording(modules, calls):
            model(example)
    except Exception as error:
        shape, reason = tuple(example.shape), " ".join(str(error).split())
        raise ArchitectureError(
            f"the network fails on an input of shape {shape}: {type(error).__name__}: {reason}",
            "give the number of channels and a size that the network accepts",
        ) from error
    numbers, tied = _own_parameters(modules)
    order = [*calls, *(name for name in modules if name not in calls)]
    layers = []
    for name in order:
        layer = _describe(name, modules[name], calls.get(name, []), numbers[name])
        if name in tied and layer.kind != "other":
            layer = Layer(name, "other", 0, 0, numbers[name], layer.macs(layer.inputs, layer.outputs), False)
        layers.append(layer)
    return LayerCosts(tuple(layers), frozenset(calls), tied)

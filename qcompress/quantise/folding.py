"""BatchNorm folded into the layer before it: what is left has one weight per product, which is what a grid is laid over."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qcompress.frozen import answer, frozen
from qcompress.quantise.layers import own_layers
from qcompress.quantise.trials import Change, harmless
from qcompress.recover.design import set_matrix, weight_matrix
from qcompress.recover.moments import affine

__all__ = ["fold"]


def fold(model: nn.Module, example: Tensor) -> nn.Module:
    """A copy of `model`, in evaluation mode, whose BatchNorm layers are an Identity where the layer before can do their work.

    That is a convolution of any kind or a linear layer whose every output goes to this BatchNorm and nowhere else; it gets a
    bias where it had none. All names stay. `example` is (N, C, ...): every fold has been seen to leave what the network
    returns for it as it is, to 1e-5 relative. A BatchNorm elsewhere, or one that normalises by the statistics of its batch,
    stays.
    """
    folds = [_fold(layer, norm) for layer, norm in _pairs(model, example)]
    folded = copy.deepcopy(model).eval()
    for place in harmless(model, folds, example):
        folds[place](folded)
    return folded


def _fold(layer: str, norm: str) -> Change:
    """The change that gives the work of BatchNorm `norm` to `layer`."""

    def change(model: nn.Module) -> None:
        module, batchnorm = affine(model, layer), model.get_submodule(norm)
        assert isinstance(batchnorm, nn.modules.batchnorm._BatchNorm)
        gain, shift = _affine_of(batchnorm)
        matrix = weight_matrix(module)
        matrix = matrix * gain.reshape(len(matrix), 1, -1)
        matrix[:, -1] += shift.reshape(len(matrix), -1)
        set_matrix(module, matrix)
        place, _, name = norm.rpartition(".")
        setattr(model.get_submodule(place), name, nn.Identity())

    return change


def _affine_of(batchnorm: nn.modules.batchnorm._BatchNorm) -> tuple[Tensor, Tensor]:
    """(channels,) float64 gain and shift that the layer is in evaluation mode."""
    assert batchnorm.running_mean is not None
    assert batchnorm.running_var is not None
    gain = (batchnorm.running_var.double() + batchnorm.eps).rsqrt()
    if batchnorm.weight is not None:
        gain = gain * batchnorm.weight.detach().double()
    shift = -batchnorm.running_mean.double() * gain
    if batchnorm.bias is not None:
        shift = shift + batchnorm.bias.detach().double()
    return gain, shift


def _pairs(model: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """(layer, BatchNorm) where the one's output is all that the other ever gets; who else gets it is not known."""
    layers = own_layers(model)
    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    }
    made: dict[int, tuple[Tensor, int, str]] = {}  # by id; the tensor is held, so that its id stays its own
    calls: dict[str, list[str | None]] = {name: [] for name in (*layers, *norms)}

    def after(name: str, output: Tensor) -> None:
        made[id(output)] = output, output._version, name
        calls[name].append(None)

    def before(name: str, x: Tensor) -> None:
        tensor, version, layer = made.get(id(x), (None, 0, None))
        calls[name].append(layer if tensor is x and x._version == version else None)

    with torch.no_grad(), frozen(model), _hooked(model, layers, norms, after, before):
        answer(model, example)
    return [
        (sources[0], name)
        for name in norms
        if (sources := calls[name]) and sources[0] is not None and set(sources) == {sources[0]}
        if len(calls[sources[0]]) == len(sources)
    ]


@contextmanager
def _hooked(model: nn.Module, layers: Any, norms: Any, after: Any, before: Any) -> Iterator[None]:
    handles = []

    def watch(name: str) -> None:
        module = model.get_submodule(name)
        if name in layers:
            handles.append(module.register_forward_hook(lambda _, __, output: after(name, output)))
        else:
            handles.append(module.register_forward_pre_hook(lambda _, args: before(name, args[0])))

    try:
        for name in (*layers, *norms):
            watch(name)
        yield
    finally:
        for handle in handles:
            handle.remove()

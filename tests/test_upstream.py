"""What Torch-Pruning's dependency graph gets wrong, why channels are followed by our own labels, and a watch on its repair.

Each case cuts channels of one convolution by its README's recipe and compares with the dense network, in which the same
channels were silenced where they are consumed. A case that fails here is good news: upstream repaired it, and it can go.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
import torch_pruning
from torch import Tensor, nn
from zoo import ODD, PRUNABLE, Flow, architecture, conv, network

from qcompress.surgery import relative_difference

Consumed = dict[str, list[int]]  # layer -> input channels that the cut ones arrive at

RIGHT = {
    "dncnn": ("model.0", [1], {"model.2.0": [1]}),
    "parts": ("left", [1], {"out": [1]}),
    "gated": ("a", [1], {"b": [1]}),
    "stacked": ("a", [1], {"b": [2, 3]}),
}
WRONG: dict[str, tuple[str, list[int], Consumed]] = {
    "swapped": ("a", [1], {"b": [1, 5]}),  # two halves used in the other order
    "half-unused": ("a", [1], {"b": [1]}),  # the second half only
    "every-other": ("a", [1], {}),  # x[:, ::2]
    "shuffled": ("a", [1, 5], {"b": [2, 3]}),  # view, transpose, reshape
    "selective": ("a", [1, 5], {"b": [1]}),  # view and a softmax over two halves
    "padded": ("a", [1], {"b": [1], "out": [2]}),  # zeros on both sides of the channels
    "reversed": ("a", [1], {"b": [6]}),
    "rolled": ("a", [1], {"b": [2]}),
    "group-norm": ("0", [0, 1, 2, 3], {"3": [0, 1, 2, 3]}),  # one of two norm groups: it stays at two, of half the size
    "with-input-first": ("a", [1], {"c": [4]}),  # cat([x, a(x)])
}
CRASHING: dict[str, tuple[str, list[int], str]] = {
    "first-channels": ("a", [1], "expected input"),  # x[:, :5]
    "permuted": ("a", [3], "out of bounds"),  # x[:, index]
    "repeated": ("a", [1], "expected input"),
    "pixel-shuffle": ("0", [0, 1, 2, 3], "expected input"),
    "pixel-unshuffle": ("0", [1], "expected input"),
    "instance-norm": ("0", [1], "running_mean"),
    "multiplied": ("0", [1], "expected input"),  # a depthwise convolution with a multiplier
    "narrowed": ("0", [2, 3], "expected input"),  # as many divisions as outputs, fewer than inputs
    "grouped-transposed": ("0", [2, 3], "expected weight"),
    "weight-norm": ("2", [1], "already exists"),
    "spectral-norm": ("2", [1], "already exists"),
    "functional": ("a", [1], "expected input"),  # a convolution that is no module's
    "added-to-input": ("a", [1], "must match"),  # x + a(x)
    "yolo-c2f": ("c2f.cv1.0", [1], "expected input"),
    "edsr": ("tail.0", [0, 1, 2, 3], "expected input"),  # a pixel shuffle inside the network
    "yolo-fixed-split": ("stem.0", [1], "list index out of range"),
}


def case(name: str) -> tuple[nn.Module, Tensor]:
    """A network of the zoo, or one of two that hold on to their input."""
    if name in PRUNABLE or name in ODD:
        return network(name)
    if name == "with-input-first":
        model: nn.Module = Flow(lambda m, x: m.c(torch.cat([x, m.a(x)], 1)), a=conv(3, 4), c=conv(7, 2))
    elif name == "added-to-input":
        model = Flow(lambda m, x: m.c(torch.relu(x + m.a(x))), a=conv(3, 3), c=conv(3, 2))
    else:
        model, (image,) = architecture(name)
        return model, image
    return model.double(), torch.rand(2, 3, 8, 8, dtype=torch.float64)


def cut(model: nn.Module, inputs: tuple[Tensor, ...], layer: str, channels: list[int]) -> object:
    """What `model` returns once upstream has removed `channels` of `layer`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=inputs, verbose=False)
        prune: Any = torch_pruning.prune_conv_out_channels
        graph.get_pruning_group(model.get_submodule(layer), prune, idxs=channels).prune()
    with torch.no_grad():
        return model(*inputs)


def silenced(model: nn.Module, x: Tensor, consumed: Consumed) -> object:
    """What the dense network returns with those input channels at zero."""
    dense = copy.deepcopy(model).eval()
    with torch.no_grad():
        for layer, channels in consumed.items():
            dense.get_parameter(f"{layer}.weight")[:, channels] = 0
        return dense(x)


def difference(name: str, layer: str, channels: list[int], consumed: Consumed) -> float:
    model, x = case(name)
    model.eval()
    expected = silenced(model, x, consumed)
    return relative_difference(cut(model, (x,), layer, channels), expected)


@pytest.mark.parametrize("name", RIGHT)
def test_upstream_is_right_where_it_follows(name: str) -> None:
    assert difference(name, *RIGHT[name]) < 1e-12


@pytest.mark.parametrize("name", WRONG)
def test_upstream_computes_something_else_and_says_nothing(name: str) -> None:
    assert 1e-2 < difference(name, *WRONG[name]) < float("inf")


@pytest.mark.parametrize("name", CRASHING)
def test_upstream_fails(name: str) -> None:
    layer, channels, message = CRASHING[name]
    model, x = case(name)
    with pytest.raises((RuntimeError, IndexError, KeyError), match=message):
        cut(model.eval(), (x,), layer, channels)


def test_upstream_sees_nothing_of_a_frozen_network() -> None:
    model, x = network("dncnn")
    with pytest.raises(ValueError, match="not in the dependency graph"):
        cut(model.eval().requires_grad_(False), (x,), "model.0", [1])


@pytest.mark.parametrize(
    ("model", "shape", "exact"),
    [
        (nn.ConvTranspose2d(4, 3, 2, 2), (1, 4, 8, 8), 8 * 8 * 4 * 3 * 2 * 2),
        (nn.LSTM(4, 5, batch_first=True), (1, 9, 4), 9 * 4 * 5 * (4 + 5)),
    ],
)
def test_upstream_miscounts_operations(model: nn.Module, shape: tuple[int, ...], exact: int) -> None:
    counted, _ = torch_pruning.utils.count_ops_and_params(model, torch.rand(shape))
    assert counted > 2 * exact

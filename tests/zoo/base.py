"""What the networks of the zoo are built from, and what an entry says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["IMAGE", "Basic", "Builder", "Flow", "Network", "Shape", "block", "conv", "point"]

Shape = tuple[int, ...]
Builder = Callable[[], nn.Module]

IMAGE: Shape = (3, 16, 16)


@dataclass(frozen=True)
class Network:
    """A network, one example's shape for each of its inputs, and the least that tracing must find in it.

    `kept` names layers whose outputs stay, each with words of the reason.
    """

    build: Builder
    groups: int
    units: int
    shapes: tuple[Shape, ...] = (IMAGE,)
    kept: Mapping[str, str] = field(default_factory=dict)


class Flow(nn.Module):
    """Layers by name, and what is computed with them."""

    def __init__(self, forward: Callable[..., object], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.flow = forward

    def forward(self, *x: Tensor) -> object:
        return self.flow(self, *x)


def conv(inputs: int, outputs: int, size: int = 3, **settings: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **settings)


def point(inputs: int, outputs: int, **settings: Any) -> nn.Conv2d:
    return conv(inputs, outputs, 1, **settings)


def block(inputs: int, outputs: int, activation: nn.Module | None = None, **settings: Any) -> nn.Sequential:
    """Convolution, BatchNorm, activation."""
    layers = conv(inputs, outputs, bias=False, **settings), nn.BatchNorm2d(outputs)
    return nn.Sequential(*layers, activation or nn.ReLU(inplace=True))


class Basic(nn.Module):
    """A ResNet block, with a projection where the width or the size changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs, bias=False), nn.BatchNorm2d(outputs)
        self.down: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Any:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(y + self.down(x))

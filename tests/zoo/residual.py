"""ResNets: what a sum couples, with every kind of shortcut, and grouped convolutions."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from zoo.base import Basic, Network, block, conv, point

__all__ = ["NETWORKS"]


def _classifier(width: int, *body: nn.Module) -> nn.Module:
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))


class _Bottleneck(nn.Module):
    """Narrow, convolve (in divisions, for ResNeXt), widen, add."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = point(inputs, inner, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = conv(inner, inner, stride=stride, groups=groups, bias=False), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = point(inner, outputs, bias=False), nn.BatchNorm2d(outputs)
        self.excite: nn.Module = nn.Identity()
        self.down: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.down = nn.Sequential(point(inputs, outputs, stride=stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.excite(functional.relu(self.bn2(self.conv2(y))))
        return functional.relu(self.bn3(self.conv3(y)) + self.down(x))


class _Excite(nn.Module):
    """Squeeze and excitation, as RegNet-Y has it."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.pool, self.fc1, self.fc2 = nn.AdaptiveAvgPool2d(1), point(width, inner), point(inner, width)

    def forward(self, x: Tensor) -> Any:
        return x * self.fc2(functional.relu(self.fc1(self.pool(x)))).sigmoid()


class _OptionA(nn.Module):
    """The CIFAR ResNet's block: a shortcut without weights, every other pixel and zeros for the new channels."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, stride=stride, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs, bias=False), nn.BatchNorm2d(outputs)
        self.more = (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.more:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more, self.more), "constant", 0)
        return functional.relu(y + x)


class _PreActivation(nn.Module):
    """BatchNorm and ReLU before the convolutions; the projection takes what comes behind them."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, outputs, stride=stride, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv(outputs, outputs, bias=False)
        self.down = point(inputs, outputs, stride=stride, bias=False) if stride > 1 or inputs != outputs else None

    def forward(self, x: Tensor) -> Any:
        y = functional.relu(self.bn1(x))
        shortcut = x if self.down is None else self.down(y)
        return self.conv2(functional.relu(self.bn2(self.conv1(y)))) + shortcut


def _basic() -> nn.Module:
    return _classifier(8, block(3, 6), Basic(6, 6), Basic(6, 8, 2), Basic(8, 8))


def _bottleneck() -> nn.Module:
    return _classifier(24, block(3, 8), _Bottleneck(8, 4, 16), _Bottleneck(16, 4, 16), _Bottleneck(16, 6, 24, 2))


def _option_a() -> nn.Module:
    return _classifier(12, block(3, 8), _OptionA(8, 8), _OptionA(8, 12, 2), _OptionA(12, 12))


def _pre_activation() -> nn.Module:
    body = conv(3, 6, bias=False), _PreActivation(6, 6), _PreActivation(6, 9, 2), _PreActivation(9, 9)
    return _classifier(9, *body, nn.BatchNorm2d(9), nn.ReLU())


def _resnext() -> nn.Module:
    return _classifier(16, block(3, 8), _Bottleneck(8, 12, 16, groups=3), _Bottleneck(16, 12, 16, groups=3))


def _regnet() -> nn.Module:
    first, second = _Bottleneck(8, 12, 12, 2, groups=3), _Bottleneck(12, 12, 12, groups=3)
    first.excite, second.excite = _Excite(12, 3), _Excite(12, 3)
    return _classifier(12, block(3, 8), first, second)


NETWORKS = {
    "resnet-basic": Network(_basic, groups=5, units=36),
    "resnet-bottleneck": Network(_bottleneck, groups=9, units=76),
    "resnet-option-a": Network(_option_a, groups=4, units=40),  # of the padded 12 channels, the 8 that are not zeros
    "resnet-pre-activation": Network(_pre_activation, groups=5, units=39),
    "resnext": Network(_resnext, groups=6, units=40),  # four places in each of three divisions, at either side
    "regnet": Network(_regnet, groups=8, units=42),
}

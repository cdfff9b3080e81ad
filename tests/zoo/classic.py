"""Classifiers from before residuals, and DenseNet."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.base import Network, block, conv, point

__all__ = ["NETWORKS"]


def _plain() -> nn.Module:
    return nn.Sequential(conv(3, 6), nn.ReLU(), conv(6, 7), nn.LeakyReLU(0.1), conv(7, 5), nn.ReLU(), conv(5, 3))


def _vgg() -> nn.Module:
    """VGG with BatchNorm: a flatten of 2x2 places between features and classifier."""
    features = block(3, 8), block(8, 8), nn.MaxPool2d(2), block(8, 10), block(10, 10), nn.MaxPool2d(2), block(10, 12)
    head = nn.Linear(48, 20), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(20, 16), nn.ReLU(inplace=True), nn.Dropout()
    return nn.Sequential(*features, nn.AdaptiveAvgPool2d(2), nn.Flatten(), *head, nn.Linear(16, 4))


class _Inception(nn.Module):
    """Four branches, concatenated."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.one = block(inputs, 4)
        self.three = nn.Sequential(point(inputs, 3), nn.ReLU(), block(3, 5))
        self.five = nn.Sequential(point(inputs, 2), nn.ReLU(), conv(2, 3, 5), nn.BatchNorm2d(3), nn.ReLU())
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), point(inputs, 2), nn.BatchNorm2d(2), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)


def _inception() -> nn.Module:
    body = block(3, 8), nn.MaxPool2d(2), _Inception(8), _Inception(14)
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(14, 3))


class _DenseLayer(nn.Module):
    """BatchNorm before the convolution, a bottleneck, and everything before it handed on."""

    def __init__(self, inputs: int, growth: int = 4) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), point(inputs, 2 * growth, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(2 * growth), conv(2 * growth, growth, bias=False)

    def forward(self, *features: Tensor) -> Any:
        x = self.conv1(functional.relu(self.norm1(torch.cat(features, 1))))
        return self.conv2(functional.relu(self.norm2(x)))


class _DenseBlock(nn.Module):
    """Layers that all take what all before them made."""

    def __init__(self, inputs: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_DenseLayer(inputs + 4 * number) for number in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(*features))
        return torch.cat(features, 1)


def _densenet() -> nn.Module:
    transition = nn.BatchNorm2d(18), nn.ReLU(), point(18, 9, bias=False), nn.AvgPool2d(2)
    end = nn.BatchNorm2d(17), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(17, 3)
    return nn.Sequential(block(3, 6), _DenseBlock(6, 3), *transition, _DenseBlock(9, 2), *end)


NETWORKS = {
    "plain": Network(_plain, groups=3, units=18, kept={"6": "the network's outputs"}),
    "vgg": Network(_vgg, groups=7, units=84),
    "inception": Network(_inception, groups=13, units=46),
    "densenet": Network(_densenet, groups=12, units=75),
}

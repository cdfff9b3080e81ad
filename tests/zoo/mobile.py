"""Networks for phones: depthwise convolutions, gates, channel shuffles."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.base import Network, conv, point

__all__ = ["NETWORKS"]


def _unit(inputs: int, outputs: int, size: int, activation: nn.Module, **settings: Any) -> list[nn.Module]:
    return [conv(inputs, outputs, size, bias=False, **settings), nn.BatchNorm2d(outputs), activation]


def _classifier(width: int, *body: nn.Module) -> nn.Module:
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(width, 3))


class _Excite(nn.Module):
    """Squeeze and excitation with the activations of the family."""

    def __init__(self, width: int, inner: int, activation: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.down, self.up, self.activation, self.gate = point(width, inner), point(inner, width), activation, gate

    def forward(self, x: Tensor) -> Any:
        y = functional.adaptive_avg_pool2d(x, 1)
        return self.gate(self.up(self.activation(self.down(y)))) * x


class _Inverted(nn.Module):
    """Widen (unless the factor is 1), depthwise, excite, narrow; add where nothing changed."""

    def __init__(
        self,
        inputs: int,
        inner: int,
        outputs: int,
        activation: type[nn.Module],
        *,
        stride: int = 1,
        size: int = 3,
        squeeze: int = 0,
    ) -> None:
        super().__init__()
        layers = _unit(inputs, inner, 1, activation()) if inner != inputs else []
        layers += _unit(inner, inner, size, activation(), stride=stride, groups=inner)
        if squeeze and activation is nn.SiLU:
            layers.append(_Excite(inner, squeeze, nn.SiLU(), nn.Sigmoid()))
        elif squeeze:
            layers.append(_Excite(inner, squeeze, nn.ReLU(), nn.Hardsigmoid()))
        self.body = nn.Sequential(*layers, point(inner, outputs, bias=False), nn.BatchNorm2d(outputs))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Any:
        return x + self.body(x) if self.adds else self.body(x)


def _mobilenet_v2() -> nn.Module:
    body = (_Inverted(8, 8, 6, nn.ReLU6), _Inverted(6, 12, 6, nn.ReLU6), _Inverted(6, 12, 8, nn.ReLU6, stride=2))
    return _classifier(14, *_unit(3, 8, 3, nn.ReLU6(), stride=2), *body, *_unit(8, 14, 1, nn.ReLU6()))


def _mobilenet_v3() -> nn.Module:
    stem = _unit(3, 8, 3, nn.Hardswish(), stride=2)
    body = _Inverted(8, 12, 8, nn.ReLU, size=5, squeeze=4), _Inverted(8, 14, 10, nn.Hardswish, stride=2)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 12), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(12, 4)
    return nn.Sequential(*stem, *body, *_unit(10, 16, 1, nn.Hardswish()), *head)


def _efficientnet() -> nn.Module:
    body = _Inverted(8, 8, 6, nn.SiLU, squeeze=2), _Inverted(6, 18, 6, nn.SiLU, size=5, squeeze=2)
    return _classifier(12, *_unit(3, 8, 3, nn.SiLU(), stride=2), *body, *_unit(6, 12, 1, nn.SiLU()))


def _shuffle(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


class _ShuffleOne(nn.Module):
    """ShuffleNet: grouped pointwise convolutions with a shuffle between them."""

    def __init__(self, width: int, inner: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1, self.bn1 = point(width, inner, groups=2, bias=False), nn.BatchNorm2d(inner)
        self.depth, self.bn2 = conv(inner, inner, stride=stride, groups=inner, bias=False), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = point(inner, width, groups=2, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = _shuffle(functional.relu(self.bn1(self.conv1(x))), 2)
        y = self.bn3(self.conv3(self.bn2(self.depth(y))))
        if self.stride == 1:
            return functional.relu(x + y)
        return functional.relu(torch.cat([functional.avg_pool2d(x, 3, 2, 1), y], 1))


class _ShuffleTwo(nn.Module):
    """ShuffleNetV2: one half passes, one is convolved; with stride 2, both are and the width may change."""

    def __init__(self, inputs: int, half: int, stride: int) -> None:
        super().__init__()
        taken = inputs if stride > 1 else inputs // 2
        depth = conv(half, half, stride=stride, groups=half, bias=False)
        layers = *_unit(taken, half, 1, nn.ReLU()), depth, nn.BatchNorm2d(half), *_unit(half, half, 1, nn.ReLU())
        self.branch2 = nn.Sequential(*layers)
        if stride > 1:
            first = conv(inputs, inputs, stride=stride, groups=inputs, bias=False), nn.BatchNorm2d(inputs)
            self.branch1 = nn.Sequential(*first, *_unit(inputs, half, 1, nn.ReLU()))
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            left, right = x.chunk(2, dim=1)
            return _shuffle(torch.cat((left, self.branch2(right)), 1), 2)
        return _shuffle(torch.cat((self.branch1(x), self.branch2(x)), 1), 2)


def _shufflenet_v1() -> nn.Module:
    return _classifier(
        10, *_unit(3, 8, 3, nn.ReLU()), _ShuffleOne(8, 12, 1), _ShuffleOne(8, 12, 2), *_unit(16, 10, 1, nn.ReLU())
    )


def _shufflenet_v2() -> nn.Module:
    body = _ShuffleTwo(8, 4, 1), _ShuffleTwo(8, 6, 2), _ShuffleTwo(12, 6, 1)
    return _classifier(10, *_unit(3, 8, 3, nn.ReLU()), *body, *_unit(12, 10, 1, nn.ReLU()))


class _Ghost(nn.Module):
    """Half of the features from a convolution, half from a depthwise one behind it, cut to the width that was asked."""

    def __init__(self, inputs: int, outputs: int, relu: bool = True) -> None:
        super().__init__()
        self.outputs = outputs
        primary = -(-outputs // 2)
        self.primary = nn.Sequential(*_unit(inputs, primary, 1, nn.ReLU() if relu else nn.Identity()))
        self.cheap = nn.Sequential(*_unit(primary, primary, 3, nn.ReLU() if relu else nn.Identity(), groups=primary))

    def forward(self, x: Tensor) -> Tensor:
        y = self.primary(x)
        return torch.cat([y, self.cheap(y)], 1)[:, : self.outputs, :, :]


class _GhostBottleneck(nn.Module):
    """Two ghost modules, excitation between them, and a shortcut."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int = 1, squeeze: int = 0) -> None:
        super().__init__()
        layers: list[nn.Module] = [_Ghost(inputs, inner)]
        if stride > 1:
            layers += [conv(inner, inner, stride=stride, groups=inner, bias=False), nn.BatchNorm2d(inner)]
        if squeeze:
            layers.append(_Excite(inner, squeeze, nn.ReLU(), nn.Hardsigmoid()))
        self.body = nn.Sequential(*layers, _Ghost(inner, outputs, relu=False))
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            depth = conv(inputs, inputs, stride=stride, groups=inputs, bias=False), nn.BatchNorm2d(inputs)
            self.shortcut = nn.Sequential(*depth, point(inputs, outputs, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Any:
        return self.body(x) + self.shortcut(x)


def _ghostnet() -> nn.Module:
    body = _GhostBottleneck(8, 12, 8), _GhostBottleneck(8, 16, 12, stride=2, squeeze=4)
    return _classifier(10, *_unit(3, 8, 3, nn.ReLU(), stride=2), *body, *_unit(12, 10, 1, nn.ReLU()))


NETWORKS = {
    "mobilenet-v2": Network(_mobilenet_v2, groups=6, units=60),
    "mobilenet-v3": Network(_mobilenet_v3, groups=7, units=76),
    "efficientnet": Network(_efficientnet, groups=6, units=48),
    "shufflenet-v1": Network(_shufflenet_v1, groups=5, units=24),  # a unit inside a block is four channels
    "shufflenet-v2": Network(_shufflenet_v2, groups=6, units=33),  # both halves of a trunk together
    "ghostnet": Network(_ghostnet, groups=6, units=38),  # a feature and its ghost together
}

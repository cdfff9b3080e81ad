"""Super-resolution: pixel shuffles, long residuals, dense blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.base import Network, conv, point

__all__ = ["NETWORKS"]


def _espcn() -> nn.Module:
    return nn.Sequential(conv(3, 8, 5), nn.Tanh(), conv(8, 6), nn.Tanh(), conv(6, 12), nn.PixelShuffle(2))


class _MeanShift(nn.Conv2d):
    """The mean of a data set taken off, or put back, by a fixed convolution."""

    def __init__(self, sign: int) -> None:
        super().__init__(3, 3, 1)
        self.weight.data = torch.eye(3).view(3, 3, 1, 1)
        self.bias = nn.Parameter(sign * torch.tensor([0.45, 0.44, 0.40]))
        self.requires_grad_(False)


class _Residual(nn.Module):
    """EDSR's block: its branch is scaled by a constant."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(width, width), nn.ReLU(inplace=True), conv(width, width))
        self.scale = scale

    def forward(self, x: Tensor) -> Any:
        return self.body(x).mul(self.scale) + x


class _EDSR(nn.Module):
    """Residual blocks inside a residual, then a pixel shuffle within the network."""

    def __init__(self) -> None:
        super().__init__()
        self.sub_mean, self.add_mean = _MeanShift(-1), _MeanShift(1)
        self.head = nn.Sequential(conv(3, 8))
        self.body = nn.Sequential(_Residual(8, 0.1), _Residual(8, 0.1), conv(8, 8))
        self.tail = nn.Sequential(conv(8, 32), nn.PixelShuffle(2), conv(8, 3))

    def forward(self, x: Tensor) -> Any:
        x = self.head(self.sub_mean(x))
        return self.add_mean(self.tail(self.body(x) + x))


class _Attention(nn.Module):
    """RCAN's channel attention."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.du = nn.Sequential(point(width, inner), nn.ReLU(inplace=True), point(inner, width), nn.Sigmoid())

    def forward(self, x: Tensor) -> Any:
        return x * self.du(self.pool(x))


class _Added(nn.Module):
    """A chain of layers whose result is added to its input."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Any:
        return self.body(x) + x


def _rcan() -> nn.Module:
    blocks = [_Added(conv(8, 8), nn.ReLU(inplace=True), conv(8, 8), _Attention(8, 2)) for _ in range(2)]
    body = _Added(_Added(*blocks, conv(8, 8)), conv(8, 8))
    return nn.Sequential(conv(3, 8), body, conv(8, 32), nn.PixelShuffle(2), conv(8, 3))


def _fsrcnn() -> nn.Module:
    shrink = conv(3, 10, 5), nn.PReLU(10), point(10, 4), nn.PReLU(4)
    middle = conv(4, 4), nn.PReLU(4), conv(4, 4), nn.PReLU(4), point(4, 10), nn.PReLU(10)
    return nn.Sequential(*shrink, *middle, nn.ConvTranspose2d(10, 3, 9, 2, 4, output_padding=1))


class _Compact(nn.Module):
    """Real-ESRGAN's compact network: slopes per channel, and the image itself, resized, added to what is learnt."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(3, 8), nn.PReLU(8)]
        for _ in range(3):
            layers += [conv(8, 8), nn.PReLU(8)]
        self.body = nn.ModuleList([*layers, conv(8, 12)])
        self.upsampler = nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Any:
        y = x
        for layer in self.body:
            y = layer(y)
        return self.upsampler(y) + functional.interpolate(x, scale_factor=2, mode="nearest")


class _DenseBlock(nn.Module):
    """Convolutions that all take everything before them; the last is scaled and added."""

    def __init__(self, width: int = 8, growth: int = 4) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(width, growth), conv(width + growth, growth)
        self.conv3 = conv(width + 2 * growth, width)
        self.lrelu = nn.LeakyReLU(0.2, inplace=True)

    def forward(self, x: Tensor) -> Any:
        x1 = self.lrelu(self.conv1(x))
        x2 = self.lrelu(self.conv2(torch.cat((x, x1), 1)))
        return self.conv3(torch.cat((x, x1, x2), 1)) * 0.2 + x


class _RRDB(nn.Module):
    """ESRGAN's network: residuals in residuals of dense blocks, resized by repetition."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_first, self.conv_body = conv(3, 8), conv(8, 8)
        self.body = nn.Sequential(_DenseBlock(), _DenseBlock())
        self.conv_up, self.conv_hr, self.conv_last = conv(8, 8), conv(8, 8), conv(8, 3)
        self.lrelu = nn.LeakyReLU(0.2, inplace=True)

    def forward(self, x: Tensor) -> Any:
        y = self.conv_first(x)
        y = y + self.conv_body(self.body(y) * 0.2 + y)
        y = self.lrelu(self.conv_up(functional.interpolate(y, scale_factor=2, mode="nearest")))
        return self.conv_last(self.lrelu(self.conv_hr(y)))


def _srresnet() -> nn.Module:
    def residual() -> nn.Module:
        first = conv(8, 8, bias=False), nn.BatchNorm2d(8), nn.PReLU()
        return _Added(*first, conv(8, 8, bias=False), nn.BatchNorm2d(8))

    body = _Added(residual(), residual(), conv(8, 8, bias=False), nn.BatchNorm2d(8))
    up = conv(8, 32), nn.PixelShuffle(2), nn.PReLU()
    return nn.Sequential(conv(3, 8, 9), nn.PReLU(), body, *up, conv(8, 3, 9))


NETWORKS = {
    "espcn": Network(_espcn, groups=2, units=14, kept={"4": "the network's outputs"}),
    "edsr": Network(_EDSR, groups=4, units=32),  # four channels of the last but one together
    "rcan": Network(_rcan, groups=6, units=36),
    "fsrcnn": Network(_fsrcnn, groups=5, units=32),
    "compact": Network(_Compact, groups=4, units=32),
    "rrdb": Network(_RRDB, groups=7, units=40),
    "srresnet": Network(_srresnet, groups=4, units=32),
}

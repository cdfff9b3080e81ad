"""Single patterns: small networks with every coupling there is.

`PRUNABLE` must be traced exactly; `ODD` may be refused, in part or altogether, but never traced wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from qcompress.architectures.half_unet import HalfUNet
from zoo.base import Basic, Builder, Flow, Shape, block, conv

__all__ = ["IMAGE", "ODD", "PRUNABLE", "Residual", "UNet"]


class Residual(nn.Module):
    """x - f(x), f a chain of convolutions."""

    def __init__(self, norm: bool, channels: int = 1, width: int = 7) -> None:
        super().__init__()
        middle = [block(width, width) if norm else nn.Sequential(conv(width, width), nn.ReLU(inplace=True)) for _ in range(2)]
        self.model = nn.Sequential(conv(channels, width), nn.ReLU(inplace=True), *middle, conv(width, channels))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.model(x)
        return x - y


class UNet(nn.Module):
    """Concatenated skips, transposed convolutions up."""

    def __init__(self) -> None:
        super().__init__()
        self.e0, self.e1, self.e2 = block(3, 4), block(4, 6), block(6, 8)
        self.pool = nn.MaxPool2d(2)
        self.u1, self.d1 = nn.ConvTranspose2d(8, 5, 2, 2), block(11, 6)
        self.u0, self.d0 = nn.ConvTranspose2d(6, 4, 2, 2, bias=False), block(8, 4)
        self.out = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.e0(x)
        b = self.e1(self.pool(a))
        b = self.d1(torch.cat([self.u1(self.e2(self.pool(b))), b], 1))
        y: Tensor = self.out(self.d0(torch.cat([self.u0(b), a], 1)))
        return x + y


class Inverted(nn.Module):
    """A MobileNet block: widen, depthwise, narrow, add."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.widen = nn.Sequential(nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(inplace=True))
        self.depth = nn.Sequential(conv(inner, inner, groups=inner), nn.BatchNorm2d(inner), nn.Hardswish())
        self.narrow = nn.Sequential(nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.narrow(self.depth(self.widen(x)))
        return x + y


def _classifier() -> nn.Module:
    head = (nn.Flatten(), nn.Linear(6 * 16, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.5), nn.Linear(9, 4))
    return nn.Sequential(conv(3, 5), nn.ReLU(), nn.MaxPool2d(2), conv(5, 6), nn.Tanh(), *head)


def _resnet() -> nn.Module:
    body = (block(3, 5), Basic(5, 5), Basic(5, 7, 2), Basic(7, 7))
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 3))


def _mobilenet() -> nn.Module:
    return nn.Sequential(block(3, 6), Inverted(6, 9), Inverted(6, 9), conv(6, 2))


def _excited() -> nn.Module:
    """Squeeze and excitation, which gates every channel."""

    def forward(self: Any, x: Tensor) -> object:
        y = self.a(x)
        return self.c(y * torch.sigmoid(self.up(functional.relu(self.down(y.mean((2, 3), keepdim=True))))))

    return Flow(forward, a=block(3, 8), down=nn.Conv2d(8, 3, 1), up=nn.Conv2d(3, 8, 1), c=conv(8, 3))


def _attended() -> nn.Module:
    """An attention gate: one map for all channels."""

    def forward(self: Any, x: Tensor) -> object:
        y = self.a(x)
        return self.c(y * torch.sigmoid(self.gate(y)))

    return Flow(forward, a=block(3, 8), gate=nn.Conv2d(8, 1, 1), c=conv(8, 3))


def _shared() -> nn.Module:
    """One convolution called twice: its inputs and outputs are coupled."""

    def forward(self: Any, x: Tensor) -> object:
        return self.c(functional.relu(self.b(functional.relu(self.b(self.a(x))))))

    return Flow(forward, a=conv(3, 6), b=conv(6, 6), c=conv(6, 3))


def _smooth() -> nn.Module:
    """Activations with f(0) != 0, PReLU with one slope and with many, bilinear resizing, spatial slices and padding."""

    def forward(self: Any, x: Tensor) -> object:
        y = self.many(self.b(torch.sigmoid(self.a(x))))
        y = functional.interpolate(y[:, :, ::2, 1:], scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.d(functional.pad(torch.exp(-self.one(self.c(y))), (1, 1)))

    return Flow(forward, a=conv(3, 6), b=conv(6, 5), many=nn.PReLU(5), c=conv(5, 4), one=nn.PReLU(), d=conv(4, 2))


def _dense() -> nn.Module:
    """Concatenations of concatenations, one of a tensor with itself and one with the input."""

    def forward(self: Any, x: Tensor) -> object:
        a = functional.relu(self.a(x))
        ab = torch.cat([a, functional.relu(self.b(a))], 1)
        c = self.norm(torch.cat([ab, self.c(ab), ab], 1))
        return self.d(torch.cat([x, c, x.mean((2, 3), keepdim=True).expand_as(x)], 1))

    return Flow(forward, a=conv(3, 4), b=conv(4, 5), c=conv(9, 3), norm=nn.BatchNorm2d(21), d=conv(27, 2))


def _parts() -> nn.Module:
    """A sum whose one side is a concatenation: one layer in two groups, and the first to run in both."""

    def forward(self: Any, x: Tensor) -> object:
        whole = self.whole(x)
        return self.out(functional.relu(whole + torch.cat([self.left(x), self.right(x)], 1)))

    return Flow(forward, whole=conv(3, 7), left=conv(3, 4), right=conv(3, 3), out=conv(7, 2))


def _several() -> nn.Module:
    """Two outputs, of which one is also used inside."""

    def forward(self: Any, x: Tensor) -> object:
        y = functional.relu(self.a(x))
        side = self.side(y)
        return {"main": self.out(y + self.back(side)), "side": [side]}

    return Flow(forward, a=conv(3, 6), side=conv(6, 2), back=conv(2, 6), out=conv(6, 3))


def _upsampled() -> nn.Module:
    up = nn.ConvTranspose2d(6, 6, 4, 2, 1, groups=6)
    return nn.Sequential(block(3, 6), nn.AvgPool2d(2), up, nn.SiLU(), conv(6, 5), nn.Upsample(scale_factor=2), conv(5, 3))


def _one_dimensional() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 6, 5), nn.BatchNorm1d(6), nn.GELU(), nn.Conv1d(6, 4, 3), nn.ReLU(), nn.Conv1d(4, 2, 1))


IMAGE: Shape = (2, 3, 8, 8)
PRUNABLE: dict[str, tuple[Builder, Shape]] = {
    "half-unet": (lambda: HalfUNet(width=6, levels=3, ghost=False), IMAGE),
    "half-unet-ghost": (lambda: HalfUNet(width=8, levels=3), IMAGE),
    "dncnn": (lambda: Residual(norm=False), (2, 1, 8, 8)),
    "dncnn-norm": (lambda: Residual(norm=True), (2, 1, 8, 8)),
    "unet": (UNet, IMAGE),
    "classifier": (_classifier, IMAGE),
    "resnet": (_resnet, IMAGE),
    "mobilenet": (_mobilenet, IMAGE),
    "excited": (_excited, IMAGE),
    "attended": (_attended, IMAGE),
    "shared": (_shared, IMAGE),
    "smooth": (_smooth, IMAGE),
    "dense": (_dense, IMAGE),
    "parts": (_parts, IMAGE),
    "several": (_several, IMAGE),
    "upsampled": (_upsampled, IMAGE),
    "one-dimensional": (_one_dimensional, (2, 2, 16)),
    "perceptron": (lambda: nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 5), nn.Tanh(), nn.Linear(5, 2)), (2, 6)),
}


def _between(middle: Callable[[Tensor], Tensor], taken: int = 8) -> nn.Module:
    """Two convolutions, something between them (8 channels before, `taken` behind), and a third convolution."""

    def forward(self: Any, x: Tensor) -> object:
        return self.c(functional.relu(self.b(middle(functional.relu(self.a(x))))))

    return Flow(forward, a=conv(3, 8), b=conv(taken, 6), c=conv(6, 3))


def _layered(*layers: nn.Module, taken: int = 8) -> nn.Module:
    return nn.Sequential(conv(3, 8), nn.ReLU(), *layers, conv(taken, 6), nn.ReLU(), conv(6, 3))


def _shuffle(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def _swap(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return torch.cat([b, a], 1)


def _gate(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return a * torch.sigmoid(b)


def _select(x: Tensor) -> Tensor:
    """Selective kernels: a softmax over two halves."""
    n, c, h, w = x.shape
    halves = x.view(n, 2, c // 2, h, w)
    return (halves * halves.mean((3, 4), keepdim=True).softmax(1)).sum(1)


class Scale(nn.Module):
    """One factor per channel: a parameter of no known layer."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Standardised(nn.Conv2d):
    """A convolution whose weight is standardised over its input channels."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        y: Tensor = self._conv_forward(x, weight, self.bias)
        return y


class Tokens(nn.Module):
    """Attention over the places of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        y: Tensor = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return x + y.transpose(1, 2).reshape(x.shape)


def _detached() -> nn.Module:
    def forward(self: Any, x: Tensor) -> object:
        y = functional.relu(self.a(x))
        return self.c(functional.relu(self.b(y))) + self.aside(y.detach())

    return Flow(forward, a=conv(3, 8), b=conv(8, 6), c=conv(6, 3), aside=conv(8, 3))


def _functional() -> nn.Module:
    def forward(self: Any, x: Tensor) -> object:
        y = functional.relu(self.a(x))
        return self.c(functional.relu(functional.conv2d(y, self.get_parameter("b.weight"), padding=1)))

    return Flow(forward, a=conv(3, 8), b=conv(8, 6), c=conv(6, 3))


def _tied() -> nn.Module:
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 8), nn.ReLU(), conv(8, 8), nn.ReLU(), conv(8, 6), conv(6, 3))
    model[4].weight = model[2].weight
    return model


def _idle() -> nn.Module:
    return Flow(lambda self, x: self.b(functional.relu(self.a(x))), a=conv(3, 8), b=conv(8, 3), never=conv(5, 5))


def _option_a() -> nn.Module:
    def forward(self: Any, x: Tensor) -> object:
        y = functional.relu(self.a(x))
        return self.out(functional.relu(self.b(y) + functional.pad(y, (0, 0, 0, 0, 1, 1))))

    return Flow(forward, a=conv(3, 6), b=conv(6, 8), out=conv(8, 2))


def _constant_gain(x: Tensor) -> Tensor:
    return x * torch.linspace(1, 2, x.shape[1], dtype=x.dtype)[:, None, None]


def _ramp(x: Tensor) -> Tensor:
    return torch.cat([x, torch.linspace(0, 1, 64, dtype=x.dtype).view(1, 1, 8, 8).expand(len(x), 1, 8, 8)], 1)


ODD: dict[str, Builder] = {
    "swapped": lambda: _between(_swap),
    "gated": lambda: _between(_gate, 4),
    "half-unused": lambda: _between(lambda x: x.chunk(2, 1)[1], 4),
    "first-channels": lambda: _between(lambda x: x[:, :5], 5),
    "every-other": lambda: _between(lambda x: x[:, ::2], 4),
    "shuffled": lambda: _between(_shuffle),
    "selective": lambda: _between(_select, 4),
    "reversed": lambda: _between(lambda x: x.flip(1)),
    "permuted": lambda: _between(lambda x: x[:, torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])]),
    "transposed": lambda: _between(lambda x: x.transpose(1, 2)),
    "rolled": lambda: _between(lambda x: x.roll(1, 1)),
    "channel-softmax": lambda: _between(lambda x: x.softmax(1)),
    "channel-mean": lambda: _between(lambda x: x - x.mean(1, keepdim=True)),
    "channel-maximum": lambda: _between(lambda x: x * x.amax(1, keepdim=True)),
    "normalised": lambda: _between(lambda x: functional.normalize(x, dim=1)),
    "cumulative": lambda: _between(lambda x: x.cumsum(1)),
    "stacked": lambda: _between(lambda x: torch.stack([x, x], 2).flatten(1, 2), 16),
    "repeated": lambda: _between(lambda x: x.repeat(1, 2, 1, 1), 16),
    "constant-gain": lambda: _between(_constant_gain),
    "with-ramp": lambda: _between(_ramp, 9),
    "padded": _option_a,
    "pixel-shuffle": lambda: _layered(nn.PixelShuffle(2), taken=2),
    "pixel-unshuffle": lambda: _layered(nn.PixelUnshuffle(2), taken=32),
    "layer-norm": lambda: _layered(nn.LayerNorm([8, 8, 8])),
    "group-norm": lambda: _layered(nn.GroupNorm(2, 8)),
    "instance-norm": lambda: _layered(nn.InstanceNorm2d(8, affine=True, track_running_stats=True)),
    "plain-instance-norm": lambda: _layered(nn.InstanceNorm2d(8)),
    "response-norm": lambda: _layered(nn.LocalResponseNorm(3)),
    "grouped": lambda: _layered(conv(8, 8, groups=2)),
    "multiplied": lambda: _layered(conv(8, 16, groups=8), taken=16),
    "narrowed": lambda: _layered(conv(8, 4, groups=4), taken=4),
    "grouped-transposed": lambda: _layered(nn.ConvTranspose2d(8, 8, 3, padding=1, groups=4)),
    "weight-norm": lambda: _layered(nn.utils.parametrizations.weight_norm(conv(8, 8))),
    "spectral-norm": lambda: _layered(nn.utils.parametrizations.spectral_norm(conv(8, 8))),
    "standardised": lambda: _layered(Standardised(8, 8, 3, padding=1)),
    "layer-scale": lambda: _layered(Scale()),
    "tokens": lambda: _layered(Tokens()),
    "detached": _detached,
    "functional": _functional,
    "tied": _tied,
    "idle": _idle,
}

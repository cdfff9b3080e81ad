"""Networks nobody would write: random programs over what channels can go through. What tracing finds in them must hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from qcompress import seeds
from zoo.base import conv, point

__all__ = ["RandomNetwork"]

_CHANNELS = 8  # of the maps that most steps hand on, so that any two can be added


class _Gain(nn.Module):
    """A learnt factor and shift per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.ones(width, 1, 1)), nn.Parameter(torch.zeros(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma + self.beta


class _ChannelsLast(nn.Module):
    """A layer for the last axis, applied to channels."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Any:
        return self.layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _swap(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return torch.cat([b, a], 1)


def _shuffle(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def _fold(x: Tensor) -> Tensor:
    return functional.pixel_unshuffle(functional.pixel_shuffle(x, 2), 2)


def _split_uneven(x: Tensor) -> Tensor:
    a, b, c = x.chunk(3, 1)
    return torch.cat([c, a, torch.relu(b)], 1)


def _interleave(x: Tensor) -> Tensor:
    return torch.stack([x, x.exp()], 2).flatten(1, 2)[:, ::2]


def _attend(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    flat = x.flatten(2)
    y: Tensor = flat @ (flat.transpose(1, 2) @ flat / c**0.5).softmax(-1)
    return y.view(n, c, h, w)


def _gate(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    y = a * torch.sigmoid(b)
    return torch.cat([y, -y], 1)


_ONE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "exp": lambda x: (-x * x).exp(),
    "plus one": lambda x: x + 1,
    "swap": _swap,
    "shuffle": _shuffle,
    "fold": _fold,
    "thirds": _split_uneven,
    "interleave": _interleave,
    "gate": _gate,
    "attend": _attend,
    "flip": lambda x: x.flip(1),
    "roll": lambda x: x.roll(1, 1),
    "even first": lambda x: torch.cat([x[:, ::2], x[:, 1::2]], 1),
    "softmax": lambda x: x.softmax(1),
    "centre": lambda x: x - x.mean(1, keepdim=True),
    "highest": lambda x: x * torch.sigmoid(x.amax(1, keepdim=True)),
    "squeeze": lambda x: x * x.mean((2, 3), keepdim=True),
    "glu": lambda x: functional.glu(torch.cat([x, x], 1), 1),
    "pad": lambda x: functional.pad(x[:, 1:-1], (0, 0, 0, 0, 1, 1)),
    "pool": lambda x: functional.max_pool2d(x, 3, 1, 1),
    "halves": lambda x: x.reshape(len(x), 2, -1, *x.shape[2:]).sum(1).repeat(1, 2, 1, 1),
    "transpose": lambda x: x.transpose(2, 3),
    "four": lambda x: torch.cat([x[:, :4], x[:, 4:].sigmoid()], 1),
    "ramp": lambda x: x + torch.linspace(0, 1, x.shape[1], dtype=x.dtype)[:, None, None],
}
_TWO: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda x, y: x + y,
    "times": lambda x, y: x * y,
    "minus flipped": lambda x, y: x - y.flip(1),
    "maximum": torch.maximum,
    "stack": lambda x, y: torch.stack([x, y]).mean(0),
    "crossed": lambda x, y: torch.cat([x.chunk(2, 1)[0], y.chunk(2, 1)[1]], 1),
    "gated by one": lambda x, y: x * torch.sigmoid(y[:, :1]),
}


class RandomNetwork(nn.Module):
    """A program of `length` steps drawn from `seed`; every step takes one or two of the maps before it, mostly the last.

    (N, 3, H, W) with even H = W to (N, 2, H, W). `program` says what it does: a word, and the numbers of the maps it takes.
    """

    def __init__(self, seed: int, length: int = 10) -> None:
        super().__init__()
        self.generator = seeds.stream(seed, "zoo.random")
        self.layers = nn.ModuleDict({"first": conv(3, _CHANNELS)})
        self.program = [self._draw(number + 1) for number in range(length)]
        self.last = conv(_CHANNELS, 2)

    def _draw(self, known: int) -> tuple[str, int, int]:
        x = known - 1 if self.generator.random() < 0.7 else int(self.generator.integers(known))
        kind = self.generator.random()
        if kind < 0.5:
            return self._layer(), x, x
        y = int(self.generator.integers(known))
        return str(self.generator.choice(list(_ONE if kind < 0.75 else _TWO))), x, y

    def _layer(self) -> str:
        """The name of a new layer, or sometimes of one that is there already."""
        c = _CHANNELS
        if self.generator.random() < 0.1 and len(self.layers) > 1:
            return str(self.generator.choice(list(self.layers)[1:]))
        makers: dict[str, Callable[[], nn.Module]] = {
            "conv": lambda: conv(c, c),
            "point": lambda: point(c, c, bias=False),
            "wide": lambda: nn.Sequential(conv(c, 11), nn.ReLU(), conv(11, c)),
            "grouped": lambda: conv(c, c, groups=2),
            "fours": lambda: conv(c, c, groups=4),
            "depthwise": lambda: conv(c, c, groups=c),
            "multiplied": lambda: nn.Sequential(conv(c, 2 * c, groups=c), nn.Tanh(), conv(2 * c, c, groups=2)),
            "transposed": lambda: nn.ConvTranspose2d(c, c, 3, padding=1, groups=2),
            "batch norm": lambda: nn.BatchNorm2d(c),
            "group norm": lambda: nn.GroupNorm(4, c),
            "instance norm": lambda: nn.InstanceNorm2d(c, affine=True, track_running_stats=True),
            "prelu": lambda: nn.PReLU(c),
            "gain": lambda: _Gain(c),
            "linear": lambda: _ChannelsLast(nn.Linear(c, c)),
            "layer norm": lambda: _ChannelsLast(nn.LayerNorm(c)),
            "up": lambda: nn.Sequential(point(c, 4 * c), nn.PixelShuffle(2), nn.ReLU(), nn.Conv2d(c, c, 2, 2)),
            "excited": lambda: nn.Sequential(point(c, 3), nn.ReLU(), point(3, c), nn.Sigmoid()),
        }
        weights = np.array([3.0, 2, 3] + [1.0] * (len(makers) - 3))
        kind = str(self.generator.choice(list(makers), p=weights / weights.sum()))
        name = f"{kind} {len(self.layers)}"
        self.layers[name] = makers[kind]()
        return name

    def forward(self, x: Tensor) -> Any:
        maps = [torch.relu(self.layers["first"](x))]
        for name, a, b in self.program:
            if name in self.layers:
                maps.append(self.layers[name](maps[a]))
            else:
                maps.append(_ONE[name](maps[a]) if name in _ONE else _TWO[name](maps[a], maps[b]))
        return self.last(maps[-1] + maps[len(maps) // 2])

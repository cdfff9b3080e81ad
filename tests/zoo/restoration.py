"""Denoisers and other restoration networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.base import Network, conv, point
from zoo.patterns import Residual

__all__ = ["NETWORKS"]


class _FFDNet(nn.Module):
    """Works on pixels unshuffled, beside a map of the noise level, which is an input of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.PixelUnshuffle(2), nn.PixelShuffle(2)
        body = conv(8, 7), nn.ReLU(inplace=True), conv(7, 8), nn.ReLU(inplace=True)
        self.model = nn.Sequential(conv(13, 8), nn.ReLU(inplace=True), *body, conv(8, 12))

    def forward(self, x: Tensor, sigma: Tensor) -> Any:
        y = self.down(x)
        level = sigma.repeat(1, 1, y.size(-2), y.size(-1))
        return self.up(self.model(torch.cat((y, level), 1)))


class _NormFunction(torch.autograd.Function):
    """Each place of an image normalised over its channels, forward and backward by hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        mean = x.mean(1, keepdim=True)
        deviation = ((x - mean).pow(2).mean(1, keepdim=True) + epsilon).sqrt()
        y = (x - mean) / deviation
        ctx.save_for_backward(y, deviation, weight)
        return weight.view(1, -1, 1, 1) * y + bias.view(1, -1, 1, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (given,) = gradients
        y, deviation, weight = ctx.saved_tensors
        scaled = given * weight.view(1, -1, 1, 1)
        shift = (scaled * y).mean(1, keepdim=True)
        inner = (scaled - y * shift - scaled.mean(1, keepdim=True)) / deviation
        return inner, (given * y).sum((0, 2, 3)), given.sum((0, 2, 3)), None


class _LayerNorm2d(nn.Module):
    """Normalisation over channels, as a function with its own gradient or in plain operations."""

    def __init__(self, width: int, function: bool) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.function = function

    def forward(self, x: Tensor) -> Any:
        if self.function:
            return _NormFunction.apply(x, self.weight, self.bias, 1e-6)  # type: ignore[no-untyped-call]
        mean = x.mean(1, keepdim=True)
        spread = (x - mean).pow(2).mean(1, keepdim=True)
        return self.weight[:, None, None] * ((x - mean) / torch.sqrt(spread + 1e-6)) + self.bias[:, None, None]


class _SimpleGate(nn.Module):
    """One half times the other."""

    def forward(self, x: Tensor) -> Tensor:
        x1, x2 = x.chunk(2, dim=1)
        return x1 * x2


class _NAFBlock(nn.Module):
    """Gates without activations, simplified channel attention, and learnt scales beta and gamma."""

    def __init__(self, c: int, function: bool) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = point(c, 2 * c), conv(2 * c, 2 * c, groups=2 * c), point(c, c)
        self.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), point(c, c))
        self.sg = _SimpleGate()
        self.conv4, self.conv5 = point(c, 2 * c), point(c, c)
        self.norm1, self.norm2 = _LayerNorm2d(c, function), _LayerNorm2d(c, function)
        self.beta, self.gamma = (nn.Parameter(torch.ones(1, c, 1, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> Any:
        y = self.sg(self.conv2(self.conv1(self.norm1(x))))
        y = self.conv3(y * self.sca(y))
        x = x + y * self.beta
        return x + self.conv5(self.sg(self.conv4(self.norm2(x)))) * self.gamma


class _NAFNet(nn.Module):
    """One scale down and up again, by a pixel shuffle."""

    def __init__(self, function: bool) -> None:
        super().__init__()
        self.intro, self.ending = conv(3, 8), conv(8, 3)
        self.encoder, self.middle, self.decoder = _NAFBlock(8, function), _NAFBlock(16, function), _NAFBlock(8, function)
        self.down = nn.Conv2d(8, 16, 2, 2)
        self.up = nn.Sequential(point(16, 32, bias=False), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Any:
        skip = self.encoder(self.intro(x))
        y = self.up(self.middle(self.down(skip)))
        return self.ending(self.decoder(y + skip)) + x


class _TokenNorm(nn.Module):
    """Restormer's LayerNorm: over the channels of every place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        spread = tokens.var(-1, keepdim=True, unbiased=False)
        tokens = (tokens - tokens.mean(-1, keepdim=True)) / torch.sqrt(spread + 1e-5) * self.weight + self.bias
        return tokens.transpose(1, 2).reshape(n, c, h, w)


class _MDTA(nn.Module):
    """Attention between channels, head by head, with a temperature each."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.qkv = point(width, 3 * width, bias=False)
        self.qkv_dwconv = conv(3 * width, 3 * width, groups=3 * width, bias=False)
        self.project_out = point(width, width, bias=False)

    def forward(self, x: Tensor) -> Any:
        n, _, h, w = x.shape
        q, k, v = (part.reshape(n, self.num_heads, -1, h * w) for part in self.qkv_dwconv(self.qkv(x)).chunk(3, dim=1))
        q, k = functional.normalize(q, dim=-1), functional.normalize(k, dim=-1)
        attention = ((q @ k.transpose(-2, -1)) * self.temperature).softmax(dim=-1)
        return self.project_out((attention @ v).reshape(n, -1, h, w))


class _GDFN(nn.Module):
    """A gated feed-forward network."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.project_in, self.project_out = point(width, 2 * hidden, bias=False), point(hidden, width, bias=False)
        self.dwconv = conv(2 * hidden, 2 * hidden, groups=2 * hidden, bias=False)

    def forward(self, x: Tensor) -> Any:
        x1, x2 = self.dwconv(self.project_in(x)).chunk(2, dim=1)
        return self.project_out(functional.gelu(x1) * x2)


class _RestormerBlock(nn.Module):
    """Attention and feed-forward, each behind a norm and added."""

    def __init__(self, width: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attn = _TokenNorm(width), _MDTA(width, num_heads)
        self.norm2, self.ffn = _TokenNorm(width), _GDFN(width, hidden)

    def forward(self, x: Tensor) -> Any:
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class _Restormer(nn.Module):
    """Two blocks at one scale, added to the image."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed, self.output = conv(3, 8, bias=False), conv(8, 3, bias=False)
        self.blocks = nn.Sequential(_RestormerBlock(8, 4, 10), _RestormerBlock(8, 2, 10))

    def forward(self, x: Tensor) -> Any:
        return self.output(self.blocks(self.patch_embed(x))) + x


_NAF_KEPT = {"intro": "mixes its channels", "decoder.conv3": "mixes its channels", "ending": "the network's outputs"}
NETWORKS = {
    "dncnn": Network(lambda: Residual(norm=True), groups=3, units=21, shapes=((1, 16, 16),)),
    "ffdnet": Network(_FFDNet, groups=3, units=23, shapes=((3, 16, 16), (1, 1, 1)), kept={"model.6": "the network's outputs"}),
    "nafnet": Network(lambda: _NAFNet(function=True), groups=6, units=64, kept=_NAF_KEPT),
    "nafnet-plain-norm": Network(lambda: _NAFNet(function=False), groups=6, units=64, kept=_NAF_KEPT),
    "restormer": Network(
        _Restormer,
        groups=4,
        units=26,  # heads (4 and 2) and hidden channels (10 and 10)
        kept={"patch_embed": "mixes its channels", "blocks.0.attn.project_out": "mixes its channels"},
    ),
}

"""Transformers, and convolutional networks built like them: trunks under LayerNorm stay whole, what is between need not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.base import Network, block, conv, point

__all__ = ["NETWORKS"]


class _ChannelNorm(nn.Module):
    """LayerNorm over the channels of an image, as ConvNeXt has it outside its blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Any:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _ConvNeXtBlock(nn.Module):
    """Depthwise, then two linear layers with the channels last, scaled by gamma and added."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.dwconv, self.norm = conv(width, width, 7, groups=width), nn.LayerNorm(width, eps=1e-6)
        self.pwconv1, self.act, self.pwconv2 = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
        self.gamma = nn.Parameter(1e-6 * torch.ones(width))

    def forward(self, x: Tensor) -> Any:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(self.act(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


class _ConvNeXt(nn.Module):
    """Two stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 2, 2), _ChannelNorm(8))
        self.stage1, self.stage2 = _ConvNeXtBlock(8, 16), _ConvNeXtBlock(12, 24)
        self.down = nn.Sequential(_ChannelNorm(8), nn.Conv2d(8, 12, 2, 2))
        self.norm, self.head = nn.LayerNorm(12, eps=1e-6), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Any:
        x = self.stage2(self.down(self.stage1(self.stem(x))))
        return self.head(self.norm(x.mean([-2, -1])))


class _Attention(nn.Module):
    """Attention whose code asks for the depth of a head, not for the width of the trunk: heads can go."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, width // num_heads
        self.scale = self.head_dim**-0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Any:
        n, places, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, places, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        attention = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(n, places, -1))


class _WideAttention(_Attention):
    """The same with the trunk's width in the code, and the fused kernel: after a head has gone the sizes would not fit."""

    def forward(self, x: Tensor) -> Any:
        n, places, width = x.shape
        q, k, v = self.qkv(x).reshape(n, places, 3, self.num_heads, width // self.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(n, places, width))


class _SeparateAttention(nn.Module):
    """Queries, keys and values by layers of their own, and the fused kernel."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Any:
        q, k, v = (to(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for to in (self.to_q, self.to_k, self.to_v))
        return self.to_out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _Block(nn.Module):
    """Attention and a perceptron, each behind a LayerNorm and added."""

    def __init__(self, attention: nn.Module, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(width), attention, nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(0.1), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Any:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _ViT(nn.Module):
    """Patches, a class token, learnt places, blocks, a classifier on the class token."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 12, 4, 4)
        self.cls_token, self.pos_embed = nn.Parameter(torch.zeros(1, 1, 12)), nn.Parameter(torch.zeros(1, 17, 12))
        self.blocks = nn.Sequential(*blocks)
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Any:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


def _torch_block() -> nn.Module:
    return nn.TransformerEncoderLayer(12, 3, 20, activation="gelu", batch_first=True, norm_first=True)


def _windows(x: Tensor, size: int) -> Tensor:
    n, h, w, c = x.shape
    return x.view(n, h // size, size, w // size, size, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, size * size, c)


def _unwindowed(windows: Tensor, size: int, h: int, w: int) -> Tensor:
    x = windows.view(-1, h // size, w // size, size, size, windows.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, h, w, windows.shape[-1])


class _WindowAttention(nn.Module):
    """Attention inside windows, with a learnt bias per head for every distance, and a mask."""

    relative_position_index: Tensor

    def __init__(self, width: int, size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, width // num_heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * size - 1) ** 2, num_heads))
        places = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")).flatten(1)
        distances = (places[:, :, None] - places[:, None, :]) + size - 1
        self.register_buffer("relative_position_index", distances[0] * (2 * size - 1) + distances[1])
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Any:
        windows, places, _ = x.shape
        qkv = self.qkv(x).reshape(windows, places, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        attention = (qkv[0] * self.head_dim**-0.5) @ qkv[1].transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)].view(places, places, -1)
        attention = attention + bias.permute(2, 0, 1).unsqueeze(0)
        if mask is not None:
            number = mask.shape[0]
            attention = attention.view(-1, number, self.num_heads, places, places) + mask[None, :, None]
            attention = attention.view(-1, self.num_heads, places, places)
        return self.proj((attention.softmax(-1) @ qkv[2]).transpose(1, 2).reshape(windows, places, -1))


class _SwinBlock(nn.Module):
    """Window attention, the windows shifted in every other block."""

    mask: Tensor | None

    def __init__(self, width: int, side: int, shift: int) -> None:
        super().__init__()
        self.side, self.shift, self.size = side, shift, 4
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(width), _WindowAttention(width, 4, 3), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 20), nn.GELU(), nn.Linear(20, width))
        mask = None
        if shift:
            areas = torch.zeros(1, side, side, 1)
            edges = slice(0, -4), slice(-4, -shift), slice(-shift, None)
            for number, (rows, columns) in enumerate((a, b) for a in edges for b in edges):
                areas[:, rows, columns] = number
            flat = _windows(areas, 4)[..., 0]
            mask = torch.where(flat[:, None, :] != flat[:, :, None], -100.0, 0.0)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Any:
        n, places, c = x.shape
        y = self.norm1(x).view(n, self.side, self.side, c)
        y = torch.roll(y, (-self.shift, -self.shift), (1, 2)) if self.shift else y
        y = _unwindowed(self.attn(_windows(y, 4), self.mask), 4, self.side, self.side)
        y = torch.roll(y, (self.shift, self.shift), (1, 2)) if self.shift else y
        x = x + y.reshape(n, places, c)
        return x + self.mlp(self.norm2(x))


class _Swin(nn.Module):
    """An image as tokens, two blocks, back to an image: SwinIR's way."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.norm = conv(3, 12), conv(12, 3), nn.LayerNorm(12)
        self.blocks = nn.Sequential(_SwinBlock(12, 8, 0), _SwinBlock(12, 8, 2))

    def forward(self, x: Tensor) -> Any:
        y = self.first(x)
        tokens = self.norm(self.blocks(y.flatten(2).transpose(1, 2)))
        return self.last(tokens.transpose(1, 2).view(y.shape) + y) + x


class _MobileViT(nn.Module):
    """Convolutions around a transformer on the places of the image, joined with what came before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.local, self.into = block(3, 8, stride=2), block(8, 7), point(7, 12)
        self.blocks = nn.Sequential(_Block(_SeparateAttention(12, 3), 12, 20))
        self.norm, self.back, self.fuse, self.head = nn.LayerNorm(12), block(12, 9), block(17, 8), point(8, 3)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        y = self.into(self.local(x))
        tokens = self.norm(self.blocks(y.flatten(2).transpose(1, 2)))
        return self.head(self.fuse(torch.cat([x, self.back(tokens.transpose(1, 2).reshape(y.shape))], 1)))


NETWORKS = {
    "convnext": Network(_ConvNeXt, groups=2, units=40, kept={"stem.0": "mixes its channels", "down.1": "mixes its channels"}),
    "vit": Network(
        lambda: _ViT(*(_Block(_Attention(12, 3), 12, 20) for _ in range(2))),
        groups=4,
        units=46,  # three heads and 20 hidden features a block
        kept={"embed": "mixes its channels", "blocks.0.attn.proj": "mixes its channels"},
    ),
    "vit-separate": Network(
        lambda: _ViT(*(_Block(_SeparateAttention(12, 3), 12, 20) for _ in range(2))),
        groups=4,
        units=46,
        kept={"embed": "mixes its channels"},
    ),
    "vit-wide": Network(
        lambda: _ViT(*(_Block(_WideAttention(12, 3), 12, 20) for _ in range(2))),
        groups=2,
        units=40,
        kept={"blocks.0.attn.qkv": "fails"},
    ),
    "transformer-encoder": Network(
        lambda: _ViT(_torch_block(), _torch_block()),
        groups=2,
        units=40,
        kept={"blocks.0.self_attn": "MultiheadAttention", "embed": "mixes its channels"},
    ),
    "swin": Network(_Swin, groups=4, units=46, shapes=((3, 8, 8),), kept={"first": "mixes its channels"}),
    "mobile-vit": Network(_MobileViT, groups=6, units=55, kept={"into": "mixes its channels"}),
}

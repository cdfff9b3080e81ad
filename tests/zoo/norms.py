"""Normalisations other than BatchNorm."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from zoo.base import Network, conv

__all__ = ["NETWORKS"]


def _group_norm() -> nn.Module:
    """Four norm groups of three channels, as many as channels, and one for all channels."""
    first = conv(3, 12), nn.GroupNorm(4, 12), nn.ReLU(), conv(12, 8), nn.GroupNorm(8, 8, affine=False), nn.SiLU()
    return nn.Sequential(*first, conv(8, 6), nn.GroupNorm(1, 6), nn.ReLU(), conv(6, 3))


class _GroupResidual(nn.Module):
    """A sum of what two GroupNorms made: their groups go together."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm0 = conv(3, 12), nn.GroupNorm(6, 12)
        self.conv1, self.norm1 = conv(12, 10), nn.GroupNorm(5, 10)
        self.conv2, self.norm2 = conv(10, 12), nn.GroupNorm(3, 12)
        self.act, self.out = nn.Mish(), conv(12, 3)

    def forward(self, x: Tensor) -> Any:
        x = self.act(self.norm0(self.stem(x)))
        return self.out(self.act(self.norm2(self.conv2(self.act(self.norm1(self.conv1(x))))) + x))


class _Styled(nn.Module):
    """A convolution behind reflection padding, and InstanceNorm."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, running: bool = False, affine: bool = True) -> None:
        super().__init__()
        self.pad, self.conv = nn.ReflectionPad2d(1), nn.Conv2d(inputs, outputs, 3, stride)
        self.norm = nn.InstanceNorm2d(outputs, affine=affine, track_running_stats=running)

    def forward(self, x: Tensor) -> Any:
        return self.norm(self.conv(self.pad(x)))


class _StyleTransfer(nn.Module):
    """Down, a residual block, up: with and without learnt scales and running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = _Styled(3, 6), _Styled(6, 8, 2, affine=False)
        self.res1, self.res2 = _Styled(8, 8), _Styled(8, 8, running=True)
        self.up, self.deconv, self.out = nn.Upsample(scale_factor=2, mode="nearest"), _Styled(8, 6, running=True), conv(6, 3, 9)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Any:
        y = self.relu(self.conv2(self.relu(self.conv1(x))))
        y = y + self.res2(self.relu(self.res1(y)))
        return self.out(self.relu(self.deconv(self.up(y))))


NETWORKS = {
    "group-norm": Network(_group_norm, groups=2, units=12),
    "group-norm-residual": Network(_GroupResidual, groups=2, units=8),
    "style-transfer": Network(_StyleTransfer, groups=4, units=28),
}

"""U-Nets: skips that are concatenated, or added."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from qcompress.architectures.half_unet import HalfUNet
from zoo.base import Network, block, conv, point
from zoo.patterns import UNet

__all__ = ["NETWORKS"]


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(block(inputs, outputs), block(outputs, outputs))


class _Bilinear(nn.Module):
    """Bilinear resizing up, padded to the skip's size, and two convolutions at every scale."""

    def __init__(self) -> None:
        super().__init__()
        self.inc, self.down1, self.down2 = _double(3, 4), _double(4, 6), _double(6, 8)
        self.up1, self.up2, self.outc = _double(14, 6), _double(10, 4), point(4, 2)

    @staticmethod
    def _join(x: Tensor, skip: Tensor) -> Tensor:
        x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        rows, columns = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
        x = functional.pad(x, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])
        return torch.cat([skip, x], dim=1)

    def forward(self, x: Tensor) -> Any:
        a = self.inc(x)
        b = self.down1(functional.max_pool2d(a, 2))
        c = self.down2(functional.max_pool2d(b, 2))
        return self.outc(self.up2(self._join(self.up1(self._join(c, b)), a)))


class _PlusPlus(nn.Module):
    """U-Net++: a grid of nodes, each taking all before it in its row and the one below."""

    def __init__(self) -> None:
        super().__init__()
        self.x00, self.x10, self.x20 = block(3, 4), block(4, 6), block(6, 8)
        self.x01, self.x11, self.x02 = block(10, 4), block(14, 6), block(14, 4)
        self.pool, self.up = nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.final = point(4, 3)

    def forward(self, x: Tensor) -> Any:
        x00 = self.x00(x)
        x10 = self.x10(self.pool(x00))
        x01 = self.x01(torch.cat([x00, self.up(x10)], 1))
        x20 = self.x20(self.pool(x10))
        x11 = self.x11(torch.cat([x10, self.up(x20)], 1))
        return self.final(self.x02(torch.cat([x00, x01, self.up(x11)], 1)))


class _Residual(nn.Module):
    """Convolution, ReLU, convolution, added; no biases."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.res = nn.Sequential(conv(width, width, bias=False), nn.ReLU(inplace=True), conv(width, width, bias=False))

    def forward(self, x: Tensor) -> Any:
        return x + self.res(x)


class _DRUNet(nn.Module):
    """A denoising U-Net of residual blocks whose skips are added; the noise level comes as a fourth channel."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.tail = conv(4, 6, bias=False), conv(6, 3, bias=False)
        self.down = nn.Sequential(_Residual(6), nn.Conv2d(6, 8, 2, 2, bias=False))
        self.body = _Residual(8)
        self.up = nn.Sequential(nn.ConvTranspose2d(8, 6, 2, 2, bias=False), _Residual(6))

    def forward(self, x: Tensor) -> Any:
        a = self.head(x)
        b = self.down(a)
        return self.tail(self.up(self.body(b) + b) + a)


NETWORKS = {
    "unet-transposed": Network(UNet, groups=7, units=37),
    "unet-bilinear": Network(_Bilinear, groups=10, units=56),
    "unet++": Network(_PlusPlus, groups=6, units=32),
    "half-unet": Network(lambda: HalfUNet(width=6, levels=3, ghost=False), groups=6, units=36),
    "half-unet-ghost": Network(lambda: HalfUNet(width=8, levels=3), groups=6, units=24),
    "drunet": Network(_DRUNet, groups=5, units=34, shapes=((4, 16, 16),)),
}

"""Half-UNet (Lu et al., Front. Neuroinform. 16:911679, 2022), turned into a residual image-to-image network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["GhostBlock", "HalfUNet"]


class GhostBlock(nn.Module):
    """Half of the output maps by a 3x3 convolution, the other half by a 3x3 depthwise convolution of the first."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.primary = nn.Sequential(
            nn.Conv2d(in_channels, half, 3, padding=1, bias=False), nn.BatchNorm2d(half), nn.ReLU(inplace=True)
        )
        self.cheap = nn.Sequential(
            nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False), nn.BatchNorm2d(half), nn.ReLU(inplace=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        primary = self.primary(x)
        return torch.cat([primary, self.cheap(primary)], 1)


def _plain_block(in_channels: int, out_channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
    )


class HalfUNet(nn.Module):
    """One width at every scale, max pooling down, all scales upsampled to full size and added, residual output.

    Input and output are ``(N, channels, H, W)`` with H and W divisible by ``2 ** (levels - 1)`` (`stride`).
    The addition couples channel c of every scale's second block: they can only be removed together.
    The paper segments; for denoising the output is added to the input (``residual``).
    """

    def __init__(self, channels: int = 3, width: int = 64, levels: int = 5, ghost: bool = True, residual: bool = True) -> None:
        super().__init__()
        block = GhostBlock if ghost else _plain_block
        self.enc = nn.ModuleList(
            nn.Sequential(block(channels if level == 0 else width, width), block(width, width)) for level in range(levels)
        )
        self.pool = nn.MaxPool2d(2)
        self.dec = nn.Sequential(block(width, width), block(width, width))
        self.out = nn.Conv2d(width, channels, 1)
        self.residual = residual
        self.stride = 2 ** (levels - 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.enc[0](x)
        total = scale
        for level, encoder in enumerate(self.enc):
            if level == 0:
                continue
            scale = encoder(self.pool(scale))
            total = total + functional.interpolate(scale, scale_factor=float(2**level), mode="bilinear", align_corners=False)
        y: Tensor = self.out(self.dec(total))
        return x + y if self.residual else y

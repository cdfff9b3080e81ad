"""Half-UNet (Lu et al., Front. Neuroinform. 16:911679, 2022), turned into a residual image-to-image network."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import ConfigDict, Field, JsonValue, validate_call
from torch import Tensor, nn
from torch.nn import functional

from qcompress.architectures.matching import Shapes, fits

__all__ = ["GhostBlock", "HalfUNet", "build_half_unet", "recognise_half_unet"]


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

    Input is ``(N, channels, H, W)``, output ``(N, out_channels, H, W)`` (as many as the input has, unless given), with H and W
    divisible by ``2 ** (levels - 1)`` (`stride`).
    The addition couples channel c of every scale's second block: they can only be removed together.
    The paper segments; for denoising the output is added to the input (``residual``).
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 64,
        levels: int = 5,
        ghost: bool = True,
        residual: bool = True,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        out_channels = channels if out_channels is None else out_channels
        if residual and out_channels != channels:
            raise ValueError(
                f"a residual network has as many outputs as inputs, got {channels} inputs and {out_channels} outputs"
            )
        if ghost and width % 2:
            raise ValueError(f"Ghost blocks have an even width, got {width}")
        block = GhostBlock if ghost else _plain_block
        self.enc = nn.ModuleList(
            nn.Sequential(block(channels if level == 0 else width, width), block(width, width)) for level in range(levels)
        )
        self.pool = nn.MaxPool2d(2)
        self.dec = nn.Sequential(block(width, width), block(width, width))
        self.out = nn.Conv2d(width, out_channels, 1)
        self.residual = residual
        self.channels = channels
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


@validate_call(config=ConfigDict(strict=True))
def build_half_unet(
    channels: Annotated[int, Field(ge=1, le=1024)] = 3,
    width: Annotated[int, Field(ge=1, le=16384)] = 64,
    levels: Annotated[int, Field(ge=1, le=12)] = 5,
    ghost: bool = True,
    residual: bool = True,
    out_channels: Annotated[int, Field(ge=1, le=1024)] | None = None,
) -> HalfUNet:
    """A `HalfUNet` from checked arguments (they may come from a file)."""
    return HalfUNet(channels, width, levels, ghost, residual, out_channels)


def recognise_half_unet(shapes: Shapes) -> dict[str, JsonValue] | None:
    """The arguments of the Half-UNet that has these parameters, or None. Residual if it has as many outputs as inputs."""
    ghost = "enc.0.0.primary.0.weight" in shapes
    first, last = shapes.get("enc.0.0.primary.0.weight" if ghost else "enc.0.0.0.weight", ()), shapes.get("out.weight", ())
    if len(first) != 4 or len(last) != 4:
        return None
    arguments: dict[str, JsonValue] = {
        "channels": first[1],
        "width": first[0] * (2 if ghost else 1),
        "levels": len({name.split(".")[1] for name in shapes if name.startswith("enc.")}),
        "ghost": ghost,
        "residual": first[1] == last[0],
        "out_channels": last[0],
    }
    return arguments if fits(build_half_unet, arguments, shapes) else None

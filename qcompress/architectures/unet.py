"""U-Net (Ronneberger et al., MICCAI 2015) with concatenated skips, in the two key styles that its checkpoints come in."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field, JsonValue, validate_call
from torch import Tensor, nn

from qcompress.architectures.matching import Shapes, fits

__all__ = ["NamedUNet", "NumberedUNet", "build_unet", "recognise_unet"]

Up = Literal["transposed", "bilinear"]


def _double_convolution(inputs: int, middle: int, outputs: int, bias: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, middle, 3, padding=1, bias=bias),
        nn.BatchNorm2d(middle),
        nn.ReLU(inplace=True),
        nn.Conv2d(middle, outputs, 3, padding=1, bias=bias),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class NumberedUNet(nn.Module):
    """Keys ``e0 .. eL`` (down), ``u(L-1) .. u0`` (up), ``d(L-1) .. d0`` (after the skip), ``out``; ``cat([up, skip])``.

    Input is ``(N, channels, H, W)``, output ``(N, out_channels, H, W)``, H and W divisible by ``2 ** L`` (`stride`).
    `widths` has L + 1 entries, from full size down; `decoder` L, the outputs of ``d0 .. d(L-1)``. Going up is a transposed
    convolution, or bilinear upsampling followed by a convolution of kernel `up_kernel`; it has the width of its skip.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        widths: list[int],
        decoder: list[int],
        up: Up,
        up_kernel: int,
        bias: bool,
        residual: bool,
    ) -> None:
        super().__init__()
        self.levels = len(widths) - 1
        for level, (inputs, outputs) in enumerate(zip([channels, *widths], widths, strict=False)):
            self.add_module(f"e{level}", _double_convolution(inputs, outputs, outputs, bias))
        self.pool = nn.MaxPool2d(2)
        for level, (width, below) in enumerate(zip(widths[:-1], [*decoder[1:], widths[-1]], strict=True)):
            self.add_module(f"u{level}", self._up(below, width, up, up_kernel))
            self.add_module(f"d{level}", _double_convolution(2 * width, decoder[level], decoder[level], bias))
        self.out = nn.Conv2d(decoder[0], out_channels, 1)
        self.residual = residual
        self.channels = channels
        self.stride = 2**self.levels

    @staticmethod
    def _up(inputs: int, outputs: int, up: Up, kernel: int) -> nn.Module:
        if up == "transposed":
            return nn.ConvTranspose2d(inputs, outputs, 2, 2)
        convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        return nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), convolution)

    def forward(self, x: Tensor) -> Tensor:
        skips = [getattr(self, "e0")(x)]  # noqa: B009 - registered by name
        for level in range(1, self.levels + 1):
            skips.append(getattr(self, f"e{level}")(self.pool(skips[-1])))
        y: Tensor = skips.pop()
        for level in reversed(range(self.levels)):
            y = getattr(self, f"d{level}")(torch.cat([getattr(self, f"u{level}")(y), skips[level]], 1))
        y = self.out(y)
        return x + y if self.residual else y


class _Double(nn.Module):
    def __init__(self, inputs: int, middle: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.double_conv = _double_convolution(inputs, middle, outputs, bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.double_conv(x)
        return y


class _Down(nn.Module):
    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), _Double(inputs, outputs, outputs, bias))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.maxpool_conv(x)
        return y


class _Up(nn.Module):
    def __init__(self, below: int, skip: int, outputs: int, up: Up, bias: bool) -> None:
        super().__init__()
        self.up: nn.Module
        if up == "transposed":
            self.up = nn.ConvTranspose2d(below, below // 2, 2, 2)
            self.conv = _Double(skip + below // 2, outputs, outputs, bias)
        else:
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.conv = _Double(skip + below, (skip + below) // 2, outputs, bias)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        y: Tensor = self.conv(torch.cat([skip, self.up(below)], 1))
        return y


class _Out(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return y


class NamedUNet(nn.Module):
    """Keys ``inc``, ``down1 .. downL``, ``up1 .. upL``, ``outc``, blocks called ``double_conv``; ``cat([skip, up])``.

    Input, output, `widths`, `decoder` and `stride` as in `NumberedUNet`. The published code of this style pads
    the upsampled maps at sizes that are no multiple of `stride`; this one asks for a multiple, where the two are equal.
    """

    def __init__(
        self, channels: int, out_channels: int, widths: list[int], decoder: list[int], up: Up, bias: bool, residual: bool
    ) -> None:
        super().__init__()
        self.levels = len(widths) - 1
        self.inc = _Double(channels, widths[0], widths[0], bias)
        for level in range(1, self.levels + 1):
            self.add_module(f"down{level}", _Down(widths[level - 1], widths[level], bias))
        below = widths[-1]
        for number, level in enumerate(reversed(range(self.levels)), 1):
            self.add_module(f"up{number}", _Up(below, widths[level], decoder[level], up, bias))
            below = decoder[level]
        self.outc = _Out(decoder[0], out_channels)
        self.residual = residual
        self.channels = channels
        self.stride = 2**self.levels

    def forward(self, x: Tensor) -> Tensor:
        skips = [self.inc(x)]
        for level in range(1, self.levels + 1):
            skips.append(getattr(self, f"down{level}")(skips[-1]))
        y: Tensor = skips.pop()
        for number in range(1, self.levels + 1):
            y = getattr(self, f"up{number}")(y, skips[self.levels - number])
        y = self.outc(y)
        return x + y if self.residual else y


Width = Annotated[int, Field(ge=1, le=16384)]


@validate_call(config=ConfigDict(strict=True))
def build_unet(
    style: Literal["numbered", "named"] = "numbered",
    channels: Annotated[int, Field(ge=1, le=1024)] = 3,
    out_channels: Annotated[int, Field(ge=1, le=1024)] | None = None,
    widths: Annotated[list[Width], Field(min_length=2, max_length=12)] | None = None,
    decoder: list[Width] | None = None,
    up: Up = "transposed",
    up_kernel: Literal[1, 3] = 3,
    bias: bool = False,
    residual: bool = False,
) -> NumberedUNet | NamedUNet:
    """A U-Net from checked arguments (they may come from a file); `decoder` None: as wide as the encoder at each level."""
    widths = widths or [64, 128, 256]
    decoder = decoder or widths[:-1]
    out_channels = out_channels or channels
    if len(decoder) != len(widths) - 1:
        raise ValueError(f"decoder must have one entry fewer than widths ({len(widths)}), got {len(decoder)}")
    if residual and out_channels != channels:
        raise ValueError(f"a residual network has as many outputs as inputs, got {channels} inputs and {out_channels} outputs")
    if style == "named" and up == "transposed" and min(widths[-1], *decoder[1:], 2) < 2:
        raise ValueError("a transposed convolution halves the width below it, which must be 2 or more")
    if style == "numbered":
        return NumberedUNet(channels, out_channels, widths, decoder, up, up_kernel, bias, residual)
    return NamedUNet(channels, out_channels, widths, decoder, up, bias, residual)


def _numbered(shapes: Shapes) -> dict[str, JsonValue]:
    levels = max(int(name[1:].partition(".")[0]) for name in shapes if name[0] == "e" and name.endswith(".0.weight"))
    bilinear = "u0.1.weight" in shapes
    channels, out_channels = shapes["e0.0.weight"][1], shapes["out.weight"][0]
    return {
        "style": "numbered",
        "channels": channels,
        "out_channels": out_channels,
        "widths": [shapes[f"e{level}.3.weight"][0] for level in range(levels + 1)],
        "decoder": [shapes[f"d{level}.3.weight"][0] for level in range(levels)],
        "up": "bilinear" if bilinear else "transposed",
        "up_kernel": shapes["u0.1.weight"][2] if bilinear else 3,
        "bias": "e0.0.bias" in shapes,
        "residual": channels == out_channels,
    }


def _named(shapes: Shapes) -> dict[str, JsonValue]:
    levels = sum(name.startswith("down") and name.endswith(".double_conv.0.weight") for name in shapes)
    down = [shapes[f"down{level}.maxpool_conv.1.double_conv.3.weight"][0] for level in range(1, levels + 1)]
    return {
        "style": "named",
        "channels": shapes["inc.double_conv.0.weight"][1],
        "out_channels": shapes["outc.conv.weight"][0],
        "widths": [shapes["inc.double_conv.3.weight"][0], *down],
        "decoder": [shapes[f"up{levels - level}.conv.double_conv.3.weight"][0] for level in range(levels)],
        "up": "transposed" if "up1.up.weight" in shapes else "bilinear",
        "bias": "inc.double_conv.0.bias" in shapes,
        "residual": False,  # as published; `--arch-args '{"residual": true}'` for a network that was trained to predict noise
    }


def recognise_unet(shapes: Shapes) -> dict[str, JsonValue] | None:
    """The arguments of the U-Net that has these parameters, or None.

    A numbered one is residual if it has as many outputs as inputs, a named one never (nothing in a file says so).
    """
    guess = _numbered if "e0.0.weight" in shapes else _named if "inc.double_conv.0.weight" in shapes else None
    if guess is None:
        return None
    try:
        arguments = guess(shapes)
    except (KeyError, IndexError, ValueError):  # a name or a dimension that every such network has is not there
        return None
    return arguments if fits(build_unet, arguments, shapes) else None

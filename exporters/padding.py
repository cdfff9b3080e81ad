"""A network that takes images of any size: padded before it, cropped after it, inside the graph.

A U-Net halves its input a few times, so height and width have to be multiples of its stride. The padding repeats the last row
and column, which needs no least size; it goes to the bottom and to the right, so pixels keep their places.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from qcompress.errors import UsageError

__all__ = ["Padded", "padded"]


class Padded(nn.Module):
    """`network`, whose input must be a multiple of `stride` and whose output is `scale` times as large, for any input."""

    def __init__(self, network: nn.Module, stride: int, scale: int) -> None:
        super().__init__()
        self.network, self.stride, self.scale = network, stride, scale

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', scale * H, scale * W)."""
        height, width = images.shape[-2:]
        rows, columns = (
            (side + self.stride - 1) // self.stride * self.stride for side in (height, width)
        )  # a form from which torch.export sees that these are multiples
        larger = functional.pad(images, (0, columns - width, 0, rows - height), mode="replicate")
        output: Tensor = self.network(larger)
        return output[..., : height * self.scale, : width * self.scale]


def padded(network: nn.Module, example: Tensor, stride: int) -> nn.Module:
    """`network` for any size; itself where it takes any size already. Raises UsageError where it returns no image."""
    if stride == 1:
        return network
    with torch.inference_mode():
        output = network(example)
    height, width = example.shape[2:]
    scale = output.shape[2] // height if output.ndim == 4 else 0
    if not scale or tuple(output.shape[2:]) != (scale * height, scale * width):
        raise UsageError(
            f"--pad inside is for networks that return an image as large as theirs, or some times as large; "
            f"this one returns {tuple(output.shape)} for {tuple(example.shape)}",
            "leave out --pad",
        )
    return Padded(network, stride, scale).eval()

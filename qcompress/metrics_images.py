"""How good a restored image is: PSNR, PSNR of the luma, SSIM, and what to differentiate to improve them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from qcompress.errors import DataError

__all__ = ["Measure", "psnr", "psnr_loss", "psnr_y", "psnr_y_loss", "ssim", "ssim_loss"]

Measure = Callable[[Tensor, Tensor], Tensor]
"""(output, target), both (N, C, H, W), to one value for each image, (N,). No closures: a metric is pickled for workers."""

_FLOOR = 1e-10  # mean squared error below which psnr_loss is flat: 100 dB
_WINDOW, _DEVIATION = 11, 1.5  # of SSIM, in pixels
_C1, _C2 = 0.01**2, 0.03**2
_LUMA = (65.481, 128.553, 24.966)  # of BT.601, for red, green, blue in 0..1


def psnr(output: Tensor, clean: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, (N,) float64, as SIDD defines it.

    `output` and `clean` are (N, C, H, W) with the peak 1. The output is clamped to 0..1; all channels count jointly; nothing is
    rounded or cropped at the borders. Equal images give infinity. Average the values, not the errors.
    """
    _check(output, clean)
    error = (output.clamp(0, 1).double() - clean.double()).square().mean(dim=(1, 2, 3))
    return -10 * torch.log10(error)


def psnr_loss(output: Tensor, clean: Tensor) -> Tensor:
    """Negative PSNR of each image in dB, (N,), differentiable: the output is not clamped, so that no gradient is lost."""
    _check(output, clean)
    return 10 * torch.log10((output - clean).square().mean(dim=(1, 2, 3)).clamp_min(_FLOOR))


def ssim(output: Tensor, clean: Tensor) -> Tensor:
    """Structural similarity of each image, (N,) float64 up to 1, the output clamped to 0..1 (Wang et al., 2004).

    Gaussian window of 11 pixels with standard deviation 1.5, K1 = 0.01, K2 = 0.03, population variances; mean over the pixels
    whose window lies inside the image, and over channels. Raises DataError for images of less than 11 pixels a side.
    """
    return _similarity(output.clamp(0, 1).double(), clean.double())


def ssim_loss(output: Tensor, clean: Tensor) -> Tensor:
    """Negative SSIM of each image, (N,), differentiable: the output is not clamped."""
    return _similarity(output, clean).neg()


def psnr_y(border: int) -> Measure:
    """PSNR in dB of the luma alone, `border` pixels cut off on each side, as papers on super-resolution report it.

    The luma is that of BT.601 in its range of 16 to 235, the peak 1; nothing is rounded. Grey images are taken as they are.
    """
    return partial(_psnr_y, border)


def _psnr_y(border: int, output: Tensor, clean: Tensor) -> Tensor:
    _check(output, clean)
    return psnr(_luma(_inner(output.clamp(0, 1).double(), border)), _luma(_inner(clean.double(), border)))


def psnr_y_loss(border: int) -> Measure:
    """Negative `psnr_y` of each image, differentiable: the output is not clamped."""
    return partial(_psnr_y_loss, border)


def _psnr_y_loss(border: int, output: Tensor, clean: Tensor) -> Tensor:
    return psnr_loss(_luma(_inner(output, border)), _luma(_inner(clean, border)))


def _inner(images: Tensor, border: int) -> Tensor:
    height, width = images.shape[2:]
    if min(height, width) <= 2 * border:
        raise DataError(f"images of {width}x{height} pixels, nothing is left of them without {border} on each side")
    return images[:, :, border : height - border, border : width - border]


def _luma(images: Tensor) -> Tensor:
    """(N, 1, H, W) from RGB or grey (N, C, H, W) in 0..1."""
    if images.shape[1] == 1:
        return images
    weights = torch.tensor(_LUMA, dtype=images.dtype, device=images.device)
    return (16 + torch.einsum("c,nchw->nhw", weights, images)[:, None]) / 255


def _similarity(x: Tensor, y: Tensor) -> Tensor:
    """Equation 13 of Wang et al. (2004) at every place of the window, averaged: (N,)."""
    _check(x, y)
    if min(x.shape[2:]) < _WINDOW:
        raise DataError(
            f"images of {x.shape[3]}x{x.shape[2]} pixels, SSIM needs at least {_WINDOW}x{_WINDOW}",
            "measure PSNR, or use larger images",
        )
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x, variance_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def _blur(images: Tensor) -> Tensor:
    """`images` (N, C, H, W) under the Gaussian window, where it lies inside: (N, C, H - 10, W - 10)."""
    offsets = torch.arange(_WINDOW, dtype=images.dtype, device=images.device) - _WINDOW // 2
    weights = torch.exp(-(offsets**2) / (2 * _DEVIATION**2))
    kernel = (weights / weights.sum()).expand(images.shape[1], 1, 1, _WINDOW)
    rows = functional.conv2d(images, kernel, groups=images.shape[1])
    return functional.conv2d(rows, kernel.transpose(2, 3), groups=images.shape[1])


def _check(output: Tensor, clean: Tensor) -> None:
    if output.shape != clean.shape or output.ndim != 4:
        raise ValueError(f"output is {tuple(output.shape)}, clean {tuple(clean.shape)}; expected two equal (N, C, H, W) shapes")

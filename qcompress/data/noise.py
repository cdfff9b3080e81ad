"""Noise to add to clean images: white Gaussian, or a camera's, simulated in its linear raw values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve

from qcompress.errors import DataError, UsageError

__all__ = ["Camera", "Gaussian", "Noise", "parse"]

Image = NDArray[np.float32]

SHOT_RANGE = (1e-3, 3e-2)
"""Shot noise parameters a of a phone's sensor from base to highest gain; drawn log-uniformly (Brooks et al., CVPR 2019)."""

RED_GAIN, BLUE_GAIN = (1.9, 2.4), (1.5, 1.9)
"""White balance gains against green, drawn uniformly (Brooks et al., CVPR 2019, section 3.3)."""

_GREEN = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]], float)
_RED_BLUE = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], float)


@dataclass(frozen=True)
class Gaussian:
    """White Gaussian noise of standard deviation `sigma`, in steps of 1/255. The result is not clipped."""

    sigma: float
    keeps_target = True

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= 255:
            raise UsageError(
                f"Gaussian noise of sigma {self.sigma:g}, expected a number above 0, at most 255", "try gaussian:25"
            )

    def __str__(self) -> str:
        return f"gaussian:{self.sigma:g}"

    def apply(self, clean: Image, rng: np.random.Generator) -> tuple[Image, Image]:
        """(noisy, clean) of the same shape as `clean` (C, H, W) in 0..1; clean is returned as it came."""
        return clean + np.float32(self.sigma / 255) * rng.standard_normal(clean.shape, np.float32), clean


@dataclass(frozen=True)
class Camera:
    """Poisson-Gaussian noise on raw values, seen through a small image pipeline (Brooks et al., CVPR 2019).

    From sRGB to linear light, inverse white balance, RGGB mosaic; noise of variance a * signal + b, b = exp(2.18 ln a + 1.2);
    clipping to 0..1, bilinear demosaicing, white balance, clipping, and to sRGB again. The clean target takes the same way
    without noise, so that it is as soft as what a camera can see. Grey images skip mosaic and white balance.

    `shot` is a; None draws it for each image, log-uniformly from 1e-3..3e-2. The gains are drawn for each image too.
    """

    shot: float | None = None
    keeps_target = False

    def __post_init__(self) -> None:
        if self.shot is not None and not 0 < self.shot <= 1:
            raise UsageError(f"camera noise of {self.shot:g}, expected a number above 0, at most 1", "try camera:0.01")

    def __str__(self) -> str:
        return "camera" if self.shot is None else f"camera:{self.shot:g}"

    def apply(self, clean: Image, rng: np.random.Generator) -> tuple[Image, Image]:
        """(noisy, clean) of the same shape as `clean`, which must be (1, H, W) or (3, H, W) in 0..1."""
        shot = self.shot if self.shot is not None else math.exp(rng.uniform(*np.log(SHOT_RANGE)))
        linear = to_linear(clean.astype(np.float64))
        if len(linear) == 1:
            return to_srgb(_expose(linear, shot, rng)), to_srgb(linear)
        if min(linear.shape[1:]) < 2:
            raise DataError(f"{linear.shape[2]}x{linear.shape[1]} pixels, expected at least 2x2, one cell of the mosaic")
        gains = np.array([rng.uniform(*RED_GAIN), 1.0, rng.uniform(*BLUE_GAIN)])[:, np.newaxis, np.newaxis]
        sites = _bayer_sites(*linear.shape[1:])
        raw = (linear / gains * sites).sum(0)
        return _develop(_expose(raw, shot, rng), sites, gains), _develop(raw, sites, gains)


Noise = Gaussian | Camera
"""`keeps_target`: the clean image comes back as it was, so that noise can be drawn for it anew."""


def parse(text: str) -> Noise:
    """The noise that `text` names: `gaussian:SIGMA`, `camera` or `camera:STRENGTH`. Raises UsageError for anything else.

    >>> parse("gaussian:25"), parse("camera:0.01")
    (Gaussian(sigma=25.0), Camera(shot=0.01))
    """
    kind, colon, number = text.strip().partition(":")
    try:
        value = float(number) if colon else None
        if kind == "gaussian" and value is not None:
            return Gaussian(value)
        if kind == "camera":
            return Camera(value)
    except UsageError:
        raise
    except ValueError:
        pass
    raise UsageError(
        f"noise {text!r} is not known", "expected gaussian:SIGMA (such as gaussian:25), camera, or camera:STRENGTH"
    )


def to_linear(srgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """From sRGB values 0..1 to linear light 0..1 (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((np.maximum(srgb, 0.04045) + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: NDArray[np.float64]) -> Image:
    """From linear light to sRGB values 0..1; what lies outside 0..1 is clipped."""
    light = np.clip(linear, 0, 1)
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055)
    return srgb.astype(np.float32)


def read_variance(shot: float) -> float:
    """Variance of the read noise that goes with the shot noise parameter a (Brooks et al., CVPR 2019, equation 2's fit)."""
    return math.exp(2.18 * math.log(shot) + 1.2)


def _expose(raw: NDArray[np.float64], shot: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """`raw` with shot and read noise, clipped to what the sensor can hold."""
    deviation = np.sqrt(shot * raw + read_variance(shot))
    return np.clip(raw + deviation * rng.standard_normal(raw.shape), 0, 1)


def _bayer_sites(height: int, width: int) -> NDArray[np.float64]:
    """(3, H, W): 1 where the RGGB mosaic measures red, green, blue."""
    sites = np.zeros((3, height, width))
    sites[0, 0::2, 0::2] = sites[1, 0::2, 1::2] = sites[1, 1::2, 0::2] = sites[2, 1::2, 1::2] = 1
    return sites


def _develop(raw: NDArray[np.float64], sites: NDArray[np.float64], gains: NDArray[np.float64]) -> Image:
    """(3, H, W) sRGB from a mosaic (H, W): each colour is averaged over its measured neighbours, then balanced and encoded."""
    colours = []
    for site, kernel in zip(sites, (_RED_BLUE, _GREEN, _RED_BLUE), strict=True):
        # dividing by the kernel's weight on measured sites makes borders right, and keeps a measured value as it is
        colours.append(convolve(raw * site, kernel, mode="constant") / convolve(site, kernel, mode="constant"))
    return to_srgb(np.stack(colours) * gains)

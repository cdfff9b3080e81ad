"""The networks of the selection benchmark, and their images in three roles. All but the reference lie in a folder.

What is reported on was seen by no stage, and by no training where that is known: the smartphone scenes 5, 9 and 10 for the two
networks trained on the others, Set12 for the DnCNN, a random half of the CIFAR test images, and for the reference a quarter of
the photographs that ship. A seed deals the rest to calibration and selection, whole scenes at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from workbench import dealt

from qcompress import seeds
from qcompress.checkpoints import Checkpoint
from qcompress.data import splits
from qcompress.data.images import Pair, Splits
from qcompress.data.noise import Gaussian
from qcompress.data.reading import Form
from qcompress.data.splits import Role

__all__ = ["NETWORKS", "Network"]

IMAGENET = Form(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
UNSEEN_SCENES = frozenset({"5", "9", "10"})
SIGMA = 25.0


@dataclass(frozen=True)
class Network:
    """`checkpoint` is a file of the folder; `arch` is what builds it, None where it is recognised; `images` deals by a seed."""

    checkpoint: str
    images: Callable[[Path, Checkpoint, int], Splits]
    arch: str | None = None

    def path(self, folder: Path) -> Path:
        """Where the checkpoint lies; "reference" ships with the package."""
        return Path(self.checkpoint) if self.checkpoint == "reference" else folder / self.checkpoint


def smartphone(folder: Path, checkpoint: Checkpoint, seed: int) -> Splits:
    """SIDD's pairs reduced to 256x256 pixels: scenes 5, 9 and 10 report."""
    arrays = np.load(folder / "sidd_pairs.npz")
    noisy, clean, scenes = (arrays[f"small_{name}"] for name in ("noisy", "gt", "scene"))
    pairs = [
        Pair(f"{number:03}", str(scenes[number]), _floats(noisy[number]), _floats(clean[number]))
        for number in range(len(scenes))
    ]
    return dealt(pairs, UNSEEN_SCENES, seed, "SIDD, reduced")


def set12(folder: Path, checkpoint: Checkpoint, seed: int) -> Splits:
    """White noise of sigma 25: all of Set12 reports; the photographs that ship, in grey, do the rest."""
    arrays = np.load(folder / "set12_gray.npz")
    pairs = []
    for name in sorted(arrays.files):
        noisy, clean = Gaussian(SIGMA).apply(_floats(arrays[name]), seeds.stream(seed, f"noise/set12 {name}"))
        pairs.append(Pair(f"set12 {name}", f"set12 {name}", noisy, clean))
    others = _photographs(checkpoint, seed)
    known = (*others.calibration.pairs, *others.selection.pairs, *others.report.pairs)
    return dealt((*known, *pairs), frozenset(pair.scene for pair in pairs), seed, "Set12, photographs")


def photographs(folder: Path, checkpoint: Checkpoint, seed: int) -> Splits:
    """The photographs that ship, with white noise of sigma 25, as the tool deals them."""
    return _photographs(checkpoint, seed)


def cifar10(folder: Path, checkpoint: Checkpoint, seed: int) -> Splits:
    """CIFAR-10 test images, class by class: half reports, a third calibrates, a sixth selects."""
    arrays = np.load(folder / "cifar10_lossless_test846.npz")
    labels = arrays["y"].astype(np.int64)
    names = [f"{number:03}" for number in range(len(labels))]
    pairs = [
        Pair(name, name, IMAGENET.normalised(_floats(image), name), label)
        for name, image, label in zip(names, arrays["x"], (np.asarray(label) for label in labels), strict=True)
    ]
    rng = seeds.stream(seed, "benchmark images")
    order = [number for label in np.unique(labels) for number in rng.permutation(np.flatnonzero(labels == label)).tolist()]
    turns: tuple[Role, ...] = ("report", "calibration", "report", "selection", "report", "calibration")
    roles = {names[number]: turns[place % len(turns)] for place, number in enumerate(order)}
    return splits.from_pairs(pairs, seed=seed, source="CIFAR-10", assign=roles)


def _photographs(checkpoint: Checkpoint, seed: int) -> Splits:
    return splits.load(None, noise=Gaussian(SIGMA), channels=checkpoint.channels, stride=checkpoint.stride, seed=seed)


def _floats(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(C, H, W) in 0..1 from (H, W, C) or (H, W) in 0..255."""
    channels_first = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
    return np.ascontiguousarray(channels_first, np.float32) / np.float32(255)


NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        "halfunet64-sidd": Network("halfunet64_sidd.pt", smartphone),
        "dncnn25-gray": Network("dncnn25_plain_gray.pt", set12),
        "smallunet24-sidd": Network("smallunet24_sidd.pt", smartphone),
        "resnet20-cifar10": Network("resnet20_cifar10.pt", cifar10, arch="modules:ResNetCifar"),
        "reference": Network("reference", photographs),
    }
)
"""By the names that --networks takes."""

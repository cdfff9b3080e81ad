"""From a folder to the three roles: calibration, selection, report. Whole scenes are dealt, so that none is in two of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

import qcompress.reference
from qcompress import seeds
from qcompress.data.files import convert_channels
from qcompress.data.images import CalibrationImages, Pair, ReportImages, SelectionImages, Splits
from qcompress.data.noise import Gaussian, Noise
from qcompress.data.sources import Item, Source, recognise
from qcompress.errors import DataError, UsageError

__all__ = ["MAX_IMAGES", "MAX_PIXELS", "MAX_SIDE", "Role", "deal", "from_pairs", "load"]

Role = Literal["calibration", "selection", "report"]
ROLES: tuple[Role, ...] = get_args(Role)

GREY_SCENES = frozenset({"brick", "camera", "grass", "gravel"})
"""Those of the shipped photographs that are grey."""

MAX_IMAGES = 64
"""Images of a role that are read, unless the caller says otherwise."""

MAX_SIDE = 1024
"""Longest side, in pixels, that is kept of an image: its centre."""

MAX_PIXELS = 2**24
"""Pixels that a role keeps, 400 MB in RGB: with more than 16 images, less than MAX_SIDE is kept of each."""


def load(
    source: Path | None,
    *,
    noise: Noise | None = None,
    channels: int,
    stride: int,
    seed: int,
    max_images: int | None = None,
) -> Splits:
    """The images in the folder `source`, or the shipped photographs if it is None, in three roles.

    noise       for clean images only; the shipped photographs get gaussian:25 unless told otherwise
    channels    what the network takes: images are converted between grey and RGB
    stride      sides are cropped, around the centre, to multiples of it
    max_images  at most this many images of each role are read (default MAX_IMAGES), spread over its scenes

    About half of the scenes calibrate, a quarter selects, a quarter reports; the seed decides which. An image's noise depends
    on the seed and its name alone. Raises DataError for what cannot be used, UsageError for missing or superfluous noise.
    """
    limit = MAX_IMAGES if max_images is None else max_images
    if limit < 1:
        raise UsageError(f"max_images is {limit}, expected at least 1")
    found = shipped(channels) if source is None else recognise(source)
    if source is None and noise is None:
        noise = Gaussian(25)
    where = "the photographs that ship with qcompress" if source is None else str(source)
    _check_noise(found, noise, where)
    roles = deal((item.scene for item in found.items), seed, where)
    reader = _Reader(noise, channels, stride, seed)
    images = {role: reader.read(_choose(found.items, roles, role, limit, seed)) for role in ROLES}
    label = f"{where}: {found.kind}" + (f" with {noise} noise" if noise is not None else "")
    return _splits(label, images)


def from_pairs(
    pairs: Sequence[Pair],
    *,
    seed: int,
    source: str = "pairs in memory",
    assign: Mapping[str, Role] | None = None,
) -> Splits:
    """`pairs` in three roles, by scene: as `assign` says for every scene, or dealt by the seed. No pixel is changed.

    Raises DataError if a role stays empty or a scene has no role.
    """
    roles = deal((pair.scene for pair in pairs), seed, source) if assign is None else dict(assign)
    lost = sorted({pair.scene for pair in pairs} - roles.keys())
    if lost:
        raise DataError(f"{source}: scene {lost[0]} is assigned no role, expected one of {', '.join(ROLES)}")
    images = {role: [pair for pair in pairs if roles[pair.scene] == role] for role in ROLES}
    for role in ROLES:
        if not images[role]:
            raise DataError(f"{source}: no image for {role}", "assign at least one scene to each role")
    return _splits(source, images)


def deal(scenes: Iterable[str], seed: int, source: str) -> dict[str, Role]:
    """The role of each scene, drawn by the seed: about a quarter reports, a quarter selects, the rest calibrates.

    Scenes count, not images: what many images of one scene tell is mostly one thing. Raises DataError for fewer than 3 scenes,
    for no role may stay empty; `source` names them in the message.

    >>> sorted(deal("abcdefgh", 0, "letters").values())
    ['calibration', 'calibration', 'calibration', 'calibration', 'report', 'report', 'selection', 'selection']
    """
    names = sorted(set(scenes))
    n = len(names)
    if n < len(ROLES):
        raise DataError(
            f"{source}: images of {n} scene(s), expected at least 3: to calibrate, to select and to report on",
            "add images of other scenes; what was fitted to an image cannot be judged on it",
        )
    shuffled = [names[place] for place in seeds.stream(seed, "splits").permutation(n)]
    report, selection = (n + 2) // 4, (n + 1) // 4
    roles: list[Role] = ["calibration"] * (n - report - selection)
    roles += ["selection"] * selection
    roles += ["report"] * report
    return dict(zip(shuffled, roles, strict=True))


def shipped(channels: int) -> Source:
    """The photographs that ship with the package; SCENE_1.png is a part of the photograph SCENE.

    A network for colour gets those in colour only, for it has seen few without; a network for grey images gets all.
    """
    found = recognise(Path(qcompress.reference.__file__).parent / "photographs")
    stems = ((Path(item.name).stem, item.read) for item in found.items)
    items = (Item(stem, stem.rpartition("_")[0], read) for stem, read in stems)
    return Source(found.kind, False, tuple(item for item in items if channels == 1 or item.scene not in GREY_SCENES))


def _check_noise(found: Source, noise: Noise | None, where: str) -> None:
    if found.paired and noise is not None:
        raise UsageError(
            f"{where}: {found.kind} come with their own noise, but {noise} noise is asked for", "leave the noise out"
        )
    if not found.paired and noise is None:
        raise UsageError(f"{where}: {found.kind} only, and no noise to add", "say which, such as --noise gaussian:25 or camera")


def _choose(items: Iterable[Item], roles: Mapping[str, Role], role: Role, limit: int, seed: int) -> list[Item]:
    """At most `limit` items of a role, in turn from each of its scenes, in the order of names."""
    rng = seeds.stream(seed, f"choice/{role}")
    by_scene: dict[str, list[Item]] = {}
    for item in items:
        if roles[item.scene] == role:
            by_scene.setdefault(item.scene, []).append(item)
    ranked = []
    for scene in sorted(by_scene):
        order = rng.permutation(len(by_scene[scene])).tolist()
        ranked += [
            (turn, rng.random(), by_scene[scene][place].name, by_scene[scene][place]) for turn, place in enumerate(order)
        ]
    chosen = sorted(ranked, key=lambda entry: entry[:3])[:limit]
    return sorted((entry[3] for entry in chosen), key=lambda item: item.name)


@dataclass(frozen=True)
class _Reader:
    """Reads items as pairs that the network can take."""

    noise: Noise | None
    channels: int
    stride: int
    seed: int

    def read(self, items: Sequence[Item]) -> list[Pair]:
        side = min(MAX_SIDE, math.isqrt(MAX_PIXELS // len(items)))
        return [self._read_one(item, side) for item in items]

    def _read_one(self, item: Item, side: int) -> Pair:
        noisy, clean = item.read()
        if noisy is not None and noisy.shape[1:] != clean.shape[1:]:
            sizes = [f"{image.shape[2]}x{image.shape[1]}" for image in (noisy, clean)]
            raise DataError(f"{item.name}: noisy is {sizes[0]} pixels, clean {sizes[1]}", "crop the pair to one size")
        window = self._window(item.name, clean.shape, side)
        clean = convert_channels(clean[window], self.channels, item.name)
        if noisy is None:
            assert self.noise is not None
            noisy, clean = self.noise.apply(clean, seeds.stream(self.seed, f"noise/{item.name}"))
        else:
            noisy = convert_channels(noisy[window], self.channels, item.name)
        return Pair(item.name, item.scene, np.ascontiguousarray(noisy), np.ascontiguousarray(clean))

    def _window(self, name: str, shape: Sequence[int], side: int) -> tuple[slice, slice, slice]:
        """The centre of an image: as large as MAX_SIDE and MAX_PIXELS allow, in multiples of the stride."""
        cuts = []
        for length in shape[1:]:
            kept = min(length, max(side, self.stride)) // self.stride * self.stride
            if kept == 0:
                raise DataError(
                    f"{name} is {shape[2]}x{shape[1]} pixels, expected at least {self.stride}x{self.stride} for this network",
                    "use larger images",
                )
            start = (length - kept) // 2
            cuts.append(slice(start, start + kept))
        return slice(None), cuts[0], cuts[1]


def _splits(source: str, images: Mapping[Role, Sequence[Pair]]) -> Splits:
    return Splits(
        source,
        CalibrationImages(tuple(images["calibration"])),
        SelectionImages(tuple(images["selection"])),
        ReportImages(tuple(images["report"])),
    )

"""From a folder to the three roles: calibration, selection, report. Whole scenes are dealt, so that none is in two of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import qcompress.reference
from qcompress import seeds
from qcompress.data.images import CalibrationImages, Pair, ReportImages, SelectionImages, Splits, TrainingImages
from qcompress.data.noise import Gaussian, Noise
from qcompress.data.reading import Form, Reader
from qcompress.data.sources import Item, Source, recognise
from qcompress.errors import DataError, UsageError

__all__ = ["MAX_IMAGES", "MAX_LABELLED", "Form", "Role", "deal", "find", "from_pairs", "load", "noise_of", "training"]

Role = Literal["calibration", "selection", "report"]
ROLES: tuple[Role, ...] = get_args(Role)

GREY_SCENES = frozenset({"brick", "camera", "grass", "gravel"})
"""Those of the shipped photographs that are grey."""

MAX_IMAGES = 64
"""Images of a role that are read, unless the caller says otherwise."""

MAX_LABELLED = 1000
"""The same of images with a class each: they are small, and a share of right answers needs many."""


MAX_TRAINING = 1024
"""Images of a training folder that are read."""


def find(source: Path | None, channels: int, *, classes: bool = False) -> Source:
    """What the folder or .npz file `source` holds, or the shipped photographs if it is None; nothing is read of a folder yet.

    `classes` says that the network labels images. Raises DataError for what cannot be recognised.
    """
    if source is not None:
        return recognise(source, classes=classes)
    if classes:
        raise UsageError(
            "the network labels images, and the photographs that ship have no labels",
            "--data DIR with a subfolder of images for each class, or an .npz file with x and y",
        )
    return shipped(channels)


def load(
    source: Path | None,
    *,
    noise: Noise | None = None,
    channels: int,
    stride: int,
    seed: int,
    max_images: int | None = None,
    form: Form | None = None,
    found: Source | None = None,
) -> Splits:
    """The images in the folder `source`, or the shipped photographs if it is None, in three roles.

    noise       for clean images only; the shipped photographs get gaussian:25 unless told otherwise
    channels    what the network takes: images are converted between grey and RGB
    stride      sides are cropped, around the centre, to multiples of it
    max_images  at most this many images of each role are read, spread over its scenes (default MAX_IMAGES; with a class each:
                MAX_LABELLED)
    form        what the network needs besides: its scale, the size and the normalisation of its input
    found       what `find` says of `source`, if it was asked already

    About half of the scenes calibrate, a quarter selects, a quarter reports; the seed decides which. Images with a class are
    dealt one by one, so that each role has about the same share of every class, and copies of a picture stay together. An
    image's noise depends on the seed and its name alone. Raises DataError for what cannot be used, UsageError for missing or
    superfluous noise.
    """
    form = form or Form()
    found = find(source, channels) if found is None else found
    labelled = found.content == "classes"
    limit = (MAX_LABELLED if labelled else MAX_IMAGES) if max_images is None else max_images
    if limit < 1:
        raise UsageError(f"max_images is {limit}, expected at least 1")
    noise = noise_of(source, noise, form.scale)
    where = "the photographs that ship with qcompress" if source is None else str(source)
    _check_noise(found, noise, where, form.scale)
    roles = _deal_classes(found.items, seed, where) if labelled else deal((item.scene for item in found.items), seed, where)
    reader = Reader(noise, channels, stride, seed, form)
    images = {role: reader.read(_choose(found.items, roles, role, limit, seed)) for role in ROLES}
    if labelled:
        images = _without_copies(images, where)
    _check_scale(images, form.scale, where)
    label = f"{where}: {found.kind}" + (f" with {noise} noise" if noise is not None else "")
    if not found.paired and form.scale > 1:
        label += f", reduced {form.scale} times"
    return _splits(label, images, found.classes)


def noise_of(source: Path | None, noise: Noise | None, scale: int) -> Noise | None:
    """The noise that is added to clean images: as asked for, or for the shipped photographs a default one."""
    return Gaussian(25) if source is None and noise is None and scale == 1 else noise


def training(
    source: Path,
    *,
    noise: Noise | None,
    channels: int,
    stride: int,
    seed: int,
    form: Form,
    classes: bool,
    max_images: int | None = None,
) -> TrainingImages:
    """The images in `source`, read as by `load`, all for fine-tuning: at most `max_images` (default MAX_TRAINING).

    They are drawn by the seed where there are more. Raises as `load` does.
    """
    found = find(source, channels, classes=classes)
    _check_noise(found, noise, str(source), form.scale)
    items, limit = found.items, MAX_TRAINING if max_images is None else max_images
    if len(items) > limit:
        drawn = seeds.stream(seed, "choice/training").permutation(len(items))[:limit]
        items = tuple(items[place] for place in sorted(drawn.tolist()))
    return TrainingImages(tuple(Reader(noise, channels, stride, seed, form).read(items)))


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
    return Source(found.kind, "clean", tuple(item for item in items if channels == 1 or item.scene not in GREY_SCENES))


def _check_noise(found: Source, noise: Noise | None, where: str, scale: int) -> None:
    if found.paired and noise is not None:
        raise UsageError(
            f"{where}: {found.kind} come with their own noise, but {noise} noise is asked for", "leave the noise out"
        )
    if not found.paired and noise is None and scale == 1:
        raise UsageError(f"{where}: {found.kind} only, and no noise to add", "say which, such as --noise gaussian:25 or camera")


def _check_scale(images: Mapping[Role, Sequence[Pair]], scale: int, where: str) -> None:
    for pair in (pair for role in ROLES for pair in images[role]):
        if not pair.is_labelled and pair.scale != scale:
            raise DataError(
                f"{where}: the target of {pair.name} is {pair.scale} times as large as its input, "
                f"the network's output {scale} times",
                "give the pairs of the scale that the network was trained for",
            )


def _deal_classes(items: Sequence[Item], seed: int, where: str) -> dict[str, Role]:
    """The role of each scene: class by class in random order, half of each calibrate, a quarter selects, a quarter reports."""
    scenes: dict[str, str] = {}
    for item in items:
        scenes.setdefault(item.scene, item.stratum)
    if len(scenes) < len(ROLES):
        return deal(scenes, seed, where)
    by_class: dict[str, list[str]] = {}
    for scene, stratum in scenes.items():
        by_class.setdefault(stratum, []).append(scene)
    rng = seeds.stream(seed, "splits")
    order = [scene for stratum in sorted(by_class) for scene in rng.permutation(sorted(by_class[stratum])).tolist()]
    turns: tuple[Role, ...] = ("calibration", "report", "selection", "calibration")
    return {scene: turns[place % len(turns)] for place, scene in enumerate(order)}


def _without_copies(images: Mapping[Role, list[Pair]], where: str) -> dict[Role, list[Pair]]:
    """`images`, each picture in one role only: that of its first copy, the report's before the others."""
    owners: dict[str, Role] = {}
    for role in reversed(ROLES):
        for pair in images[role]:
            owners.setdefault(pair.sha256, role)
    pairs = [pair for role in ROLES for pair in images[role]]
    kept = {role: [pair for pair in pairs if owners[pair.sha256] == role] for role in ROLES}
    for role in ROLES:
        if not kept[role]:
            raise DataError(f"{where}: no image is left for {role}, so many show the same picture", "add other images")
    return kept


def _choose(items: Iterable[Item], roles: Mapping[str, Role], role: Role, limit: int, seed: int) -> list[Item]:
    """At most `limit` items of a role, in turn from each of its classes or scenes, in the order of names."""
    rng = seeds.stream(seed, f"choice/{role}")
    by_scene: dict[str, list[Item]] = {}
    for item in items:
        if roles[item.scene] == role:
            by_scene.setdefault(item.stratum or item.scene, []).append(item)
    ranked = []
    for scene in sorted(by_scene):
        order = rng.permutation(len(by_scene[scene])).tolist()
        ranked += [
            (turn, rng.random(), by_scene[scene][place].name, by_scene[scene][place]) for turn, place in enumerate(order)
        ]
    chosen = sorted(ranked, key=lambda entry: entry[:3])[:limit]
    return sorted((entry[3] for entry in chosen), key=lambda item: item.name)


def _splits(source: str, images: Mapping[Role, Sequence[Pair]], classes: tuple[str, ...] = ()) -> Splits:
    return Splits(
        source,
        CalibrationImages(tuple(images["calibration"])),
        SelectionImages(tuple(images["selection"])),
        ReportImages(tuple(images["report"])),
        classes,
    )

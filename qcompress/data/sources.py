"""What `--data` names: pairs of degraded and clean images in one of several layouts, clean images alone, or labelled images.

Recognising a folder only lists it; pixels are read later, and only of the images that are chosen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from qcompress.data import arrays, labelled, validation_mat
from qcompress.data.files import SUFFIXES, image_files, read_image
from qcompress.data.items import Images, Item, Source
from qcompress.errors import DataError

__all__ = ["Item", "Source", "recognise"]

NOISY_WORDS = frozenset({"noisy", "noise", "input", "lq", "low", "lr"})
CLEAN_WORDS = frozenset({"clean", "target", "gt", "hq", "high", "hr"})

_SIDD_SCENE = re.compile(r"^\d{4}_(\d{3})_[A-Za-z0-9]+_\d{5}_\d{5}_\d{4}_[A-Z]", re.ASCII)
_WORD = re.compile(r"[^\W_]+")
_JOINTS = re.compile(r"[\s_.-]{2,}")
_SCALED = re.compile(r"^(.+?)[_-]?x[2-8]$", re.IGNORECASE)  # 0001x4, as DIV2K calls the small version of 0001
_SCALE_FOLDER = re.compile(r"^x[2-8]$", re.IGNORECASE)
_LAYOUTS = "expected a SIDD folder, two .mat files, noisy/ and clean/, lr/ and hr/, pairs X_noisy and X_clean, or clean images"


def recognise(folder: Path, *, classes: bool = False) -> Source:
    """What `folder` (or an .npz file) holds, its items in the order of their names.

    That is SIDD's validation blocks (two .mat files); images/ and masks/; pairs, told by subfolders such as noisy/ and clean/
    or lr/ and hr/, or by a word in the names (SIDD's sRGB folders among them: 0001_NOISY_SRGB_010.PNG, 0001_GT_SRGB_010.PNG);
    or else clean images. With `classes`, for a network that labels images, it is a subfolder of images for each class.
    Scenes are SIDD's scene numbers where names carry them, else subfolders if there are at least three, else every image is a
    scene of its own. Raises DataError for what is none of these.
    """
    if not folder.exists():
        raise DataError(f"{folder}: no such folder", _LAYOUTS)
    if folder.is_file() and folder.suffix.lower() == ".npz":
        return arrays.recognise(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is a file, expected a folder or an .npz file", f"give the folder it is in: {folder.parent}")
    if classes:
        return labelled.class_folders(folder)
    if sorted(folder.glob("*.mat")):
        return _validation_blocks(folder)
    if labelled.has_masks(folder):
        return labelled.mask_folders(folder)
    files = image_files(folder)
    if not files:
        raise DataError(f"{folder}: no image in it, {_LAYOUTS}", f"images end in {', '.join(sorted(SUFFIXES))}")
    named = [_named(file, folder) for file in files]
    if _are_pairs(named):
        return _pairs(named)
    if all(image.side == "noisy" for image in named):
        raise DataError(
            f"{folder}: {files[0].name} and all the others are noisy, none has a clean partner",
            "name pairs X_noisy and X_clean, or put them into noisy/ and clean/",
        )
    return _clean(folder, files)


def _validation_blocks(folder: Path) -> Source:
    noisy, clean = validation_mat.find_pair(folder)
    blocks = validation_mat.Blocks(noisy, clean)
    items = (
        Item(f"{scene:02d}_{block:02d}", f"{scene:02d}", partial(blocks.read, scene, block)) for scene, block in blocks.places()
    )
    return Source("SIDD validation blocks", "pairs", tuple(items))


@dataclass(frozen=True)
class _Named:
    """What a path tells: the side, by a folder or else by one word of the name ("" if neither does), and the rest."""

    file: Path
    side: str
    by_folder: bool
    rest: str  # the path without the folder that tells the side, or without the word
    bare: str  # the rest without any word that could tell a side


def _named(file: Path, folder: Path) -> _Named:
    relative = file.relative_to(folder)
    words = [word[0].lower() for word in _WORD.finditer(relative.stem) if word[0].lower() in NOISY_WORDS | CLEAN_WORDS]
    bare = _WORD.sub(lambda word: "" if word[0].lower() in words else word[0], relative.stem)
    bare = _JOINTS.sub("_", bare).strip("_-. ")
    sides = {place: side for place, part in enumerate(relative.parts[:-1]) if (side := _folder_side(part))}
    if sides:
        parents = Path(*(part for place, part in enumerate(relative.parts[:-1]) if place not in _telling(sides)))
        side = sides[max(sides)]
        scaled = _SCALED.match(bare) if side == "noisy" else None
        bare = scaled[1] if scaled else bare
        return _Named(file, side, True, (parents / relative.stem).as_posix(), (parents / bare).as_posix())
    key = (relative.parent / (bare if len(words) == 1 else relative.stem)).as_posix()
    return _Named(file, _side(words[0]) if len(words) == 1 else "", False, key, key)


def _folder_side(name: str) -> str:
    """What a folder's name tells: noisy/, hr/, X4/, DIV2K_train_LR_bicubic/; "" if nothing."""
    words = {word.lower() for word in re.split(r"[\W_]+", name)} & {"lr", "hr"}
    if name.lower() in NOISY_WORDS | CLEAN_WORDS:
        return _side(name)
    if _SCALE_FOLDER.match(name):
        return "noisy"
    return _side(words.pop()) if len(words) == 1 else ""


def _telling(sides: Mapping[int, str]) -> set[int]:
    """The folders that are left out of a pair's name: the last that tells, and any next to it that tells the same."""
    last = max(sides)
    return {place for place in sides if all(sides.get(between) == sides[last] for between in range(place, last + 1))}


def _side(word: str) -> str:
    return "noisy" if word.lower() in NOISY_WORDS else "clean"


def _are_pairs(images: list[_Named]) -> bool:
    """Whether folders tell both sides, or every name tells one and both occur, or at least two names make a pair."""
    if {"noisy", "clean"} in ({i.side for i in images if i.by_folder}, {i.side for i in images}):
        return True
    return any(
        (rest, "clean") in known for known in [{(i.rest, i.side) for i in images}] for rest, side in known if side == "noisy"
    )


def _pairs(images: list[_Named]) -> Source:
    """Pairs of equal names but for what tells the side; in folders, names that are equal as they stand go first."""
    strange = [image.file for image in images if not image.side]
    if strange:
        raise DataError(
            f"{strange[0]}: neither noisy nor clean by its name, among {len(images)} images of paired names",
            "name pairs X_noisy and X_clean, and keep other images elsewhere",
        )
    noisy, clean = ([image for image in images if image.side == side] for side in ("noisy", "clean"))
    equal = {image.rest for image in noisy} & {image.rest for image in clean}
    keys = {image: image.rest if image.rest in equal else image.bare for image in images}
    sides = [_unique((keys[image], image.file) for image in side) for side in (noisy, clean)]
    _refuse_lonely(*sides)
    scenes = _scenes(sides[0])
    items = (Item(key, scenes[key], partial(_read_pair, sides[0][key], sides[1][key])) for key in sorted(sides[0]))
    sidd = all(_sidd_scene(image.file.parent.name) for image in images)
    kind = "SIDD sRGB folders" if sidd else "noisy and clean folders" if images[0].by_folder else "paired names"
    if not sidd and any(_low_resolution(image.file) for image in images):
        kind = "images of low and high resolution"
    return Source(kind, "pairs", tuple(items))


def _low_resolution(file: Path) -> bool:
    """Whether a path says that it is the small image of a pair."""
    names = [*file.parts[:-1], file.stem]
    return any("lr" in re.split(r"[\W_]+", name.lower()) or _SCALE_FOLDER.match(name) for name in names[-3:])


def _refuse_lonely(noisy: Mapping[str, Path], clean: Mapping[str, Path]) -> None:
    lonely = sorted(noisy.keys() ^ clean.keys())
    if lonely:
        file, missing = (noisy[lonely[0]], "clean") if lonely[0] in noisy else (clean[lonely[0]], "noisy")
        raise DataError(
            f"{file}: no {missing} image of that name ({len(lonely)} of {len(noisy) + len(clean)} images have no partner)",
            "give both images of a pair the same name, or take the single ones out",
        )


def _clean(folder: Path, files: list[Path]) -> Source:
    names = {file.relative_to(folder).as_posix(): file for file in files}
    scenes = _scenes(names)
    items = (Item(name, scenes[name], partial(_read_clean, file)) for name, file in names.items())
    return Source("clean images", "clean", tuple(items))


def _read_clean(file: Path) -> Images:
    return None, read_image(file)


def _read_pair(noisy: Path, clean: Path) -> Images:
    return read_image(noisy), read_image(clean)


def _unique(pairs: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for key, file in pairs:
        if key in files:
            raise DataError(f"{files[key]} and {file.name} have the same name but for the ending", "keep one of them")
        files[key] = file
    return files


def _sidd_scene(text: str) -> str | None:
    found = _SIDD_SCENE.match(text)
    return found[1] if found else None


def _scenes(names: Iterable[str]) -> dict[str, str]:
    """The scene of each image, by its relative path: see `recognise`."""
    names = sorted(names)
    numbers = {name: next(filter(None, map(_sidd_scene, name.split("/"))), None) for name in names}
    if all(numbers.values()):
        return {name: str(number) for name, number in numbers.items()}
    parents = {name: name.rpartition("/")[0] for name in names}
    if "" not in parents.values() and len(set(parents.values())) >= 3:
        return parents
    return {name: name for name in names}

"""Folders of labelled images: a subfolder for each class, or images/ and masks/."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from qcompress.data.files import image_files, read_image, read_indices
from qcompress.data.items import Images, Item, Source
from qcompress.errors import DataError

__all__ = ["class_folders", "has_masks", "mask_folders"]

_CLASSES = "classes.txt"
_MOST_NAMES = 2**20  # bytes of classes.txt
_HINT = "a classifier wants a subfolder of images for each class, or an .npz file with x and y"


def class_folders(folder: Path) -> Source:
    """Images in a subfolder for each class.

    Classes are numbered as the lines of classes.txt name them, else in the order of the subfolders' names. Raises DataError for
    fewer than two classes, images outside of them, or a class that classes.txt does not name.
    """
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = {path.name: image_files(path) for path in folders}
    filled = [name for name, found in files.items() if found]
    if len(filled) < 2:
        raise DataError(f"{folder}: {len(filled)} subfolders with images, expected one for each of two classes or more", _HINT)
    listed = folder / _CLASSES
    classes = _listed(listed) if listed.is_file() else tuple(files)
    unknown = sorted(set(filled) - set(classes))
    if unknown:
        raise DataError(f"{folder / unknown[0]}: {_CLASSES} does not name that class", f"add it to {listed}, or take it out")
    numbers = {name: number for number, name in enumerate(classes)}
    items = [
        Item(f"{name}/{file.relative_to(folder / name).as_posix()}", str(file), partial(_labelled, file, numbers[name]), name)
        for name in filled
        for file in files[name]
    ]
    return Source(f"images of {len(classes)} classes", "classes", tuple(items), classes)


def has_masks(folder: Path) -> bool:
    """Whether `folder` has images/ and masks/."""
    return (folder / "images").is_dir() and (folder / "masks").is_dir()


def mask_folders(folder: Path) -> Source:
    """Images in images/ and, of the same name but for the ending, their masks in masks/.

    A mask's palette index or grey value is the class of the pixel; 255 does not count. Images in at least three subfolders are
    dealt by subfolder, as scenes. Raises DataError for an image or a mask without its partner.
    """
    sides = [_by_name(folder / side) for side in ("images", "masks")]
    lonely = sorted(sides[0].keys() ^ sides[1].keys())
    if lonely or not sides[0]:
        what = f"{lonely[0]} is in one of images/ and masks/ only" if lonely else "no image in images/"
        raise DataError(f"{folder}: {what}", "give an image and its mask the same name")
    images, masks = sides
    parents = {name.rpartition("/")[0] for name in images}
    by_folder = "" not in parents and len(parents) >= 3
    items = (
        Item(name, name.rpartition("/")[0] if by_folder else name, partial(_masked, images[name], masks[name]))
        for name in sorted(images)
    )
    return Source("images and masks", "masks", tuple(items))


def _listed(path: Path) -> tuple[str, ...]:
    if path.stat().st_size > _MOST_NAMES:
        raise DataError(f"{path}: more than {_MOST_NAMES:,} bytes, expected the name of a class on each line")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}", "save it as UTF-8 text, a class on each line") from error
    names = tuple(line for line in lines if line)
    if len(set(names)) < len(names):
        raise DataError(f"{path}: names a class twice", "name every class once")
    return names


def _by_name(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in image_files(folder):
        name = file.relative_to(folder).with_suffix("").as_posix()
        if name in files:
            raise DataError(f"{files[name]} and {file.name} have the same name but for the ending", "keep one of them")
        files[name] = file
    return files


def _labelled(file: Path, label: int) -> Images:
    return read_image(file), np.array(label, np.int64)


def _masked(image: Path, mask: Path) -> Images:
    return read_image(image), read_indices(mask)

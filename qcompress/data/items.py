"""What can be read of a source of images: its items, each with a scene and a way to its pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Images", "Item", "Kind", "Source"]

Kind = Literal["pairs", "clean", "classes", "masks"]
"""Degraded and clean images; clean images alone; images with a class each; images with a class for each pixel."""

Images = tuple[NDArray[np.float32] | None, NDArray[Any]]


@dataclass(frozen=True)
class Item:
    """One image or pair that can be read.

    `read()` gives (input, target): images are (C, H, W) float32 in 0..1, the input is None where only clean images are given;
    a class is an int64 (), a mask an int64 (H, W). `stratum` is what roles are to have equal shares of: the class.
    """

    name: str
    scene: str
    read: Callable[[], Images]
    stratum: str = ""


@dataclass(frozen=True)
class Source:
    """What a folder or file holds: `kind` says it in words, `content` for programs; `classes` in the order of their numbers."""

    kind: str
    content: Kind
    items: tuple[Item, ...]
    classes: tuple[str, ...] = ()

    @property
    def paired(self) -> bool:
        """Whether inputs came with the targets."""
        return self.content != "clean"

"""What a network is for, as far as images can tell."""

from __future__ import annotations

from typing import Literal

from qcompress.data.items import Kind

__all__ = ["Task", "task_of"]

Task = Literal["denoising", "super-resolution", "classification", "segmentation"]
"""Denoising stands for every restoration whose output is as large as its input."""


def task_of(content: Kind, scale: int) -> Task:
    """The task of a network whose output is `scale` times as large as its input, on images of this kind.

    >>> task_of("clean", 2), task_of("classes", 1)
    ('super-resolution', 'classification')
    """
    if content == "classes":
        return "classification"
    if content == "masks":
        return "segmentation"
    return "super-resolution" if scale > 1 else "denoising"

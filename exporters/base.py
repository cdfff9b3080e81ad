"""What an exporter is, and what it hands back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

__all__ = ["Artifact", "Exporter"]


@dataclass(frozen=True)
class Artifact:
    """A file that was written, checked and reloaded.

    `dynamic` is True where batch, height and width may all vary; `notes` are sentences for the user (why a size is fixed, say).
    """

    path: Path
    format: str
    size_bytes: int
    sha256: str
    opset: int
    dynamic: bool
    notes: tuple[str, ...] = ()


class Exporter(Protocol):
    """Writes a network to one file.

    `example` is a float32 (N, C, H, W) input that the network accepts; `metadata` is stored in the file where the format can.
    The network is not changed, nothing is written unless everything was checked, and the file appears in one step.

    Raises ExportError where the network cannot be written faithfully as asked, OutputError where `path` cannot be written.
    """

    def __call__(
        self, model: nn.Module, example: Tensor, path: Path, *, opset: int, dynamic: bool, metadata: Mapping[str, str]
    ) -> Artifact: ...

"""The sheet of crops, cut into pictures that a page can hold. A sheet that is not the report's is left out."""

from __future__ import annotations

import base64
import hashlib
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from qcompress.reports import CropFacts, Report

__all__ = ["Strip", "cut", "data_uri", "read"]

_FILE = "crops.png"
_LARGEST = 16 * 2**20  # bytes; five columns and eight rows of 512 pixels are no more


@dataclass(frozen=True)
class Strip:
    """One window: the facts, and by column its picture as a data URI."""

    facts: CropFacts
    pictures: Mapping[str, str]


def read(report: Report, folder: Path) -> bytes | None:
    """The sheet in `folder` that `report` was written with; None where it is missing, too large, or another one."""
    known, path = report.files.get(_FILE), folder / _FILE
    try:
        if report.crops is None or known is None or not path.is_file() or path.stat().st_size > _LARGEST:
            return None
        data = path.read_bytes()
    except OSError:
        return None
    return data if hashlib.sha256(data).hexdigest() == known.sha256 else None


def cut(report: Report, data: bytes | None) -> tuple[Strip, ...]:
    """The windows of the sheet, top to bottom; () without one, or where it is not a picture of the size that it should have."""
    crops = report.crops
    if crops is None or data is None:
        return ()
    side = crops.side
    try:
        with warnings.catch_warnings(), _opened(data) as opened:
            if opened.size != (side * len(crops.columns), side * len(crops.rows)):
                return ()
            sheet = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return ()
    return tuple(
        Strip(facts, {name: _tile(sheet, column, row, side) for column, name in enumerate(crops.columns)})
        for row, facts in enumerate(crops.rows)
    )


def data_uri(image: Image.Image) -> str:
    """The picture as a PNG that is its own address."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _opened(data: bytes) -> Image.Image:
    """The picture, not yet decoded: one that is far too large is an error, whatever Pillow is set to."""
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    return Image.open(io.BytesIO(data), formats=["PNG"])


def _tile(sheet: Image.Image, column: int, row: int, side: int) -> str:
    left, top = column * side, row * side
    return data_uri(sheet.crop((left, top, left + side, top + side)))

"""Image files to arrays: PNG, JPEG, TIFF, BMP and WebP, 8 or 16 bits a sample, grey or RGB, float32 (C, H, W) in 0..1."""

from __future__ import annotations

import logging
import lzma
import math
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageFile

from qcompress.data.unpacking import count_jpeg_scans, unpacks_to_more
from qcompress.errors import DataError

__all__ = ["SUFFIXES", "convert_channels", "image_files", "read_image", "read_indices"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
"""Endings, in lower case, of the files that `read_image` reads."""

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")  # nothing else: Pillow would run Ghostscript on an EPS named x.png
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST_PER_BYTE, _MOST_ANYWAY = 512, 2**24  # values in a picture per byte of its file; pictures are no bombs up to so many
_MOST_SCANS = 200  # of a progressive JPEG; each is a pass over the whole picture, and encoders write about ten
_ORIENTATION = 0x0112  # the EXIF tag; TIFF has the same
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # Rec. 601
_GREY_16 = frozenset({"I;16", "I;16B", "I;16L", "I;16N", "I"})  # Pillow's modes of 16-bit grey
tifffile.logger().addHandler(logging.NullHandler())  # without a handler its complaints go to stderr; a DataError says enough
_TIFF_KINDS = frozenset({"MINISBLACK", "MINISWHITE", "RGB"})
_TIFF_ALONE: dict[str, Any] = {
    f"is_{kind}": False for kind in ("ome", "mmstack", "ndtiff", "micromanager")
}  # they open other files


def read_image(path: Path) -> NDArray[np.float32]:
    """The picture in `path`: (1, H, W) if it is grey, (3, H, W) if it is RGB; alpha is dropped, EXIF orientation applied.

    Full scale is 255 or 65,535, whatever the values. A palette or CMYK file is read as RGB.
    The kind of a file is told by its bytes. Memory is bounded by 512 values, some 10 bytes each, per byte of the file.
    Raises DataError for a file that is missing, corrupt, not an image, too large to be safe, or of another sample type.
    """
    try:
        samples, orientation = _read_tiff(path) if _is_tiff(path) else _read_pillow(path)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Exception as error:  # what parsers raise over corrupt bytes is open-ended: SyntaxError, struct.error, ...
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DataError(f"{path}: not a readable image ({reason})", "copy or save the file again, or take it out") from error
    full = np.float32(np.iinfo(samples.dtype).max)
    upright = _turn(samples, orientation).transpose(2, 0, 1).astype(np.float32) / full
    return np.ascontiguousarray(upright)


def image_files(folder: Path) -> list[Path]:
    """Every image below `folder` in the order of paths; hidden files and folders are left out."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def read_indices(path: Path) -> NDArray[np.int64]:
    """(H, W): the palette's indices, or the grey values 0..255, of a PNG, BMP or TIFF.

    Raises DataError for a file that is missing, corrupt, too large to be safe, or in colours that are no palette.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "BMP", "TIFF")) as image:
                _check_bomb(path, image)
                if image.mode not in {"P", "L"}:
                    raise DataError(f"{path}: pixels of mode {image.mode}, expected a palette or 8-bit grey", "save it as such")
                return np.asarray(image).astype(np.int64)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Exception as error:  # as above
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise DataError(f"{path}: not a readable mask ({reason})", "copy or save the file again, or take it out") from error


def convert_channels(image: NDArray[np.float32], channels: int, name: str) -> NDArray[np.float32]:
    """`image` (C, H, W) with as many channels as a network takes: RGB to grey by Rec. 601 luma, grey to RGB by repeating.

    Raises DataError if C or `channels` is neither 1 nor 3 and they differ.
    """
    if image.shape[0] == channels:
        return image
    if (image.shape[0], channels) == (3, 1):
        return np.tensordot(_LUMA, image, 1)[np.newaxis].astype(np.float32)
    if (image.shape[0], channels) == (1, 3):
        return np.repeat(image, 3, axis=0)
    raise DataError(
        f"{name} has {image.shape[0]} channels, the network takes {channels}",
        "only grey (1) and RGB (3) are converted into one another",
    )


def _read_pillow(path: Path) -> tuple[NDArray[Any], int]:
    """Samples (H, W, 1 or 3), uint8 or uint16, and the EXIF orientation 1..8."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # complaints about odd metadata; what matters raises
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=_FORMATS) as image:
            _check_bomb(path, image)
            rawmode = str(image.tile[0][3]) if image.format == "PNG" and image.tile else ""  # first, as getexif loads a PNG
            orientation = int(image.getexif().get(_ORIENTATION, 1))
            if rawmode == "LA;16B":
                raise DataError(f"{path}: 16-bit grey with alpha, expected grey or RGB", "save it without the alpha channel")
            if rawmode in {"RGB;16B", "RGBA;16B"}:
                return _read_deep_png(path, rawmode), orientation
            return _samples(image, path), orientation


def _is_tiff(path: Path) -> bool:
    with path.open("rb") as file:
        return path.suffix.lower() in {".tif", ".tiff"} or file.read(4) in _TIFF_MAGIC


def _check_values(path: Path, values: int) -> None:
    """Refuse a picture that is far larger than its file: nothing that was photographed compresses so well."""
    size = path.stat().st_size
    if values > max(_MOST_PER_BYTE * size, _MOST_ANYWAY):
        raise DataError(f"{path}: {values:,} values in a file of {size:,} bytes, which no photograph is", "take it out")


def _check_bomb(path: Path, image: ImageFile.ImageFile) -> None:
    _check_values(path, image.width * image.height * len(image.getbands()))
    if image.tile and image.tile[0][0] == "bmp_rle":  # one code of it skips up to 255 rows, however long those are
        raise DataError(f"{path}: a run-length encoded BMP, expected one without compression", "save it again")
    if image.format in {"JPEG", "MPO"}:
        scans = count_jpeg_scans(path.read_bytes())
        if scans > _MOST_SCANS:
            raise DataError(f"{path}: a JPEG of {scans:,} scans, expected at most {_MOST_SCANS}", "save it again")


def _samples(image: Image.Image, path: Path) -> NDArray[Any]:
    """Samples (H, W, 1 or 3) of an image in any of Pillow's integer modes."""
    if image.mode in _GREY_16:
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise DataError(f"{path}: 32-bit samples, expected 8 or 16 bits")
        return values.astype(np.uint16)[..., np.newaxis]
    if image.mode == "F":
        raise DataError(f"{path}: floating-point samples, expected 8 or 16 bits", "save it as 16-bit PNG or TIFF")
    if image.mode in {"1", "L", "LA", "La"}:
        return np.asarray(image.convert("L"))[..., np.newaxis]
    return np.asarray(image.convert("RGB"))


def _read_deep_png(path: Path, rawmode: str) -> NDArray[np.uint16]:
    """Samples (H, W, 3) of a 16-bit colour PNG, which Pillow cuts to 8 bits: its high bytes are read, then its low ones.

    PNG is big-endian. Told that the samples are little-endian, Pillow keeps the other byte of each.
    """
    samples = np.zeros((), np.uint16)
    for order in (rawmode, rawmode.replace("16B", "16L")):
        with Image.open(path, formats=("PNG",)) as image:
            image.tile = [image.tile[0]._replace(args=order)]
            samples = samples * np.uint16(256) + np.asarray(image)[..., :3]
    return samples


def _read_tiff(path: Path) -> tuple[NDArray[Any], int]:
    """Samples (H, W, 1 or 3), uint8 or uint16, and the orientation 1..8 of a TIFF with one picture."""
    with tifffile.TiffFile(path, **_TIFF_ALONE) as tiff:
        page: Any = tiff.pages.first
        if len(tiff.pages) != 1:
            raise DataError(f"{path}: {len(tiff.pages)} pages, expected one picture", "save each page as a file of its own")
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and page.imagewidth * page.imagelength > limit:
            raise DataError(
                f"{path}: {page.imagewidth}x{page.imagelength} pixels, expected at most {limit}", "cut it into tiles"
            )
        _check_values(path, math.prod(page.shape))
        if page.is_tiled:
            _check_values(path, page.tilewidth * page.tilelength * page.samplesperpixel)
        if page.dtype not in (np.uint8, np.uint16):
            if page.bitspersample < 8:
                return _read_pillow(path)
            raise DataError(f"{path}: samples of type {page.dtype}, expected 8 or 16 bits", "save it as 16-bit PNG or TIFF")
        if page.photometric.name not in _TIFF_KINDS or not _decodes(page):
            if page.dtype == np.uint16 and page.samplesperpixel > 1:
                raise DataError(
                    f"{path}: 16-bit colour TIFF compressed by {page.compression.name}, expected none or Deflate",
                    "save it without compression, or as 16-bit PNG",
                )
            return _read_pillow(path)
        _check_segments(path, tiff, page)
        samples = page.asarray()
        if page.axes[:1] == "S":  # planar: (S, H, W)
            samples = np.moveaxis(samples, 0, -1)
        tag = page.tags.get(_ORIENTATION)
    if samples.ndim == 2:
        samples = samples[..., np.newaxis]
    if samples.ndim != 3 or 0 in samples.shape or samples.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{path}: {samples.dtype} samples of shape {samples.shape}, expected one picture of 8 or 16 bits")
    if page.photometric.name == "MINISWHITE":
        samples = np.iinfo(samples.dtype).max - samples
    return samples[..., : 3 if samples.shape[-1] >= 3 else 1], 1 if tag is None else int(tag.value)


def _check_segments(path: Path, tiff: tifffile.TiffFile, page: Any) -> None:
    """Refuse a page whose strips or tiles unpack to more than the picture has room for; tifffile unpacks each in one go."""
    if page.compression.name not in {"DEFLATE", "ADOBE_DEFLATE", "LZMA"}:
        return
    sides = (page.tilewidth, page.tilelength) if page.is_tiled else (page.imagewidth, page.rowsperstrip)
    most = (
        min(math.prod(sides) * page.samplesperpixel, _MOST_PER_BYTE * path.stat().st_size + _MOST_ANYWAY) * page.dtype.itemsize
    )
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        tiff.filehandle.seek(offset)
        unpacker = lzma.LZMADecompressor() if page.compression.name == "LZMA" else zlib.decompressobj()
        if unpacks_to_more(unpacker, tiff.filehandle.read(count), most):
            raise DataError(f"{path}: a strip or tile of it unpacks to more than {most:,} bytes", "take it out")


def _decodes(page: Any) -> bool:
    """Whether tifffile can decode the page by itself (LZW and JPEG need a package of codecs; Pillow reads those)."""
    try:
        page.decode  # noqa: B018 - looks the codec up
    except (ValueError, ImportError):
        return False
    return page.compression.name in {"NONE", "DEFLATE", "ADOBE_DEFLATE", "PACKBITS", "LZMA"}


def _turn(samples: NDArray[Any], orientation: int) -> NDArray[Any]:
    """`samples` (H, W, C) as they are meant to be seen, for EXIF orientation 1..8 (others count as 1)."""
    if orientation in {5, 6, 7, 8}:
        samples = samples.swapaxes(0, 1)
    if orientation in {2, 3, 6, 7}:
        samples = samples[:, ::-1]
    if orientation in {3, 4, 7, 8}:
        samples = samples[::-1]
    return samples

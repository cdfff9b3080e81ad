"""What a stranger's picture or data file can try: bombs, other files, other formats, lies about sizes."""

from __future__ import annotations

import lzma
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hostile import (
    bmp,
    flat_png,
    tiff,
)
from PIL import Image
from scipy.io import savemat

from qcompress.data import mat_file, validation_mat
from qcompress.data.files import read_image
from qcompress.data.mat_file import MatFileError
from qcompress.data.unpacking import count_jpeg_scans
from qcompress.errors import DataError

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.png", EPS, "cannot identify"),
        ("a.jpg", b"GIF89a" + bytes(50), "cannot identify"),
        ("a.png", flat_png(9000), "which no photograph is"),
        ("a.bmp", bmp(80_000_000, b"\0\2\0\xff" * 4 + b"\0\1"), "which no photograph is"),
        ("a.bmp", bmp(4_000_000, b"\0\2\0\xff" * 4 + b"\0\1"), "run-length"),
        ("a.tif", tiff(16, 16, 8, zlib.compress(bytes(10**7), 9)), "unpacks to more than 256 bytes"),
        ("a.tif", tiff(16, 16, 34925, lzma.compress(bytes(10**7))), "unpacks to more than 256 bytes"),
        ("a.png", tiff(16, 16, 8, zlib.compress(bytes(10**7), 9)), "unpacks to more than 256 bytes"),
        ("a.tif", tiff(9000, 9000, 1, bytes(100), samples=60), "which no photograph is"),
        ("a.tif", tiff(9000, 9000, 8, zlib.compress(bytes(100))), "which no photograph is"),
    ],
)
def test_pictures_that_are_none(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=says):
        read_image(tmp_path / name)


def test_compressed_tiffs_of_any_layout_are_still_read(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    for options in ({"rowsperstrip": 7}, {"tile": (16, 32)}, {"rowsperstrip": 50, "planarconfig": "separate"}):
        for compression in ("zlib", "lzma"):
            given = samples.transpose(2, 0, 1) if "planarconfig" in options else samples
            tifffile.imwrite(tmp_path / "a.tif", given, photometric="rgb", compression=compression, **options)
            np.testing.assert_array_equal(
                read_image(tmp_path / "a.tif"), samples.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
            )


def test_a_tiff_opens_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OME-TIFF names other files in its XML, and tifffile goes to fetch them."""
    tifffile.imwrite(tmp_path / "other.tif", np.zeros((8, 8), np.uint8))
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1">'
        '<Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="8" SizeY="8" SizeC="1" SizeZ="2" SizeT="1">'
        '<Channel ID="Channel:0:0" SamplesPerPixel="1"/><TiffData IFD="0" FirstZ="0" PlaneCount="1"/>'
        '<TiffData IFD="0" FirstZ="1" PlaneCount="1"><UUID FileName="other.tif">urn:uuid:2</UUID></TiffData>'
        "</Pixels></Image></OME>"
    )
    tifffile.imwrite(tmp_path / "a.tif", np.full((8, 8), 9, np.uint8), description=xml, metadata=None)
    opened: list[str] = []
    original = tifffile.FileHandle.open

    def watched(handle: tifffile.FileHandle) -> None:
        original(handle)
        opened.append(handle.name)

    monkeypatch.setattr(tifffile.FileHandle, "open", watched)
    assert read_image(tmp_path / "a.tif").shape == (1, 8, 8)
    assert set(opened) == {"a.tif"}


def test_scans_of_a_jpeg_are_counted_and_bounded(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for progressive, scans in ((False, 1), (True, 10)):
        Image.fromarray(pixels).save(tmp_path / "a.jpg", progressive=progressive, exif=b"Exif\0\0" + b"\xff\xda\xff\xd9" * 50)
        data = (tmp_path / "a.jpg").read_bytes()
        assert count_jpeg_scans(data) == scans
        read_image(tmp_path / "a.jpg")
    last = data[data.rindex(b"\xff\xda") : -2]
    (tmp_path / "a.jpg").write_bytes(data[:-2] + last * 500 + b"\xff\xd9")
    with pytest.raises(DataError, match="a JPEG of 510 scans"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_mat_file_by_hand(tmp_path: Path, compressed: bool, order: str) -> None:
    """Against the format's description: big-endian files and short elements are what savemat does not write."""

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack(f"{order}II", kind, len(data)) + data.ljust(-(-len(data) // 8) * 8, b"\0")

    values = np.arange(24, dtype=np.uint8).reshape(2, 1, 2, 2, 3)
    name = struct.pack(f"{order}HH" if order == ">" else "<HH", *((2, 1) if order == ">" else (1, 2))) + b"gt\0\0"
    inner = element(6, struct.pack(f"{order}II", 9, 0)) + element(5, struct.pack(f"{order}5i", *values.shape)) + name
    matrix = element(14, inner + element(2, values.tobytes(order="F")))
    packed = zlib.compress(matrix)
    head = b"MATLAB".ljust(124) + (b"\0\1IM" if order == "<" else b"\1\0MI")
    (tmp_path / "gt.mat").write_bytes(head + (struct.pack(f"{order}II", 15, len(packed)) + packed if compressed else matrix))
    assert mat_file.shape_of(tmp_path / "gt.mat", "gt") == values.shape
    np.testing.assert_array_equal(mat_file.read_bytes_array(tmp_path / "gt.mat", "gt", 24), values)
    with pytest.raises(MatFileError, match="takes 24 bytes"):
        mat_file.read_bytes_array(tmp_path / "gt.mat", "gt", 23)


def test_mat_files_agree_with_scipy_and_other_variables_are_passed_over(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5, 3), dtype=np.uint8)
    others = {"a": "text", "b": 2.5, "c": {"d": 1}, "e": np.zeros((2, 2), bool), "z": np.ones((3, 3), complex)}
    for compressed in (False, True):
        savemat(tmp_path / "gt.mat", others | {"gt": values}, do_compression=compressed)
        np.testing.assert_array_equal(mat_file.read_bytes_array(tmp_path / "gt.mat", "gt", 10**6), values)
        for name in (*others, "none"):
            with pytest.raises(MatFileError):
                mat_file.shape_of(tmp_path / "gt.mat", name)


def test_a_pipe_called_mat_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "noisy.mat")
    (tmp_path / "gt.mat").write_bytes(b"x")
    with pytest.raises(DataError, match="expected one noisy and one clean"):
        validation_mat.find_pair(tmp_path)

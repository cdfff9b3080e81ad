"""Reading image files: every kind against values known from elsewhere, and what corrupt bytes do."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from qcompress.data.files import convert_channels, read_image
from qcompress.errors import DataError

RNG = np.random.default_rng(5)
RGB8 = RNG.integers(0, 256, (7, 5, 3), dtype=np.uint8)
RGB16 = RNG.integers(0, 65536, (7, 5, 3), dtype=np.uint16)
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # PNG's number for each count of channels


def expected(samples: NDArray[np.generic]) -> NDArray[np.float32]:
    """(C, H, W) in 0..1 from integer samples (H, W, C)."""
    full = np.iinfo(samples.dtype).max  # type: ignore[type-var]
    return (samples.astype(np.float64) / full).transpose(2, 0, 1).astype(np.float32)


def write_png16(path: Path, samples: NDArray[np.uint16], filters: tuple[int, ...] = (0, 1, 2)) -> None:
    """A 16-bit PNG of (H, W, C) samples; its rows use PNG's filters none, sub and up in turn."""
    height, width, channels = samples.shape
    rows = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    lines, above = [], np.zeros_like(rows[0])
    for number, row in enumerate(rows):
        kind = filters[number % len(filters)]
        left = np.concatenate((np.zeros(2 * channels, np.uint8), row[: -2 * channels]))
        lines.append(bytes([kind]) + (row - {0: np.uint8(0), 1: left, 2: above}[kind]).astype(np.uint8).tobytes())
        above = row
    header = struct.pack(">IIBBBBB", width, height, 16, COLOUR_TYPES[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"".join(lines))), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "webp"])
@pytest.mark.parametrize("grey", [False, True])
def test_lossless_files_of_8_bits_come_back_exactly(tmp_path: Path, ending: str, grey: bool) -> None:
    path = tmp_path / f"x.{ending}"
    samples = RGB8[..., :1].repeat(3, -1) if grey else RGB8
    image = Image.fromarray(samples[..., 0] if grey else samples)
    image.save(path, lossless=True) if ending == "webp" else image.save(path)
    want = expected(samples)
    got = read_image(path)
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, want[:1] if grey and ending != "webp" else want)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_of_16_bits_keeps_all_of_them_and_drops_alpha(tmp_path: Path, channels: int) -> None:
    samples = RNG.integers(0, 65536, (6, 9, channels), dtype=np.uint16)
    write_png16(tmp_path / "x.png", samples)
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), expected(samples[..., :3]))


def test_png_of_16_bits_grey_with_alpha_is_refused_rather_than_cut_to_8(tmp_path: Path) -> None:
    write_png16(tmp_path / "x.png", RNG.integers(0, 65536, (6, 9, 2), dtype=np.uint16))
    with pytest.raises(DataError, match="alpha"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize("samples", [RGB8, RGB16, RGB8[..., :1], RGB16[..., :1]], ids=["rgb8", "rgb16", "grey8", "grey16"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("planar", [False, True])
def test_tiff(tmp_path: Path, samples: NDArray[np.generic], compression: str | None, planar: bool) -> None:
    path = tmp_path / "x.tiff"
    if samples.shape[-1] == 1:
        tifffile.imwrite(path, samples[..., 0], compression=compression, photometric="minisblack")
    elif planar:
        tifffile.imwrite(path, np.moveaxis(samples, -1, 0), compression=compression, photometric="rgb", planarconfig="separate")
    else:
        tifffile.imwrite(path, samples, compression=compression, photometric="rgb")
    np.testing.assert_array_equal(read_image(path), expected(samples))


def test_tiff_alpha_white_is_zero_and_lzw(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "alpha.tif", RNG.integers(0, 256, (4, 5, 4), dtype=np.uint8), photometric="rgb", extrasamples=["unassalpha"]
    )
    assert read_image(tmp_path / "alpha.tif").shape == (3, 4, 5)
    tifffile.imwrite(tmp_path / "white.tif", RGB8[..., 0], photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "white.tif"), expected(255 - RGB8[..., :1]))
    Image.fromarray(RGB8).save(tmp_path / "lzw.tif", compression="tiff_lzw")
    np.testing.assert_array_equal(read_image(tmp_path / "lzw.tif"), expected(RGB8))


@pytest.mark.parametrize("samples", [np.zeros((4, 5), np.float32), np.zeros((4, 5), np.uint32)], ids=["float", "32 bits"])
def test_tiff_of_other_samples_is_refused(tmp_path: Path, samples: NDArray[np.generic]) -> None:
    tifffile.imwrite(tmp_path / "x.tif", samples)
    with pytest.raises(DataError, match="expected 8 or 16 bits"):
        read_image(tmp_path / "x.tif")


def test_tiff_of_several_pages_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((3, 40, 50), np.uint8), photometric="minisblack")
    with pytest.raises(DataError, match="3 pages"):
        read_image(tmp_path / "x.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
def test_exif_orientation_is_applied_as_pillow_applies_it(tmp_path: Path, orientation: int, ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB8).save(path, exif=exif)
    with Image.open(path) as image:
        want = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(read_image(path), expected(want))


def test_palette_bilevel_and_cmyk(tmp_path: Path) -> None:
    Image.fromarray(RGB8).quantize(16).save(tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as image:
        np.testing.assert_array_equal(read_image(tmp_path / "p.png"), expected(np.asarray(image.convert("RGB"))))
    Image.fromarray(RGB8[..., 0] > 127).save(tmp_path / "1.png")
    np.testing.assert_array_equal(read_image(tmp_path / "1.png")[0], RGB8[..., 0] > 127)
    Image.fromarray(RGB8).convert("CMYK").save(tmp_path / "c.jpg")
    assert read_image(tmp_path / "c.jpg").shape == (3, 7, 5)


def test_missing_empty_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_image(tmp_path / "none.png")
    for name, content in (("empty.png", b""), ("text.jpg", b"hello"), ("empty.tif", b""), ("text.tif", b"hello")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name) as caught:
            read_image(tmp_path / name)
        assert "\n" not in caught.value.message
        assert caught.value.hint


def test_huge_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(RGB8).save(tmp_path / "x.png")
    Image.fromarray(RGB8).save(tmp_path / "x.tif")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    for name in ("x.png", "x.tif"):
        with pytest.raises(DataError, match="limit of 30 pixels" if name == "x.png" else "expected at most 30"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_read_or_raise_data_error(tmp_path: Path, ending: str, data: st.DataObject) -> None:
    path = tmp_path / f"x.{ending}"
    Image.fromarray(RGB8).save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        image = read_image(path)
    except DataError as error:
        assert "\n" not in error.message
    else:
        assert image.ndim == 3
        assert 0 <= image.min() <= image.max() <= 1


def test_grey_and_rgb_convert_into_one_another_and_nothing_else() -> None:
    colour = expected(RGB8)
    grey = convert_channels(colour, 1, "x")
    with_pillow = np.asarray(Image.fromarray(RGB8).convert("L")) / 255
    np.testing.assert_allclose(grey[0], with_pillow, atol=1 / 255)
    np.testing.assert_array_equal(convert_channels(grey, 3, "x"), np.stack([grey[0]] * 3))
    assert convert_channels(colour, 3, "x") is colour
    for image, channels in ((colour, 4), (grey, 2), (np.zeros((4, 2, 2), np.float32), 3)):
        with pytest.raises(DataError, match=f"the network takes {channels}"):
            convert_channels(image, channels, "x")

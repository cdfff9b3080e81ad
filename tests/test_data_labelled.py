"""Labelled images, arrays, pairs of two resolutions: what is recognised, read and dealt."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qcompress.data import labelled
from qcompress.data.images import ImageSet, Splits
from qcompress.data.reading import Form, resized
from qcompress.data.sources import recognise
from qcompress.data.splits import find, load
from qcompress.errors import DataError, UsageError

RNG = np.random.default_rng(0)


def picture(path: Path, width: int = 12, height: int = 8, seed: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = RNG if seed is None else np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)


def roles(images: Splits) -> list[ImageSet]:
    return [images.calibration, images.selection, images.report]


def read(path: Path, **more: Any) -> Splits:
    return load(path, channels=3, stride=1, seed=0, found=find(path, 3, classes=True), **more)


def test_classes_are_numbered_by_name_or_as_listed(tmp_path: Path) -> None:
    for name in ("b/1.png", "a/2.png", "a/x/3.png", ".hidden/4.png"):
        picture(tmp_path / name)
    found = recognise(tmp_path, classes=True)
    assert found.classes == ("a", "b")
    assert [(item.name, int(item.read()[1])) for item in found.items] == [("a/2.png", 0), ("a/x/3.png", 0), ("b/1.png", 1)]
    (tmp_path / "classes.txt").write_text("b\nnone\na\n")
    found = recognise(tmp_path, classes=True)
    assert [int(item.read()[1]) for item in found.items] == [2, 2, 0]
    (tmp_path / "classes.txt").write_text("b\n")
    with pytest.raises(DataError, match="does not name that class"):
        recognise(tmp_path, classes=True)
    (tmp_path / "classes.txt").write_text("b\na\nb\n")
    with pytest.raises(DataError, match="twice"):
        recognise(tmp_path, classes=True)


def test_too_few_classes(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png")
    with pytest.raises(DataError, match="1 subfolders with images"):
        recognise(tmp_path, classes=True)
    with pytest.raises(UsageError, match="have no labels"):
        find(None, 3, classes=True)


def test_every_role_has_its_share_of_every_class(tmp_path: Path) -> None:
    x, y = RNG.integers(0, 256, (120, 4, 4, 3), dtype=np.uint8), np.arange(120) % 6
    np.savez(tmp_path / "x.npz", x=x, y=y)
    images = read(tmp_path / "x.npz")
    counts = [np.bincount([int(pair.target) for pair in role.pairs], minlength=6) for role in roles(images)]
    for count, share in zip(counts, (10, 5, 5), strict=True):
        assert (abs(count - share) <= 1).all()
    few = read(tmp_path / "x.npz", max_images=12)
    assert [len(role) for role in roles(few)] == [12, 12, 12]
    assert all(np.bincount([int(pair.target) for pair in role.pairs]).tolist() == [2] * 6 for role in roles(few))
    assert read(tmp_path / "x.npz").summary() == images.summary()


def test_copies_of_a_picture_share_a_role(tmp_path: Path) -> None:
    x = RNG.integers(0, 256, (30, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", x=np.concatenate([x, x]), y=np.arange(60) % 2)
    hashes = [{pair.sha256 for pair in role.pairs} for role in roles(read(tmp_path / "x.npz"))]
    assert all(hashes)
    assert not (hashes[0] & hashes[1] | hashes[0] & hashes[2] | hashes[1] & hashes[2])
    np.savez(tmp_path / "one.npz", x=np.zeros((9, 4, 4, 3), np.uint8), y=np.arange(9))
    with pytest.raises(DataError, match="no image is left for"):
        read(tmp_path / "one.npz")


def test_whole_images_normalised_and_resized(tmp_path: Path) -> None:
    for number in range(8):
        picture(tmp_path / "ab"[number % 2] / f"{number}.png", 12, 8 + number)
    form = Form(size=6, mean=(0.5,), std=(0.25, 0.5, 1.0))
    images = read(tmp_path, form=form)
    for pair in images.report.pairs:
        assert pair.input.shape == (3, 6, 6)
        raw = pair.input * np.array([0.25, 0.5, 1.0]).reshape(-1, 1, 1) + 0.5
        assert raw.min() >= -1e-6 and raw.max() <= 1 + 1e-6
    crops = images.calibration.crops(99, 50, RNG)
    assert len(crops) == len(images.calibration)
    assert crops.targets.shape == (len(crops),)
    with pytest.raises(DataError, match="several sizes"):
        read(tmp_path).calibration.crops(99, 50, RNG)


def test_masks_belong_to_their_pixels(tmp_path: Path) -> None:
    for number in range(4):
        picture(tmp_path / "images" / f"{number}.png", 13, 9)
        mask = np.asarray(Image.open(tmp_path / "images" / f"{number}.png"))[:, :, 0]
        shown = Image.fromarray(mask, "L") if number % 2 else Image.fromarray(mask, "P")
        if shown.mode == "P":
            shown.putpalette([value % 7 for value in range(768)])
        (tmp_path / "masks").mkdir(exist_ok=True)
        shown.save(tmp_path / "masks" / f"{number}.png")
    assert labelled.has_masks(tmp_path)
    images = load(tmp_path, channels=3, stride=4, seed=0)
    crops = images.calibration.crops(4, 6, np.random.default_rng(1))
    assert images.report.pairs[0].input.shape == (3, 8, 12)
    np.testing.assert_array_equal(np.round(crops.inputs[:, 0].numpy() * 255), crops.targets.numpy())
    picture(tmp_path / "images" / "alone.png")
    with pytest.raises(DataError, match="alone is in one of"):
        recognise(tmp_path)
    picture(tmp_path / "masks" / "alone.png")
    with pytest.raises(DataError, match="mode RGB, expected a palette"):
        load(tmp_path, channels=3, stride=4, seed=0)


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ("lr/{}", "hr/{}"),
        ("LR/{}x2", "HR/{}"),
        ("X2/{}x2", "HR/{}"),
        ("S_train_LR_bicubic/X2/{}x2", "S_train_HR/{}"),
        ("input/{}", "target/{}"),
        ("{}_LR", "{}_HR"),
    ],
)
def test_two_resolutions(tmp_path: Path, small: str, large: str) -> None:
    for number in range(5):
        name = f"{number:04}"
        picture(tmp_path / f"{large.format(name)}.png", 26, 18)
        reduced = Image.open(tmp_path / f"{large.format(name)}.png").resize((13, 9), Image.Resampling.NEAREST)
        (tmp_path / f"{small.format(name)}.png").parent.mkdir(parents=True, exist_ok=True)
        reduced.save(tmp_path / f"{small.format(name)}.png")
    images = load(tmp_path, channels=3, stride=2, seed=0, form=Form(scale=2))
    pair = images.report.pairs[0]
    assert (pair.scale, pair.input.shape, pair.target.shape) == (2, (3, 8, 12), (3, 16, 24))
    crops = images.calibration.crops(4, 3, np.random.default_rng(0))
    assert (crops.inputs.shape, crops.targets.shape) == ((3, 3, 4, 4), (3, 3, 8, 8))
    np.testing.assert_allclose(crops.inputs, crops.targets[:, :, 1::2, 1::2], atol=1e-6)  # nearest takes these places
    with pytest.raises(DataError, match="2 times as large as its input, the network's output 3 times"):
        load(tmp_path, channels=3, stride=2, seed=0, form=Form(scale=3))


def test_clean_pictures_are_reduced(tmp_path: Path) -> None:
    for number in range(4):
        picture(tmp_path / f"{number}.png", 29, 17)
    images = load(tmp_path, channels=3, stride=1, seed=0, form=Form(scale=4))
    assert images.source.endswith("clean images, reduced 4 times")
    for pair in images.report.pairs:
        assert pair.input.shape == (3, 4, 7) and pair.target.shape == (3, 16, 28)
        np.testing.assert_allclose(pair.input, resized(pair.target, 4, 7), atol=0.51 / 255)


@pytest.mark.parametrize(("first", "second"), [("x", "y"), ("noisy", "clean"), ("input", "target"), ("lr", "hr")])
def test_pairs_in_arrays(tmp_path: Path, first: str, second: str) -> None:
    arrays: dict[str, Any] = {
        first: RNG.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8),
        second: RNG.random((6, 3, 8, 8)).astype(np.float32),
    }
    np.savez_compressed(tmp_path / "x.npz", scene=np.arange(6) // 2, **arrays)
    images = load(tmp_path / "x.npz", channels=3, stride=1, seed=0)
    for pair in (pair for role in roles(images) for pair in role.pairs):
        np.testing.assert_allclose(pair.input, arrays[first][int(pair.name)].transpose(2, 0, 1) / np.float32(255), atol=1e-6)
        np.testing.assert_array_equal(pair.target, arrays[second][int(pair.name)])
        assert pair.scene == str(int(pair.name) // 2)


def header(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def test_arrays_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    x = np.zeros((4, 8, 8, 3), np.uint8)
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"a": x}, "holds no pair"),
        ({"x": x, "y": np.zeros(3, int)}, "as many of both"),
        ({"x": x, "y": np.array([{}] * 4)}, "no plain numbers"),
        ({"x": np.zeros((4, 3), np.uint8), "y": np.zeros(4, int)}, "as many of both"),
    )
    for arrays, says in cases:
        np.savez(path, **arrays)
        with pytest.raises(DataError, match=says):
            recognise(path)
    np.savez(path, x=np.full((4, 3, 8, 8), np.nan), y=np.arange(4))
    with pytest.raises(DataError, match="NaN"):
        read(path)
    for content in (b"", b"PK", b"not a zip at all" * 100):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"not a readable \.npz"):
            recognise(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header((2**40, 3)))
        archive.writestr("y.npy", header((1,)))
    with pytest.raises(DataError, match="more than its bytes"):
        recognise(path)
    np.savez_compressed(path, x=np.zeros((2000, 64, 64, 3), np.uint8), y=np.zeros(2000, int))
    with pytest.raises(DataError, match="unpacks to"):
        recognise(path)


def test_mean_and_std_are_for_labels(tmp_path: Path) -> None:
    for number in range(4):
        picture(tmp_path / f"{number}.png")
    with pytest.raises(UsageError, match="for labelled images"):
        load(tmp_path, channels=3, stride=1, seed=0, form=Form(scale=2, mean=(0.5,)))

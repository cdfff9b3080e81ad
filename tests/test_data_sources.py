"""Every folder layout that is recognised, and what is said of folders that are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from qcompress.data.sources import Source, recognise
from qcompress.errors import DataError

Write = Callable[[str], NDArray[np.uint8]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes an image of its own at a path below tmp_path, and gives its samples (H, W, 3)."""
    rng = np.random.default_rng(0)

    def image(name: str) -> NDArray[np.uint8]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = rng.integers(0, 256, (16, 24, 3), dtype=np.uint8)
        Image.fromarray(samples).save(path)
        return samples

    return image


def check(source: Source, written: dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]], scenes: dict[str, str]) -> None:
    """The source holds exactly the pairs written, each side where it belongs."""
    assert source.paired
    assert {item.name: item.scene for item in source.items} == scenes
    for item in source.items:
        noisy, clean = item.read()
        assert noisy is not None
        for got, want in ((noisy, written[item.name][0]), (clean, written[item.name][1])):
            np.testing.assert_array_equal(np.round(got * 255).astype(np.uint8).transpose(1, 2, 0), want)


@pytest.mark.parametrize("root", ["", "Data/"])
def test_sidd_srgb_folders(tmp_path: Path, write: Write, root: str) -> None:
    written, scenes = {}, {}
    for instance, scene in (("0001", "001"), ("0052", "002"), ("0053", "002")):
        for shot in ("010", "011"):
            folder = f"{root}{instance}_{scene}_S6_01600_01000_5500_N"
            pair = (write(f"{folder}/{instance}_NOISY_SRGB_{shot}.PNG"), write(f"{folder}/{instance}_GT_SRGB_{shot}.PNG"))
            written[f"{folder}/{instance}_SRGB_{shot}"] = pair
            scenes[f"{folder}/{instance}_SRGB_{shot}"] = scene
    source = recognise(tmp_path)
    assert source.kind == "SIDD sRGB folders"
    check(source, written, scenes)


@pytest.mark.parametrize(
    ("noisy", "clean"), [("noisy", "clean"), ("input", "target"), ("lq", "gt"), ("low", "high"), ("Noisy", "GT")]
)
@pytest.mark.parametrize("inside", ["", "train/"])
def test_two_folders(tmp_path: Path, write: Write, noisy: str, clean: str, inside: str) -> None:
    written = {f"{inside}{x}": (write(f"{inside}{noisy}/{x}.png"), write(f"{inside}{clean}/{x}.tif")) for x in "abc"}
    source = recognise(tmp_path)
    assert source.kind == "noisy and clean folders"
    check(source, written, {name: name for name in written})


def test_two_folders_whose_names_repeat_the_side(tmp_path: Path, write: Write) -> None:
    written = {x: (write(f"noisy/{x}_noisy.png"), write(f"clean/{x}_clean.png")) for x in "abc"}
    check(recognise(tmp_path), written, {name: name for name in written})


def test_two_folders_of_equal_names_win_over_words_in_the_names(tmp_path: Path, write: Write) -> None:
    names = ["low_1", "high_1", "noisy"]
    written = {x: (write(f"input/{x}.png"), write(f"target/{x}.png")) for x in names}
    check(recognise(tmp_path), written, {name: name for name in written})


def test_two_folders_with_subfolders_know_the_scenes(tmp_path: Path, write: Write) -> None:
    written = {f"{s}/{x}": (write(f"noisy/{s}/{x}.png"), write(f"clean/{s}/{x}.png")) for s in ("s1", "s2", "s3") for x in "ab"}
    check(recognise(tmp_path), written, {name: name[:2] for name in written})


def test_pairs_named_as_sidd_names_folders_know_the_scenes(tmp_path: Path, write: Write) -> None:
    names = {f"{i:04d}_{scene}_S6_01600_01000_5500_N_{i}": scene for i, scene in enumerate(("001", "001", "002", "003"))}
    written = {x: (write(f"noisy/{x}.png"), write(f"clean/{x}.png")) for x in names}
    check(recognise(tmp_path), written, names)


@pytest.mark.parametrize(("noisy", "clean"), [("{}_noisy", "{}_clean"), ("noisy-{}", "gt-{}"), ("{}.LQ", "{}.HQ")])
def test_paired_names(tmp_path: Path, write: Write, noisy: str, clean: str) -> None:
    written = {x: (write(noisy.format(x) + ".png"), write(clean.format(x) + ".png")) for x in ("a", "b_2", "c")}
    source = recognise(tmp_path)
    assert source.kind == "paired names"
    check(source, written, {name: name for name in written})


def test_files_called_noisy_and_clean_in_a_folder_for_each_scene(tmp_path: Path, write: Write) -> None:
    written = {f"s{x}": (write(f"s{x}/noisy.png"), write(f"s{x}/clean.png")) for x in "123"}
    check(recognise(tmp_path), written, {"s1": "s1", "s2": "s2", "s3": "s3"})


def test_clean_images(tmp_path: Path, write: Write) -> None:
    for name in ("b.png", "a.jpg", "low_tide.png", ".hidden/x.png"):
        write(name)
    (tmp_path / "notes.txt").write_text("x")
    source = recognise(tmp_path)
    assert (source.kind, source.paired) == ("clean images", False)
    assert [(item.name, item.scene) for item in source.items] == [(x, x) for x in ("a.jpg", "b.png", "low_tide.png")]
    assert source.items[0].read()[0] is None


@pytest.mark.parametrize(("folders", "known"), [(("x", "y"), False), (("x", "y", "z"), True)])
def test_subfolders_of_clean_images_are_scenes_if_there_are_three(
    tmp_path: Path, write: Write, folders: tuple[str, ...], known: bool
) -> None:
    for folder in folders:
        write(f"{folder}/1.png")
        write(f"{folder}/2.png")
    items = recognise(tmp_path).items
    assert {item.scene for item in items} == (set(folders) if known else {item.name for item in items})


def blocks(tmp_path: Path, scenes: int = 3) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    rng = np.random.default_rng(1)
    noisy, clean = rng.integers(0, 256, (2, scenes, 2, 8, 6, 3), dtype=np.uint8)
    savemat(tmp_path / "ValidationNoisyBlocksSrgb.mat", {"ValidationNoisyBlocksSrgb": noisy}, do_compression=True)
    savemat(tmp_path / "ValidationGtBlocksSrgb.mat", {"ValidationGtBlocksSrgb": clean})
    return noisy, clean


def test_validation_blocks(tmp_path: Path) -> None:
    noisy, clean = blocks(tmp_path)
    pairs = {f"{s:02d}_{b:02d}": (noisy[s, b], clean[s, b]) for s in range(3) for b in range(2)}
    check(recognise(tmp_path), pairs, {name: name[:2] for name in pairs})


def test_validation_blocks_that_cannot_be_used(tmp_path: Path) -> None:
    blocks(tmp_path)
    noisy = tmp_path / "ValidationNoisyBlocksSrgb.mat"
    kept = noisy.read_bytes()
    for content, message in ((kept[:90], "not a readable"), (b"junk" * 99, "not a readable")):
        noisy.write_bytes(content)
        with pytest.raises(DataError, match=message):
            recognise(tmp_path)
    noisy.write_bytes(kept[:-40])
    with pytest.raises(DataError, match="not a readable"):
        recognise(tmp_path).items[0].read()
    savemat(noisy, {"other": np.zeros(3)})
    with pytest.raises(DataError, match="expected uint8"):
        recognise(tmp_path)
    savemat(noisy, {"ValidationNoisyBlocksSrgb": np.zeros((4, 2, 8, 6, 3), np.uint8)})
    with pytest.raises(DataError, match="expected equal shapes"):
        recognise(tmp_path)
    noisy.unlink()
    with pytest.raises(DataError, match="expected one noisy and one clean"):
        recognise(tmp_path)


def refused(folder: Path, message: str) -> DataError:
    with pytest.raises(DataError, match=message) as caught:
        recognise(folder)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value


def test_unpaired_names(tmp_path: Path, write: Write) -> None:
    for name in ("a_noisy.png", "a_clean.png", "b_noisy.png", "c_clean.png"):
        write(name)
    assert "2 of 4 images" in refused(tmp_path, r"b_noisy\.png: no clean image").message


def test_unpaired_names_in_two_folders(tmp_path: Path, write: Write) -> None:
    for name in ("noisy/a.png", "clean/a.png", "clean/b.png"):
        write(name)
    refused(tmp_path, r"b\.png: no noisy image")


def test_names_none_of_which_pair(tmp_path: Path, write: Write) -> None:
    for name in ("a_noisy.png", "b_clean.png"):
        write(name)
    refused(tmp_path, "no clean image")


def test_an_image_of_neither_side_among_pairs(tmp_path: Path, write: Write) -> None:
    for name in ("a_noisy.png", "a_clean.png", "b.png"):
        write(name)
    refused(tmp_path, r"b\.png: neither noisy nor clean")


def test_one_image_given_twice(tmp_path: Path, write: Write) -> None:
    for name in ("noisy/a.png", "noisy/a.jpg", "clean/a.png"):
        write(name)
    refused(tmp_path, "the same name but for the ending")


def test_noisy_images_alone(tmp_path: Path, write: Write) -> None:
    for name in ("noisy/a.png", "noisy/b.png"):
        write(name)
    refused(tmp_path, "none has a clean partner")


def test_no_folder_a_file_and_nothing(tmp_path: Path, write: Write) -> None:
    refused(tmp_path / "none", "no such folder")
    refused(tmp_path, "no image in it")
    write("a.png")
    assert str(tmp_path) in (refused(tmp_path / "a.png", "is a file, expected a folder").hint or "")

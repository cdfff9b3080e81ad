"""The three roles: disjoint, seeded, fair, bounded; and the shipped photographs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import qcompress.reference
from qcompress.data import reading, sources, splits
from qcompress.data.files import read_image
from qcompress.data.images import ImageSet, Pair, Splits
from qcompress.data.noise import Camera, Gaussian
from qcompress.data.splits import ROLES, Role, deal, from_pairs, load
from qcompress.errors import DataError, UsageError
from qcompress.metrics import psnr

PHOTOGRAPHS = Path(qcompress.reference.__file__).parent / "photographs"
NOISE = Gaussian(25)


def sets(images: Splits) -> dict[Role, ImageSet]:
    return {"calibration": images.calibration, "selection": images.selection, "report": images.report}


def every(images: Splits) -> dict[str, Pair]:
    return {pair.name: pair for role in sets(images).values() for pair in role.pairs}


def write(folder: Path, names: list[str], size: tuple[int, int] = (40, 24), seed: int = 0) -> Path:
    """Images of random pixels, `size` = (width, height)."""
    rng = np.random.default_rng(seed)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(folder / name)
    return folder


def pair(name: str, scene: str, seed: int) -> Pair:
    clean = np.random.default_rng(seed).random((1, 8, 8), np.float32)
    return Pair(name, scene, clean + 0.1, clean)


@given(st.integers(3, 60), st.integers(0, 2**31))
def test_roles_are_fair_and_seeded(n: int, seed: int) -> None:
    scenes = [str(number) for number in range(n)]
    roles = deal(scenes, seed, "x")
    assert sorted(roles) == sorted(scenes)
    counts = {role: list(roles.values()).count(role) for role in ROLES}
    for role, share in zip(ROLES, (0.5, 0.25, 0.25), strict=True):
        assert counts[role] >= 1
        assert abs(counts[role] - share * n) <= 1
    assert roles == deal(reversed(scenes * 2), seed, "x")  # neither order nor number of images matters


def test_other_seeds_deal_otherwise() -> None:
    assert len({tuple(sorted(deal("abcdefgh", seed, "x").items())) for seed in range(10)}) > 5


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_images_are_too_few(tmp_path: Path, n: int) -> None:
    write(tmp_path, [f"{i}.png" for i in range(n)])
    with pytest.raises(DataError, match=rf"{n} scene.*at least 3") as caught:
        load(tmp_path, noise=NOISE, channels=3, stride=8, seed=0)
    assert caught.value.hint


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image"):
        load(tmp_path, noise=NOISE, channels=3, stride=8, seed=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_shipped_photographs(channels: int) -> None:
    images = load(None, channels=channels, stride=16, seed=0)
    assert images.source == "the photographs that ship with qcompress: clean images with gaussian:25 noise"
    found = every(images)
    colour = {path.stem for path in PHOTOGRAPHS.glob("*.png") if len(read_image(path)) == 3}
    assert set(found) == (colour if channels == 3 else {path.stem for path in PHOTOGRAPHS.glob("*.png")})
    for one in found.values():
        assert one.target.shape == one.input.shape == (channels, 256, 256)
        assert one.target.dtype == one.input.dtype == np.float32
        assert one.name.startswith(f"{one.scene}_")
        assert one.target.std() > 0.05  # something to see in each
        value = psnr(torch.from_numpy(one.input)[None], torch.from_numpy(one.target)[None]).item()
        assert 20.0 < value < 23.0  # 20.17 dB without the clamping to 0..1


def test_shipped_photographs_are_small_and_licensed() -> None:
    files = sorted(PHOTOGRAPHS.glob("*"))
    assert sum(path.stat().st_size for path in files) < 2.3e6
    licences = (PHOTOGRAPHS.parent / "LICENSES.md").read_text()
    for path in files:
        assert f"`{path.name}`" in licences


@pytest.mark.slow
def test_the_same_seed_gives_the_same_pixels_in_any_process() -> None:
    code = (
        "import json; from qcompress.data.splits import load;"
        "s = load(None, channels=1, stride=16, seed=7, max_images=2);"
        "print(json.dumps(s.summary()), s.report.pairs[0].input.tobytes().hex()[:64])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": salt, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for salt in ("1", "2")
    }
    assert len(outputs) == 1
    assert '"images": 2' in outputs.pop()


def test_noise_depends_on_seed_and_name_alone(tmp_path: Path) -> None:
    write(tmp_path, [f"{i}.png" for i in range(4)])
    before = every(load(tmp_path, noise=NOISE, channels=3, stride=8, seed=0))
    write(tmp_path, ["00.png", "zz.png"], seed=1)
    after = every(load(tmp_path, noise=NOISE, channels=3, stride=8, seed=0))
    other = every(load(tmp_path, noise=NOISE, channels=3, stride=8, seed=1))
    for name, one in before.items():
        np.testing.assert_array_equal(one.input, after[name].input)
        assert not np.array_equal(one.input, other[name].input)
        np.testing.assert_array_equal(one.target, other[name].target)


def test_camera_noise_on_a_folder(tmp_path: Path) -> None:
    images = load(write(tmp_path, ["1.png", "2.png", "3.png"]), noise=Camera(0.01), channels=3, stride=8, seed=0)
    assert images.source.endswith("clean images with camera:0.01 noise")
    for one in every(images).values():
        assert 0 <= one.input.min() <= one.input.max() <= 1
        assert not np.array_equal(one.input, one.target)


def test_pairs_keep_their_own_noise_and_refuse_another(tmp_path: Path) -> None:
    write(tmp_path, [f"{side}/{i}.png" for side in ("noisy", "clean") for i in range(5)])
    images = load(tmp_path, channels=3, stride=8, seed=0)
    for name, one in every(images).items():
        for side, values in (("noisy", one.input), ("clean", one.target)):
            want = np.asarray(Image.open(tmp_path / side / f"{name}.png")).transpose(2, 0, 1) / np.float32(255)
            np.testing.assert_array_equal(values, want.astype(np.float32))
    with pytest.raises(UsageError, match="own noise, but gaussian:25"):
        load(tmp_path, noise=NOISE, channels=3, stride=8, seed=0)


def test_clean_images_without_noise_are_refused(tmp_path: Path) -> None:
    write(tmp_path, ["1.png", "2.png", "3.png"])
    with pytest.raises(UsageError, match="no noise to add") as caught:
        load(tmp_path, channels=3, stride=8, seed=0)
    assert "--noise" in (caught.value.hint or "")


def test_scenes_stay_together(tmp_path: Path) -> None:
    write(tmp_path, [f"scene{s}/{i}.png" for s in range(5) for i in range(3)])
    images = load(tmp_path, noise=NOISE, channels=3, stride=8, seed=3)
    roles = [{one.scene for one in role.pairs} for role in sets(images).values()]
    assert set.union(*roles) == {f"scene{s}" for s in range(5)}
    assert sum(map(len, roles)) == 5


def test_max_images_bounds_each_role_spreads_over_scenes_and_reads_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, [f"scene{s}/{i}.png" for s in range(8) for i in range(4)])
    read: list[Path] = []

    def counting(path: Path) -> NDArray[np.float32]:
        read.append(path)
        return read_image(path)

    monkeypatch.setattr(sources, "read_image", counting)
    images = load(tmp_path, noise=NOISE, channels=3, stride=8, seed=0, max_images=2)
    for role in sets(images).values():
        assert len(role) == 2
        assert len({one.scene for one in role.pairs}) == 2
    assert len(read) == 6
    with pytest.raises(UsageError, match="max_images is 0"):
        load(tmp_path, noise=NOISE, channels=3, stride=8, seed=0, max_images=0)


@pytest.mark.parametrize(("stride", "shape"), [(1, (3, 25, 43)), (8, (3, 24, 40)), (16, (3, 16, 32))])
def test_images_are_cropped_to_multiples_of_the_stride_around_the_centre(
    tmp_path: Path, stride: int, shape: tuple[int, ...]
) -> None:
    write(tmp_path, ["1.png", "2.png", "3.png"], size=(43, 25))
    for name, one in every(load(tmp_path, noise=NOISE, channels=3, stride=stride, seed=0)).items():
        assert one.target.shape == shape
        whole = np.asarray(Image.open(tmp_path / name)).transpose(2, 0, 1) / 255
        top, left = (25 - shape[1]) // 2, (43 - shape[2]) // 2
        np.testing.assert_allclose(one.target, whole[:, top : top + shape[1], left : left + shape[2]], atol=1e-6)


def test_images_smaller_than_the_stride_are_refused(tmp_path: Path) -> None:
    write(tmp_path, ["1.png", "2.png", "3.png"], size=(40, 15))
    with pytest.raises(DataError, match="40x15 pixels, expected at least 16x16"):
        load(tmp_path, noise=NOISE, channels=3, stride=16, seed=0)


def test_large_images_are_bounded_by_side_and_by_pixels_of_a_role(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, [f"{i}.png" for i in range(4)], size=(100, 30))
    monkeypatch.setattr(reading, "MAX_SIDE", 65)
    shapes = {one.target.shape for one in every(load(tmp_path, noise=NOISE, channels=3, stride=8, seed=0)).values()}
    assert shapes == {(3, 24, 64)}
    monkeypatch.setattr(reading, "MAX_PIXELS", 800)
    images = load(tmp_path, noise=NOISE, channels=3, stride=8, seed=0)
    assert [len(role) for role in sets(images).values()] == [2, 1, 1]
    assert images.calibration.pairs[0].target.shape == (3, 16, 16)  # two images share 800 pixels
    assert images.report.pairs[0].target.shape == (3, 24, 24)


def test_pairs_of_unequal_size_and_channels_that_cannot_be_made(tmp_path: Path) -> None:
    write(tmp_path, [f"noisy/{i}.png" for i in range(3)])
    write(tmp_path, [f"clean/{i}.png" for i in range(3)], size=(32, 24))
    with pytest.raises(DataError, match="the input is 40x24 pixels, the target 32x24"):
        load(tmp_path, channels=3, stride=8, seed=0)
    with pytest.raises(DataError, match="has 3 channels, the network takes 4"):
        load(write(tmp_path / "ok", ["1.png", "2.png", "3.png"]), noise=NOISE, channels=4, stride=8, seed=0)


def test_copies_of_a_picture_in_two_roles_are_noticed(tmp_path: Path) -> None:
    for name in ("1.png", "2.png", "3.png"):
        write(tmp_path, [name], seed=0)
    with pytest.raises(DataError, match="the same picture, but are in two splits") as caught:
        load(tmp_path, noise=NOISE, channels=3, stride=8, seed=0)
    assert caught.value.hint


def test_from_pairs_deals_or_does_as_told() -> None:
    pairs = [pair(f"p{i}", f"s{i % 4}", i) for i in range(8)]
    dealt = from_pairs(pairs, seed=0)
    assert every(dealt).keys() == {one.name for one in pairs}
    assert all(any(one is other for other in pairs) for one in every(dealt).values())
    told: dict[str, Role] = {"s0": "report", "s1": "report", "s2": "calibration", "s3": "selection"}
    images = from_pairs(pairs, seed=0, source="here", assign=told)
    assert images.source == "here"
    assert {one.scene for one in images.report.pairs} == {"s0", "s1"}
    with pytest.raises(DataError, match="scene s3 is assigned no role"):
        from_pairs(pairs, seed=0, assign={key: role for key, role in told.items() if key != "s3"})
    with pytest.raises(DataError, match="no image for selection"):
        from_pairs(pairs, seed=0, assign=told | {"s3": "report"})
    with pytest.raises(DataError, match="2 scene"):
        from_pairs(pairs[:2], seed=0)


def test_a_scene_in_two_roles_is_noticed() -> None:
    with pytest.raises(DataError, match="one scene"):
        splits._splits(
            "x", {"calibration": [pair("a", "s", 0)], "selection": [pair("b", "t", 1)], "report": [pair("c", "s", 2)]}
        )


def test_summary_records_names_and_hashes() -> None:
    images = from_pairs([pair(f"p{i}", f"s{i}", i) for i in range(4)], seed=0)
    summary = images.summary()
    assert list(summary) == ["source", "calibration", "selection", "report"]
    for name, role in sets(images).items():
        assert summary[name]["names"] == [one.name for one in role.pairs]
        assert (summary[name]["images"], summary[name]["scenes"]) == (len(role), len(role))
        assert summary[name]["sha256"] == role.sha256
    other = from_pairs([pair(f"p{i}", f"s{i}", i + 9) for i in range(4)], seed=0).summary()
    assert all(other[role]["sha256"] != summary[role]["sha256"] for role in ROLES)


def test_crops_keep_their_role_on_a_device() -> None:
    images = load(None, channels=1, stride=16, seed=0, max_images=1)
    crops = images.selection.crops(64, 3, np.random.default_rng(0))
    moved = crops.to("cpu")
    assert type(moved) is type(crops)
    assert moved.inputs.shape == moved.targets.shape == (3, 1, 64, 64)
    with pytest.raises(DataError, match="smaller than the 512x512 crops"):
        images.selection.crops(512, 1, np.random.default_rng(0))

"""The sheet of crops: which images, which window of them, and what is in its columns."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_onnx import write_onnx
from torch import Tensor, nn

from qcompress import crops, verify
from qcompress.data.images import Pair, ReportImages
from qcompress.data.reading import Form
from qcompress.metrics import metric

SIDE = 144


class Shade(nn.Module):
    """Darkens one corner: what a slim network may do worse than its dense one, at a known place."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.mask = torch.zeros(1, 1, SIDE, SIDE)
        self.mask[..., SIDE - 24 :, SIDE - 24 :] = by

    def forward(self, images: Tensor) -> Tensor:
        return images * (1 - self.mask)


def test_the_window_is_where_the_outputs_differ(tmp_path: Path) -> None:
    dense, slim = Shade(0.0).eval(), Shade(0.5).eval()
    levels = np.linspace(0.3, 0.9, 4)  # the brighter, the more is lost
    pairs = [Pair(f"p{n}", f"p{n}", *(np.full((3, SIDE, SIDE), v, np.float32),) * 2) for n, v in enumerate(levels)]
    report = ReportImages(tuple(pairs))
    path = tmp_path / "slim.onnx"
    write_onnx(path, "Mul", (1 - slim.mask).numpy(), (1, 3, SIDE, SIDE))
    measured = metric("psnr")
    found = verify.verify(path, reference=slim, dense=dense, report=report, metrics=[metric("ssim"), measured])
    made = crops.sheet(path, dense, report, found, metric("ssim"), Form())
    assert made is not None
    facts, data = made
    assert len(facts.rows) == 3
    assert {row.name for row in facts.rows} <= {"p0", "p1", "p2", "p3"}
    assert {(row.top, row.left) for row in facts.rows} == {(SIDE - facts.side, SIDE - facts.side)}
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    assert pixels.shape == (3 * facts.side, 5 * facts.side, 3)
    for number, row in enumerate(facts.rows):
        level = levels[int(row.name[1])]
        corner = pixels[(number + 1) * facts.side - 1, facts.side - 1 :: facts.side]  # the last pixel of every column
        shown = [round(level * 255), round(level * 255), round(level * 127.5), round(level * 255)]
        np.testing.assert_allclose(corner[:4, 0], shown, atol=1)
        assert corner[4].sum() > pixels[number * facts.side, 5 * facts.side - 1].sum()  # bright where it differs


def test_masks_are_drawn_as_labels() -> None:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 3, (8, 8)).astype(np.int64)
    target[0, 0] = 255
    pair = Pair("m", "m", rng.random((3, 8, 8), dtype=np.float32) - 0.5, target)
    dense = np.eye(3, dtype=np.float32)[np.minimum(target, 2)].transpose(2, 0, 1)
    slim = dense.copy()
    slim[:, 4, 4] = np.roll(slim[:, 4, 4], 1)
    given, a, b, wanted, difference = crops._tiles(pair, dense, slim, None, Form(mean=(0.5,), std=(1.0,)))
    assert given.dtype == np.uint8
    np.testing.assert_array_equal(np.argwhere((a != b).any(-1)), [[4, 4]])
    np.testing.assert_array_equal(np.argwhere((difference != difference[0, 1]).any(-1)), [[4, 4]])
    np.testing.assert_array_equal(wanted[0, 0], 128)


@pytest.mark.parametrize("channels", [2, 5])
def test_what_is_no_picture_has_no_sheet(channels: int) -> None:
    image = np.zeros((channels, 8, 8), np.float32)
    report = ReportImages((Pair("x", "x", image, image),))
    empty = verify.Quality({"psnr": (1.0,)}, {"psnr": 1.0})
    found = verify.Verification(Path("x"), 1, "", ("x",), None, empty, empty, empty, None, ())
    assert crops.sheet(Path("x"), nn.Identity(), report, found, metric("psnr"), Form()) is None


def test_the_sheet_of_an_earlier_run_goes_where_none_is_wanted(tmp_path: Path) -> None:
    (tmp_path / crops.FILE).write_bytes(b"earlier")
    crops.forget(tmp_path, keep=True)
    assert (tmp_path / crops.FILE).exists()
    for _ in range(2):
        crops.forget(tmp_path, keep=False)
        assert not (tmp_path / crops.FILE).exists()

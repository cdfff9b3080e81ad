"""What two classifiers say of an image, and which images the sheet shows."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qcompress import thumbnails
from qcompress.answers import Answers, answers
from qcompress.data.images import Pair, ReportImages
from qcompress.data.reading import Form
from qcompress.metrics import metric
from qcompress.verify import Quality, Verification

NORMALISED = Form(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def test_answers_are_probabilities_of_the_classes_that_matter() -> None:
    dense, slim = np.log([0.7, 0.2, 0.1]), np.log([0.1, 0.6, 0.3]) + 5.0
    found = answers(dense, slim, 2)
    assert (found.dense, found.slim, found.differ) == (0, 1, True)
    assert [number for number, _, _ in found.shown] == [0, 1, 2]
    np.testing.assert_allclose([pair for _, *pair in found.shown], [[0.7, 0.1], [0.2, 0.6], [0.1, 0.3]], atol=1e-12)
    assert found.change == pytest.approx(0.6)


def test_a_network_that_ends_with_softmax_is_taken_at_its_word() -> None:
    found = answers(np.array([0.9, 0.1], np.float32), np.array([0.8, 0.2], np.float32), 0)
    np.testing.assert_allclose(found.shown, [[0, 0.9, 0.8]], atol=1e-6)
    assert not found.differ


def images(said: list[Answers], sizes: list[tuple[int, int]]) -> tuple[ReportImages, Verification]:
    """Images that are lighter one after the other, all of class 0."""
    names = tuple(f"i{place}" for place in range(len(said)))
    levels = [(place / 16 - 0.5) / 0.25 for place in range(len(said))]
    pairs = [
        Pair(name, name, np.full((3, *size), level, np.float32), np.array(0, np.int64))
        for name, size, level in zip(names, sizes, levels, strict=True)
    ]
    quality = Quality({"top1": (100.0,) * len(said)}, {"top1": 100.0})
    return ReportImages(tuple(pairs)), Verification(
        Path("x"), 1, "", names, None, quality, quality, quality, None, (), tuple(said)
    )


def test_the_images_that_changed_most_are_shown() -> None:
    said = [Answers(0, place % 2, ((0, 0.9, 0.1), (1, 0.1, 0.9)), place / 20) for place in range(12)]
    report, found = images(said, [(10, 14)] * 12)
    made = thumbnails.sheet(report, found, metric("top1", "classification"), NORMALISED, ("cat", "dog"))
    assert made is not None
    facts, data = made
    assert [row.name for row in facts.rows] == ["i11", "i9", "i7", "i5", "i3", "i1"]
    assert (facts.side, facts.changed, facts.columns) == (14, 6, ("input",))
    assert (facts.rows[0].label, facts.rows[0].classes[1].name, facts.rows[0].classes[1].slim) == ("cat", "dog", 0.9)
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    assert pixels.shape == (6 * 14, 14, 3)
    shades = pixels[7::14, 7, 0]  # in the middle of each, as they were before they were normalised
    np.testing.assert_allclose(shades, [round(255 * place / 16) for place in (11, 9, 7, 5, 3, 1)], atol=1)
    assert (pixels[0] == 128).all()  # beside an image that is not square


def test_where_no_class_changed_the_largest_change_is_shown() -> None:
    said = [Answers(0, 0, ((0, 0.9, 0.9),), change) for change in (0.1, 0.3, float("nan"), 0.2)]
    report, found = images(said, [(200, 100), (8, 8), (8, 8), (8, 8)])
    made = thumbnails.sheet(report, found, metric("top1", "classification"), NORMALISED)
    assert made is not None
    assert [row.name for row in made[0].rows] == ["i1", "i3", "i0", "i2"]
    assert (made[0].side, made[0].changed) == (112, 0)
    assert made[0].rows[0].label == "0"  # a number where classes have no names


def test_what_was_not_compared_has_no_sheet() -> None:
    report, found = images([], [])
    assert thumbnails.sheet(report, found, metric("top1", "classification"), NORMALISED) is None

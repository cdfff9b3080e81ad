"""Report images that two classifiers disagree on, small, on one sheet, with what each says of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from qcompress.answers import Answers
from qcompress.data.images import ReportImages
from qcompress.data.reading import Form
from qcompress.drawing import colours, png, restored
from qcompress.metrics import Metric
from qcompress.reports import ClassFacts, CropFacts, CropSheet
from qcompress.verify import Verification

__all__ = ["sheet"]

_SIDE = 112  # pixels, at most
_MOST = 8
_PAPER = (128, 128, 128)  # beside an image that is not square


def sheet(
    report: ReportImages, found: Verification, metric: Metric, form: Form, classes: Sequence[str] = ()
) -> tuple[CropSheet, bytes] | None:
    """The sheet and its PNG, one image a row; None where nothing was compared, or inputs are no pictures.

    Shown are the images that got another class, those whose probabilities changed the most before the others; where none did,
    those whose probabilities changed the most. `classes` are the names of classes by their numbers.
    """
    if not found.answers or len(report.pairs[0].input) not in (1, 3) or found.dense is None:
        return None
    chosen = _chosen(found.answers)
    side = min(_SIDE, max(max(report.pairs[place].input.shape[1:]) for place in chosen))
    facts = [
        CropFacts(
            name=found.images[place],
            top=0,
            left=0,
            dense=found.dense.per_image[metric.name][place],
            artifact=found.artifact.per_image[metric.name][place],
            label=_named(int(report.pairs[place].target), classes),
            classes=_classes(found.answers[place], classes),
        )
        for place in chosen
    ]
    changed = sum(each.differ for each in found.answers)
    pixels = [_small(colours(restored(report.pairs[place].input, form)), side) for place in chosen]
    return CropSheet(side=side, columns=("input",), rows=tuple(facts), changed=changed), png(np.vstack(pixels))


def _chosen(answers: Sequence[Answers]) -> list[int]:
    places = [place for place, each in enumerate(answers) if each.differ] or list(range(len(answers)))
    return sorted(places, key=lambda place: -float(np.nan_to_num(answers[place].change)))[:_MOST]


def _classes(answers: Answers, names: Sequence[str]) -> tuple[ClassFacts, ...]:
    return tuple(ClassFacts(name=_named(number, names), dense=dense, slim=slim) for number, dense, slim in answers.shown)


def _named(number: int, names: Sequence[str]) -> str:
    return names[number] if 0 <= number < len(names) else str(number)


def _small(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """(side, side, 3): the whole picture, in the middle of grey where it is not square."""
    image = Image.fromarray(picture)
    way = Image.Resampling.LANCZOS if max(image.size) > side else Image.Resampling.NEAREST
    return np.asarray(ImageOps.pad(image, (side, side), way, _PAPER), np.uint8)

"""Windows of report images as the dense and the slim network return them, side by side on one sheet, for people to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from qcompress import thumbnails
from qcompress.data.images import Pair, ReportImages
from qcompress.data.reading import Form
from qcompress.drawing import colours, png, restored
from qcompress.metrics import Metric
from qcompress.reports import CropFacts, CropSheet
from qcompress.verify import Verification, enlarged, outputs

__all__ = ["FILE", "forget", "sheet"]

FILE = "crops.png"
_SIDE = 112  # pixels
_STEP = 8  # pixels between the windows that are looked at
_HEAT = np.array([(12, 12, 28), (92, 20, 110), (214, 64, 68), (250, 168, 40), (255, 250, 190)], np.float64)
_CLASSES = np.array(
    [(40, 44, 52), (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (230, 159, 0), (240, 228, 66)],
    np.uint8,
)
_IGNORED = 255  # a pixel of a mask that does not count

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


def sheet(
    artifact: Path,
    dense: nn.Module,
    report: ReportImages,
    found: Verification,
    metric: Metric,
    form: Form,
    classes: Sequence[str] = (),
) -> tuple[CropSheet, bytes] | None:
    """The sheet and its PNG; None where there are no pictures, but images of other than one or three channels.

    Of a classifier see `thumbnails`. Of other networks, shown are the image that lost the most by `metric`, the one in the
    middle and the one that lost the least; of each the window where the two outputs differ the most.
    """
    if not report.pairs or (not report.pairs[0].is_labelled and len(report.pairs[0].target) not in (1, 3)):
        return None
    if report.task == "classification":
        return thumbnails.sheet(report, found, metric, form, classes)
    if len(report.pairs[0].input) not in (1, 3):
        return None
    chosen = _chosen(found, metric)
    seen = outputs(artifact, dense, report, chosen)
    sides = (min(pair.target.shape[-2:]) for pair, _, _ in seen)
    side = min(_SIDE, *sides)
    places = [_window(_difference(pair, a, b), side) for pair, a, b in seen]
    brightest = _brightest(seen, places, side)
    rows = [
        np.hstack([tile[y : y + side, x : x + side] for tile in _tiles(pair, a, b, brightest, form)])
        for (pair, a, b), (y, x) in zip(seen, places, strict=True)
    ]
    facts = [
        CropFacts(
            name=pair.name,
            top=y,
            left=x,
            dense=_value(found, metric, n, "dense"),
            artifact=_value(found, metric, n),
            changed=float(_difference(pair, a, b).mean()) if pair.is_labelled else None,
        )
        for n, (pair, a, b), (y, x) in zip(chosen, seen, places, strict=True)
    ]
    drawn = CropSheet(
        side=side, columns=("input", "dense", "slim", "target", "difference"), rows=tuple(facts), brightest=brightest
    )
    return drawn, png(np.vstack(rows))


def forget(folder: Path, *, keep: bool) -> None:
    """Removes the sheet of an earlier run from `folder`, unless that is to be kept."""
    if not keep:
        (folder / FILE).unlink(missing_ok=True)


def _value(found: Verification, metric: Metric, place: int, of: str = "artifact") -> float:
    quality = found.dense if of == "dense" else found.artifact
    return math.nan if quality is None else float(quality.per_image[metric.name][place])


def _chosen(found: Verification, metric: Metric) -> list[int]:
    """The places of the images that lost the most, in the middle, and the least; each once."""
    count = len(found.images)
    drops = [metric.drop(_value(found, metric, n, "dense"), _value(found, metric, n)) for n in range(count)]
    order = sorted(range(count), key=lambda n: -math.inf if math.isnan(drops[n]) else drops[n], reverse=True)
    return list(dict.fromkeys((order[0], order[count // 2], order[-1])))


def _difference(pair: Pair, dense: Floats, slim: Floats) -> Floats:
    """(H, W): how far the outputs are apart; 1 where they label a pixel differently."""
    if pair.is_labelled:
        return np.asarray(dense.argmax(0) != slim.argmax(0), np.float32)
    return np.asarray(np.abs(slim.clip(0, 1) - dense.clip(0, 1)).mean(0), np.float32)


def _window(difference: Floats, side: int) -> tuple[int, int]:
    """(top, left) of the window with the largest sum of squares, of those at every few pixels."""
    sums = np.pad(np.square(difference.astype(np.float64)), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    height, width = difference.shape
    tops, lefts = (sorted({*range(0, end - side + 1, _STEP), end - side}) for end in (height, width))
    totals = [[sums[y + side, x + side] - sums[y, x + side] - sums[y + side, x] + sums[y, x] for x in lefts] for y in tops]
    y, x = np.unravel_index(int(np.argmax(np.nan_to_num(totals))), (len(tops), len(lefts)))
    return tops[int(y)], lefts[int(x)]


def _brightest(seen: list[tuple[Pair, Floats, Floats]], places: list[tuple[int, int]], side: int) -> float | None:
    """The difference that is drawn brightest, the same in all rows: all but one in two hundred pixels lie below it."""
    if seen[0][0].is_labelled:
        return None
    parts = [
        _difference(pair, a, b)[y : y + side, x : x + side].ravel() for (pair, a, b), (y, x) in zip(seen, places, strict=True)
    ]
    return max(float(np.quantile(np.nan_to_num(np.concatenate(parts)), 0.995)), 1 / 255)


def _tiles(pair: Pair, dense: Floats, slim: Floats, brightest: float | None, form: Form) -> list[Bytes]:
    """(H, W, 3) pictures: the input, both outputs, the target, the difference."""
    difference = _heat(_difference(pair, dense, slim) / (brightest or 1.0))
    if pair.is_labelled:
        given = restored(pair.input, form)
        return [colours(given), _labels(dense.argmax(0)), _labels(slim.argmax(0)), _labels(pair.target), difference]
    return [*(colours(image) for image in (enlarged(pair), dense, slim, pair.target)), difference]


def _labels(classes: NDArray[np.int64]) -> Bytes:
    colours: Bytes = _CLASSES[classes % len(_CLASSES)]
    return np.where((classes == _IGNORED)[..., None], np.uint8(128), colours)


def _heat(values: Floats) -> Bytes:
    """0..1 as colours from dark to bright."""
    place = np.nan_to_num(values).clip(0, 1).astype(np.float64) * (len(_HEAT) - 1)
    channels = [np.interp(place, np.arange(len(_HEAT)), _HEAT[:, c]) for c in range(3)]
    return np.round(np.stack(channels, -1)).astype(np.uint8)

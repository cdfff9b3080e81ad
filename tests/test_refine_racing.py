from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from qcompress.errors import InputError
from qcompress.refine.racing import Meter, Racing
from qcompress.selection import Selection, UnitSpace

SPACE = UnitSpace.of([("a", 5)])
GOOD, BAD, START = (Selection(SPACE, (unit,)) for unit in (0, 1, 2))


class Table:
    """Known values: GOOD is 1 dB above START on every image, BAD about 1 dB below."""

    images = 16

    def __init__(self) -> None:
        self.seen: list[tuple[int, range]] = []
        level = np.random.default_rng(0).normal(30, 3, self.images)
        wobble = np.random.default_rng(1).normal(0, 0.1, self.images)
        self.values = {START: level, GOOD: level + 1 + wobble, BAD: level - 1 + wobble}

    def __call__(self, selections: Sequence[Selection], images: range) -> NDArray[np.float64]:
        self.seen.append((len(selections), images))
        return np.stack([self.values[s][images.start : images.stop] for s in selections])


def test_the_clearly_worse_is_dropped_early_and_the_better_is_measured_whole() -> None:
    table = Table()
    meter = Meter(table, 3, Racing())
    _, seen = meter.measure([START])
    meter.leader = seen[0]
    measured, _ = meter.measure([GOOD, BAD])
    assert measured.whole.tolist() == [True, False]
    assert measured.values[0] == pytest.approx(table.values[GOOD].mean(), abs=1e-12)
    assert measured.values[1] == pytest.approx(table.values[BAD].mean(), abs=0.3)  # by differences: levels differ by 3 dB
    assert meter.evaluations == 1 + 1 + 2 / 16
    assert sum(count * len(images) for count, images in table.seen) == meter.evaluations * 16


def test_without_a_race_everything_is_measured_whole() -> None:
    meter = Meter(Table(), 3, None)
    _, seen = meter.measure([START])
    meter.leader = seen[0]
    measured, _ = meter.measure([GOOD, BAD])
    assert measured.whole.all()
    assert meter.evaluations == 3
    assert meter.affordable == 0


@pytest.mark.parametrize("images", [1, 2, 3, 4, 7, 16, 100])
def test_parts_cover_all_images_once(images: int) -> None:
    parts = Racing().parts(images)
    assert [image for part in parts for image in part] == list(range(images))
    assert all(len(part) for part in parts)


def test_a_metric_that_is_not_finite_is_refused() -> None:
    table = Table()
    table.values[START] = np.full(16, np.nan)
    with pytest.raises(InputError, match="not finite"):
        Meter(table, 3, None).measure([START])


@pytest.mark.parametrize("stops", [(0.0,), (1.0,), (0.5, 0.25), (0.5, 0.5)])
def test_stops_outside_their_range(stops: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="stops"):
        Racing(stops=stops)


def test_one_image_tells_no_deviation() -> None:
    with pytest.raises(ValueError, match="least"):
        Racing(least=1)

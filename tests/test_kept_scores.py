from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qcompress import kept_scores
from qcompress.scores import Scores
from qcompress.selection import UnitSpace

SPACE = UnitSpace.of([("a", 4), ("b", 2)])
KEY = kept_scores.key_of(seed=0)


def scores(seed: int = 0) -> Scores:
    rng = np.random.default_rng(seed)
    squares = (np.eye(size) + 0.1 * rng.random((size, size)) for size in SPACE.sizes)
    magnitude, taylor, fisher = (rng.random(6) for _ in range(3))
    return Scores(SPACE, magnitude, taylor, fisher, tuple(s + s.T for s in squares))


def test_kept_scores_come_back_to_the_last_bit(tmp_path: Path) -> None:
    path = kept_scores.keep(scores(), KEY, tmp_path / "new")
    assert path == tmp_path / "new" / ".scores.safetensors"
    found = kept_scores.recall(SPACE, KEY, tmp_path / "new")
    assert found is not None
    for name in ("magnitude", "taylor", "fisher"):
        assert np.array_equal(getattr(found, name), getattr(scores(), name))
        assert not np.array_equal(getattr(found, name), getattr(scores(1), name))
    assert all(map(np.array_equal, found.similarity, scores().similarity))
    kept_scores.forget(tmp_path / "new")
    assert kept_scores.recall(SPACE, KEY, tmp_path / "new") is None
    kept_scores.forget(tmp_path / "new")


def test_another_key_or_space_finds_nothing(tmp_path: Path) -> None:
    kept_scores.keep(scores(), KEY, tmp_path)
    assert kept_scores.recall(SPACE, kept_scores.key_of(seed=1), tmp_path) is None
    assert kept_scores.recall(UnitSpace.of([("a", 4), ("b", 3)]), KEY, tmp_path) is None


@pytest.mark.parametrize("place", [0, 5, 20, 300, -1])
def test_a_damaged_file_finds_nothing_or_numbers(place: int, tmp_path: Path) -> None:
    path = kept_scores.keep(scores(), KEY, tmp_path)
    assert path is not None
    data = bytearray(path.read_bytes())
    data[place] ^= 0x41
    path.write_bytes(bytes(data))
    found = kept_scores.recall(SPACE, KEY, tmp_path)
    assert found is None or np.isfinite(found.taylor).all()
    path.write_bytes(bytes(data[: len(data) // 2]))
    assert kept_scores.recall(SPACE, KEY, tmp_path) is None


def test_a_file_of_another_size_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / kept_scores.FILE).open("wb") as file:
        file.truncate(2**33)
    assert kept_scores.recall(SPACE, KEY, tmp_path) is None


def test_not_finite_scores_are_not_recalled(tmp_path: Path) -> None:
    bad = scores()
    bad.taylor[0] = np.nan
    kept_scores.keep(bad, KEY, tmp_path)
    assert kept_scores.recall(SPACE, KEY, tmp_path) is None

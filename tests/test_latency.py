"""The latency protocol: its properties, never a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from qcompress import latency, seeds
from qcompress.errors import InputError, UsageError
from qcompress.exporters import RUNTIMES
from qcompress.latency import Lap, Opening, compare, judge, play


def write_network(path: Path, width: int, layers: int = 2) -> Path:
    """A chain of 3x3 convolutions of `width` channels, written without torch."""
    rng = np.random.default_rng(0)
    nodes, weights, channels, last = [], [], 3, "input"
    for layer in range(layers):
        outputs = 3 if layer == layers - 1 else width
        name = "output" if layer == layers - 1 else f"x{layer}"
        weights.append(numpy_helper.from_array(rng.normal(0, 0.1, (outputs, channels, 3, 3)).astype(np.float32), f"w{layer}"))
        nodes.append(helper.make_node("Conv", [last, f"w{layer}"], [name], pads=[1, 1, 1, 1]))
        channels, last = outputs, name
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, ["n", 3, "h", "w"]) for end in ("input", "output")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def staying(lap: Lap) -> Opening:
    return lambda _: lap


def noisy_laps(seed: int, ratio: float, spread: float = 0.1) -> Lap:
    """Laps of a machine with log-normal noise, and a load that drifts; the slim network is `ratio` times as fast."""
    rng = seeds.stream(seed, "machine")
    true, load = (1e-3, 1e-3 / ratio, 1e-3), [1.0]

    def lap(contestant: int) -> tuple[float, float]:
        load[0] *= float(np.exp(rng.normal(0, 0.02)))
        seconds = true[contestant] * load[0] * float(np.exp(rng.normal(0, spread)))
        return seconds, seconds * 1.5

    return lap


def images(side: int = 16) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(1).random((1, 3, side, side), np.float32)


def test_order_depends_on_the_seed_alone() -> None:
    def order(seed: int, machine: int) -> list[int]:
        seen: list[int] = []
        lap = noisy_laps(machine, 1.0)

        def watched(contestant: int) -> tuple[float, float]:
            seen.append(contestant)
            return lap(contestant)

        play(staying(watched), seed, iter([True] * 11 + [False]).__next__)
        return seen

    assert order(0, 1) == order(0, 2)
    assert order(0, 1) != order(1, 1)
    assert len({tuple(order(0, 1)[start : start + 3]) for start in range(0, 36, 3)}) > 2


def test_every_round_runs_each_once() -> None:
    calls = [0, 0, 0]

    def lap(contestant: int) -> tuple[float, float]:
        calls[contestant] += 1
        return 1.0, 2.0

    orders: list[tuple[int, ...]] = []

    def opened(order: Sequence[int]) -> Lap:
        orders.append(tuple(order))
        return lap

    rounds = play(opened, 0, lambda: True, 4)
    assert calls == [32, 32, 32]  # without noise the interval is tight at once, but 8 rounds are the least
    assert (rounds.counted.shape, rounds.wall.shape) == ((8, 3), (32, 3))
    assert (len(orders), len(set(orders)) > 2) == (8, True)


def test_noise_makes_it_measure_longer_and_the_end_of_time_stops_it() -> None:
    quiet, noisy = (play(staying(noisy_laps(0, 1.5, spread)), 0, lambda: True).counted for spread in (0.02, 0.1))
    assert len(quiet) < len(noisy)
    assert len(play(staying(noisy_laps(0, 1.5, 5.0)), 0, iter([True] * 6 + [False]).__next__).counted) == 7
    assert len(play(staying(noisy_laps(0, 1.5)), 0, lambda: False).counted) == 1


def test_interval_is_tight_and_covers_the_truth() -> None:
    judgements = [judge(play(staying(noisy_laps(seed, 1.754)), seed, lambda: True).counted) for seed in range(100)]
    assert all((j.ci95[1] - j.ci95[0]) / 2 < 0.02 * j.speedup for j in judgements)
    assert all(j.verdict == "faster" for j in judgements)
    covered = sum(j.ci95[0] <= 1.754 <= j.ci95[1] for j in judgements)
    assert covered >= 88  # 95 expected; stopping when it looks tight costs a little


def layouts(seed: int, ratio: float, *, open_once: bool) -> Opening:
    """A quiet machine on which every opening of a file is some per cent off in its own way, as long as it is open."""
    rng = seeds.stream(seed, "layouts")

    def opened(_: Sequence[int]) -> Lap:
        takes = np.array([1e-3, 1e-3 / ratio, 1e-3]) * np.exp(rng.normal(0, 0.02, 3))

        def lap(contestant: int) -> tuple[float, float]:
            seconds = float(takes[contestant] * np.exp(rng.normal(0, 0.005)))
            return seconds, seconds

        return lap

    return staying(opened(())) if open_once else opened


def test_the_interval_is_that_of_other_runs_not_of_one_opening() -> None:
    """Files that stay open agree with themselves: their interval is narrow, and mostly beside the truth."""

    def covered(*, open_once: bool) -> int:
        found = [judge(play(layouts(seed, 1.9, open_once=open_once), seed, lambda: True, 3).counted) for seed in range(100)]
        return sum(j.ci95[0] <= 1.9 <= j.ci95[1] for j in found)

    assert covered(open_once=True) < 40
    assert covered(open_once=False) >= 88


def test_files_are_opened_anew_in_every_round_unless_they_are_too_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opened = write_network(tmp_path / "x.onnx", 4), []
    real = RUNTIMES["onnxruntime"]

    def watched(*given: Any, **options: Any) -> Any:
        opened.append(given)
        return real(*given, **options)

    real(path).bind(images())  # what is loaded once does not count
    monkeypatch.setattr(latency, "RUNTIMES", {"onnxruntime": watched})
    found = compare(path, path, images(), seed=0, max_seconds=4)
    assert len(opened) == 3 + 3 * found.runs
    opened.clear()
    assert compare(path, path, images(), seed=0, max_seconds=1e-4).runs >= 1
    assert len(opened) == 3


def test_a_network_against_itself_is_hardly_ever_called_different() -> None:
    verdicts = [judge(play(staying(noisy_laps(seed, 1.0)), seed, lambda: True).counted).verdict for seed in range(100)]
    assert verdicts.count("no difference shown") >= 99


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.floats(1.5, 50), st.integers(6, 40))
def test_swapping_the_two_swaps_the_verdict(seed: int, ratio: float, rounds: int) -> None:
    rng = np.random.default_rng(seed)
    counted = np.exp(rng.normal(0, 0.01, (rounds, 3))) * [1, 1 / ratio, 1]
    swapped = counted[:, [1, 0, 1]] * [1, 1, 1.001]
    assert judge(counted).verdict == "faster"
    assert judge(swapped).verdict == "slower"
    assert judge(counted).speedup == pytest.approx(ratio, rel=0.05)


@pytest.mark.parametrize(("rounds", "place"), [(1, 0), (5, 0), (6, 0), (9, 1), (15, 3), (100, 39)])
def test_interval_is_that_of_the_sign_test(rounds: int, place: int) -> None:
    counted = np.ones((rounds, 3))
    counted[:, 1] = 1 / np.random.default_rng(0).permutation(np.arange(1, rounds + 1))
    assert judge(counted).ci95 == pytest.approx((place + 1, rounds - place))
    outside = 2 * sum(math.comb(rounds, below) for below in range(place + 1)) / 2**rounds
    assert outside <= 0.05 or rounds < 6
    assert outside + 2 * math.comb(rounds, place + 1) / 2**rounds > 0.05


def test_few_rounds_show_nothing() -> None:
    counted = np.tile([1.0, 0.1, 1.0], (5, 1))
    assert judge(counted).verdict == "no difference shown"
    assert judge(np.tile([1.0, 0.1, 1.0], (6, 1))).verdict == "faster"


def test_difference_within_what_the_machine_takes_for_one_is_not_claimed() -> None:
    rng = np.random.default_rng(0)
    counted = np.exp(rng.normal(0, 0.002, (30, 3)))
    counted[:, 2] *= 1.1  # the same file, opened twice, differs by a tenth
    counted[:, 1] *= 0.97
    assert judge(counted).verdict == "no difference shown"
    assert judge(counted).ci95[0] > 1.02


def test_large_against_tiny(tmp_path: Path) -> None:
    large = write_network(tmp_path / "large.onnx", 96, 4)
    tiny = write_network(tmp_path / "tiny.onnx", 2)
    found = compare(large, tiny, images(64), seed=0, max_seconds=5)
    assert found.verdict == "faster"
    assert found.speedup > 5
    assert found.ci95[0] <= found.speedup <= found.ci95[1]
    assert found.dense_ms > found.slim_ms > 0
    assert 0 < found.slim_wall.p10_ms <= found.slim_wall.p50_ms <= found.slim_wall.p90_ms
    assert found.clock == "thread"
    assert found.input_shape == (1, 3, 64, 64)
    assert compare(tiny, large, images(64), seed=0, max_seconds=5).verdict == "slower"


def test_real_file_against_itself(tmp_path: Path) -> None:
    path = write_network(tmp_path / "x.onnx", 32)
    found = compare(path, path, images(64), seed=0, max_seconds=5)
    low, high = found.ci95
    widest = max(1.02, found.noise[1], 1 / found.noise[0])
    assert low / widest <= 1 <= high * widest
    assert found.verdict == "no difference shown"


def test_more_threads_are_timed_on_the_wall(tmp_path: Path) -> None:
    path = write_network(tmp_path / "x.onnx", 4)
    found = compare(path, path, images(), seed=0, threads=2, max_seconds=1)
    assert (found.clock, found.threads) == ("wall", 2)


def test_files_and_inputs_that_cannot_be_used(tmp_path: Path) -> None:
    good, bad = write_network(tmp_path / "x.onnx", 4), tmp_path / "bad.onnx"
    bad.write_bytes(b"hello")
    with pytest.raises(InputError, match="not a readable ONNX file"):
        compare(good, bad, images(), seed=0)
    with pytest.raises(InputError, match="no such file"):
        compare(good, tmp_path / "none.onnx", images(), seed=0)
    with pytest.raises(InputError, match="cannot run on an input of shape"):
        compare(good, good, images()[:, :2], seed=0)
    with pytest.raises(UsageError, match="threads"):
        compare(good, good, images(), seed=0, threads=0)
    with pytest.raises(UsageError, match="max_seconds"):
        compare(good, good, images(), seed=0, max_seconds=float("nan"))

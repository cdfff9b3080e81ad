"""The smallest network within a drop: the search for the share, its margin, and what a run says of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from qcompress.bisection import Trial, best, bisect, margin
from qcompress.cli.main import main
from qcompress.errors import UsageError
from qcompress.settings import Limits, SearchOptions, Settings
from qcompress.smallest import check
from qcompress.targets import Smallest


def trial(share: float, drop: float, within: float = 0.0) -> Trial:
    return Trial(share, round(1000 * share), 1, 1, drop, within)


@given(st.floats(0.01, 1.0), st.floats(0.0, 0.5), st.integers(1, 12))
def test_bisection_finds_where_a_growing_drop_meets_its_limit(largest: float, limit: float, number: int) -> None:
    trials = bisect(lambda share: trial(share, share**2), limit, largest, number)
    found = best(trials, limit)
    true = min(largest, math.sqrt(limit))
    assert len(trials) <= number
    assert all(0 <= one.share <= largest + 5e-5 for one in trials)
    assert true - largest / 2**number - 1e-4 * number <= (found.share if found else 0.0) <= true + 1e-9


def test_the_margin_counts_and_what_is_no_number_is_not_within() -> None:
    assert trial(0.5, 0.08, 0.02).within(0.1)
    assert not trial(0.5, 0.09, 0.02).within(0.1)
    assert not trial(0.5, math.nan).within(0.1)
    assert not trial(0.5, 0.0, math.inf).within(0.1)
    assert best([trial(0.5, 0.2)], 0.1) is None


def test_the_margin_of_a_mean_is_students() -> None:
    drops = np.random.default_rng(0).normal(0.1, 0.05, 20)
    expected = stats.t.ppf(0.95, 19) * drops.std(ddof=1) / math.sqrt(20)
    assert margin(lambda of: float(drops[of].mean()), 20) == pytest.approx(expected)
    assert margin(lambda of: 0.0, 1) == math.inf


@pytest.mark.parametrize(
    ("settings", "known", "remote", "message"),
    [
        (Settings(target=Smallest()), False, False, "within which drop"),
        (Settings(target=Smallest(), limits=Limits(0.1)), True, False, "--selection"),
        (
            Settings(target=Smallest(), limits=Limits(0.1), search=SearchOptions(backend="qpu")),
            False,
            True,
            "qpu would be asked",
        ),
    ],
)
def test_where_there_is_nothing_to_look_for(settings: Settings, known: bool, remote: bool, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check(settings, known=known, remote=remote)
    check(Settings(limits=Limits(0.1)), known=known, remote=remote)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--smallest"], "--smallest: within which drop?"),
        (["--smallest", "-s", "0.5", "--max-drop", "1"], "--sparsity and --smallest are given"),
        (["--max-drop", "0.1km"], "--max-drop '0.1km': expected a finite number of 0 or more"),
    ],
)
def test_command_lines_that_make_no_sense(
    arguments: list[str], message: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prune", str(checkpoint), "-o", str(tmp_path / "o"), "-q", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_looks_for_the_smallest_network(
    checkpoint: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qcompress import reconstruction, smallest

    computed: list[Any] = []
    real = reconstruction.eliminated
    monkeypatch.setattr(smallest, "TRIALS", 3)

    def eliminated(*given: Any, **named: Any) -> Any:
        computed.append(given)
        return real(*given, **named)

    monkeypatch.setattr(reconstruction, "eliminated", eliminated)
    fast = ["--data", str(images), "--noise", "gaussian:25", "--refine-evals", "0", "--size", "32", "--quiet", "--align", "1"]
    code = main(["prune", str(checkpoint), "-o", str(tmp_path / "o"), *fast, "--smallest", "--max-drop", "3dB"])
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    found = report["smallest"]
    assert len(computed) == 1
    assert [one["within"] for one in found["trials"]] == [one["drop"] + one["margin"] <= 3 for one in found["trials"]]
    assert found["share"] == max((one["share"] for one in found["trials"] if one["within"]), default=0)
    drop = report["metric"]["dense"] - report["metric"]["artifact"]
    assert found["confirmed"] == (drop <= 3) == (code == 0)
    chosen = next((one for one in found["trials"] if one["share"] == found["share"]), None)
    assert chosen is None or chosen["params"] == report["cost"]["params"]["slim"]
    assert "--smallest" in report["command"]
    assert "--max-drop 3" in report["command"]
    assert "The smallest network within a drop of 3.000 dB" in (tmp_path / "o" / "report.md").read_text()

"""Budgets in the units that users have: amounts as they write them, and costs that are never exceeded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import lively
from torch import nn

from qcompress import surgery, tracing
from qcompress.architectures.half_unet import HalfUNet
from qcompress.asking import Price, asked, met_already, share_of
from qcompress.budgets import cost_within
from qcompress.cli.main import main
from qcompress.errors import UsageError
from qcompress.exporters import EXPORTERS
from qcompress.exporters.anatomy import dissect
from qcompress.file_size import FileSize
from qcompress.groups import Groups
from qcompress.selection import Selection
from qcompress.settings import SearchOptions, Settings
from qcompress.targets import AtMost, Speedup, parse_amount


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return lively(HalfUNet(3, 8, 2, ghost=False))


@pytest.fixture(scope="module")
def groups(model: nn.Module) -> Groups:
    return tracing.trace(model, torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("text", "budget", "amount"),
    [
        ("100k", "params", 100_000),
        ("2.5M", "params", 2_500_000),
        ("1.2G", "macs", 1_200_000_000),
        ("300 mmacs", "macs", 300_000_000),
        ("300", "macs", 300),
        ("1.5MB", "size", 1_500_000),
        ("1 MiB", "size", 1 << 20),
        ("8", "latency", 8),
        ("800us", "latency", 0.8),
        ("0.0081s", "latency", 8.1),
    ],
)
def test_amounts_are_read_exactly(text: str, budget: str, amount: float) -> None:
    assert parse_amount(text, budget, f"--target-{budget}") == amount


@pytest.mark.parametrize("text", ["", "k", "-1k", "1e9", "1.2X", "8ms", "nan", "inf", "1" * 60, "1 2", "١k"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(UsageError, match=r"--target-macs .*expected a number.*") as caught:
        parse_amount(text, "macs", "--target-macs")
    assert caught.value.hint == "for example --target-macs 1.2G"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-s", "0.5", "--target-macs", "1G"], "--sparsity and --target-macs are given, expected one of them"),
        (["--target-params", "1k", "--speedup", "2"], "--target-params and --speedup are given"),
        (["--target-params", "1k", "--budget", "macs"], "--target-params is a target of params, but --budget macs is given"),
        (["--target-size", "1x"], "--target-size '1x': expected a number"),
        (["--speedup", "0.5"], "speedup is 0.5, expected at least 1"),
        (["--target-params", "0"], "at most 0 is to stay, expected a finite amount above 0"),
        (["--target-params", "10"], "at most 10 parameters are to stay, but with the least that every group keeps"),
    ],
)
def test_one_target_that_makes_sense(
    arguments: list[str], message: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prune", str(checkpoint), "-o", str(tmp_path / "o"), "-q", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "fields", [{"budget": "bits"}, {"target": AtMost(5)}, {"budget": "macs", "target": Speedup(2)}], ids=str
)
def test_settings_refuse_targets_of_another_budget(fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="budget"):
        Settings(**fields)


def test_at_most_frees_what_is_above_it_and_no_more(groups: Groups) -> None:
    dense, least = groups.params(), groups.params({group.name: group.size - 1 for group in groups.groups})
    for most in (least, least + 1, (least + dense) // 2, dense - 1, dense, dense + 7):
        assert cost_within("params", most, groups.space, groups.params).target == max(0, dense - most)
    assert cost_within("params", dense - 0.5, groups.space, groups.params).target == 1
    with pytest.raises(UsageError, match=f"keeps {least:,} parameters do"):
        cost_within("params", least - 1, groups.space, groups.params)


def test_a_target_is_met_in_plain_macs_and_a_share_in_blocks(groups: Groups) -> None:
    most = groups.macs() // 2
    target, alignment = asked(groups, Settings(budget="macs", target=AtMost(most), search=SearchOptions(align=4)))
    assert (target.target, alignment.align) == (groups.macs() - most, 4)
    shared, _ = asked(groups, Settings(budget="macs", sparsity=0.2, search=SearchOptions(align=4)))
    assert shared.dense == groups.macs(None, 4) > groups.macs()
    settings = Settings(budget="macs", target=AtMost(most))
    assert share_of(settings, asked(groups, settings)[0]) == pytest.approx(0.5, abs=1e-6)


def test_a_speedup_divides_the_dense_time(groups: Groups) -> None:
    price = Price(lambda counts: 100 * groups.macs(counts))
    target, _ = asked(groups, Settings(budget="latency", target=Speedup(2)), {"latency": price})
    assert target.target == 50 * groups.macs()
    with pytest.raises(UsageError, match="budget latency has not been measured"):
        asked(groups, Settings(budget="latency"))


@pytest.mark.parametrize(
    "wanted",
    [
        Settings(budget="latency", target=Speedup(1e6)),
        Settings(budget="latency", target=AtMost(1e-6)),
        Settings(budget="params", target=AtMost(1)),
    ],
    ids=["speedup", "latency", "params"],
)
def test_an_impossible_target_names_one_that_is_possible(groups: Groups, wanted: Settings) -> None:
    prices = {"latency": Price(groups.macs)}  # picoseconds
    with pytest.raises(UsageError, match="with the least that every group keeps") as caught:
        asked(groups, wanted, prices)
    option, value = str(caught.value.hint).split()[:2]
    speed = option == "--speedup"
    named = Speedup(float(value)) if speed else AtMost(parse_amount(value, wanted.budget, option))
    budget, _ = asked(groups, replace(wanted, target=named), prices)
    most = int(budget.capacity([size - 1 for size in groups.space.sizes]))
    assert 0.98 * most < budget.target <= most
    assert "0.0000 ms" not in caught.value.message


def test_an_impossible_target_names_one_that_the_alignment_allows(groups: Groups) -> None:
    found = []
    for align in (1, 4):
        wanted = Settings(budget="macs", target=AtMost(1), search=SearchOptions(align=align))
        with pytest.raises(UsageError, match="with the least that every group keeps") as caught:
            asked(groups, wanted)
        option, value = str(caught.value.hint).split()[:2]
        assert (option, "--align" in str(caught.value.hint)) == ("--target-macs", True)
        budget, alignment = asked(groups, replace(wanted, target=AtMost(int(value))))
        assert budget.capacity(alignment.most) == budget.target
        with pytest.raises(UsageError, match=f"keeps {int(value):,} MACs do"):
            asked(groups, replace(wanted, target=AtMost(int(value) - 1)))
        found.append(int(value))
    assert found[0] < found[1]


def test_a_target_that_the_dense_network_meets_says_so(groups: Groups) -> None:
    prices = {"latency": Price(groups.macs)}
    for wanted, said in (
        (
            Settings(budget="macs", target=AtMost(1.2e9)),
            f"the dense network has {groups.macs():,} MACs already: nothing is removed",
        ),
        (Settings(budget="latency", target=AtMost(8)), "ms by the latency table already: nothing is removed"),
    ):
        assert said in (met_already(wanted, asked(groups, wanted, prices)[0]) or "")
    for wanted in (Settings(budget="macs", sparsity=0.0), Settings(budget="macs", target=AtMost(groups.macs() - 1))):
        assert met_already(wanted, asked(groups, wanted)[0]) is None


def test_what_was_not_measured_is_no_budget(groups: Groups) -> None:
    with pytest.raises(UsageError, match="budget latency has not been measured"):
        asked(groups, Settings(budget="latency"))


@pytest.mark.slow
def test_the_size_of_the_file_is_known_before_it_is_written(model: nn.Module, groups: Groups, tmp_path: Path) -> None:
    example, metadata = torch.zeros(1, 3, 32, 32), {"producer": "test"}

    def written(network: nn.Module, name: str) -> int:
        return EXPORTERS["onnx"](network, example, tmp_path / name, opset=18, dynamic=True, metadata=metadata).size_bytes

    dense = written(model, "dense.onnx")
    anatomy = dissect((tmp_path / "dense.onnx").read_bytes(), groups.layers, (1, 3, 32, 32))
    size = FileSize(groups, anatomy, dense, repaired=False)
    assert size({}) == dense
    rng = np.random.default_rng(0)
    x = rng.random(len(groups.space)) < 0.4
    chosen = Selection.of(groups.space, x)
    slim = written(surgery.slim(model, groups.cuts(chosen)), "slim.onnx")
    assert 0 <= size(chosen.counts) - slim <= 32  # lengths in the file take fewer bytes, too


@pytest.mark.slow
def test_a_run_ends_below_its_target(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    fast = ["--data", str(images), "--noise", "gaussian:25", "--refine-evals", "0", "--size", "32", "--quiet", "--align", "1"]
    assert main(["prune", str(checkpoint), "-o", str(tmp_path / "o"), *fast, "--target-size", "17kB"]) == 0
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert 15_000 < report["cost"]["bytes"]["slim"] <= 17_000 < report["cost"]["bytes"]["dense"]
    assert "--target-size 17000" in report["command"]
    assert not [note for note in report["notes"] if "nothing is removed" in note]
    assert main(["prune", str(checkpoint), "-o", str(tmp_path / "p"), *fast, "--target-macs", "1.2G"]) == 0
    assert "already: nothing is removed" in (tmp_path / "p" / "report.md").read_text()

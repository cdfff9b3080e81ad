"""What is protected stays, by construction: whatever the objective, the budget and the solver are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from qcompress import tracing
from qcompress.alignment import Alignment
from qcompress.asking import asked
from qcompress.budgets import Budget, CostBudget, CountBudget
from qcompress.cli.main import main
from qcompress.errors import UsageError
from qcompress.groups import Groups
from qcompress.problem import Problem
from qcompress.protection import protected, protection
from qcompress.search import to_capacity
from qcompress.selection import UnitSpace
from qcompress.settings import SearchOptions, Settings
from qcompress.solvers import SOLVERS


@pytest.fixture(scope="module")
def groups() -> Groups:
    model = nn.Sequential(nn.Conv2d(1, 12, 3), nn.Conv2d(12, 10, 3), nn.Conv2d(10, 8, 3), nn.Conv2d(8, 1, 3))
    return tracing.trace(model, torch.zeros(1, 1, 16, 16))


def test_shares_become_counts_and_the_strictest_holds(groups: Groups) -> None:
    options = SearchOptions(
        keep={"0": 0.7, "*": 0.1}, keep_at_most={"1": 0.55, "[12]": 0.9}, multiple_of={"2": 4, "*": 1}, floor=1
    )
    found = protection(groups, options)
    assert found.floors == (9, 1, 1)  # 8.4 of 12, rounded up; 1.0 of 10 is one
    assert found.ceilings == (12, 5, 7)
    assert found.multiples == (1, 1, 4)
    assert protected(groups, options).space.floors == (9, 1, 1)
    assert protected(groups, SearchOptions()) is groups
    frozen = protected(groups, SearchOptions(keep={"1": 1.0}))
    _, alignment = asked(frozen, Settings(sparsity=0.3, search=SearchOptions(keep={"1": 1.0}, align=1)))
    assert alignment.allowed[1] == (0,)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keep": {"9": 0.5}}, r"--keep '9' matches no group"),
        ({"keep": {"0": 0.8}, "keep_at_most": {"0": 0.5}}, "group 0 is to keep at least 10 and at most 6 of its 12 units"),
        ({"keep_at_most": {"1": 0.0}}, "group 1 is to keep at least 1 and at most 0"),
    ],
)
def test_what_cannot_be_is_named(fields: dict[str, Any], message: str, groups: Groups) -> None:
    with pytest.raises(UsageError, match=message):
        protection(groups, SearchOptions(**fields))


@pytest.mark.parametrize(
    "fields", [{"keep": {"0": 1.5}}, {"keep": {"0": float("nan")}}, {"keep_at_most": {"0": -1}}, {"multiple_of": {"0": 0}}]
)
def test_numbers_outside_their_range(fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="expected"):
        SearchOptions(**fields)


def test_a_ceiling_below_every_multiple_is_an_error() -> None:
    space = UnitSpace(("a",), (12,), (5,))
    assert Alignment(space, 1, (), (), (7,)).allowed == ((5, 6, 7),)
    with pytest.raises(UsageError, match="group a is to keep 5 to 7 units, none a multiple of 4"):
        _ = Alignment(space, 4, (), (), (7,)).allowed


def problem_of(seed: int, sizes: tuple[int, ...], floors: tuple[int, ...], *, crossed: bool) -> Problem:
    rng = np.random.default_rng(seed)
    space = UnitSpace(tuple(f"g{g}" for g in range(len(sizes))), sizes, floors)
    blocks = []
    for size in sizes:
        block = rng.normal(size=(size, size))
        block += block.T
        np.fill_diagonal(block, 0)
        blocks.append(block)
    cross = None
    if crossed:
        cross = rng.normal(size=(len(space), len(space)))
        cross += cross.T
        for span in space.spans:
            cross[span, span] = 0
    return Problem(space, rng.normal(size=len(space)), tuple(blocks), cross)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_every_search_ends_within_what_is_allowed(data: st.DataObject) -> None:
    sizes = tuple(data.draw(st.lists(st.integers(3, 7), min_size=2, max_size=3)))
    floors = tuple(data.draw(st.integers(0, size - 1)) for size in sizes)
    ceilings = tuple(data.draw(st.integers(floor, size)) for floor, size in zip(floors, sizes, strict=True))
    problem = problem_of(data.draw(st.integers(0, 99)), sizes, floors, crossed=data.draw(st.booleans()))
    alignment = Alignment(problem.space, 1, (), (), ceilings)

    def cost(counts: Mapping[str, int]) -> int:
        kept = [size - counts.get(name, 0) for name, size in zip(problem.space.groups, sizes, strict=True)]
        return sum(a * b for a, b in zip([2, *kept], [*kept, 3], strict=True))

    counted = data.draw(st.booleans())
    share = data.draw(st.floats(0, 1))
    budget: Budget = CountBudget(problem.space, 0) if counted else CostBudget(problem.space, "params", cost, 0)
    most = int(budget.capacity(alignment.most))
    target = round(share * most)
    budget = CountBudget(problem.space, target) if counted else CostBudget(problem.space, "params", cost, target)
    solver = SOLVERS[data.draw(st.sampled_from(["profile", "tabu"]))]
    result = to_capacity(problem, budget, solver, 0, reads=2, rounds=2, align=alignment)
    counts = problem.space.counts(result.selection.x)
    assert alignment.allows(counts)
    assert all(size - k <= c for size, k, c in zip(sizes, counts.tolist(), ceilings, strict=True))
    assert result.capacity >= target
    assert result.certificate is not None
    assert result.certificate.bound <= result.energy + 1e-9


def test_inspect_shows_what_a_group_may_keep(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--align", "1", "--keep", "enc.0.*=0.75", "--keep-at-most", "dec.*=0.5", "--multiple-of", "dec.0*=4"]
    assert main(["inspect", str(checkpoint), "--size", "32", "--json", *options]) == 0
    found = {group["name"]: group["may_keep"] for group in json.loads(capsys.readouterr().out)["groups"]}
    first = next(name for name in found if name.startswith("enc.0"))
    assert found[first][-1] == 8
    assert all(min(kept) >= 6 for name, kept in found.items() if name.startswith("enc.0"))
    assert all(max(kept) <= 4 for name, kept in found.items() if name.startswith("dec."))
    assert next(kept for name, kept in found.items() if name.startswith("dec.0")) == [4]
    assert main(["inspect", str(checkpoint), "--size", "32", "--keep", "x"]) == 2
    assert "--keep 'x': expected PATTERN=NUMBER" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_keeps_what_it_is_told(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    fast = ["--data", str(images), "--noise", "gaussian:25", "--refine-evals", "0", "--size", "32", "--quiet"]
    options = ["-s", "0.4", "--align", "1", "--keep", "enc.0.0*=1", "--keep-at-most", "dec.*=0.5"]
    assert main(["prune", str(checkpoint), "-o", str(tmp_path / "o"), *fast, *options]) == 0
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    pruned = {name: group["pruned"] for name, group in report["units"]["per_group"].items()}
    assert sum(pruned.values()) == 16
    assert all(k == 0 for name, k in pruned.items() if name.startswith("enc.0.0"))
    assert all(k >= 4 for name, k in pruned.items() if name.startswith("dec."))
    assert "--keep-at-most 'dec.*=0.5'" in report["command"]

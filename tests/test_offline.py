"""Problems and selections as files, and what strangers may put into them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sapi.fixtures import problem
from torch import nn

from qcompress import offline, pipeline, solving, tracing
from qcompress.budgets import CostBudget
from qcompress.errors import OutputError, PlanError, QCompressError, UsageError
from qcompress.formulation import formulate
from qcompress.groups import Groups
from qcompress.offline import Ask, Provenance, read_problem, read_selection, write_problem
from qcompress.plans import Source
from qcompress.problem import Problem
from qcompress.progress import SILENT
from qcompress.qubo import L1Qubo, Magnitude, Taylor
from qcompress.search import to_capacity
from qcompress.selection import UnitSpace
from qcompress.settings import DataOptions, SearchOptions, Settings, VerifyOptions
from qcompress.solvers import SOLVERS
from qcompress.solving import as_asked, checked, found_of, solve
from qcompress.targets import AtMost, Smallest, Speedup

SHA = "0" * 64
SOURCE = Source(file="net.pt", sha256=SHA, architecture="half-unet", arguments={})


def write(asked: Problem, path: Path, **changes: Any) -> Path:
    facts: dict[str, Any] = {
        "tool": "qcompress test",
        "checkpoint": SOURCE,
        "layers": (),
        "ask": Ask(budget="filters", sparsity=0.5, align=1),
        "provenance": Provenance(scores=SHA, images=SHA, objective="l1-qubo", metric="psnr", seed=0),
    }
    write_problem(asked, path, **{**facts, **changes})
    return path


def test_a_problem_comes_back_as_it_was(tmp_path: Path) -> None:
    asked = problem(7, 1, 4)
    known = read_problem(write(asked, tmp_path / "p.bqm")).problem
    assert known.space == asked.space
    np.testing.assert_array_equal(known.linear, asked.linear)
    for ours, theirs in zip(asked.couplings, known.couplings, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("align", [1, 4])
@pytest.mark.parametrize("name", ["filters", "params", "macs"])
def test_costs_are_those_of_the_network(name: str, align: int, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2), nn.Conv2d(6, 3, 1))
    groups = tracing.trace(model.eval(), torch.zeros(1, 3, 16, 16))
    space = groups.space
    asked = Problem(space, np.ones(len(space)), tuple(np.zeros((size, size)) for size in space.sizes))
    layers = offline.layer_records(groups)
    path = write(asked, tmp_path / "p.bqm", layers=layers, ask=Ask(budget=name, sparsity=0.3, align=align))
    target = read_problem(path).record.target
    for counts in (np.zeros(len(space.sizes), int), np.array(space.sizes) // 2, np.subtract(space.sizes, space.floors)):
        by_name = dict(zip(space.groups, counts.tolist(), strict=True))
        true = (
            sum(by_name.values()) if name == "filters" else cost(groups, name, {}, align) - cost(groups, name, by_name, align)
        )
        assert int(target.capacity(counts)) == true
        if name == "macs":
            lower = groups.macs({}, align, additive=True) - groups.macs(by_name, align, additive=True)
            assert int(target.relaxed.capacity(counts)) == lower


def cost(groups: Groups, name: str, counts: dict[str, int], align: int) -> int:
    return groups.params(counts) if name == "params" else groups.macs(counts, align)


def test_channels_of_a_unit_come_along(tmp_path: Path) -> None:
    path = tmp_path / "p.bqm"
    facts: dict[str, Any] = {"tool": "qcompress test", "checkpoint": SOURCE, "layers": ()}
    ask = Ask(budget="filters", sparsity=0.25, align=16)
    proof = Provenance(scores=SHA, images=SHA, objective="l1-qubo", metric="psnr", seed=0)
    write_problem(problem(12, 12), path, widths=(64, 4), ask=ask, provenance=proof, **facts)
    assert read_problem(path).record.asked[1].steps == (1, 4)
    edited(tmp_path / "p.json", groups=[{"name": name, "size": 12, "floor": 1} for name in problem(12, 12).space.groups])
    assert read_problem(path).record.asked[1].steps == (8, 8)  # of a file from before there were widths


def test_solved_elsewhere_is_solved_here(tmp_path: Path) -> None:
    asked = problem(9, 9, seed=2)
    path = write(asked, tmp_path / "p.bqm")
    written = solve(path, SearchOptions(backend="tabu"), seed=3, out=tmp_path / "s.json")
    assert read_selection(tmp_path / "s.json") == written
    known = read_problem(path)
    here = to_capacity(asked, known.record.target, SOLVERS["tabu"], 3, reads=SearchOptions().reads)
    found = found_of(written, asked.space, SHA).search
    assert found.selection == here.selection
    assert found.energy == pytest.approx(here.energy)
    assert (found.asked, found.capacity) == (9, 9)
    assert found.certificate == here.certificate
    assert found.certificate is not None
    assert (written.objective, written.coefficients) == ("l1-qubo", {})
    with pytest.raises(UsageError, match="is the problem itself"):
        solve(path, SearchOptions(backend="tabu"), out=path)


def test_a_selection_brings_what_it_was_found_for(tmp_path: Path) -> None:
    path = write(problem(5, 5), tmp_path / "p.bqm", ask=Ask(budget="filters", sparsity=0.4, align=1))
    known = solve(path, SearchOptions(backend="tabu"), out=tmp_path / "s.json")
    held = as_asked(Settings(), known)
    assert held.search == SearchOptions(L1Qubo(), "tabu", align=1)
    assert held.sparsity == 0.4
    assert as_asked(held, known) == held
    for wrong in (
        {"sparsity": 0.3},
        {"budget": "macs"},
        {"search": SearchOptions(backend="neal")},
        {"search": SearchOptions(Taylor())},
        {"search": SearchOptions(align=4)},
    ):
        with pytest.raises(UsageError, match="the selection was found for"):
            as_asked(Settings(**wrong), known)
    with pytest.raises(UsageError, match="sweeps: with a selection no backend runs"):
        as_asked(Settings(search=SearchOptions(backend_options={"sweeps": "3"})), known)
    with pytest.raises(PlanError, match="objective Mine, which is none of ours"):
        as_asked(Settings(), known.model_copy(update={"objective": "Mine"}))
    with pytest.raises(PlanError, match="no coefficient 'speed'"):
        as_asked(Settings(), known.model_copy(update={"coefficients": {"speed": 1.0}}))


def test_a_certificate_of_another_energy_is_refused(tmp_path: Path) -> None:
    known = solve(write(problem(5, 5), tmp_path / "p.bqm"), SearchOptions(backend="tabu"), out=tmp_path / "s.json")
    edited(tmp_path / "s.json", energy=known.energy - 1)
    with pytest.raises(PlanError, match="the certificate is of another energy"):
        read_selection(tmp_path / "s.json")


def test_a_place_that_cannot_be_written_is_found_before_solving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("the search was begun")

    monkeypatch.setattr(solving, "search", never)
    path = write(problem(5), tmp_path / "p.bqm")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="a part of the path is a file"):
        solve(path, out=tmp_path / "file" / "s.json")
    with pytest.raises(AssertionError, match="begun"):
        solve(path, out=tmp_path / "new" / "s.json")
    assert sorted(tmp_path.iterdir()) == [tmp_path / name for name in ("file", "p.bqm", "p.json")]


def test_a_selection_of_another_network_is_refused(tmp_path: Path) -> None:
    written = solve(write(problem(5, 5), tmp_path / "p.bqm"), SearchOptions(backend="tabu"), out=tmp_path / "s.json")
    with pytest.raises(PlanError, match=r"the selection is of net\.pt with sha256 000000000000, this is 111111111111"):
        found_of(written, problem(5, 5).space, "1" * 64)
    with pytest.raises(PlanError, match="group g1 has 5 units in the selection and 4 in the network"):
        found_of(written, problem(5, 4).space, SHA)
    with pytest.raises(PlanError, match="falls below its floor"):
        found_of(written, UnitSpace(("g0", "g1"), (5, 5), (5, 5)), SHA)


def test_a_target_and_what_is_protected_go_along(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    """From the run that formulates to the one that prunes, which need not be told again."""
    plain = Settings(data=DataOptions(images, "gaussian:25"), verify=VerifyOptions(size=32))
    groups = pipeline.prepare(checkpoint, plain, SILENT).groups
    frozen, few, fours = groups.space.groups[:3]
    search = SearchOptions(Magnitude(), align=1, keep={frozen: 1}, keep_at_most={few: 0.6}, multiple_of={fours: 4})
    most = 0.6 * groups.params()
    told = replace(plain, budget="params", target=AtMost(most), search=search)
    formulate(checkpoint, told, out=tmp_path / "p.bqm")
    written = solve(tmp_path / "p.bqm", SearchOptions(backend="tabu"), out=tmp_path / "s.json")

    job = pipeline.prepare(checkpoint, as_asked(plain, written), SILENT)
    assert job.settings.target == told.target
    target, alignment = job.asked
    found = found_of(written, job.groups.space, job.checkpoint.sha256)
    selection = checked(found, target, alignment).search.selection
    kept = {name: size - selection.counts[name] for name, size in zip(groups.space.groups, groups.space.sizes, strict=True)}
    assert groups.params(selection.counts) <= most
    assert (kept[frozen], kept[few] <= 4, kept[fours] % 4) == (8, True, 0)
    record = read_problem(tmp_path / "p.bqm").record
    assert record.asked[1].allowed == alignment.allowed
    assert record.asked[0].target == target.target == written.asked
    with pytest.raises(PlanError, match="rule out"):
        checked(found, target, replace(alignment, align=8, multiples=(), ceilings=()))
    assert isinstance(target, CostBudget)
    with pytest.raises(PlanError, match="expected at least"):
        checked(found, replace(target, target=found.search.capacity + 1), alignment)
    for other in ({"keep": {frozen: 0.5}}, {"keep_at_most": {few: 0.9}}, {"multiple_of": {fours: 2}}):
        with pytest.raises(UsageError, match="the selection was found for"):
            as_asked(replace(plain, search=SearchOptions(**other)), written)
    with pytest.raises(UsageError, match=r"the selection was found for AtMost"):
        as_asked(replace(plain, budget="params", target=AtMost(1000)), written)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Settings(budget="size"), "budget size: its cost is measured"),
        (Settings(budget="latency", target=Speedup(2)), "budget latency: its cost is measured"),
        (Settings(target=Smallest()), "found by measuring networks"),
    ],
)
def test_what_no_problem_file_holds_is_refused_before_anything_is_done(asked: Settings, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        formulate(tmp_path / "none.pt", asked, out=tmp_path / "p.bqm")
    assert "--target-params" in (caught.value.hint or "")


def edited(path: Path, **changes: Any) -> None:
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, **changes}))


@pytest.mark.parametrize(("changes", "message"), [
    ({"schema": 2}, "schema"),
    ({"kind": "something"}, "kind"),
    ({"extra": 1}, "extra"),
    ({"bqm": "x"}, "bqm"),
    ({"groups": [{"name": "g0", "size": 5, "floor": 1}, {"name": "g0", "size": 5, "floor": 1}]}, "same name"),
    ({"groups": [{"name": f"g{n}", "size": 65536, "floor": 1} for n in range(9)]}, "too large"),
    ({"groups": [{"name": "g0", "size": 5, "floor": 9}]}, "keeps more units than it has"),
    ({"groups": [{"name": "g0", "size": 4, "floor": 1}, {"name": "g1", "size": 5, "floor": 1}]}, "10 variables, expected 9"),
    ({"groups": [{"name": "g0", "size": 5, "floor": 1}, {"name": "zz", "size": 5, "floor": 1}]}, "not the units"),
    ({"groups": [{"name": "g0", "size": 10, "floor": 1}]}, "not the units"),
    ({"groups": [{"name": "g0", "size": 5, "floor": 2, "ceiling": 1}]}, "keeps more units than it may"),
    ({"ask": {"budget": "watts", "sparsity": 0.5, "align": 1}}, "budget"),
    ({"ask": {"budget": "filters", "sparsity": 0.5, "align": 1, "at_most": 9.0}}, "a cost, not filters"),
    ({"ask": {"budget": "macs", "sparsity": 0.5, "align": 1, "keep": {"g*": 2.0}}}, "keep"),
    ({"ask": {"budget": "filters", "sparsity": 1.5, "align": 1}}, "sparsity"),
])  # fmt: skip
def test_a_problem_that_was_tampered_with(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(problem(5, 5), tmp_path / "p.bqm")
    edited(tmp_path / "p.json", **changes)
    with pytest.raises(PlanError, match=message):
        read_problem(path)


def test_couplings_between_groups_come_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = problem(5, 5)
    cross = np.zeros((10, 10))
    cross[0, 9] = cross[9, 0] = 1.5
    path = write(Problem(asked.space, asked.linear, asked.couplings, cross), tmp_path / "p.bqm")
    known = read_problem(path).problem
    assert known.cross is not None
    np.testing.assert_array_equal(known.cross, cross)
    x = np.arange(10) % 3 == 0
    assert known.energy(x) == pytest.approx(float(asked.energy(x)) + 1.5)
    monkeypatch.setattr(offline, "LARGEST_CROSS", 9)
    with pytest.raises(PlanError, match="couplings between groups"):
        read_problem(path)


def test_another_bqm_and_missing_files(tmp_path: Path) -> None:
    path = write(problem(5), tmp_path / "p.bqm")
    path.write_bytes(b"x")
    with pytest.raises(PlanError, match=r"not the file that p\.json was written for"):
        read_problem(path)
    with pytest.raises(PlanError, match=r"none\.bqm: cannot be read"):
        read_problem(tmp_path / "none.bqm")
    with pytest.raises(PlanError, match=r"expected the file beside it, such as p\.bqm"):
        read_problem(tmp_path / "p.json")
    with pytest.raises(PlanError, match="is not a file"):
        read_selection(tmp_path)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1), junk=st.binary(max_size=12), cut=st.booleans())
def test_damaged_bytes_are_errors_of_ours(tmp_path: Path, place: float, junk: bytes, cut: bool) -> None:
    path = write(problem(3, 2), tmp_path / "p.bqm")
    data = path.read_bytes()
    at = int(place * len(data))
    damaged = data[:at] + junk + (b"" if cut else data[at + len(junk) :])
    path.write_bytes(damaged)
    edited(tmp_path / "p.json", bqm=hashlib.sha256(damaged).hexdigest())
    try:
        read_problem(path)
    except QCompressError as error:
        assert "\n" not in error.message


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=200), st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps).map(str.encode)
    )
)
def test_any_bytes_as_a_selection(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "s.json").write_bytes(data)
    with pytest.raises(PlanError):
        read_selection(tmp_path / "s.json")


def test_a_problem_too_large_for_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "p.bqm"
    with pytest.raises(UsageError, match="does not fit into a file") as caught:
        write_problem(problem(3, 3), path, widths=(-1, 1), tool="x")
    assert "\n" not in caught.value.message
    assert not path.exists()

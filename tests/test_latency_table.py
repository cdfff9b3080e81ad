"""Latency tables: models that run, costs that are exact by the table, files from strangers, the script for a device."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import of_plain_costs, table_of

from qcompress import loading, pricing, profiling, table_trust, tracing
from qcompress.asking import Price, asked
from qcompress.checkpoints import Checkpoint
from qcompress.cli.main import main
from qcompress.errors import InputError
from qcompress.exporters import EXPORTERS, micro, timing
from qcompress.exporters.anatomy import dissect
from qcompress.exporters.runtime import open_bytes
from qcompress.groups import Groups
from qcompress.latency_model import LatencyModel, computed
from qcompress.latency_table import LatencyTable, read
from qcompress.profiling import Jobs
from qcompress.progress import SILENT
from qcompress.settings import SearchOptions, Settings
from qcompress.targets import Speedup

SIDE = 32


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> Checkpoint:
    return loading.load(checkpoint)


@pytest.fixture(scope="module")
def groups(loaded: Checkpoint) -> Groups:
    return tracing.trace(loaded.model, torch.zeros(1, 3, SIDE, SIDE))


@pytest.fixture(scope="module")
def jobs(loaded: Checkpoint, groups: Groups) -> Jobs:
    return profiling.plan(loaded, groups, block=4)


@pytest.fixture(scope="module")
def table(jobs: Jobs, groups: Groups) -> LatencyTable:
    return of_plain_costs(jobs, groups)


def test_every_model_runs_and_whole_networks_have_the_dense_output(
    jobs: Jobs, groups: Groups, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("ROUNDS", 1), ("LEAST_ROUNDS", 1), ("LAP_SECONDS", 0.0), ("LAPS_SECONDS", 0.0)):
        monkeypatch.setattr(timing, name, value)
    told: list[float] = []
    times = timing.measure([(m.data, m.shape) for m in jobs.models], told=lambda done, _: told.append(done))
    assert all(time is not None and time > 0 for time in times)
    assert told == sorted(told)
    assert 2 < len(jobs.plan.networks) <= 2 + profiling.MIXED  # groups of eight keep four or all
    for network in jobs.plan.networks:
        model = jobs.models[network.job]
        image = np.zeros(model.shape, np.float32)
        assert open_bytes(model.data, "whole")(image).shape == (1, 3, SIDE, SIDE)
        assert len(model.data) < 20_000
    assert LatencyModel(table_of(jobs, times), groups)({}) > 0


def test_an_operation_has_as_many_inputs_as_in_its_network(loaded: Checkpoint, groups: Groups, tmp_path: Path) -> None:
    written = tmp_path / "dense.onnx"
    EXPORTERS["onnx"](loaded.model, torch.zeros(groups.example_shape), written, opset=18, dynamic=False, metadata={})
    anatomy = dissect(written.read_bytes(), groups.layers, groups.example_shape)
    added = next(found for found in anatomy.operations if found.node.op_type == "Add" and not any(found.direct))
    model = micro.operation(added, anatomy.model)
    outputs = open_bytes(model.data, "added")(np.ones(model.shape, np.float32))
    assert outputs == pytest.approx(1 + 1 / 2)  # of equal inputs onnxruntime would compute one


def test_a_model_that_does_not_run_has_no_time() -> None:
    assert timing.measure([(b"not a model", (1, 1, 4, 4))]) == [None]


def test_the_cost_is_what_the_machine_takes(table: LatencyTable, groups: Groups) -> None:
    model = LatencyModel(table, groups)
    assert model.fit == pytest.approx((1.0, 1.0, 20_000), rel=1e-6)
    assert [error for _, error in table_trust.errors(model)] == pytest.approx([0] * len(table.networks), abs=1e-6)
    expected = 20 + sum(2 * t.inputs * t.outputs for t in table.layers)
    assert model({}) == pytest.approx(1000 * expected, rel=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_costs_grow_with_what_is_kept_and_are_bounded_below(table: LatencyTable, groups: Groups, data: st.DataObject) -> None:
    model = LatencyModel(table, groups)
    more = {g.name: data.draw(st.integers(0, g.size - 1)) for g in groups.groups}
    fewer = {name: data.draw(st.integers(0, k)) for name, k in more.items()}
    assert model(more) <= model(fewer) <= model({})
    assert model.additive(more) <= model(more)
    alone = [model.additive({}) - model.additive({name: k}) for name, k in more.items()]
    assert model.additive({}) - model.additive(more) <= sum(alone)


def test_a_speedup_is_one_of_the_table(table: LatencyTable, groups: Groups) -> None:
    model = LatencyModel(table, groups)
    wanted = Settings(budget="latency", target=Speedup(1.5), search=SearchOptions(align=4))
    budget, alignment = asked(groups, wanted, {"latency": Price(model, 4, model.additive)})
    counts = alignment.most
    assert budget.capacity(counts) >= budget.target == model({}) - int(model({}) / 1.5)
    relaxed = budget.relaxed
    assert relaxed.capacity(counts) >= relaxed.target


def test_what_a_runtime_computes() -> None:
    assert [computed(c, 16, 64) for c in (1, 4, 5, 8, 9, 16, 17, 63)] == [4, 4, 8, 8, 16, 16, 32, 64]
    assert computed(3, 16, 3) == 3
    assert [computed(c, 8, 24) for c in (3, 7, 9, 20)] == [4, 8, 16, 24]


def test_a_table_of_another_network_is_refused(table: LatencyTable, groups: Groups, loaded: Checkpoint) -> None:
    larger = tracing.trace(loaded.model, torch.zeros(1, 3, 2 * SIDE, 2 * SIDE))
    with pytest.raises(InputError, match="an input 1x3x32x32, this run's is 1x3x64x64"):
        LatencyModel(table, larger)
    other = table.model_copy(update={"layers": (table.layers[0].model_copy(update={"name": "stem"}), *table.layers[1:])})
    with pytest.raises(InputError, match="another network: its layer stem"):
        LatencyModel(other, groups)


def _timed_otherwise(table: LatencyTable, factors: Sequence[float]) -> LatencyTable:
    """Whole networks that took other times."""
    times = list(table.times_ns)
    for network, factor in zip(table.networks, factors, strict=False):
        times[network.job] = factor * table.ns(network.job)
    return table.model_copy(update={"times_ns": tuple(times)})


def _flat(table: LatencyTable) -> LatencyTable:
    """Whole networks that all took the time of the dense one."""
    return _timed_otherwise(table, [table.ns(table.networks[0].job) / table.ns(network.job) for network in table.networks])


def test_a_table_that_contradicts_itself_is_doubted_and_then_refused(table: LatencyTable, groups: Groups) -> None:
    sound = LatencyModel(table, groups)
    table_trust.check(sound)
    assert table_trust.doubt(sound) is None
    assert re.match(
        r"[+-]0\.0 % on the dense network, [+-]0\.0 % with \d+ % of the units removed", table_trust.errors_text(sound)
    )
    uneven = LatencyModel(_timed_otherwise(table, [1.5, 1.0, 0.7]), groups)
    table_trust.check(uneven)
    assert re.search(r"doubtful: off by [+-]\d+\.\d % (on|with) .*", table_trust.doubt(uneven) or ""), table_trust.errors_text(
        uneven
    )
    hundredfold = table.model_copy(
        update={"times_ns": tuple(time and time * 100 ** (job % 2) for job, time in enumerate(table.times_ns))}
    )
    for broken, message in ((hundredfold, r"contradicts itself: off by .*\d %"), (_flat(table), "flat")):
        with pytest.raises(InputError, match=message) as caught:
            table_trust.check(LatencyModel(broken, groups))
        assert "\n" not in caught.value.message


def test_a_table_is_not_flat_because_most_units_are_protected(table: LatencyTable, groups: Groups) -> None:
    """Nor because most groups are left out."""
    for guarded in (
        replace(groups, floors=tuple(group.size for group in groups.groups)),
        replace(groups, groups=groups.groups[:1], floors=(groups.groups[0].size,)),
    ):
        table_trust.check(LatencyModel(table, guarded))


def test_a_table_that_is_refused_is_not_kept_and_one_that_is_read_is_named(
    table: LatencyTable, groups: Groups, loaded: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = _flat(table)
    monkeypatch.setattr(pricing, "plan", lambda *_, **__: None)
    monkeypatch.setattr(pricing, "time_here", lambda *_: flat)
    measures = Settings(budget="latency", target=Speedup(1.5), search=SearchOptions(align=4))
    with pytest.raises(InputError, match="flat"):
        pricing.priced(measures, loaded, groups, groups.example_shape, SILENT, folder=tmp_path)
    assert not list(tmp_path.iterdir())
    path = tmp_path / pricing.TABLE
    profiling.write_table(flat, path)
    resumed = pricing.with_table(measures, tmp_path, resume=True)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: the latency table is flat"):
        pricing.priced(resumed, loaded, groups, groups.example_shape, SILENT, folder=tmp_path)


def test_profile_writes_no_table_that_no_run_would_take(
    table: LatencyTable,
    jobs: Jobs,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "edge.json"
    command = ["profile", str(checkpoint), "--size", str(SIDE), "--block", "4", "-o", str(out)]
    monkeypatch.setattr(profiling, "plan", lambda *_, **__: jobs)
    monkeypatch.setattr(profiling, "time_here", lambda *_: _flat(table))
    assert main(command) == 3
    assert "error: the latency table is flat" in capsys.readouterr().err
    assert not out.exists()
    monkeypatch.setattr(profiling, "time_here", lambda *_: _timed_otherwise(table, [1.5, 1.0, 0.7]))
    assert main(command) == 0
    assert "warning: the latency table is doubtful" in capsys.readouterr().err
    assert out.exists()


def test_a_table_survives_its_file(table: LatencyTable, tmp_path: Path) -> None:
    profiling.write_table(table, tmp_path / "edge.json")
    assert read(tmp_path / "edge.json") == table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema"),
        ({"times_ns": [1.0]}, "1 times, expected"),
        ({"threads": 0}, "threads"),
        ({"extra": 1}, "extra"),
        ({"networks": []}, "networks"),
        ({"times_ns": [None] * 4000}, "has no time"),
        ({"times_ns": [-1.0] * 4000}, "greater than 0"),
        ({"times_ns": [1e300] * 4000}, "less than"),
        ({"layers": [{"name": "a\n\x1b", "inputs": 1, "outputs": 1, "shape": 0}]}, "printable"),
        ({"layers": [{"name": "a", "inputs": 1, "outputs": 1, "shape": 99}]}, "a shape that there is not"),
    ],
)
def test_damaged_tables_are_named(change: dict[str, Any], message: str, table: LatencyTable, tmp_path: Path) -> None:
    path = tmp_path / "edge.json"
    path.write_text(json.dumps({**table.model_dump(mode="json", by_alias=True), **change}))
    with pytest.raises(InputError, match="not a latency table of schema 1: .*" + message) as caught:
        read(path)
    assert "\n" not in caught.value.message


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b" " * (16 * 2**20 + 1))
    (tmp_path / "deep").write_text("[" * 100_000)
    for name, message in (("long", "larger than 16 MiB"), ("deep", "not a latency table"), ("none", "cannot be read")):
        with pytest.raises(InputError, match=message):
            read(tmp_path / name)


@pytest.mark.slow
def test_the_script_needs_nothing_of_ours(jobs: Jobs, groups: Groups, tmp_path: Path) -> None:
    script, _ = profiling.write_script(jobs, tmp_path / "edge")
    command = [sys.executable, "-I", script.name, "jobs.json", "-o", "edge.json"]
    done = subprocess.run(command, cwd=script.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "qcompress" not in "".join(line for line in script.read_text().splitlines() if line.startswith(("import", "from")))
    found = read(script.parent / "edge.json")
    assert found.device.processor
    assert LatencyModel(found, groups)({}) > 0


def test_the_script_says_in_one_line_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = base64.b64encode(b"not a model").decode()
    good, bad, out = tmp_path / "jobs.json", tmp_path / "bad.json", tmp_path / "edge.json"
    good.write_text(json.dumps({"plan": {"threads": 1}, "jobs": [{"model": model, "shape": [1, 1, 4, 4]}]}))
    bad.write_text("[]")
    for jobs, to, message in (
        (tmp_path / "none.json", out, "none.json: cannot be read: No such file or directory"),
        (bad, out, "bad.json: not a jobs file"),
        (good, tmp_path / "no" / "edge.json", "edge.json: cannot be written: No such file or directory"),
        (good, out, "none of 1 models ran"),
    ):
        assert timing.main([str(jobs), "-o", str(to)]) == 1
        (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert message in said
        assert not to.exists()


def test_a_script_that_is_interrupted_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(timing, "measure", interrupted)
    jobs, before, out = tmp_path / "jobs.json", tmp_path / "before.json", tmp_path / "edge.json"
    jobs.write_text(json.dumps({"plan": {"threads": 1}, "jobs": []}))
    before.write_text("a table")
    for path in (before, out):
        with pytest.raises(KeyboardInterrupt):
            timing.main([str(jobs), "-o", str(path)])
    assert before.read_text() == "a table"
    assert not out.exists()


def test_a_script_makes_no_table_here(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", str(checkpoint), "--script", str(tmp_path / "dev"), "-o", str(tmp_path / "foo.json")]) == 2
    assert "--script and --out are given" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_reports_what_was_predicted(
    table: LatencyTable, checkpoint: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profiling.write_table(table, tmp_path / "edge.json")
    fast = ["--data", str(images), "--noise", "gaussian:25", "--refine-evals", "0", "--size", str(SIDE), "--quiet"]
    target = ["--speedup", "1.5", "--latency-table", str(tmp_path / "edge.json"), "--align", "4", "--min-speedup", "0.01"]
    assert main(["prune", str(checkpoint), "-o", str(tmp_path / "o"), *fast, *target]) == 0
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    predicted = report["latency"]["predicted"]
    assert predicted["dense_ms"] / predicted["slim_ms"] >= 1.5
    assert report["search"]["budget"] == "latency"
    assert "--speedup 1.5" in report["command"]
    text = (tmp_path / "o" / "report.md").read_text()
    assert "Predicted by the latency table (none)" in text
    assert re.search(
        r"predicted to be \d\.\d\d times as fast on the latency table's device, .* on this machine", text.splitlines()[2]
    )
    assert predicted["elsewhere"]
    assert [note for note in report["notes"] if note.startswith("--min-speedup 0.01 judges this machine")]
    assert main(["prune", str(checkpoint), "-o", str(tmp_path / "p"), *fast[:-1], "--latency-table", str(tmp_path)]) == 2
    assert "the budget is filters" in capsys.readouterr().err

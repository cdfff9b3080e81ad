"""Pictures: what is drawn are the report's numbers, the same report is the same file, and names stay names."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from test_reports import example

from qcompress.cli.main import main
from qcompress.errors import InputError, UsageError
from qcompress.plots import drawing, requirement
from qcompress.plots.capacity import capacity_search
from qcompress.plots.channels import channels
from qcompress.plots.convergence import climbed, convergence
from qcompress.plots.rows import Row, of_mapping, of_reports
from qcompress.plots.sparsity import against_sparsity, other_images, spread
from qcompress.plots.style import layer_name, render, shown
from qcompress.plots.surrogate import surrogate, trials
from qcompress.plots.table import CAPTIONS
from qcompress.reports import GroupUnits, Report, read, to_json

REFINE: dict[str, Any] = {
    "evaluations": 60.0,
    "accepted": 2,
    "gain": 0.5,
    "metric": "psnr",
    "unit": "dB",
    "higher_is_better": True,
    "history": [[1.0, 29.0], [20.5, 29.25], [57.5, 29.5]],
    "measured": [[-12.0, 29.0], [-11.5, 28.5], [-11.75, 29.25], [-11.0, 29.5]],
    "steps": [[0.5, -0.5], [0.25, 0.25], [0.75, 0.25], [1.5, -2.0]],
    "rank_correlation": -0.6,
    "step_correlation": 0.25,
}
TRACE = [{"gamma": 0.5, "capacity": 20, "energy": -13.5}, {"gamma": 0.75, "capacity": 26, "energy": -12.0}]
HOSTILE = ("$x^2$ $\\frac{", "_hidden", "a\nb\x1b[31m\u202egnp", "层.卷积 \U0001f600", "x" * 500, "<img src=x>&amp;--><script>")


def full(**changes: Any) -> Report:
    search = example().search.model_dump() | {"trace": TRACE, "asked": 24, "lower_bound": -14.0, "budget": "filters"}
    return example(**{"refine": REFINE, "search": search} | changes)


def run(objective: str, pruned: int, seed: int, artifact: float, dense: float = 31.25, **refine: Any) -> Report:
    facts = json.loads(to_json(full(seed=seed)))
    facts["search"]["objective"] = objective
    facts["units"]["pruned"] = pruned
    facts["metric"] |= {"dense": dense, "artifact": artifact}
    facts["refine"] |= refine
    return Report.model_validate(facts)


def labels_of(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_bars_are_the_counts_of_the_report() -> None:
    (ax,) = channels(full().units.per_group).axes
    dense, kept = ax.containers
    assert [bar.get_width() for bar in dense] == [16, 16, 16]
    assert [bar.get_width() for bar in kept] == [15, 1, 8]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["enc.0.0", "enc.1.0", "dec.0"]
    assert [text.get_text() for text in ax.texts] == ["15 of 16, −6 %", "1 of 16, −94 %", "8 of 16, −50 %"]
    assert ax.yaxis_inverted()  # model order from top to bottom


@pytest.mark.parametrize(("groups", "columns", "named"), [(1, 1, 1), (5, 1, 5), (60, 2, 60), (140, 3, 140), (400, 3, 134)])
def test_any_number_of_groups_is_readable(groups: int, columns: int, named: int) -> None:
    names = {f"encoder.layers.{k}.residual_group.attention.proj": GroupUnits(total=64, pruned=k % 64) for k in range(groups)}
    figure = channels(names)
    figure.draw_without_rendering()
    assert len(figure.axes) == columns
    shown_names = [label for ax in figure.axes for label in ax.get_yticklabels()]
    assert len({label.get_text() for label in shown_names}) == named
    for ax in figure.axes:
        boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
        assert all(upper.y0 >= lower.y1 - 1 for upper, lower in itertools.pairwise(boxes))
        assert all(box.x0 >= 0 for box in boxes)
        assert all(text.get_window_extent().x1 <= figure.bbox.x1 for text in ax.texts)
        assert ax.get_window_extent().width > 60
    assert figure.get_figheight() < 10
    bars = [bar.get_width() for ax in figure.axes for bar in ax.containers[1]]
    assert bars == [64 - k % 64 for k in range(groups)]


def test_layers_are_told_apart_where_names_are_too_long() -> None:
    names = [f"encoder.layers.{k}.residual_group.blocks.{j}.attn.proj" for k in range(12) for j in range(6)]
    assert len({layer_name(name, 26) for name in names}) == len(names)
    assert all(len(layer_name(name, 26)) <= 26 for name in (*names, *HOSTILE, "a." * 300))


def test_the_climb_is_the_history_and_goes_on_to_the_end() -> None:
    (ax,) = convergence([full()]).axes
    step, points = ax.lines
    assert np.column_stack(step.get_data()).tolist() == [[1.0, 29.0], [20.5, 29.25], [57.5, 29.5], [60.0, 29.5]]
    assert np.column_stack(points.get_data()).tolist() == REFINE["history"]
    assert ax.get_ylabel() == "best PSNR so far, dB"


def test_a_metric_that_is_better_lower_has_its_own_sign() -> None:
    refine = REFINE | {"higher_is_better": False, "metric": "cross entropy", "unit": "nats", "history": [[1, -0.5], [9, -0.25]]}
    report = example(refine=refine | {"evaluations": 9})
    assert climbed(report) == [(1.0, 0.5), (9.0, 0.25)]
    assert convergence([report]).axes[0].get_ylabel() == "best cross entropy so far, nats"


def test_points_are_energy_and_loss_and_the_correlations_are_the_reports() -> None:
    left, right = surrogate(full()).axes
    (cloud,) = [found for found in left.collections if isinstance(found, PathCollection)]
    assert np.asarray(cloud.get_offsets()).tolist() == [[0.5, 0.5], [0.25, -0.25], [0.75, -0.25], [1.5, 2.0]]
    climb, start = (np.asarray(found.get_offsets()).tolist() for found in right.collections)
    assert climb == [[-12.0, 0.0], [-11.5, 0.5], [-11.75, -0.25], [-11.0, -0.5]]
    assert start == [[-12.0, 0.0]]
    assert left.get_title(loc="left") == "4 candidates, rank correlation 0.25"
    assert right.get_title(loc="left") == "4 on every image, rank correlation −0.60"
    assert left.get_ylabel() == "PSNR lost against the best before, dB"


def test_the_capacity_search_is_its_trace() -> None:
    above, below = capacity_search(full()).axes
    assert np.column_stack(above.lines[1].get_data()).tolist() == [[0.5, 20], [0.75, 26]]
    assert np.column_stack(below.lines[1].get_data()).tolist() == [[0.5, -13.5], [0.75, -12.0]]
    levels = {float(np.asarray(line.get_ydata())[0]) for line in (*above.lines[2:], *below.lines[2:])}
    assert levels == {24.0, -12.34568, -14.0}


def test_what_a_report_has_no_numbers_for_is_not_drawn() -> None:
    assert [picture.name for picture in drawing.draw([full()])] == ["channels", "convergence", "surrogate", "capacity"]
    units = {"total": 0, "pruned": 0, "per_group": {}}
    assert drawing.draw([example(refine=None, units=units)]) == []
    trace = [{"gamma": None, "capacity": 3, "energy": 1.0}, {"gamma": 1.0, "capacity": True, "energy": 1.0}, {"step": "x"}]
    search = example().search.model_dump() | {"trace": trace}
    measured = {"measured": [[None, 1.0]] * 5, "steps": [[1.0, None]] * 5, "history": [[1.0, None]], "step_correlation": None}
    poor = example(search=search, refine=REFINE | measured)
    assert [picture.name for picture in drawing.draw([poor])] == ["channels"]


def test_a_report_of_before_still_gives_its_pictures(tmp_path: Path) -> None:
    old = json.loads(to_json(example()))
    for field in ("measured", "steps", "rank_correlation", "step_correlation", "higher_is_better", "metric", "unit", "gain"):
        del old["refine"][field]
    (tmp_path / "report.json").write_text(json.dumps(old))
    report = read(tmp_path / "report.json")
    assert [picture.name for picture in drawing.draw([report])] == ["channels", "convergence"]
    assert trials(report) == []


def test_several_reports_are_compared() -> None:
    reports = [
        run("Hybrid(alpha=1.0)", 24, 0, 30.0),
        run("Hybrid(alpha=1.0)", 24, 1, 31.0, history=[[1.0, 28.0], [9.0, 28.5]]),
        run("Hybrid(alpha=1.0)", 12, 0, 31.125),
        run("Taylor()", 24, 0, 29.0),
    ]
    assert [picture.name for picture in drawing.draw(reports)] == ["convergence", "sparsity"]
    climbs = convergence(reports)
    assert [ax.get_title(loc="left") for ax in climbs.axes] == [
        "denoiser_v2.pt, 50 % removed",
        "denoiser_v2.pt, 25 % removed",
    ]
    assert labels_of(climbs) == ["Hybrid", "Taylor"]
    half = climbs.axes[0].lines[::2]
    assert len(half) == 3
    assert half[0].get_color() == half[1].get_color() != half[2].get_color()  # a seed has no colour of its own

    figure = against_sparsity(of_reports(reports))
    (ax,) = figure.axes
    assert labels_of(figure) == ["dense", "Hybrid", "Taylor"]
    dense, hybrid, taylor = ax.lines
    assert np.column_stack(hybrid.get_data()).tolist() == [[25.0, 31.125], [50.0, 30.5]]
    assert np.column_stack(taylor.get_data()).tolist() == [[50.0, 29.0]]
    assert float(np.asarray(dense.get_ydata())[0]) == 31.25


def test_objectives_that_differ_in_their_coefficients_are_named_in_full() -> None:
    rows = of_reports([run("Hybrid(alpha=1.0)", 24, 0, 30.0), run("Hybrid(alpha=2.0)", 24, 0, 30.0)])
    assert [row.objective for row in rows] == ["Hybrid(alpha=1.0)", "Hybrid(alpha=2.0)"]


CELL = {
    "network": "half-unet", "objective": "hybrid", "sparsity": 0.5, "align": 16, "seed": 0,
    "dense": 34.0, "cut": 27.0, "repaired": 32.0, "seconds": 3.0, "evaluations": 200,
}  # fmt: skip


def test_rows_of_a_benchmark_give_medians_and_ranges() -> None:
    cells = [CELL | {"seed": seed, "dense": 34.0 + seed, "repaired": value} for seed, value in enumerate((32.0, 33.5, 34.0))]
    rows = [of_mapping(cell) for cell in [*cells, CELL | {"sparsity": 0.25, "repaired": 33.0}]]
    assert spread(rows) == {0.25: (33.0, 33.0, 33.0), 0.5: (33.5, 32.0, 34.0)}
    assert spread(rows, to_dense=True) == {0.25: (-1.0, -1.0, -1.0), 0.5: (-2.0, -2.0, -1.5)}
    assert spread(rows, "cut")[0.5] == (27.0, 27.0, 27.0)
    assert other_images(rows)
    assert not other_images(rows[:1])
    figure = against_sparsity([*rows, of_mapping(CELL | {"network": "dncnn", "unit": "%", "metric": "top1"})], to_dense=True)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["half-unet, align 16", "dncnn, align 16"]
    assert [ax.get_ylabel() for ax in figure.axes] == ["change of PSNR, dB", "change of top-1 accuracy, points"]


@pytest.mark.parametrize("values", [{}, CELL | {"dense": "34"}, CELL | {"sparsity": True}, CELL | {"align": None}])
def test_other_mappings_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(InputError):
        of_mapping(values)


def test_a_value_that_is_missing_leaves_a_gap() -> None:
    rows = [of_mapping(CELL | {"repaired": value}) for value in (float("nan"), 32.0)]
    assert spread(rows) == {0.5: (32.0, 32.0, 32.0)}
    assert spread(rows[:1]) == {}
    render(against_sparsity(rows[:1]))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_names(name: str) -> None:
    label = shown(name)
    assert label.isprintable()
    assert len(label) <= 41
    reports = [run(f"{name}(1)", 24, 0, 30.0), run("Taylor()", 12, 0, 30.0)]
    for report in reports:
        report.units.per_group[name] = GroupUnits(total=4, pruned=1)
    file = [report.model_copy(update={"checkpoint": report.checkpoint.model_copy(update={"file": name})}) for report in reports]
    for picture in (*drawing.draw(reports[:1]), *drawing.draw(file)):
        data = render(picture.figure)
        assert {element.tag.rpartition("}")[2] for element in ET.fromstring(data).iter()}.isdisjoint({"script", "image", "a"})
        assert render(picture.figure, "png").startswith(b"\x89PNG")
    (ax,) = channels(reports[0].units.per_group).axes
    assert layer_name(name, 48) in [label.get_text() for label in ax.get_yticklabels()]


@pytest.mark.parametrize(("total", "pruned"), [(0, 0), (2, 5), (-1, 0), (10**400, 1), (4, -1)])
def test_counts_that_no_network_has_are_refused(
    total: int, pruned: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    units = {"total": 48, "pruned": 24, "per_group": {"a\nb": {"total": total, "pruned": pruned}}}
    (tmp_path / "report.json").write_text(to_json(full(units=units)))
    assert main(["plots", str(tmp_path)]) == 3
    assert "the counts of its group a\\nb" in capsys.readouterr().err


def test_too_many_groups_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups = {str(number): {"total": 4, "pruned": 1} for number in range(2001)}
    (tmp_path / "report.json").write_text(to_json(full(units={"total": 8004, "pruned": 2001, "per_group": groups})))
    assert main(["plots", str(tmp_path)]) == 3
    assert "2001 groups" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["svg", "png"])
def test_the_same_report_is_the_same_file(form: Any) -> None:
    one, two = ([render(picture.figure, form) for picture in drawing.draw([full()])] for _ in range(2))
    assert one == two
    assert not any(re.search(rb"dc:date|20\d\d-\d\d-\d\d", data) for data in one)


@pytest.mark.slow
def test_the_same_file_in_another_process_and_with_other_settings_of_matplotlib(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(to_json(full()))
    (tmp_path / "matplotlibrc").write_text("font.size: 30\naxes.grid: False\nsavefig.dpi: 30\n")
    assert main(["plots", str(tmp_path / "report.json"), "--out", str(tmp_path / "here")]) == 0
    code = "import sys; from qcompress.cli.main import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["plots", "report.json", "--out", "there"]
    subprocess.run([sys.executable, "-c", code, *arguments], cwd=tmp_path, check=True, timeout=120)
    here, there = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("here", "there"))
    assert here == there
    assert len(here) == 4


def test_settings_of_matplotlib_stay_as_they_were() -> None:
    with matplotlib.rc_context({"font.size": 21}):
        before = dict(matplotlib.rcParams)
        render(channels(full().units.per_group))
        assert dict(matplotlib.rcParams) == before


def test_pyplot_is_left_alone() -> None:
    code = (
        "import sys; from qcompress.plots import channels, style; from qcompress.reports import GroupUnits;"
        "style.render(channels.channels({'a': GroupUnits(total=3, pruned=1)}), 'png');"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


def test_many_points_stay_a_small_file() -> None:
    rng = np.random.default_rng(0)
    pairs = rng.normal(size=(2000, 2)).tolist()
    data = render(surrogate(example(refine=REFINE | {"measured": pairs, "steps": pairs})))
    assert len(data) < 200_000


def test_plots_of_a_slim_folder_go_into_it_and_into_its_report_md(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.json").write_text(to_json(full()))
    assert main(["plots", str(tmp_path), "--format", "png", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)["pictures"]
    assert [Path(path).name for path in written] == ["channels.png", "convergence.png", "surrogate.png", "capacity.png"]
    text = (tmp_path / "report.md").read_text()
    for name in ("channels", "convergence", "surrogate", "capacity"):
        assert f"](plots/{name}.png)\n\n{CAPTIONS[name]}" in text
    (tmp_path / "report.json").write_text(to_json(example(refine=None)))
    assert main(["plots", str(tmp_path)]) == 0
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["channels.svg"]  # those of another network are gone
    assert "convergence" not in (tmp_path / "report.md").read_text()


def test_plots_of_a_report_file_touch_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, objective in (("a", "Hybrid()"), ("b", "Taylor()")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(to_json(run(objective, 24, 0, 30.0)))
    assert main(["plots", "a/report.json"]) == 0
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"report.json", "plots"}
    assert main(["plots", "a", "b/report.json"]) == 0
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"convergence.svg", "sparsity.svg"}
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"report.json"}


def test_nothing_to_draw_and_no_report_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plots", str(tmp_path)]) == 3
    assert "report.json: cannot be read" in capsys.readouterr().err
    units = {"total": 0, "pruned": 0, "per_group": {}}
    (tmp_path / "report.json").write_text(to_json(example(refine=None, units=units)))
    assert main(["plots", str(tmp_path)]) == 3
    assert "nothing to draw" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"report.json"}


STRANGE = st.one_of(st.floats(), st.integers(), st.sampled_from([10**400, -(10**25), None, True, "text"]))


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_report_of_a_stranger_is_drawn_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    report = json.loads(to_json(full()))
    holders: list[Any] = [
        *report["units"]["per_group"].values(), *report["refine"]["steps"], *report["refine"]["measured"],
        *report["refine"]["history"], *report["search"]["trace"], report["search"], report["units"], report["metric"],
    ]  # fmt: skip
    for holder in data.draw(st.lists(st.sampled_from(holders), min_size=1, max_size=3)):
        keys = list(range(len(holder))) if isinstance(holder, list) else list(holder)
        holder[data.draw(st.sampled_from(keys))] = data.draw(STRANGE)
    (tmp_path / "report.json").write_text(json.dumps(report))
    path, out = str(tmp_path / "report.json"), str(tmp_path / "plots")
    assert main(["plots", path, "--out", out]) in (0, 3)
    assert main(["plots", path, path, "--out", out]) in (0, 3)


def test_without_matplotlib_it_says_so_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match="matplotlib"):
        requirement.require()
    absent = str(tmp_path / "absent")
    for arguments in (["prune", absent, "--plots"], ["apply", absent, absent, "--plots"], ["plots", absent]):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert "matplotlib" in error
        assert requirement.INSTALL in error


def test_matplotlib_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, qcompress.pipeline, qcompress.plots.rows; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


@pytest.mark.slow
def test_prune_with_plots(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "net.slim"
    quick = ["--data", str(images), "--refine-evals", "6", "--size", "32", "--recover", "none", "--quiet"]
    quick += ["--noise", "gaussian:25", "--out", str(out)]
    assert main(["prune", str(checkpoint), "--backend", "neal", "--align", "1", *quick, "--plots"]) == 0
    drawn = {path.name: path.read_bytes() for path in (out / "plots").iterdir()}
    assert set(drawn) == {"channels.svg", "convergence.svg", "surrogate.svg", "capacity.svg"}
    report = read(out / "report.json")
    assert report.refine is not None
    assert len(report.refine.measured) > 2
    assert report.command is not None
    assert report.command.endswith("--plots")
    text = (out / "report.md").read_text()
    assert "](plots/channels.svg)" in text
    assert "rank correlation" in text
    assert main(["plots", str(out)]) == 0  # from report.json alone: the same pictures and the same text
    assert {path.name: path.read_bytes() for path in (out / "plots").iterdir()} == drawn
    assert (out / "report.md").read_text() == text
    assert main(["prune", str(checkpoint), *quick]) == 0
    assert not (out / "plots").exists()  # they were of the network before


def test_rows_are_values() -> None:
    assert of_mapping(CELL) == Row("half-unet", "hybrid", 0.5, 16, 0, 34.0, 27.0, 32.0)


def test_result_files_of_a_benchmark_become_a_picture(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "one.json").write_text(json.dumps(CELL))
    (tmp_path / "cells" / "more.json").write_text(json.dumps([CELL | {"sparsity": 0.25}, CELL | {"seed": 1}]))
    script = Path(__file__).parent.parent / "benchmarks" / "plots.py"
    arguments = [str(tmp_path / "cells"), "--to-dense", "--out", str(tmp_path / "out")]
    subprocess.run([sys.executable, str(script), *arguments], check=True, capture_output=True, timeout=120)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["sparsity.svg"]
    (tmp_path / "cells" / "bad.json").write_text("[3]")
    bad = subprocess.run([sys.executable, str(script), *arguments], check=False, capture_output=True, text=True, timeout=120)
    assert bad.returncode != 0
    assert "bad.json: not a result" in bad.stderr

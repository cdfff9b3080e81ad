"""Schema of report.json, and report.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcompress.errors import InputError
from qcompress.markdown import headline, summary_rows, to_markdown
from qcompress.markdown_text import code_block, escape
from qcompress.reports import CostPair, LatencyFacts, Report, read, to_json

GOLDEN = Path(__file__).parent / "goldens" / "report.md"
NAN, INF = float("nan"), float("inf")


def example(**changes: Any) -> Report:
    facts: dict[str, Any] = {
        "status": "threshold-missed",
        "reasons": ["PSNR drops by 0.31 dB, more than the 0.30 dB allowed (--max-drop)"],
        "notes": ["height and width must be multiples of 4"],
        "checkpoint": {"file": "denoiser_v2.pt", "sha256": "ab" * 32, "architecture": "half-unet"},
        "units": {
            "total": 48,
            "pruned": 24,
            "per_group": {
                "enc.0.0": {"total": 16, "pruned": 1},
                "enc.1.0": {"total": 16, "pruned": 15},
                "dec.0": {"total": 16, "pruned": 8},
            },
        },
        "kept_whole": [{"layer": "out", "reason": "its channels are the network's output"}],
        "cost": {
            "params": {"dense": 208_035, "slim": 54_321},
            "macs": {"dense": 1_000_000, "slim": 333_333},
            "aligned_macs": {"dense": 1_048_576, "slim": 360_448, "block": 16},
            "bytes": {"dense": 840_000, "slim": 230_000},
        },
        "metric": {
            "name": "psnr",
            "unit": "dB",
            "images": 2,
            "noisy": 20.2,
            "dense": 31.25,
            "selected": 29.0,
            "refined": 29.5,
            "slim": 30.94,
            "artifact": 30.94,
            "ssim": {"dense": 0.9, "slim": 0.88, "artifact": 0.88},
            "per_image": {"names": ["a", "b"], "dense": [31.0, 31.5], "slim": [30.9, 30.98], "artifact": [30.9, INF]},
        },
        "latency": {
            "dense_ms": 17.1,
            "slim_ms": 9.5,
            "speedup": 1.8,
            "ci95": [1.77, 1.82],
            "runs": 20,
            "threads": 1,
            "noise": [0.99, 1.01],
            "verdict": "faster",
            "input_shape": [1, 3, 256, 256],
        },
        "parity": {"max_abs_diff": 3.1e-7, "rel": 2.9e-7, "gate": 1e-5, "passed": True},
        "search": {
            "backend": "neal",
            "objective": "hybrid",
            "energy": -12.3456789012,
            "greedy_energy": -11.5,
            "trace": [{"gamma": 0.5, "capacity": 24, "energy": NAN}],
        },
        "refine": {"evaluations": 200.25, "accepted": 7, "gain_db": 0.5, "history": [[1.0, 29.0], [57.5, 29.5]]},
        "data": {
            "source": "12 photographs of the package, noise gaussian:25",
            "calibration": {"images": 6, "sha256": "01" * 32},
            "selection": {"images": 3, "sha256": "23" * 32},
            "report": {"images": 2, "scenes": 2, "sha256": "45" * 32},
        },
        "files": {"model.onnx": {"sha256": "cd" * 32, "bytes": 230_000}},
        "command": "qcompress prune denoiser_v2.pt --sparsity 0.5",
        "seed": 0,
        "versions": {"qcompress": "0.1.0", "torch": "2.13.0"},
        "timings_s": {"scores": 3.25, "search": 0.5},
    }
    return Report.model_validate(facts | changes)


def test_markdown_matches_the_golden_file() -> None:
    assert to_markdown(example()) == GOLDEN.read_text(encoding="utf-8")


def test_keys_of_schema_1_are_stable() -> None:
    report = json.loads(to_json(example()))
    assert report["schema"] == 1
    top = {"status", "checkpoint", "units", "cost", "metric", "latency", "parity", "search", "refine", "data", "seed"}
    assert top | {"versions", "timings_s"} <= set(report)
    assert set(report["checkpoint"]) == {"file", "sha256", "architecture"}
    assert set(report["units"]) == {"total", "pruned", "per_group"}
    assert {key: set(value) for key, value in report["cost"].items()} == {
        **{key: {"dense", "slim"} for key in ("params", "macs", "bytes")},
        "aligned_macs": {"dense", "slim", "block"},
    }
    assert {"name", "unit", "images", "dense", "selected", "refined", "slim", "artifact"} <= set(report["metric"])
    assert {"dense_ms", "slim_ms", "speedup", "ci95", "runs", "threads"} <= set(report["latency"])
    assert {"max_abs_diff", "rel"} <= set(report["parity"])
    assert {"backend", "objective", "energy", "trace"} <= set(report["search"])
    assert {"evaluations", "accepted", "gain_db"} <= set(report["refine"])
    of_inputs = {"task", "scale", "size", "mean", "std"}
    assert set(report["data"]) == {"source", "calibration", "selection", "report"} | of_inputs


def test_json_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(to_json(example()), encoding="utf-8")
    assert read(path) == example()
    assert to_json(read(path)) == path.read_text(encoding="utf-8")


def test_nan_and_infinities_become_null_and_floats_are_rounded() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    report = json.loads(to_json(example()), parse_constant=refuse)
    assert report["search"]["trace"] == [{"gamma": 0.5, "capacity": 24, "energy": None}]
    assert report["metric"]["per_image"]["artifact"] == [30.9, None]
    assert report["search"]["energy"] == -12.34568


@given(st.floats())
def test_any_float_survives_a_second_round_trip(value: float) -> None:
    once = json.loads(to_json(example(timings_s={"x": value})))["timings_s"]["x"]
    if once is not None:
        assert once == pytest.approx(value, rel=1e-6)
    assert json.loads(to_json(example(timings_s={"x": once})))["timings_s"]["x"] == once


def test_interrupted_run_has_a_report_without_what_was_not_reached() -> None:
    metric = {"name": "psnr", "unit": "dB", "images": 2, "dense": None}
    cost = {key: {"dense": 10, "slim": None} for key in ("params", "macs", "bytes")}
    report = example(status="interrupted", latency=None, parity=None, refine=None, metric=metric, cost=cost, command=None)
    text = to_markdown(report)
    assert "**Interrupted**" in text
    assert "None" not in text
    assert [row[0] for row in summary_rows(report)] == ["units", "parameters", "MACs per image", "ONNX file, bytes"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "Invalid JSON"),
        ("[]", "the file"),
        ("{}", "Field required"),
        (to_json(example()).replace('"schema": 1', '"schema": 2'), "schema"),
    ],
)
def test_foreign_report_is_one_clear_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="not a report of schema 1") as caught:
        read(path)
    assert says in caught.value.message
    assert "\n" not in caught.value.message


def test_missing_report_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read(tmp_path / "report.json")


def test_unknown_keys_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(json.loads(to_json(example())) | {"extra": 1}), encoding="utf-8")
    with pytest.raises(InputError, match="extra"):
        read(path)


def test_facts_are_read_from_attributes() -> None:
    latency = example().latency
    assert latency is not None
    assert LatencyFacts.model_validate(SimpleNamespace(**dict(latency))) == latency


def test_summary_rows_give_changes() -> None:
    rows = {row[0]: row[1:] for row in summary_rows(example())}
    assert rows["parameters"] == ("208,035", "54,321", "-73.9 %")
    assert rows["units"] == ("48", "24", "-50.0 %")
    assert rows["PSNR"] == ("31.25 dB", "30.94 dB", "-0.31 dB")
    assert rows["SSIM"] == ("0.9000", "0.8800", "-0.0200")
    assert rows["latency"] == ("17.10 ms", "9.50 ms", "1.80 times as fast (1.77 to 1.82)")


def test_no_minus_zero_and_no_speed_claimed_without_evidence() -> None:
    facts = json.loads(to_json(example()))
    facts["metric"]["artifact"] = 31.2499
    facts["latency"] |= {"verdict": "no difference shown", "speedup": 1.01, "ci95": [0.97, 1.05]}
    rows = {row[0]: row[1:] for row in summary_rows(Report.model_validate(facts))}
    assert rows["PSNR"][2] == "0.00 dB"
    assert rows["latency"][2] == "no difference in speed shown (0.97 to 1.05)"


def test_what_energies_were_worth_is_said_where_it_is_known() -> None:
    assert "rank correlation" not in to_markdown(example())
    refine = {"evaluations": 9, "accepted": 1, "steps": [[1.0, -1.0]] * 5, "step_correlation": 0.371}
    assert "of 5 candidates, each less the best before it: rank correlation +0.37 (1:" in to_markdown(example(refine=refine))
    both = refine | {"measured": [[1.0, 30.0]] * 4, "rank_correlation": -0.95}
    assert "of the 4 that were measured on every image, which are the climb itself: -0.95." in to_markdown(example(refine=both))


def test_pictures_are_embedded() -> None:
    text = to_markdown(example(), [("plots/channels.svg", "Units kept.")])
    assert "## Pictures\n\n![](plots/channels.svg)\n\nUnits kept.\n\n## To reproduce" in text


def test_failed_parity_is_in_the_headline() -> None:
    parity = {"max_abs_diff": NAN, "rel": INF, "gate": 1e-5, "passed": False}
    report = example(parity=parity)
    assert "does not compute what PyTorch computes" in headline(report)
    assert "**failed**" in to_markdown(report)


def test_cost_of_nothing_has_no_change() -> None:
    cost = {key: CostPair(dense=0, slim=0) for key in ("params", "macs", "bytes")}
    assert {row[3] for row in summary_rows(example(cost=cost)) if row[0] in ("parameters", "MACs per image")} == {"-"}


HOSTILE = "x\n# y | <img src=x onerror=1> `a` [l](http://e.x) **b** \u202egnp.exe"


def test_hostile_names_stay_text() -> None:
    facts = json.loads(to_json(example()))
    facts["checkpoint"]["file"] = facts["data"]["source"] = facts["command"] = facts["notes"][0] = HOSTILE
    facts["kept_whole"] = [{"layer": HOSTILE, "reason": HOSTILE}]
    facts["units"]["per_group"] = {HOSTILE: {"total": 2, "pruned": 1}}
    clean, text = to_markdown(example()), to_markdown(Report.model_validate(facts))
    outside = text.replace(code_block(HOSTILE), "")
    assert "<" not in outside
    assert "\u202e" not in text
    assert "http://" not in outside
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == [line for line in clean.splitlines() if line.startswith("## ")]
    columns = {line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")}
    assert columns == {line.count("|") for line in clean.splitlines() if line.startswith("|")}


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_escaped_text_has_no_bare_markup(text: str) -> None:
    escaped = escape(text)
    assert escaped.isprintable()
    bare = escaped.replace("\\\\", "")
    for mark in "`*_[]|~":
        assert bare.count(mark) == bare.count("\\" + mark)
    assert "<" not in escaped and ">" not in escaped


@given(st.text("`\na"))
def test_code_block_cannot_be_left(text: str) -> None:
    first, middle, last = code_block(text).splitlines()
    assert first == last
    assert first not in middle


def test_reports_do_without_torch() -> None:
    code = "import sys, qcompress.reports, qcompress.markdown; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""report.html: the numbers of the report, nothing from elsewhere, names that stay names; in a browser where there is one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import flat_png
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_gate import changed
from test_plots import REFINE, TRACE
from test_reports import example

from qcompress.cli.main import main
from qcompress.html import redraw, to_html
from qcompress.html.charts import climb, images, latency
from qcompress.html.graph import graph
from qcompress.html.numbers import axis
from qcompress.html.pictures import cut
from qcompress.reports import CropFacts, LayerFacts, Report, to_json

HOSTILE = "\"><script>window.bad=1</script><img src=x onerror='window.bad=1'>\x1b[31m\u202e{{ 7*7 }}{% raw %}' onload=\"bad()"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CROPS = {
    "side": 16,
    "columns": ["input", "dense", "slim", "target", "difference"],
    "rows": [{"name": "a", "top": 0, "left": 8, "dense": 31.0, "artifact": 30.9}],
    "brightest": 0.05,
}
LAYERS = [
    {"name": "a", "kind": "conv", "inputs": 3, "kept_inputs": 3, "outputs": 16, "kept_outputs": 8, "writes": ["a"]},
    {"name": "n", "kind": "batchnorm", "inputs": 16, "kept_inputs": 8, "outputs": 16, "kept_outputs": 8, "writes": ["a"]},
    {
        "name": "b",
        "kind": "conv",
        "inputs": 16,
        "kept_inputs": 8,
        "outputs": 32,
        "kept_outputs": 32,
        "reads": ["a"],
        "writes": ["b"],
    },
    {"name": "c", "kind": "conv", "inputs": 48, "kept_inputs": 40, "outputs": 3, "kept_outputs": 3, "reads": ["a", "b"]},
]


class Seen(HTMLParser):
    """What a page holds: its tags with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile() -> Report:
    """A report whose every text is an attack."""

    def poisoned(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            named = key in ("per_group", "versions", "files", "timings_s")
            return {(HOSTILE + name if named else name): poisoned(part, name) for name, part in value.items()}
        if isinstance(value, list):
            return [poisoned(part, key) for part in value]
        kept = ("status", "name", "unit", "clock", "verdict", "task", "ended", "metric", "columns", "kind")
        return HOSTILE + value if isinstance(value, str) and key not in kept else value

    return Report.model_validate(poisoned(json.loads(to_json(full()))))


def full(**parts: Any) -> Report:
    search = {"trace": TRACE, "asked": 24, "capacity": 24, "budget": "filters", "lower_bound": -14.0, "relative_gap": 0.1}
    return changed(example(layers=LAYERS, crops=CROPS, refine=REFINE), **({"search": search} | parts))


def sheet(folder: Path, crops: dict[str, Any]) -> dict[str, Any]:
    """Writes a sheet of crops; returns the facts of its file."""
    shape = (crops["side"] * len(crops["rows"]), crops["side"] * len(crops["columns"]), 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "crops.png")
    data = (folder / "crops.png").read_bytes()
    return {"crops.png": {"sha256": sha256(data).hexdigest(), "bytes": len(data)}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A slim folder with a report and its crops."""
    report = changed(full(), files=sheet(tmp_path, CROPS))
    (tmp_path / "report.json").write_text(to_json(report), encoding="utf-8")
    return tmp_path


def test_the_page_is_drawn_from_the_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder)]) == 0
    assert "report.html" in capsys.readouterr().out
    page = (folder / "report.html").read_text(encoding="utf-8")
    seen = Seen(page)
    pictures = [attributes["src"] or "" for tag, attributes in seen.tags if tag == "img"]
    assert len(pictures) == 5
    assert all(picture.startswith("data:image/png;base64,") for picture in pictures)
    for said in (
        "A limit was missed",
        "31.25 dB",
        "30.94 dB",
        "1.80×",
        "1.77 to 1.82",
        "its channels are the network's output",
    ):
        assert said in seen.text, said
    assert seen.text.index("A limit was missed") < seen.text.index("Channels kept") < seen.text.index("To reproduce")
    assert redraw(folder).read_text(encoding="utf-8") == page


def test_the_page_loads_nothing() -> None:
    for report in (full(), hostile()):
        page = to_html(report)
        assert not re.findall(r"https?:|//[a-z]+\.|@import|url\(", page.replace("http://www.w3.org/2000/svg", ""))
        (policy,) = [a["content"] for tag, a in Seen(page).tags if tag == "meta" and a.get("http-equiv")]
        assert policy is not None
        assert policy.startswith("default-src 'none'; img-src data:;")
        assert "unsafe-inline" not in policy.partition("script-src")[2]


def test_hostile_texts_stay_texts() -> None:
    plain, poisoned = Seen(to_html(full())), Seen(to_html(hostile()))
    assert [tag for tag, _ in poisoned.tags] == [tag for tag, _ in plain.tags]
    assert [sorted(attributes) for _, attributes in poisoned.tags] == [sorted(attributes) for _, attributes in plain.tags]
    assert "window.bad=1" in poisoned.text
    assert "{{ 7*7 }}" in poisoned.text
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", to_html(hostile()))


def test_a_sheet_that_is_not_the_reports_is_left_out(folder: Path) -> None:
    Image.new("RGB", (80, 16)).save(folder / "crops.png")
    page = redraw(folder).read_text(encoding="utf-8")
    assert "<img" not in page
    assert "crops.png is missing" in page
    report = full()
    for data in (b"", b"\x89PNG\r\n\x1a\n", flat_png(10_000), flat_png(20_000), (folder / "crops.png").read_bytes()[:60]):
        assert cut(report, data) == ()
    small = folder / "small.png"
    Image.new("RGB", (16, 16)).save(small)
    assert cut(report, small.read_bytes()) == ()


def test_lines_of_the_network_join_who_writes_and_who_reads() -> None:
    drawn = graph(full())
    assert drawn is not None
    assert [row.name for row in drawn.rows] == ["a", "b", "c"]  # norms only hand channels on
    assert [(row.dense, row.kept, row.text) for row in drawn.rows] == [
        (50.0, 25.0, "8 of 16"),
        (100.0, 100.0, "32"),
        (9.38, 9.38, "3"),
    ]
    lines = {line.name: line for line in drawn.lines}
    assert (lines["a"].first, lines["a"].last, lines["b"].first, lines["b"].last) == (0, 2, 1, 2)
    assert [(dot.row, dot.writes) for dot in lines["a"].dots] == [(0, True), (1, False), (2, False)]
    assert lines["a"].lane != lines["b"].lane
    older = graph(changed(full(), metric={}).model_copy(update={"layers": ()}))
    assert older is not None
    assert [row.text for row in older.rows] == ["15 of 16", "1 of 16", "8 of 16"]


def test_charts_are_the_numbers_of_the_report() -> None:
    speed = latency(full().latency)
    assert speed is not None
    assert speed.rows[0].low < (speed.rows[0].middle or 0) < speed.rows[0].high
    assert speed.one < speed.rows[0].low
    each = images(full().metric)
    assert each is not None
    assert [row.name for row in each.rows] == ["a"]  # the other one is infinite
    curve = climb(full())
    assert curve is not None
    heights = [y for _, y in curve.points]
    assert heights == sorted(heights, reverse=True)  # downwards on the page is less


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True) | st.none() | st.integers(), max_size=6))
def test_an_axis_holds_whatever_can_be_drawn(values: list[float | None]) -> None:
    found = axis(values)
    if found is not None:
        assert found.low < found.high
        assert len(found.ticks) <= 12
        places = [place for place, _ in found.ticks]
        assert places == sorted(places)


@given(st.builds(lambda number: number, st.floats()))
def test_any_number_can_be_shown(value: float) -> None:
    facts = json.loads(to_json(full()))
    facts["latency"] |= {"speedup": value, "ci95": [value, value], "noise": [value, 1.0], "dense_ms": value}
    facts["metric"] |= {"dense": value, "artifact": value}
    facts["search"] |= {"energy": value, "relative_gap": value}
    facts["crops"]["brightest"] = value
    assert "<h2>" in to_html(Report.model_validate(facts))


def test_facts_are_bounded() -> None:
    with pytest.raises(ValueError, match="at most 8"):
        full(crops={"rows": [CropFacts(name="a", top=0, left=0, dense=None, artifact=None).model_dump()] * 9})
    layer = LayerFacts(name="x", kind="conv", inputs=1, kept_inputs=1, outputs=10**9, kept_outputs=1, writes=("x",))
    many = full().model_copy(update={"layers": (layer,) * 1000})
    drawn = graph(many)
    assert drawn is not None
    assert (len(drawn.rows), drawn.left_out) == (400, 600)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_runs_the_slider_and_nothing_else(folder: Path) -> None:
    report = changed(hostile(), files=sheet(folder, CROPS))
    (folder / "report.json").write_text(to_json(report), encoding="utf-8")
    redraw(folder)
    assert CHROMIUM is not None
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    page = (folder / "report.html").as_uri()
    done = subprocess.run([CHROMIUM, *options, page], capture_output=True, text=True, timeout=120, check=True)
    seen = Seen(done.stdout)
    sliders = [attributes for tag, attributes in seen.tags if tag == "input"]
    assert [slider["type"] for slider in sliders] == ["range"]
    assert [tag for tag, _ in seen.tags].count("script") == 1
    assert not any(attribute.startswith("on") for _, attributes in seen.tags for attribute in attributes)

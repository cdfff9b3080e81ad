"""report.html of a compression and of a classifier: widths and bytes of layers, and the images that got another class."""

from __future__ import annotations

from typing import Any

import pytest
from test_gate import changed
from test_html import HOSTILE, Seen, full, sheet

from qcompress.html import to_html
from qcompress.html.classes import cards, changes
from qcompress.html.compression import compression
from qcompress.html.graph import graph
from qcompress.html.pictures import cut
from qcompress.reports import Report

LAYERS: list[dict[str, Any]] = [
    {"layer": "a", "width": "int8", "bytes": 100_000, "integer": True, "loss": 0.25},
    {"layer": "b", "width": "int4", "bytes": 50_000, "integer": False, "loss": 0.0125},
    {"layer": "c", "width": "float32", "bytes": 20_000, "integer": False, "loss": 0.0},
]
JOINT: dict[str, Any] = {
    "target": 200_000,
    "size": 180_000,
    "bits": ["float32", "int8", "int4"],
    "layers": LAYERS,
    "calibration": "minmax",
    "steps": ["to nearest: 33.1 dB", "in sequence: 33.4 dB"],
    "simulation_db": 51.04,
    "pruning_loss": 0.1,
    "width_loss": 0.4,
    "greedy_loss": 0.6,
    "lower_bound": 0.45,
    "int8": "int8 should be fast",
}
CATS: dict[str, Any] = {
    "side": 16,
    "columns": ["input"],
    "rows": [
        {
            "name": f"cat/{place}.png",
            "top": 0,
            "left": 0,
            "dense": before,
            "artifact": after,
            "label": "cat",
            "classes": [{"name": "cat", "dense": p, "slim": 1 - p}, {"name": "dog", "dense": 1 - p, "slim": p}],
        }
        for place, (before, after, p) in enumerate([(100.0, 0.0, 0.75), (0.0, 100.0, 0.25)])
    ],
    "changed": 2,
}


def joint(**parts: Any) -> Report:
    return add(full(), "compression", JOINT | parts)


def add(report: Report, name: str, facts: dict[str, Any]) -> Report:
    return Report.model_validate(report.model_dump(by_alias=True) | {name: facts})


def classifier(**crops: Any) -> Report:
    each = {"names": ["p", "q", "r"], "dense": [100, 0, 100], "slim": [0, 100, 100], "artifact": [0, 100, 100]}
    metric = {"name": "top1", "unit": "%", "images": 3, "per_image": each}
    return changed(full(), metric=metric, crops={"brightest": None} | CATS | crops)


def test_the_file_is_drawn_by_widths() -> None:
    found = compression(joint())
    assert found is not None
    assert [(part.kind, part.layers, part.start, part.length) for part in found.parts] == [
        ("float32", 1, 0.0, 10.0),
        ("int8", 1, 10.0, 50.0),
        ("int4", 1, 60.0, 25.0),
        ("rest", 0, 85.0, 5.0),
    ]
    assert (found.target, found.reached, found.computing) == (100.0, "180 kB", "1 of 3 layers compute in integers")
    assert [(row.width, row.computed, row.length, row.loss) for row in found.rows] == [
        ("int8", "integers", 100.0, "0.2500"),
        ("int4", "float32", 50.0, "0.0125"),
        ("float32", "float32", 20.0, "0.0000"),
    ]
    assert found.losses is not None
    places = {name: place for name, place, _, _ in found.losses.rows}
    assert places["lower bound"] < places["chosen"] < places["greedy steps"]


def test_widths_are_beside_the_channels_and_on_the_page() -> None:
    drawn = graph(joint())
    assert drawn is not None
    assert [row.width for row in drawn.rows] == ["int8", "int4", "float32"]
    text = " ".join(Seen(to_html(joint())).text.split())
    for said in (
        "180 kB of at most 200 kB asked for",
        "51.0 dB from the same file",
        "in sequence: 33.4 dB",
        "Layers in the file",
    ):
        assert said in text, said
    plain = Seen(to_html(full())).text
    assert "Size of the file" not in plain and "Layers in the file" not in plain


@pytest.mark.parametrize("value", [None, float("nan"), 1e300, -1.0])
def test_a_report_that_says_little_is_drawn(value: float | None) -> None:
    layer = LAYERS[0] | {"integer": None, "loss": value, "bytes": 0}
    report = joint(target=None, size=0, layers=[layer], pruning_loss=value, lower_bound=value, simulation_db=value, steps=[])
    assert "Layers in the file" in to_html(report)
    assert "<h2>" in to_html(joint(layers=[]))
    assert "<h2>" in to_html(joint(layers=[layer] * 1000))


def test_images_that_got_another_class_have_cards(tmp_path: Any) -> None:
    report = classifier()
    sheet(tmp_path, CATS)
    strips = cut(report, (tmp_path / "crops.png").read_bytes())
    drawn = cards(strips)
    assert [(card.label, card.verdict) for card in drawn] == [("cat", "no longer right"), ("cat", "now right")]
    assert [(one.name, one.dense, one.slim, one.right) for one in drawn[0].answers] == [
        ("cat", 75.0, 25.0, True),
        ("dog", 25.0, 75.0, False),
    ]
    said = "2 of 3 report images get another class: 1 that the dense network got right, 1 that the slim one gets right, 0 that"
    assert changes(report).startswith(said)
    page = to_html(report, strips)
    assert page.count("<img") == 2 and page.count('src="data:image/png;base64,') == 2
    assert "accuracy of each image" not in page  # all or nothing
    assert changes(classifier(changed=0)).startswith("All 3 report images get the same class")


def test_hostile_names_of_layers_and_classes_stay_names(tmp_path: Any) -> None:
    sheet(tmp_path, CATS)
    data = (tmp_path / "crops.png").read_bytes()
    rows = [
        row | {"name": HOSTILE, "label": HOSTILE, "classes": [{"name": HOSTILE, "dense": 1, "slim": 0}]} for row in CATS["rows"]
    ]
    poor = [row | {"classes": [{"name": "x", "dense": 1, "slim": 0}]} for row in CATS["rows"]]
    layers = [layer | {"layer": HOSTILE} for layer in LAYERS]

    def page(rows: list[Any], layers: list[Any]) -> str:
        report = add(classifier(rows=rows), "compression", JOINT | {"layers": layers})
        return to_html(report, cut(report, data))

    plain, poisoned = Seen(page(poor, LAYERS)), Seen(page(rows, layers))
    chips = [tag for tag, facts in plain.tags if "chip" in (facts.get("class") or "")]
    assert len(chips) == 6
    assert [tag for tag, _ in poisoned.tags].count("script") == [tag for tag, _ in plain.tags].count("script")
    assert not any(name.startswith("on") for _, facts in poisoned.tags for name in facts)
    assert "window.bad=1" in poisoned.text

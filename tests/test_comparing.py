"""`compare`: each network on each image, which loses the most where, and what the plans keep."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_html import HOSTILE, Seen
from tiny_onnx import write_onnx

from qcompress import latency, plans
from qcompress.cli.main import main
from qcompress.comparing import Comparison, compare
from qcompress.errors import InputError, UsageError
from qcompress.html.compare import Entry, GroupRow, ImageRow, Page, WidthRow, comparison_html
from qcompress.plans import Plan, PlanGroup, Source
from qcompress.settings import DataOptions, Settings, VerifyOptions


def plan(widths: dict[str, str] | None = None, **pruned: tuple[int, ...]) -> Plan:
    return Plan(
        widths=widths or {},
        tool="qcompress",
        checkpoint=Source(file="net.pt", sha256="ab" * 32, architecture="half-unet", arguments={}),
        groups={name: PlanGroup(size=8, pruned=units) for name, units in pruned.items()},
        cuts={},
        example_shape=(1, 3, 32, 32),
        budget="filters",
        sparsity=0.5,
        objective="hybrid",
        backend="profile",
        seed=0,
    )


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two slim folders and a file: shades of 0, 0.1 and 0.2."""
    root = tmp_path_factory.mktemp("networks")
    made = [root / "a.slim", root / "b.slim", root / "c.onnx"]
    of = [plan(x=(0, 1), y=(2,), z=(3,)), plan(x=(0, 2), y=(2,), z=()), None]
    for path, by, known in zip(made, (0.0, 0.1, 0.2), of, strict=True):
        file = path / "model.onnx" if known else path
        write_onnx(file, "Sub", np.array(by, np.float32), ("N", 3, "H", "W"), stride="4")
        if known:
            plans.write(known, path / "plan.json")
    return made


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy and clean images that are the same, of flat colours: a shade of s costs 20 log10 s dB."""
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("noisy", "clean"):
        (folder / name).mkdir()
        for number in range(6):
            pixels = np.full((34, 34, 3), 120 + 20 * number, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def found(networks: list[Path], pictures: Path) -> Comparison:
    settings = Settings(data=DataOptions(pictures), verify=VerifyOptions(size=32, max_seconds=0.2))
    return compare(networks, settings)


def test_metrics_are_those_of_the_networks(found: Comparison) -> None:
    values = [one.found.artifact.mean("psnr") for one in found.contestants]
    assert values[0] == np.inf
    assert values[1:] == pytest.approx([20.0, -20 * np.log10(0.2)], abs=0.01)
    assert [one.units for one in found.contestants] == [(20, 24), (21, 24), None]
    assert found.contestants[0].latency is None
    assert all(one.latency is not None for one in found.contestants[1:])
    assert all(not one.found.notes for one in found.contestants)  # images are multiples of the stride for all of them


def test_structure_is_compared_unit_by_unit(found: Comparison) -> None:
    assert [(row.name, row.kept) for row in found.differing] == [("x", (6, 6, None)), ("z", (7, 8, None))]
    assert found.alike == 1


def test_widths_are_part_of_the_structure(found: Comparison) -> None:
    """Of a float32 network, two compressed ones, a file without a plan, and a compressed network of other groups."""
    plans_of = [
        plan(x=(0,), y=()),
        plan({"a": "int8", "b": "int4", "c": "int8"}, x=(0,), y=()),
        plan({"a": "int8", "b": "int8", "c": "int8"}, x=(0,), y=(1,)),
        None,
        plan({"a": "int4"}, other=(0,)),
    ]
    made = tuple(replace(found.contestants[0], name=str(place), plan=known) for place, known in enumerate(plans_of))
    compared = Comparison(made, found.metrics, found.source)
    assert [row.widths for row in compared.widths] == [
        ("float32", "int8", "int8", None, None),
        ("float32", "int4", "int8", None, None),
        ("float32", "int8", "int8", None, None),
    ]
    assert [one.widths for one in compared.contestants] == ["float32", "2 int8, 1 int4", "3 int8", "", "1 int4"]
    assert compared.as_dict()["networks"][1]["widths"] == {"a": "int8", "b": "int4", "c": "int8"}
    narrow = Comparison(made[1:3], found.metrics, found.source)
    assert ([row.layer for row in narrow.widths], narrow.alike_widths) == (["b"], 2)
    assert narrow.as_dict()["widths"] == {"same": 2, "different": [{"layer": "b", "widths": ["int4", "int8"]}]}
    assert found.widths == ()


def test_the_largest_loss_comes_first(found: Comparison) -> None:
    each = ((40.0, 40.0, 40.0), (30.0, 31.0, 29.0), (39.0, 35.0, 39.5))
    seen = [
        replace(one.found, images=("p", "q", "r"), artifact=replace(one.found.artifact, per_image={"psnr": values}))
        for one, values in zip(found.contestants, each, strict=True)
    ]
    made = tuple(replace(one, found=other) for one, other in zip(found.contestants, seen, strict=True))
    compared = Comparison(made, found.metrics, found.source)
    assert [row.name for row in compared.images] == ["r", "p", "q"]
    assert compared.worst()[0][-1] == "11.000"


def test_the_command(
    networks: list[Path], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, asked = latency.compare, []

    def brief(first: Path, second: Path, *arguments: Any, **options: Any) -> latency.Latency:
        asked.append((first.parent.name, second.name))
        return plain(first, second, *arguments, **(options | {"max_seconds": 0.05}))

    monkeypatch.setattr(latency, "compare", brief)
    page = tmp_path / "page.html"
    arguments = ["compare", *map(str, networks), str(networks[0]), "--data", str(pictures), "--size", "32", "-q"]
    assert main([*arguments, "--html", str(page), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert asked == [("a.slim", "model.onnx"), ("a.slim", "c.onnx")]  # the same file again is not measured
    assert [one["metrics"]["psnr"] is None for one in told["networks"]] == [True, False, False, True]
    assert [group["name"] for group in told["groups"]["different"]] == ["x", "z"]
    assert len(told["images"]) >= 1
    text = Seen(page.read_text(encoding="utf-8")).text
    assert "4 networks compared" in text
    assert "20.00 dB" in text
    assert main(arguments) == 0
    assert "groups that keep other units" in capsys.readouterr().out


def test_what_cannot_be_compared(networks: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected two or more"):
        compare(networks[:1], Settings())
    with pytest.raises(InputError, match=r"without a model\.onnx"):
        compare([networks[0], tmp_path], Settings())


def test_hostile_names_stay_names() -> None:
    def page(name: str) -> str:
        entry = Entry(name, ("1 dB",), 10, (1, 2), name, (1.0, 0.9, 1.1), name, name, (name,))
        rows = (ImageRow(name, (1.0, 2.0)),)
        groups = (GroupRow(name, 8, (1, None), same=False),)
        layers = (WidthRow(name, ("int8", None), same=False),)
        return comparison_html(Page((entry, entry), (("psnr", "dB"),), True, rows, groups, 3, name, layers, 2))

    plain, poisoned = Seen(page("name")), Seen(page(HOSTILE))
    assert [tag for tag, _ in plain.tags] == [tag for tag, _ in poisoned.tags]
    assert "\x1b" not in page(HOSTILE)

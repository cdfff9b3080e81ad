"""What the pages say is done as they say it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import lively
from pages import Block, add_first, add_to_table, blocks, commands, indented_commands

from qcompress.architectures.half_unet import HalfUNet

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
EXTENDING = [f"extend/{name}.md" for name in ("solver", "exporter", "architecture", "objective", "metric")]
DONE = ["tutorial.md", "own-network.md", *EXTENDING]
IMAGES = ["--data", "{images}", "--noise", "gaussian:25", "-q"]
FAST: Mapping[str, list[str]] = {  # what makes a command on a small network quick, and is no part of what pages teach
    "prune": [*IMAGES, "--refine-evals", "0", "--size", "32", "--recover", "none", "--static"],
    "apply": [*IMAGES, "--recover", "none", "--static"],
    "verify": [*IMAGES, "--size", "32"],
    "formulate": [*IMAGES, "--size", "32"],
    "solve": ["-q"],
    "inspect": ["--size", "32"],
    "export": ["--size", "32"],
}
Step = dict[str, Any]


def quick(command: list[str], images: Path) -> list[str]:
    """`command`, on small images; of an option that it has and that is added, the added one counts."""
    added = FAST[command[0]]
    if command[0] == "prune" and "--objective" not in command:
        added = [*added, "--objective", "taylor"]
    return [*command, *(word.format(images=images) for word in added)]


def extended(package: Path, folder: Path, block: Block) -> None:
    """Writes the file that a titled block is, or changes the one that it is to be put into, in a copy of the package."""
    file, _, place = block.title.partition(", ")
    path = package / file
    if place == "at the top":
        add_first(path, block.code)
    elif place.startswith("in "):
        add_to_table(path, place.removeprefix("in "), block.code)
    elif "/" in file:
        assert not path.exists(), f"{file} is there already"
        path.write_text(block.code)
    else:
        (folder / file).write_text(block.code)


def steps(page: str, package: Path, folder: Path, images: Path) -> list[Step]:
    """What a page has to be done, in its order; its files are written at once."""
    found: list[Step] = []
    for block in blocks(DOCS / page):
        if block.title:
            extended(package, folder, block)
        elif block.language == "python":
            found.append({"folder": str(folder), "python": block.code})
        elif block.language == "sh":
            found += [{"folder": str(folder), "command": quick(words, images)} for words in commands(block.code)]
    indented = [{"folder": str(folder), "command": quick(words, images)} for words in indented_commands(DOCS / page)]
    return [*indented, *found] if page == "tutorial.md" else found


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package that pages may change."""
    folder = tmp_path_factory.mktemp("package")
    for name in ("qcompress", "cli", "exporters"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "cli", "exporters"))
    for name in ("cli", "exporters"):
        (folder / "qcompress" / name).symlink_to(folder / name)
    return folder


@pytest.fixture(scope="module")
def came_of(package: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[Step, Step]]]:
    """What came of each step of every page, done in one process with the package that the pages have extended."""
    asked = {}
    torch.manual_seed(0)
    network = {"state_dict": lively(HalfUNet(3, 8, 2, ghost=False)).state_dict()}
    for page in DONE:
        folder = tmp_path_factory.mktemp(page.split("/")[-1].removesuffix(".md"))
        for name in ("model.pt", "reference"):
            torch.save(network, folder / name)
        asked[page] = steps(page, package, folder, images)
    torch.save(mine(DOCS / "own-network.md"), Path(asked["own-network.md"][0]["folder"]) / "mine.pt")
    ran = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("doing_pages.py"))],
        input=json.dumps([step for page in DONE for step in asked[page]]),
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    results = iter(json.loads(ran.stdout))
    return {page: [(step, next(results)) for step in asked[page]] for page in DONE}


def mine(page: Path) -> dict[str, torch.Tensor]:
    """The weights of the page's own network, as wide as its commands say."""
    names: dict[str, Any] = {"__name__": "mine"}
    exec(next(block.code for block in blocks(page) if block.title == "mine.py"), names)
    weights: dict[str, torch.Tensor] = names["denoiser"](width=16).state_dict()
    return weights


@pytest.mark.slow
@pytest.mark.parametrize("page", DONE)
def test_what_a_page_says_works(page: str, came_of: dict[str, list[tuple[Step, Step]]]) -> None:
    assert came_of[page], f"{page} has nothing to do"
    for step, result in came_of[page]:
        assert result["code"] == 0, (step, result["out"])


@pytest.mark.slow
def test_what_was_added_is_what_ran(came_of: dict[str, list[tuple[Step, Step]]]) -> None:
    def last(page: str) -> tuple[Path, str]:
        step, result = came_of[page][-1]
        return Path(step["folder"]), result["out"]

    def read(page: str, file: str) -> Any:
        return json.loads((last(page)[0] / file).read_text())

    assert read("extend/solver.md", "selection.json")["backend"] == "late-acceptance"
    assert read("extend/objective.md", "problem.json")["provenance"]["objective"] == "replaceable"
    assert "arcnn.pt: arcnn channels=3, widths=[16, 8, 8]" in last("extend/architecture.md")[1]
    assert (last("extend/exporter.md")[0] / "net.weights").is_file()


@pytest.mark.parametrize(("page", "number"), [("../README.md", 9), ("edge.md", 5), ("own-metric.md", 1)])
def test_commands_on_files_of_the_reader_are_understood(page: str, number: int) -> None:
    """What can be checked of them without the files."""
    from qcompress.cli.main import main

    found = indented_commands(DOCS / page)
    assert len(found) == number
    for words in found:
        assert main([*words, "--help"]) == 0

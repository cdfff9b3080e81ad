"""What is packaged is what is there."""

from __future__ import annotations

import tomllib
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_every_folder_with_code_is_packaged() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = project["tool"]["setuptools"]["packages"]
    folders = {path.parent for path in (ROOT / "qcompress").rglob("__init__.py")}
    folders |= {ROOT / "qcompress" / "cli", ROOT / "qcompress" / "exporters"}
    found = sorted(".".join(folder.relative_to(ROOT).parts) for folder in folders)
    assert sorted(listed) == found


@pytest.mark.parametrize("name", ["cli", "exporters"])
def test_links_for_type_checkers_point_to_the_folders(name: str) -> None:
    link = ROOT / "qcompress" / name
    assert link.is_symlink()
    assert link.resolve() == ROOT / name


def test_constraints_pin_what_the_project_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines()}
    for requirement in [*project["dependencies"], *chain(*project["optional-dependencies"].values())]:
        name = requirement.split(">")[0].split("=")[0].strip()
        assert name in pinned, name


def test_public_names_exist() -> None:
    import qcompress

    for name in qcompress.__all__:
        assert getattr(qcompress, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = qcompress.nonsense

"""What is packaged is what is there."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest

from qcompress._version import __version__

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
    if (ROOT / "PKG-INFO").exists():
        pytest.skip("a source distribution has no links")
    assert link.is_symlink()
    assert link.resolve() == ROOT / name


def test_constraints_pin_what_the_project_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines()}
    for requirement in [*project["dependencies"], *chain(*project["optional-dependencies"].values())]:
        name = requirement.split(">")[0].split("=")[0].strip().lower()
        assert name in pinned, name


def test_the_citation_has_what_the_format_requires() -> None:
    """Of the Citation File Format 1.2.0; and the version is this one."""
    text = (ROOT / "CITATION.cff").read_text()
    keys = dict(re.findall(r"^([a-z-]+):(?: (.*))?$", text, re.MULTILINE))
    assert {"cff-version", "message", "title", "authors"} <= set(keys)
    assert (keys["cff-version"], keys["type"]) == ("1.2.0", "software")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (keys["version"], keys["license"]) == (__version__, project["license"])
    assert re.search(r"^authors:\n  - name: \S", text, re.MULTILINE)
    assert "\t" not in text


def test_the_image_follows_the_rules() -> None:
    """The rules of hadolint that concern it, by their numbers."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    by_name = {name: [rest for key, rest in lines if key == name] for name, _ in lines}
    assert all(re.match(r"[a-z/]+:\d[\w.-]+", image) for image in by_name["FROM"])  # DL3006, DL3007: a tag, not latest
    assert int(by_name["USER"][-1]) > 0  # DL3002: not root; DL3066: by number
    assert lines.index(["USER", by_name["USER"][-1]]) < lines.index(["ENTRYPOINT", '["qcompress"]'])  # DL3025: as JSON
    assert not {"ADD", "MAINTAINER"} & set(by_name)  # DL3020, DL4000
    installs = re.findall(r"pip (?:install|wheel) [^&\n]*", "\n".join(by_name["RUN"]))
    assert len(installs) == 3
    for install in installs:
        assert "--no-cache-dir" in install  # DL3042
        assert "--constraint" in install or "--no-deps" in install  # DL3013: versions are pinned
    assert "sudo" not in text  # DL3004
    assert "apt-get" not in text  # DL3008, DL3009: nothing that would have to be pinned
    sources = [path for copied in by_name["COPY"] if "--from" not in copied for path in copied.split()[:-1]]
    assert all((ROOT / path).exists() for path in sources)


def test_public_names_exist() -> None:
    import qcompress

    for name in qcompress.__all__:
        assert getattr(qcompress, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = qcompress.nonsense

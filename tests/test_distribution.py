"""What is built: the wheel installs and runs without its source, the source distribution has what its tests need."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import PathDistribution
from pathlib import Path, PurePosixPath

import pytest

from qcompress._version import __version__

ROOT = Path(__file__).parent.parent
NOT_SOURCE = (
    ".git",
    ".venv*",
    "*.egg-info",
    "build",
    "dist",
    "site",
    "results",
    "*.slim",
    ".*_cache",
    "__pycache__",
    ".hypothesis",
)
NOT_SHIPPED = {"qcompress/cli", "qcompress/exporters"}  # links: a source distribution holds none, and its packages need none

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source, so that nothing is built in the tree."""
    folder = tmp_path_factory.mktemp("source") / "qcompress"
    shutil.copytree(ROOT, folder, symlinks=True, ignore=shutil.ignore_patterns(*NOT_SOURCE))
    return folder


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the wheel and the source distribution; the wheel is made from that, as `python -m build` does."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "is absent from the `packages` configuration" not in ran.stdout + ran.stderr
    return folder


def modules(folder: Path, within: str) -> Iterator[str]:
    """The Python files of a package as a wheel names them."""
    for path in folder.rglob("*.py"):
        yield str(PurePosixPath(within) / path.relative_to(folder).as_posix())


def test_the_wheel_has_the_package_its_data_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    assert wheel.name == f"qcompress-{__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    code = {*modules(ROOT / "qcompress", "qcompress"), *modules(ROOT / "cli", "qcompress/cli")}
    code |= set(modules(ROOT / "exporters", "qcompress/exporters"))
    assert {name for name in names if name.endswith(".py")} == code
    data = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "qcompress" / "reference").rglob("*.*") if path.suffix != ".pyc"
    }
    assert len(data) > 20
    assert data | {"qcompress/py.typed"} <= names
    assert {PurePosixPath(name).parts[0] for name in names} == {"qcompress", f"qcompress-{__version__}.dist-info"}


def test_the_source_distribution_has_what_tests_and_documents_need(built: Path, source: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        held = {name.partition("/")[2] for name in opened.getnames()}
    kept = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file() or path.is_symlink()}
    if (ROOT / ".git").exists() and shutil.which("git"):  # what else lies in a working folder is nobody's
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
        kept &= set(listed.stdout.split("\0"))
    assert kept - held - NOT_SHIPPED == set()
    assert {"tests/conftest.py", "examples/tour.ipynb", "docs/tools/site.yml", "constraints.txt"} <= held


def test_an_installed_wheel_runs_without_its_source(built: Path, tmp_path: Path) -> None:
    """In a fresh environment that has only the dependencies of this one; installed as pipx does, by pip from the wheel."""
    fresh = tmp_path / "venv"
    venv.create(fresh, with_pip=False)
    (packages,) = fresh.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(
        "\n".join(site.getsitepackages()) + "\n"
    )  # without the .pth files that are there
    python = str(fresh / "bin" / "python")
    (wheel,) = built.glob("*.whl")
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--ignore-installed",
    ]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*command: str, **added: str) -> str:
        ran = subprocess.run(command, cwd=tmp_path, env={**environment, **added}, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    program = str(fresh / "bin" / "qcompress")
    assert run(program, "--version") == f"qcompress {__version__}\n"
    assert "384 units in 8 groups" in run(program, "inspect", "reference", "--size", "32")
    asked = {"_QCOMPRESS_COMPLETE": "complete_bash", "COMP_WORDS": "qcompress prune --spars", "COMP_CWORD": "2"}
    assert run(program, **asked).split() == ["--sparsity"]
    assert Path(run(python, "-c", "import qcompress.cli; print(qcompress.cli.__file__)").strip()).is_relative_to(packages)
    assert PathDistribution(next(packages.glob("qcompress-*.dist-info"))).metadata["Requires-Python"] == ">=3.11"

"""The output folder: claimed early, filled at once or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from qcompress.errors import OutputError
from qcompress.output import claim, staging


def test_claim_leaves_no_trace(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert claim(folder) == folder
    assert not folder.exists()
    folder.mkdir(parents=True)
    (folder / "kept").touch()
    claim(folder)
    assert [path.name for path in folder.iterdir()] == ["kept"]


def test_claim_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file"):
        claim(tmp_path / "file")
    with pytest.raises(OutputError):
        claim(tmp_path / "file" / "below")


def test_staging_replaces_files_at_the_end_only(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "a").write_text("old")
    with staging(folder) as stage:
        (stage / "a").write_text("new")
        (stage / "b").write_text("new")
        assert (folder / "a").read_text() == "old"
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"a": "new", "b": "new"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_everything_as_it_was(error: type[BaseException], tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "a").write_text("old")
    for folder in (tmp_path / "old", tmp_path / "new"):
        with pytest.raises(error), staging(folder) as stage:
            (stage / "a").write_text("new")
            raise error
    assert (tmp_path / "old" / "a").read_text() == "old"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "old"]

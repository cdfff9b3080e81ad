"""The notebook is kept without outputs, and runs."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parent.parent / "examples" / "tour.ipynb"


@pytest.fixture
def notebook() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return found


def test_it_is_kept_without_outputs(notebook: dict[str, Any]) -> None:
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 5
    for cell in cells:
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        assert cell["metadata"] == {}
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the kernel's machinery, which is no part of this project
def test_it_runs(notebook: dict[str, Any], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a small network, briefly: its first cell holds the settings."""
    client, nbformat = extra("nbclient"), extra("nbformat")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    settings = notebook["cells"][1]
    assert "EVALUATIONS = 40" in "".join(settings["source"])
    settings["source"] = f'NETWORK, EVALUATIONS, SIZE, OUT = "{checkpoint}", 0, 32, "{tmp_path / "tour.slim"}"'
    ran = nbformat.from_dict(notebook)
    client.NotebookClient(ran, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in ran.cells if cell.cell_type == "code" for output in cell.outputs]
    kinds = {kind for output in shown for kind in output.get("data", {})}
    assert {"image/png", "image/svg+xml", "text/markdown"} <= kinds
    assert not [output for output in shown if output.get("name") == "stderr" and "Error" in output["text"]]


def extra(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        if os.environ.get("QCOMPRESS_EXTRAS"):  # set where they are installed to be tested: `make extras`
            raise
        pytest.skip(f"{name} is not installed")

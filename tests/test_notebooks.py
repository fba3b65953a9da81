"""The notebooks run from the first cell to the last, and are what their sources say."""

from __future__ import annotations

import json
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, monkeypatch, environment, tmp_path):
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_what_its_source_says_and_was_executed(path):
    stored = json.loads(path.read_text())["cells"]
    written = jupytext.read(path.with_suffix(".py"))["cells"]
    assert [(c["cell_type"], "".join(c["source"])) for c in stored] == [
        (c["cell_type"], c["source"]) for c in written
    ]
    assert all(cell["execution_count"] for cell in stored if cell["cell_type"] == "code")
    assert not any(output["output_type"] == "error" for cell in stored for output in cell.get("outputs", []))

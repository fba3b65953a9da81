"""Writes every notebook from the Python file beside it, executed: ``make notebooks``."""

from __future__ import annotations

from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient


def write(source: Path) -> None:
    """Execute a notebook and write it beside its source, without what differs from run to run."""
    notebook = jupytext.read(source)
    NotebookClient(notebook, timeout=120, kernel_name="python3", record_timing=False).execute()
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    nbformat.write(notebook, source.with_suffix(".ipynb"))


if __name__ == "__main__":
    for path in sorted(Path(__file__).parent.glob("[0-9]*.py")):
        write(path)
        print(f"wrote {path.with_suffix('.ipynb').name}")

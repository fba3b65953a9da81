"""What ``mamba-stream init`` makes works: its tests pass, its notebook runs, nothing is overwritten."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from mamba_stream.cli import FAILED, invoke

ROOT = Path(__file__).parents[2]


def test_the_test_that_it_writes_passes(tmp_path, capsys):
    assert invoke(["init", "sales", "--in", str(tmp_path)]) == 0
    assert "next: cd" in capsys.readouterr().out
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        check=False,
        cwd=tmp_path / "sales",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "4 passed" in ran.stdout, ran.stdout + ran.stderr


def test_the_pipeline_that_it_writes_is_one_for_the_command(tmp_path, capsys):
    invoke(["init", "sales", "--in", str(tmp_path)])
    place = tmp_path / "sales"
    assert invoke(["run", str(place / "pipeline.py"), "--log", str(tmp_path / "log")]) != 0
    assert "no topic 'orders'" in capsys.readouterr().err


def test_the_notebook_that_it_writes_runs(tmp_path, monkeypatch):
    invoke(["init", "sales", "--in", str(tmp_path)])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(tmp_path / "sales" / "notebook.ipynb", as_version=4)
    nbformat.validate(notebook)
    NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path / "sales")}},
    ).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in shown if output.output_type == "error"]


def test_nothing_is_overwritten(tmp_path, capsys):
    invoke(["init", "sales", "--in", str(tmp_path)])
    (tmp_path / "sales" / "pipeline.py").write_text("mine")
    assert invoke(["init", "sales", "--in", str(tmp_path)]) == FAILED
    assert "pipeline.py is there already" in capsys.readouterr().err
    assert (tmp_path / "sales" / "pipeline.py").read_text() == "mine"
    assert invoke(["init", "no/name", "--in", str(tmp_path)]) != 0

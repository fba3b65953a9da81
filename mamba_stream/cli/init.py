"""``mamba-stream init NAME``: a pipeline, its test and a notebook, to begin with."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from string import Template

import click


@click.command()
@click.argument("name")
@click.option(
    "--in",
    "parent",
    type=click.Path(file_okay=False, path_type=Path),
    default=".",
    metavar="DIR",
    help="Where to make the directory NAME; here if left out.",
)
def init(name: str, parent: Path) -> None:
    """Make a directory NAME with a pipeline, a test of it and a notebook.

    The test plays the pipeline on a clock of its own, in milliseconds: cd NAME && pytest. Nothing that is
    there is overwritten.
    """
    from mamba_stream.core.names import check_name
    from mamba_stream.errors import AlreadyExists

    check_name(name, "pipeline")
    place = parent / name
    made = {
        "pipeline.py": _starter("pipeline.txt", name),
        "test_pipeline.py": _starter("test.txt", name),
        "notebook.ipynb": _notebook(_starter("notebook.json", name)),
    }
    if there := [file for file in made if (place / file).exists()]:
        raise AlreadyExists(f"{place / there[0]} is there already: choose another name, or move it away")
    place.mkdir(parents=True, exist_ok=True)
    for file, text in made.items():
        (place / file).write_text(text)
    click.echo(f"made {', '.join(str(place / file) for file in made)}")
    click.echo(f"next: cd {place} && pytest")


def _starter(file: str, name: str) -> str:
    return Template(files("mamba_stream.cli").joinpath("starter", file).read_text()).substitute(name=name)


def _notebook(cells: str) -> str:
    """A notebook in nbformat 4.5, of pairs of kind and text."""
    made = []
    for number, (kind, text) in enumerate(json.loads(cells)):
        cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": text}
        made.append(cell if kind == "markdown" else {**cell, "execution_count": None, "outputs": []})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"

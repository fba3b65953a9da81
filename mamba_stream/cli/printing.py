"""How the command prints: facts and lists as tables or JSON, rows of a topic as they come."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    import polars as pl


def encode(value: Any) -> str:
    """One line of JSON: times in ISO 8601, bytes in base64, what JSON does not know as text, NaN as null."""
    import msgspec

    return msgspec.json.encode(value, enc_hook=str).decode()


def print_list(rows: Sequence[Mapping[str, Any]], output: str, *, empty: str) -> None:
    """Prints things of one kind.

    Args:
        rows: The same names in each.
        output: ``table`` or ``json`` (an array).
        empty: What a person reads when there are none.
    """
    if output == "json":
        click.echo(encode(list(rows)))
        return
    if not rows:
        click.echo(empty, err=True)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, value in rows[0].items():
        table.add_column(name, justify="right" if isinstance(value, int | float) else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell(value) for value in row.values()))
    Console().print(table)


def print_facts(facts: Mapping[str, Any], output: str) -> None:
    """Prints what is known about one thing, a line each, or as one JSON object."""
    if output == "json":
        click.echo(encode(facts))
        return
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        if isinstance(value, Mapping):
            click.echo(name)
            inner = max((len(str(key)) for key in value), default=0)
            for key, item in value.items():
                click.echo(f"  {key!s:<{inner}}  {cell(item)}")
        else:
            click.echo(f"{name:<{width}}  {cell(value)}")


def cell(value: Any) -> str:
    """A value as people read it."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.6g}"
        case list() | tuple():
            return ", ".join(map(cell, value))
        case Mapping():
            return ", ".join(f"{name}={cell(item)}" for name, item in value.items())
        case _:
            return str(value)


class RowPrinter:
    """Prints rows as they come, in constant memory: one header, and columns as wide as the first rows need.

    Args:
        output: ``table`` or ``json`` (a line each).
        out: Where to.
    """

    def __init__(self, output: str, out: TextIO) -> None:
        self._json = output == "json"
        self._out = out
        self._widths: list[int] = []

    def write(self, frame: pl.DataFrame) -> None:
        """Prints all rows of the frame; every frame has the same columns.

        Raises:
            click.exceptions.Exit: Whoever read the output has seen enough, as `head` has.
        """
        try:
            self._write(frame)
        except BrokenPipeError:
            # What is still buffered must not meet the closed pipe when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())
            raise click.exceptions.Exit(0) from None

    def _write(self, frame: pl.DataFrame) -> None:
        if frame.height == 0:
            return
        frame = _printable(frame, iso=self._json)
        if self._json:
            self._out.writelines(encode(row) + "\n" for row in frame.iter_rows(named=True))
        else:
            cells = [[_plain(value) for value in row] for row in frame.iter_rows()]
            if not self._widths:
                self._widths = [
                    max(len(name), *(len(row[i]) for row in cells)) for i, name in enumerate(frame.columns)
                ]
                self._line(frame.columns)
            for row in cells:
                self._line(row)
        self._out.flush()

    def _line(self, values: Iterable[str]) -> None:
        line = "  ".join(value.ljust(width) for value, width in zip(values, self._widths, strict=True))
        self._out.write(line.rstrip() + "\n")


def _plain(value: Any) -> str:
    # Unlike `cell`: no thousands separators, so that what is printed can be typed again.
    text = "" if value is None else str(value)
    return text.replace("\n", "\\n") if "\n" in text else text


def _printable(frame: pl.DataFrame, *, iso: bool) -> pl.DataFrame:
    """Times as text, to the digit that they are stored with: Python's own stop at the microsecond."""
    import polars as pl

    form = "%Y-%m-%dT%H:%M:%S%.f" if iso else "%Y-%m-%d %H:%M:%S%.f"
    columns = []
    for name, dtype in frame.schema.items():
        if isinstance(dtype, pl.Datetime):
            zone = "" if dtype.time_zone is None else "Z" if iso else " UTC"
            moment = pl.col(name) if dtype.time_zone is None else pl.col(name).dt.convert_time_zone("UTC")
            columns.append(moment.dt.strftime(form + zone))
    return frame.with_columns(columns) if columns else frame

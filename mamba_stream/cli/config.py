"""``mamba-stream config …``: what the settings are, where each comes from, and whether they are right."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mamba_stream.cli import FAILED
from mamba_stream.cli.options import output_option

if TYPE_CHECKING:
    from mamba_stream.core.settings import Gathered
    from mamba_stream.server.settings import ServerSettings

_HIDDEN = "(not shown)"
_TABLES = ("disk", "server", "profiles")


@click.group()
def config() -> None:
    """Show and check the settings: mamba-stream.toml of the working directory, and the environment."""


@config.command()
@click.option("--sources", is_flag=True, help="Say of each where it comes from.")
@output_option
def show(sources: bool, output: str) -> None:
    """Show the settings as the server and the commands would take them.

    Tokens are not shown.
    """
    from mamba_stream.cli.printing import encode, print_list

    path, settings = _file()
    found = {"": _log(path, settings), **_sections(path, settings)}
    rows = [
        {"setting": f"{section}.{key}".lstrip("."), "value": value, "source": source}
        for section, each in found.items()
        for key, (value, source) in each.items()
    ]
    if not sources:
        rows = [{"setting": row["setting"], "value": row["value"]} for row in rows]
    if output == "json":
        told = {
            row["setting"]: {"value": row["value"], "source": row["source"]} if sources else row["value"]
            for row in rows
        }
        click.echo(encode({"file": str(path) if path.exists() else None, "settings": told}))
        return
    print_list(
        [{**row, "value": "" if row["value"] is None else str(row["value"])} for row in rows],
        output,
        empty="",
    )


@config.command()
def validate() -> int:
    """Check the settings: names, values, what goes together, and whether the files that they name are there.

    Exits with 1 if anything is wrong.
    """
    from mamba_stream.cli.profiles import Profile

    path, settings = _file()
    problems = _unknown(path, settings)
    server, others = _gathered(path, settings)
    for each in (server, *others.values()):
        problems += each.problems
    problems += [f"[server] {problem}" for problem in (*server.values.problems(), *_tried(server.values))]
    for name, each in others.items():
        if isinstance(each.values, Profile):
            problems += [f"[{name}] {problem}" for problem in each.values.unreadable()]
    for problem in problems:
        click.echo(f"error: {problem}", err=True)
    if problems:
        return FAILED
    click.echo(f"{path} is right" if path.exists() else f"there is no {path}, and the environment is right")
    return 0


def _tried(settings: ServerSettings) -> Iterator[str]:
    """What comes out only when the files are read as the server reads them."""
    from mamba_stream.errors import InvalidInput
    from mamba_stream.server.tls import load_tls
    from mamba_stream.server.userfile import read_users

    if any(settings.problems()):
        return
    try:
        if settings.tls_cert is not None and settings.tls_key is not None:
            load_tls(settings.tls_cert, settings.tls_key, settings.client_ca, datetime.now(UTC))
    except InvalidInput as error:
        yield str(error)
    try:
        if settings.users is not None:
            read_users(settings.users)
    except InvalidInput as error:
        yield str(error)


def _file() -> tuple[Path, dict[str, Any]]:
    from mamba_stream.core.settings import FILE, read_file

    path = Path(FILE).absolute()
    return path, read_file(path)


def _unknown(path: Path, settings: Mapping[str, Any]) -> list[str]:
    from mamba_stream.core.names import did_you_mean

    known = ("log", *_TABLES)
    return [
        f"{path}: {key} is no setting{did_you_mean(key, known)}; there are {', '.join(known)}"
        for key in settings
        if key not in known
    ]


def _gathered(path: Path, settings: Mapping[str, Any]) -> tuple[Gathered[Any], dict[str, Gathered[Any]]]:
    from mamba_stream.cli import profiles
    from mamba_stream.core.diskmarks import DISK
    from mamba_stream.core.settings import table_of
    from mamba_stream.server.settings import SERVER

    server, disk = (
        section.gather(path, table_of(path, settings, section.name), os.environ) for section in (SERVER, DISK)
    )
    named = {f"profiles.{name}": each for name, each in profiles.gather(path, settings).items()}
    return server, {DISK.name: disk, **named}


def _sections(path: Path, settings: Mapping[str, Any]) -> dict[str, dict[str, tuple[Any, str]]]:
    from mamba_stream.cli.profiles import SECRET
    from mamba_stream.core.settings import shown

    server, others = _gathered(path, settings)
    server.checked()
    found = {}
    for section, each in {"server": server, **others}.items():
        values = {key: getattr(each.checked(), key) for key in each.sources}
        found[section] = {
            key: (_HIDDEN if key in SECRET and value is not None else shown(value), each.sources[key])
            for key, value in values.items()
        }
    return found


def _log(path: Path, settings: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    from mamba_stream.core.settings import DEFAULT
    from mamba_stream.log.opening import VARIABLE, directory_of

    if os.environ.get(VARIABLE):
        return {"log": (os.environ[VARIABLE], VARIABLE)}
    return {"log": (str(directory_of(None)), str(path) if settings.get("log") else DEFAULT)}

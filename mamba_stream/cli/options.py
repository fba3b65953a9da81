"""What several subcommands take in the same way: where the log is, where to start, how to print."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from mamba_stream.log import Log

_Function = TypeVar("_Function", bound=Callable[..., Any])


_PROFILE = "mamba_stream.profile"


def log_option(function: _Function) -> _Function:
    """``--log`` and ``--profile``: the place of the log, by the one rule, or by a name of the file of settings."""
    named = click.option(
        "--log",
        "place",
        metavar="DIR|HOST:PORT",
        callback=_place,
        help="The log's directory, or its server. Default: $MAMBA_STREAM_LOG, mamba-stream.toml, the user's data.",
    )(function)
    return click.option(
        "--profile",
        metavar="NAME",
        envvar="MAMBA_STREAM_PROFILE",
        is_eager=True,
        expose_value=False,
        callback=_profile,
        help="The log, and how to be let in, from [profiles.NAME] of mamba-stream.toml.",
    )(named)


def _profile(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    context.meta[_PROFILE] = value


def _place(context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    name = context.meta.get(_PROFILE)
    if not name:
        return value
    if value is not None:
        # What the environment says is for when the command line says nothing.
        if context.get_parameter_source("profile") is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError("--log and --profile both say where the log is: give one of them")
        return value
    from mamba_stream.cli.profiles import as_said_by, load_profile

    context.with_resource(as_said_by(load_profile(name)))
    return None


def durability_option(default: str) -> Callable[[_Function], _Function]:
    """``--durability``: what a loss of power can undo."""
    return click.option(
        "--durability",
        type=click.Choice(["commit", "interval", "os"]),
        default=default,
        show_default=True,
        help="What a loss of power can undo (the death of a process undoes nothing). commit: nothing; interval: the "
        "last second; os: what came since the log was last flushed.",
    )


def output_option(function: _Function) -> _Function:
    """``-o``: for people or for programs."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="A table for people, JSON for programs.",
    )(function)


def users_option(function: _Function) -> _Function:
    """``--users``: where the file of users is, beside the server that reads it."""
    return click.option(
        "--users",
        "users_file",
        metavar="FILE",
        help="The file of users. Default: $MAMBA_STREAM_SERVER_USERS, [server] users in mamba-stream.toml.",
    )(function)


def users_path(users_file: str | None) -> Path:
    """The file that ``--users`` names, or what stands for it."""
    from mamba_stream.server.userfile import VARIABLE, find_users_file

    found = find_users_file(users_file)
    if found is None:
        raise click.UsageError(
            f"which file of users? Say --users FILE, or set {VARIABLE}, or users under [server] in mamba-stream.toml; "
            "it is made where it is missing"
        )
    return found


def user_argument(function: _Function) -> _Function:
    """The user's name, completed from the file that ``--users`` names."""
    return click.argument("name", metavar="USER", shell_complete=_users)(function)


def topic_argument(function: _Function) -> _Function:
    """The topic's name, completed from the log that ``--log`` names."""
    return click.argument("topic", shell_complete=_topics)(function)


def position(_context: click.Context, _parameter: click.Parameter, value: str) -> str | int | datetime:
    """Where to begin, as ``Topic.read`` takes it."""
    if value in ("earliest", "latest"):
        return value
    if value.isdecimal():
        return int(value)
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is neither 'earliest', 'latest', an offset nor a time (2013-01-31T12:00)"
        ) from None


def start_option(default: str) -> Callable[[_Function], _Function]:
    """``--start``: where to begin reading."""
    return click.option(
        "--start",
        callback=position,
        metavar="earliest|latest|OFFSET|TIME",
        default=default,
        show_default=True,
        help="Where to begin. A time (ISO 8601, UTC unless it says so): the first row that reaches it.",
    )


def open_place(place: str | None, *, create: bool = False) -> Log:
    """Open the log that ``--log`` names.

    Args:
        place: What the user gave.
        create: Whether the log may come into being here. A command that looks must not leave a directory.
    """
    from mamba_stream.errors import NotALog
    from mamba_stream.log import directory_of, open_log
    from mamba_stream.log.opening import locate, place_of
    from mamba_stream.log.remote.address import is_address

    meant = place_of(place)
    if is_address(meant):
        return locate(meant)
    directory = directory_of(meant)
    if not create and not (directory / "index").is_dir():
        raise NotALog(f"there is no log in {directory}: name another with --log; produce --create begins one")
    return open_log(directory)


def _topics(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    from mamba_stream.errors import MambaStreamError

    try:
        with open_place(context.params.get("place")) as log:
            names = log.topics()
    except MambaStreamError:
        return []
    return [name for name in names if name.startswith(incomplete)]


def _users(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    from mamba_stream.errors import MambaStreamError
    from mamba_stream.server.userfile import read_users

    try:
        names = read_users(users_path(context.params.get("users_file"))).users
    except (MambaStreamError, click.UsageError):
        return []
    return [name for name in names if name.startswith(incomplete)]

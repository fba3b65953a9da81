"""``mamba-stream user``: who may connect to a server, by which tokens and certificates, and how much they may have."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mamba_stream.cli.options import output_option, user_argument, users_option, users_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from mamba_stream.server.quotas import Quota
    from mamba_stream.server.users import Token, User

_Function = TypeVar("_Function", bound="Callable[..., Any]")
_QUOTAS = ("received", "sent", "burst", "connections", "topics")


@click.group()
def user() -> None:
    """Users of a server: add, list, remove, quota, token. A running server notices within a second."""


def _quota_options(function: _Function) -> _Function:
    for name, kind, words in reversed(
        (
            (
                "received",
                click.IntRange(min=1),
                "Bytes of rows a second that the server takes from the user.",
            ),
            ("sent", click.IntRange(min=1), "Bytes of rows a second that the user gets."),
            (
                "burst",
                click.FloatRange(min=0, min_open=True, max=3600),
                "Seconds of that at once; 1 unless said.",
            ),
            ("connections", click.IntRange(min=1), "Connections at a time."),
            ("topics", click.IntRange(min=0), "Topics of the user's making."),
        )
    ):
        function = click.option(f"--{name}", type=kind, metavar="N", help=words)(function)
    return function


@user.command(
    epilog="\b\n"
    "mamba-stream user add ann\n"
    "mamba-stream user add loader --certificate loader.example.com --received 10000000\n"
)
@user_argument
@click.option(
    "--certificate",
    "certificates",
    metavar="IDENTITY",
    multiple=True,
    help="A name in a certificate that is enough without a token: its first alternative name. Repeatable.",
)
@_quota_options
@users_option
def add(name: str, certificates: tuple[str, ...], users_file: str | None, **quota: Any) -> None:
    """Add a user, who may do nothing yet, to the file of users, which is made where it is missing."""
    from mamba_stream.server.quotas import NO_QUOTA
    from mamba_stream.server.userfile import add_user, change_users
    from mamba_stream.server.users import User

    made = User(name, (), certificates, (), _quota(NO_QUOTA, quota))
    change_users(users_path(users_file), lambda users: add_user(users, made))
    click.echo(f"added {name}")
    if not certificates:
        click.echo(f"a token: mamba-stream user token new {name}", err=True)
    click.echo(f"what {name} may do: mamba-stream access allow {name} read --topic TOPIC", err=True)


@user.command(name="list")
@output_option
@users_option
def list_all(output: str, users_file: str | None) -> None:
    """List the users."""
    from mamba_stream.cli.printing import print_list
    from mamba_stream.server.userfile import read_users

    path = users_path(users_file)
    users = read_users(path).users.values()
    print_list([_facts(each, output) for each in users], output, empty=f"no users in {path}")


@user.command()
@user_argument
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@users_option
def remove(name: str, yes: bool, users_file: str | None) -> None:
    """Remove a user with all tokens and entries: what it has under way is refused at its next step."""
    from mamba_stream.server.userfile import change_users, read_users, user_of

    path = users_path(users_file)
    found = user_of(read_users(path).users, name)
    if not yes:
        click.confirm(
            f"remove user {name} with {len(found.tokens)} tokens and {len(found.access)} entries?",
            abort=True,
            err=True,
        )

    def change(users: dict[str, User]) -> None:
        user_of(users, name)
        del users[name]

    change_users(path, change)
    click.echo(f"removed {name}")


@user.command(
    epilog="\b\nmamba-stream user quota ann --sent 50000000 --burst 10\nmamba-stream user quota ann --none\n"
)
@user_argument
@_quota_options
@click.option("--none", "nothing", is_flag=True, help="No limits from now on, but those that are given here.")
@output_option
@users_option
def quota(name: str, nothing: bool, output: str, users_file: str | None, **wanted: Any) -> None:
    """Show how much a user may have, or change it: what is not given stays."""
    import msgspec

    from mamba_stream.cli.printing import print_facts
    from mamba_stream.server.quotas import NO_QUOTA
    from mamba_stream.server.userfile import change_users, read_users, user_of

    path = users_path(users_file)

    def change(users: dict[str, User]) -> None:
        found = user_of(users, name)
        limits = _quota(NO_QUOTA if nothing else found.quota, wanted)
        users[name] = msgspec.structs.replace(found, quota=limits)

    if nothing or any(value is not None for value in wanted.values()):
        change_users(path, change)
    held = user_of(read_users(path).users, name).quota
    print_facts({each: getattr(held, each) for each in _QUOTAS}, output)


@user.group()
def token() -> None:
    """Tokens of a user: new, list, revoke."""


@token.command(
    epilog="\b\nmamba-stream user token new ann --expires 90d\nTOKEN=$(mamba-stream user token new ann)\n"
)
@user_argument
@click.option(
    "--expires", metavar="DURATION", help="How long it is good for, as in 90d; for ever unless said."
)
@output_option
@users_option
def new(name: str, expires: str | None, output: str, users_file: str | None) -> None:
    """Make a token, and print it: this once, for nothing but its hash is kept."""
    import msgspec

    from mamba_stream.cli.printing import encode
    from mamba_stream.core.clock import SystemClock
    from mamba_stream.core.durations import duration_us
    from mamba_stream.server.userfile import change_users, user_of
    from mamba_stream.server.users import new_token

    lifetime = None
    if expires is not None:
        lifetime = timedelta(microseconds=duration_us(expires, what="--expires", zero=False))
    text, kept = new_token(SystemClock().now(), lifetime)

    def change(users: dict[str, User]) -> None:
        found = user_of(users, name)
        users[name] = msgspec.structs.replace(found, tokens=(*found.tokens, kept))

    change_users(users_path(users_file), change)
    if output == "json":
        click.echo(encode({"user": name, "token": text, "id": kept.id, "expires": kept.expires}))
        return
    click.echo(text)
    until = f"until {kept.expires:%Y-%m-%d %H:%M} UTC" if kept.expires else "until it is revoked"
    click.echo(f"keep it: it is shown this once. It is good {until}; its id is {kept.id}", err=True)


@token.command(name="list")
@user_argument
@output_option
@users_option
def list_tokens(name: str, output: str, users_file: str | None) -> None:
    """List the tokens of a user, by their ids."""
    from mamba_stream.cli.printing import print_list
    from mamba_stream.core.clock import SystemClock
    from mamba_stream.server.userfile import read_users, user_of

    now = SystemClock().now()
    tokens = user_of(read_users(users_path(users_file)).users, name).tokens
    print_list([_token(each, now) for each in tokens], output, empty=f"{name} has no token")


@token.command()
@user_argument
@click.argument("token_id", metavar="ID")
@users_option
def revoke(name: str, token_id: str, users_file: str | None) -> None:
    """Revoke a token: by its id, which is the part of it after the first underscore."""
    import msgspec

    from mamba_stream.core.names import did_you_mean
    from mamba_stream.errors import NotFound
    from mamba_stream.server.userfile import change_users, user_of

    def change(users: dict[str, User]) -> None:
        found = user_of(users, name)
        ids = [each.id for each in found.tokens]
        if token_id not in ids:
            # Not repeated in full: somebody may have pasted all of a token.
            raise NotFound(
                f"{name} has no token {token_id[:12]!r}{did_you_mean(token_id, ids)}; "
                + (f"there are {', '.join(ids)}" if ids else "there is none")
            )
        kept = tuple(each for each in found.tokens if each.id != token_id)
        users[name] = msgspec.structs.replace(found, tokens=kept)

    change_users(users_path(users_file), change)
    click.echo(f"revoked {token_id}")


def _quota(before: Quota, wanted: dict[str, Any]) -> Quota:
    import msgspec

    given = {name: value for name, value in wanted.items() if value is not None}
    return msgspec.structs.replace(before, **given)


def _facts(user: User, output: str) -> dict[str, Any]:
    limits = {name: getattr(user.quota, name) for name in _QUOTAS}
    if output != "json":
        limits = {name: value for name, value in limits.items() if value is not None and name != "burst"}
    return {
        "user": user.name,
        "tokens": len(user.tokens),
        "certificates": list(user.certificates),
        "access": [str(entry) for entry in user.access] if output == "json" else len(user.access),
        "quota": limits,
    }


def _token(token: Token, now: int) -> dict[str, Any]:
    return {
        "id": token.id,
        "created": token.created,
        "expires": token.expires,
        "expired": token.over(now),
    }

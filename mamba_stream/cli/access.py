"""``mamba-stream access``: what the users of a server may do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

from mamba_stream.cli.options import output_option, user_argument, users_option, users_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from mamba_stream.server.access import Effect, Entry
    from mamba_stream.server.gate import Kind
    from mamba_stream.server.users import User

_Function = TypeVar("_Function", bound="Callable[..., Any]")

_WORDS = """
\b
read       rows of a topic; take part in a group; run a job
write      append rows to a topic
create     a topic, and set its bounds
delete     a topic, its first rows, dead letters; a group; what is known of a job
describe   see that it is there: allowed to whoever may do anything with it
admin      end a topic; of the log: seal it, read the audit topic, use any namespace
all        everything

\b
mamba-stream access allow ann read --topic "orders.*" --group mailers
mamba-stream access allow etl read,write,create --topic "etl.*" --job etl
mamba-stream access deny ann write --topic orders.archive
"""


@click.group()
def access() -> None:
    """What users may do: allow, deny, list, remove. What nothing allows is denied, and denying wins."""


def _things(function: _Function) -> _Function:
    """What it is about: one or many."""
    for name, words in reversed(
        (
            ("topic", "A topic, or how topics begin, and * (quoted, for the shell). Repeatable."),
            ("group", "A group, likewise."),
            ("job", "A job with its state and progress: the groups job.NAME and job.NAME.*."),
            ("namespace", "A namespace of records of your own, likewise."),
        )
    ):
        function = click.option(f"--{name}", multiple=True, metavar="NAME", help=words)(function)
    return function


def _whole_log(function: _Function) -> _Function:
    return click.option("--whole-log", is_flag=True, help="The log as a whole.")(function)


@access.command(epilog=_WORDS)
@user_argument
@click.argument("operations")
@_things
@_whole_log
@users_option
def allow(name: str, operations: str, users_file: str | None, **things: Any) -> None:
    """Allow a user to do something: OPERATIONS, separated by commas, with what is named."""
    _add("allow", name, operations, users_file, _named(**things))


@access.command(epilog=_WORDS)
@user_argument
@click.argument("operations")
@_things
@_whole_log
@users_option
def deny(name: str, operations: str, users_file: str | None, **things: Any) -> None:
    """Deny a user something, whatever allows it."""
    _add("deny", name, operations, users_file, _named(**things))


@access.command(name="list")
@click.argument("name", metavar="[USER]", required=False)
@output_option
@users_option
def list_all(name: str | None, output: str, users_file: str | None) -> None:
    """List what a user may do, or all users."""
    from mamba_stream.cli.printing import print_list
    from mamba_stream.server.userfile import read_users, user_of

    users = read_users(users_path(users_file)).users
    chosen = users.values() if name is None else [user_of(users, name)]
    rows = [_facts(each, entry, output) for each in chosen for entry in each.access]
    print_list(rows, output, empty="nobody may do anything" if name is None else f"{name} may do nothing")


@access.command(
    epilog="\b\n"
    'mamba-stream access remove ann write --topic "orders.*"\n'
    'mamba-stream access remove ann all --topic "orders.*"\n'
)
@user_argument
@click.argument("operations")
@_things
@_whole_log
@users_option
def remove(name: str, operations: str, users_file: str | None, **things: Any) -> None:
    """Take OPERATIONS out of the entries for what is named, allowed and denied ones: named as in the entry.

    ``all`` takes out the whole entry.
    """
    import msgspec

    from mamba_stream.errors import NotFound
    from mamba_stream.server.access import operations_of, without
    from mamba_stream.server.userfile import change_users, user_of

    taken, named = operations_of(operations), _named(**things)

    def change(users: dict[str, User]) -> None:
        found = user_of(users, name)
        entries = without(found.access, taken, named)
        if entries == found.access:
            raise NotFound(
                f"{name} has no such entry: mamba-stream access list {name} shows those that there are"
            )
        users[name] = msgspec.structs.replace(found, access=entries)

    change_users(users_path(users_file), change)
    click.echo(f"removed {','.join(taken)} from the entries of {name}")


def _add(
    effect: Effect, name: str, operations: str, users_file: str | None, things: list[tuple[Kind, str]]
) -> None:
    import msgspec

    from mamba_stream.server.access import Entry, operations_of, with_entries
    from mamba_stream.server.userfile import change_users, user_of

    added = [Entry(effect, operations_of(operations), kind, thing) for kind, thing in things]

    def change(users: dict[str, User]) -> None:
        found = user_of(users, name)
        users[name] = msgspec.structs.replace(found, access=with_entries(found.access, added))

    change_users(users_path(users_file), change)
    for entry in added:
        click.echo(f"{name}: {entry}")


def _named(
    topic: tuple[str, ...],
    group: tuple[str, ...],
    job: tuple[str, ...],
    namespace: tuple[str, ...],
    whole_log: bool,
) -> list[tuple[Kind, str]]:
    found: list[tuple[Kind, str]] = [("topic", each) for each in topic]
    found += [("group", each) for each in group]
    for each in job:
        # A job's progress is shown by a group for each of its sources.
        found += [("group", f"job.{each}"), ("group", f"job.{each}.*")]
    found += [("namespace", each) for each in namespace]
    if whole_log:
        found.append(("log", "*"))
    if not found:
        raise click.UsageError("with what? Name a --topic, --group, --job or --namespace, or say --whole-log")
    return found


def _facts(user: User, entry: Entry, output: str) -> dict[str, Any]:
    return {
        "user": user.name,
        "effect": entry.effect,
        "operations": list(entry.operations) if output == "json" else ",".join(entry.operations),
        "kind": entry.kind,
        "name": entry.name,
    }

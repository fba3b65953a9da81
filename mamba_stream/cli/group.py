"""``mamba-stream group``: who reads what, how far they have come, what is open; and moving or deleting groups."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from mamba_stream.cli.options import log_option, open_place, output_option, position

if TYPE_CHECKING:
    from mamba_stream.messaging.groups import Reset
    from mamba_stream.messaging.survey import GroupFacts, GroupMember, GroupPartition, OpenRun


@click.group()
def group() -> None:
    """Groups of subscribers and consumers: list, describe, pending, reset, delete."""


def _groups(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    from mamba_stream.errors import MambaStreamError
    from mamba_stream.messaging.groups import list_groups

    try:
        with open_place(context.params.get("place")) as log:
            names = [each.name for each in list_groups(log)]
    except MambaStreamError:
        return []
    return [name for name in names if name.startswith(incomplete)]


@group.command(name="list")
@output_option
@log_option
def list_all(output: str, place: str | None) -> None:
    """List the groups: their topics, who is there, and what is still to be done."""
    from mamba_stream.cli.printing import print_list
    from mamba_stream.messaging.groups import list_groups

    with open_place(place) as log:
        rows = [
            {
                "group": found.name,
                "topics": list(found.topics),
                "members": len(found.members),
                "backlog": found.backlog,
                "paused": list(found.paused),
                "job": found.job,
            }
            for found in list_groups(log)
        ]
        print_list(rows, output, empty=f"no groups in {log.place}")


@group.command(
    epilog="\b\n"
    "backlog   messages that are not done: new ones, and those that are open\n"
    "leased    open, and somebody has them\n"
    "waiting   open, and their time has not come: retries, delayed messages\n"
    "due       open, and to be delivered again now\n"
)
@click.argument("name", shell_complete=_groups)
@output_option
@log_option
def describe(name: str, output: str, place: str | None) -> None:
    """Describe a group: how far it has come in each partition, and who is there."""
    from mamba_stream.cli.printing import encode, print_facts, print_list
    from mamba_stream.messaging.groups import describe_group

    with open_place(place) as log:
        found = describe_group(log, name)
    facts = _facts(found)
    members = [_member(each, output) for each in found.members]
    partitions = [_partition(each) for each in found.partitions]
    if output == "json":
        click.echo(encode({**facts, "members": members, "partitions": partitions}))
        return
    print_facts(facts, output)
    # What a person needs, in the width of a terminal.
    shown = [
        {name: value for name, value in row.items() if name not in ("begin", "runs")} for row in partitions
    ]
    print_list(shown, output, empty="it has read nothing yet")
    print_list(members, output, empty="nobody is there")
    for topic in found.paused:
        click.echo(
            f"paused: so many messages of {topic} are open that no new ones are taken until some are done",
            err=True,
        )


@group.command()
@click.argument("name", shell_complete=_groups)
@click.option("--topic", help="Only this topic.")
@click.option(
    "-n", "--rows", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many lines."
)
@output_option
@log_option
def pending(name: str, topic: str | None, rows: int, output: str, place: str | None) -> None:
    """Show what is open in a group that shares topics: leased, waiting, or due.

    In the order in which it falls due; a line may stand for several messages.
    """
    from itertools import islice

    from mamba_stream.cli.printing import print_list
    from mamba_stream.messaging.groups import open_runs

    with open_place(place) as log:
        found = open_runs(log, name, topic=topic)
        shown = [_open(each, output) for each in islice(found, rows)]
        print_list(shown, output, empty=f"nothing is open in group {name}")
        if left := sum(1 for _ in found):
            click.echo(f"and {left:,} more: --rows {len(shown) + left} shows all", err=True)


@group.command(
    epilog="\b\n"
    "mamba-stream group reset mailers --to earliest\n"
    "mamba-stream group reset mailers --to 2026-01-31T12:00 --topic emails --dry-run\n"
)
@click.argument("name", shell_complete=_groups)
@click.option(
    "--to",
    required=True,
    callback=position,
    metavar="earliest|latest|OFFSET|TIME",
    help="Where to go on. A time (ISO 8601, UTC unless it says so): the first row that reaches it.",
)
@click.option("--topic", help="Only this topic.")
@click.option("--partition", "partitions", type=int, multiple=True, help="Only this partition. Repeatable.")
@click.option("--force", is_flag=True, help="Even while members are at work: they go on from there, too.")
@click.option("--dry-run", is_flag=True, help="Only show what would happen.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@output_option
@log_option
def reset(
    name: str,
    to: str | int | datetime,
    topic: str | None,
    partitions: tuple[int, ...],
    force: bool,
    dry_run: bool,
    yes: bool,
    output: str,
    place: str | None,
) -> None:
    """Have a group go on from elsewhere, back or forth.

    What was open there is not any more: it is done where it lies before the new position, and new where it lies
    behind it.
    """
    from mamba_stream.cli.printing import print_list
    from mamba_stream.messaging.groups import reset_group

    if partitions and topic is None:
        raise click.UsageError("--partition: say of which topic, with --topic")
    where: dict[str, Any] = {"topic": topic, "partitions": list(partitions) or None}
    with open_place(place) as log:
        would = reset_group(log, name, to, dry_run=True, **where)
        if not (yes or dry_run):
            dropped = sum(each.dropped for each in would)
            click.confirm(
                f"move group {name} in {len(would):,} partition{'' if len(would) == 1 else 's'}, forgetting that "
                f"{dropped:,} message{' is' if dropped == 1 else 's are'} open?",
                abort=True,
                err=True,
            )
        done = would if dry_run else reset_group(log, name, to, force=force, **where)
    print_list(
        [_reset(each, output) for each in done],
        output,
        empty=f"group {name} has read nothing: nothing to reset",
    )


@group.command()
@click.argument("name", shell_complete=_groups)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@log_option
def delete(name: str, yes: bool, place: str | None) -> None:
    """Delete a group with all that is known of it; the topics stay as they are."""
    from mamba_stream.messaging.groups import delete_group, describe_group

    with open_place(place) as log:
        found = describe_group(log, name)
        if not yes:
            click.confirm(
                f"delete group {name}, which has {found.backlog:,} messages still to do?",
                abort=True,
                err=True,
            )
        delete_group(log, name)
    click.echo(f"deleted {name}")


def _facts(found: GroupFacts) -> dict[str, Any]:
    return {
        "group": found.name,
        "job": found.job,
        "topics": list(found.topics),
        "backlog": found.backlog,
        "paused": list(found.paused),
    }


def _member(member: GroupMember, output: str) -> dict[str, Any]:
    client = member.client
    return {
        "member": client.name or client.id,
        "id": client.id,
        "kind": client.kind,
        "host": client.host,
        # To be typed again, without separators.
        "pid": client.pid if output == "json" else str(client.pid),
        "since": _time(client.since),
        "topics": [*client.interest.topics, *([client.interest.regex] if client.interest.regex else [])],
        "has": [f"{topic}/{partition}" for topic, partition in member.assignment],
    }


def _partition(each: GroupPartition) -> dict[str, Any]:
    return {
        "topic": each.topic,
        "partition": each.partition,
        "shared": each.shared,
        "offset": each.offset,
        "begin": each.begin,
        "end": each.end,
        "backlog": each.backlog,
        "leased": each.leased,
        "waiting": each.waiting,
        "due": each.due,
        "runs": each.runs,
        "owner": each.owner,
    }


def _open(run: OpenRun, output: str) -> dict[str, Any]:
    who = None if run.member is None else f"{run.member.name or run.member.host}, pid {run.member.pid}"
    if who is None and run.session:
        who = "gone"
    first, last = run.offsets[0], run.offsets[-1]
    return {
        "topic": run.topic,
        "partition": run.partition,
        "offsets": list(run.offsets)
        if output == "json"
        else f"{first}"
        if first == last
        else f"{first}…{last}",
        "messages": len(run.offsets),
        "attempt": run.attempt,
        "state": run.state,
        "until": _time(run.until),
        "who": who,
    }


def _reset(each: Reset, output: str) -> dict[str, Any]:
    return {
        "topic": each.topic,
        "partition": each.partition,
        "from": each.before,
        "to": each.after,
        "dropped" if output == "json" else "were open": each.dropped,
    }


def _time(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds // 1_000_000, UTC)

"""``mamba-stream dlq``: dead letters, what became of them, and putting them back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mamba_stream.cli import FAILED
from mamba_stream.cli.options import log_option, open_place, output_option

if TYPE_CHECKING:
    from mamba_stream.cli.predicate import Where
    from mamba_stream.log import Log
    from mamba_stream.messaging.letters import DeadLetter

_Function = TypeVar("_Function", bound=Callable[..., Any])
_WIDEST = 60


@click.group()
def dlq() -> None:
    """Dead letters, messages that could not be done: list, show, redrive, purge."""


def _topics(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    from mamba_stream.errors import MambaStreamError
    from mamba_stream.messaging.letterbook import count_letters

    try:
        with open_place(context.params.get("place")) as log:
            names = [each.topic for each in count_letters(log)]
    except MambaStreamError:
        return []
    return [name for name in names if name.startswith(incomplete)]


def _where(function: _Function) -> _Function:
    return click.option(
        "--where",
        metavar="SQL",
        help="""Only letters for which this holds, as in "_dead.attempts > 3 AND event_type = 'order'".""",
    )(function)


def _offsets(function: _Function) -> _Function:
    chosen = click.option(
        "--offset", "offsets", type=click.IntRange(min=0), multiple=True, help="Only this letter. Repeatable."
    )(function)
    return click.option(
        "--partition",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="With --offset: of which partition.",
    )(chosen)


@dlq.command(
    name="list",
    epilog="\b\n"
    "mamba-stream dlq list\n"
    "mamba-stream dlq list emails.dead --where \"_dead.cause LIKE 'Timeout%'\"\n",
)
@click.argument("topic", required=False, shell_complete=_topics)
@_where
@click.option("--all", "every", is_flag=True, help="Also letters that were put back or purged.")
@click.option(
    "-n", "--rows", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many letters."
)
@output_option
@log_option
def list_letters(
    topic: str | None, where: str | None, every: bool, rows: int, output: str, place: str | None
) -> None:
    """List the letters of TOPIC, or without one the topics of dead letters."""
    from itertools import islice

    from mamba_stream.cli.printing import print_list
    from mamba_stream.messaging.letterbook import count_letters
    from mamba_stream.messaging.letters import letters

    with open_place(place) as log:
        if topic is None:
            if where is not None or every:
                raise click.UsageError("--where and --all choose letters: name their topic")
            back = "redriven" if output == "json" else "put back"
            counts = [
                {"topic": each.topic, "left": each.left, back: each.redriven, "purged": each.purged}
                for each in count_letters(log)
            ]
            print_list(counts, output, empty=f"no topics of dead letters in {log.place}")
            return
        found = letters(log, topic, where=_rule(log, topic, where), every=every)
        shown = [_json(each) if output == "json" else _row(each, every) for each in islice(found, rows)]
        print_list(shown, output, empty=f"no letters in {topic}")
        if left := sum(1 for _ in found):
            click.echo(f"and {left:,} more: --rows {rows + left} shows all", err=True)


@dlq.command()
@click.argument("topic", shell_complete=_topics)
@click.argument("offset", type=click.IntRange(min=0))
@click.option(
    "--partition", type=click.IntRange(min=0), default=0, show_default=True, help="Of which partition."
)
@output_option
@log_option
def show(topic: str, offset: int, partition: int, output: str, place: str | None) -> None:
    """Show one letter: what was sent, where it came from, why it could not be done."""
    from mamba_stream.cli.printing import encode, print_facts
    from mamba_stream.messaging.letters import letter

    with open_place(place) as log:
        found = letter(log, topic, partition, offset)
    facts = _json(found)
    if output == "json":
        click.echo(encode(facts))
    else:
        print_facts({**facts, "key": _text(found.key), "value": _text(found.value)}, output)


@dlq.command(
    epilog="\b\n"
    "mamba-stream dlq redrive emails.dead\n"
    "mamba-stream dlq redrive emails.dead --where \"_dead.cause LIKE 'Timeout%'\" --limit 100\n"
)
@click.argument("topic", shell_complete=_topics)
@_where
@_offsets
@click.option("--limit", type=click.IntRange(min=0), help="At most so many letters.")
@click.option("--to", help="Put them into this topic instead, which must have the same columns.")
@log_option
def redrive(
    topic: str,
    where: str | None,
    offsets: tuple[int, ...],
    partition: int,
    limit: int | None,
    to: str | None,
    place: str | None,
) -> int:
    """Put letters of TOPIC back to where they came from: each once, as a new message.

    However often this is run, and wherever it is interrupted, no letter goes back twice. They keep key, headers and
    time, and their attempts count anew.
    """
    from mamba_stream.messaging.redrive import redrive as put_back

    with open_place(place) as log:
        done = put_back(
            log,
            topic,
            where=_rule(log, topic, where),
            places=[(partition, offset) for offset in offsets] or None,
            limit=limit,
            to=to,
        )
    click.echo(f"put {_letters(done.letters)} back; {done.left:,} left in {topic}")
    for reason, count in done.stayed.items():
        click.echo(f"{_letters(count)} could not be put back: {reason}", err=True)
    if done.stayed and to is None:
        click.echo("--to TOPIC puts them elsewhere", err=True)
    return FAILED if done.stayed else 0


@dlq.command()
@click.argument("topic", shell_complete=_topics)
@_where
@_offsets
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@log_option
def purge(
    topic: str,
    where: str | None,
    offsets: tuple[int, ...],
    partition: int,
    yes: bool,
    place: str | None,
) -> None:
    """Do away with letters of TOPIC, and with what is kept of those that were put back."""
    from mamba_stream.messaging.letterbook import letter_book
    from mamba_stream.messaging.redrive import purge as do_away

    with open_place(place) as log:
        rule = _rule(log, topic, where)
        places = [(partition, offset) for offset in offsets] or None
        if not yes:
            which = "those" if where or offsets else "all"
            left = letter_book(log, topic).counts().left
            click.confirm(f"purge {which} of the {_letters(left)} left in {topic}?", abort=True, err=True)
        done = do_away(log, topic, where=rule, places=places)
    click.echo(f"purged {_letters(done.letters)}; {done.left:,} left in {topic}")


def _rule(log: Log, topic: str, where: str | None) -> Where | None:
    from mamba_stream.cli.predicate import Where

    return None if where is None else Where(where, log[topic])


def _row(letter: DeadLetter, every: bool) -> dict[str, Any]:
    return {
        "partition": letter.partition,
        "offset": letter.offset,
        **({"state": letter.state} if every else {}),
        "from": f"{letter.topic}/{letter.origin[0]}",
        "group": letter.group,
        "attempts": letter.attempts,
        "cause": _cut(letter.cause),
        "value": _cut(_text(letter.value)),
    }


def _json(letter: DeadLetter) -> dict[str, Any]:
    from datetime import UTC, datetime

    return {
        "partition": letter.partition,
        "offset": letter.offset,
        "state": letter.state,
        "origin": {"topic": letter.topic, "partition": letter.origin[0], "offset": letter.origin[1]},
        "group": letter.group,
        "attempts": letter.attempts,
        "cause": letter.cause,
        "died": letter.at,
        "event_type": letter.event_type,
        "time": None if letter.time is None else datetime.fromtimestamp(letter.time / 1e6, UTC),
        "priority": letter.priority,
        "headers": dict(letter.headers),
        "key": letter.key,
        "value": letter.value,
    }


def _text(value: Any) -> str:
    """A key or value, on a line."""
    return "" if value is None else value if isinstance(value, str) else repr(value)


def _cut(text: str) -> str:
    line = text.replace("\n", "\\n")
    return line if len(line) <= _WIDEST else line[: _WIDEST - 1] + "…"


def _letters(count: int) -> str:
    return f"{count:,} letter{'' if count == 1 else 's'}"

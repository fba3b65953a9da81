"""``mamba-stream subscribe``: messages as they come, one a line."""

from __future__ import annotations

import os
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from mamba_stream.cli.options import log_option, open_place, output_option, position, topic_argument

if TYPE_CHECKING:
    from mamba_stream.messaging.message import Message


@click.command(
    epilog="\b\n"
    "mamba-stream subscribe greetings\n"
    "mamba-stream subscribe 'orders.*' --group audit --start earliest --until empty -o json"
)
@topic_argument
@click.option(
    "--group", help="Share the messages with others of this group: each is received by one of them."
)
@click.option(
    "--start",
    callback=position,
    metavar="earliest|latest|TIME",
    default="latest",
    show_default=True,
    help="Where to begin, where the group has not begun yet.",
)
@click.option("-n", "--rows", type=click.IntRange(min=1), help="Stop after so many messages.")
@click.option(
    "--until",
    type=click.Choice(["stopped", "empty"]),
    default="stopped",
    show_default=True,
    help="When to end: with Ctrl-C, or once nothing is left.",
)
@output_option
@log_option
def subscribe(
    topic: str,
    group: str | None,
    start: str | int | datetime,
    rows: int | None,
    until: str,
    output: str,
    place: str | None,
) -> None:
    """Print the messages of TOPIC as they come; a topic that does not exist yet is waited for.

    TOPIC may be a pattern of names. A message that was printed is done, as far as its group goes.
    """
    from mamba_stream.cli.printing import encode
    from mamba_stream.messaging.subscriber import Subscriber

    if isinstance(start, int):
        raise click.UsageError(
            "--start: choose earliest, latest or a time; for an offset see mamba-stream consume"
        )
    left = rows
    with (
        open_place(place, create=True) as log,
        Subscriber(topic, log, group=group, start=start) as subscriber,
    ):

        def show(message: Message) -> None:
            nonlocal left
            text = encode(_facts(message)) if output == "json" else _line(message)
            try:
                sys.stdout.write(text + "\n")
                sys.stdout.flush()
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                subscriber.stop()
                return
            if left is not None:
                left -= 1
                if left == 0:
                    subscriber.stop()

        subscriber.subscribe(show)
        subscriber.run(until)


def _facts(message: Message) -> dict[str, Any]:
    return {
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "time": message.time,
        "key": message.key,
        "headers": message.headers,
        "event_type": message.event_type,
        "value": message.value,
    }


def _line(message: Message) -> str:
    value = message.value if isinstance(message.value, str) else repr(message.value)
    line = value.replace("\n", "\\n")
    return line if message.key is None else f"{message.key}: {line}"

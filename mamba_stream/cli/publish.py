"""``mamba-stream publish``: messages from the command line, or lines of standard input."""

from __future__ import annotations

import sys

import click

from mamba_stream.cli.options import log_option, open_place, topic_argument


@click.command(
    epilog="\b\n"
    'mamba-stream publish greetings "Hello, world!"\n'
    "mamba-stream publish orders --json --key 7 --header region=eu '{\"total\": 12.5}'\n"
    "tail -f access.log | mamba-stream publish lines"
)
@topic_argument
@click.argument("value", required=False)
@click.option("--key", help="Messages of one key go to one partition, and stay in order.")
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="A header. Repeatable.")
@click.option("--event-type", help="What kind of event it is.")
@click.option("--delay", metavar="DURATION", help="It is not delivered for so long: 30s, 5m, 1h30m.")
@click.option("--json", "as_json", is_flag=True, help="Values are JSON, and received as what that means.")
@log_option
def publish(
    topic: str,
    value: str | None,
    key: str | None,
    headers: tuple[str, ...],
    event_type: str | None,
    delay: str | None,
    as_json: bool,
    place: str | None,
) -> None:
    """Publish VALUE to TOPIC as a message, or without VALUE each line of standard input.

    The topic, and the log, are created if missing. When it ends, what was published is durable.
    """
    from typing import Any

    import msgspec

    from mamba_stream.cli.interrupting import interruptible
    from mamba_stream.core.durations import duration_us
    from mamba_stream.errors import InvalidInput
    from mamba_stream.messaging.publisher import Publisher

    pairs = [header.partition("=") for header in headers]
    if any(not name or not equals for name, equals, _ in pairs):
        raise click.UsageError("--header takes NAME=VALUE, as in --header region=eu")

    def told(text: str) -> Any:
        if not as_json:
            return text
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            raise click.UsageError(f"{text[:60]!r} is not JSON: {error}") from error

    if delay is not None:
        try:
            duration_us(delay, what="delay")
        except InvalidInput as error:
            raise click.UsageError(str(error)) from error
    count = 0
    lines = (line.rstrip("\n") for line in sys.stdin) if value is None else [value]
    with open_place(place, create=True) as log, Publisher(topic, log) as publisher:
        if value is None:
            interruptible()
        for line in lines:
            try:
                publisher.publish(
                    told(line),
                    key=key,
                    headers={name: text for name, _, text in pairs} or None,
                    event_type=event_type,
                    delay=delay,
                )
            except (InvalidInput, click.UsageError) as error:
                if value is not None:
                    raise
                # Those before it are durable when the command has ended.
                publisher.flush()
                raise InvalidInput(f"line {count + 1}: {error}; published before it: {count:,}") from error
            count += 1
    click.echo(f"{count:,} message{'' if count == 1 else 's'} published to {topic}", err=True)

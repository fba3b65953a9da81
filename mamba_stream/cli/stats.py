"""``mamba-stream stats``: the six figures of every queue, once or again and again."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from mamba_stream.cli.options import log_option, open_place, output_option

if TYPE_CHECKING:
    from mamba_stream.messaging.statistics import GroupStatistics, QueueStatistics, TopicStatistics

_EVERY = 2.0


@click.command(
    epilog="\b\n"
    "backlog    messages that are still to be done; of a topic, by its slowest group\n"
    "per s      messages by the second over the last minute: appended, or acknowledged\n"
    "consumers  clients that receive\n"
    "p50, p99   from appended to acknowledged, over the last minute\n"
    "producers  clients that send\n"
    "size       what it takes on disk"
)
@click.argument("topic", required=False)
@click.option("-w", "--watch", is_flag=True, help="Show them again every two seconds, until Ctrl-C.")
@output_option
@log_option
def stats(topic: str | None, watch: bool, output: str, place: str | None) -> None:
    """Show the figures of every topic and group, or of TOPIC and its groups."""
    from mamba_stream.messaging.statistics import queue_statistics

    with open_place(place) as log:
        if topic is not None:
            # Says in the log's words where there is none.
            log[topic]
        while True:
            found = queue_statistics(log)
            if watch and output == "table":
                click.clear()
            try:
                _show(found, topic, output)
                sys.stdout.flush()
            except BrokenPipeError:
                # Whoever read it has seen enough, as `head` has.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return
            if not watch:
                return
            time.sleep(_EVERY)


def _show(found: QueueStatistics, topic: str | None, output: str) -> None:
    from mamba_stream.cli.printing import encode, print_list

    topics = [each for each in found.topics if topic in (None, each.topic)]
    groups = [each for each in found.groups if topic is None or topic in each.topics]
    if output == "json":
        click.echo(
            encode(
                {
                    "at": found.at,
                    "topics": [asdict(each) for each in topics],
                    "groups": [asdict(each) for each in groups],
                }
            )
        )
        return
    print_list([_topic(each) for each in topics], output, empty="no topics")
    print_list([_group(each) for each in groups], output, empty="no groups")


def _topic(each: TopicStatistics) -> dict[str, Any]:
    return {
        "topic": each.topic,
        "backlog": "" if each.backlog is None else each.backlog,
        **_figures(each),
        "messages": each.messages,
        "size": _size(each.bytes),
    }


def _group(each: GroupStatistics) -> dict[str, Any]:
    return {
        "group": each.group,
        "backlog": each.backlog,
        **_figures(each),
        "topics": len(each.topics),
        "size": _size(each.bytes),
        "": "paused" if each.paused else "",
    }


def _figures(each: TopicStatistics | GroupStatistics) -> dict[str, Any]:
    return {
        "per s": f"{each.per_second:,.1f}",
        "consumers": each.consumers,
        "p50": _seconds(each.latency_p50),
        "p99": _seconds(each.latency_p99),
        "producers": each.producers,
    }


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:,.1f} s"


def _size(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"

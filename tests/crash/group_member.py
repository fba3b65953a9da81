"""One consumer of a group, as a process of its own that is killed at any moment.

    python -m tests.crash.group_member LOG JOURNAL

writes a line ``partition offset generation time`` for every message that it is handed, before it asks for the next;
times are those of the machine's monotonic clock, which all processes share. What comes from partition 0 also goes to the
topic ``out``, in a transaction with its offset.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import mamba_stream as mamba


def stop(*_: object) -> None:
    raise SystemExit(0)


def main(log: str, journal: str) -> None:
    """Consumes until it is told to stop."""
    file = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    signal.signal(signal.SIGTERM, stop)
    with mamba.Consumer(log, group="storm", commit="50ms", session_timeout="1s") as consumer:
        consumer.subscribe("work")
        membership, number = consumer._feed._membership, consumer._log["work"].number
        os.write(file, b"here\n")
        for message in consumer.consume():
            generation = membership.generation((number, message.partition))
            line = f"{message.partition} {message.offset} {generation} {time.monotonic_ns()}\n"
            os.write(file, line.encode())
            if message.partition == 0:
                try:
                    with message.transaction() as tx:
                        tx.append("out", [{"offset": message.offset}])
                except mamba.StaleLease:
                    continue


if __name__ == "__main__":
    main(*sys.argv[1:])

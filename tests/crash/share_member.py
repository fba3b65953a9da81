"""A subscriber of a shared group in the crash tests: a process of its own, which is killed.

    python -m tests.crash.share_member LOG JOURNAL

Half of the messages it does in a transaction with a row of output; of the others it writes a line to its journal
before it returns. Some fail the first time, a few for ever.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import mamba_stream as mamba
from tests.crash.share import ATTEMPTS, GROUP, VISIBILITY, is_hopeless, is_transactional, is_weak


def main(log: str, journal: str) -> None:
    with mamba.open(log) as opened, Path(journal).open("a", buffering=1) as lines:
        subscriber = mamba.Subscriber(
            "work",
            opened,
            group=GROUP,
            concurrency=2,
            visibility=VISIBILITY,
            attempts=ATTEMPTS,
            backoff=("1ms", "20ms"),
            start="earliest",
        )
        signal.signal(signal.SIGTERM, lambda *_: subscriber.stop())

        def handle(message: mamba.Message) -> None:
            number = message.value
            if is_hopeless(number):
                raise mamba.Reject("hopeless")
            if is_weak(number) and message.attempt == 1:
                raise ValueError("not yet")
            if is_transactional(number):
                with message.transaction() as tx:
                    tx.append("out", [{"number": number}])
            else:
                lines.write(f"{number} {message.key}\n")

        subscriber.subscribe(handle)
        lines.write("here\n")
        subscriber.run()
        subscriber.close()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The process that runs a scenario's job: ``python -m tests.runtime.workers.coordinator LOG SCENARIO WORKERS``.

It is the same command however often it is killed. Each line of its standard input is a number of workers to go on with.
"""

from __future__ import annotations

import sys
import threading

import mamba_stream as mamba
from tests.runtime.workers.scenarios import SCENARIOS


def main(place: str, name: str, workers: str) -> None:
    with mamba.open(place) as log:
        # Where one would do it faster, too.
        count = 1 if workers == "1" else f"exactly:{workers}"
        job = mamba.start(SCENARIOS[name].build(), log=log, workers=count, commit="50ms")

        def follow() -> None:
            for line in sys.stdin:
                job.rescale(int(line))

        threading.Thread(target=follow, daemon=True).start()
        print("running", flush=True)
        job.wait()
        print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

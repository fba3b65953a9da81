"""A process that does upkeep once, with small pieces, from the moment at which it is let go on.

``python -m tests.crash.upkeep_run LOG NOW [PLANT]``: stops itself once everything is imported. ``NOW`` is the time by
which it works. A ``PLANT`` is a defect that the test must find.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from mamba_stream.log import Log, compacting, joining, publishing, repacking, sealing
from mamba_stream.log.store import acquire
from tests.log.test_retaining import HandClock


def small() -> dict[Any, dict[str, int]]:
    """Sizes, by module, that make many pieces of a small log."""
    return {
        compacting: {"UNIT_BYTES": 2_000},
        joining: {"MERGED_ROWS": 6},
        sealing: {"SEGMENT_BYTES": 3_000, "_LEAST_SEGMENT": 3_000},
    }


def plant(name: str) -> None:
    """Has upkeep do something wrong."""
    if name == "deletion first":
        units = compacting._units
        compacting._units = lambda batches: iter([*units(batches)][::-1])  # type: ignore[assignment]
    elif name == "removed at once":
        publish = repacking.publish

        def and_removed(store: Any, segment: Any, *arguments: Any) -> None:
            for placed in segment.batches:
                kind = placed.entry.kind
                publishing.files.path_of(store.files, placed.entry.file, kind).unlink(missing_ok=True)
            publish(store, segment, *arguments)

        repacking.publish = and_removed
    elif name:
        raise ValueError(name)


def main(path: str, now: str, planted: str = "") -> None:
    for module, names in small().items():
        for name, value in names.items():
            setattr(module, name, value)
    plant(planted)
    clock = HandClock()
    clock.at = int(now)
    os.kill(os.getpid(), signal.SIGSTOP)
    with Log(acquire(Path(path), clock)) as log:
        while not log.maintain(budget=4_000).done:
            pass


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Opens what a power loss may have left of a log that was being kept up: as :mod:`tests.crash.powerloss`, with its arguments."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from mamba_stream.errors import MambaStreamError
from mamba_stream.log import recovery
from tests.crash import disk, powerloss
from tests.crash.upkeep_run import Rows
from tests.crash.upkept import Upkept
from tests.log.handclock import HandClock


def main() -> None:
    recovery.TRASH_DELAY = 0
    trace = Path(sys.argv[1]).read_bytes()
    marks = {m["what"]: m for m in map(_told, disk.calls(trace)) if m is not None}
    clock = HandClock()
    clock.at = marks["filled"]["now"]
    known = Upkept(clock, _rows(marks["filled"]), _rows(marks["done"]))

    def hear(call: disk.Call) -> None:
        event = json.loads(call.data)
        known.told.add(event["what"])
        if "lsn" in event:
            known.backed_up.add(event["lsn"])

    def wrong(where: Path) -> list[str]:
        try:
            return known.wrong(where / "log")
        except (MambaStreamError, AssertionError) as error:
            return [f"{type(error).__name__}: {error}"]
        finally:
            shutil.rmtree(where, ignore_errors=True)

    powerloss.replay(hear, wrong)


def _told(call: disk.Call) -> dict[str, Any] | None:
    return json.loads(call.data) if call.kind == disk.MARK else None


def _rows(mark: dict[str, Any]) -> Rows:
    return {name: [(p, o, tuple(row)) for p, o, row in rows] for name, rows in mark["rows"].items()}


if __name__ == "__main__":
    main()

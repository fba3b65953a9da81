"""Opens what a power loss may have left, again and again, and checks it: a process of its own.

    python -m tests.crash.powerloss TRACE ROOT SEED WHERE < states

``states`` are lines of JSON, ``[cut, seed]`` in the order of cuts: how many calls of the trace came before, and
what all chance in that state comes from. Every state is answered by a line as it begins, and one with what is
wrong; a process that dies has shown where.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mamba_stream.errors import MambaStreamError
from mamba_stream.log import open_log
from tests.crash import disk, planting
from tests.crash.checker import History, doctor, look, violations
from tests.crash.workload import SCHEMA, SHARED, Operation, Part, rows_of, table_of

_AFTERWARDS = Operation(99, 0, "append", (Part(0, SHARED, 0, 5),))


def main() -> None:
    planting.tune()
    history = History(int(sys.argv[3]))
    replay(lambda call: history.feed(json.loads(call.data)), lambda where: problems(where / "log", history))


def replay(heard: Callable[[disk.Call], object], wrong_at: Callable[[Path], list[str]]) -> None:
    """Builds the states that standard input asks for, one after the other.

    Args:
        heard: Takes in what a writer wrote into the trace, before what came after it is looked at.
        wrong_at: What is wrong with the state in a directory.
    """
    trace, root, where = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[4])
    planting.boot_anew()
    wanted = [tuple(json.loads(line)) for line in sys.stdin]
    state = disk.Disk(root)
    position = 0
    calls = disk.calls(trace.read_bytes())
    for cut, chance in wanted:
        while position < cut:
            call = next(calls)
            state.call(call)
            if call.kind == disk.MARK:
                heard(call)
            position += 1
        print(json.dumps({"begin": [cut, chance]}), flush=True)
        shutil.rmtree(where, ignore_errors=True)
        state.lose_power(random.Random(chance), where)
        wrong = wrong_at(where)
        print(json.dumps({"end": [cut, chance], "wrong": wrong}), flush=True)
    for call in calls:
        state.call(call)
    print(json.dumps({"unrecorded": sorted(state.unrecorded)}), flush=True)


def problems(path: Path, history: History) -> list[str]:
    """What is wrong with the log in this state; it must also take more."""
    try:
        with open_log(path) as log:
            sight = look(log)
            wrong = violations(sight, history.after_outage(sight.lsn))
            topic = log.create_topic(SHARED, SCHEMA, exist_ok=True)
            [(first, following)] = topic.append(
                table_of(history.seed, _AFTERWARDS, _AFTERWARDS.parts[0])
            ).values()
            expected = [row[3:5] for row in rows_of(history.seed, 99, 0, 0, 5)]
            found: list[Any] = []
            for batch in topic.read(start=first):
                found += zip(batch.data["row"].to_pylist(), batch.data["text"].to_pylist(), strict=True)
            if found != expected or following - first != 5:
                wrong.append(f"appended afterwards at {first} to {following}: {expected}, read: {found}")
    except MambaStreamError as error:
        return [f"{type(error).__name__}: {error}"]
    return wrong + doctor(path)


if __name__ == "__main__":
    main()

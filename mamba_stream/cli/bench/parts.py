"""Parts of a benchmark that run as processes of their own: the functions ``part_...`` of its module."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mamba_stream.cli.bench.measuring import environment

_PART = "--part"


class Parts:
    """The parts of one file, which is run again for each with ``--part NAME ARGUMENT ...``.

    Args:
        file: The benchmark's file.
        names: What it defines; a part takes texts and gives what it found out, as JSON has it.
    """

    def __init__(self, file: str, names: Mapping[str, Any]) -> None:
        self._file = file
        self._parts: dict[str, Callable[..., Mapping[str, Any]]] = {
            name.removeprefix("part_"): value for name, value in names.items() if name.startswith("part_")
        }

    def asked(self) -> bool:
        """Whether this process is one of a part, which has been done then, and told what it found."""
        if sys.argv[1:2] != [_PART]:
            return False
        sys.stdout.write(json.dumps(self._parts[sys.argv[2]](*sys.argv[3:])) + "\n")
        sys.stdout.flush()
        return True

    @contextmanager
    def running(self, part: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
        """A part's process, waited for at the end, when it can read no more; where something fails, nobody is left."""
        with subprocess.Popen(
            [sys.executable, self._file, _PART, part, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        ) as process:
            try:
                yield process
            except BaseException:
                process.kill()
                raise

    def found(self, part: str, *arguments: object) -> dict[str, Any]:
        """What a part found out."""
        with self.running(part, *arguments) as process:
            found: dict[str, Any] = json.loads(line_of(process))
        return found


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line that a process says.

    Raises:
        SystemExit: It ended instead.
    """
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"a part of the benchmark failed: {process.args!r}")
    return line

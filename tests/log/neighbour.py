"""A second process with a desk of its own, driven over pipes; and other processes that tests need.

Run as a script it is that process: it reads commands from standard input until it ends.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO, Self

import msgspec

from tests import forking
from tests.children import CHILDREN

_LENGTH = struct.Struct("<I")


def environment() -> dict[str, str]:
    """What a child needs to import what this process imports, but for pandas."""
    return importing(str(CHILDREN), *sys.path)


def importing(*path: str) -> dict[str, str]:
    """The environment of a child that imports from there."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}


def script(code: str, *arguments: object, **options: Any) -> forking.Process:
    """A Python process that runs the code, with text pipes."""
    return forking.Process(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **{"env": environment(), **options},
    )


def finished(process: forking.Process, timeout: float = 60) -> str:
    """What a process printed, once it has ended well."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, f"exit status {process.returncode}: {err}"
    return out


class Neighbour:
    """Another process at the same log."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=importing(*sys.path),
        )

    def do(self, command: dict[str, Any]) -> dict[str, Any]:
        self.send(command)
        return self.answer()

    def send(self, command: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        _put(self.process.stdin, command)

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer = _take(self.process.stdout)
        assert answer is not None, f"the neighbour died with {self.process.wait()}"
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _put(pipe: BinaryIO, value: dict[str, Any]) -> None:
    data = msgspec.msgpack.encode(value)
    pipe.write(_LENGTH.pack(len(data)) + data)
    pipe.flush()


def _take(pipe: BinaryIO) -> dict[str, Any] | None:
    prefix = pipe.read(_LENGTH.size)
    if len(prefix) < _LENGTH.size:
        return None
    value: dict[str, Any] = msgspec.msgpack.decode(pipe.read(_LENGTH.unpack(prefix)[0]))
    return value


def _main() -> None:
    from tests.log.desk import Desk

    desk = Desk()
    pipes = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not disturb the answers
    while (command := _take(sys.stdin.buffer)) is not None:
        _put(pipes, desk.do(command))
    desk.close()


if __name__ == "__main__":
    _main()

"""Writers in milliseconds instead of the second that importing takes: a process that imports, and forks.

It never opens a log and computes nothing. What threads importing has started (the allocators' own, which
survive a fork, and an idle one of Polars) hold no lock that a writer needs. Requests and answers are lines of
JSON; a child is reaped only when asked for, so that its number cannot pass to another process before.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

_PR_SET_PTRACER = 0x59616D61
_ANY = ctypes.c_ulong(-1)


class Nursery:
    """The parent's end."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )

    def begin(
        self,
        arguments: list[str],
        *,
        errors: Path,
        plant: str = "",
        stopped: bool = False,
        program: str = "writer",
    ) -> int:
        """Starts a process with these arguments, and returns its number.

        With ``stopped`` it stops itself before it touches the log, to be traced. The program is ``writer`` or ``storm``.
        """
        question = {"begin": arguments, "errors": str(errors), "plant": plant, "stopped": stopped}
        return self._ask({**question, "program": program})

    def poll(self, pid: int) -> int | None:
        """The writer's exit code (negative: the signal that ended it), or ``None`` while it lives."""
        return self._ask({"poll": pid})

    def wait(self, pid: int) -> int:
        """The same, once it has ended."""
        return self._ask({"wait": pid})

    def close(self) -> None:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.close()
        self._popen.wait()
        self._popen.stdout.close()

    def _ask(self, question: dict[str, Any]) -> Any:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.write(json.dumps(question).encode() + b"\n")
        self._popen.stdin.flush()
        return json.loads(self._popen.stdout.readline())


def main() -> None:
    """The nursery's end."""
    from tests.crash import storm, writer  # imported once, for all children

    programs = {"writer": writer.main, "storm": storm.main}

    # Later Pythons warn of any fork beside threads.
    warnings.simplefilter("ignore", DeprecationWarning)
    _import_what_is_used(writer.warm)
    alive: set[int] = set()
    try:
        for line in sys.stdin.buffer:
            question = json.loads(line)
            if "begin" in question:
                pid = os.fork()
                if pid == 0:
                    _live(programs[question["program"]], question)
                alive.add(pid)
                answer: int | None = pid
            else:
                pid = question.get("wait") or question["poll"]
                found, status = os.waitpid(pid, 0 if "wait" in question else os.WNOHANG)
                answer = os.waitstatus_to_exitcode(status) if found else None
                if found:
                    alive.discard(pid)
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
    finally:
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _import_what_is_used(use: Callable[[], None]) -> None:
    """Imports what a child imports once it writes, and what would be taken for the log's own system calls."""
    source, target = os.pipe()
    child = os.fork()
    if child == 0:
        use()
        os.write(target, "\n".join(sys.modules).encode())
        os._exit(0)
    os.close(target)
    with os.fdopen(source) as names:
        for name in names.read().split("\n"):
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    os.waitpid(child, 0)


def _live(run: Any, question: dict[str, Any]) -> NoReturn:
    code = 1
    try:
        for target, path, flags in (
            (0, "/dev/null", os.O_RDONLY),
            (1, "/dev/null", os.O_WRONLY),
            (2, question["errors"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        ):
            fd = os.open(path, flags, 0o644)
            os.dup2(fd, target)
            os.close(fd)
        code = run(question["begin"], question["plant"], _stop if question["stopped"] else None)
    except BaseException:  # whatever it is, the child must end here
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _stop() -> None:
    # Where the system lets only parents trace, let anybody.
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANY, 0, 0, 0)
    os.kill(os.getpid(), signal.SIGSTOP)


if __name__ == "__main__":
    main()

"""Python processes for tests in a tenth of the time: one that has imported what they use forks them.

:class:`Process` and :func:`run` take what ``subprocess`` takes for ``python -m MODULE ...``, ``python -c CODE ...`` and
``python FILE ...``, and stand for what it gives. What such a process is tested for may be all it does, but not how Python
starts, nor what the system does for a program (``LD_PRELOAD``, variables that libraries read when they are loaded).
Options for Python that would tell are refused.

Run as a script this is the process that forks. It computes nothing: what threads importing has started (allocators' own,
and an idle one of Polars) hold no lock that a child needs.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import IO, Any, Final, Self, cast

from tests.children import CHILDREN

_LARGEST: Final = 1 << 17
"""Bytes of a question."""
_FILES: Final = 16
_HIGH: Final = 200
"""No child is to be passed a file of this number or a higher one."""
_USED: Final = """
    polars polars.testing pyarrow pyarrow.compute pyarrow.parquet numpy runpy tempfile random
    mamba_stream.dsl.opening mamba_stream.dsl.pipelines mamba_stream.dsl.running
    mamba_stream.dsl.sources mamba_stream.dsl.streams mamba_stream.dsl.windows
    mamba_stream.dsl.joinverbs mamba_stream.dsl.neighbours mamba_stream.log mamba_stream.log.doctor
    mamba_stream.log.examination mamba_stream.log.maintaining mamba_stream.log.remote.storage
    mamba_stream.messaging.aio mamba_stream.messaging.consumer mamba_stream.messaging.producer
    mamba_stream.messaging.publisher mamba_stream.messaging.subscriber mamba_stream.runtime.starting
    mamba_stream.runtime.workers.processes mamba_connectors mamba_pipelines
""".split()
"""What is imported before: the more of what a child needs, the sooner it begins."""


class Process:
    """A process, as ``subprocess.Popen`` shows one."""

    def __init__(
        self,
        args: Sequence[object],
        *,
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        text: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.args = [str(each) for each in args]
        self.returncode: int | None = None
        with contextlib.ExitStack() as theirs:
            read, self.stdin = _end(stdin, 0, theirs, text=text)
            write, self.stdout = _end(stdout, 1, theirs, text=text)
            errors, self.stderr = (
                (write, None) if stderr == subprocess.STDOUT else _end(stderr, 2, theirs, text=text)
            )
            question = {
                "args": _asked(self.args),
                "env": dict(os.environ if env is None else env),
                "cwd": os.fspath(cwd or os.getcwd()),
                "files": [0, 1, 2, *pass_fds],
            }
            self._nest = _nest()
            self.pid: int = self._nest.ask(question, [read, write, errors, *pass_fds])
        self._ended = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        """Its exit code (negative: the signal that ended it), or ``None`` while it lives."""
        if self.returncode is None and self._over(0):
            self.returncode = self._nest.ask({"reap": self.pid})
            os.close(self._ended)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The same, once it has ended."""
        if self.returncode is None and not self._over(timeout):
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return cast("int", self.poll())

    def communicate(self, timeout: float | None = None) -> tuple[Any, Any]:
        """What it writes until it ends; it is killed where that takes too long."""
        if self.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.stdin.close()
        with ThreadPoolExecutor(2) as readers:
            read = [
                pipe if pipe is None or pipe.closed else readers.submit(pipe.read)
                for pipe in (self.stdout, self.stderr)
            ]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                self.wait()
                raise
        self._close()
        out, errors = (each.result() if isinstance(each, Future) else None for each in read)
        return out, errors

    def send_signal(self, number: int) -> None:
        """Sends it a signal, as long as it is there."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills it."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Asks it to end."""
        self.send_signal(signal.SIGTERM)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        self.wait()

    def _over(self, timeout: float | None) -> bool:
        poll = select.poll()
        poll.register(self._ended, select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))

    def _close(self) -> None:
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe is not None:
                pipe.close()


def run(
    args: Sequence[object],
    *,
    input: Any = None,  # noqa: A002 - as subprocess.run calls it
    capture_output: bool = False,
    text: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """Has a process do something to its end, as ``subprocess.run`` does."""
    with contextlib.ExitStack() as files:
        given, out, errors = (files.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        if input is not None:
            given.write(input.encode() if text else input)
            given.seek(0)
            options["stdin"] = given
        if capture_output:
            options |= {"stdout": out, "stderr": errors}
        process = Process(args, **options)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        written = []
        for file in (out, errors):
            file.seek(0)
            data = file.read()
            written.append(data.decode() if text else data)
    done = subprocess.CompletedProcess(process.args, code, *(written if capture_output else [None, None]))
    if check:
        done.check_returncode()
    return done


def _asked(args: list[str]) -> dict[str, Any]:
    """What was asked for, of what Python can be."""
    python, *rest = args
    found: dict[str, Any] = {"unbuffered": False, "strict": False}
    if rest[:1] == ["-u"]:
        found["unbuffered"] = rest.pop(0) == "-u"
    if rest[:2] == ["-W", "error"]:
        found["strict"], rest = True, rest[2:]
    kind, what, *arguments = ["", *rest] if rest[0].endswith(".py") else rest
    if python != sys.executable or kind not in ("-m", "-c", ""):
        raise ValueError(f"only `python [-u] [-W error]` with -m, -c or a file can be forked, not {args[:5]}")
    return {**found, "kind": kind, "what": what, "arguments": arguments}


def _end(given: Any, number: int, theirs: contextlib.ExitStack, *, text: bool) -> tuple[int, IO[Any] | None]:
    """The child's end of what was asked for, and ours, if it is a pipe."""
    if given is None:
        return number, None
    if given == subprocess.DEVNULL:
        null = os.open(os.devnull, os.O_RDWR)
        theirs.callback(os.close, null)
        return null, None
    if given != subprocess.PIPE:
        return given if isinstance(given, int) else given.fileno(), None
    read, write = os.pipe()
    child, own = (read, write) if number == 0 else (write, read)
    theirs.callback(os.close, child)
    mode = ("w" if number == 0 else "r") + ("" if text else "b")
    return child, os.fdopen(own, mode)


class _Nest:
    """The end of who asks for processes."""

    def __init__(self) -> None:
        self._asking = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forking", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(CHILDREN), *sys.path]))},
            )

    def ask(self, question: dict[str, Any], files: Sequence[int] = ()) -> int:
        data = json.dumps(question).encode()
        assert len(data) < _LARGEST
        with self._asking:
            if files:
                socket.send_fds(self._socket, [data], list(files))
            else:
                self._socket.send(data)
            return int(json.loads(self._socket.recv(64)))

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


@functools.cache
def _nest() -> _Nest:
    made = _Nest()
    atexit.register(made.close)
    return made


def begin() -> None:
    """Starts the process that forks, which stays: for who counts what tests leave behind."""
    _nest()


# --- the process that forks -------------------------------------------------------------------------------------


def _prepare() -> None:
    # Later Pythons warn of any fork beside threads.
    warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")
    for name in _USED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _asked_for(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Answers until it is the child of a question that it returns from; ``None`` once nobody asks any more."""
    alive: set[int] = set()
    while True:
        data, files, _, _ = socket.recv_fds(connection, _LARGEST, _FILES)
        if not data:
            break
        question = json.loads(data)
        if "reap" in question:
            _, status = os.waitpid(question["reap"], 0)
            alive.discard(question["reap"])
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if not answer:
                connection.close()
                return question, files
            alive.add(answer)
            for file in files:
                os.close(file)
        connection.send(json.dumps(answer).encode())
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return None


def _become(question: dict[str, Any], files: list[int]) -> None:
    """Does what Python would do with these arguments."""
    high = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, _HIGH) for file in files]
    for file in files:
        os.close(file)
    for number, file in zip(question["files"], high, strict=True):
        os.dup2(file, number)
        os.close(file)
    os.chdir(question["cwd"])
    os.environ.clear()
    os.environ.update(question["env"])
    asked = question["args"]
    if asked["unbuffered"]:
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    if asked["strict"]:
        warnings.simplefilter("error")
    sys.argv = [asked["what"], *asked["arguments"]]
    if asked["kind"] == "-m":
        runpy.run_module(asked["what"], run_name="__main__", alter_sys=True)
        return
    if not asked["kind"]:
        sys.path.insert(0, os.path.dirname(os.path.abspath(asked["what"])))
        runpy.run_path(asked["what"], run_name="__main__")
        return
    sys.argv[0] = "-c"
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    exec(compile(asked["what"], "<string>", "exec", dont_inherit=True), main.__dict__)


if __name__ == "__main__":
    _prepare()
    asked = _asked_for(socket.socket(fileno=int(sys.argv[1])))
    if asked is not None:
        _become(*asked)

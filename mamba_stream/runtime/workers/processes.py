"""Workers as processes of this machine: each is started anew by Python itself, never forked, and dies with this one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from mamba_stream.errors import InvalidInput
from mamba_stream.log import Log
from mamba_stream.log.registry import Registry
from mamba_stream.log.store import Store, acquire
from mamba_stream.log.ways import way_to
from mamba_stream.plan.pipeline import Pipeline
from mamba_stream.runtime.options import RunOptions
from mamba_stream.runtime.processors import processors
from mamba_stream.runtime.workers.echo import Echo
from mamba_stream.runtime.workers.executor import Hear
from mamba_stream.runtime.workers.messages import Failed, Gone, Order, Quit, Report
from mamba_stream.runtime.workers.shipping import Shipment, pack
from mamba_stream.runtime.workers.wire import Wire

_BOOT: Final = (
    "import gc, json, sys\n"
    "gc.disable()\n"
    "sys.path[:] = json.load(sys.stdin)\n"
    "from mamba_stream.runtime.workers.child import main\n"
    "gc.freeze()\n"
    "gc.enable()\n"
    "main(*map(int, sys.argv[1:]))\n"
)
"""What Python runs in a worker's process: no file and no module, which might be found elsewhere there.

Modules are there for good: garbage is not looked for among them, neither while they are imported nor later.
"""
_THREADS: Final = "POLARS_MAX_THREADS"
_ARENAS: Final = "MALLOC_ARENA_MAX"
_LAST_COMMIT: Final = 30.0
"""Seconds that the last commit of an ended process may take."""
_LAST_WORDS: Final = 2.0
"""Seconds that the reading of what an ended process has said may take."""
_END: Final = 60.0


class ProcessExecutor:
    """Starts the workers of a job as processes, which read and write the log themselves.

    The index of a directory is written by this process alone, for all of them.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        log: Log,
        options: RunOptions,
        *,
        partitions: int,
        run: int,
        workers: int,
        schemas: Mapping[str, int],
        environment: dict[str, str] | None = None,
    ) -> None:
        """Packs what workers are sent; none is started yet.

        Args:
            pipeline: The pipeline.
            log: Its log.
            options: How the job is run.
            partitions: How many tasks a stage behind a shuffle has.
            run: The number of the job's run.
            workers: How many there will be, which share the processors.
            schemas: By name the schemas of the topics that it was planned for: workers that come later go by them.
            environment: Theirs, instead of this process's.

        Raises:
            PipelineRefused: Something in the pipeline cannot be sent to another process.
        """
        way = way_to(log)
        self._packed = pack(Shipment(pipeline, way, options, partitions, run, schemas))
        self._name = pipeline.name
        self.workers = workers
        """How many workers there will be; those that are started from now on reckon with so many."""
        self._environment = dict(os.environ) if environment is None else environment
        self._path = list(sys.path)
        self._directory = _working_directory()
        self._store: Store | None = acquire(Path(way.place)) if way.is_directory else None
        self._hands: set[_Process] = set()
        self._door = threading.Lock()
        self._closed = False

    def start(self, worker: int, hear: Hear) -> _Process:
        with self._door:
            assert not self._closed
            hand = _Process(f"{self._name}: worker {worker}", self._launch, self._packed, hear, self._left)
            self._hands.add(hand)
        hand.begin()
        return hand

    def close(self) -> None:
        with self._door:
            self._closed = True
            hands = list(self._hands)
        for hand in hands:
            hand.kill()
        for hand in hands:
            hand.wait(_END)
        with self._door:
            store, self._store = self._store, None
        if store is not None:
            store.sweep()
            store.release()

    def _left(self, hand: _Process) -> None:
        with self._door:
            self._hands.discard(hand)

    def _launch(self) -> _Launched:
        """Starts a process. The thread that does it has to live as long as the process shall."""
        ours, theirs = socket.socketpair()
        commits, their_commits = socket.socketpair()
        with contextlib.ExitStack() as failing, theirs, their_commits:
            failing.enter_context(ours)
            failing.enter_context(commits)
            passed = (theirs.fileno(), their_commits.fileno())
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, *map(str, passed)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # Ctrl-C at a terminal is for this process.
                start_new_session=True,
                cwd=self._directory,
                env=self._their_environment(),
                pass_fds=passed,
            )
            failing.pop_all()
        registry = None
        if self._store is None:
            commits.close()
        else:
            registry = Registry(self._store, commits)
            registry.start()
        assert process.stdin is not None
        # It fits into the pipe: nobody has to wait. A process that is gone already is found out elsewhere.
        with contextlib.suppress(OSError), process.stdin as told:
            told.write(json.dumps(self._path).encode())
        return _Launched(process, Wire(ours), registry)

    def _their_environment(self) -> dict[str, str]:
        # Together they are to have as many threads as there are processors; and a heap for every thread would be
        # reserved many times over.
        ours = {_THREADS: str(max(1, processors() // self.workers)), _ARENAS: "4"}
        return {**ours, **self._environment}


class _Launched:
    """A process that was started, and the lines to it."""

    def __init__(self, process: subprocess.Popen[bytes], wire: Wire, registry: Registry | None) -> None:
        self.process = process
        self.wire = wire
        self.registry = registry


class _Process:
    """A worker's process from its start to its end, seen from the pool."""

    def __init__(
        self,
        name: str,
        launch: Callable[[], _Launched],
        packed: bytes,
        hear: Hear,
        left: Callable[[_Process], None],
    ) -> None:
        self._name = name
        self._launch = launch
        self._packed = packed
        self._hear = hear
        self._left = left
        self._orders: SimpleQueue[Order | None] = SimpleQueue()
        self._door = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False
        self._settled = threading.Event()
        """Whether nothing of it can be committed any more."""
        self._expected = False
        """Whether it has said, or was told, that it ends."""
        self._keeper = self._thread(self._keep)

    def begin(self) -> None:
        self._keeper.start()

    def send(self, order: Order) -> None:
        self._orders.put(order)

    def kill(self) -> None:
        with self._door:
            self._killed = True
            if self._process is not None:
                _end_group(self._process.pid)
        # Whoever has its tasks next is not to be overtaken by what it committed at last.
        self._settled.wait(_LAST_WORDS)

    def wait(self, timeout: float) -> None:
        """Waits until nothing is left of it, so long at most."""
        self._keeper.join(timeout)

    def _keep(self) -> None:
        try:
            reason = "was not needed" if self._killed else self._live()
        except OSError as error:
            reason = f"could not be started: {error}"
        finally:
            self._settled.set()
        self._left(self)
        if not self._expected and not self._killed:
            self._hear(Gone(reason))

    def _live(self) -> str:
        """Starts the process, and waits for its end; how it ended, in words."""
        launched = self._launch()
        process, wire = launched.process, launched.wire
        assert process.stdout is not None
        assert process.stderr is not None
        with self._door:
            self._process = process
            if self._killed:
                _end_group(process.pid)
        echo = Echo(self._name, process.stdout, process.stderr)
        speaker, listener = self._thread(self._speak, wire), self._thread(self._listen, wire)
        speaker.start()
        listener.start()
        # Where this program has all its children waited for by somebody else, it is known to be gone all the same.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with self._door:
            # What it has started goes with it. Its number is its own until it is waited for.
            _end_group(process.pid)
            self._process = None
            code = process.wait()
        if launched.registry is not None:
            # What it committed at last happens now or never: the next worker may ask whether it did.
            launched.registry.join(_LAST_COMMIT)
        self._settled.set()
        echo.end(_LAST_WORDS)
        wire.end()
        listener.join()
        self._orders.put(None)
        speaker.join()
        wire.close()
        process.stdout.close()
        process.stderr.close()
        return in_words(code, echo.last)

    def _speak(self, wire: Wire) -> None:
        there = wire.ship(self._packed)
        while (order := self._orders.get()) is not None:
            self._expected = self._expected or isinstance(order, Quit)
            there = there and wire.say(order)

    def _listen(self, wire: Wire) -> None:
        try:
            while (report := wire.hear(Report)) is not None:
                self._expected = self._expected or isinstance(report, Failed)
                if not self._killed:
                    self._hear(report)
        except InvalidInput as error:
            # Somebody writes there who should not.
            sys.stderr.write(f"[{self._name}] is not understood, and ended: {error}\n")
            self._end()

    def _end(self) -> None:
        with self._door:
            if self._process is not None:
                _end_group(self._process.pid)

    def _thread(self, target: Callable[..., None], *arguments: object) -> threading.Thread:
        name = f"mamba-stream {self._name}: {target.__name__.strip('_')}"
        return threading.Thread(target=target, args=arguments, name=name, daemon=True)


def in_words(code: int, said: str = "") -> str:
    """How a process ended.

    Example:
        >>> in_words(1)
        'ended with exit code 1'
        >>> in_words(-9)
        'was ended by signal 9 (Killed), as the system does when memory runs out'
    """
    if code < 0:
        reason = f"was ended by signal {-code} ({signal.strsignal(-code)})"
        if -code == signal.SIGKILL:
            reason += ", as the system does when memory runs out"
    else:
        reason = f"ended with exit code {code}"
    return f"{reason}; the last that it wrote:\n{said}\n" if said else reason


def _end_group(pid: int) -> None:
    """Ends a process, and all that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _working_directory() -> str | None:
    try:
        return str(Path.cwd())
    except OSError:
        # It was removed: whoever needs it finds out by himself.
        return None

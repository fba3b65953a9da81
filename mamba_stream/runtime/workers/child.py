"""A worker's process: it is sent a pipeline by the process that started it, and follows its orders.

It ends with that process, whatever it does: when the line to it is cut, and, where the system has that, by a signal.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import traceback
from collections import deque
from typing import Final

from mamba_stream.core.clock import Clock, SystemClock
from mamba_stream.errors import JobFailed, MambaStreamError
from mamba_stream.log import Log
from mamba_stream.log.ways import go
from mamba_stream.runtime.bell import Bell
from mamba_stream.runtime.prepared import Prepared
from mamba_stream.runtime.workers.layout import layout_of_job
from mamba_stream.runtime.workers.messages import Beat, Failed, Order, Over, Ready, Report
from mamba_stream.runtime.workers.shift import Shift
from mamba_stream.runtime.workers.shipping import Shipment, unpack
from mamba_stream.runtime.workers.wire import Wire
from mamba_stream.runtime.workers.worker import Worker

_BEAT: Final = 0.5
"""Seconds between two signs of life."""
_WHOLE_BEAT: Final = 15.0
"""Seconds between two that tell of all tasks: of those that did nothing, too, it is told for how long."""
_DEATH_OF_PARENT: Final = 1
_CUT_OFF: Final = 3
"""The exit code of a worker whose pool is gone: nobody sees it."""


def main(line: int, registry: int) -> None:
    """Works until told to quit, or until nobody is there to say so.

    Args:
        line: The descriptor of the socket to the pool.
        registry: The descriptor of the socket over which the index of a directory is written.
    """
    _die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # They are for the pool, which says here what comes of them. Not ignored: programs that are started from here
        # would ignore them, too.
        signal.signal(number, _let_pass)
    for descriptor in (line, registry):
        # Nor are the sockets for programs that are started from here: they would outlive the worker.
        os.set_inheritable(descriptor, False)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    wire = Wire(socket.socket(fileno=line))
    data = wire.unload()
    if data is None:
        return
    try:
        shipment = _unpacked(data)
        del data
        log = go(shipment.way, socket.socket(fileno=registry))
    except MambaStreamError as error:
        wire.say(Failed(type(error).__name__, str(error), None))
        return
    try:
        _Post(shipment, log, wire, SystemClock()).work()
    finally:
        log.close()


class _Post:
    """A worker at its place between the pool and the log."""

    def __init__(self, shipment: Shipment, log: Log, wire: Wire, clock: Clock) -> None:
        self._shipment = shipment
        self._log = log
        self._wire = wire
        self._clock = clock
        self._bell = Bell(log)
        self._orders: deque[Order] = deque()
        self._news: Beat | None = None
        self._telling = threading.Lock()
        self._noted = self._noted_all = clock.monotonic()
        self._over = threading.Event()

    def work(self) -> None:
        """Follows orders until there is nothing more to do."""
        threading.Thread(target=self._listen, name="mamba-stream orders", daemon=True).start()
        try:
            shift = self._shift()
        except MambaStreamError as error:
            self._say(Failed(type(error).__name__, str(error), None))
            return
        threading.Thread(target=self._beat, name="mamba-stream beats", daemon=True).start()
        self._say(Ready(os.getpid()))
        try:
            while not shift.over:
                self._turn(shift)
        finally:
            self._over.set()
            shift.close()

    def _shift(self) -> Shift:
        given = self._shipment
        prepared = Prepared(given.pipeline, self._log, given.schemas)
        stages = layout_of_job(prepared, given.partitions).stages
        worker = Worker(
            given.pipeline,
            prepared,
            stages,
            self._log,
            given.options,
            self._clock,
            given.run,
            ring=self._bell.ring,
        )
        return Shift(worker, self._say)

    def _turn(self, shift: Shift) -> None:
        lsn = self._log.heard()
        self._bell.still()
        while self._orders and not shift.over:
            shift.follow(self._orders.popleft())
        if shift.over:
            return
        rows = shift.turn()
        left = self._note(shift)
        if rows == 0 and not shift.over:
            self._log.wait(lsn, min(left, shift.seconds_to_next()), self._bell.rung)

    def _note(self, shift: Shift) -> float:
        """Notes what the tasks have done, to be told by the other thread: here nothing is changed meanwhile.

        Returns:
            Seconds until it is to be done again, unless there is more to do first.
        """
        now = self._clock.monotonic()
        left = self._noted + _BEAT - now
        if left > 0:
            return left
        self._noted = now
        whole = now - self._noted_all >= _WHOLE_BEAT
        if whole:
            self._noted_all = now
        beat = shift.beat(whole=whole)
        if not beat.tasks:
            return self._noted_all + _WHOLE_BEAT - now
        with self._telling:
            known = dict(self._news.tasks) if self._news is not None else {}
            self._news = Beat(list({**known, **dict(beat.tasks)}.items()))
        return _BEAT

    def _say(self, report: Report) -> None:
        with self._telling:
            if isinstance(report, Over) and self._news is not None:
                # What was noted of the task before must not come behind the last that is said of it.
                left = [(name, facts) for name, facts in self._news.tasks if name != report.task]
                self._news = Beat(left)
            there = self._wire.say(report)
        if not there:
            _cut_off()

    def _listen(self) -> None:
        while (order := self._wire.hear(Order)) is not None:
            self._orders.append(order)
            self._bell.ring()
        _cut_off()

    def _beat(self) -> None:
        while not self._over.wait(_BEAT):
            with self._telling:
                news, self._news = self._news, None
                there = self._wire.say(news or Beat([]))
            if not there:
                _cut_off()


def _unpacked(data: bytes) -> Shipment:
    try:
        return unpack(data)
    except Exception as error:
        # It ran code of the user's: where, is in no message.
        traceback.print_exc()
        raise JobFailed(
            f"a worker's process cannot load the pipeline: {type(error).__name__}: {error}. What its functions "
            "import is imported there once more, along the sys.path of the process that started the job"
        ) from error


def _die_with_parent() -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DEATH_OF_PARENT, signal.SIGKILL)


def _let_pass(number: int, frame: object) -> None:
    """Does nothing."""


def _cut_off() -> None:
    # Whatever the others do: what is committed stays, and nobody asks for more.
    os._exit(_CUT_OFF)

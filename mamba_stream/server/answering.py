"""The listener that serves a log over Arrow Flight."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Final

from pyarrow import lib

from mamba_stream.core.clock import Clock, SystemClock
from mamba_stream.core.diskmarks import DiskMarks, marks_with
from mamba_stream.core.settings import Address
from mamba_stream.errors import InvalidInput, LogUnavailable
from mamba_stream.log import Log
from mamba_stream.log.directory import FILES
from mamba_stream.log.registering import SocketRegistrar
from mamba_stream.log.store import acquire
from mamba_stream.server.audit import Audit, audit_topic
from mamba_stream.server.creators import Creators
from mamba_stream.server.gate import Gate, OpenGate
from mamba_stream.server.guard import CertificateGate, Guard
from mamba_stream.server.limits import Limits
from mamba_stream.server.listener import calls_within, memory_of
from mamba_stream.server.listening import Listener, Say
from mamba_stream.server.orders import Figures, Orders
from mamba_stream.server.probing import ProbedGate
from mamba_stream.server.rating import Rate
from mamba_stream.server.room import Room
from mamba_stream.server.service import FlightService
from mamba_stream.server.sockets import check_free

_LOOK: Final = 0.005
_LET_GO: Final = 5.0
_SHARE: Final = 4
"""A commit may hold one part in so many of the memory: it is there as bytes, as rows, and once more to be written."""
_UPLOAD: Final = 32 << 20
"""Twice what a commit that comes in pieces holds: the pieces that are sent ahead, and one as rows and to be written."""


def prepare(orders: Orders, say: Say) -> Listener:
    """Opens the log, and makes what listens."""
    return _FlightListener(orders, say, SystemClock())


class _FlightListener:
    def __init__(self, orders: Orders, say: Say, clock: Clock) -> None:
        self._orders = orders
        self._clock = clock
        self._say = say
        # The index is written by the supervisor's process alone, which hands out files to write batches to.
        through = SocketRegistrar(socket.socket(fileno=orders.registry), Path(orders.log) / FILES)
        marks = None if orders.disk is None else marks_with(orders.disk, DiskMarks())
        self._storage = acquire(Path(orders.log), marks=marks, through=through)
        self._log = Log(self._storage)
        self._rate = Rate(clock)
        self._audit: Audit | None = None
        self._guard: Guard | None = None
        gate: Gate = OpenGate()
        if orders.users is not None:
            self._audit = Audit(audit_topic(self._log), clock)
            made = Creators(self._storage).count
            gate = self._guard = Guard(Path(orders.users), clock=clock, audit=self._audit, made=made)
        elif orders.client_ca is not None:
            gate = CertificateGate()
        self._gate = ProbedGate(gate, orders.probe, self._refused)
        self._service: FlightService | None = None

    def listen(self) -> int:
        orders = self._orders
        certificates = (
            [(orders.tls_cert, orders.tls_key)]
            if orders.tls_cert is not None and orders.tls_key is not None
            else None
        )
        secure = certificates is not None
        address = Address(orders.host, orders.port)
        check_free(address, "listen")
        try:
            self._service = FlightService(
                self._storage,
                f"grpc{'+tls' if secure else ''}://{address}",
                gate=self._gate,
                limits=Limits(
                    most_bytes=min(Limits.most_bytes, orders.memory // _SHARE),
                    uploads=min(Limits.uploads, max(1, orders.memory // _UPLOAD)),
                    most_streams=min(Limits.most_streams, calls_within(orders.memory)),
                ),
                tls_certificates=certificates,
                verify_client=orders.client_ca is not None,
                root_certificates=orders.client_ca,
                identity=self._storage.meta.uuid,
                room=Room(orders.memory, _used, self._clock),
            )
        except lib.ArrowException as error:
            # It says no more: the address was free a moment ago, so certificates are the likelier cause.
            cause = "is its certificate right, and is the address free?" if secure else "is the address free?"
            raise LogUnavailable(f"listen = {address}: Arrow Flight does not start there; {cause}") from error
        return int(self._service.port)

    def figures(self) -> Figures:
        counts = self._log.statistics()
        found = Figures(
            received=self._gate.received,
            sent=self._gate.sent,
            commits=counts.commits,
            changes=counts.changes,
            refused=counts.refused,
            disk_refused=counts.disk_refused,
            quota_refused=counts.quota_refused,
            commit_seconds=counts.commit_seconds,
            commit_times=list(counts.commit_times),
        )
        if self._guard is not None:
            found.guard = asdict(self._guard.statistics())
        if self._audit is not None:
            found.audit = {"rows": self._audit.rows, "dropped": self._audit.dropped}
        if self._service is not None:
            for (action, outcome), count in dict(self._service.figures.calls).items():
                found.calls.setdefault(action, {})[outcome] = count
            found.active = self._service.figures.active
        return found

    def reload(self) -> None:
        if self._guard is not None and not self._guard.reload():
            raise InvalidInput(
                f"the users file {self._orders.users} cannot be used: the users stay as they were"
            )

    def let_go(self) -> None:
        service = self._service
        if service is None:
            return
        # What only waits is ended, so that who waits comes again, to the next listener.
        service.desk.drain()
        threading.Thread(target=service.shutdown, daemon=True).start()
        until = self._clock.monotonic() + _LET_GO
        while self._taken() and self._clock.monotonic() < until:
            threading.Event().wait(_LOOK)

    def finish(self, timeout: float) -> int:
        left = 0
        if self._service is not None and not self._service.drain(timeout):
            left = self._service.figures.active
        if self._audit is not None:
            self._audit.close()
        return left

    def close(self) -> None:
        if self._service is not None:
            # Returns when answers are sent and connections closed in order.
            self._service.shutdown()
        self._log.close()

    def _refused(self, peer: str, reason: str) -> None:
        left_out = self._rate.take()
        if left_out is not None:
            self._say("warning", "connection refused", {"peer": peer, "reason": reason, "left_out": left_out})

    def _taken(self) -> bool:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._orders.host, self._orders.host)  # noqa: S104
        assert self._service is not None
        with contextlib.suppress(OSError):
            socket.create_connection((host, self._service.port), timeout=1.0).close()
            return True
        return False


def _used() -> int | None:
    found = memory_of("self")
    return None if found is None else found[1]

"""A server from its start to its end: the log open, a listener supervised, health told, signals obeyed."""

from __future__ import annotations

import contextlib
import queue
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final

from mamba_stream.core.clock import Clock
from mamba_stream.core.diskmarks import told_of
from mamba_stream.core.settings import Address
from mamba_stream.errors import InvalidInput
from mamba_stream.log import Log
from mamba_stream.log.registry import Registry
from mamba_stream.log.store import Store, acquire
from mamba_stream.server.events import Events, forwarded
from mamba_stream.server.health import Health
from mamba_stream.server.jobmetrics import AskJobs
from mamba_stream.server.metrics import Ask, registry_of
from mamba_stream.server.notify import Notifier
from mamba_stream.server.orders import Orders
from mamba_stream.server.readiness import Check, DiskCheck, ListenerCheck, LogCheck, Readiness
from mamba_stream.server.scrubber import Scrubber
from mamba_stream.server.settings import ServerSettings
from mamba_stream.server.sockets import bind
from mamba_stream.server.supervisor import Supervisor
from mamba_stream.server.tls import load_tls
from mamba_stream.server.userfile import read_users
from mamba_stream.server.web import Web, application

LISTENER: Final = (sys.executable, "-m", "mamba_stream.server.listener")
"""The command of a listener."""

_TURN: Final = 1.0
"""Seconds within which the main loop shows that it turns."""
_STUCK: Final = 30.0
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Server:
    """Serves a log until a signal ends it.

    Attributes:
        log: The log, open.
        settings: What it is told.
        ask: Gives the queues' figures.
        ask_jobs: Gives those of jobs.
        clock: Tells the time.
        version: Of the package, for the metrics.
        announce: Is told what clients shall connect to, once they can.
        command: What to run as the listener.
    """

    log: Log
    settings: ServerSettings
    ask: Ask
    ask_jobs: AskJobs
    clock: Clock
    version: str
    announce: Callable[[str], None]
    command: Sequence[str] = LISTENER
    _probe: str = field(default_factory=secrets.token_hex, repr=False)
    _events: Events = field(init=False, repr=False)
    _disk: dict[str, str | None] = field(init=False, repr=False)
    _turned: float = 0.0
    _port: int = 0

    def run(self) -> int:
        """Serves; the exit code.

        Raises:
            InvalidInput: Settings do not go together.
            LogUnavailable: An address is taken, or the listener cannot be started.
        """
        if problems := list(self.settings.problems()):
            raise InvalidInput("; ".join(problems))
        events = self._events = Events(self.clock, self.settings.log_format, self.settings.log_level)
        with forwarded(events, "grpc", "mamba_stream"), contextlib.ExitStack() as left:
            return self._run(events, left)

    def _run(self, events: Events, left: contextlib.ExitStack) -> int:
        settings = self.settings
        # All addresses are taken before anything is started; the listener's is kept while there is none.
        kept = bind(settings.listen, "listen", listening=False)
        self._port = kept[0].getsockname()[1]
        for each in kept:
            left.callback(each.close)
        web = None if settings.http is None else Web(settings.http)
        if web is not None:
            left.callback(web.stop)
        health = None if settings.health is None else Health(settings.health)
        if health is not None:
            left.callback(health.stop)
        received = left.enter_context(_signals())
        notifier = Notifier()
        store = acquire(self.log.path)
        left.callback(store.release)
        self._disk = told_of(store.room.marks)
        if settings.upkeep is not None:
            left.enter_context(store.tended(float(settings.upkeep), scrub=0))
        supervisor = Supervisor(
            self.command,
            self._orders,
            partial(_writing, store),
            drain=float(settings.drain),
            clock=self.clock,
            log=events,
        )
        left.callback(supervisor.stop)
        checks: dict[str, Check] = {
            "log": LogCheck(self.log),
            "disk": DiskCheck(self.log.path, settings.disk_reserve),
            "listener": ListenerCheck(supervisor),
        }
        scrubber = Scrubber(self.log, settings.scrub, events)
        left.callback(scrubber.stop)
        readiness = Readiness(checks, [] if health is None else [health.tell])
        self._turned = self.clock.monotonic()
        if web is not None:
            registry = registry_of(
                self.log,
                self.ask,
                self.ask_jobs,
                supervisor,
                readiness,
                self.clock,
                self.version,
                scrubber,
            )
            web.start(application(lambda: self._alive(supervisor), readiness, registry), events)
        if health is not None:
            health.start()
        port = supervisor.start()
        readiness.start()
        if settings.scrub:
            scrubber.start()
        address = Address(settings.listen.host, port)
        others = {
            name: str(Address(wanted.host, each.port))
            for name, wanted, each in (("http", settings.http, web), ("health", settings.health, health))
            if wanted is not None and each is not None
        }
        told = f"{'grpc+tls://' if settings.tls_cert else ''}{address}"
        events("info", "server started", log=str(self.log.path), listen=told, **others)
        self.announce(_line(told, self.log.path, others))
        notifier.ready(f"serving at {told}")
        code = self._obey(received, supervisor, readiness, notifier, events)
        events("info", "server stopped", exit=code)
        return code

    def _orders(self) -> Orders:
        settings, listen = self.settings, self.settings.listen
        certificate = key = client_ca = expires = None
        if settings.tls_cert is not None and settings.tls_key is not None:
            now = _EPOCH + timedelta(microseconds=self.clock.now())
            tls = load_tls(settings.tls_cert, settings.tls_key, settings.client_ca, now)
            certificate, key, client_ca = tls.certificate, tls.key, tls.client_ca
            expires = tls.expires.timestamp()
            if (warning := tls.warning(now)) is not None:
                self._events("warning", "certificate", reason=warning)
        if settings.users is not None:
            # Refused here, where it is said to whoever starts or reloads the server.
            read_users(settings.users)
        return Orders(
            log=str(self.log.path.absolute()),
            host=listen.host,
            port=self._port,
            memory=int(settings.memory),
            probe=self._probe,
            tls_cert=certificate,
            tls_key=key,
            tls_expires=expires,
            client_ca=client_ca,
            users=None if settings.users is None else str(settings.users.absolute()),
            disk=self._disk,
        )

    def _alive(self, supervisor: Supervisor) -> bool:
        return self.clock.monotonic() - self._turned < _STUCK and not supervisor.over

    def _obey(
        self,
        received: queue.SimpleQueue[int],
        supervisor: Supervisor,
        readiness: Readiness,
        notifier: Notifier,
        events: Events,
    ) -> int:
        turn = min(_TURN, notifier.watchdog / 3) if notifier.watchdog else _TURN
        while True:
            self._turned = self.clock.monotonic()
            notifier.alive()
            if supervisor.over:
                events("error", "supervisor ended")
                return 1
            try:
                number = received.get(timeout=turn)
            except queue.Empty:
                continue
            if number == signal.SIGHUP:
                events("info", "reloading")
                notifier.reloading(self.clock.monotonic())
                supervisor.reload()
                notifier.ready("reloaded")
                continue
            return self._end(number, received, supervisor, readiness, notifier, events)

    def _end(
        self,
        number: int,
        received: queue.SimpleQueue[int],
        supervisor: Supervisor,
        readiness: Readiness,
        notifier: Notifier,
        events: Events,
    ) -> int:
        """Drains; a second signal ends at once."""
        readiness.stop()
        notifier.stopping("finishing calls in flight")
        events("info", "draining", signal=signal.Signals(number).name, seconds=float(self.settings.drain))
        supervisor.drain(float(self.settings.drain))
        while not supervisor.wait_over(_TURN / 10):
            self._turned = self.clock.monotonic()
            notifier.alive()
            with contextlib.suppress(queue.Empty):
                number = received.get_nowait()
                if number != signal.SIGHUP:
                    supervisor.stop()
                    events("warning", "stopped at once", signal=signal.Signals(number).name)
                    return 128 + number
        events("info", "drained", cut=supervisor.cut)
        return 0


def _writing(store: Store, ours: socket.socket) -> Callable[[float], None]:
    """Writes the index for a listener; what waits for the end of that."""
    registry = Registry(store, ours)
    registry.start()
    return registry.join


def _line(told: str, path: Path, others: dict[str, str]) -> str:
    where = ", ".join(f"{name} {address}" for name, address in others.items())
    return f"serving {path} at {told}{f' ({where})' if where else ''}"


@contextlib.contextmanager
def _signals() -> Iterator[queue.SimpleQueue[int]]:
    """Takes down signals instead of being ended by them."""
    received: queue.SimpleQueue[int] = queue.SimpleQueue()

    def take(number: int, _frame: FrameType | None) -> None:
        received.put(number)

    before = {
        number: signal.signal(number, take) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield received
    finally:
        for number, disposition in before.items():
            signal.signal(number, disposition)

"""Calls to a server: made again where that does no harm, and failed with our own errors."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

import pyarrow as pa
from pyarrow import flight

from mamba_stream.core.clock import Clock, SystemClock
from mamba_stream.errors import (
    ForkedProcess,
    LogClosed,
    LogReplaced,
    MambaStreamError,
    QuotaExceeded,
    ServerUnavailable,
)
from mamba_stream.log.index import CLOSED, FORKED
from mamba_stream.log.remote.address import Address, Credentials
from mamba_stream.log.remote.clock import ServerClock
from mamba_stream.log.remote.failing import Lost, error_of, error_told, unavailable
from mamba_stream.log.remote.protocol import LOG_HEADER, VERSION, Hello, Welcome, decode, encode
from mamba_stream.log.remote.wires import Wires

PATIENCE: Final = 30.0
"""Seconds for which a server that went away is waited for; one that never was there is not."""
DEADLINE: Final = 60.0
"""Seconds that a call may take."""
GREETING: Final = 10.0
"""Seconds in which a server says who it is."""
_PAUSES: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_OPTIONS: Final = [
    # A link that died is found out even while nothing is sent.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # A server that comes back is found at once; the pauses between attempts are ours.
    ("grpc.initial_reconnect_backoff_ms", 50),
    # The time that one attempt is given, in spite of its name: with less nobody comes through to a server that is far
    # away, or busy.
    ("grpc.min_reconnect_backoff_ms", 10_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
]

_T = TypeVar("_T")


class Connection:
    """A connection to one server, for all threads of a process."""

    def __init__(
        self, address: Address, credentials: Credentials, name: str, clock: Clock | None = None
    ) -> None:
        """Connects, and asks the server who it is.

        Raises:
            ServerUnavailable: Nothing answers.
            NotAuthenticated: The server does not know whoever this is.
        """
        self.address = address
        self.place = str(address)
        self.local = clock or SystemClock()
        self.clock = ServerClock(self.local, self._ask_time)
        self._name = name
        self._credentials = credentials
        self._pid = os.getpid()
        self._closed = threading.Event()
        self._interrupted = False
        self._headers = (
            [] if credentials.token is None else [(b"authorization", f"Bearer {credentials.token}".encode())]
        )
        self._client = self._connected()
        self.replaced = False
        self._wires = Wires(self.exchange, self.failed, self.local)
        try:
            self.welcome = self._greet(patience=0.0)
        except BaseException:
            self._client.close()
            raise
        if self.welcome.log:
            # What is known here of offsets and leases is about that log: each call says so, as a connection that broke
            # may lead to another one, unseen.
            self._headers = [*self._headers, (LOG_HEADER.encode(), self.welcome.log.encode())]

    def ask(
        self,
        action: str,
        request: object,
        kind: type[_T],
        *,
        timeout: float = DEADLINE,
        patience: float = PATIENCE,
    ) -> _T:
        """Asks something that changes nothing, as often as it takes.

        Raises:
            ServerUnavailable: Nobody answered for as long as is waited.
        """
        body = encode(request)
        return self.again(lambda: self.once(action, body, kind, timeout), patience)

    def again(self, call: Callable[[], _T], patience: float = PATIENCE) -> _T:
        """Makes the call until it is answered; what it raises must be about the call, or :class:`Lost`."""
        since = None
        for attempt in range(1 << 30):
            try:
                return call()
            except (Lost, ServerUnavailable, QuotaExceeded) as error:
                now = self.local.monotonic()
                since = now if since is None else since
                pause = _PAUSES[min(attempt, len(_PAUSES) - 1)]
                if isinstance(error, QuotaExceeded):
                    pause = error.retry_after
                if now - since + pause > patience:
                    raise self._given_up(error) from error
                self.pause(pause)
        raise AssertionError

    def _given_up(self, error: BaseException) -> BaseException:
        return unavailable(self.place, error) if isinstance(error, Lost) else error

    def once(self, action: str, body: bytes, kind: type[_T], timeout: float = DEADLINE) -> _T:
        """Makes a call once.

        Raises:
            Lost: The connection failed; whether the server did it is not known.
        """
        self.check()
        told = self._wires.call(action, body, timeout)
        if told is not None:
            if told.failure is not None:
                raise error_told(told.failure)
            return decode(told.answer, kind)
        try:
            results = self._client.do_action(flight.Action(action, body), self.options(timeout))
            answer = next(iter(results)).body
        except StopIteration:
            raise Lost("the server gave no answer") from None
        except pa.ArrowException as error:
            raise self.failed(error) from error
        return decode(answer, kind)

    def lasting(self, action: str, body: bytes, kind: type[_T]) -> _T:
        """Makes a call once that may last for long: before its answer the server gives signs of life.

        Raises:
            Lost: The connection failed.
        """
        self.check()
        answer = None
        try:
            for result in self._client.do_action(flight.Action(action, body), self.options(None)):
                answer = result.body
        except pa.ArrowException as error:
            raise self.failed(error) from error
        if answer is None:
            raise Lost("the server gave no answer")
        return decode(answer, kind)

    def read(self, ticket: bytes, timeout: float = DEADLINE) -> flight.FlightStreamReader:
        """Begins a stream of rows."""
        self.check()
        try:
            return self._client.do_get(flight.Ticket(ticket), self.options(timeout))
        except pa.ArrowException as error:
            raise self.failed(error) from error

    def exchange(self, command: bytes) -> tuple[flight.FlightStreamWriter, flight.FlightStreamReader]:
        """Begins a stream in both directions, which lasts until it is closed."""
        self.check()
        try:
            writer, stream = self._client.do_exchange(
                flight.FlightDescriptor.for_command(command), self.options(None)
            )
        except pa.ArrowException as error:
            raise self.failed(error) from error
        return writer, stream

    def failed(self, error: pa.ArrowException) -> BaseException:
        """Our error for what a Flight call raised."""
        found = error_of(error, self.place)
        if isinstance(found, LogReplaced):
            self.replaced = True
        if isinstance(found, Lost):
            if self._closed.is_set():
                return LogClosed(CLOSED)
            self._interrupted = True
        return found

    def pause(self, seconds: float) -> None:
        """Waits before the next attempt, or until the connection is closed."""
        self._closed.wait(seconds)

    def options(self, timeout: float | None) -> flight.FlightCallOptions:
        """What every call carries."""
        return flight.FlightCallOptions(timeout=timeout, headers=self._headers)

    def boot(self) -> str:
        """The name of the server's life, as far as is known here: it is asked again after an interruption."""
        if self._interrupted:
            self._interrupted = False
            try:
                self.welcome = self._greet(PATIENCE)
            except BaseException:
                self._interrupted = True
                raise
        return self.welcome.boot

    def check(self) -> None:
        """Raises where this process may not use the connection (any more)."""
        if self._pid != os.getpid():
            raise ForkedProcess(FORKED)
        if self._closed.is_set():
            raise LogClosed(CLOSED)

    def close(self) -> None:
        """Closes it; calls in flight fail."""
        if self._pid == os.getpid() and not self._closed.is_set():
            self._closed.set()
            self._wires.close()
            self._client.close()

    def _connected(self) -> flight.FlightClient:
        shown = self._credentials
        secret: dict[str, Any] = {}
        if self.address.tls:
            if (authorities := shown.authorities()) is not None:
                secret["tls_root_certs"] = authorities
            if (pair := shown.pair()) is not None:
                secret["cert_chain"], secret["private_key"] = pair
        options = [*_OPTIONS, *([("grpc.enable_http_proxy", 0)] if _is_local(self.address.host) else [])]
        return flight.FlightClient(self.address.uri, generic_options=options, **secret)

    def _ask_time(self) -> None:
        def ask() -> None:
            # Where nobody answers the clock runs on, and is asked about again later.
            with contextlib.suppress(MambaStreamError, Lost):
                self.welcome = self._greet(patience=0.0)

        threading.Thread(target=ask, name="mamba-stream time", daemon=True).start()

    def _greet(self, patience: float) -> Welcome:
        body = encode(Hello(VERSION, self._name))

        def greet() -> Welcome:
            asked = self.local.monotonic()
            welcome = self.once("hello", body, Welcome, GREETING)
            self.clock.tell(welcome.now, asked, self.local.monotonic())
            return welcome

        return self.again(greet, patience)


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False

"""The Flight service: calls that come in, handed to whoever answers them, and counted."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import msgspec
from pyarrow import flight

from mamba_stream.errors import InvalidInput, LogReplaced, MambaStreamError, QuotaExceeded
from mamba_stream.log.remote.protocol import LOG_HEADER, Asked, Told, decode, encode
from mamba_stream.log.storage import OwnStorage
from mamba_stream.server import signs
from mamba_stream.server.actions import ACTIONS, perform
from mamba_stream.server.desk import Desk
from mamba_stream.server.exchanges import exchange
from mamba_stream.server.failures import answered_each, code_of, failure_of, told
from mamba_stream.server.gate import Caller, Gate, OpenGate
from mamba_stream.server.limits import Limits
from mamba_stream.server.reading import descriptor_of, read
from mamba_stream.server.room import Room
from mamba_stream.server.signs import with_signs
from mamba_stream.server.writing import write


@dataclass
class Figures:
    """What the service did since it began.

    Attributes:
        calls: Calls by what was called ("action/commit", "read", "write", "exchange" ...) and outcome, which is
            "ok" or the name of an error.
        active: Calls under way.
        received: Bytes of rows that came in.
        sent: Bytes of rows that went out.
    """

    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    active: int = 0
    received: int = 0
    sent: int = 0


class FlightService(flight.FlightServerBase):  # type: ignore[misc]
    """A log, served to any Arrow Flight client. It runs as soon as it is made."""

    def __init__(
        self,
        storage: OwnStorage,
        location: str = "grpc://localhost:0",
        *,
        gate: Gate | None = None,
        limits: Limits | None = None,
        identity: str = "",
        room: Room | None = None,
        tls_certificates: list[tuple[bytes, bytes]] | None = None,
        verify_client: bool = False,
        root_certificates: bytes | None = None,
    ) -> None:
        """Begins to serve.

        Args:
            storage: Where the log lies.
            location: Where to listen; port 0 takes a free one, which ``port`` then tells.
            gate: Who may do what; without, everybody everything.
            limits: How much a call may hold.
            identity: The log's own name.
            room: The memory that there is for what clients send ahead; without, as much as they like.
            tls_certificates: Pairs of certificate and key, as PEM.
            verify_client: Whether clients must show a certificate.
            root_certificates: What clients' certificates must lead to, as PEM.
        """
        self.desk = Desk(storage, gate or OpenGate(), limits or Limits(), identity, room)
        self.figures = Figures()
        self._of_user = Counter[str]()
        self._changed = threading.Condition()
        super().__init__(
            location,
            tls_certificates=tls_certificates,
            verify_client=verify_client,
            root_certificates=root_certificates,
            middleware={"headers": _HeadersFactory()},
        )

    def drain(self, timeout: float) -> bool:
        """Lets nobody begin anything, and waits for what is under way; whether all of it ended."""
        self.desk.drain()
        with self._changed:
            ended = self._changed.wait_for(lambda: self.figures.active == 0, timeout)
        with contextlib.suppress(MambaStreamError):
            self.desk.settle_up()
        return ended

    def do_action(self, context: flight.ServerCallContext, action: flight.Action) -> Iterator[flight.Result]:
        name = action.type if action.type in ACTIONS else "unknown"
        if name != "unknown" and ACTIONS[name].lasting:
            return self._lasting(context, action)
        with self._call(context, f"action/{name}") as caller:
            return iter([flight.Result(perform(self.desk, caller, action.type, memoryview(action.body)))])

    def _lasting(self, context: flight.ServerCallContext, action: flight.Action) -> Iterator[flight.Result]:
        """The results of an action that may take long. The call goes on for as long as it does."""
        with self._call(context, f"action/{action.type}") as caller:
            body = memoryview(action.body)
            for result in with_signs(lambda: perform(self.desk, caller, action.type, body), signs.SIGN):
                yield flight.Result(encode(None) if result is None else result)

    def list_actions(self, context: flight.ServerCallContext) -> list[tuple[str, str]]:
        with self._call(context, "list_actions"):
            return [(action.name, action.words) for action in ACTIONS.values()]

    def do_get(self, context: flight.ServerCallContext, ticket: flight.Ticket) -> flight.FlightDataStream:
        call = self._call(context, "read")
        caller = call.__enter__()
        try:
            schema, groups = read(self.desk, caller, ticket.ticket)
        except BaseException as error:
            call.__exit__(type(error), error, error.__traceback__)
            raise
        # The call goes on for as long as the stream does.
        return flight.GeneratorStream(schema, chain.from_iterable(answered_each(self._during(call, groups))))

    def do_put(
        self,
        context: flight.ServerCallContext,
        descriptor: flight.FlightDescriptor,
        reader: flight.MetadataRecordBatchReader,
        writer: flight.FlightMetadataWriter,
    ) -> None:
        with self._call(context, "write") as caller:
            write(self.desk, caller, descriptor, reader, writer)

    def do_exchange(
        self,
        context: flight.ServerCallContext,
        descriptor: flight.FlightDescriptor,
        reader: flight.MetadataRecordBatchReader,
        writer: flight.MetadataRecordBatchWriter,
    ) -> None:
        with self._call(context, "exchange") as caller:
            exchange(self.desk, caller, context, descriptor, reader, writer, self._called)

    def _called(self, caller: Caller, message: Any) -> Told:
        """What comes of a call that is made over a wire, counted as one of its own."""
        what, outcome = "action/unknown", "ok"
        try:
            self.desk.check_open()
            asked = decode(message or b"", Asked)
            if asked.action in ACTIONS:
                what = f"action/{asked.action}"
                if ACTIONS[asked.action].lasting:
                    raise InvalidInput(f"{asked.action} may take long: it is called by itself")
            return Told(msgspec.Raw(perform(self.desk, caller, asked.action, memoryview(asked.request))))
        except Exception as error:  # noqa: BLE001 - told to the client, whatever it is
            outcome = code_of(error)
            return Told(failure=failure_of(error))
        finally:
            with self._changed:
                self.figures.calls[what, outcome] += 1

    def list_flights(self, context: flight.ServerCallContext, criteria: bytes) -> Iterator[flight.FlightInfo]:
        with self._call(context, "list_flights") as caller:
            rows = {row.name: row for row in self.desk.storage.topics() if not row.internal}
            seen = self.desk.gate.visible(caller, "topic", rows)
            return iter([self._info(name) for name in seen])

    def get_flight_info(
        self, context: flight.ServerCallContext, descriptor: flight.FlightDescriptor
    ) -> flight.FlightInfo:
        with self._call(context, "get_flight_info") as caller:
            return self._info(descriptor_of(self.desk, caller, descriptor).name)

    def _info(self, name: str) -> flight.FlightInfo:
        row = self.desk.catalog.named(name)
        heads = self.desk.storage.heads(row)
        return flight.FlightInfo(
            self.desk.storage.schema(row.schema),
            flight.FlightDescriptor.for_path(name),
            [flight.FlightEndpoint(name.encode(), [])],
            sum(head.end - head.begin for head in heads.values()),
            sum(head.bytes for head in heads.values()),
        )

    @contextmanager
    def _call(self, context: flight.ServerCallContext, what: str) -> Iterator[Caller]:
        """A call under way: who makes it; and what became of it, counted and told."""
        outcome, user = "ok", ""
        with self._changed:
            self.figures.active += 1
        try:
            self.desk.check_open()
            if self.figures.active > self.desk.limits.most_streams:
                raise QuotaExceeded(
                    f"the server has {self.desk.limits.most_streams} calls under way, as many as it takes",
                    retry_after=0.5,
                )
            caller = self._caller(context)
            # Only those who were recognised are told apart.
            user = self._entered(caller) if caller.credential else ""
            yield caller
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - told to the client, whatever it is
            outcome = code_of(error)
            raise told(error) from None
        finally:
            with self._changed:
                self.figures.active -= 1
                if user:
                    self._of_user[user] -= 1
                self.figures.calls[what, outcome] += 1
                self._changed.notify_all()

    def _entered(self, caller: Caller) -> str:
        most = self.desk.limits.most_streams_of_user
        with self._changed:
            if self._of_user[caller.name] >= most:
                raise QuotaExceeded(
                    f"user {caller.name!r} has {most} calls under way, as many as one may", retry_after=0.5
                )
            self._of_user[caller.name] += 1
        return caller.name

    def _caller(self, context: flight.ServerCallContext) -> Caller:
        headers = context.get_middleware("headers").headers
        certificate = context.peer_identity()
        caller = self.desk.gate.admit(
            headers, context.peer(), certificate.decode() if isinstance(certificate, bytes) else certificate
        )
        self._check_log(headers.get(LOG_HEADER, ()))
        return caller

    def _check_log(self, meant: Sequence[str]) -> None:
        if self.desk.identity and any(log != self.desk.identity for log in meant):
            raise LogReplaced(
                "this server keeps another log than the one that was opened at its address: offsets, leases and locks "
                "of that one mean nothing here. Open the address again for this log, or bring the other one back"
            )

    def _during(self, call: Any, groups: Iterator[Any]) -> Iterator[Any]:
        error: BaseException | None = None
        try:
            yield from groups
        except BaseException as raised:
            error = raised
            raise
        finally:
            if error is None or isinstance(error, GeneratorExit):
                call.__exit__(None, None, None)
            else:
                call.__exit__(type(error), error, error.__traceback__)


class _Headers(flight.ServerMiddleware):  # type: ignore[misc]
    """The headers of one call."""

    def __init__(self, headers: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.headers = headers


class _HeadersFactory(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    """Keeps the headers of a call for whoever asks who makes it."""

    def start_call(self, info: Any, headers: Mapping[str, Sequence[str]]) -> _Headers:
        if info.method == flight.FlightMethod.GET_SCHEMA:
            # Whatever its method raises, pyarrow tells with the trace and the paths of our files.
            raise flight.FlightServerError("GetSchema is not served: GetFlightInfo tells the schema, too")
        return _Headers({name.lower(): list(values) for name, values in headers.items()})

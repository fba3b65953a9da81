"""A TCP proxy that does to connections what networks do: scripted, so that a seed brings the same faults again."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

_PIECE: Final = 16 << 10
_RESET: Final = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Fault:
    """What befalls one connection.

    Attributes:
        how: ``none`` passes everything on; ``cut`` ends both sides in order; ``reset`` breaks both; ``swallow`` passes
            nothing on any more in this one direction, and never says so.
        after: It happens behind so many bytes.
        toward: Which bytes are counted, and swallowed: those on their way to the server, or to the client.
        delay: Seconds by which every piece is late, each way.
        answers: Seconds by which those to the client are late besides.
        bandwidth: Bytes a second, each way.
        mended: Seconds after which a connection of which one direction is swallowed is reset, as firewalls do.
    """

    how: Literal["none", "cut", "reset", "swallow"] = "none"
    after: int = 0
    toward: Literal["server", "client"] = "client"
    delay: float = 0.0
    answers: float = 0.0
    bandwidth: float | None = None
    mended: float | None = None


HEALTHY: Final = Fault()


def anything(seed: int, most: int = 60_000) -> Callable[[int], Fault]:
    """A script of all kinds of faults: what befalls the n-th connection. Every fifth one is left in peace."""

    def script(number: int) -> Fault:
        chance = random.Random(f"{seed}/{number}")
        delay = chance.choice((0.0, 0.0, 0.001, 0.02))
        if number % 5 == 4:
            return Fault(delay=delay)
        return Fault(
            how=chance.choice(("cut", "reset", "reset", "swallow")),
            after=chance.randrange(200, most),
            toward=chance.choice(("server", "client")),
            delay=delay,
            bandwidth=chance.choice((None, None, 200_000.0)),
            mended=0.5,
        )

    return script


class Proxy:
    """Listens on a port of its own and passes on to another port of this machine.

    Attributes:
        port: Where it listens; the same after it was stopped and started again.
        connections: How many it has taken.
        faults: How many of them something has befallen.
    """

    def __init__(self, target: int, script: Callable[[int], Fault] = lambda number: HEALTHY) -> None:
        self.script = script
        self.port = 0
        self.connections = 0
        self.faults = 0
        self._target = target
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self.start()

    def start(self) -> None:
        """Takes connections (again)."""
        self._do(self._start())

    def stop(self) -> None:
        """Takes none, and breaks those there are."""
        self._do(self._stop())

    def break_all(self) -> None:
        """Breaks the connections there are."""
        self._do(self._break_all())

    def swallow(self, toward: str) -> None:
        """Passes nothing on any more in this direction, of the connections there are and those that come."""
        self.script = lambda number: Fault("swallow", 0, toward)  # type: ignore[arg-type]
        for link in self._links:
            link.swallowed = toward

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=_PIECE)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._break_all()

    async def _break_all(self) -> None:
        links = list(self._links)
        for link in links:
            link.reset()
        for link in links:
            await link.gone.wait()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fault = self.script(self.connections)
        self.connections += 1
        try:
            there = await asyncio.open_connection("127.0.0.1", self._target, limit=_PIECE)
        except OSError:
            # Nobody listens there: who came hears as much.
            _reset(writer)
            return
        link = _Link(fault, (reader, writer), there)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)
            self.faults += link.struck
            link.gone.set()


class _Link:
    """One connection, and its other half."""

    def __init__(
        self,
        fault: Fault,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.struck = False
        self.swallowed = ""
        self.gone = asyncio.Event()
        self._fault = fault
        self._client, self._server = client, server
        self._over = asyncio.Event()

    async def run(self) -> None:
        both = [
            asyncio.create_task(self._pass_on("server", self._client[0], self._server[1])),
            asyncio.create_task(self._pass_on("client", self._server[0], self._client[1])),
        ]
        over = asyncio.create_task(self._over.wait())
        await asyncio.wait((*both, over), return_when=asyncio.FIRST_COMPLETED)
        if not self._over.is_set():
            # One side ended; what the other still says is passed on.
            await asyncio.wait((asyncio.gather(*both, return_exceptions=True), over), timeout=1)
        for task in (*both, over):
            task.cancel()
        await asyncio.gather(*both, over, return_exceptions=True)
        for writer in (self._client[1], self._server[1]):
            writer.close()

    def reset(self) -> None:
        """Breaks both sides: whoever reads or writes there gets an error."""
        _reset(self._client[1])
        _reset(self._server[1])
        self._over.set()

    async def _pass_on(self, toward: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fault = self._fault
        late = fault.delay + (fault.answers if toward == "client" else 0.0)
        counted = fault.how != "none" and fault.toward == toward
        left = fault.after
        try:
            while data := await reader.read(_PIECE):
                if late or fault.bandwidth:
                    await asyncio.sleep(late + len(data) / (fault.bandwidth or 1e12))
                if self.swallowed == toward:
                    continue
                strikes = counted and len(data) >= left
                writer.write(data[:left] if strikes else data)
                await writer.drain()
                left -= len(data)
                if strikes:
                    await self._strike(reader)
                    return
            if writer.can_write_eof():
                writer.write_eof()
        except OSError:
            # One side is broken: so is the other.
            self.reset()

    async def _strike(self, reader: asyncio.StreamReader) -> None:
        self.struck = True
        if self._fault.how == "reset":
            self.reset()
        elif self._fault.how == "cut":
            self._over.set()
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._fault.mended):
                    while await reader.read(_PIECE):
                        pass
            self.reset()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Closes so that the other side is told of a broken connection, not of an end."""
    connection: socket.socket = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()

"""Whether the server can do its work: asked again and again, so that whoever wants to know has the answer at once."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
from pyarrow import flight

from mamba_stream.core.sizes import Size
from mamba_stream.errors import MambaStreamError
from mamba_stream.log import Log
from mamba_stream.server.orders import Orders
from mamba_stream.server.probing import HEADER
from mamba_stream.server.supervisor import Supervisor

Check = Callable[[], str | None]
"""What is wrong, in words; ``None`` where nothing is."""

_EVERY: Final = 1.0
_PROBE_TIMEOUT: Final = 2.0
_BLOCK: Final = b"\0" * 4096
_STOPPING: Final = "the server is being stopped"
_STARTING: Final = "the server is being started"


class Readiness:
    """Asks several checks, one after the other, again and again."""

    def __init__(self, checks: Mapping[str, Check], changed: Sequence[Callable[[bool], None]] = ()) -> None:
        """Knows nothing yet, which is not ready.

        Args:
            checks: By name.
            changed: Are told when it becomes ready, and when it is no longer.
        """
        self._checks = checks
        self._changed = changed
        self._found: dict[str, str | None] = dict.fromkeys(checks, _STARTING)
        self._lock = threading.Lock()
        self._ready = False
        self._stopping = False
        self._over = threading.Event()

    def start(self) -> None:
        """Asks once, and then in a thread of its own."""
        self.look()
        threading.Thread(target=self._run, name="readiness", daemon=True).start()

    @property
    def ready(self) -> bool:
        """Whether all is well."""
        return self._ready

    def found(self) -> dict[str, str | None]:
        """What each check found last."""
        with self._lock:
            return {**self._found, **({"stopping": _STOPPING} if self._stopping else {})}

    def look(self) -> None:
        """Asks all checks now."""
        found = {name: _asked(check) for name, check in self._checks.items()}
        with self._lock:
            self._found = found
        self._settle()

    def stop(self) -> None:
        """Is not ready from now on, whatever the checks say."""
        self._stopping = True
        self._over.set()
        self._settle()

    def _run(self) -> None:
        while not self._over.wait(_EVERY):
            self.look()

    def _settle(self) -> None:
        with self._lock:
            ready = not self._stopping and all(each is None for each in self._found.values())
            changed, self._ready = ready != self._ready, ready
            if changed:
                for tell in self._changed:
                    tell(ready)


def _asked(check: Check) -> str | None:
    try:
        return check()
    except (MambaStreamError, OSError) as error:
        return str(error)


class LogCheck:
    """Whether the log can be read and written: its index is asked, and its disk takes bytes."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def __call__(self) -> str | None:
        self._log.lsn()
        return write_nothing(self._log.path)


def write_nothing(directory: Path) -> str | None:
    """Writes bytes to the directory's disk, in a file without a name, of which nothing stays; why that failed."""
    try:
        made = os.open(directory, os.O_TMPFILE | os.O_WRONLY, 0o600)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            # A file system without such files: what the system says of permissions has to do.
            return None if os.access(directory, os.W_OK) else "the log's directory cannot be written to"
        return f"the log's directory cannot be written to: {error.strerror}"
    try:
        os.write(made, _BLOCK)
        os.fdatasync(made)
    except OSError as error:
        return f"the log's disk takes no bytes: {error.strerror}"
    finally:
        os.close(made)
    return None


class DiskCheck:
    """Whether there is room."""

    def __init__(self, directory: Path, reserve: int) -> None:
        self._directory = directory
        self._reserve = reserve

    def __call__(self) -> str | None:
        free = free_bytes(self._directory)
        if free < self._reserve:
            return f"{free >> 20} MiB are left on the log's disk, less than {Size(self._reserve)}"
        return None


def free_bytes(directory: Path) -> int:
    """What is left on the disk for whoever is not root."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


class ListenerCheck:
    """Whether a client that connects now is answered, by a call of Flight that lets nobody in."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def __call__(self) -> str | None:
        child = self._supervisor.child
        if child is None:
            return "the listener is being started"
        orders = self._supervisor.orders
        if orders.client_ca is not None:
            # We have no certificate that it would let in.
            return None if child.figures(_PROBE_TIMEOUT)[1] else "the listener does not answer"
        return probe(orders)


def probe(orders: Orders) -> str | None:
    """Calls a listener; what came instead of an answer."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(orders.host, orders.host)  # noqa: S104 - what it is told
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    secure = orders.tls_cert is not None
    options = flight.FlightCallOptions(
        timeout=_PROBE_TIMEOUT, headers=[(HEADER.encode(), orders.probe.encode())]
    )
    client = None
    try:
        client = flight.FlightClient(
            f"grpc{'+tls' if secure else ''}://{host}:{orders.port}",
            # Whose certificate it is matters to clients; here it only matters that somebody answers.
            disable_server_verification=secure,
            # A connection of its own, as a new client has it, and not by way of a proxy.
            generic_options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)],
        )
        list(client.list_actions(options))
    except pa.ArrowException as error:
        return f"the listener does not answer: {str(error).split('. ', 1)[0]:.200}"
    finally:
        if client is not None:
            with contextlib.suppress(pa.ArrowException):
                client.close()
    return None

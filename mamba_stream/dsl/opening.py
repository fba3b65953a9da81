"""``mamba.open``: a log whose topics begin streams."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from mamba_stream import log as logs
from mamba_stream.core.durability import Durability, check_durability
from mamba_stream.errors import InvalidInput
from mamba_stream.log.rows import TopicRow

if TYPE_CHECKING:
    from mamba_stream.dsl.sources import AppendTime
    from mamba_stream.dsl.streams import Stream


class Topic(logs.Topic):
    """A durable, partitioned, append-only sequence of rows of one schema; ``stream()`` begins a pipeline over it.

    Topics come from ``log.create_topic(...)`` and ``log["name"]``.
    """

    def stream(
        self,
        *,
        lateness: str | timedelta = "0s",
        time: str | AppendTime | None = None,
        idle: str | timedelta = "30s",
        ahead: str | timedelta | None = None,
        start: logs.Start = "earliest",
        name: str | None = None,
    ) -> Stream:
        """A stream of this topic, bound to its log: ``log["flights"].stream(lateness="3h").head()``.

        Arguments as for :func:`mamba_stream.stream`.
        """
        # Who only reads and writes needs no streams, which take longer to import than all of the log.
        from mamba_stream.dsl.sources import stream

        return stream(self, time=time, lateness=lateness, idle=idle, ahead=ahead, start=start, name=name)


class Log(logs.Log):  # noqa: D101 - the docstring is that of its parent
    __doc__ = logs.Log.__doc__

    def create_topic(
        self,
        name: str,
        schema: Any,
        *,
        partitions: int = 1,
        key: str | Sequence[str] | None = None,
        strict_key: bool = False,
        time: str | None = None,
        compression: str = "none",
        exist_ok: bool = False,
        internal: bool = False,
        retention: str | timedelta | None = None,
        retention_bytes: int | str | None = None,
        quota: int | str | None = None,
        compact: bool = False,
        compact_after: str | timedelta = "1m",
        tombstones: str | timedelta = "1d",
        seal_compression: str | None = None,
        compatibility: str = "backward",
    ) -> Topic:
        super().create_topic(
            name,
            schema,
            partitions=partitions,
            key=key,
            strict_key=strict_key,
            time=time,
            compression=compression,
            exist_ok=exist_ok,
            internal=internal,
            retention=retention,
            retention_bytes=retention_bytes,
            quota=quota,
            compact=compact,
            compact_after=compact_after,
            tombstones=tombstones,
            seal_compression=seal_compression,
            compatibility=compatibility,
        )
        return self[name]

    create_topic.__doc__ = logs.Log.create_topic.__doc__

    def alter_topic(self, name: str, **changes: Any) -> Topic:
        super().alter_topic(name, **changes)
        return self[name]

    alter_topic.__doc__ = logs.Log.alter_topic.__doc__

    def __getitem__(self, name: str) -> Topic:
        topic = super().__getitem__(name)
        assert isinstance(topic, Topic)
        return topic

    def _bind(self, row: TopicRow) -> Topic:
        return Topic(self, self._store, row)


def open_log(
    place: str | os.PathLike[str] | Log | None = None,
    *,
    token: str | None = None,
    ca: str | os.PathLike[str] | None = None,
    certificate: str | os.PathLike[str] | None = None,
    key: str | os.PathLike[str] | None = None,
    durability: Durability = "commit",
    upkeep: bool = True,
    disk: Mapping[str, Any] | None = None,
) -> Log:
    """Opens a log: a directory, created if missing, or a server's.

    Args:
        place: A directory, an address (``host:port``, ``grpc://host:port``, ``grpc+tls://host:port``), or an open log,
            which is returned. Nothing means ``$MAMBA_STREAM_LOG``, else ``log`` in ``mamba-stream.toml`` of the working
            directory, else the user's data directory, which is named when it is created.
        token: What a server knows this user by; ``$MAMBA_STREAM_TOKEN`` unless told otherwise.
        ca: A file of certificates that the server's must lead to, else ``$MAMBA_STREAM_CA``, else this machine's.
        certificate: A file with this client's certificate, where a server asks for one
            (``$MAMBA_STREAM_CERTIFICATE``).
        key: A file with its key (``$MAMBA_STREAM_KEY``).
        durability: What a loss of power can do to what is committed through it, unless a call says otherwise:
            ``"commit"``, ``"interval"`` or ``"os"``, as ``Topic.append`` explains them.
        upkeep: Whether a job that runs over it, or ``log.tended()``, does in the background what the log needs.
        disk: How full the disk of a directory may become, as ``{"soft": "80%", "hard": "90%"}``; what is left out is as
            ``MAMBA_STREAM_DISK_*`` and ``[disk]`` in ``mamba-stream.toml`` say (docs/upkeep.md).

    Raises:
        NotALog: The directory holds something else.
        ServerUnavailable: Nothing answers at the address.
        NotAuthenticated: The server does not know this user.
        LogUnavailable: It cannot be opened or used from here.
    """
    given = {"token": token, "ca": ca, "certificate": certificate, "key": key}
    shown = {name: os.fspath(value) for name, value in given.items() if value is not None}
    if isinstance(place, Log):
        if shown:
            raise InvalidInput(f"this log is open already: {', '.join(shown)} are for opening one")
        if disk is not None:
            raise InvalidInput("this log is open already: disk is for opening one")
        if durability not in ("commit", place.durability):
            raise InvalidInput(
                f"this log is open already, with durability={place.durability!r}: open it anew"
            )
        return place
    known = logs.Credentials.of()
    level = check_durability(durability)
    credentials = replace(known, **shown) if shown else None
    return Log(logs.storage_of(place, credentials=credentials, disk=disk), level, upkeep)

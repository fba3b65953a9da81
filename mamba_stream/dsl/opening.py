"""``mamba.open``: a log whose topics begin streams."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from mamba_stream import log as logs
from mamba_stream.dsl.sources import AppendTime, stream
from mamba_stream.dsl.streams import Stream
from mamba_stream.log.rows import TopicRow


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
        time: str | None = None,
        compression: str = "none",
        exist_ok: bool = False,
        internal: bool = False,
    ) -> Topic:
        super().create_topic(
            name,
            schema,
            partitions=partitions,
            key=key,
            time=time,
            compression=compression,
            exist_ok=exist_ok,
            internal=internal,
        )
        return self[name]

    create_topic.__doc__ = logs.Log.create_topic.__doc__

    def __getitem__(self, name: str) -> Topic:
        topic = super().__getitem__(name)
        assert isinstance(topic, Topic)
        return topic

    def _bind(self, row: TopicRow) -> Topic:
        return Topic(self, self._store, row)


def open_log(place: str | os.PathLike[str] | Log | None = None) -> Log:
    """Opens a log: a directory, created if missing.

    Args:
        place: A directory, or an open log, which is returned. Nothing means ``$MAMBA_STREAM_LOG``, else ``log`` in
            ``mamba-stream.toml`` of the working directory, else the user's data directory, which is named when it is
            created.

    Raises:
        NotALog: The directory holds something else.
        LogUnavailable: It cannot be opened or used from here.
    """
    return place if isinstance(place, Log) else Log(logs.storage_of(place))

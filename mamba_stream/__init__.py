"""A durable log of Arrow batches in a directory, and a stream engine over it whose language is Polars.

>>> import mamba_stream as mamba

The log: :func:`open` gives a :class:`Log`, whose :class:`Topic` objects hold rows in partitions. What belongs
together commits together, in a :class:`Transaction`.

Streams: :func:`stream` begins one, its verbs build on it (:func:`tumbling`, :func:`hopping`, :func:`cumulative`,
:func:`session` and :func:`rows` make windows, :func:`concat` unites, :func:`sequence` hands over), :func:`pipeline`
names what comes out, :func:`run` and :func:`start` set it to work as a :class:`Job`. Building runs nothing.

Messages: a :class:`Publisher` or a :class:`Producer` sends them to a topic, where a :class:`RoutingPolicy` says which
partition each goes to; a :class:`Subscriber` is called back for each :class:`Message`, a :class:`Consumer` asks for
them, alone or in a group, and :class:`FilterRule` objects say which. ``mamba.aio`` has the same for asyncio, and
:func:`queue_statistics` tells how it goes.

Errors: all descend from :class:`MambaStreamError`; ``mamba_stream.errors`` draws the tree.

The rooms of the house, each importing only from those below it::

    cli                 the command `mamba-stream`
    dsl | messaging     streams and windows, thin verbs that build a plan; message queues on the log
    runtime             tasks, watermarks, state, jobs
    plan                a pipeline as data: nodes, validation, splitting of aggregates, explain
    operators | log     vectorised steps that know no log; the log, which knows no steps
    connect             what a connector is: the SDK
    core                batches, schemas, time, keys, change sets: plain values and functions
    errors              the tree of errors

Names are imported when they are first used: importing this package costs a few milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mamba_stream.dsl.neighbours import step
    from mamba_stream.dsl.opening import (
        Log,
        Topic,
        open_log as open,  # noqa: A004 - mamba.open is the name users type
    )
    from mamba_stream.dsl.periodic import periodically
    from mamba_stream.dsl.pipelines import Pipeline, pipeline
    from mamba_stream.dsl.running import run, start
    from mamba_stream.dsl.sources import append_time, sequence, stream
    from mamba_stream.dsl.streams import Stream, united as concat
    from mamba_stream.dsl.windows import cumulative, hopping, rows, session, tumbling
    from mamba_stream.errors import (
        AccessDenied,
        AlreadyExists,
        ColumnNotFound,
        CommitUnknown,
        ConnectorFailed,
        DataCorrupted,
        DiskFull,
        DiskNearlyFull,
        ExpressionRefused,
        ForkedProcess,
        GroupInUse,
        InvalidInput,
        InvalidName,
        JobFailed,
        JobNotFound,
        JobNotRunning,
        JobRunning,
        LogClosed,
        LogFailed,
        LogInUse,
        LogReplaced,
        LogUnavailable,
        MambaStreamError,
        MissingExtra,
        NetworkFileSystem,
        NewerFormat,
        NotALog,
        NotAuthenticated,
        NotAuthorized,
        NotCommitted,
        NotFound,
        OffsetTrimmed,
        PartitionNotFound,
        PipelineRefused,
        PreconditionFailed,
        QueueFull,
        QuotaExceeded,
        ReadOnlyLog,
        Reject,
        SchemaMismatch,
        SequenceGap,
        ServerUnavailable,
        StaleLease,
        StateTooLarge,
        StepFailed,
        TopicEnded,
        TopicFull,
        TopicNotFound,
        UnboundedState,
        UnsupportedType,
    )
    from mamba_stream.log import (
        LogBatch,
        Reader,
        Transaction,
        restore,
    )
    from mamba_stream.messaging import (
        aio,
    )
    from mamba_stream.messaging.consumer import (
        Consumer,
    )
    from mamba_stream.messaging.message import (
        Message,
    )
    from mamba_stream.messaging.producer import (
        Producer,
    )
    from mamba_stream.messaging.publisher import (
        Publisher,
    )
    from mamba_stream.messaging.routing import (
        RoutingPolicy,
    )
    from mamba_stream.messaging.rules import (
        FilterRule,
    )
    from mamba_stream.messaging.statistics import (
        queue_statistics,
    )
    from mamba_stream.messaging.subscriber import (
        Subscriber,
    )
    from mamba_stream.runtime import (
        Job,
    )

__version__ = "0.1.0"

__all__ = [
    "AccessDenied",
    "AlreadyExists",
    "ColumnNotFound",
    "CommitUnknown",
    "ConnectorFailed",
    "Consumer",
    "DataCorrupted",
    "DiskFull",
    "DiskNearlyFull",
    "ExpressionRefused",
    "FilterRule",
    "ForkedProcess",
    "GroupInUse",
    "InvalidInput",
    "InvalidName",
    "Job",
    "JobFailed",
    "JobNotFound",
    "JobNotRunning",
    "JobRunning",
    "Log",
    "LogBatch",
    "LogClosed",
    "LogFailed",
    "LogInUse",
    "LogReplaced",
    "LogUnavailable",
    "MambaStreamError",
    "Message",
    "MissingExtra",
    "NetworkFileSystem",
    "NewerFormat",
    "NotALog",
    "NotAuthenticated",
    "NotAuthorized",
    "NotCommitted",
    "NotFound",
    "OffsetTrimmed",
    "PartitionNotFound",
    "Pipeline",
    "PipelineRefused",
    "PreconditionFailed",
    "Producer",
    "Publisher",
    "QueueFull",
    "QuotaExceeded",
    "ReadOnlyLog",
    "Reader",
    "Reject",
    "RoutingPolicy",
    "SchemaMismatch",
    "SequenceGap",
    "ServerUnavailable",
    "StaleLease",
    "StateTooLarge",
    "StepFailed",
    "Stream",
    "Subscriber",
    "Topic",
    "TopicEnded",
    "TopicFull",
    "TopicNotFound",
    "Transaction",
    "UnboundedState",
    "UnsupportedType",
    "__version__",
    "aio",
    "append_time",
    "concat",
    "cumulative",
    "hopping",
    "open",
    "periodically",
    "pipeline",
    "queue_statistics",
    "restore",
    "rows",
    "run",
    "sequence",
    "session",
    "start",
    "step",
    "stream",
    "tumbling",
]

_HOME = {
    "Log": "mamba_stream.dsl.opening",
    "Stream": "mamba_stream.dsl.streams",
    "Topic": "mamba_stream.dsl.opening",
    "append_time": "mamba_stream.dsl.sources",
    "concat": "mamba_stream.dsl.streams",
    "cumulative": "mamba_stream.dsl.windows",
    "hopping": "mamba_stream.dsl.windows",
    "open": "mamba_stream.dsl.opening",
    "periodically": "mamba_stream.dsl.periodic",
    "pipeline": "mamba_stream.dsl.pipelines",
    "rows": "mamba_stream.dsl.windows",
    "run": "mamba_stream.dsl.running",
    "sequence": "mamba_stream.dsl.sources",
    "session": "mamba_stream.dsl.windows",
    "start": "mamba_stream.dsl.running",
    "step": "mamba_stream.dsl.neighbours",
    "stream": "mamba_stream.dsl.sources",
    "tumbling": "mamba_stream.dsl.windows",
    "LogBatch": "mamba_stream.log",
    "Reader": "mamba_stream.log",
    "Transaction": "mamba_stream.log",
    "restore": "mamba_stream.log",
    "aio": "mamba_stream.messaging.aio",
    "Consumer": "mamba_stream.messaging.consumer",
    "Message": "mamba_stream.messaging.message",
    "Subscriber": "mamba_stream.messaging.subscriber",
    "queue_statistics": "mamba_stream.messaging.statistics",
    "Producer": "mamba_stream.messaging.producer",
    "Publisher": "mamba_stream.messaging.publisher",
    "RoutingPolicy": "mamba_stream.messaging.routing",
    "FilterRule": "mamba_stream.messaging.rules",
    "Pipeline": "mamba_stream.dsl.pipelines",
    "Job": "mamba_stream.runtime",
}
_NAMED = {"open": "open_log", "concat": "united"}
"""What is called otherwise at home."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(_HOME.get(name, "mamba_stream.errors"))
    value = home if name == "aio" else getattr(home, _NAMED.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

"""Every error that mamba-stream raises, in one tree.

A message says what happened, where (topic, partition, offset, step), what would be valid, and what to do
next. Errors with a second, built-in parent (``ValueError``, ``KeyError`` ...) are also caught by code that
knows nothing of this package.

    MambaStreamError
    ├── InvalidInput (ValueError)          what was passed cannot be right; nothing was changed
    │   ├── InvalidName                        a name of a topic, group or step
    │   ├── SchemaMismatch                     columns or types are not those of the topic
    │   ├── UnsupportedType                    a type that the log does not store
    │   └── PipelineRefused                    a pipeline that cannot be right, refused while being built
    │       ├── ColumnNotFound                     no such column at this step
    │       └── ExpressionRefused                  the expression looks beyond its row, or is not allowed there
    ├── NotFound (LookupError)             a topic, partition, group, record or job that does not exist
    │   ├── TopicNotFound
    │   ├── PartitionNotFound
    │   └── JobNotFound
    ├── AlreadyExists                      a topic of that name exists
    ├── NotCommitted                       a change set was refused whole; the log is as it was
    │   ├── PreconditionFailed                 a record, an offset or an epoch was not as expected
    │   ├── SequenceGap                        a producer's sequence number skips or runs backwards
    │   ├── TopicEnded                         an append to a topic that was ended
    │   ├── StaleLease                         the lease on a message or partition ended; somebody else has it
    │   ├── QueueFull                          a bounded topic has no room, and rejects what comes
    │   ├── TopicFull                          the topic takes on disk what its quota permits
    │   └── DiskFull                           no room; append again once there is
    │       └── DiskNearlyFull                     a mark of the disk is reached; deleting and reading go on
    ├── CommitUnknown                      the commit may or may not have happened; reopen and look
    ├── LogUnavailable                     the log cannot be opened or used from here
    │   ├── NotALog                            the directory holds something else
    │   ├── NewerFormat                        written by a later version
    │   ├── ReadOnlyLog                        no permission to write there
    │   ├── NetworkFileSystem                  the index would not be safe there
    │   ├── ForkedProcess                      the handle was opened before a fork
    │   ├── LogFailed                          an I/O error stopped this handle; reopen
    │   ├── LogInUse                           somebody has the log open, which is to be had alone
    │   ├── LogClosed                          the handle was closed
    │   ├── LogReplaced                        the server keeps another log than the one that was opened there
    │   └── ServerUnavailable                  nothing listens there, or it went away, or is being stopped
    ├── AccessDenied                       the server knows who asks, or does not, and refuses
    │   ├── NotAuthenticated                   no token or certificate, or one that is not (any longer) valid
    │   └── NotAuthorized                      this user may not do that
    ├── QuotaExceeded                      more than this user may have; the error says when to try again
    ├── DataCorrupted                      stored bytes are not what was written; never returned as data
    ├── OffsetTrimmed                      the rows asked for were trimmed away
    ├── GroupInUse                         members are in the group, which must be stopped first
    ├── JobRunning                         a live job has this name
    ├── JobNotRunning                      something was asked of a job, and nobody runs it
    ├── JobFailed                          a running pipeline stopped; the cause is in ``__cause__``
    │   ├── StepFailed                         a step, or your function in it, raised
    │   └── StateTooLarge                      state alone exceeds the memory limit
    ├── ConnectorFailed                    an outside system failed, or does not hold what was read from it
    ├── Reject                             raised by your handler: the message goes to the dead letters
    ├── MissingExtra (ImportError)         an optional dependency is not installed
    └── UnboundedState (UserWarning)       a warning: a step keeps rows that nothing ever frees
"""

from __future__ import annotations


class MambaStreamError(Exception):
    """The root of all errors of this package."""


class InvalidInput(MambaStreamError, ValueError):
    """What was passed cannot be right; nothing was changed."""


class InvalidName(InvalidInput):
    """The name of a topic, group or step is not allowed."""


class SchemaMismatch(InvalidInput):
    """Columns or types are not those of the topic."""


class UnsupportedType(InvalidInput):
    """A column has a type that the log does not store."""


class PipelineRefused(InvalidInput):
    """The pipeline cannot be right; refused while it is being built."""


class ColumnNotFound(PipelineRefused):
    """A step names a column that the stream does not have there."""


class ExpressionRefused(PipelineRefused):
    """An expression looks beyond its row, or is not allowed where it stands."""


class NotFound(MambaStreamError, LookupError):
    """Something named does not exist."""


class TopicNotFound(NotFound):
    """The log has no topic of this name."""


class PartitionNotFound(NotFound):
    """The topic has no partition of this number."""


class JobNotFound(NotFound):
    """The log knows no job of this name."""


class AlreadyExists(MambaStreamError):
    """A topic of this name, or one differing only in case, exists."""


class NotCommitted(MambaStreamError):
    """A change set was refused whole; the log is as it was."""


class PreconditionFailed(NotCommitted):
    """A record, an end offset or an epoch was not what the change set expected."""


class SequenceGap(NotCommitted):
    """A producer's sequence number does not follow the last one accepted."""


class TopicEnded(NotCommitted):
    """The topic was ended: it takes no more rows."""


class StaleLease(NotCommitted):
    """The lease on a message or partition ended, or it was settled before: somebody else may have it now."""


class QueueFull(NotCommitted):
    """A bounded topic has no room for these messages; they were not taken."""


class TopicFull(NotCommitted):
    """The topic takes on disk what its quota permits; the same append works once rows are gone."""


class DiskFull(NotCommitted):
    """The file system has no room; the same append works once there is."""


class DiskNearlyFull(DiskFull):
    """A mark of the disk is reached: it takes no rows, while reading, offsets and deleting go on."""


class CommitUnknown(MambaStreamError):
    """The commit may or may not have happened: reopen the log and look, or retry with a sequence."""


class LogUnavailable(MambaStreamError):
    """The log cannot be opened, or not be used from here."""


class NotALog(LogUnavailable):
    """The directory holds something that is not a log."""


class NewerFormat(LogUnavailable):
    """The log was written by a later version of mamba-stream."""


class ReadOnlyLog(LogUnavailable):
    """The directory cannot be written to."""


class NetworkFileSystem(LogUnavailable):
    """The directory is on a network file system, where the index would not be safe."""


class ForkedProcess(LogUnavailable):
    """The handle was opened by a parent process; a forked child must not use it."""


class LogFailed(LogUnavailable):
    """An I/O error stopped this handle; reopen the log, which verifies it."""


class LogInUse(LogUnavailable):
    """Somebody has the log open, and what was asked for needs it alone; the message says who has it."""


class LogClosed(LogUnavailable):
    """The handle was closed."""


class LogReplaced(LogUnavailable):
    """The server at this address keeps another log now than the one that was opened there."""


class ServerUnavailable(LogUnavailable):
    """Nothing listens at the address, or the server went away or is being stopped."""


class AccessDenied(MambaStreamError):
    """The server refuses this."""


class NotAuthenticated(AccessDenied):
    """There is no token or certificate, or it is not valid, or not any longer."""


class NotAuthorized(AccessDenied):
    """The server knows who asks, and nothing allows it."""


class QuotaExceeded(MambaStreamError):
    """More than this user may have at a time.

    Attributes:
        retry_after: Seconds after which it may go.
    """

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DataCorrupted(MambaStreamError):
    """Stored bytes are not what was written. They are never returned as data.

    Attributes:
        topic: The topic, where known.
        partition: The partition, where known.
        offset: The first offset of the damaged batch, where known.
    """

    def __init__(
        self,
        message: str,
        *,
        topic: str | None = None,
        partition: int | None = None,
        offset: int | None = None,
    ) -> None:
        super().__init__(message)
        self.topic = topic
        self.partition = partition
        self.offset = offset


class OffsetTrimmed(MambaStreamError, LookupError):
    """The rows asked for were trimmed away, or never existed."""


class GroupInUse(MambaStreamError):
    """Members are at work in the group: what was asked for waits until they are stopped."""


class JobRunning(MambaStreamError):
    """A live job has this name; the message says where it runs."""


class JobNotRunning(MambaStreamError):
    """Something was asked of a job, and nobody runs it; the message says what became of it."""


class JobFailed(MambaStreamError):
    """A running pipeline stopped. What is committed stays; running it again resumes there."""


class StepFailed(JobFailed):
    """A step, or the function given to it, raised: see ``__cause__``."""


class StateTooLarge(JobFailed):
    """The state of a step alone exceeds the job's memory limit."""


class ConnectorFailed(MambaStreamError):
    """An outside system failed, or does not hold what was read from it before; the message names place and remedy."""


class Reject(MambaStreamError):
    """Raise it in a handler of messages that must not be tried again: the message goes to the dead letters."""


class MissingExtra(MambaStreamError, ImportError):
    """An optional dependency is not installed; the message names the extra."""


class UnboundedState(MambaStreamError, UserWarning):
    """A step keeps rows that nothing ever frees; the message names it and the setting that would."""

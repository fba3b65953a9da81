"""The log: durable, partitioned, append-only topics of Arrow record batches in a directory.

A commit is one change set (:mod:`mamba_stream.core.changes`). Its rows are written to a commit file and
synced, then the index is told, durably; a row exists when the index says so. See ``docs/log.md``.
"""

from mamba_stream.log.backing import BackedUp, backup
from mamba_stream.log.batch import LogBatch
from mamba_stream.log.log import Log
from mamba_stream.log.opening import directory_of, locate, open_log, storage_of
from mamba_stream.log.remote.address import Credentials
from mamba_stream.log.restoring import Restored, backups, restore
from mamba_stream.log.storage import Lock, LogStatistics, Reader
from mamba_stream.log.topic import Start, Topic
from mamba_stream.log.transaction import Transaction, commit_together
from mamba_stream.log.upkeep import Maintained, Unread

__all__ = [
    "BackedUp",
    "Credentials",
    "Lock",
    "Log",
    "LogBatch",
    "LogStatistics",
    "Maintained",
    "Reader",
    "Restored",
    "Start",
    "Topic",
    "Transaction",
    "Unread",
    "backup",
    "backups",
    "commit_together",
    "directory_of",
    "locate",
    "open_log",
    "restore",
    "storage_of",
]

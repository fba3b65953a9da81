"""What a log in a directory holds, counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mamba_stream.log import ballast, rows
from mamba_stream.log.rows import FileRow
from mamba_stream.log.storage import LogStatistics

if TYPE_CHECKING:
    from mamba_stream.log.store import Store


def statistics(store: Store) -> LogStatistics:
    """What the log holds, and what this process did with it."""
    topics = {row.id: row for row in store.topics()}
    heads = [
        (topics[place[0]], rows.unpack_head(value))
        for key, value in store.items(rows.HEAD)
        if (place := rows.partition_place(key))[0] in topics
    ]
    files = [rows.unpack(FileRow, value) for _, value in store.items(rows.FILE)]
    counts = store.committer.counts
    disk = store.room.look()
    return LogStatistics(
        lsn=store.lsn(),
        topics=sum(not row.internal for row in topics.values()),
        rows=sum(min(head.end - head.begin, head.rows) for row, head in heads if not row.internal),
        bytes=sum(head.size for _, head in heads),
        batches=sum(head.entries for _, head in heads),
        commit_files=sum(file.kind == "commit" and file.state != "trash" for file in files),
        segments=sum(file.kind == "segment" and file.state != "trash" for file in files),
        trash=sum(file.state == "trash" for file in files),
        index_bytes=store.index.size(),
        readers=store.index.readers(),
        commits=counts.commits,
        changes=counts.changes,
        refused=counts.refused,
        appended_rows=counts.rows,
        appended_bytes=counts.bytes,
        commit_seconds=counts.seconds,
        commit_times=counts.times,
        flushed_lsn=store.flushed_lsn(),
        upkeep_runs=store.upkeep["runs"],
        trimmed_rows=store.upkeep["trimmed_rows"],
        unread_rows=store.upkeep["unread_rows"],
        compacted_rows=store.upkeep["compacted_rows"],
        written_bytes=store.upkeep["written_bytes"],
        skipped_batches=store.skips.total.batches,
        skipped_rows=store.skips.total.rows,
        skipped_offsets=store.skips.total.offsets,
        scrubbed_batches=store.scrubs.batches,
        scrubbed_bytes=store.scrubs.bytes,
        scrub_findings=store.scrubs.findings,
        disk_bytes=0 if disk is None else disk.size,
        disk_free=0 if disk is None else disk.free,
        disk_state=store.room.state,
        ballast_bytes=ballast.size(store.path),
        disk_refused=counts.disk_refused,
        quota_refused=counts.quota_refused,
    )

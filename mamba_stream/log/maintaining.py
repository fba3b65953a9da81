"""Upkeep: what a log needs from time to time, one at a time, and safe to be interrupted anywhere.

Each part looks at the log as it is and takes a step that is whole in itself, so that what one run has not done the
next one does.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final

from mamba_stream.errors import DiskFull, NotCommitted
from mamba_stream.log import ballast, compacting, directory, merging, recovery, retaining, sealing
from mamba_stream.log.pacing import Pace, Step, at_once
from mamba_stream.log.segments import Repacked
from mamba_stream.log.upkeep import Maintained, Unread

if TYPE_CHECKING:
    from mamba_stream.log.store import Store

_NAME: Final = "log"
_CLEARED: Final = 100
"""Steps that a run within a budget does at most of what is left of deleted topics."""


def maintain(
    store: Store, budget: int | None = None, *, patient: bool = False, step: Step | None = None
) -> Maintained:
    """Does what the log needs.

    Args:
        store: The log.
        budget: About how many bytes may be written anew; without, all that there are.
        patient: Leave files alone that are small and young: they are worth more later.
        step: Called between two pieces of work. Without, a run within a budget gives way to those who commit, and one
            that is to do everything does not.

    Raises:
        DiskFull: There is no room; what was not done stays as it is.
        NotCommitted: It could not be done, for another reason.
    """
    lock = ballast.relieved(store.path, lambda: store.lock(directory.UPKEEP, _NAME))
    if lock is None:
        return Maintained(done=False, busy=store.lock_holder(directory.UPKEEP, _NAME) or "another process")
    if step is None:
        step = at_once if budget is None else Pace(store.lsn, store.clock)
    try:
        found = _maintained(store, budget, patient, step)
    except OSError as error:
        failed = DiskFull if error.errno in directory.NO_ROOM else NotCommitted
        raise failed(
            f"{store.path}: {error.strerror}; what upkeep has not done stays as it is. Try again later"
        ) from error
    finally:
        lock.release()
    store.upkeep.add(found)
    return found


def _maintained(store: Store, budget: int | None, patient: bool, step: Step) -> Maintained:
    retained = retaining.retain(store)
    cleared = _cleared(store, budget, step)
    removed = store.registrar.tidy()
    anew = Repacked()
    complete = False
    # What is written anew takes its room before it gives back that of what it replaces.
    if not (short := store.room.tight()):
        budget = store.room.within(budget)
        complete = sealing.seal_some(store, anew, budget, patient=patient, step=step)
        complete = compacting.compact(store, anew, budget, step) and complete
        complete = merging.merge(store, anew, budget, step) and complete
        removed += store.registrar.tidy()
    store.room.look()
    return Maintained(
        trimmed_rows=retained.rows,
        trimmed_bytes=retained.bytes,
        unread=tuple(Unread(*place, count) for place, count in retained.unread.items()),
        written_bytes=anew.bytes,
        merged_batches=anew.merged,
        compacted_rows=anew.dropped,
        removed_files=removed,
        done=complete and cleared,
        short_of_room=short,
    )


def _cleared(store: Store, budget: int | None, step: Step) -> bool:
    """Takes away what is left of deleted topics; whether that was all."""
    for _ in itertools.count() if budget is None else range(_CLEARED):
        if recovery.clear(store.index, store.files, store.clock):
            return True
        step()
    return False

"""What becomes of a lease as what was settled in it is written: the change, and the lease after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from mamba_stream.core.deadletters import Death
from mamba_stream.messaging.accounts import Accounts
from mamba_stream.messaging.books import Change
from mamba_stream.messaging.deadletters import Graveyard
from mamba_stream.messaging.lease import Lease
from mamba_stream.messaging.parts import joined, keys_of, split
from mamba_stream.messaging.pending import Pending, bits_of, due_of, key_bitmap, pack, without


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a lease becomes once its change is committed."""

    lease: Lease
    key: str
    value: bytes
    run: Pending
    noted: int
    """How many of ``done`` the lease had noted."""
    done: list[int]
    again: list[tuple[int, int, int]]
    dead: list[Death]


class Settling:
    """Makes changes of what was settled.

    Args:
        accounts: The group's records.
        graveyard: Where the dead letters go.
    """

    def __init__(self, accounts: Accounts, graveyard: Graveyard) -> None:
        self._accounts = accounts
        self._graveyard = graveyard

    def outcome(self, change: Change, lease: Lease, now: int, also: int | None = None) -> Outcome:
        """What a lease becomes; adds to the change what makes it that.

        Args:
            change: What is to be committed.
            lease: The lease.
            now: Microseconds since the epoch.
            also: A message that is done by what else commits with the change.
        """
        run, key, value = lease.run, lease.key, b""
        written, again, dead = lease.done[:], lease.again[:], lease.dead[:]
        done = written if also is None else [*written, also]
        gone = {*done, *(offset for offset, _, _ in again), *(death.offset for death in dead)}
        place = self._accounts.run_place(key)
        change.requires[place] = lease.value
        change.records[place] = None
        if bits := without(run.bits, run.base, gone):
            run = msgspec.structs.replace(
                run, bits=bits, keys=keys_of(lease.parts, gone) if run.keys else b""
            )
            value = pack(run)
            if lease.deadline != due_of(key):
                key = self._accounts.put(change, lease.deadline, run)
            else:
                change.records[place] = value
        self._put_again(change, lease, again, now)
        if dead:
            deaths = {death.offset: death for death in dead}
            parts = [
                p.where(np.isin(p.offsets, np.fromiter(deaths, np.int64, len(deaths)))) for p in lease.parts
            ]
            ordered = [deaths[offset] for offset in joined(parts).tolist()]
            self._graveyard.bury(change, run.partition, parts, ordered, now)
        return Outcome(lease, key, value, run, len(written), done, again, dead)

    def _put_again(
        self, change: Change, lease: Lease, again: Sequence[tuple[int, int, int]], now: int
    ) -> None:
        partition, keyed = lease.run.partition, bool(lease.run.keys)
        at_once: dict[int, list[int]] = {}
        for offset, when, attempt in again:
            if when <= now:
                at_once.setdefault(attempt, []).append(offset)
                continue
            group = lease.group_of(offset) if keyed else -1
            keys = key_bitmap(np.array([group], np.uint8)) if group >= 0 else b""
            self._accounts.put(change, when, Pending(partition, offset, b"\x01", attempt, 0, keys))
        # Whoever stops gives back thousands: these are few runs, not thousands of them.
        for attempt, given in at_once.items():
            parts = [part.where(np.isin(part.offsets, given)) for part in lease.parts]
            for offsets, within in split(parts):
                base, keys = int(offsets[0]), keys_of(within) if keyed else b""
                run = Pending(partition, base, bits_of(offsets, base), attempt, 0, keys)
                self._accounts.put(change, now, run)

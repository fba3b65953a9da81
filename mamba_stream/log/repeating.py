"""What a ledger remembers so that a change set that is sent again changes nothing, and for how long.

The numbers of a producer are kept by topic, those of :class:`~mamba_stream.core.changes.Once` by name. Names that
nobody uses go: those that come find some of the ones that have been left for a week, and take them away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from mamba_stream.core.changes import Applied, ChangeSet, Forget, Once, Sequence
from mamba_stream.errors import SequenceGap
from mamba_stream.log import rows
from mamba_stream.log.rows import OnceRow

if TYPE_CHECKING:
    from mamba_stream.log.ledger import Ledger

REMEMBERED_SEQUENCES: Final = 128
"""So many of a producer's last appends can be repeated and are answered with their offsets."""
RECOGNISED_DAYS: Final = 7
"""For so long after its last use a name is known at least."""
_DAY: Final = 86_400_000_000
_SWEPT: Final = 4
"""Names that one new one takes away at most: more than come, and no more than a commit should pay for."""

_ranges = msgspec.msgpack.Decoder(tuple[tuple[int, int, int, int], ...])


def repeated(ledger: Ledger, change: ChangeSet) -> Applied | None:
    """The first answer where all of this was committed before; ``None`` where it is new.

    Raises:
        SequenceGap: A number does not follow the last one, or is older than what is remembered.
    """
    if change.once is not None:
        found = _repeated_once(ledger, change.once)
        if found is not None:
            return found
    return _repeated_sequences(ledger, change) if change.sequences else None


def remember(ledger: Ledger, change: ChangeSet, answer: Applied) -> None:
    """Notes what came of a change set that was applied now."""
    for sequence in change.sequences:
        _remember_sequence(ledger, sequence, tuple(r for r in answer.ranges if r[0] == sequence.topic))
    if change.once is not None:
        key = rows.once_key(change.once.name)
        before = ledger.get(key)
        row = OnceRow(change.once.number, ledger.now, answer.lsn, answer.ranges, answer.topics)
        ledger.put(key, rows.pack(row))
        _note_use(ledger, key, None if before is None else rows.unpack(OnceRow, before).used)


def forget(ledger: Ledger, one: Forget) -> None:
    """Forgets a name. Where its topic was deleted, all of it went with that."""
    forget_key(
        ledger, rows.producer_key(one.topic, one.producer) if one.topic else rows.once_key(one.producer)
    )


def forget_key(ledger: Ledger, key: bytes) -> None:
    """Forgets the name whose row has this key, and all that is remembered of it."""
    value = ledger.get(key)
    if value is None:
        return
    once = key[:1] == rows.ONCE
    used = rows.unpack(OnceRow, value).used if once else rows.unpack_producer(value)[1]
    if used is not None:
        ledger.delete(rows.used_key(used // _DAY, key))
    _delete(ledger, key)


def answered(value: bytes | None, once: Once) -> Applied | None:
    """What came of it, if the value of its name's row is about that."""
    known = None if value is None else rows.unpack(OnceRow, value)
    if known is None or known.number != once.number:
        return None
    return Applied(known.lsn, known.ranges, repeated=True, topics=known.topics)


def _repeated_once(ledger: Ledger, once: Once) -> Applied | None:
    value = ledger.get(rows.once_key(once.name))
    if value is None:
        return None
    if (found := answered(value, once)) is not None:
        return found
    last = rows.unpack(OnceRow, value).number
    if once.number != last + 1:
        raise SequenceGap(
            f"{once.name!r}: number {once.number} does not follow {last}; the next one is {last + 1}"
        )
    return None


def _repeated_sequences(ledger: Ledger, change: ChangeSet) -> Applied | None:
    known: list[tuple[tuple[int, int, int, int], ...]] = []
    for sequence in change.sequences:
        value = ledger.get(rows.producer_key(sequence.topic, sequence.producer))
        last = None if value is None else rows.unpack_producer(value)[0]
        if last is None or sequence.number == last + 1:
            continue
        where = f"producer {sequence.producer!r}: sequence {sequence.number}"
        if sequence.number > last:
            raise SequenceGap(f"{where} does not follow {last}; the next one is {last + 1}")
        answer = ledger.get(rows.sequence_key(sequence.topic, sequence.producer, sequence.number))
        if answer is None:
            raise SequenceGap(
                f"{where} was left behind by {last}: it was committed more than {REMEMBERED_SEQUENCES} "
                "appends ago or never, and its offsets are no longer known"
            )
        known.append(_ranges.decode(answer))
    if not known:
        return None
    if len(known) < len(change.sequences):
        raise SequenceGap("some of the sequences of this transaction were committed before, others not")
    return Applied(ledger.ticks().lsn, tuple(r for answer in known for r in answer), repeated=True)


def _remember_sequence(
    ledger: Ledger, sequence: Sequence, ranges: tuple[tuple[int, int, int, int], ...]
) -> None:
    topic, producer, number = sequence.topic, sequence.producer, sequence.number
    key = rows.producer_key(topic, producer)
    before = ledger.get(key)
    ledger.put(key, rows.pack_producer(number, ledger.now))
    ledger.put(rows.sequence_key(topic, producer, number), msgspec.msgpack.encode(ranges))
    if number >= REMEMBERED_SEQUENCES:
        ledger.delete(rows.sequence_key(topic, producer, number - REMEMBERED_SEQUENCES))
    _note_use(ledger, key, None if before is None else rows.unpack_producer(before)[1])


def _note_use(ledger: Ledger, key: bytes, before: int | None) -> None:
    """Lists a name under the day of its last use, each day once."""
    today = ledger.now // _DAY
    if before is not None:
        if before // _DAY == today:
            return
        ledger.delete(rows.used_key(before // _DAY, key))
    ledger.put(rows.used_key(today, key), b"")
    for listed, _ in ledger.first(rows.USED, _SWEPT):
        day, unused = rows.used_place(listed)
        if today - day <= RECOGNISED_DAYS:
            break
        ledger.delete(listed)
        _delete(ledger, unused)


def _delete(ledger: Ledger, key: bytes) -> None:
    ledger.delete(key)
    if key[:1] == rows.PRODUCER:
        ledger.delete_prefix(rows.SEQUENCE + key[1:] + b"\0")

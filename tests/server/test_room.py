"""Memory that gets short: streams that are far ahead end one after the other."""

from __future__ import annotations

from mamba_stream.server.room import EVERY, Room
from tests.server.clocks import HandClock


def test_one_stream_at_a_time_is_to_end_while_memory_is_short() -> None:
    clock = HandClock()
    held: list[int | None] = [100]
    room = Room(1_000, lambda: held[0], clock)
    assert not room.is_short()
    held[0] = 900
    # What was seen a moment ago stands.
    assert not room.is_short()
    clock.move(EVERY)
    assert [room.is_short() for _ in range(3)] == [True, False, False]
    clock.move(EVERY)
    assert [room.is_short() for _ in range(3)] == [True, False, False]
    held[0] = 500
    clock.move(EVERY)
    assert not room.is_short()


def test_where_nobody_can_tell_there_is_room() -> None:
    assert not Room(1_000, lambda: None, HandClock()).is_short()


def test_who_reads_is_refused_before_who_appends_and_what_was_freed_is_given_back_first() -> None:
    clock, trims = HandClock(), []
    rows, held = [100], [100]

    def trim() -> None:
        trims.append(held[0])
        held[0] = max(rows[0], 500)

    room = Room(1_000, lambda: held[0], clock, lambda: rows[0], trim)
    assert room.is_ample() and not room.is_short_for_reads()
    rows[0] = held[0] = 300
    assert not room.is_ample() and not room.is_short_for_reads()
    # Most of it was freed by now.
    held[0] = 900
    clock.move(EVERY)
    assert not room.is_short_for_reads() and not room.is_short() and trims == [900]
    rows[0] = held[0] = 650
    assert room.is_short_for_reads() and not room.is_short()
    # What is no rows counts, too: it may be what clients send.
    rows[0], held[0] = 300, 650
    clock.move(EVERY)
    assert not room.is_short_for_reads()
    assert trims == [900, 650]
    held[0] = 650
    clock.move(EVERY / 5)
    assert room.is_short_for_reads()

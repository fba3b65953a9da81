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

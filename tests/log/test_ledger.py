"""Applying change sets: all of each or nothing, numbered without gaps, and never at a neighbour's expense."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from mamba_stream.core.changes import (
    MAX_RECORD_BYTES,
    Append,
    Applied,
    ChangeSet,
    CreateTopic,
    Forget,
    GroupOffset,
    Once,
    Record,
    Sequence,
    Trim,
)
from mamba_stream.errors import (
    AlreadyExists,
    InvalidInput,
    MambaStreamError,
    NotCommitted,
    PartitionNotFound,
    PreconditionFailed,
    SequenceGap,
    TopicEnded,
    TopicNotFound,
)
from mamba_stream.log import ledger, rows
from mamba_stream.log.index import Index
from mamba_stream.log.ledger import Ledger
from mamba_stream.log.repeating import REMEMBERED_SEQUENCES
from mamba_stream.log.rows import FileRow, Head
from tests.sizes import examples

FILE = 1
_MASK = (1 << 64) - 1


def create(name: str, partitions: int = 2) -> ChangeSet:
    return ChangeSet(creates=(CreateTopic(name, partitions, (), None, "none", b"schema", False, 0),))


def append(topic: int, partition: int = 0, count: int = 3, **more: Any) -> Append:
    values: dict[str, Any] = {
        "topic": topic, "partition": partition, "file": FILE, "position": 0, "length": 64, "rows": count,
        "min_time": 0, "max_time": -1, "schema": topic, "header": 5, "append_time": 7,
    }  # fmt: skip
    return Append(**(values | more))


class Book:
    """An index with an open file, to which groups of change sets are applied."""

    def __init__(self, path: Path) -> None:
        self.index = Index(path, 1 << 24)
        self.now = 100
        self._with(lambda book: book.set_file(FILE, FileRow("commit", "open", 0, 0)))

    def apply(self, *changes: ChangeSet) -> list[Applied | MambaStreamError]:
        """The answers to a group."""

        def group(book: Ledger) -> list[Applied | MambaStreamError]:
            answers: list[Applied | MambaStreamError] = []
            for change in changes:
                try:
                    answers.append(ledger.apply(book, change))
                except MambaStreamError as error:
                    answers.append(error)
            return answers

        answers: list[Applied | MambaStreamError] = self._with(group)
        return answers

    def one(self, change: ChangeSet) -> Applied:
        [answer] = self.apply(change)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def head(self, topic: int, partition: int = 0) -> Head:
        found = self._with(lambda book: book.head(topic, partition))
        assert isinstance(found, Head)
        return found

    def everything(self) -> dict[bytes, bytes]:
        with self.index.view() as view:
            return dict(view.items(b""))

    def _with(self, work: Callable[[Ledger], Any]) -> Any:
        def change(draft: Any) -> Any:
            book = Ledger(draft, now=self.now)
            result = work(book)
            book.flush()
            return result

        return self.index.update(change)


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    opened = Book(tmp_path)
    yield opened
    opened.index.close()


@pytest.fixture
def topic(book: Book) -> int:
    return book.one(create("trades")).topics[0]


REFUSED = {
    "a topic that exists": (lambda t: create("TRADES"), AlreadyExists),
    "a drop of what is not there": (lambda t: ChangeSet(drops=(t + 9,)), TopicNotFound),
    "an end of what is not there": (lambda t: ChangeSet(ends=(t + 9,)), TopicNotFound),
    "rows for a topic that is not there": (lambda t: ChangeSet(appends=(append(t + 9),)), TopicNotFound),
    "rows for a partition that is not there": (
        lambda t: ChangeSet(appends=(append(t), append(t, 2))),
        PartitionNotFound,
    ),
    "another end than expected": (
        lambda t: ChangeSet(appends=(append(t), append(t, 1, expect=1))),
        PreconditionFailed,
    ),
    "rows in a file that is not open": (lambda t: ChangeSet(appends=(append(t, file=9),)), NotCommitted),
    "a trim behind the end": (lambda t: ChangeSet(trims=(Trim(t, 0, 99),)), InvalidInput),
    "an offset behind the end": (lambda t: ChangeSet(offsets=(GroupOffset("g", t, 0, 99),)), InvalidInput),
    "a record that is too large": (
        lambda t: ChangeSet(records=(Record("n", "k", bytes(MAX_RECORD_BYTES + 1)),)),
        InvalidInput,
    ),
    "a record that must exist": (lambda t: ChangeSet(requires=(Record("n", "k", b"x"),)), PreconditionFailed),
    "a record that must not": (
        lambda t: ChangeSet(requires=(Record("n", "there", None),)),
        PreconditionFailed,
    ),
    "a sequence that skips": (lambda t: ChangeSet(sequences=(Sequence(t, "p", 9),)), SequenceGap),
}


@pytest.mark.parametrize(("change", "error"), REFUSED.values(), ids=REFUSED)
def test_a_refused_change_leaves_no_trace_and_does_not_disturb_its_neighbours(
    book: Book, topic: int, change: Callable[[int], ChangeSet], error: type[MambaStreamError]
) -> None:
    book.one(ChangeSet(sequences=(Sequence(topic, "p", 0),), records=(Record("n", "there", b"1"),)))
    before = book.everything()
    # In company of what would be fine by itself: all of it is refused.
    spoiled = change(topic)
    spoiled = ChangeSet(
        **{name: getattr(spoiled, name) for name in spoiled.__struct_fields__}
        | {"records": (*spoiled.records, Record("n", "new", b"2"))}
    )
    [refused] = book.apply(spoiled)
    assert type(refused) is error
    assert book.everything() == before
    ahead, refused, behind = book.apply(
        ChangeSet(appends=(append(topic),)), spoiled, ChangeSet(appends=(append(topic),))
    )
    assert type(refused) is error
    assert isinstance(ahead, Applied)
    assert isinstance(behind, Applied)
    assert (ahead.ranges, behind.ranges) == (((topic, 0, 0, 3),), ((topic, 0, 3, 6),))
    assert behind.lsn == ahead.lsn + 1


def test_change_sets_are_numbered_one_after_the_other(book: Book, topic: int) -> None:
    answers = book.apply(*[ChangeSet(appends=(append(topic, count=2),)) for _ in range(5)])
    assert [answer.lsn for answer in answers if isinstance(answer, Applied)] == [2, 3, 4, 5, 6]
    assert book.head(topic).end == 10


def test_one_change_may_append_to_a_partition_often(book: Book, topic: int) -> None:
    parts = (append(topic, count=2), append(topic, 1, count=1), append(topic, count=5, position=64))
    answer = book.one(ChangeSet(appends=parts))
    assert answer.ranges == ((topic, 0, 0, 2), (topic, 1, 0, 1), (topic, 0, 2, 7))


def test_an_expected_end_is_that_within_the_change(book: Book, topic: int) -> None:
    parts = (append(topic, expect=0), append(topic, expect=3))
    assert book.one(ChangeSet(appends=parts)).ranges[1] == (topic, 0, 3, 6)
    with pytest.raises(PreconditionFailed, match=r"expected to end at 3, but it ends at 6"):
        book.one(ChangeSet(appends=(append(topic, expect=3),)))


def test_an_ended_topic_takes_no_more_rows_in_any_partition(book: Book, topic: int) -> None:
    book.one(ChangeSet(appends=(append(topic),), ends=(topic,)))
    for partition in (0, 1):
        assert book.head(topic, partition).ended
        with pytest.raises(TopicEnded, match="'trades'"):
            book.one(ChangeSet(appends=(append(topic, partition),)))


def test_a_repeated_sequence_is_answered_as_the_first_time(book: Book, topic: int) -> None:
    change = ChangeSet(appends=(append(topic),), sequences=(Sequence(topic, "p", 7),))
    first = book.one(change)
    book.one(ChangeSet(appends=(append(topic),)))
    again = book.one(change)
    assert again.repeated
    assert not first.repeated
    assert again.ranges == first.ranges
    assert book.head(topic).end == 6


def test_a_repeat_is_answered_although_the_topic_was_ended_or_has_grown(book: Book, topic: int) -> None:
    change = ChangeSet(appends=(append(topic, expect=0),), sequences=(Sequence(topic, "p", 0),))
    first = book.one(change)
    book.one(ChangeSet(appends=(append(topic),), ends=(topic,)))
    assert book.one(change).ranges == first.ranges


def test_a_producer_counts_in_each_topic_for_itself(book: Book, topic: int) -> None:
    other = book.one(create("other")).topics[0]
    book.one(ChangeSet(sequences=(Sequence(topic, "p", 0),)))
    book.one(ChangeSet(sequences=(Sequence(other, "p", 40),)))
    book.one(ChangeSet(sequences=(Sequence(topic, "p", 1), Sequence(topic, "q", 3))))
    with pytest.raises(SequenceGap, match="producer 'p': sequence 3 does not follow 1; the next one is 2"):
        book.one(ChangeSet(sequences=(Sequence(topic, "p", 3),)))


def test_a_transaction_of_which_a_part_was_committed_before_is_refused(book: Book, topic: int) -> None:
    book.one(ChangeSet(sequences=(Sequence(topic, "p", 0),)))
    with pytest.raises(SequenceGap, match="some of the sequences"):
        book.one(ChangeSet(sequences=(Sequence(topic, "p", 0), Sequence(topic, "q", 0))))


def test_the_last_sequences_are_remembered_and_older_ones_refused(book: Book, topic: int) -> None:
    def sent(number: int) -> ChangeSet:
        return ChangeSet(appends=(append(topic, count=1),), sequences=(Sequence(topic, "p", number),))

    total = REMEMBERED_SEQUENCES + 10
    answers = book.apply(*map(sent, range(total)))
    for number in range(total - REMEMBERED_SEQUENCES, total):
        assert book.one(sent(number)).ranges == answers[number].ranges  # type: ignore[union-attr]
    with pytest.raises(SequenceGap, match="no longer known"):
        book.one(sent(total - REMEMBERED_SEQUENCES - 1))
    kept = [key for key in book.everything() if key[:1] == rows.SEQUENCE]
    assert len(kept) == REMEMBERED_SEQUENCES


def test_records_are_put_replaced_deleted_and_required(book: Book) -> None:
    def stored() -> bytes | None:
        return book.everything().get(rows.record_key("jobs", "a"))

    book.one(ChangeSet(requires=(Record("jobs", "a", None),), records=(Record("jobs", "a", b"1"),)))
    book.one(ChangeSet(requires=(Record("jobs", "a", b"1"),), records=(Record("jobs", "a", b"2"),)))
    assert stored() == b"2"
    with pytest.raises(PreconditionFailed, match=r"jobs/a has another value"):
        book.one(ChangeSet(requires=(Record("jobs", "a", b"1"),)))
    book.one(ChangeSet(records=(Record("jobs", "a", None), Record("jobs", "b", None))))
    assert stored() is None
    with pytest.raises(PreconditionFailed, match=r"jobs/a does not exist"):
        book.one(ChangeSet(requires=(Record("jobs", "a", b"1"),)))


def test_what_is_done_once_is_answered_as_the_first_time(book: Book, topic: int) -> None:
    change = ChangeSet(
        creates=create("other").creates,
        appends=(append(topic, expect=0),),
        requires=(Record("n", "k", None),),
        records=(Record("n", "k", b"1"),),
        once=Once("name", 4),
    )
    first = book.one(change)
    assert not first.repeated
    assert book.one(change) == msgspec.structs.replace(first, repeated=True)
    with pytest.raises(SequenceGap, match="'name': number 6 does not follow 4; the next one is 5"):
        book.one(ChangeSet(once=Once("name", 6)))
    with pytest.raises(SequenceGap, match="does not follow"):
        book.one(ChangeSet(once=Once("name", 3)))
    # What is refused does not count.
    with pytest.raises(PreconditionFailed):
        book.one(msgspec.structs.replace(change, creates=(), once=Once("name", 5)))
    assert not book.one(ChangeSet(records=(Record("n", "k", None),), once=Once("name", 5))).repeated
    book.one(ChangeSet(forgets=(Forget(0, "name"),)))
    assert not book.one(ChangeSet(once=Once("name", 5))).repeated


DAY = 86_400_000_000


def _names(book: Book) -> int:
    return sum(key[:1] in (rows.PRODUCER, rows.ONCE) for key in book.everything())


def test_names_that_nobody_used_for_a_week_go_as_others_come(book: Book, topic: int) -> None:
    def used(name: str, number: int, day: float) -> None:
        book.now = int((1_000 + day) * DAY)
        book.one(
            ChangeSet(appends=(append(topic, count=1),), sequences=(Sequence(topic, name, number),))
            if name[0] == "p"
            else ChangeSet(once=Once(name, number))
        )

    book.now = 1_000 * DAY
    book.apply(*(ChangeSet(once=Once(f"o{n}", 0)) for n in range(50)))
    book.apply(*(ChangeSet(sequences=(Sequence(topic, f"p{n}", 0),)) for n in range(50)))
    # Used again later, and so known for longer.
    used("p7", 1, 6)
    used("o7", 1, 6)
    assert _names(book) == 100
    # Up to the end of the eighth day all are known.
    used("p100", 0, 7.9)
    assert _names(book) == 101
    for n in range(49):
        used(f"{'po'[n % 2]}{200 + n}", 0, 8)
    assert _names(book) == 2 + 1 + 49
    book.now += DAY
    used("p7", 2, 9)
    used("o7", 2, 9)
    used("p0", 5, 9)
    with pytest.raises(SequenceGap):
        used("p7", 4, 9)
    # All rows that belonged to them are gone with them, and each name is listed once.
    kept = book.everything()
    assert sum(key[:1] == rows.SEQUENCE for key in kept) == 1 + 3 + 1 + 25
    assert sum(key[:1] == rows.USED for key in kept) == _names(book)
    assert sum(key[:1] == rows.PRODUCER for key in kept) == 1 + 1 + 1 + 25


def test_however_many_clients_are_killed_what_is_kept_of_them_is_that_of_a_week(
    book: Book, topic: int
) -> None:
    most = 0
    for day in range(100):
        book.now = (1_000 + day) * DAY
        clients = [f"client-{(20 * day + n) * 7919 % 2_000}" for n in range(20)]
        book.apply(*(ChangeSet(sequences=(Sequence(topic, client, 0),)) for client in clients))
        most = max(most, _names(book))
    assert most == 8 * 20


def test_a_producer_of_an_earlier_version_is_known_and_listed_when_it_comes_again(
    book: Book, topic: int
) -> None:
    def earlier(draft: Any) -> None:
        draft.put(rows.producer_key(topic, "p"), (6).to_bytes(8, "big"))
        draft.put(rows.sequence_key(topic, "p", 6), msgspec.msgpack.encode(((topic, 0, 3, 4),)))

    book.index.update(earlier)
    assert book.one(ChangeSet(sequences=(Sequence(topic, "p", 6),))).ranges == ((topic, 0, 3, 4),)
    with pytest.raises(SequenceGap):
        book.one(ChangeSet(sequences=(Sequence(topic, "p", 8),)))
    book.one(ChangeSet(sequences=(Sequence(topic, "p", 7),)))
    book.one(ChangeSet(forgets=(Forget(topic, "p"),)))
    assert not any(key[:1] in (rows.PRODUCER, rows.SEQUENCE, rows.USED) for key in book.everything())


def test_a_dropped_topic_leaves_nothing_behind(book: Book) -> None:
    before = book.everything()
    topic = book.one(create("trades")).topics[0]
    book.one(
        ChangeSet(
            appends=(append(topic), append(topic, 1)),
            sequences=(Sequence(topic, "p", 0),),
            offsets=(GroupOffset("g", topic, 0, 2),),
        )
    )
    book.one(ChangeSet(drops=(topic,)))
    after = book.everything()
    for known in (before, after):
        known.pop(rows.TICKS, None)
        known.pop(rows.number_key(rows.FILE, FILE))
    assert after == before
    with pytest.raises(TopicNotFound):
        book.one(ChangeSet(appends=(append(topic),)))


def test_what_follows_a_drop_in_the_same_group_meets_no_topic(book: Book, topic: int) -> None:
    book.one(ChangeSet(appends=(append(topic),)))
    _, refused, created = book.apply(
        ChangeSet(drops=(topic,)), ChangeSet(appends=(append(topic),)), create("trades")
    )
    assert isinstance(refused, TopicNotFound)
    assert isinstance(created, Applied)
    assert created.topics[0] != topic


def test_numbers_of_topics_are_never_given_twice(book: Book, topic: int) -> None:
    book.one(ChangeSet(drops=(topic,)))
    assert book.one(create("trades")).topics[0] > topic


def test_a_closed_file_without_entries_is_trash(book: Book, topic: int) -> None:
    book.one(ChangeSet(appends=(append(topic),)))
    book._with(lambda b: b.set_file(FILE, FileRow("commit", "closed", 64, 1)))
    book.one(ChangeSet(trims=(Trim(topic, 0, 2),)))
    assert book._with(lambda b: b.file(FILE)).state == "closed", "a row of it is left"
    book.one(ChangeSet(trims=(Trim(topic, 0, 3),)))
    assert book._with(lambda b: b.file(FILE)) == FileRow("commit", "trash", 64, 0, since=100)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=examples(60)
)
@given(
    steps=st.lists(
        st.one_of(
            st.lists(st.integers(1, 5), min_size=1, max_size=4),  # appends of so many rows
            st.integers(0, 40),  # a trim
        ),
        max_size=12,
    ),
    times=st.lists(st.integers(-50, 50), min_size=60, max_size=60),
)
def test_the_state_of_a_partition_is_what_its_entries_say(
    book: Book, steps: list[Any], times: list[int]
) -> None:
    topic = book.one(create("t" + str(len(book.everything())) + "x", 1)).topics[0]
    moments, latest = iter(times), rows.NO_TIME
    for step in steps:
        end = book.head(topic).end
        if isinstance(step, int):
            book.one(ChangeSet(trims=(Trim(topic, 0, min(step, end)),)))
        else:
            parts = []
            for count in step:
                time = next(moments)
                latest = max(latest, time)
                parts.append(append(topic, 0, count, min_time=time, max_time=time))
            book.one(ChangeSet(appends=tuple(parts)))
    head = book.head(topic)
    prefix = rows.entry_prefix(topic, 0)
    entries = {
        rows.entry_place(key)[2]: (key, value, rows.unpack_entry(value))
        for key, value in book.everything().items()
        if key.startswith(prefix)
    }
    assert head.entries == len(entries)
    assert head.rows == sum(entry.rows for _, _, entry in entries.values())
    assert head.size == sum(entry.length for _, _, entry in entries.values())
    assert head.chain == sum(rows.entry_hash(key, value) for key, value, _ in entries.values()) & _MASK
    assert head.running_time == latest
    ends = [offset + entry.span for offset, (_, _, entry) in sorted(entries.items())]
    assert sorted(entries)[1:] == ends[:-1], "entries follow each other"
    if entries:
        assert min(entries) <= head.begin < ends[0]
        assert ends[-1] == head.end
    else:
        assert head.begin == head.end

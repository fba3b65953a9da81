"""Whether a log holds what its writers were told it holds: once, in order, whole, and nothing else.

The oracle is the workload itself (every row follows from the seed) together with the writers' journals. It
knows nothing of files or of the index; those are examined as the doctor does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from mamba_stream.errors import OffsetTrimmed, TopicNotFound
from mamba_stream.log import Log, Topic, open_log
from mamba_stream.log.examination import examine as examine_files
from mamba_stream.log.findings import Finding
from tests.crash.workload import (
    KEYED,
    KINDS,
    SCHEMA,
    STATE,
    Operation,
    added,
    inner,
    operation,
    own,
    rows_of,
    scripted,
)

Place = tuple[str, int]
Ranges = dict[Place, tuple[int, int]]
_SHOWN = 12


class Violation(AssertionError):
    """The log does not hold what it must; the message lists how."""


@dataclass
class Fate:
    """What is known of one operation.

    ``state`` is ``maybe`` (tried, and no answer), ``acked`` or ``absent``; ``ranges`` where its rows lie, once
    known.
    """

    operation: Operation
    arguments: dict[str, Any]
    state: str = "maybe"
    ranges: Ranges | None = None
    lsn: int = 0
    tries: int = 1

    @property
    def planned(self) -> dict[str, int]:
        """How many rows it has in each topic."""
        counts: dict[str, int] = defaultdict(int)
        for part in self.operation.parts:
            counts[part.topic] += part.rows
        return counts


@dataclass
class History:
    """What all writers of a log tried, and what they were answered."""

    seed: int
    kinds: tuple[str, ...] = tuple(KINDS)
    script: tuple[str, ...] = ()
    fates: dict[tuple[int, int], Fate] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)
    durable: int = 0
    """The number of the last commit that was said to be on the disk."""

    def take(self, events: Iterable[dict[str, Any]]) -> None:
        """Takes in one life of a writer."""
        for event in events:
            self.feed(event)

    def feed(self, event: dict[str, Any]) -> None:
        """Takes in one line of a journal."""
        kind, writer = event["k"], event["w"]
        if kind in ("error", "ask", "open"):
            self.errors.append(event)
        if "n" not in event or kind == "ask":
            return
        place = (writer, event["n"])
        fate = self.fates.get(place)
        if kind == "try":
            if fate is None or fate.ranges is None:
                tries = 1 if fate is None else fate.tries + 1
                self.fates[place] = Fate(self._operation(*place), event["a"], tries=tries)
        elif fate is not None and kind == "error" and event["fate"] == "absent":
            if fate.ranges is not None:
                self.contradictions.append(f"{place} is in the log, and its retry failed: {event['text']}")
            fate.state = "absent"
        elif fate is not None and kind == "ack":
            ranges = {(t, p): (first, following) for t, p, first, following in event["a"]["ranges"]}
            if fate.ranges is not None and ranges != fate.ranges:
                self.contradictions.append(f"{place} lies at {fate.ranges}, and its retry was told {ranges}")
            fate.state, fate.ranges, fate.lsn = "acked", ranges, event["a"]["lsn"]
            self.durable = max(self.durable, event["a"]["durable"])

    def after_outage(self, lsn: int) -> History:
        """What has to be there where a loss of power left the log at this commit: all before it, and nothing else.

        An append that was tried twice has the number of its answer, and may have happened before.
        """
        left = replace(self, fates=dict(self.fates), contradictions=[*self.contradictions])
        if lsn < self.durable:
            left.contradictions.append(f"commit {self.durable} was on the disk, and the log is at {lsn}")
        for who, fate in self.fates.items():
            if fate.state == "acked" and fate.lsn > lsn:
                again = fate.tries > 1
                left.fates[who] = replace(fate, state="maybe" if again else "absent", ranges=None, lsn=0)
        return left

    def _operation(self, writer: int, number: int) -> Operation:
        if self.script:
            return scripted(self.seed, writer, number, self.script)
        return operation(self.seed, writer, number, self.kinds)

    def of(self, writer: int) -> list[Fate]:
        """One writer's operations, in order."""
        return [fate for (who, _), fate in sorted(self.fates.items()) if who == writer]

    @property
    def writers(self) -> list[int]:
        return sorted({writer for writer, _ in self.fates})

    def next_number(self, writer: int) -> int:
        """The number of the next operation that was never tried."""
        return max((number for who, number in self.fates if who == writer), default=-1) + 1

    def resumption(self, writer: int) -> list[str]:
        """The writer's arguments to go on: from where, and what a producer would send again."""
        numbered = [fate for fate in self.of(writer) if fate.operation.kind == "idempotent"]
        acked = [fate.arguments["sequence"] for fate in numbered if fate.state == "acked"]
        arguments = ["--first", str(self.next_number(writer))]
        last = numbered[-1] if numbered else None
        if last is not None and last.state != "acked":
            # A producer without an answer asks again, whether or not it landed.
            sequence = last.arguments["sequence"]
            return [*arguments, "--retry", str(last.operation.number), "--sequence", str(sequence)]
        return [*arguments, "--sequence", str(max(acked, default=-1) + 1)]


@dataclass
class Sight:
    """What a reader sees of a log."""

    rows: dict[Place, list[tuple[int, tuple[Any, ...]]]] = field(default_factory=dict)
    begins: dict[Place, int] = field(default_factory=dict)
    ends: dict[Place, int] = field(default_factory=dict)
    records: dict[str, bytes] = field(default_factory=dict)
    groups: dict[str, dict[Place, int]] = field(default_factory=dict)
    lsn: int = 0
    extras: dict[Place, dict[int, dict[str, int]]] = field(default_factory=dict)
    """What rows have in columns that were added, where that is not null, by offset."""


def look(log: Log, *, live: bool = False) -> Sight:
    """Reads the whole log, row by row."""
    sight = Sight()
    for name in log.topics(internal=True):
        trimmed = True
        while trimmed:
            try:
                _read(log[name], sight)
                trimmed = False
            except OffsetTrimmed:
                # Meanwhile, by a writer at work: once more, from where it begins now.
                if not live:
                    raise
            except TopicNotFound:
                # A temporary one that went meanwhile.
                if not live or not name.startswith("temporary"):
                    raise
                for place in [place for place in sight.rows if place[0] == name]:
                    del sight.rows[place]
                break
    sight.records = log.records(STATE)
    sight.groups = {group: log.group_offsets(group) for group in log.groups()}
    sight.lsn = log.lsn()
    return sight


def _read(topic: Topic, sight: Sight) -> None:
    places = topic.offsets()
    for partition, (begin, end) in places.items():
        sight.begins[topic.name, partition], sight.ends[topic.name, partition] = begin, end
        sight.rows[topic.name, partition] = []
    # Only between those: others may append and trim meanwhile.
    starts = {p: begin for p, (begin, _) in places.items()}
    for batch in topic.read(start=starts, end={p: end for p, (_, end) in places.items()}):
        offsets = batch.offsets.tolist()
        found = zip(offsets, tuples(batch.data.select(SCHEMA.names)), strict=True)
        sight.rows[topic.name, batch.partition].extend(found)
        for name in batch.data.schema.names[len(SCHEMA) :]:
            for offset, value in zip(offsets, batch.data[name].to_pylist(), strict=True):
                if value is not None:
                    sight.extras.setdefault((topic.name, batch.partition), {}).setdefault(offset, {})[
                        name
                    ] = value


def tuples(data: pa.RecordBatch) -> Iterable[tuple[Any, ...]]:
    """The rows of a batch as the workload has them."""
    columns = [
        (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist()
        for column in data
    ]
    return zip(*columns, strict=True)


def violations(sight: Sight, history: History, *, live: bool = False) -> list[str]:
    """What is wrong with what was seen.

    Args:
        sight: What a reader saw.
        history: What was tried and answered; for a live log, before it was looked at.
        live: Writers are at work: operations without an answer may be seen in part, as they come.
    """
    wrong = list(history.contradictions)
    seen: dict[tuple[int, int], dict[Place, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, found in sight.rows.items():
        wrong += _rows(place, found, sight.begins[place], sight.ends[place], history, seen, live=live)
        wrong += _extras(place, found, sight.extras.get(place, {}), history)
    for who, fate in sorted(history.fates.items()):
        wrong += _operation(who, fate, seen.get(who, {}), sight, live=live)
    if not live:
        for writer in history.writers:
            wrong += _writer(writer, history.of(writer), seen, sight)
    highest = max((fate.lsn for fate in history.fates.values()), default=0)
    if sight.lsn < highest:
        wrong.append(f"the log is at commit {sight.lsn}, and had acknowledged {highest}")
    return wrong


def _rows(
    place: Place,
    found: list[tuple[int, tuple[Any, ...]]],
    begin: int,
    end: int,
    history: History,
    seen: dict[tuple[int, int], dict[Place, list[int]]],
    *,
    live: bool,
) -> list[str]:
    """One partition's rows: each one of the workload's, once, in its writer's order, at successive offsets."""
    wrong = []
    offsets = [offset for offset, _ in found]
    if offsets != list(range(begin, end)):
        wrong.append(f"{place}: offsets {begin} to {end} are published, {_briefly(offsets)} were read")
    last: dict[int, tuple[int, int, int]] = {}
    temporary = place[0].startswith("temporary")
    for offset, row in found:
        writer, number, part, index = row[:4]
        fate = history.fates.get((writer, number))
        if fate is None:
            if not live:
                wrong.append(f"{place} {offset}: a row of {(writer, number)}, which was never tried")
            continue
        parts = fate.operation.parts
        if (
            not part < len(parts)
            or rows_of(history.seed, writer, number, part, parts[part].rows)[index] != row
        ):
            wrong.append(f"{place} {offset}: not the row that was appended: {row}")
            continue
        if temporary:
            continue
        if parts[part].topic != place[0] or parts[part].partition not in (None, place[1]):
            wrong.append(f"{place} {offset}: {(writer, number, part)} belongs elsewhere")
        if last.get(writer, (-1,)) >= (number, part, index):
            wrong.append(
                f"{place} {offset}: {(number, part, index)} of writer {writer} follows {last[writer]}: "
                "twice, or out of order"
            )
        last[writer] = (number, part, index)
        seen[writer, number][place].append(offset)
    return wrong


def _extras(
    place: Place,
    found: list[tuple[int, tuple[Any, ...]]],
    extras: dict[int, dict[str, int]],
    history: History,
) -> list[str]:
    """What is in columns that were added: in the rows that were appended with them, and in no others."""
    wrong = []
    for offset, row in found:
        fate = history.fates.get((row[0], row[1]))
        if fate is None:
            continue
        column = added(fate.operation)
        expected = {} if column is None else {column: row[3]}
        if extras.get(offset, {}) != expected:
            wrong.append(
                f"{place} {offset}: {extras.get(offset, {})} in what was added, {expected} was appended"
            )
    return wrong


def _operation(
    who: tuple[int, int], fate: Fate, at: dict[Place, list[int]], sight: Sight, *, live: bool
) -> list[str]:
    """One operation's rows: all where they were acknowledged, none if refused, all or none in between."""
    wrong = []
    if fate.operation.kind == "temporary":
        return []
    total = sum(len(offsets) for offsets in at.values())
    if fate.operation.vanishes or fate.state == "absent":
        if total:
            wrong.append(f"{who}: {total} rows of a {fate.operation.kind} that did not happen: {_where(at)}")
    elif fate.ranges is not None:
        by_topic: dict[str, int] = defaultdict(int)
        for (topic, p), (first, following) in fate.ranges.items():
            by_topic[topic] += following - first
            if following > sight.ends.get((topic, p), 0):
                wrong.append(f"{who}: {(topic, p)} ends before the acknowledged {(first, following)}")
                continue
            visible = list(range(max(first, sight.begins[topic, p]), following))
            if at.get((topic, p), []) != visible:
                wrong.append(
                    f"{who}: acknowledged at {(first, following)} of {(topic, p)} (from {sight.begins[topic, p]} "
                    f"on), found at {_briefly(at.get((topic, p), []))}"
                )
        if dict(by_topic) != dict(fate.planned):
            wrong.append(f"{who}: {dict(by_topic)} rows acknowledged, {dict(fate.planned)} appended")
        if at.keys() - fate.ranges.keys():
            wrong.append(f"{who}: also at {_where(at)}, acknowledged {fate.ranges}")
    elif total and not live:
        counts: dict[str, int] = defaultdict(int)
        for (topic, _), offsets in at.items():
            counts[topic] += len(offsets)
        for topic, rows in fate.planned.items():
            trimmed = topic in _of_its_own(who[0]) and _may_be_trimmed(who, topic, fate, sight)
            if counts[topic] != rows and not trimmed:
                wrong.append(f"{who}: only in part: {_where(at)} of {dict(fate.planned)}")
                break
        if any(offsets[-1] - offsets[0] + 1 != len(offsets) for offsets in at.values()):
            wrong.append(f"{who}: rows of others in between: {_where(at)}")
    return wrong


def _of_its_own(writer: int) -> tuple[str, str]:
    """The topics that this writer trims, and nobody else appends to."""
    return own(writer), inner(writer)


def _may_be_trimmed(who: tuple[int, int], topic: str, fate: Fate, sight: Sight) -> bool:
    """Whether the rows of this operation that are missing from a topic may have been there, and were trimmed.

    Trimming takes the oldest: what is left of it then begins its partition, or all that is left there is younger.
    """
    planned: dict[Place, list[tuple[int, int]]] = defaultdict(list)
    for part in fate.operation.parts:
        if part.topic == topic:
            assert part.partition is not None
            planned[topic, part.partition] += [(part.index, row) for row in range(part.rows)]
    for place, rows in planned.items():
        there = sight.rows.get(place, [])
        left = [(row[2], row[3]) for _, row in there if row[1] == who[1]]
        if left == rows:
            continue
        begins = bool(sight.begins.get(place, 0)) and all(row[1] >= who[1] for _, row in there)
        if not begins or left != rows[len(rows) - len(left) :]:
            return False
    return True


def _writer(
    writer: int, fates: list[Fate], seen: dict[tuple[int, int], dict[Place, list[int]]], sight: Sight
) -> list[str]:
    """What a writer's transactions left besides rows: its record, its group's offsets, its trims."""
    wrong = []
    record = sight.records.get(str(writer))
    happened = [fate for fate in fates if fate.state == "acked" and fate.operation.kind == "transaction"]
    maybe = [fate for fate in fates if fate.state == "maybe" and fate.operation.kind == "transaction"]
    visible = [fate for fate in maybe if _happened(writer, fate, seen, sight, record)]
    last = max([*happened, *visible], key=lambda fate: fate.operation.number, default=None)
    expected = None if last is None else str(last.operation.number).encode()
    if record != expected:
        wrong.append(f"writer {writer}: its record says {record!r}, its rows {expected!r}")
    offsets = sight.groups.get(f"group-{writer}", {})
    told = {} if last is None else {(t, p): offset for t, p, offset in last.arguments["offsets"]}
    if offsets != told:
        wrong.append(f"writer {writer}: its group is at {offsets}, its last transaction set {told}")
    trims = [fate for fate in fates if fate.operation.trims]
    sure: dict[Place, int] = defaultdict(int)
    for fate in trims:
        if fate.state == "acked" or fate in visible:
            _raise(sure, fate)
    begins = {
        place: begin for place, begin in sight.begins.items() if place[0] in _of_its_own(writer) and begin
    }
    # Of the trims without an answer, those happened that go no further than what is there.
    possible = dict(sure)
    for fate in trims:
        if fate.state == "maybe" and fate.operation.kind == "trim" and _reached(fate, begins):
            _raise(possible, fate)
    if begins != {place: begin for place, begin in possible.items() if begin}:
        wrong.append(f"writer {writer}: its topics begin at {begins}, trimmed to {dict(sure)} or {possible}")
    if any(topic == f"temporary-{writer}" for topic, _ in sight.rows):
        tried = [fate for fate in fates if fate.operation.kind == "temporary"]
        if tried and tried[-1].state == "acked":
            wrong.append(f"writer {writer}: its temporary topic was deleted, and is there")
    return wrong


def _happened(
    writer: int,
    fate: Fate,
    seen: dict[tuple[int, int], dict[Place, list[int]]],
    sight: Sight,
    record: bytes | None,
) -> bool:
    """Whether a transaction without an answer is in the log: its rows are, or were, and its record says so."""
    who = writer, fate.operation.number
    if seen.get(who):
        return True
    topics = set(fate.planned)
    return (
        record == str(fate.operation.number).encode()
        and topics <= set(_of_its_own(writer))
        and all(_may_be_trimmed(who, topic, fate, sight) for topic in topics)
    )


def _reached(fate: Fate, begins: dict[Place, int]) -> bool:
    return all(begins.get((topic, p), 0) >= before for topic, p, before in fate.arguments["trims"])


def _raise(begins: dict[Place, int], fate: Fate) -> None:
    for topic, p, before in fate.arguments.get("trims", ()):
        begins[topic, p] = max(begins.get((topic, p), 0), before)


def settle(sight: Sight, history: History) -> int:
    """Decides what had no answer by what was seen: from now on it may not change. Says how many are there."""
    seen: dict[tuple[int, int], dict[Place, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, found in sight.rows.items():
        for offset, row in found:
            seen[row[0], row[1]][place].append(offset)
    there = 0
    for who, fate in history.fates.items():
        if fate.state != "maybe" or fate.operation.kind == "temporary":
            continue
        at = seen.get(who, {})
        if at:
            there += 1
            fate.state = "acked"
            fate.ranges = {place: (offsets[0], offsets[-1] + 1) for place, offsets in at.items()}
        elif fate.operation.kind == "trim":
            trimmed = _reached(fate, sight.begins)
            fate.state = "acked" if trimmed else "absent"
            fate.ranges = {} if trimmed else None
        elif fate.operation.kind != "idempotent":
            fate.state = "absent"
    return there


def doctor(path: Path) -> list[str]:
    """What the doctor would call damaged or lost; the log must not be open in this process."""
    findings: list[Finding] = []
    examine_files(path, findings.append)
    return [
        f"doctor: {f.what} ({f.topic}/{f.partition} at {f.offset})" for f in findings if f.severity != "note"
    ]


def segments(path: Path) -> list[str]:
    """Segments that plain Arrow does not open."""
    wrong = []
    for segment in sorted((path / "files").glob("*.arrows")):
        try:
            with pa.ipc.open_stream(segment) as reader:
                reader.read_all().validate(full=True)
        except (pa.ArrowInvalid, OSError) as error:
            wrong.append(f"{segment.name} does not open as an Arrow stream: {error}")
    return wrong


def check(
    path: Path, history: History, *, opener: Callable[[Path], Log] = open_log, thorough: bool = False
) -> Sight:
    """Opens a log that nobody writes to, and raises :class:`Violation` unless it holds what it must."""
    log = opener(path)
    try:
        sight = look(log)
        wrong = violations(sight, history)
        if thorough:
            wrong += _other_ways_to_read(log, sight)
    finally:
        log.close()
    wrong += doctor(path)
    if thorough:
        wrong += segments(path)
    complain(wrong)
    return sight


def check_live(log: Log, load: Callable[[], History]) -> Sight:
    """Checks a log that others write to; ``load`` reads the journals anew."""
    before = load()
    sight = look(log, live=True)
    wrong = violations(sight, before, live=True)
    tried = load().fates
    for place, found in sight.rows.items():
        for offset, row in found:
            if (row[0], row[1]) not in tried:
                wrong.append(f"{place} {offset}: a row of {row[:2]}, which was never tried")
    complain(wrong)
    return sight


def complain(wrong: list[str]) -> None:
    """Raises if there is anything wrong."""
    if wrong:
        more = f"\n  and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise Violation("\n  ".join(["the log is not as it must be:", *wrong[:_SHOWN]]) + more)


def _other_ways_to_read(log: Log, sight: Sight) -> list[str]:
    wrong = []
    for name in log.topics(internal=True):
        expected = sum(len(found) for (topic, _), found in sight.rows.items() if topic == name)
        scanned = log[name].scan().collect().height
        if scanned != expected:
            wrong.append(f"{name}: scan gives {scanned} rows, read gave {expected}")
    keyed = {place: found for place, found in sight.rows.items() if place[0] == KEYED}
    homes: dict[int, int] = {}
    for (_, partition), found in keyed.items():
        for _, row in found:
            if homes.setdefault(row[3], partition) != partition:
                wrong.append(f"the key {row[3]} is in partitions {homes[row[3]]} and {partition}")
    return wrong


def _briefly(offsets: list[int]) -> str:
    if not offsets:
        return "nothing"
    dense = offsets[-1] - offsets[0] + 1 == len(offsets)
    return f"{offsets[0]} to {offsets[-1]}" + ("" if dense else f" ({len(offsets)} of them)")


def _where(at: dict[Place, list[int]]) -> str:
    return ", ".join(f"{place} {_briefly(offsets)}" for place, offsets in at.items())

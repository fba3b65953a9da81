"""Topics: what append takes and says, where rows go, times, trimming, ending."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings

from mamba_stream.errors import AlreadyExists, InvalidInput, SequenceGap, TopicEnded
from mamba_stream.log import Log, Topic, intake
from tests.log.desk import FORMS, SCHEMA, frame_of
from tests.log.pictures import rows_of
from tests.log.shapes import batches
from tests.sizes import examples

START = datetime(2024, 1, 1)


def numbers(topic: Topic, **options: Any) -> list[int]:
    return [row[0] for _, _, row in rows_of(topic, **options)]


# --- what append takes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_rows_is_stored_the_same(log: Log, form: str) -> None:
    rows = [[1, 1_700_000_000_000_001, "zoë", 1.5], [2, None, None, None], [3, -5, "", -0.0]]
    topic = log.create_topic("t", SCHEMA)
    assert topic.append(frame_of(rows, form)) == {0: (0, 3)}
    expected = pl.DataFrame(frame_of(rows, "polars"))
    assert pl.concat(pl.DataFrame(batch.data) for batch in topic.read()).equals(expected)


@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@given(batch=batches(), compression=st.sampled_from(["none", "lz4", "zstd"]))
def test_every_type_that_a_topic_can_have_comes_back(
    log: Log, batch: pa.RecordBatch, compression: str
) -> None:
    if "t" in log:
        log.delete_topic("t")
    topic = log.create_topic("t", batch.schema, compression=compression)
    topic.append(batch)
    topic.append(pa.Table.from_batches([batch, batch]))
    data = pa.Table.from_batches([each.data for each in topic.read()])
    assert data.equals(pa.Table.from_batches([batch] * 3))


@pytest.mark.parametrize(
    "nothing", [[], pl.DataFrame(schema={"n": pl.Int64}), pa.table({"n": pa.array([], pa.int64())})]
)
def test_appending_nothing_changes_nothing(log: Log, plain: Topic, nothing: Any) -> None:
    lsn = log.lsn()
    assert plain.append(nothing) == {}
    assert log.lsn() == lsn


def test_columns_are_matched_by_name_and_may_come_in_any_order(trades: Topic) -> None:
    trades.append(pl.DataFrame({"size": [1], "price": [2.0], "symbol": ["A"], "ts": [START]}))
    [(_, _, row)] = rows_of(trades)
    assert row == (START, "A", 2.0, 1)


def test_types_that_fit_are_cast_and_views_and_dictionaries_become_plain(log: Log) -> None:
    topic = log.create_topic("t", {"s": pl.String, "n": pl.Int64, "x": pl.Float64, "d": pl.Datetime("us")})
    topic.append(
        pa.table(
            {
                "s": pa.array(["a", None, "a"]).dictionary_encode(),
                "n": pa.array([1, 2, 3], pa.int8()),
                "x": pa.array([1.5, None, 2.5], pa.float32()),
                "d": pa.array([date(2024, 1, 1)] * 3, pa.date32()),
            }
        )
    )
    topic.append(
        pa.table(
            {
                "s": pa.array(["b"], pa.string_view()),
                "n": pa.array([4], pa.uint32()),
                "x": pa.array([7], pa.int16()),
                "d": pa.array([START], pa.timestamp("ms")),
            }
        )
    )
    topic.append(
        pl.DataFrame({"s": pl.Series(["c"], dtype=pl.Categorical), "n": [5], "x": [None], "d": [None]})
    )
    assert [row for _, _, row in rows_of(topic)] == [
        ("a", 1, 1.5, START), (None, 2, None, START), ("a", 3, 2.5, START), ("b", 4, 7.0, START), ("c", 5, None, None)
    ]  # fmt: skip
    assert {batch.data.schema.field("s").type for batch in topic.read()} == {pa.large_string()}


def test_aware_times_of_any_zone_are_stored_as_the_same_moment(log: Log) -> None:
    topic = log.create_topic("t", {"ts": pl.Datetime("us", "UTC")})
    moment = datetime(2024, 1, 1, 12, tzinfo=UTC)
    topic.append([{"ts": moment}, {"ts": moment.astimezone(timezone(timedelta(hours=5)))}])
    topic.append(pd.DataFrame({"ts": pd.to_datetime([moment]).tz_convert("Europe/Paris")}))
    assert {row for _, _, row in rows_of(topic)} == {(moment,)}


def test_decimals_are_exact(log: Log) -> None:
    topic = log.create_topic("t", {"d": pl.Decimal(10, 2)})
    topic.append([{"d": Decimal("1.05")}, {"d": Decimal("-99999999.99")}])
    assert [row[0] for _, _, row in rows_of(topic)] == [Decimal("1.05"), Decimal("-99999999.99")]


@pytest.mark.embedded
def test_many_rows_are_cut_into_batches_and_stay_in_order(
    log: Log, plain: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MAX_ROWS", 1000)
    frame = pl.DataFrame({"n": range(4321)})
    assert plain.append(frame) == {0: (0, 4321)}
    assert [batch.data.num_rows for batch in plain.read()] == [1000, 1000, 1000, 1000, 321]
    assert numbers(plain) == list(range(4321))
    with log.transaction() as tx:
        tx.append("plain", frame)
    assert tx.offsets == {("plain", 0): (4321, 8642)}


@pytest.mark.embedded
def test_many_bytes_are_cut_into_batches_down_to_a_row(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MAX_BYTES", 4_000)
    topic = log.create_topic("t", {"b": bytes})
    values = [bytes([at]) * (9_000 if at == 5 else 700) for at in range(20)]
    assert topic.append(pl.DataFrame({"b": values})) == {0: (0, 20)}
    assert [row[0] for _, _, row in rows_of(topic)] == values
    assert max(batch.data.num_rows for batch in topic.read()) < 6


@pytest.mark.embedded
def test_rows_of_too_many_bytes_for_a_batch_are_encoded_once(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MAX_BYTES", 4_000)
    encoded, encode = [], intake.format.encode

    def counted(batch: pa.RecordBatch, *rest: object) -> object:
        encoded.append(batch.num_rows)
        return encode(batch, *rest)

    monkeypatch.setattr(intake.format, "encode", counted)
    topic = log.create_topic("t", {"b": bytes})
    topic.append(pl.DataFrame({"b": [bytes(700)] * 64}))
    assert sum(encoded) == 64 == topic.offsets()[0][1]


def test_a_value_of_many_megabytes_comes_back(log: Log) -> None:
    topic = log.create_topic("t", {"b": bytes})
    value = bytes(range(256)) * (65 << 12)
    topic.append([{"b": value}, {"b": b"small"}])
    assert [row[0] for _, _, row in rows_of(topic)] == [value, b"small"]


def test_a_reader_is_consumed_batch_by_batch(plain: Topic) -> None:
    schema = pa.schema({"n": pa.int64()})
    source = (pa.record_batch({"n": pa.array([at] * 3, pa.int64())}) for at in range(4))
    assert plain.append(pa.RecordBatchReader.from_batches(schema, source)) == {0: (0, 12)}
    assert numbers(plain) == [at for at in range(4) for _ in range(3)]


# --- where rows go ---------------------------------------------------------------------------------------------


def test_equal_keys_share_a_partition_in_every_append_and_keep_their_order(log: Log) -> None:
    topic = log.create_topic("t", {"k": str, "n": int}, partitions=5, key="k")
    rows = [{"k": f"key {n % 13}" if n % 7 else None, "n": n} for n in range(400)]
    for start in range(0, 400, 37):
        topic.append(rows[start : start + 37])
    homes, order = defaultdict(set), defaultdict(list)
    for partition, _, (k, n) in rows_of(topic):
        homes[k].add(partition)
        order[k].append(n)
    assert all(len(partitions) == 1 for partitions in homes.values())
    assert len(set().union(*homes.values())) > 1
    assert order == {k: [row["n"] for row in rows if row["k"] == k] for k in homes}


def test_a_key_of_several_columns_is_one_key(log: Log) -> None:
    topic = log.create_topic("t", {"a": str, "b": int}, partitions=16, key=["a", "b"])
    assert topic.key == ("a", "b")
    topic.append([{"a": a, "b": b} for a in "xy" for b in range(20)] * 2)
    homes = defaultdict(set)
    for partition, _, row in rows_of(topic):
        homes[row].add(partition)
    assert all(len(partitions) == 1 for partitions in homes.values())
    assert len({p for (a, _), ps in homes.items() if a == "x" for p in ps}) > 1


def test_without_a_key_appends_take_the_partitions_in_turns(log: Log) -> None:
    topic = log.create_topic("t", {"n": int}, partitions=3)
    turns = [next(iter(topic.append([{"n": n}] * 2))) for n in range(9)]
    assert sorted(turns[:3]) == [0, 1, 2]
    assert turns == turns[:3] * 3


def test_a_partition_that_is_named_takes_all_rows_key_or_not(trades: Topic) -> None:
    rows = [{"symbol": str(n)} for n in range(50)]
    assert trades.append(rows, partition=2) == {2: (0, 50)}
    assert trades.append(rows[:1], partition=np.int64(2)) == {2: (50, 51)}


def test_a_strict_key_is_kept_by_every_append(log: Log) -> None:
    topic = log.create_topic("t", {"k": str, "n": int}, partitions=5, key="k", strict_key=True)
    rows = [{"k": f"key {n % 13}" if n % 7 else None, "n": n} for n in range(400)]
    homes = defaultdict(set)
    topic.append(rows)
    for partition, _, (k, _n) in rows_of(topic):
        homes[k].add(partition)
    (home,) = homes["key 1"]
    before = topic.offsets()
    with pytest.raises(InvalidInput, match=rf"k='key 1' belongs to partition {home}, not {(home + 1) % 5}"):
        topic.append(rows[1:2], partition=(home + 1) % 5)
    assert topic.offsets() == before
    assert list(topic.append(rows[1:2], partition=home)) == [home]
    assert log["t"].strict_key


def test_a_strict_key_is_a_key_and_part_of_what_a_topic_is(log: Log) -> None:
    with pytest.raises(InvalidInput, match="give it key="):
        log.create_topic("t", {"k": str}, strict_key=True)
    log.create_topic("t", {"k": str}, key="k")
    with pytest.raises(AlreadyExists, match="without strict_key=True"):
        log.create_topic("t", {"k": str}, key="k", strict_key=True, exist_ok=True)
    log.create_topic("s", {"k": str}, key="k", strict_key=True)
    # Whoever does not ask for it takes it as it is.
    assert log.create_topic("s", {"k": str}, key="k", exist_ok=True).strict_key


# --- producers and expectations --------------------------------------------------------------------------------


def test_a_producer_that_repeats_itself_hears_what_it_heard_before(plain: Topic) -> None:
    first = plain.append([{"n": 1}], producer="p", sequence=np.int64(3))
    second = plain.append([{"n": 2}, {"n": 3}], producer="p", sequence=4)
    assert (first, second) == ({0: (0, 1)}, {0: (1, 3)})
    assert plain.append([{"n": 1}], producer="p", sequence=3) == first
    assert plain.append([], producer="p", sequence=4) == second, "only the number counts"
    assert numbers(plain) == [1, 2, 3]
    with pytest.raises(SequenceGap, match=r"producer 'p': sequence 6 does not follow 4; the next one is 5"):
        plain.append([{"n": 4}], producer="p", sequence=6)


def test_an_append_of_no_rows_takes_its_number(plain: Topic) -> None:
    assert plain.append([], producer="p", sequence=0) == {}
    assert plain.append([{"n": 1}], producer="p", sequence=1) == {0: (0, 1)}
    assert plain.append([{"n": 9}], producer="p", sequence=0) == {}
    assert numbers(plain) == [1]


def test_sequences_survive_reopening_sealing_and_trimming(log: Log, plain: Topic) -> None:
    first = plain.append([{"n": 1}], producer="p", sequence=0)
    log.seal()
    plain.trim(1)
    assert plain.append([{"n": 1}], producer="p", sequence=0) == first
    assert numbers(plain) == []


def test_an_expectation_names_partitions_that_rows_go_to(log: Log) -> None:
    topic = log.create_topic("t", {"n": int}, partitions=3)
    topic.append([{"n": 1}], partition=1, expect={1: 0})
    topic.append([{"n": 2}], partition=1, expect={1: np.int64(1)})
    with pytest.raises(InvalidInput, match="expect= names partition 2, to which none of these rows go"):
        topic.append([{"n": 3}], partition=1, expect={1: 2, 2: 0})
    with pytest.raises(InvalidInput, match="partition 0"):
        topic.append([], expect={0: 0})


def test_an_expectation_holds_for_an_append_of_many_batches(
    plain: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MAX_ROWS", 10)
    assert plain.append(pl.DataFrame({"n": range(35)}), expect={0: 0}) == {0: (0, 35)}


# --- times -----------------------------------------------------------------------------------------------------


def hours(topic: Topic, *given_hours: float | None, partition: int = 0) -> None:
    rows = [{"ts": None if h is None else START + timedelta(hours=h), "symbol": str(h)} for h in given_hours]
    topic.append(rows, partition=partition)


def test_the_offset_of_a_time_is_where_it_is_first_reached(trades: Topic) -> None:
    hours(trades, 1, 3, 2)
    hours(trades, 2, 5)
    hours(trades, 4, partition=1)
    at = {h: trades.offset_at(START + timedelta(hours=h)) for h in (0, 1, 1.5, 2, 3, 4, 5, 6)}
    assert {h: found[0] for h, found in at.items()} == {0: 0, 1: 0, 1.5: 1, 2: 1, 3: 1, 4: 4, 5: 4, 6: 5}
    assert {h: found[1] for h, found in at.items()} == {0: 0, 1: 0, 1.5: 0, 2: 0, 3: 0, 4: 0, 5: 1, 6: 1}
    assert {h: found[2] for h, found in at.items()} == dict.fromkeys(at, 0)


def test_rows_without_a_time_reach_none(trades: Topic) -> None:
    hours(trades, None, None)
    assert trades.offset_at(START)[0] == 2
    hours(trades, None, 7)
    assert trades.offset_at(START)[0] == 3


@pytest.mark.parametrize(
    "when", [START, START.replace(tzinfo=UTC), date(2024, 1, 1), "2024-01-01", "2024-01-01T01:00:00+01:00"]
)
def test_a_time_may_be_written_in_several_ways(trades: Topic, when: Any) -> None:
    hours(trades, -1, 0, 1)
    assert trades.offset_at(when)[0] == 1


@pytest.mark.parametrize(
    "dtype", [pl.Datetime("ms"), pl.Datetime("us"), pl.Datetime("ns"), pl.Datetime("us", "UTC"), pl.Date]
)
def test_every_type_of_time_has_offsets(log: Log, dtype: Any) -> None:
    topic = log.create_topic("t", {"ts": dtype, "n": int}, time="ts")
    for day in range(1, 9):
        topic.append(
            pl.DataFrame(
                {
                    "ts": [datetime(2024, 1, day, tzinfo=UTC if getattr(dtype, "time_zone", None) else None)],
                    "n": [day],
                }
            ).cast({"ts": dtype})
        )
    assert topic.offset_at(datetime(2024, 1, 4)) == {0: 3}
    assert topic.offset_at(datetime(2024, 1, 4, 0, 0, 1)) == {0: 4}
    assert [row[1] for _, _, row in rows_of(topic, start=date(2024, 1, 7))] == [7, 8]


def test_a_topic_without_times_is_asked_by_appending(log: Log, plain: Topic) -> None:
    plain.append([{"n": 1}])
    plain.append([{"n": 2}])
    [first, second] = [batch.append_time for batch in plain.read()]
    moment = datetime.fromtimestamp(second / 1e6, UTC)
    assert first < second
    assert plain.offset_at(moment, by="append") == {0: 1}
    assert numbers(plain, start=moment) == [2]
    with pytest.raises(InvalidInput, match=r"'plain' has no time column: use offset_at\(..., by='append'\)"):
        plain.offset_at(moment)
    with pytest.raises(InvalidInput, match="choose 'time' or 'append'"):
        plain.offset_at(moment, by="arrival")


def test_a_moment_that_is_none_is_refused(trades: Topic) -> None:
    for when in (5, None, "yesterday", [START]):
        with pytest.raises(InvalidInput):
            trades.offset_at(when)  # type: ignore[arg-type]


# --- trimming and ending ---------------------------------------------------------------------------------------


def test_trimming_removes_rows_and_moves_no_offset(plain: Topic) -> None:
    plain.append([{"n": n} for n in range(4)])
    plain.append([{"n": n} for n in range(4, 8)])
    plain.trim(2)
    assert rows_of(plain)[0] == (0, 2, (2,))
    plain.trim({0: 5})
    assert (plain.offsets(), numbers(plain)) == ({0: (5, 8)}, [5, 6, 7])
    plain.trim(1)
    assert plain.offsets() == {0: (5, 8)}, "what is gone does not come back"
    assert plain.append([{"n": 8}]) == {0: (8, 9)}
    plain.trim({0: np.int64(9)})
    assert (plain.offsets(), numbers(plain)) == ({0: (9, 9)}, [])
    assert plain.append([{"n": 9}]) == {0: (9, 10)}


def test_trimming_to_a_time_keeps_the_rows_from_it_on(trades: Topic) -> None:
    hours(trades, 1, 2, 3)
    hours(trades, 9, partition=1)
    trades.trim(START + timedelta(hours=2))
    assert trades.offsets() == {0: (1, 3), 1: (0, 1), 2: (0, 0), 3: (0, 0)}


def test_trimming_a_topic_without_times_goes_by_appending(plain: Topic) -> None:
    plain.append([{"n": 1}])
    plain.append([{"n": 2}])
    second = [batch.append_time for batch in plain.read()][1]
    plain.trim(datetime.fromtimestamp(second / 1e6, UTC))
    assert numbers(plain) == [2]


@pytest.mark.parametrize("before", [3, {0: 3}])
def test_trimming_stops_at_the_end(plain: Topic, before: Any) -> None:
    plain.append([{"n": 1}])
    with pytest.raises(InvalidInput, match=r"topic 'plain', partition 0: cannot trim to 3, it ends at 1"):
        plain.trim(before)
    assert numbers(plain) == [1]


@pytest.mark.parametrize("before", [-1, "all", None, 1.5, {0: -1}, {0: None}])
def test_what_is_no_place_is_not_trimmed_to(plain: Topic, before: Any) -> None:
    with pytest.raises(InvalidInput, match="is not an offset"):
        plain.trim(before)


def test_an_ended_topic_is_read_and_trimmed_but_takes_no_rows(plain: Topic) -> None:
    plain.append([{"n": 1}, {"n": 2}])
    assert not plain.ended
    plain.end()
    plain.end()
    assert plain.ended
    with pytest.raises(TopicEnded, match="topic 'plain' was ended and takes no more rows"):
        plain.append([{"n": 3}])
    plain.trim(1)
    assert numbers(plain) == [2]


# --- facts -----------------------------------------------------------------------------------------------------


def test_a_topic_tells_what_it_is(trades: Topic, log: Log) -> None:
    assert (trades.name, trades.partitions, trades.key, trades.time) == ("trades", 4, ("symbol",), "ts")
    assert (trades.compression, trades.ended, trades.internal) == ("none", False, False)
    assert trades.schema.names == ["ts", "symbol", "price", "size"]
    assert trades.polars_schema["ts"] == pl.Datetime("us")
    assert repr(trades) == f"Topic('trades', partitions=4, log={log.place!r})"


def test_batches_are_values(plain: Topic) -> None:
    plain.append([{"n": 1}])
    [batch] = plain.read()
    with pytest.raises(AttributeError):
        batch.offset = 7  # type: ignore[misc]
    assert (batch.topic, batch.partition, batch.offset, batch.next_offset) == ("plain", 0, 0, 1)


def test_sizes_are_what_the_rows_of_each_partition_take_on_disk(log: Log):
    topic = log.create_topic("sized", {"n": pl.Int64}, partitions=2)
    assert topic.sizes() == {0: 0, 1: 0}
    for _ in range(2):
        topic.append(pl.DataFrame({"n": [1, 2, 3]}), partition=1)
    sizes = topic.sizes()
    assert sizes[0] == 0 and sizes[1] == topic.describe().bytes > 0
    topic.trim({1: 3})
    assert topic.sizes() == {0: 0, 1: sizes[1] // 2}

"""Rules against a model in plain Python; and what they refuse at the user's line."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, strategies as st

from mamba_stream import ColumnNotFound, ExpressionRefused, FilterRule, InvalidInput
from mamba_stream.messaging.schema import MESSAGES, decode_headers, encode_headers, encode_key, encode_value

COMPARE = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
NAMES = ["region", "n", "é", "x"]
TEXTS = ["eu", "us", "", "10", "9", "3.0", "-1", "é€", "EU", "nothing"]


def messages(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    """A batch of messages as the log has them."""
    columns: dict[str, list[Any]] = {name: [] for name in MESSAGES.names}
    for row in rows:
        value, kind = encode_value(row.get("value"))
        key, key_kind = encode_key(row.get("key"))
        columns["value"].append(value)
        columns["key"].append(key)
        columns["kind"].append(kind | key_kind)
        headers = row.get("headers")
        pairs = row.get("pairs", None if headers is None else encode_headers(headers))
        columns["headers"].append(pairs)
        columns["event_type"].append(row.get("event_type"))
        columns["time"].append(row.get("time", 0))
        columns["deliver_at"].append(None)
        columns["priority"].append(row.get("priority", 0))
    return pa.RecordBatch.from_arrays(
        [pa.array(columns[name], MESSAGES.field(name).type) for name in MESSAGES.names], schema=MESSAGES
    )


def kept(rule: FilterRule, batch: pa.RecordBatch) -> list[int]:
    rule.check(batch.schema)
    mask = rule.mask(batch.select(rule.columns(batch.schema)) if rule.columns(batch.schema) else batch)
    if mask is None:
        return list(range(batch.num_rows))
    assert mask.dtype == np.bool_ and len(mask) == batch.num_rows
    return np.flatnonzero(mask).tolist()


def test_the_published_condition_is_a_header_that_equals():
    rule = FilterRule()
    rule.add_condition("key", "value")
    batch = messages(
        [{"headers": {"key": "value"}}, {"headers": {"key": "other"}}, {"key": "value"}, {"headers": None}]
    )
    assert kept(rule, batch) == [0]
    assert rule.columns(MESSAGES) == ["headers"]


def test_a_rule_without_conditions_lets_everything_pass():
    assert FilterRule().mask(messages([{}])) is None
    assert FilterRule().columns(MESSAGES) == []
    assert kept(FilterRule.all(FilterRule()), messages([{}, {}])) == [0, 1]
    assert kept(~FilterRule(), messages([{}, {}])) == []


# --- the model ---------------------------------------------------------------------------------------------------

Row = dict[str, Any]
Model = Callable[[Row], bool]
header_texts = st.sampled_from(TEXTS)
rows = st.fixed_dictionaries(
    {
        "headers": st.none()
        | st.dictionaries(st.sampled_from(NAMES), header_texts | st.binary(max_size=3), max_size=3),
        "event_type": st.none() | st.sampled_from(["order.created", "order.paid", "", "é"]),
        "priority": st.integers(0, 9),
        "key": st.none() | st.sampled_from(["a", b"a", b"\x05", 5, "é", -1]),
        "time": st.integers(-5, 5),
    }
)


def as_bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def header_model(name: str, op: str, value: Any) -> Model:
    def model(row: Row) -> bool:
        found = (row["headers"] or {}).get(name)
        if op == "exists":
            return found is not None
        if op == "!=":
            return found is None or as_bytes(found) != as_bytes(value)
        if found is None:
            return False
        if op == "in":
            return as_bytes(found) in {as_bytes(v) for v in value}
        if op == "matches":
            try:
                text = as_bytes(found).decode()
            except UnicodeDecodeError:
                return False
            return re.search(value, text) is not None
        return COMPARE[op](as_bytes(found), as_bytes(value))

    return model


def number_model(name: str, op: str, value: float) -> Model:
    def model(row: Row) -> bool:
        found = (row["headers"] or {}).get(name)
        try:
            number = None if found is None else float(as_bytes(found).decode())
        except (UnicodeDecodeError, ValueError):
            number = None
        if op == "!=":
            return number is None or number != value
        return number is not None and COMPARE[op](number, value)

    return model


def column_model(name: str, op: str, value: Any) -> Model:
    def model(row: Row) -> bool:
        found = row[name]
        if op == "exists":
            return found is not None
        if op == "!=":
            return found is None or found != value
        if found is None:
            return False
        if op == "in":
            return found in value
        if op == "matches":
            return re.search(value, found) is not None
        return COMPARE[op](found, value)

    return model


def key_model(op: str, value: Any) -> Model:
    def same(a: Any, b: Any) -> bool:
        return type(a) is type(b) and a == b

    def model(row: Row) -> bool:
        found = row["key"]
        if op == "in":
            return any(same(found, v) for v in value)
        return same(found, value) == (op == "==")

    return model


comparisons = st.sampled_from(sorted(COMPARE))
patterns = st.sampled_from(["^e", "u$", "e|1", "", "[0-9]+", "€"])


@st.composite
def leaves(draw: st.DrawFn) -> tuple[FilterRule, Model]:
    kind = draw(st.sampled_from(["header", "number", "event_type", "priority", "key", "time", "expression"]))
    name = draw(st.sampled_from(NAMES))
    if kind == "header":
        op = draw(comparisons | st.sampled_from(["in", "matches", "exists"]))
        one = header_texts | st.binary(max_size=2)
        value = {"in": st.lists(one, min_size=1, max_size=3), "matches": patterns, "exists": st.none()}.get(
            op, one
        )
        chosen = draw(value)
        return FilterRule().add_condition(name, chosen, op=op), header_model(name, op, chosen)
    if kind == "number":
        op, number = draw(comparisons), draw(st.sampled_from([3, 9.5, -1, 10]))
        return FilterRule().add_condition(name, number, op=op), number_model(name, op, number)
    if kind == "key":
        op = draw(st.sampled_from(["==", "!=", "in"]))
        one = st.sampled_from(["a", b"a", b"\x05", 5, "é", -1])
        chosen = draw(st.lists(one, min_size=1, max_size=3) if op == "in" else one)
        return FilterRule().add_condition("key", chosen, op=op, on="column"), key_model(op, chosen)
    if kind == "time":
        op, ticks = draw(comparisons), draw(st.integers(-5, 5))
        naive = datetime(1970, 1, 1) + (
            datetime.fromtimestamp(ticks / 1e6, UTC) - datetime.fromtimestamp(0, UTC)
        )
        when = draw(st.sampled_from([naive, naive.replace(tzinfo=UTC)]))
        return FilterRule().add_condition("time", when, op=op, on="column"), column_model("time", op, ticks)
    if kind == "expression":
        number = draw(st.integers(0, 9))
        rule = FilterRule((pl.col("priority") > number) | (pl.col("event_type") == "é"))
        return rule, lambda row: row["priority"] > number or row["event_type"] == "é"
    column, values = (
        ("event_type", st.sampled_from(["order.created", "order.paid", "", "z"]))
        if kind == "event_type"
        else ("priority", st.integers(0, 9))
    )
    op = draw(comparisons | st.sampled_from(["in", "exists", *(["matches"] if kind == "event_type" else [])]))
    value = {"in": st.lists(values, min_size=1, max_size=3), "exists": st.none(), "matches": patterns}.get(
        op, values
    )
    chosen = draw(value)
    return FilterRule().add_condition(column, chosen, op=op, on="column"), column_model(column, op, chosen)


def combined(
    parts: st.SearchStrategy[tuple[FilterRule, Model]],
) -> st.SearchStrategy[tuple[FilterRule, Model]]:
    def build(how: str, chosen: list[tuple[FilterRule, Model]]) -> tuple[FilterRule, Model]:
        rules, models = [r for r, _ in chosen], [m for _, m in chosen]
        if how == "none":
            return FilterRule.none(*rules), lambda row: not any(m(row) for m in models)
        if how == "~":
            return ~rules[0], lambda row: not models[0](row)
        if how == "|":
            return rules[0] | rules[-1], lambda row: models[0](row) or models[-1](row)
        if how == "&":
            return rules[0] & rules[-1], lambda row: models[0](row) and models[-1](row)
        together = {"all": all, "any": any}[how]
        return getattr(FilterRule, how)(*rules), lambda row: together(m(row) for m in models)

    return st.builds(
        build, st.sampled_from(["all", "any", "none", "~", "|", "&"]), st.lists(parts, min_size=1, max_size=3)
    )


@given(st.lists(rows, max_size=8), st.recursive(leaves(), combined, max_leaves=4), st.integers(0, 8))
def test_a_rule_keeps_what_the_model_keeps_however_the_rows_are_cut(
    found: list[Row], built: tuple[FilterRule, Model], cut: int
):
    rule, model = built
    batch = messages(found)
    wanted = [at for at, row in enumerate(found) if model(row)]
    assert kept(rule, batch) == wanted
    first = kept(rule, batch.slice(0, cut))
    rest = kept(rule, batch.slice(min(cut, batch.num_rows)))
    assert first + [at + min(cut, batch.num_rows) for at in rest] == wanted


# --- particular rows ---------------------------------------------------------------------------------------------


def test_of_two_headers_of_one_name_the_last_counts_as_for_a_message():
    batch = messages(
        [{"pairs": [("a", b"1"), ("a", b"2")]}, {"pairs": [("a", b"2"), ("b", b"1"), ("a", b"1")]}]
    )
    assert kept(FilterRule().add_condition("a", "2"), batch) == [0]
    assert [decode_headers(pairs)["a"] for pairs in batch.column("headers").to_pylist()] == ["2", "1"]


def test_a_header_without_a_value_is_there_and_empty():
    batch = messages([{"pairs": [("a", None)]}, {"pairs": []}])
    assert kept(FilterRule().add_condition("a", op="exists"), batch) == [0]
    assert kept(FilterRule().add_condition("a", ""), batch) == [0]


def test_rows_of_a_typed_topic_are_judged_by_their_columns():
    frame = pl.DataFrame({"price": [1.5, None, 9.0], "name": ["a", "b", "ab"], "on": [True, False, True]})
    batch = pa.RecordBatch.from_struct_array(frame.to_struct().to_arrow(compat_level=pl.CompatLevel.oldest()))
    assert kept(FilterRule(pl.col("price") > 3), batch) == [2]
    assert kept(~FilterRule(pl.col("price") > 3), batch) == [0, 1]
    assert kept(FilterRule().add_condition("price", 1.5, op="<=", on="column"), batch) == [0]
    assert kept(FilterRule().add_condition("price", 1, op="!=", on="column"), batch) == [0, 1, 2]
    assert kept(FilterRule().add_condition("name", "^a", op="matches", on="column"), batch) == [0, 2]
    assert kept(FilterRule().add_condition("on", True, on="column"), batch) == [0, 2]
    assert FilterRule(pl.col("price") > 3).columns(batch.schema) == ["price"]


def test_one_row_is_judged_as_many_are():
    batch = pa.RecordBatch.from_pydict({"x": pa.array([49.0])})
    rule = FilterRule((pl.col("x") / 49).floor() == 1)
    many = pa.RecordBatch.from_pydict({"x": pa.array([49.0] * 3)})
    assert kept(rule, batch) == kept(rule, many)[:1]


def test_what_is_added_later_does_not_change_what_was_combined():
    part = FilterRule().add_condition("a", "1")
    whole = FilterRule.any(part)
    part.add_condition("b", "1")
    assert kept(whole, messages([{"headers": {"a": "1"}}])) == [0]


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        (("key", 3.5j), {}, "a header is text"),
        (("key", ["a"]), {}, "a header is text"),
        (("key", True), {}, "a header is text"),
        (("key",), {}, "op='exists'"),
        (("key", "v"), {"op": "="}, "is none"),
        (("key", "v"), {"op": "match"}, "did you mean 'matches'"),
        (("key", "v"), {"on": "headers"}, "choose 'header' or 'column'"),
        (("key", "v"), {"op": "in"}, "a list of values"),
        (("key", []), {"op": "in"}, "at least one"),
        (("key", [1]), {"op": "in"}, "a header is text"),
        (("key", "("), {"op": "matches"}, "no regular expression"),
        (("key", 3), {"op": "matches"}, "no regular expression"),
        (("key", "v"), {"op": "exists"}, "takes no value"),
        (("", "v"), {}, "which is text"),
        ((3, "v"), {}, "which is text"),
        (("key", "\ud800"), {}, "not Unicode"),
        (("\ud800", "v"), {}, "not Unicode"),
        (("key", "\ud800"), {"on": "column"}, "not Unicode"),
        (("key", 10**400), {"op": "<"}, "larger than any number"),
        (("key", {}), {"on": "column"}, "with one value"),
    ],
)
def test_a_condition_that_cannot_be_right_is_refused_at_once(
    arguments: tuple[Any, ...], options: Any, says: str
):
    rule = FilterRule()
    with pytest.raises(InvalidInput, match=re.escape(says)):
        rule.add_condition(*arguments, **options)
    assert rule.mask(messages([{}])) is None


def test_an_expression_that_looks_beyond_its_row_is_refused_at_once():
    with pytest.raises(ExpressionRefused):
        FilterRule(pl.col("priority") > pl.col("priority").mean())
    with pytest.raises(InvalidInput, match="made of Polars expressions"):
        FilterRule("priority > 3")
    with pytest.raises(InvalidInput, match="takes rules"):
        FilterRule.any(pl.col("x") > 3)
    with pytest.raises(InvalidInput, match="no rules"):
        FilterRule.all()


@pytest.mark.parametrize(
    ("rule", "error", "says"),
    [
        (FilterRule().add_condition("priorty", 3, on="column"), ColumnNotFound, "did you mean 'priority'"),
        (FilterRule().add_condition("priority", "3", on="column"), InvalidInput, "cannot compare"),
        (FilterRule().add_condition("priority", True, on="column"), InvalidInput, "which this value is not"),
        (FilterRule().add_condition("priority", "3", op="matches", on="column"), InvalidInput, "only text"),
        (FilterRule().add_condition("key", "a", op="<", on="column"), InvalidInput, "keys are compared"),
        (FilterRule().add_condition("key", 3.5, on="column"), InvalidInput, "a key is"),
        (FilterRule(pl.col("price") > 3), ColumnNotFound, "no column 'price'"),
        (FilterRule(pl.col("priority") + 1), InvalidInput, "not one Boolean"),
        (~FilterRule(pl.col("event_type") > 3), InvalidInput, "cannot compare"),
    ],
)
def test_a_rule_that_does_not_fit_the_topic_says_so_before_the_first_message(
    rule: FilterRule, error: type[Exception], says: str
):
    with pytest.raises(error, match=says):
        rule.check(MESSAGES)


def test_headers_are_refused_where_rows_have_none():
    with pytest.raises(InvalidInput, match="have no headers"):
        FilterRule().add_condition("key", "value").check(pa.schema([("price", pa.float64())]))

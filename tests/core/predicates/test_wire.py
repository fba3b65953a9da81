"""What arrives as a predicate is one, or is refused with what would be: whatever the bytes."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings, strategies as st

from mamba_stream.core.predicates import check, decode, encode, from_expr
from mamba_stream.core.predicates.operators import OPERATORS
from mamba_stream.core.timebounds import time_bounds
from mamba_stream.errors import InvalidInput
from tests.core.predicates.expressions import TYPES, filters, frame
from tests.sizes import examples

SCHEMA = pl.Schema(TYPES)
ROWS = [frame(1, 1), frame(2, 2), frame(3, 40), frame(1, 1).clear()]
PRICE: list[Any] = ["column", "price"]
THREE: list[Any] = ["literal", ["Int"], 3]


def operator(name: str, *inputs: Any, **options: Any) -> list[Any]:
    return ["operator", name, list(inputs), options]


def arrived(value: Any) -> Any:
    return decode(msgspec.msgpack.encode(value))


def test_a_predicate_can_be_written_by_hand() -> None:
    by_hand = operator("and", ["operator", "gt", [PRICE, THREE]], operator("is_null", ["column", "symbol"]))
    assert arrived(by_hand) == from_expr((pl.col("price") > 3) & pl.col("symbol").is_null())


def test_options_may_be_left_out() -> None:
    bare = arrived(operator("contains", ["column", "s"], ["literal", ["String"], "a.c"]))
    full = arrived(
        operator("contains", ["column", "s"], ["literal", ["String"], "a.c"], literal=False, strict=True)
    )
    schema = pl.Schema({"s": pl.String})
    assert str(check(bare, schema).expr) == str(check(full, schema).expr)


def nested(times: int) -> list[Any]:
    value = operator("is_null", PRICE)
    for _ in range(times):
        value = operator("not", value)
    return value


def long(value: str) -> list[Any]:
    return operator("eq", PRICE, ["literal", ["String"], value])


def matching(pattern: str) -> list[Any]:
    return operator("contains", PRICE, ["literal", ["String"], pattern])


REFUSED: dict[str, tuple[Any, str]] = {
    "nothing": (None, "no predicate"),
    "a map": ({"column": "price"}, "no predicate"),
    "another form": (["expression", "price"], "no predicate"),
    "a form with more": (["column", "price", 1], "no predicate"),
    "a name that is none": (["column", 3], "no predicate"),
    "an operator that is none": (operator("start_with", PRICE, PRICE), "did you mean 'starts_with'"),
    "an operator of Python": (operator("map_elements", PRICE), "there are eq, ne, "),
    "an operator with a dunder": (operator("__class__", PRICE), "no operator '__class__'"),
    "too few inputs": (operator("eq", PRICE), "eq takes 2 inputs, not 1"),
    "too many inputs": (operator("not", PRICE, PRICE), "not takes 1 inputs, not 2"),
    "one for and": (operator("and", PRICE), "and takes 2 or more inputs"),
    "an option that is none": (operator("eq", PRICE, THREE, missing=True), "it has none"),
    "an option of another": (operator("is_between", PRICE, THREE, THREE, strict=True), "it has closed"),
    "a choice that is none": (operator("is_between", PRICE, THREE, THREE, closed="open"), "'both', 'left'"),
    "a truth that is a number": (operator("cast", PRICE, to=["Int8"], strict=1), "no predicate"),
    "a text for a truth": (operator("cast", PRICE, to=["Int8"], strict="no"), "True, False"),
    "a cast to nothing": (operator("cast", PRICE), "needs a type"),
    "a cast to text": (operator("cast", PRICE, to="Int8"), "needs a type"),
    "a type that is none": (operator("cast", PRICE, to=["Object"]), "is no type"),
    "a type misspelt": (operator("cast", PRICE, to=["Strng"]), "did you mean 'String'"),
    "an empty type": (operator("cast", PRICE, to=[]), "is no type"),
    "a nested type": (operator("cast", PRICE, to=["List", "Int8"]), "is no type"),
    "a type without unit": (operator("cast", PRICE, to=["Datetime"]), "is no type"),
    "a unit that is none": (operator("cast", PRICE, to=["Datetime", "s", None]), "is no type"),
    "a zone that is none": (operator("cast", PRICE, to=["Datetime", "us", "Mars/Base"]), "no time zone"),
    "a zone that is a path": (
        operator("cast", PRICE, to=["Datetime", "us", "../../etc/passwd"]),
        "no time zone",
    ),
    "too many digits": (operator("cast", PRICE, to=["Decimal", 39, 2]), "is no type"),
    "a scale beyond them": (operator("cast", PRICE, to=["Decimal", 2, 3]), "is no type"),
    "a literal of no type": (["literal", ["Object"], 1], "is no type"),
    "a literal of another": (["literal", ["Int64"], "3"], "write an integer"),
    "a truth for a number": (["literal", ["Int64"], True], "write an integer"),
    "a number out of range": (["literal", ["UInt8"], 256], "write an integer within its range"),
    "a number for a float": (["literal", ["Float64"], 1], "floating-point"),
    "text for bytes": (["literal", ["Binary"], "a"], "write bytes"),
    "bytes for text": (["literal", ["String"], b"a"], "write text"),
    "a list for a value": (["literal", ["Int64"], [1, 2]], "write an integer"),
    "an untyped null": (["literal", ["Int"], None], '["Null"]'),
    "a null with a value": (["literal", ["Null"], 0], "is null"),
    "a time beyond the day": (["literal", ["Time"], 86_400_000_000_000], "nanoseconds"),
    "a date beyond calendars": (["literal", ["Date"], 2**31 - 1], "days"),
    "a moment beyond calendars": (["literal", ["Datetime", "ms", None], 2**63 - 1], "unit"),
    "a decimal that is a number": (["literal", ["Decimal", 10, 2], 1], "digits as text"),
    "a decimal too long": (["literal", ["Decimal", 4, 2], "123.4"], "digits as text"),
    "a decimal too fine": (["literal", ["Decimal", 4, 2], "1.234"], "digits as text"),
    "a decimal with exponent": (["literal", ["Decimal", 4, 2], "1e1"], "digits as text"),
    "values alone": (["values", ["Int64"], [1]], "only in is_in"),
    "values elsewhere": (operator("eq", PRICE, ["values", ["Int64"], [1]]), "only in is_in"),
    "is_in a column": (operator("is_in", PRICE, PRICE), "among values"),
    "values without a width": (operator("is_in", PRICE, ["values", ["Int"], [1]]), "is no type"),
    "a value of another type": (operator("is_in", PRICE, ["values", ["Int64"], [1, "2"]]), "'2' is no"),
    "too many values": (operator("is_in", PRICE, ["values", ["Int64"], [1] * 10_001]), "at most 10,000"),
    "too deep": (nested(40), "more than 32 levels"),
    "too many": (operator("and", *[PRICE] * 1_001), "more than 1,000"),
    "too long": (long("a" * 300_000), "at most 262,144"),
    "a pattern from a column": (operator("contains", PRICE, ["column", "s"]), "written out"),
    "a pattern of null": (operator("contains", PRICE, ["literal", ["Null"], None]), "written out"),
    "a long pattern": (matching("a" * 257), "at most 256"),
    "a heavy pattern": (matching("((a{9}){9}){99}"), "stands for"),
    "a heavy class": (matching(r"[\w\d]{90}"), "stands for"),
    "a spaced pattern": (matching("(?x)a{9 9 9}"), "flag x"),
    "many patterns": (operator("or", *[matching("a")] * 9), "at most 8"),
}


@pytest.mark.parametrize(("value", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_predicate_is_refused(value: Any, said: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        arrived(value)
    assert said in str(refused.value)
    assert len(str(refused.value)) < 1_000


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x92\xa6column\xdb\xff\xff\xff\xff",
        b"\x92\xa6column\xa2\xff\xfe",
        b"\x91" * 200_000,
        b"\x93\xa8operator\xa3not\x91" * 15_000 + msgspec.msgpack.encode(PRICE),
        msgspec.msgpack.encode(PRICE) + b"\xc0",
    ],
    ids=range(9),
)
def test_bytes_that_are_none_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode(data)


def asked(data: bytes) -> None:
    """What a server does with bytes from outside; they may be refused, and nothing else."""
    try:
        question = check(decode(data), SCHEMA)
        time_bounds(question.expr, "datetime_us_None")
        for rows in ROWS:
            question.kept(rows)
    except InvalidInput as refused:
        assert len(str(refused)) < 1_500


@settings(max_examples=examples(300))
@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_asked(data: bytes) -> None:
    asked(data)


@settings(max_examples=examples(150))
@given(filters, st.randoms(use_true_random=False), st.integers(1, 4))
def test_predicates_with_wrong_bytes_are_refused_or_asked(
    expr: pl.Expr, chance: random.Random, times: int
) -> None:
    predicate = from_expr(expr)
    assert predicate is not None
    data = bytearray(encode(predicate))
    for _ in range(times):
        at = chance.randrange(len(data))
        match chance.randrange(3):
            case 0:
                data[at] = chance.randrange(256)
            case 1:
                del data[at]
                data.append(0)
            case 2:
                data[at:at] = data[at : at + chance.randrange(8)]
    asked(bytes(data))


_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from([0, 1, -1, 255, 2**31, 2**63 - 1, -(2**63)]),
    st.floats(),
    st.text(max_size=3),
    st.sampled_from(["1.50", "-0.05", "9" * 38, "(", "a{3}", "2024-01-01"]),
    st.binary(max_size=3),
)
_KINDS = st.sampled_from(
    [["Int"], ["Float"], ["Null"], ["List", "Int8"]]
    + [
        [type(dtype).__name__]
        for dtype in TYPES.values()
        if not dtype.is_temporal() and not dtype.is_decimal()
    ]
    + [["Date"], ["Time"], ["Decimal", 10, 2], ["Decimal", 38, 38], ["Decimal", 38, 0]]
    + [["Datetime", unit, zone] for unit in ("ms", "us", "ns") for zone in (None, "UTC", "Europe/Paris")]
    + [["Duration", unit] for unit in ("ms", "us", "ns")]
)
_LEAVES = st.one_of(
    st.tuples(st.just("column"), st.sampled_from([*TYPES, "*", "^.*$"])),
    st.tuples(st.just("literal"), _KINDS, _SCALARS),
    st.tuples(st.just("values"), _KINDS, st.lists(_SCALARS, max_size=3)),
)
_OPTIONS = st.fixed_dictionaries(
    {}, optional={"strict": st.booleans(), "to": _KINDS, "literal": st.booleans(), "closed": st.just("left")}
)


def _operators(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def of(name: str) -> st.SearchStrategy[Any]:
        rule = OPERATORS[name]
        options = _OPTIONS.map(
            lambda all_: {key: value for key, value in all_.items() if key in rule.choices}
        )
        return st.tuples(
            st.just("operator"),
            st.just(name),
            st.lists(inner, min_size=rule.least, max_size=rule.least),
            options,
        )

    return st.sampled_from(list(OPERATORS)).flatmap(of)


@settings(max_examples=examples(200))
@given(st.recursive(_LEAVES, _operators, max_leaves=8).map(msgspec.msgpack.encode))
def test_trees_of_anything_are_refused_or_asked(data: bytes) -> None:
    asked(data)


_HEAVY = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
import polars as pl
from mamba_stream.core.predicates import check, decode
rows = pl.DataFrame({"s": ["aAb\\u00e9c xyz 0123 " * 6] * 100_000, "i": range(100_000)})
question = check(decode(sys.stdin.buffer.read()), rows.schema)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
question.kept(rows)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
_TEXT, _NUMBER = ["column", "s"], ["column", "i"]


def _all(make: Callable[[int], list[Any]], times: int) -> list[Any]:
    return operator("or", *[make(number) for number in range(times)])


@pytest.mark.parametrize(
    "heavy",
    [
        _all(lambda _: operator("contains", _TEXT, ["literal", ["String"], r"(?i)\w{60}q"]), 8),
        operator("contains", _TEXT, ["literal", ["String"], "a" * 250_000], literal=True),
        _all(lambda _: operator("eq", operator("upper", operator("lower", _TEXT)), _TEXT), 190),
        _all(
            lambda at: operator(
                "eq", operator("cast", _NUMBER, to=["String"]), ["literal", ["String"], str(at)]
            ),
            240,
        ),
        _all(lambda _: operator("gt", operator("mul", _NUMBER, _NUMBER), THREE), 190),
    ],
    ids=["patterns", "text", "cases", "casts", "products"],
)
def test_the_heaviest_predicates_cost_no_more_memory_than_rows(
    heavy: list[Any], environment: dict[str, str]
) -> None:
    # A minute of processor time is the process's own limit: it would be killed.
    done = subprocess.run(
        [sys.executable, "-c", _HEAVY],
        input=msgspec.msgpack.encode(heavy),
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 200_000  # kilobytes, for 10 MB of text


def test_text_does_not_grow() -> None:
    grown = operator(
        "eq", operator("add", ["column", "string"], ["literal", ["String"], "a" * 200_000]), PRICE
    )
    with pytest.raises(InvalidInput, match="add takes numbers"):
        check(arrived(grown), pl.Schema({**SCHEMA, "price": pl.String()}))

"""A table of expressions: row-wise ones give the same however the rows are cut, the others are refused."""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise

import polars as pl
import polars.selectors as cs  # noqa: F401 - the sources in the tables use it
import pytest
from hypothesis import given, settings, strategies as st
from polars.testing import assert_frame_equal

from mamba_stream.core.trees import nodes
from mamba_stream.errors import ExpressionRefused
from mamba_stream.plan.allowlist import ALLOWED
from mamba_stream.plan.rowwise import check_aggregate, check_row_wise
from tests.sizes import examples

ROWS = 24
a, b, x, y, s, s2 = (pl.col(name) for name in ("a", "b", "x", "y", "s", "s2"))
p, q, d, t, tz, du, tm, dec = (pl.col(name) for name in ("p", "q", "d", "t", "tz", "du", "tm", "dec"))
li, li2, ls, ar, rec, raw, en = (pl.col(name) for name in ("li", "li2", "ls", "ar", "rec", "raw", "en"))
kv = pl.col("kv")
element = pl.element()
NOON = dt.datetime(2024, 3, 1, 12)


def holes(values: list[object], every: int) -> list[object]:
    return [None if n % every == every - 1 else value for n, value in enumerate(values)]


def frame() -> pl.DataFrame:
    """24 rows of nearly every type, with nulls, NaN and infinities, no two rows alike."""
    n = range(ROWS)
    inf, nan = float("inf"), float("nan")
    floats = [[0.5, -1.25, nan, 2.0, inf, -0.0, 7.75, -inf][i % 8] + (i // 8) for i in n]
    words = ["apple", "Bär", "", "ab,cd,ef", "x1y22", " pad ", "ZEBRA crossing", "été"]
    return pl.DataFrame(
        {
            "a": pl.Series(holes([(i * 7) % 13 - 5 for i in n], 6), dtype=pl.Int64),
            "b": pl.Series(holes([(i * 5) % 4 + 1 for i in n], 11), dtype=pl.Int64),
            "i8": pl.Series(holes([(i * 31) % 200 - 100 for i in n], 7), dtype=pl.Int8),
            "u": pl.Series([i % 5 for i in n], dtype=pl.UInt32),
            "x": pl.Series(holes(floats, 9), dtype=pl.Float64),
            "y": pl.Series([0.1 + (i % 7) / 8 for i in n], dtype=pl.Float64),
            "f": pl.Series(holes([i / 3 for i in n], 5), dtype=pl.Float32),
            "p": pl.Series(holes([i % 3 == 0 for i in n], 8), dtype=pl.Boolean),
            "q": pl.Series(holes([i % 2 == 0 for i in n], 5), dtype=pl.Boolean),
            "s": pl.Series(holes([words[i % 8] + str(i // 8) for i in n], 7), dtype=pl.String),
            "s2": pl.Series([["a", "1", ",", "e"][i % 4] for i in n], dtype=pl.String),
            "num": pl.Series(holes([str(i * 3) for i in n], 9), dtype=pl.String),
            "day": pl.Series([f"2024-0{i % 9 + 1}-1{i % 10}" for i in n], dtype=pl.String),
            "when": pl.Series([f"2024-0{i % 9 + 1}-1{i % 10} {i % 24:02}:30:00" for i in n], dtype=pl.String),
            "clock": pl.Series([f"{i % 24:02}:{i * 2:02}" for i in n], dtype=pl.String),
            "js": pl.Series([f'{{"n": {i}, "w": "v{i}"}}' for i in n], dtype=pl.String),
            "hex": pl.Series([f"{i * 7:04x}" for i in n], dtype=pl.String),
            "d": pl.Series(
                holes([dt.date(2024, 1, 29) + dt.timedelta(days=i) for i in n], 10), dtype=pl.Date
            ),
            "t": pl.Series(
                holes([NOON + dt.timedelta(hours=7 * i, microseconds=i) for i in n], 12),
                dtype=pl.Datetime("us"),
            ),
            "tz": pl.Series([NOON + dt.timedelta(days=9 * i) for i in n], dtype=pl.Datetime("us", "UTC")),
            "du": pl.Series(holes([dt.timedelta(minutes=i * 41) for i in n], 6), dtype=pl.Duration("us")),
            "tm": pl.Series([dt.time(i, i * 2) for i in n], dtype=pl.Time),
            "dec": pl.Series(holes([Decimal(i) / 4 for i in n], 8), dtype=pl.Decimal(10, 2)),
            "li": pl.Series(holes([[i, None, i % 3, 4][: i % 5] for i in n], 7), dtype=pl.List(pl.Int64)),
            "li2": pl.Series([[i % 3, 4] for i in n], dtype=pl.List(pl.Int64)),
            "ix": pl.Series([[0] if i % 5 else [] for i in n], dtype=pl.List(pl.UInt32)),
            "ls": pl.Series(holes([["a", "b", str(i)][: i % 4] for i in n], 5), dtype=pl.List(pl.String)),
            "lp": pl.Series([[i % 2 == 0, i % 3 == 0] for i in n], dtype=pl.List(pl.Boolean)),
            "kv": pl.Series(holes([[{"key": k, "value": i} for k in "ab"[: i % 3]] for i in n], 9)),
            "ar": pl.Series([[i, i % 3, 4] for i in n], dtype=pl.Array(pl.Int64, 3)),
            "rec": pl.Series([{"m": i, "w": str(i)} for i in n]),
            "raw": pl.Series(holes([bytes([i, 98, i % 3, 1, 2]) for i in n], 9), dtype=pl.Binary),
            "en": pl.Series(
                holes([["lo", "mid", "hi"][i % 3] for i in n], 8), dtype=pl.Enum(["lo", "mid", "hi"])
            ),
        }
    )


FRAME = frame()

ROW_WISE: dict[str, Callable[[], pl.Expr]] = {
    source: eval(f"lambda: {source}")
    for source in """
a
pl.col("a").alias("z")
a.name.suffix("_z")
a.name.prefix("z_")
a.name.to_uppercase()
a.name.replace("a", "z")
(a + 1).name.keep()
cs.by_name("a") * 2
pl.col("^a$") + 1
a + b
a - 2 * b
a * b
a / b
a // b
a % b
a.truncdiv(b)
a ** 2
b ** a.abs()
-a
a == b
a != b
a < b
a <= 3
a > b
a >= 3
a.eq_missing(b)
a.ne_missing(b)
p & q
p | q
p ^ q
~p
p.and_(q, a > 1)
(a > 1) & (b < 3) | s.is_null()
pl.all_horizontal(p, q)
pl.any_horizontal("p", "q")
pl.sum_horizontal("a", "b")
pl.sum_horizontal(cs.integer())
pl.mean_horizontal("a", "b", "x")
pl.min_horizontal("a", "b")
pl.max_horizontal(cs.by_name("a", "b"), 2)
pl.min_horizontal(a, 1)
pl.when(a > 1).then(b).otherwise(a)
pl.when(p).then(1)
pl.when(p).then(1).when(q).then(2).otherwise(a)
pl.when(p).then(pl.lit("x")).otherwise(s)
pl.lit(3) + a
pl.lit(None, dtype=pl.Int64).fill_null(a)
pl.coalesce(a, b)
pl.coalesce(1, a)
pl.coalesce(a, b, 0)
a.fill_null(0)
a.fill_null(b)
a.fill_null(strategy="zero")
a.fill_null(strategy="one")
x.fill_nan(0)
x.fill_nan(None)
x.fill_nan(y)
a.is_null()
a.is_not_null()
x.is_nan()
x.is_not_nan()
x.is_finite()
x.is_infinite()
x.is_close(y)
a.is_between(0, 3)
a.is_between(b - 4, b, closed="left")
a.is_in([1, 2, None])
a.is_in([])
a.is_in({1, 3})
a.is_in(pl.Series([1, 2]))
a.is_in(pl.lit([1, 2]))
a.is_in(li)
b.is_in(ar)
a.is_in([1, None], nulls_equal=True)
s2.is_in(ls)
a.is_in(pl.coalesce(li, li2))
a.is_in(pl.when(p).then(li).otherwise(li2))
a.is_in(li.list.eval(element + 1))
a.is_in(li.list.head(2)) & p
s2.is_in(s.str.split(","))
a.clip(0, 3)
a.clip(b)
a.clip(b - 5, b)
x.round(1)
x.round(1, mode="half_away_from_zero")
x.round_sig_figs(2)
x.truncate(1)
x.floor()
x.ceil()
a.abs()
a.sign()
x.sqrt()
x.cbrt()
x.exp()
x.log()
x.log(2)
y.log(y + 1)
x.log10()
x.log1p()
x.sin()
x.cos()
x.tan()
y.cot()
y.arcsin()
y.arccos()
y.arctan()
y.sinh()
y.cosh()
y.tanh()
y.arcsinh()
(y + 1).arccosh()
y.arctanh()
y.degrees()
y.radians()
y.erf()
y.erfc()
pl.arctan2("x", "y")
a.hash()
s.hash(3)
pl.struct("a", "s").hash()
a.cast(pl.Float32)
a.cast(pl.String)
a.cast(pl.Int8, strict=False)
x.cast(pl.Int64, strict=False)
pl.col("i8").cast(pl.UInt8, wrap_numerical=True)
pl.col("num").cast(pl.Int64)
s.cast(pl.Int64, strict=False)
t.cast(pl.Date)
t.cast(pl.Int64)
du.cast(pl.Int64)
a.cast(pl.Decimal(10, 2))
s.cast(pl.Binary)
li.cast(pl.List(pl.Float64))
en.cast(pl.String)
s2.cast(pl.Enum(["a", "1", ",", "e"]))
pl.from_epoch("a")
a.bitwise_count_ones()
a.bitwise_count_zeros()
a.bitwise_leading_zeros()
a.bitwise_leading_ones()
a.bitwise_trailing_zeros()
a.bitwise_trailing_ones()
a.reinterpret(signed=False)
a.repeat_by(b)
a.cut([0, 3])
a.cut([0, 3], labels=["l", "m", "h"], include_breaks=True)
a.bin_intervals([-10, 0, 10], labels=False)
a.bin_intervals([-10, 0, 10], labels=["l", "m", "n", "h"])
a.replace({1: 10, 2: 20})
a.replace([1, 2], 7)
a.replace(pl.Series([1, 2]), pl.Series([3, 4]))
s2.replace({"a": None})
a.replace_strict({1: "one"}, default="other")
a.replace_strict({1: 2}, default=b)
b.replace_strict({1: 1.5, 2: 2.5, 3: 3.5, 4: 4.5, None: 0.0})
b.replace_strict([1, 2, 3, 4, None], [True, False, True, False, None], return_dtype=pl.Boolean)
pl.concat_str("s", "s2", separator="-")
pl.concat_str("s", "s2", ignore_nulls=True)
pl.format("{}-{}", a, s)
pl.concat_list("a", "b")
pl.concat_list(li, a)
pl.concat_arr("a", "b")
pl.struct("a", z=b + 1)
pl.struct(cs.integer())
pl.struct("a", schema={"a": pl.Int16, "new": pl.String})
pl.sql_expr("a in (1, 2)")
pl.sql_expr("a between 1 and 3 and s like 'a%'")
pl.sql_expr("case when a > 1 then 'big' else lower(s) end")
pl.sql_expr("cast(a as float) / b")
pl.sql_expr("round(y, 2) * 2")
pl.sql_expr("mod(a, 3) + power(b, 2)")
x / 3
x // 3.7
a % 2.5
(a / 49).floor()
pl.lit("Categorical") + s
s.str.contains("a")
s.str.contains(s2, literal=True)
s.str.contains_any(["a", "b"])
s.str.count_matches("a")
s.str.ends_with("1")
s.str.starts_with(s2)
s.str.escape_regex()
s.str.extract(r"(\\d+)", 1)
s.str.extract_all(r"\\d")
s.str.extract_groups(r"(?<first>\\w)(\\w)")
s.str.extract_many(["a", "b"])
s.str.find("a")
s.str.find(s2, literal=True)
s.str.find_many(["a", "b"])
s.str.head(2)
s.str.head(b)
s.str.tail(2)
s.str.slice(1, 2)
s.str.slice(b)
s.str.len_bytes()
s.str.len_chars()
s.str.to_lowercase()
s.str.to_uppercase()
s.str.to_titlecase()
s.str.normalize()
s.str.pad_start(8)
s.str.pad_end(b + 5)
s.str.zfill(8)
s.str.replace("a", "b")
s.str.replace_all("a", s2)
s.str.replace_many(["a", "b"], ["x", "y"])
s.str.replace_many({"a": "z"})
s.str.reverse()
s.str.split(",")
s.str.split(s2, inclusive=True)
s.str.split(r"\\d", literal=False)
s.str.split_exact(",", 2)
s.str.splitn(",", 2)
s.str.strip_chars()
s.str.strip_chars_start(" a")
s.str.strip_chars_end(s2)
s.str.strip_prefix("a")
s.str.strip_suffix("1")
s.str.encode("hex")
s.str.encode("base64")
s.str.encode("base64").str.decode("base64")
pl.col("hex").str.decode("hex")
pl.col("js").str.json_decode(pl.Struct({"n": pl.Int64, "w": pl.String}))
pl.col("js").str.json_path_match("$.n")
pl.col("num").str.to_integer()
pl.col("hex").str.to_integer(base=16)
s.str.to_integer(base=b + 8, strict=False)
pl.col("num").str.to_decimal(scale=2)
pl.col("day").str.to_date("%Y-%m-%d")
pl.col("day").str.to_date("%Y-%d", strict=False)
pl.col("when").str.to_datetime("%Y-%m-%d %H:%M:%S")
pl.col("when").str.to_datetime("%Y-%m-%d %H:%M:%S", time_zone="Europe/Berlin")
pl.col("when").str.strptime(pl.Datetime("ms"), "%Y-%m-%d %H:%M:%S")
pl.col("clock").str.to_time("%H:%M")
d.dt.year()
d.dt.iso_year()
d.dt.quarter()
d.dt.month()
d.dt.week()
d.dt.weekday()
d.dt.day()
d.dt.ordinal_day()
d.dt.century()
d.dt.millennium()
d.dt.is_leap_year()
d.dt.days_in_month()
d.dt.month_start()
d.dt.month_end()
d.dt.combine(tm)
d.dt.add_business_days(b, roll="forward")
d.dt.add_business_days(2, roll="forward", holidays=[dt.date(2024, 2, 1)])
d.dt.is_business_day()
d.dt.offset_by("1mo")
d.dt.offset_by(pl.format("{}d", b))
d.dt.truncate("1w")
d.dt.epoch("d")
pl.business_day_count("d", dt.date(2024, 3, 1))
t.dt.date()
t.dt.time()
t.dt.hour()
t.dt.minute()
t.dt.second()
t.dt.second(fractional=True)
t.dt.millisecond()
t.dt.microsecond()
t.dt.nanosecond()
t.dt.truncate("3h")
t.dt.truncate(pl.format("{}h", b))
t.dt.round("1d")
t.dt.offset_by("-2h")
t.dt.epoch("s")
t.dt.timestamp("ms")
t.dt.cast_time_unit("ms")
t.dt.replace(hour=3)
t.dt.replace(day=b)
t.dt.replace_time_zone("Europe/Berlin")
t.dt.to_string("%Y-%m-%d %H")
t.dt.strftime("%d.%m.")
t.dt.to_string()
tz.dt.convert_time_zone("America/New_York")
tz.dt.convert_time_zone("America/New_York").dt.hour()
tz.dt.convert_time_zone("Europe/Berlin").dt.base_utc_offset()
tz.dt.convert_time_zone("Europe/Berlin").dt.dst_offset()
t - NOON
t + du
t > NOON
t.is_between(NOON, NOON + dt.timedelta(days=2))
du.dt.total_days()
du.dt.total_hours()
du.dt.total_minutes(fractional=True)
du.dt.total_seconds()
du.dt.total_milliseconds()
du.dt.total_microseconds()
du.dt.total_nanoseconds()
du / 2
du * b
dec * 2
dec + a
dec.round(1)
pl.datetime(2024, b, 1, a.abs())
pl.date(2024, b, 1)
pl.time(b)
pl.duration(hours="a", minutes=b)
pl.int_ranges(0, b)
pl.int_ranges("u", pl.col("u") + 3)
pl.date_ranges(d, d + pl.duration(days=b))
pl.datetime_ranges(t, t + pl.duration(hours=b), "1h")
pl.time_ranges(tm, dt.time(23, 59))
pl.linear_spaces(y, y + 1, 3)
li.list.len()
li.list.sum()
li.list.mean()
li.list.median()
li.list.min()
li.list.max()
li.list.std()
li.list.var()
li.list.n_unique()
li.list.unique(maintain_order=True)
li.list.sort()
li.list.sort(descending=True, nulls_last=True)
li.list.reverse()
li.list.shift(1)
li.list.diff()
li.list.arg_max()
li.list.arg_min()
li.list.first()
li.list.last()
li.list.get(1, null_on_oob=True)
li.list.get(b, null_on_oob=True)
li.list.gather([0, 2], null_on_oob=True)
li2.list.gather(pl.col("ix"))
li.list.gather_every(2)
li.list.head(2)
li.list.tail(b)
li.list.slice(1, 2)
li.list.contains(4)
li.list.contains(a)
li.list.count_matches(4)
li.list.concat(li2)
li.list.drop_nulls()
li.list.set_union(li2).list.sort()
li.list.set_difference([4])
li.list.set_intersection(li2).list.sort()
li.list.set_symmetric_difference(li2).list.sort()
ls.list.join("-")
ls.list.join(s2)
pl.col("lp").list.all()
pl.col("lp").list.any()
li2.list.to_array(2)
li2.list.to_struct(fields=["m", "n"])
li.list.eval(element + 1)
li.list.eval(element.rank())
li.list.eval(element.sum())
li.list.eval(element.filter(element > 1))
li.list.filter(element > 1)
li.list.agg(element.sum())
li.list.agg(element.quantile(0.5))
li.list.eval(element.cum_sum())
kv.list.to_map()
kv.list.to_map().map.get("a")
kv.list.to_map().map.get(s2)
kv.list.to_map().map.keys()
kv.list.to_map().map.values()
kv.list.to_map().map.len()
kv.list.to_map().map.entries()
kv.list.to_map().map.contains_key("b")
ar.arr.len()
ar.arr.sum()
ar.arr.min()
ar.arr.max()
ar.arr.mean()
ar.arr.median()
ar.arr.std()
ar.arr.var()
ar.arr.n_unique()
ar.arr.unique(maintain_order=True)
ar.arr.sort()
ar.arr.reverse()
ar.arr.shift(1)
ar.arr.arg_max()
ar.arr.arg_min()
ar.arr.first()
ar.arr.last()
ar.arr.get(1)
ar.arr.get(b - 1, null_on_oob=True)
ar.arr.contains(4)
ar.arr.count_matches(4)
ar.arr.dot(ar)
ar.arr.to_list()
ar.arr.to_struct(fields=["m", "n", "o"])
ar.arr.head(2)
ar.arr.tail(1)
ar.arr.slice(1, 1)
ar.arr.eval(element * 2)
ar.arr.agg(element.max())
ar.cast(pl.Array(pl.String, 3)).arr.join("-")
(ar.arr.eval(element > 1)).arr.any()
(ar.arr.eval(element > 1)).arr.all()
rec.struct.field("m")
rec.struct["w"]
rec.struct.field("m", "w")
rec.struct.json_encode()
rec.struct.rename_fields(["g", "h"])
rec.struct.with_fields(pl.field("m") + 1, z=a)
rec.struct.eval(pl.field("m") * 2)
rec.struct.drop(["m"])
rec.name.prefix_fields("z_")
rec.name.suffix_fields("_z")
raw.bin.contains(b"b")
raw.bin.starts_with(b"\\x01")
raw.bin.ends_with(b"\\x02")
raw.bin.encode("hex")
raw.bin.encode("base64")
raw.bin.encode("hex").str.decode("hex")
raw.bin.encode("hex").cast(pl.Binary).bin.decode("hex")
raw.bin.encode("base64").cast(pl.Binary).bin.decode("base64")
raw.bin.size()
raw.bin.size("kb")
raw.bin.head(2)
raw.bin.tail(2)
raw.bin.slice(1, 2)
raw.bin.get(1)
raw.bin.head(4).bin.reinterpret(dtype=pl.Int32)
en.cat.len_bytes()
en.cat.len_chars()
en.cat.starts_with("l")
en.cat.ends_with("i")
en.cat.slice(1)
en == "lo"
""".strip().splitlines()
}

if not hasattr(pl.Expr, "truncdiv"):  # new in Polars 2.1
    del ROW_WISE["a.truncdiv(b)"]

# What looks at other rows. Every one of these gives another result, another number of rows or an error where the
# same rows come in other batches.
CUT_DEPENDENT: dict[str, Callable[[], pl.Expr]] = {
    source: eval(f"lambda: {source}")
    for source in """
a.sum()
a.mean()
a - a.mean()
a > a.mean()
a.min()
a.max()
x.nan_max()
a.median()
a.quantile(0.5)
a.std()
a.var()
a.first()
a.last()
a.first(ignore_nulls=True)
a.len()
a.count()
pl.len()
pl.len() + a
a.n_unique()
a.approx_n_unique()
a.null_count()
a.product()
p.any()
p.all()
a.has_nulls()
a.arg_min()
a.arg_max()
a.min_by(b)
a.max_by(y)
a.skew()
a.kurtosis()
b.entropy()
pl.corr("a", "b")
pl.cov("a", "b")
a.bitwise_xor()
a.implode()
a.mode()
a.value_counts()
a.unique_counts()
a.hist(bin_count=3)
a.index_of(3)
b.sort().search_sorted(2)
a.sum().over("b")
a.rank().over("b")
pl.len().over("b")
a.shift()
a.shift(-1)
a.diff()
a.pct_change()
a.cum_sum()
a.cum_prod()
a.cum_min()
a.cum_max()
a.cum_count()
a.cumulative_eval(element.sum())
a.rolling_mean(3)
a.rolling_sum_by("tz", "30d")
a.sum().rolling("tz", period="30d")
pl.rolling_corr("a", "b", window_size=4)
y.ewm_mean(alpha=0.5)
y.ewm_std(alpha=0.5)
a.interpolate()
a.forward_fill()
a.backward_fill()
a.fill_null(strategy="forward", limit=1)
a.fill_null(strategy="mean")
a.fill_null(strategy="min")
a.fill_null(strategy="max")
p.rle()
a.rle_id()
a.peak_max()
a.peak_min()
a.rank()
a.sort()
a.sort_by("y")
a.arg_sort()
a.reverse()
a.head(3)
a.tail(3)
a.limit(3)
a.slice(1, 2)
a.gather([0])
a.get(0)
a.gather_every(2)
a.top_k(3)
a.bottom_k(3)
a.top_k_by("y", 2)
a.arg_unique()
(a > 1).arg_true()
pl.arg_where(a > 1)
pl.arg_sort_by("y")
y.qcut(2)
a.unique()
a.is_unique()
a.is_duplicated()
a.is_first_distinct()
a.is_last_distinct()
s.str.join("-")
pl.int_range(pl.len())
pl.row_index()
a.is_sorted()
a.dot(b)
a.fill_null(b.mean())
pl.when(a > a.median()).then(1).otherwise(0)
pl.struct("a", m=a.max())
rec.struct.with_fields(pl.field("m").sum())
pl.concat_list(a, b.max())
a.clip(a.quantile(0.2), a.quantile(0.8))
pl.coalesce(a, a.mean())
pl.max_horizontal("a", b.max())
a.is_between(b, a.mean() + 1)
s.str.contains(s2.first(), literal=True)
t - t.min()
t.dt.truncate("1h").first()
""".strip().splitlines()
}

# What cannot be shown by these rows, or is refused for another reason than its neighbours.
REFUSED: dict[str, tuple[Callable[[], pl.Expr], str]] = {
    source: (eval(f"lambda: {source}"), word)
    for source, _, word in (
        line.partition("  # ")
        for line in """
a.map_elements(lambda value: value, return_dtype=pl.Int64)  # map_batches
a.map_batches(lambda series: series)  # map_batches
pl.fold(0, lambda one, other: one + other, ["a", "b"])  # map_batches
pl.reduce(lambda one, other: one + other, ["a", "b"])  # map_batches
a.name.map(str.upper)  # map_batches
rec.name.map_fields(str.upper)  # map_batches
a.rolling_map(sum, 3)  # agg|map_batches
a.pipe_with_dtype(lambda expr, dtype: expr)  # map_batches
a.sample(3)  # hash
a.shuffle(3)  # hash
a.rank("random")  # rank
li.list.sample(1)  # hash
a.filter(b > 1)  # filter
a.append(b)  # filter
a.extend_constant(1, 2)  # filter
li.explode()  # filter
ar.arr.explode()  # filter
a.is_in(b.implode())  # lookup join
a.drop_nulls()  # filter
x.drop_nans()  # filter
pl.repeat(1, 24)  # filter
a.reshape((2, -1))  # filter
pl.date_range(dt.date(2024, 1, 1), dt.date(2024, 1, 24))  # filter
pl.linear_space(0, 1, 24)  # filter
a.set_sorted()  # neighbouring
pl.lit(pl.Series([1]))  # Series
pl.lit(pl.Series(range(24)))  # Series
a + pl.Series(range(24))  # Series
a.is_in(b)  # list
a.is_in(b + 1)  # lookup join
a.is_in(li.list.first())  # lookup join
(a + 1).is_in(li.list.sum()) | p  # lookup join
li.is_in(li2)  # lookup join
rec.struct.with_fields(z=a.is_in(b))  # lookup join
s.str.contains_any(ls)  # written out
s.str.replace(s2, "x")  # written out
s.str.replace_many(ls, ["x"])  # written out
li.list.count_matches(a)  # written out
a.is_in(a.unique().implode())  # lookup join
pl.col("day").str.to_date()  # format
pl.col("when").str.to_datetime()  # format
pl.col("clock").str.to_time()  # format
pl.col("when").str.strptime(pl.Datetime)  # format
s.cast(pl.Categorical)  # Enum
pl.lit("x", dtype=pl.Categorical)  # Enum
ls.cast(pl.List(pl.Categorical))  # Enum
a.cast(pl.dtype_of("x"))  # written out
en.to_physical()  # codes
en.cat.physical()  # codes
a.replace(b, a)  # written out
a.replace(b.implode(), [1])  # written out
y.bin_quantiles([0.5], labels=False)  # breaks
y.bin_ranks(2, labels=False)  # breaks
y.bin_intervals(2, labels=False)  # breaks
a.lower_bound()  # window
a.ewm_mean_by("tz", half_life="1d")  # window
a.interpolate_by("y")  # window
a.approx_quantile(0.5)  # window
""".strip().splitlines()
    )
}


def made(make: Callable[[], pl.Expr]) -> pl.Expr:
    """The expression, without the warnings that making some of them gives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return make()


def evaluated(expr: pl.Expr, cuts: list[int], rows: pl.DataFrame = FRAME) -> pl.DataFrame:
    """The expression beside a column of its frame, over the rows between cuts, one below the other."""
    ends = [0, *sorted(cuts), rows.height]
    pieces = [rows[start:end] for start, end in pairwise(ends)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return pl.concat([row_wise(piece, expr) for piece in pieces if piece.height])


def row_wise(rows: pl.DataFrame, expr: pl.Expr) -> pl.DataFrame:
    """A select that treats a single row as Polars treats many: see the note in plan/rowwise.py."""
    twice = [column.new_from_index(0, 2) for column in rows.get_columns()] if rows.height == 1 else []
    several = pl.DataFrame(twice) if twice else rows
    return several.select(pl.col("u").alias("_anchor"), expr).head(rows.height)


POLARS = tuple(int(part) for part in pl.__version__.split(".")[:2])
WRONG_TYPE_OVER_NO_ROWS = {
    "li.list.gather([0, 2], null_on_oob=True)",
    'li2.list.gather(pl.col("ix"))',
    "li.list.tail(b)",
}
CUTS = {
    "halves": [ROWS // 2],
    "single rows": list(range(1, ROWS)),
    "uneven": [1, 5, 6, 17],
}


@pytest.mark.parametrize("source", ROW_WISE)
def test_a_row_wise_expression_is_allowed_and_gives_the_same_for_every_cut(source):
    expr = made(ROW_WISE[source])
    check_row_wise(expr, verb="with_columns", schema=FRAME.schema)
    check_row_wise(expr, verb="with_columns")
    whole = evaluated(expr, [])
    assert whole.height == ROWS
    for cuts in CUTS.values():
        assert_frame_equal(evaluated(expr, cuts), whole, check_exact=True)


@pytest.mark.parametrize("source", ROW_WISE)
def test_a_row_wise_expression_has_its_type_also_over_no_rows(source):
    expr = made(ROW_WISE[source])
    if source in WRONG_TYPE_OVER_NO_ROWS and POLARS < (2, 1):
        pytest.xfail("Polars 2.0 forgets the type of the list's elements")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert row_wise(FRAME.clear(), expr).schema == row_wise(FRAME, expr).schema


@given(
    source=st.sampled_from(sorted(ROW_WISE)),
    picked=st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=6),
)
@settings(max_examples=examples(300), deadline=None)
def test_row_wise_expressions_give_the_same_for_random_rows_and_cuts(source, picked, cuts):
    rows = FRAME[picked]
    expr = made(ROW_WISE[source])
    whole = evaluated(expr, [], rows)
    cut = evaluated(expr, [min(at, rows.height) for at in cuts], rows)
    assert_frame_equal(cut, whole, check_exact=True)


@pytest.mark.parametrize("source", CUT_DEPENDENT)
def test_an_expression_that_looks_at_other_rows_is_refused_and_a_cut_would_show(source):
    expr = made(CUT_DEPENDENT[source])
    with pytest.raises(ExpressionRefused) as refusal:
        check_row_wise(expr, verb="with_columns", schema=FRAME.schema)
    assert str(refusal.value).startswith("with_columns: ")
    assert "agg(" in str(refusal.value) or "fill_null(value)" in str(refusal.value)
    assert any(shows_a_difference(expr, cuts) for cuts in CUTS.values())


def shows_a_difference(expr: pl.Expr, cuts: list[int]) -> bool:
    """Whether cutting changes what a select of the expression alone gives: rows, values, or an error."""

    def alone(bounds: list[int]) -> pl.DataFrame:
        ends = [0, *bounds, ROWS]
        pieces = [FRAME[start:end] for start, end in pairwise(ends)]
        return pl.concat([piece.select(expr.alias("result")) for piece in pieces])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        whole = alone([])
        try:
            return not alone(cuts).equals(whole, null_equal=True)
        except pl.exceptions.PolarsError:
            return True


@pytest.mark.parametrize("source", REFUSED)
def test_what_else_is_refused_says_what_to_use_instead(source):
    make, word = REFUSED[source]
    expr = made(make)
    with pytest.raises(ExpressionRefused, match=word):
        check_row_wise(expr, verb="filter", schema=FRAME.schema)


def test_every_allowed_kind_stands_in_the_table():
    kinds = {node.kind for make in ROW_WISE.values() for node in nodes(made(make)).walk()}
    # TruncDivide came with Polars 2.1, kinds of SQL's own with it.
    later = {"Operator.TruncDivide", "Sql.Binary", "Sql.Round", "Sql.ToFloat"}
    assert ALLOWED - kinds <= later
    if hasattr(pl.Expr, "truncdiv"):
        assert kinds >= ALLOWED


def test_a_one_row_frame_is_what_the_note_in_rowwise_says():
    """Should this fail, Polars divides alike at last, and doubling single rows can go."""
    floor = (pl.col("x") / 49).floor()
    assert pl.DataFrame({"x": [49.0]}).select(floor).item() == 1.0
    assert pl.DataFrame({"x": [49.0, 49.0]}).select(floor)["x"].to_list() == [0.0, 0.0]


def test_a_haystack_that_is_a_column_is_judged_once_the_schema_is_known():
    expr = a.is_in(pl.col("other"))
    check_row_wise(expr, verb="filter")
    check_row_wise(expr, verb="filter", schema=pl.Schema({"a": pl.Int64, "other": pl.List(pl.Int64)}))
    with pytest.raises(ExpressionRefused, match="must search a list"):
        check_row_wise(expr, verb="filter", schema=pl.Schema({"a": pl.Int64, "other": pl.Int64}))


@pytest.mark.parametrize(
    "expr",
    [
        a.max().over("window_start"),
        a == a.max().over("window_start"),
        (a - a.mean()).over("window_start", "s"),
        a.top_k(3).over("window_start", mapping_strategy="join"),
        a.filter(b > 1).sum().over("window_start"),
        a.rank().over("window_start", b),
        a.shift().over("window_start"),
        a.cum_sum().over("window_start", order_by="t"),
        a.sum().over("s", "window_start"),
        pl.len().over("window_start", mapping_strategy="group_to_rows"),
        pl.when(a.is_first_distinct().over("window_start")).then(b).otherwise(0),
    ],
)
def test_over_the_window_sees_the_whole_window(expr):
    check_row_wise(expr, verb="filter", over="window_start")
    with pytest.raises(ExpressionRefused, match="window"):
        check_row_wise(expr, verb="filter")


@pytest.mark.parametrize(
    ("expr", "word"),
    [
        (a.max().over("s"), 'add "window_start"'),
        (a.max().over(pl.col("window_start").dt.date()), 'add "window_start"'),
        (a.max(), r'\.over\("window_start"\)'),
        (a.max().over("window_start") + a.sum(), r'\.over\("window_start"\)'),
        (a.shuffle(1).over("window_start"), "hash"),
        (a.sort().over("window_start", mapping_strategy="explode"), "leave it out"),
        (a.head(3).over("window_start"), "reduce it to one value"),
        (a.filter(b > 1).over("window_start"), "reduce it to one value"),
        (a.is_in(b).over("s"), 'add "window_start"'),
        (a.mode().first().over("window_start"), "maintain_order=True"),
        (a.sum().over("window_start", b.rank()), "rank"),
        (a.map_elements(lambda value: value, return_dtype=pl.Int64).over("window_start"), "map_batches"),
    ],
)
def test_over_something_else_or_something_unrepeatable_is_refused(expr, word):
    with pytest.raises(ExpressionRefused, match=word):
        check_row_wise(expr, verb="filter", over="window_start")


@pytest.mark.parametrize(
    "expr",
    [
        pl.len(),
        a.mean(),
        a.sort().head(3),
        a,
        a.rank(),
        a.unique().len(),
        a.sort_by("t").first(),
        a.mode(maintain_order=True),
    ],
)
def test_an_aggregate_may_be_anything_that_can_be_repeated(expr):
    check_aggregate(expr, verb="agg(x=...)")


@pytest.mark.parametrize(
    ("expr", "word"),
    [
        (a.sample(1).first(), "hash"),
        (a.shuffle(), "hash"),
        (a.rank("random"), "ordinal"),
        (a.rolling_map(sum, 3), "map_batches"),
        (a.map_elements(lambda value: value, return_dtype=pl.Int64).sum(), "map_batches"),
        (
            pl.map_groups(["a"], lambda columns: columns[0], return_dtype=pl.Int64, returns_scalar=True),
            "map_batches",
        ),
    ],
)
def test_an_aggregate_that_cannot_be_repeated_is_refused(expr, word):
    with pytest.raises(ExpressionRefused, match=word):
        check_aggregate(expr, verb="agg(x=...)")


def test_what_is_not_an_expression_is_refused_in_words():
    with pytest.raises(ExpressionRefused, match="expected a Polars expression, got str"):
        check_row_wise("a", verb="filter")


def test_an_expression_nested_a_thousand_deep_is_refused_or_judged_but_never_ends_the_process():
    deep = a
    for _ in range(1000):
        deep = deep + 1
    with pytest.raises(ExpressionRefused, match="nested too deeply"):
        check_row_wise(deep, verb="select")

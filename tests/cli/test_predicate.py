"""``consume --where``: the rows that DuckDB finds for the same SQL, and nothing that looks further than its row."""

from __future__ import annotations

import datetime as dt
import random
from decimal import Decimal

import click
import duckdb
import polars as pl
import pytest

import mamba_stream as mamba
from mamba_stream.cli import predicate
from mamba_stream.core.predicates import check, decode, encode, split

ROWS = pl.DataFrame(
    {
        "n": list(range(40)),
        "m": [None if i % 5 == 0 else i - 20 for i in range(40)],
        "x": [None if i % 7 == 0 else i * 1.5 - 7 for i in range(40)],
        "s": [None if i % 6 == 0 else f"{'aAbB'[i % 4]}b{i % 3} " for i in range(40)],
        "b": [None if i % 3 == 0 else i % 2 == 0 for i in range(40)],
        "ts": [dt.datetime(2026, 1, 1) + dt.timedelta(hours=9 * i) for i in range(40)],
        "day": [dt.date(2026, 1, 1 + i // 2) for i in range(40)],
        "clock": [dt.time(i // 2, 30) for i in range(40)],
        "price": [Decimal(i) / 4 for i in range(40)],
    },
    schema_overrides={"price": pl.Decimal(12, 2)},
)

# What is True, False or NULL for each row.
PREDICATES = """
n + 1 > 15; n - m = 20; n * 2 >= 30; n / 4 = 1.5; n % 3 = 0; n // 4 = 3; -n < -30; - (n + m) > 3; +m > 2
n > 3 AND m < 5 OR NOT b; NOT (n > 3); n BETWEEN 3 AND 5; m NOT BETWEEN -10 AND 10; n IN (1, 2, 77)
n + 1 IN (3, 4); m NOT IN (1, 2, 3); m IN (1, NULL); m NOT IN (1, NULL); m IS NULL; m IS NOT NULL AND n > 30
s LIKE 'a%1 '; s LIKE '_b_%'; s NOT LIKE '%1 '; s ILIKE 'AB%'; s = 'ab1 ' OR s < 'B'; s || 'x' = 'ab1 x'
COALESCE(m, 0) = 0; COALESCE(m, n) > 30; IFNULL(x, 0.5) = 0.5; NULLIF(n, 3) IS NULL
CAST(n AS DOUBLE) = 3.0; CAST(n AS VARCHAR) = '3'; n::varchar LIKE '1%'; TRY_CAST(s AS INT) IS NULL
ABS(m) > 18; ROUND(x) = 2; ROUND(x, 1) = 6.5; CEIL(x) = 5; FLOOR(x) = 2; SIGN(m) = -1; SQRT(n) = 3; POWER(n, 2) = 49
EXP(n) > 1000000; LN(n + 1) > 3; GREATEST(n, m) = 25; LEAST(n, m) < -10; MOD(n, 7) = 3
LOWER(s) = 'ab1 '; UPPER(s) = 'AB1 '; LENGTH(s) = 4; LENGTH(TRIM(s)) = 3; LEFT(s, 1) = 'A'; RIGHT(s, 2) = '2 '
SUBSTR(s, 3, 1) = '2'; SUBSTRING(s FROM 3 FOR 1) = '1'; REPLACE(s, 'b', '') = 'A1 '; REVERSE(s) = ' 1ba'
CONCAT(s, 'x') = 'ab1 x'; STRPOS(s, 'b') = 1; STARTS_WITH(s, 'Ab')
ts > '2026-01-10'; ts >= '2026-01-05T12:00:00'; ts < '2026-01-03 09:00:00'; '2026-01-10' < ts; ts = '2026-01-01'
ts BETWEEN '2026-01-05' AND '2026-01-07'; ts NOT BETWEEN '2026-01-02' AND '2026-01-15'; ts > DATE '2026-01-12'
ts >= TIMESTAMP '2026-01-05 00:00:00'; ts >= CAST('2026-01-05 00:00:00' AS TIMESTAMP); ts IN ('2026-01-01', '2026-01-04')
ts NOT IN ('2026-01-01', NULL); ts + INTERVAL '1 day' > '2026-01-14'; ts::date = '2026-01-05'
EXTRACT(DAY FROM ts) = 5; DATE_PART('month', ts) = 1 AND EXTRACT(HOUR FROM ts) = 9; YEAR(ts) = 2026 AND DAY(day) < 3
day > '2026-01-15'; day = DATE '2026-01-15'; day BETWEEN '2026-01-03' AND '2026-01-04'; day IN ('2026-01-03')
day IN (DATE '2026-01-03', DATE '2026-01-09'); NOT (day <> '2026-01-03'); CASE day WHEN '2026-01-03' THEN true END
clock > '12:00:00'; clock BETWEEN '03:00:00' AND '05:00:00'; clock = TIME '07:30:00'
COALESCE(ts, '2026-01-03') > '2026-01-13'; CASE WHEN ts > '2026-01-10' THEN m > 0 ELSE n > 3 END
b; NOT b; b IS TRUE; b IS NOT TRUE; b IS FALSE; b IS NOT FALSE; b = true; m + NULL IS NULL; 1 = 1; n <> 3; n != 3
CASE WHEN n > 5 THEN m > 0 ELSE true END; CASE n WHEN 3 THEN true ELSE false END; n IS DISTINCT FROM m
m IS NOT DISTINCT FROM NULL; price = 1.5; price + 1 > 9.25; price * 2 BETWEEN 3 AND 4; "n" = 3; n & 1 = 1; n | 1 = 3
s = 'select' OR n = 3; s <> 'it''s (select' AND n < 5; s <> '-- x' AND n < 4; ((n)) = ((3)); n = 3 -- and no more
"""
ALL = [text.strip() for line in PREDICATES.strip().splitlines() for text in line.split("; ")]


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("predicates") / "log"
    with mamba.open(path) as opened:
        topic = opened.create_topic("t", ROWS)
        for piece in ROWS.iter_slices(9):
            topic.append(piece)
        opened.create_topic(
            "zoned",
            {"n": pl.Int64, "utc": pl.Datetime("ms", "UTC"), "berlin": pl.Datetime("ns", "Europe/Berlin")},
        ).append(
            [
                {"n": i, "utc": moment, "berlin": moment}
                for i in range(10)
                for moment in [dt.datetime(2026, 7, 1, i, tzinfo=dt.UTC)]
            ]
        )
    return path


@pytest.fixture(scope="module")
def by_duckdb():
    with duckdb.connect() as db:
        db.register("t", ROWS.to_arrow())
        yield lambda where: [n for (n,) in db.sql(f"SELECT n FROM t WHERE {where}\nORDER BY n").fetchall()]


def found(run_command, log, where, topic="t"):
    done = run_command("consume", topic, "--columns", "n", "-o", "json", "--log", log, "--where", where)
    assert (done.code, done.err) == (0, ""), where
    return [row["n"] for row in done.rows]


def test_predicates_find_the_rows_that_duckdb_finds(run_command, log, by_duckdb):
    assert len(ALL) > 110
    wrong = {}
    for where in ALL:
        ours, theirs = found(run_command, log, where), by_duckdb(where)
        if ours != theirs:
            wrong[where] = (ours, theirs)
    assert wrong == {}


def test_predicates_put_together_find_the_rows_that_duckdb_finds(run_command, log, by_duckdb):
    choose = random.Random(20260131)
    # Polars has b IS TRUE for b = TRUE, and a place of 0 in no text: NULL beside false is lost or made there.
    parts = [
        where for where in ALL if not any(odd in where for odd in ("--", "IS TRUE", "IS FALSE", "STRPOS"))
    ]
    wrong = {}
    for _ in range(60):
        one, two, three = (f"({choose.choice(parts)})" for _ in range(3))
        where = f"{choose.choice(['', 'NOT '])}{one} {choose.choice(['AND', 'OR'])} {two}"
        where = choose.choice([where, f"({where}) {choose.choice(['AND', 'OR'])} NOT {three}"])
        ours, theirs = found(run_command, log, where), by_duckdb(where)
        if ours != theirs:
            wrong[where] = (ours, theirs)
    assert wrong == {}


@pytest.mark.parametrize("column", ["utc", "berlin"])
@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("> '2026-07-01T07:00:00'", [8, 9]),
        ("> '2026-07-01T07:00:00Z'", [8, 9]),
        (">= '2026-07-01T09:00:00+02:00'", [7, 8, 9]),
        ("> TIMESTAMP '2026-07-01 07:00:00'", [8, 9]),
        ("IN ('2026-07-01T07:00:00Z', '2026-07-01 03:00')", [3, 7]),
        ("= DATE '2026-07-01'", [0]),
        ("BETWEEN '2026-07-01T02:00:00' AND '2026-07-01T03:00:00'", [2, 3]),
    ],
)
def test_a_time_without_a_zone_is_utc(run_command, log, column, condition, rows):
    assert found(run_command, log, f"{column} {condition}", topic="zoned") == rows


@pytest.mark.parametrize(
    "where",
    [
        *("SUM(n) > 3", "AVG(n) < n", "COUNT(*) > 3", "MAX(n) = n", "MIN(m) = n", "MEDIAN(n) > n", "STDDEV(n) > 1"),
        *("FIRST(n) = n", "QUANTILE_CONT(n, 0.5) > n", "n > ALL([1, 2])", "ARRAY_AGG(n) IS NULL", "n > 3 AND SUM(n) > 3"),
        *("LAG(n) OVER (ORDER BY n) = 3", "ROW_NUMBER() OVER () = 3", "RANK() OVER (ORDER BY n) = 3"),
        *("SUM(n) OVER (PARTITION BY s) > 3", "STRING_AGG(s, ',') = ''", "COLUMNS('n') > 3"),
        *("n IN (SELECT n FROM t)", "n IN (SELECT 1)", "EXISTS (SELECT 1)", "n > (SELECT AVG(n) FROM t)"),
        *("n IN (VALUES (1))", "n IN (TABLE t)", "n IN (WITH a AS (SELECT 1) SELECT * FROM a)", "SELECT n"),
    ],
)  # fmt: skip
def test_what_looks_beyond_its_row_is_refused_with_what_there_is(run_command, log, where):
    done = run_command("consume", "t", "--log", log, "--where", where)
    assert (done.code, done.out) == (2, "")
    assert "Error: --where: " in done.err
    assert "asked of each row by itself" in done.err and "BETWEEN, IN (values)" in done.err


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("ts > 'yesterday'", "'yesterday' is no time"),
        ("ts > '2026-01-01T00:00:00.123456789'", "to the microsecond"),
        ("s = 5", "cannot compare string with numeric"),
        ("n + s", ""),
        ("n + 1", "not true or false"),
        ("NULL", "not true or false"),
        ("n > 3; DROP TABLE t", "unexpected token"),
        ("n > 3 LIMIT 3", "LIMIT"),
        ("RANDOM() > 0.5", "unsupported function"),
        ("(n = 1) XOR (n = 2)", "for XOR write"),
        (" OR ".join(f"n = {i}" for i in range(20_000)), "too long"),
        (" OR ".join(f"n = {i}" for i in range(990)), "nested too deeply"),
        ("(" * 500 + "n = 1" + ")" * 500, "--where"),
        ("", "--where"),
    ],
)
def test_what_is_no_predicate_is_refused_in_words(run_command, log, where, said):
    done = run_command("consume", "t", "--log", log, "--where", where)
    assert (done.code, done.out) == (2, "")
    assert said in done.err and "Traceback" not in done.err


def test_many_values_are_no_nesting(run_command, log):
    values = ", ".join(str(value) for value in range(5, 50_000))
    assert found(run_command, log, f"n IN ({values})") == list(range(5, 40))


def test_a_value_that_cannot_be_converted_fails_in_words(run_command, log):
    done = run_command("consume", "t", "--log", log, "--where", "CAST(s AS INT) = 1")
    assert (done.code, done.out) == (1, "")
    assert "TRY_CAST" in done.err


@pytest.mark.parametrize(
    "where",
    [
        "n IN (SELECT * FROM read_csv('{}'))",
        "EXISTS (SELECT 1 FROM read_csv('{}'))",
        "n IN (FROM read_csv('{}'))",
        "n > ALL(select * from read_csv('{}'))",
        "n = /* ' */ (SELECT 1 FROM read_csv('{}')) -- '",
        "s = E'\\' OR n IN (SELECT * FROM read_csv('{}')) OR s = '",
        "s = $$'$$ OR n IN (SELECT * FROM read_csv('{}')) OR s = $$'$$",
        "s = `'` OR n IN (SELECT * FROM read_csv('{}')) OR s = `'`",
    ],
)
def test_no_file_is_read_for_a_predicate(run_command, log, tmp_path, monkeypatch, where):
    file = tmp_path / "secret.csv"
    file.write_text("n\n1\n")
    parsed = []
    real = pl.sql_expr
    monkeypatch.setattr(pl, "sql_expr", lambda text: parsed.append(text) or real(text))
    done = run_command("consume", "t", "--log", log, "--where", where.format(file))
    assert (done.code, done.out) == (2, "")
    assert parsed == [], "Polars reads files while it parses"


def test_whatever_is_let_through_to_the_parser_reads_no_file():
    pieces = (
        "SELECT FROM read_csv('/nope') READ_PARQUET('/nope') ( ) ( ) TABLE VALUES WITH IN EXISTS = ' '' \" ` -- /* */"
        " \\ $$ E' N' # [ ] , ANY ALL UNION NOT n 1"
    ).split(" ")
    whole = ["n IN (SELECT * FROM read_csv('/nope'))", "n IN (FROM read_csv('/nope'))", "EXISTS (TABLE t)"]
    choose = random.Random(20260131)
    passed = 0
    for _ in range(4_000):
        text = choose.choice(whole)
        for _ in range(choose.randint(0, 6)):
            at = choose.randrange(len(text) + 1)
            text = text[:at] + choose.choice(["", " ", "\n"]) + choose.choice(pieces) + " " + text[at:]
        try:
            predicate._look_at(text)
        except click.UsageError:
            continue
        passed += 1
        try:
            result = pl.sql_expr(text).meta.serialize(format="json")
        except pl.exceptions.PolarsError:
            continue
        assert "SubPlan" not in result, text
    assert passed > 100


@pytest.mark.parametrize(
    "where",
    [
        "n > 3 AND s IN ('ab1 ', 'bb2 ')",
        "m NOT IN (1, 2)",
        "ts >= '2026-01-05T12:00:00' AND n BETWEEN 3 AND 30",
        "day IN ('2026-01-03')",
        "s LIKE 'a%' OR s LIKE '_b%'",
    ],
)
def test_a_predicate_can_travel_to_where_the_rows_are(log, where):
    with mamba.open(log) as opened:
        asked, _ = predicate.predicate(where, opened["t"])
        travelling, rest = split(asked, opened["t"].polars_schema)
    assert rest is None
    question = check(decode(encode(travelling)), ROWS.schema)
    assert question.kept(ROWS).equals(ROWS.filter(asked))
    assert 0 < question.kept(ROWS).height < ROWS.height

"""What can be read off an expression: its tree, columns, name and fingerprint."""

from __future__ import annotations

import subprocess
import sys

import polars as pl
import polars.selectors as cs
import pytest

from mamba_stream.core.trees import columns, fingerprint, has_selector, nodes, tree
from mamba_stream.errors import ExpressionRefused

SCHEMA = pl.Schema({"a": pl.Int64, "b": pl.Float64, "s": pl.String, "li": pl.List(pl.Int64)})
a, b, s = pl.col("a"), pl.col("b"), pl.col("s")


def test_the_tree_is_polars_own_json():
    assert tree(a + 1) == {
        "BinaryExpr": {"left": {"Column": "a"}, "op": "Plus", "right": {"Literal": {"Dyn": {"Int": 1}}}}
    }
    assert tree(pl.len()) == "Len"


def test_nodes_have_one_shape_whatever_polars_writes():
    root = nodes(pl.when(a.is_in([1])).then(b.sum()).otherwise(pl.len()).alias("x"))
    assert [node.kind for node in root.walk()] == [
        "Alias",
        "Ternary",
        "Boolean.IsIn",
        "Column",
        "Literal",
        "Agg.Sum",
        "Column",
        "Len",
    ]


@pytest.mark.parametrize(
    ("expr", "names"),
    [
        (a, {"a"}),
        (a + b * 2, {"a", "b"}),
        (a.filter(b > 1).sum().over("s"), {"a", "b", "s"}),
        (pl.when(a > 1).then(b).otherwise(pl.lit("x")), {"a", "b"}),
        (pl.len(), set()),
        (pl.lit("a"), set()),
        (pl.col("a", "b"), {"a", "b"}),
        (pl.col("li").list.filter(pl.element() > 1), {"li"}),
        (pl.col("st").struct.with_fields(pl.field("a") + b), {"st", "b"}),
        (a.sort_by("b").gather(s.arg_max()), {"a", "b", "s"}),
        (a.sum().rolling("s", period="1d"), {"a", "s"}),
        (a.rolling_mean_by("s", "1d"), {"a", "s"}),
        (a.is_in(b.implode()), {"a", "b"}),
    ],
    ids=lambda value: ",".join(sorted(value)) if isinstance(value, set) else str(value),
)
def test_columns_are_those_that_are_read(expr, names):
    assert columns(expr) == names


@pytest.mark.parametrize(
    ("expr", "names"),
    [
        (pl.all(), {"a", "b", "s", "li"}),
        (cs.by_name("a") | cs.by_name("s"), {"a", "s"}),
        (cs.by_name("a", "b") & cs.by_name("b"), {"b"}),
        (pl.col("^a$").sum() + s.len(), set(SCHEMA)),
    ],
)
def test_columns_of_selectors_are_at_least_those_that_are_read(expr, names):
    assert columns(expr, SCHEMA) == names
    assert has_selector(expr)


@pytest.mark.parametrize(
    "selector",
    [
        cs.numeric(),
        cs.exclude("a"),
        ~cs.string(),
        cs.starts_with("l"),
        cs.first(),
        cs.all() - cs.by_name("b"),
    ],
)
def test_columns_of_a_selector_include_what_polars_picks(selector):
    assert columns(selector, SCHEMA) >= set(cs.expand_selector(SCHEMA, selector))


def test_fingerprints_are_equal_for_equal_expressions_only():
    different = [
        a,
        b,
        a + 1,
        a + 2,
        a + 1.0,
        1 + a,
        a.sum(),
        a.alias("x"),
        a.clip(float("nan"), 1),
        a.clip(float("inf"), 1),
        a.clip(float("-inf"), 1),
        a.var(ddof=0),
        a.var(),
        a.fill_null(pl.lit(None)),
        a.is_in([1, 2]),
        a.is_in([1, 3]),
    ]
    prints = [fingerprint(expr) for expr in different]
    assert len(set(prints)) == len(different)
    assert fingerprint((pl.col("a") + 1) * 2) == fingerprint((a + 1) * 2)


def test_a_fingerprint_is_the_same_in_another_process():
    source = "import polars as pl; from mamba_stream.core.trees import fingerprint;"
    source += (
        "print(fingerprint(pl.col('a').filter(pl.col('s').is_in(['x', 'y'])).clip(float('nan'), 2).mean()))"
    )
    there = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert there == fingerprint(a.filter(s.is_in(["x", "y"])).clip(float("nan"), 2).mean())


def test_a_python_function_is_refused_in_words():
    try:
        tree(a.map_elements(lambda value: value, return_dtype=pl.Int64))
    except ExpressionRefused as refusal:
        assert "map_batches(fn, schema=...)" in str(refusal)

"""A node written anew over its own inputs is the same node; what is not understood says so."""

from __future__ import annotations

import polars as pl
import pytest

from mamba_stream.core.trees import NotUnderstood, inputs, nodes
from mamba_stream.plan.rebuild import rebuild

a, b, t = pl.col("a"), pl.col("b"), pl.col("t")


@pytest.mark.parametrize(
    "expr",
    [
        a + b,
        a - b,
        a * b,
        a / b,
        a // b,
        a % b,
        a**b,
        a == b,
        a != b,
        a < b,
        a <= b,
        a > b,
        a >= b,
        a & b,
        a | b,
        a ^ b,
        a.eq_missing(b),
        a.ne_missing(b),
        -a,
        ~a,
        a.cast(pl.Int8),
        a.cast(pl.Float32, strict=False),
        a.cast(pl.Int8, wrap_numerical=True),
        a.cast(pl.Decimal(10, 2)),
        a.cast(pl.Datetime("ms", "Europe/Berlin")),
        a.cast(pl.Duration("ns")),
        pl.when(a).then(b).otherwise(t),
        a.is_between(b, t, closed="left"),
        pl.all_horizontal(a, b),
        pl.any_horizontal(a, b),
        pl.min_horizontal(a, b),
        pl.max_horizontal(a, b),
        pl.sum_horizontal(a, b, ignore_nulls=False),
        pl.mean_horizontal(a, b),
        a.clip(b, t),
        a.clip(b),
        a.clip(upper_bound=b),
        pl.coalesce(a, b, t),
        a.fill_null(b),
        a.round(2),
        a.round(mode="half_away_from_zero"),
        a.round_sig_figs(3),
        a.truncate(1),
        a.floor(),
        a.ceil(),
        a.abs(),
        a.sign(),
        a.sqrt(),
        a.cbrt(),
        a.exp(),
        a.log(b),
        a.log1p(),
        a.is_null(),
        a.is_not_null(),
        a.is_nan(),
        a.is_finite(),
        a.sin(),
        a.degrees(),
        t.dt.hour(),
        t.dt.date(),
        t.dt.truncate("1h"),
        t.dt.offset_by("1d"),
        t.dt.total_minutes(),
        t.dt.total_seconds(fractional=True),
        a.str.len_chars(),
        a.str.to_uppercase(),
    ],
)
def test_a_node_over_other_inputs_is_the_same_function_of_them(expr):
    node = nodes(expr)
    own = inputs(expr, node)
    assert nodes(rebuild(node, own, own)) == node
    other = [pl.col(f"other{n}") for n in range(len(own))]
    again = nodes(rebuild(node, own, other))
    assert (again.kind, again.params) == (node.kind, node.params)
    assert [child.params for child in again.children] == [f"other{n}" for n in range(len(own))]


@pytest.mark.parametrize(
    "expr",
    [
        a.hash(),
        a.sum(),
        a.shift(),
        a.is_in([1]),
        a.cast(pl.List(pl.Int8)),
        a.str.replace("x", "y"),
        a.reverse(),
        a.list.sort(),
    ],
)
def test_what_is_not_understood_is_not_rebuilt(expr):
    node = nodes(expr)
    own = inputs(expr, node)
    with pytest.raises(NotUnderstood):
        rebuild(node, own, own)


def test_inputs_come_in_the_order_in_which_they_are_written():
    for expr, names in [
        (a - b, "ab"),
        (pl.when(a).then(b).otherwise(t), "abt"),
        (a.filter(b), "ab"),
        (pl.coalesce(a, b, t), "abt"),
        (a.clip(b, t), "abt"),
        (a.quantile(b), "ab"),
    ]:
        assert "".join(nodes(one).params for one in inputs(expr, nodes(expr))) == names
    with pytest.raises(NotUnderstood):
        inputs(a.sort_by("b", "t"), nodes(a.sort_by("b", "t")))

"""What the Nexmark queries are held against: each as batch Polars over finished tables, as an expert would write it."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

Query = Callable[[pl.LazyFrame, pl.LazyFrame, pl.LazyFrame, pl.LazyFrame], pl.LazyFrame]
"""Takes persons, auctions, bids and the side input."""

_BANDS = {
    "total": pl.lit(value=True),
    "rank1": pl.col("price") < 10_000,
    "rank2": (pl.col("price") >= 10_000) & (pl.col("price") < 1_000_000),
    "rank3": pl.col("price") >= 1_000_000,
}
_COUNTS = [
    band.sum().cast(pl.Int64).alias(f"{name}_bids") for name, band in _BANDS.items() if name != "total"
]
_DISTINCT = [
    (pl.col(column) if name == "total" else pl.col(column).filter(band))
    .n_unique()
    .cast(pl.Int64)
    .alias(f"{name}_{column}s")
    for column in ("bidder", "auction")
    for name, band in _BANDS.items()
]
_TOTAL = pl.len().cast(pl.Int64).alias("total_bids")
_DAY = pl.col("dateTime").dt.date()
_EURO = 0.908 * pl.col("price")


def q0(person, auction, bid, side_input):
    return bid.select("auction", "bidder", "price", "dateTime", "extra")


def q1(person, auction, bid, side_input):
    return bid.select("auction", "bidder", _EURO.alias("price"), "dateTime", "extra")


def q2(person, auction, bid, side_input):
    return bid.filter(pl.col("auction") % 123 == 0).select("auction", "price")


def q3(person, auction, bid, side_input):
    sellers = person.filter(pl.col("state").is_in(["OR", "ID", "CA"])).select("id", "name", "city", "state")
    wanted = auction.filter(pl.col("category") == 10).select("id", "seller")
    return wanted.join(sellers, left_on="seller", right_on="id").select("name", "city", "state", "id")


def q4(person, auction, bid, side_input):
    auctions = auction.select("id", "category", "expires", begin="dateTime")
    return (
        bid.select("auction", "price", "dateTime")
        .join(auctions, left_on="auction", right_on="id")
        .filter(pl.col("dateTime").is_between("begin", "expires"))
        .group_by("auction")
        .agg(pl.col("category").first(), pl.col("price").max())
        .group_by(id="category")
        .agg(final=pl.col("price").sum() // pl.len())
    )


def q5(person, auction, bid, side_input):
    panes = bid.group_by("auction", pane=pl.col("dateTime").dt.truncate("2s")).agg(
        num=pl.len().cast(pl.Int64)
    )
    hops = [panes.with_columns(starttime=pl.col("pane") - pl.duration(seconds=2 * back)) for back in range(5)]
    return (
        pl.concat(hops)
        .group_by("auction", "starttime")
        .agg(pl.col("num").sum())
        .filter(pl.col("num") == pl.col("num").max().over("starttime"))
        .select("auction", "num", "starttime", endtime=pl.col("starttime") + pl.duration(seconds=10))
    )


def q7(person, auction, bid, side_input):
    ends = pl.col("dateTime").dt.truncate("10s") + pl.duration(seconds=10)
    highest = bid.group_by(end=ends).agg(pl.col("price").max())
    rows = bid.select("auction", "bidder", "price", "dateTime", "extra")
    within = pl.col("dateTime").is_between(pl.col("end") - pl.duration(seconds=10), pl.col("end"))
    return rows.join(highest, on="price").filter(within).drop("end")


def q8(person, auction, bid, side_input):
    stime = pl.col("dateTime").dt.truncate("10s")
    sellers = auction.select(id="seller", stime=stime)
    return person.select("id", "name", stime=stime).join(sellers, on=["id", "stime"], how="semi").unique()


def q9(person, auction, bid, side_input):
    auctions = auction.drop("seq")
    bids = bid.select("seq", "auction", "bidder", "price", bid_dateTime="dateTime", bid_extra="extra")
    times = auction.select("id", "dateTime", "expires")
    winners = (
        bids.select("seq", "auction", "price", "bid_dateTime")
        .join(times, left_on="auction", right_on="id")
        .filter(pl.col("bid_dateTime").is_between("dateTime", "expires"))
        .group_by("auction")
        .agg(pl.col("seq").sort_by("price", "bid_dateTime", "seq", descending=[True, False, False]).first())
    )
    won = bids.join(winners.select("seq"), on="seq", how="semi")
    return auctions.join(won.drop("seq"), left_on="id", right_on="auction", coalesce=False)


def q11(person, auction, bid, side_input):
    gap, one = pl.duration(seconds=10), pl.col("bidder")
    fresh = (one != one.shift()) | (pl.col("dateTime") - pl.col("dateTime").shift() > gap)
    return (
        bid.select("bidder", "dateTime")
        .sort("bidder", "dateTime")
        .with_columns(session=fresh.fill_null(value=True).cum_sum())
        .group_by("session")
        .agg(
            pl.col("bidder").first(),
            bid_count=pl.len().cast(pl.Int64),
            starttime=pl.col("dateTime").min(),
            endtime=pl.col("dateTime").max() + gap,
        )
        .drop("session")
    )


def q12(person, auction, bid, side_input):
    return (
        bid.group_by("bidder", starttime=pl.col("dateTime").dt.truncate("10s"))
        .agg(bid_count=pl.len().cast(pl.Int64))
        .with_columns(endtime=pl.col("starttime") + pl.duration(seconds=10))
    )


def q13(person, auction, bid, side_input):
    rows = bid.select("auction", "bidder", "price", "dateTime", key=pl.col("auction") % 10_000)
    return rows.join(side_input, on="key").drop("key")


def q14(person, auction, bid, side_input):
    hour = pl.col("dateTime").dt.hour()
    time_type = (
        pl.when(hour.is_between(8, 18))
        .then(pl.lit("dayTime"))
        .when((hour <= 6) | (hour >= 20))
        .then(pl.lit("nightTime"))
        .otherwise(pl.lit("otherTime"))
    )
    return bid.filter(_EURO.is_between(1_000_000, 50_000_000, closed="none")).select(
        "auction",
        "bidder",
        _EURO.alias("price"),
        time_type.alias("bidTimeType"),
        "dateTime",
        "extra",
        c_counts=pl.col("extra").str.count_matches("c", literal=True).cast(pl.Int64),
    )


def q15(person, auction, bid, side_input):
    return _with_day(bid.group_by(day=_DAY).agg(_TOTAL, *_COUNTS, *_DISTINCT))


def q16(person, auction, bid, side_input):
    latest = pl.col("dateTime").max().alias("minute")
    grouped = bid.group_by("channel", day=_DAY).agg(latest, _TOTAL, *_COUNTS, *_DISTINCT)
    return _with_day(grouped).with_columns(pl.col("minute").dt.to_string("%H:%M"))


def q17(person, auction, bid, side_input):
    price = pl.col("price")
    return _with_day(
        bid.group_by("auction", day=_DAY).agg(
            _TOTAL,
            *_COUNTS,
            min_price=price.min(),
            max_price=price.max(),
            avg_price=price.sum() // pl.len(),
            sum_price=price.sum(),
        )
    )


def q18(person, auction, bid, side_input):
    return (
        bid.sort("dateTime", "seq")
        .unique(["bidder", "auction"], keep="last")
        .select("auction", "bidder", "price", "channel", "url", "dateTime", "extra")
    )


def q19(person, auction, bid, side_input):
    ranked = pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over("auction").alias("rank_number")
    best = (
        bid.select("seq", "auction", "price")
        .sort("auction", "price", "seq", descending=[False, True, False])
        .select("seq", ranked)
        .filter(pl.col("rank_number") <= 10)
    )
    return bid.join(best, on="seq").drop("seq")


def q20(person, auction, bid, side_input):
    wanted = (
        auction.filter(pl.col("category") == 10)
        .drop("seq")
        .rename({"dateTime": "auction_dateTime", "extra": "auction_extra"})
    )
    bids = bid.drop("seq").rename({"dateTime": "bid_dateTime", "extra": "bid_extra"})
    return bids.join(wanted, left_on="auction", right_on="id")


def q21(person, auction, bid, side_input):
    known = {"apple": "0", "google": "1", "facebook": "2", "baidu": "3"}
    lower = pl.col("channel").str.to_lowercase()
    told = pl.col("url").str.extract(r"(?:&|^)channel_id=([^&]*)", 1)
    number = lower.replace_strict(known, default=None, return_dtype=pl.String)
    return bid.select("auction", "bidder", "price", "channel", channel_id=pl.coalesce(number, told)).filter(
        pl.col("channel_id").is_not_null()
    )


def q22(person, auction, bid, side_input):
    parts = pl.col("url").str.split("/")
    directories = {f"dir{number}": parts.list.get(number + 2, null_on_oob=True) for number in (1, 2, 3)}
    return bid.select("auction", "bidder", "price", "channel", **directories)


def _with_day(grouped: pl.LazyFrame) -> pl.LazyFrame:
    """Days as the standard writes them, once for each group instead of once for each row."""
    return grouped.with_columns(pl.col("day").dt.to_string("%Y-%m-%d"))


QUERIES: dict[str, Query] = {
    query.__name__: query
    for query in (
        q0, q1, q2, q3, q4, q5, q7, q8, q9, q11, q12, q13, q14, q15, q16, q17, q18, q19, q20, q21, q22,
    )
}  # fmt: skip

"""The queries of Nexmark, each a function of the streams of persons, auctions and bids and of a bounded side input.

Windows go by event time. Their results are final: a window's rows come out once no more rows can come for it. Totals
and best rows change with every bid (q4, q9, q18, q19): what they amount to in the end is the result.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

import mamba_stream as mamba

Query = Callable[[mamba.Stream, mamba.Stream, mamba.Stream, pl.DataFrame], mamba.Stream]

_EURO = 0.908 * pl.col("price")
_OPEN = ("0s", pl.col("expires") - pl.col("dateTime"))
"""From when an auction opens until it expires, both included."""
_BID = {
    "auction": pl.Int64(),
    "bidder": pl.Int64(),
    "price": pl.Int64(),
    "dateTime": pl.Datetime("ms"),
    "extra": pl.String(),
}
_DAY = pl.col("window_start").dt.to_string("%Y-%m-%d").alias("day")
_BIDS = {
    "total_bids": pl.len().cast(pl.Int64),
    "rank1_bids": (pl.col("price") < 10_000).sum().cast(pl.Int64),
    "rank2_bids": pl.col("price").is_between(10_000, 1_000_000, closed="left").sum().cast(pl.Int64),
    "rank3_bids": (pl.col("price") >= 1_000_000).sum().cast(pl.Int64),
}


def q0(
    person: mamba.Stream, auction: mamba.Stream, bid: mamba.Stream, side_input: pl.DataFrame
) -> mamba.Stream:
    """Every bid."""
    return bid.select("auction", "bidder", "price", "dateTime", "extra")


def q1(
    person: mamba.Stream, auction: mamba.Stream, bid: mamba.Stream, side_input: pl.DataFrame
) -> mamba.Stream:
    """Every bid, its price in euro."""
    return bid.select("auction", "bidder", _EURO.alias("price"), "dateTime", "extra")


def q2(
    person: mamba.Stream, auction: mamba.Stream, bid: mamba.Stream, side_input: pl.DataFrame
) -> mamba.Stream:
    """Bids on some auctions."""
    return bid.filter(pl.col("auction") % 123 == 0).select("auction", "price")


def q3(
    person: mamba.Stream, auction: mamba.Stream, bid: mamba.Stream, side_input: pl.DataFrame
) -> mamba.Stream:
    """Who sells in some states and one category."""
    sellers = person.filter(pl.col("state").is_in(["OR", "ID", "CA"])).select(
        "name", "city", "state", "dateTime", seller="id"
    )
    wanted = auction.filter(pl.col("category") == 10).select("id", "seller", "dateTime")
    return wanted.join(sellers, on="seller", ttl="forever").select("name", "city", "state", "id")


def q4(
    person: mamba.Stream, auction: mamba.Stream, bid: mamba.Stream, side_input: pl.DataFrame
) -> mamba.Stream:
    """What the highest bid on an auction is on average, by category."""
    auctions = auction.select("id", "category", "dateTime", "expires")
    bids = auctions.join(bid.select("price", "dateTime", id="auction"), on="id", within=_OPEN)
    # An auction has one category: whichever bid tells it.
    highest = bids.group_by("id").agg(pl.col("category").max(), highest=pl.col("price").max())
    return (
        highest.group_by("category").agg(final=pl.col("highest").sum() // pl.len()).rename({"category": "id"})
    )


def q5(
    person: mamba.Stream, auction: mamba.Stream, bid: mamba.Stream, side_input: pl.DataFrame
) -> mamba.Stream:
    """The auctions with the most bids of the last ten seconds, every two seconds."""
    counts = bid.window(mamba.hopping("10s", "2s"), by="auction").agg(num=pl.len().cast(pl.Int64))
    hottest = counts.filter(pl.col("num") == pl.col("num").max().over("window_start"))
    return hottest.rename({"window_start": "starttime", "window_end": "endtime"})


def q7(
    person: mamba.Stream, auction: mamba.Stream, bid: mamba.Stream, side_input: pl.DataFrame
) -> mamba.Stream:
    """The highest bids of every ten seconds; one at the very end counts, but raises nothing."""
    candidates = bid.select(*_BID).map_batches(_candidates, schema={**_BID, "top": pl.Boolean}).filter("top")
    # One tick longer than they are apart, windows hold both of their ends.
    windows = candidates.window(mamba.hopping("10001ms", "10s"))
    start = pl.col("dateTime").dt.truncate("10s")
    highest = pl.col("price").filter(start == start.min()).max()
    rows = pl.struct(*_BID)
    best = windows.agg(bids=rows.filter(pl.col("price") == highest), first=pl.col("dateTime").min())
    # Where all bids lie at the end, there was none to be the highest.
    full = best.filter(pl.col("first").dt.truncate("10s") == pl.col("window_start")).select("bids")
    return full.map_batches(lambda frame: frame.explode("bids").unnest("bids"), schema=_BID)


def _candidates(frame: pl.DataFrame) -> pl.DataFrame:
    """Marks the bids that may be the highest: none of the same ten seconds in this batch, whichever it is, is higher.

    Nor may those be left out that lie at the start, where the ten seconds before end.
    """
    start = pl.col("dateTime").dt.truncate("10s")
    highest = pl.col("price") == pl.col("price").max().over(start)
    return frame.with_columns(top=highest | (pl.col("dateTime") == start))


def q8(
    person: mamba.Stream, auction: mamba.Stream, bid: mamba.Stream, side_input: pl.DataFrame
) -> mamba.Stream:
    """Persons who began to sell in the ten seconds in which they came."""
    persons, sellers = person.select("id", "name", "dateTime"), auction.select("dateTime", id="seller")
    new = persons.join(sellers, on="id", how="semi", window=mamba.tumbling("10s"))
    return new.select("id", "name", stime="window_start")


def q9(
    person: mamba.Stream, auction: mamba.Stream, bid: mamba.Stream, side_input: pl.DataFrame
) -> mamba.Stream:
    """The bid that won each auction: the highest, and of those the first."""
    bids = bid.select("seq", "auction", "bidder", "price", "dateTime", id="auction", bid_extra="extra")
    offers = auction.drop("seq").join(bids, on="id", within=_OPEN).rename({"dateTime_right": "bid_dateTime"})
    return offers.top_k(1, by=["price", "bid_dateTime", "seq"], reverse=[False, True, True], per="id")


def q11(
    person: mamba.Stream, auction: mamba.Stream, bid: mamba.Stream, side_input: pl.DataFrame
) -> mamba.Stream:
    """How many bids each bidder made without a pause of more than ten seconds."""
    counts = bid.window(mamba.session("10s"), by="bidder").agg(bid_count=pl.len().cast(pl.Int64))
    return counts.rename({"window_start": "starttime", "window_end": "endtime"})


def q12(
    person: mamba.Stream, auction: mamba.Stream, bid: mamba.Stream, side_input: pl.DataFrame
) -> mamba.Stream:
    """How many bids each bidder made, every ten seconds."""
    counts = bid.window(mamba.tumbling("10s"), by="bidder").agg(bid_count=pl.len().cast(pl.Int64))
    return counts.rename({"window_start": "starttime", "window_end": "endtime"})


def q13(
    person: mamba.Stream, auction: mamba.Stream, bid: mamba.Stream, side_input: pl.DataFrame
) -> mamba.Stream:
    """Every bid with what a table says of its auction."""
    keyed = bid.select("auction", "bidder", "price", "dateTime", key=pl.col("auction") % 10_000)
    return keyed.join(side_input, on="key").drop("key")


def q14(
    person: mamba.Stream, auction: mamba.Stream, bid: mamba.Stream, side_input: pl.DataFrame
) -> mamba.Stream:
    """Bids of a middling price, with the time of day in a word and the letters c in their text."""
    hour = pl.col("dateTime").dt.hour()
    time_type = (
        pl.when(hour.is_between(8, 18))
        .then(pl.lit("dayTime"))
        .when((hour <= 6) | (hour >= 20))
        .then(pl.lit("nightTime"))
        .otherwise(pl.lit("otherTime"))
    )
    return bid.filter((_EURO > 1_000_000) & (_EURO < 50_000_000)).select(
        "auction",
        "bidder",
        _EURO.alias("price"),
        time_type.alias("bidTimeType"),
        "dateTime",
        "extra",
        c_counts=pl.col("extra").str.count_matches("c", literal=True).cast(pl.Int64),
    )


def q15(
    person: mamba.Stream, auction: mamba.Stream, bid: mamba.Stream, side_input: pl.DataFrame
) -> mamba.Stream:
    """Bids, bidders and auctions of each day, in all and by price."""
    counts = bid.window(mamba.tumbling("1d")).agg(**_BIDS, **_distinct("bidder"), **_distinct("auction"))
    return counts.with_columns(_DAY)


def q16(
    person: mamba.Stream, auction: mamba.Stream, bid: mamba.Stream, side_input: pl.DataFrame
) -> mamba.Stream:
    """Bids, bidders and auctions of each day and channel, and the last minute with a bid."""
    counts = bid.window(mamba.tumbling("1d"), by="channel").agg(
        **_BIDS, **_distinct("bidder"), **_distinct("auction"), minute=pl.col("dateTime").max()
    )
    return counts.with_columns(_DAY, pl.col("minute").dt.to_string("%H:%M"))


def q17(
    person: mamba.Stream, auction: mamba.Stream, bid: mamba.Stream, side_input: pl.DataFrame
) -> mamba.Stream:
    """What was bidden on each auction, day by day."""
    price = pl.col("price")
    totals = bid.window(mamba.tumbling("1d"), by="auction").agg(
        **_BIDS,
        min_price=price.min(),
        max_price=price.max(),
        avg_price=price.sum() // pl.len(),
        sum_price=price.sum(),
    )
    return totals.with_columns(_DAY)


def q18(
    person: mamba.Stream, auction: mamba.Stream, bid: mamba.Stream, side_input: pl.DataFrame
) -> mamba.Stream:
    """The last bid of each bidder on each auction."""
    columns = bid.select("auction", "bidder", "price", "channel", "url", "dateTime", "extra", "seq")
    # Not the latest row of a table: of several partitions, it need not be the one with the greatest seq.
    return columns.top_k(1, by=["dateTime", "seq"], per=["bidder", "auction"])


def q19(
    person: mamba.Stream, auction: mamba.Stream, bid: mamba.Stream, side_input: pl.DataFrame
) -> mamba.Stream:
    """The ten highest bids of each auction."""
    columns = bid.select("auction", "bidder", "price", "channel", "url", "dateTime", "extra", "seq")
    return columns.top_k(10, by=["price", "seq"], reverse=[False, True], per="auction", rank="rank_number")


def q20(
    person: mamba.Stream, auction: mamba.Stream, bid: mamba.Stream, side_input: pl.DataFrame
) -> mamba.Stream:
    """Bids with what is known of their auction, in one category."""
    auctions = auction.drop("seq").rename(
        {"id": "auction", "dateTime": "auction_dateTime", "extra": "auction_extra"}
    )
    bids = bid.rename({"dateTime": "bid_dateTime", "extra": "bid_extra"}).drop("seq")
    # Not the auctions of one category only: a bid that has met its auction, whichever it is, need not be kept.
    joined = bids.join(auctions, on="auction", validate="m:1", ttl="forever")
    return joined.filter(pl.col("category") == 10)


def q21(
    person: mamba.Stream, auction: mamba.Stream, bid: mamba.Stream, side_input: pl.DataFrame
) -> mamba.Stream:
    """Bids whose channel has a number, or gives one in its URL."""
    known = {"apple": "0", "google": "1", "facebook": "2", "baidu": "3"}
    number = pl.col("channel").str.to_lowercase().replace_strict(known, default=None, return_dtype=pl.String)
    told = pl.col("url").str.extract(r"(?:&|^)channel_id=([^&]*)", 1)
    numbered = bid.select("auction", "bidder", "price", "channel", channel_id=pl.coalesce(number, told))
    return numbered.filter(pl.col("channel_id").is_not_null())


def q22(
    person: mamba.Stream, auction: mamba.Stream, bid: mamba.Stream, side_input: pl.DataFrame
) -> mamba.Stream:
    """Bids with the directories of their URL."""
    parts = pl.col("url").str.split("/")
    directories = {f"dir{number}": parts.list.get(number + 2, null_on_oob=True) for number in (1, 2, 3)}
    return bid.select("auction", "bidder", "price", "channel", **directories)


def _distinct(column: str) -> dict[str, pl.Expr]:
    """How many values there are, in all and by price."""
    values, price = pl.col(column), pl.col("price")
    of = {
        "total": values,
        "rank1": values.filter(price < 10_000),
        "rank2": values.filter(price.is_between(10_000, 1_000_000, closed="left")),
        "rank3": values.filter(price >= 1_000_000),
    }
    return {f"{name}_{column}s": some.n_unique().cast(pl.Int64) for name, some in of.items()}


QUERIES: dict[str, Query] = {
    query.__name__: query
    for query in (
        q0, q1, q2, q3, q4, q5, q7, q8, q9, q11, q12, q13, q14, q15, q16, q17, q18, q19, q20, q21, q22,
    )
}  # fmt: skip

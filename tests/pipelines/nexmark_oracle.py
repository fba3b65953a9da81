"""What every Nexmark query gives over a finished input, as SQL that DuckDB evaluates: the tests' oracle.

Windows are computed on whole milliseconds, so that an end that belongs to a window, or does not, is one comparison.
Where order decides, ties are broken by ``seq``.
"""

from __future__ import annotations

from collections.abc import Mapping

import duckdb
import polars as pl


def answer(query: str, tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """The rows of a query, in any order.

    Args:
        query: Its name.
        tables: ``person``, ``auction``, ``bid`` and ``side_input``.
    """
    with duckdb.connect() as connection:
        for name, frame in tables.items():
            connection.register(name, frame.to_arrow())
        return pl.DataFrame(connection.sql(_MACROS + ORACLE[query]).to_arrow_table())


_MACROS = """
CREATE MACRO ms(time) AS epoch_ms(time::TIMESTAMP);
CREATE MACRO window_of(time, size) AS ms(time) // size * size;
CREATE MACRO moment(milliseconds) AS make_timestamp_ms(milliseconds)::TIMESTAMP_MS;
"""

_BANDS = """
    count(*) AS total_bids,
    count(*) FILTER (price < 10000) AS rank1_bids,
    count(*) FILTER (price >= 10000 AND price < 1000000) AS rank2_bids,
    count(*) FILTER (price >= 1000000) AS rank3_bids
"""

_DISTINCT = ",".join(
    f"""
    count(DISTINCT {column}) AS total_{column}s,
    count(DISTINCT {column}) FILTER (price < 10000) AS rank1_{column}s,
    count(DISTINCT {column}) FILTER (price >= 10000 AND price < 1000000) AS rank2_{column}s,
    count(DISTINCT {column}) FILTER (price >= 1000000) AS rank3_{column}s
    """
    for column in ("bidder", "auction")
)

_IN_TIME = "a.id = b.auction AND b.dateTime BETWEEN a.dateTime AND a.expires"

ORACLE = {
    "q0": "SELECT auction, bidder, price, dateTime, extra FROM bid",
    "q1": "SELECT auction, bidder, 0.908::DOUBLE * price AS price, dateTime, extra FROM bid",
    "q2": "SELECT auction, price FROM bid WHERE auction % 123 = 0",
    "q3": """
        SELECT p.name, p.city, p.state, a.id
        FROM auction a JOIN person p ON a.seller = p.id
        WHERE a.category = 10 AND p.state IN ('OR', 'ID', 'CA')
    """,
    "q4": f"""
        SELECT category AS id, (sum(highest) // count(*))::BIGINT AS final
        FROM (
            SELECT a.id, a.category, max(b.price) AS highest
            FROM auction a JOIN bid b ON {_IN_TIME}
            GROUP BY a.id, a.category
        )
        GROUP BY category
    """,
    "q5": """
        WITH counts AS (
            SELECT auction, start, count(*) AS num
            FROM (
                SELECT auction, window_of(dateTime, 2000) - 2000 * back AS start FROM bid, range(5) AS windows(back)
            )
            GROUP BY auction, start
        )
        SELECT auction, num, moment(start) AS starttime, moment(start + 10000) AS endtime
        FROM counts
        QUALIFY num = max(num) OVER (PARTITION BY start)
    """,
    "q7": """
        WITH highest AS (
            SELECT window_of(dateTime, 10000) AS start, max(price) AS price FROM bid GROUP BY start
        )
        SELECT b.auction, b.bidder, b.price, b.dateTime, b.extra
        FROM bid b JOIN highest h
        ON b.price = h.price AND ms(b.dateTime) BETWEEN h.start AND h.start + 10000
    """,
    "q8": """
        SELECT DISTINCT p.id, p.name, moment(window_of(p.dateTime, 10000)) AS stime
        FROM person p JOIN auction a
        ON p.id = a.seller AND window_of(p.dateTime, 10000) = window_of(a.dateTime, 10000)
    """,
    "q9": f"""
        SELECT
            a.id, a.itemName, a.description, a.initialBid, a.reserve, a.dateTime, a.expires, a.seller, a.category,
            a.extra, b.auction, b.bidder, b.price, b.dateTime AS bid_dateTime, b.extra AS bid_extra
        FROM auction a JOIN bid b ON {_IN_TIME}
        QUALIFY row_number() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.dateTime, b.seq) = 1
    """,
    "q11": """
        WITH starts AS (
            SELECT *, coalesce(
                ms(dateTime) - lag(ms(dateTime)) OVER (PARTITION BY bidder ORDER BY dateTime, seq) > 10000,
                true
            ) AS fresh
            FROM bid
        ),
        sessions AS (
            SELECT *, sum(fresh::INT) OVER (PARTITION BY bidder ORDER BY dateTime, seq ROWS UNBOUNDED PRECEDING) AS nth
            FROM starts
        )
        SELECT
            bidder, count(*) AS bid_count, min(dateTime) AS starttime,
            moment(max(ms(dateTime)) + 10000) AS endtime
        FROM sessions
        GROUP BY bidder, nth
    """,
    "q12": """
        SELECT bidder, count(*) AS bid_count, moment(start) AS starttime, moment(start + 10000) AS endtime
        FROM (SELECT bidder, window_of(dateTime, 10000) AS start FROM bid)
        GROUP BY bidder, start
    """,
    "q13": """
        SELECT b.auction, b.bidder, b.price, b.dateTime, s.value
        FROM bid b JOIN side_input s ON s.key = b.auction % 10000
    """,
    "q14": """
        SELECT
            auction, bidder, 0.908::DOUBLE * price AS price,
            CASE
                WHEN hour(dateTime) BETWEEN 8 AND 18 THEN 'dayTime'
                WHEN hour(dateTime) <= 6 OR hour(dateTime) >= 20 THEN 'nightTime'
                ELSE 'otherTime'
            END AS bidTimeType,
            dateTime, extra, (length(extra) - length(replace(extra, 'c', '')))::BIGINT AS c_counts
        FROM bid
        WHERE 0.908::DOUBLE * price > 1000000 AND 0.908::DOUBLE * price < 50000000
    """,
    "q15": f"""
        SELECT strftime(dateTime, '%Y-%m-%d') AS day, {_BANDS}, {_DISTINCT}
        FROM bid
        GROUP BY day
    """,
    "q16": f"""
        SELECT
            channel, strftime(dateTime, '%Y-%m-%d') AS day, max(strftime(dateTime, '%H:%M')) AS minute,
            {_BANDS}, {_DISTINCT}
        FROM bid
        GROUP BY channel, day
    """,
    "q17": f"""
        SELECT
            auction, strftime(dateTime, '%Y-%m-%d') AS day, {_BANDS}, min(price) AS min_price,
            max(price) AS max_price, (sum(price) // count(*))::BIGINT AS avg_price, sum(price)::BIGINT AS sum_price
        FROM bid
        GROUP BY auction, day
    """,
    "q18": """
        SELECT auction, bidder, price, channel, url, dateTime, extra
        FROM bid
        QUALIFY row_number() OVER (PARTITION BY bidder, auction ORDER BY dateTime DESC, seq DESC) = 1
    """,
    "q19": """
        SELECT
            auction, bidder, price, channel, url, dateTime, extra,
            row_number() OVER (PARTITION BY auction ORDER BY price DESC, seq) AS rank_number
        FROM bid
        QUALIFY rank_number <= 10
    """,
    "q20": """
        SELECT
            b.auction, b.bidder, b.price, b.channel, b.url, b.dateTime AS bid_dateTime, b.extra AS bid_extra,
            a.itemName, a.description, a.initialBid, a.reserve, a.dateTime AS auction_dateTime, a.expires, a.seller,
            a.category, a.extra AS auction_extra
        FROM bid b JOIN auction a ON b.auction = a.id
        WHERE a.category = 10
    """,
    "q21": """
        SELECT * FROM (
            SELECT
                auction, bidder, price, channel,
                CASE lower(channel)
                    WHEN 'apple' THEN '0'
                    WHEN 'google' THEN '1'
                    WHEN 'facebook' THEN '2'
                    WHEN 'baidu' THEN '3'
                    ELSE nullif(regexp_extract(url, '(&|^)channel_id=([^&]*)', 2), '')
                END AS channel_id
            FROM bid
        )
        WHERE channel_id IS NOT NULL
    """,
    "q22": """
        SELECT
            auction, bidder, price, channel,
            split_part(url, '/', 4) AS dir1, split_part(url, '/', 5) AS dir2, split_part(url, '/', 6) AS dir3
        FROM bid
    """,
}

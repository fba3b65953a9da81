"""The events of an online auction, made up: the standard generator's proportions, ids, hot keys and lengths of texts.

Every value is a hash of the seed, the column and the event's number, so that a range of events is the same however it
is cut, and nothing is remembered between two calls. Texts are drawn from pools that a seed makes once: what a query
does with a text costs the same as if no two were alike, and drawing one costs nanoseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

FIRST_ID: Final = 1_000
"""Of persons and auctions alike."""
FIRST_CATEGORY: Final = 10
EPOCH_MS: Final = 1_436_918_400_000
"""When the auction opens: 2015-07-15, as in the standard."""

_PERSONS, _AUCTIONS, _BIDS = 1, 3, 46
_ROUND: Final = _PERSONS + _AUCTIONS + _BIDS
_ACTIVE_PERSONS, _IN_FLIGHT_AUCTIONS = 1_000, 100
_LEAD: Final = 10
"""How many ids ahead of the last one may be referred to already."""
_HOT: Final = 100
"""Of so many persons or auctions one is hot, for as long as they are the latest."""
_SHUFFLE: Final = 953
"""A prime: multiplied by it, the numbers below a disorder that it does not divide change their order."""

_POOL: Final = 1 << 15
_CHANNELS: Final = 10_000
_HOT_CHANNELS: Final = ("Google", "Facebook", "Baidu", "Apple")
_FIRST_NAMES = "Peter Paul Luke John Saul Vicky Kate Julie Sarah Deiter Walter".split()
_LAST_NAMES = "Shultz Abrams Spencer White Bartels Walton Smith Jones Noris".split()
_CITIES = (
    "Phoenix",
    "Los Angeles",
    "San Francisco",
    "Boise",
    "Portland",
    "Bend",
    "Redmond",
    "Seattle",
    "Kent",
    "Cheyenne",
)
_STATES = "AZ CA ID OR WA WY".split()

Ints = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint64]


def generate(
    first: int, count: int, *, seed: int = 1, rate: int = 10_000, disorder: int = 1
) -> dict[str, pl.DataFrame]:
    """The events at places ``first`` to ``first + count - 1`` of the stream.

    Args:
        first: The first event's place, counted from 0.
        count: How many events: of every fifty one is a person, three are auctions, the rest bids.
        seed: Which auction.
        rate: Events a second of event time.
        disorder: Events change places within stretches of so many; 1 leaves them in the order of time. Rows then come
            up to ``disorder / rate`` seconds late.

    Returns:
        ``person``, ``auction`` and ``bid``, each in the order of ``seq``, the place in the stream.

    Example:
        >>> {name: frame.height for name, frame in generate(0, 100).items()}
        {'person': 2, 'auction': 6, 'bid': 92}
    """
    if first < 0 or count < 0 or rate < 1 or disorder < 1 or (disorder > 1 and disorder % _SHUFFLE == 0):
        raise ValueError(
            "generate: first and count are 0 or more, rate and disorder 1 or more, "
            f"and disorder is no multiple of {_SHUFFLE}"
        )
    seq = np.arange(first, first + count, dtype=np.int64)
    number = seq if disorder == 1 else seq // disorder * disorder + seq % disorder * _SHUFFLE % disorder
    place = number % _ROUND
    kinds = {
        "person": (place < _PERSONS, _persons),
        "auction": ((place >= _PERSONS) & (place < _PERSONS + _AUCTIONS), _auctions),
        "bid": (place >= _PERSONS + _AUCTIONS, _bids),
    }
    return {
        name: make(_Events(seq[chosen], number[chosen], seed, rate)) for name, (chosen, make) in kinds.items()
    }


def side_input() -> pl.DataFrame:
    """The table that q13 looks bids up in: ``key`` from 0 to 9,999, and a ``value`` for each."""
    keys = pl.Series("key", np.arange(10_000, dtype=np.int64))
    return pl.DataFrame({"key": keys, "value": keys.cast(pl.String)})


@dataclass(frozen=True, slots=True)
class _Events:
    """Some events of one kind.

    Attributes:
        seq: Their places in the stream.
        number: Their numbers in the order of time, from which all else follows.
        seed: Which auction.
        rate: Events a second.
    """

    seq: Ints
    number: Ints
    seed: int
    rate: int

    def hashed(self, salt: int) -> Bits:
        """64 bits for each event, others for each salt: the finaliser of splitmix64."""
        start = np.uint64((self.seed * 0x9E3779B97F4A7C15 + salt * 0xD1B54A32D192ED03) % (1 << 64))
        bits = self.number.astype(np.uint64)
        bits *= np.uint64(0x9E3779B97F4A7C15)
        bits += start
        bits ^= bits >> np.uint64(30)
        bits *= np.uint64(0xBF58476D1CE4E5B9)
        bits ^= bits >> np.uint64(27)
        bits *= np.uint64(0x94D049BB133111EB)
        bits ^= bits >> np.uint64(31)
        return bits

    def time_at(self, number: Ints) -> Ints:
        """Milliseconds since 1970."""
        return EPOCH_MS + number * 1_000 // self.rate

    @property
    def last_person(self) -> Ints:
        """The latest person of each event's moment, counted from 0."""
        return self.number // _ROUND

    @property
    def last_auction(self) -> Ints:
        """The latest auction of each event's moment, counted from 0."""
        passed = np.clip(self.number % _ROUND - _PERSONS, -1, _AUCTIONS - 1)
        return self.number // _ROUND * _AUCTIONS + passed

    def some_person(self, bits: Bits) -> Ints:
        """One of those who are still active, or a few that are still to come."""
        there = self.last_person + 1
        active = np.minimum(there, _ACTIVE_PERSONS)
        return there - active + _below(bits, active + _LEAD)

    def some_auction(self, bits: Bits) -> Ints:
        """One of those that are still open, or a few that are still to come."""
        last = self.last_auction
        earliest = np.maximum(last - _IN_FLIGHT_AUCTIONS, 0)
        return earliest + _below(bits, last - earliest + 1 + _LEAD)


def _below(bits: Bits, bound: Ints | int) -> Ints:
    """Numbers from 0 up to the bound, of the upper 32 bits."""
    scaled: Bits = (bits >> np.uint64(32)) * np.asarray(bound, np.uint64) >> np.uint64(32)
    return scaled.view(np.int64)


def _lower(bits: Bits) -> Bits:
    """The lower 32 bits as upper ones: a hash is good for two draws."""
    return bits << np.uint64(32)


def _persons(events: _Events) -> pl.DataFrame:
    pools = _pools(events.seed)
    names, places, rest = (events.hashed(salt) for salt in (1, 2, 3))
    return _frame(
        events,
        id=pl.Series(events.last_person + FIRST_ID),
        name=_drawn(pools.names, names),
        emailAddress=_drawn(pools.emails, _lower(names)),
        creditCard=_drawn(pools.credit_cards, rest),
        city=_drawn(pools.cities, places),
        state=_drawn(pools.states, _lower(places)),
        extra=_drawn(pools.person_extras, _lower(rest)),
    )


def _auctions(events: _Events) -> pl.DataFrame:
    pools = _pools(events.seed)
    texts, prices, seller, rest = (events.hashed(salt) for salt in (4, 5, 6, 7))
    initial = _price(prices)
    hot = events.last_person // _HOT * _HOT
    sellers = np.where(_below(_lower(seller), 4) > 0, hot, events.some_person(seller))
    time = events.time_at(events.number)
    # As long as it takes until as many auctions as are in flight have come, on average.
    horizon = events.time_at(events.number + _IN_FLIGHT_AUCTIONS * _ROUND // _AUCTIONS) - time
    expires = time + 1 + _below(rest, np.maximum(2 * horizon, 1))
    return _frame(
        events,
        id=pl.Series(events.last_auction + FIRST_ID),
        itemName=_drawn(pools.items, texts),
        description=_drawn(pools.descriptions, _lower(texts)),
        initialBid=pl.Series(initial),
        reserve=pl.Series(initial + _price(_lower(prices))),
        expires=pl.Series(expires).cast(pl.Datetime("ms")),
        seller=pl.Series(sellers + FIRST_ID),
        category=pl.Series(FIRST_CATEGORY + _below(_lower(rest), 5)),
        extra=_drawn(pools.auction_extras, events.hashed(8)),
    )


def _bids(events: _Events) -> pl.DataFrame:
    pools = _pools(events.seed)
    auction, bidder, price, channel = (events.hashed(salt) for salt in (9, 10, 11, 12))
    hot_auction, hot_bidder = events.last_auction // _HOT * _HOT, events.last_person // _HOT * _HOT + 1
    auctions = np.where(_below(_lower(auction), 2) > 0, hot_auction, events.some_auction(auction))
    bidders = np.where(_below(_lower(bidder), 4) > 0, hot_bidder, events.some_person(bidder))
    # Half of the bids come through one of the four great channels, which stand first in the pools.
    four = len(_HOT_CHANNELS)
    through = np.where(
        channel & np.uint64(1), _below(channel, four), four + _below(channel, len(pools.channels) - four)
    )
    return _frame(
        events,
        auction=pl.Series(auctions + FIRST_ID),
        bidder=pl.Series(bidders + FIRST_ID),
        price=pl.Series(_price(price)),
        channel=pools.channels.gather(through),
        url=pools.urls.gather(through),
        extra=_drawn(pools.bid_extras, _lower(price)),
    )


def _frame(events: _Events, **columns: pl.Series) -> pl.DataFrame:
    time = pl.Series(events.time_at(events.number)).cast(pl.Datetime("ms"))
    return pl.DataFrame({"seq": pl.Series(events.seq), **columns, "dateTime": time})


def _price(bits: Bits) -> Ints:
    """Log-uniform, from 100 to 100,000,000."""
    share = (bits >> np.uint64(32)).astype(np.float64) * 2.0**-32
    price: Ints = np.rint(np.exp(share * (6 * np.log(10))) * 100).astype(np.int64)
    return price


def _drawn(pool: pl.Series, bits: Bits) -> pl.Series:
    return pool.gather(_below(bits, len(pool)))


@dataclass(frozen=True, slots=True)
class _Pools:
    """The texts of one seed."""

    names: pl.Series
    emails: pl.Series
    credit_cards: pl.Series
    cities: pl.Series
    states: pl.Series
    person_extras: pl.Series
    items: pl.Series
    descriptions: pl.Series
    auction_extras: pl.Series
    channels: pl.Series
    urls: pl.Series
    bid_extras: pl.Series


@cache
def _pools(seed: int) -> _Pools:
    random = np.random.Generator(np.random.PCG64(seed))
    text = _texts(random)
    directories = [text(3, 4, 3 * _CHANNELS)[part::3] for part in range(3)]
    bare = [
        f"https://www.nexmark.com/{'/'.join(parts)}/item.htm?query=1"
        for parts in zip(*directories, strict=True)
    ]
    # One in ten gives no channel away.
    numbers, tells = random.integers(0, 1 << 31, _CHANNELS), random.integers(0, 10, _CHANNELS) > 0
    urls = [
        f"{url}&channel_id={number}" if tell else url
        for url, number, tell in zip(bare, numbers, tells, strict=True)
    ]
    hot = [f"https://www.nexmark.com/{'/'.join(text(3, 4, 3))}/item.htm?query=1" for _ in _HOT_CHANNELS]
    cards = random.integers(0, 10_000, (_POOL, 4))
    return _Pools(
        names=pl.Series([f"{first} {last}" for first in _FIRST_NAMES for last in _LAST_NAMES]),
        emails=pl.Series([f"{a}@{b}.com" for a, b in zip(text(3, 6, _POOL), text(3, 4, _POOL), strict=True)]),
        credit_cards=pl.Series([" ".join(f"{part:04}" for part in card) for card in cards.tolist()]),
        cities=pl.Series(_CITIES),
        states=pl.Series(_STATES),
        person_extras=pl.Series(text(90, 140, _POOL)),
        items=pl.Series(text(3, 19, _POOL)),
        descriptions=pl.Series(text(3, 99, _POOL)),
        auction_extras=pl.Series(text(280, 430, _POOL // 4)),
        channels=pl.Series([*_HOT_CHANNELS, *(f"channel-{number}" for number in range(_CHANNELS))]),
        urls=pl.Series([*hot, *urls]),
        bid_extras=pl.Series(text(54, 81, _POOL)),
    )


def _texts(random: np.random.Generator) -> Callable[[int, int, int], list[str]]:
    """Makes texts of small letters, with lengths between two bounds."""

    def make(shortest: int, longest: int, count: int) -> list[str]:
        lengths = random.integers(shortest, longest + 1, count)
        ends = np.cumsum(lengths).tolist()
        letters = random.integers(ord("a"), ord("z") + 1, ends[-1], dtype=np.uint8).tobytes().decode("ascii")
        return [letters[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    return make

"""Who made a topic is written down in the change set that makes it, and forgotten in the one that deletes it."""

from __future__ import annotations

import polars as pl

from mamba_stream.core.changes import ChangeSet, CreateTopic, Record
from mamba_stream.core.schemas import canonical_schema, schema_bytes
from mamba_stream.server.catalog import Catalog
from mamba_stream.server.creators import Creators, with_creators
from mamba_stream.server.lookup import StorageLookup


def create(name):
    schema = schema_bytes(canonical_schema({"n": pl.Int64}))
    return CreateTopic(name, 1, (), None, "none", schema, internal=False, created=0)


def test_topics_are_counted_by_who_made_them_until_they_are_deleted(log):
    storage, lookup = log._shared, StorageLookup(log._shared, Catalog(log._shared))

    def commit(change, user):
        storage.commit(with_creators(change, user, lookup.topic_name))
        return {user: Creators(storage).count(user, ())[0] for user in ("ann", "bob")}

    assert commit(ChangeSet(creates=(create("a"), create("b"))), "ann") == {"ann": 2, "bob": 0}
    assert commit(ChangeSet(creates=(create("c"),)), "bob") == {"ann": 2, "bob": 1}
    assert commit(ChangeSet(drops=(log["a"].number,)), "bob") == {"ann": 1, "bob": 1}
    assert commit(ChangeSet(creates=(create("a"),)), "bob") == {"ann": 1, "bob": 2}
    assert commit(ChangeSet(drops=(log["c"].number,)), "ann") == {"ann": 1, "bob": 1}
    assert Creators(storage).count("ann", ["a", "c", "d", "d"]) == (1, 2)


def test_a_change_set_that_makes_no_topic_stays_as_it_is():
    change = ChangeSet(records=(Record("shop", "x", b"1"),))
    assert with_creators(change, "ann", {}.get) is change

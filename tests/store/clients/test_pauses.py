"""Suppressions that end hold until then, and never replace one that holds for good."""

from datetime import timedelta

import pytest
from sqlalchemy import literal, select
from support.queue_steps import rows

from skychimp.models import Suppression, SuppressionSource
from skychimp.permissions import Actor
from skychimp.services.clients.suppressions import export, find_covering, list_suppressions
from skychimp.services.listing import ListOptions
from skychimp.store.clients import suppressions
from skychimp.store.clients.suppressions import Holds, NewSuppression
from skychimp.store.database import Store

BOB = "bob@example.org"
MONTH = timedelta(days=30)
Given = tuple[str, timedelta | None]


def suppress(store: Store, owner: Actor, reason: str, lasts: timedelta | None) -> None:
    now = store.now()
    new = NewSuppression(BOB, BOB, reason, until=None if lasts is None else now + lasts)
    with store.write() as db:
        suppressions.add(db.connection(), [new], Holds(owner.user_id), SuppressionSource.WEB, now)


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        (("paused", MONTH), ("unsubscribed", None), ("unsubscribed", False)),
        (("unsubscribed", None), ("paused", MONTH), ("unsubscribed", False)),
        (("bounce", None), ("paused", MONTH), ("bounce", False)),
        (("paused", MONTH), ("paused", 2 * MONTH), ("paused", True)),
        (("paused", -MONTH), ("bounce", None), ("bounce", False)),
    ],
)
def test_suppression_for_good_is_never_replaced_by_one_that_ends(
    store: Store, ada: Actor, first: Given, second: Given, kept: tuple[str, bool]
) -> None:
    for reason, lasts in (first, second):
        suppress(store, ada, reason, lasts)
    (row,) = rows(store, Suppression)
    assert (row.reason, row.until is not None) == kept


@pytest.mark.parametrize(("lasts", "holds"), [(timedelta(minutes=1), True), (-timedelta(seconds=2), False)])
def test_suppression_holds_until_its_end(store: Store, ada: Actor, lasts: timedelta, holds: bool) -> None:
    suppress(store, ada, "paused", lasts)
    with store.read() as db:
        assert db.scalar(select(suppressions.is_suppressed(literal(BOB), literal(ada.user_id), literal("")))) == holds
    assert len(list(list_suppressions(store, ada, ListOptions()))) == holds
    assert len(find_covering(store, ada, BOB)) == holds


def test_export_leaves_out_what_ends(store: Store, ada: Actor) -> None:
    suppress(store, ada, "paused", MONTH)
    assert list(export(store, ada)) == []


def test_erased_suppression_is_not_replaced_by_one_that_ends(store: Store, ada: Actor) -> None:
    suppress(store, ada, "unsubscribed", None)
    with store.write() as db:
        suppressions.erase(db.connection(), BOB, ada.user_id)
    suppress(store, ada, "paused", MONTH)
    (row,) = rows(store, Suppression)
    assert (row.reason, row.until) == ("unsubscribed", None)

"""A list of mailings shows how far each one is, from indexes and stored sums only."""

from collections.abc import Callable, Sequence

import pytest
from sqlalchemy import Connection, update
from support.command import Home
from support.queue_steps import (
    DAY,
    NOW,
    claim,
    close_leases,
    create_mailing,
    open_due,
    open_mailing,
    send,
    sweep,
    update_row,
    write,
)

from skychimp.models import Delivery, DeliveryRollup, Every, Mailing, Outcome
from skychimp.permissions import Actor
from skychimp.services.listing import ListOptions
from skychimp.services.mailings import mailings, queries
from skychimp.services.mailings.progress import Progress, read_progress
from skychimp.services.mailings.queries import MailingInfo
from skychimp.services.reporting import rollups
from skychimp.store.database import Store


def listed(store: Store, owner: Actor) -> list[str]:
    return [mailing.progress for mailing in mailings.list_mailings(store, owner, ListOptions())]


def test_progress_counts_what_needs_no_further_try(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "ann", "ben", "cat", "dan")
    assert listed(store, ada) == ["0/4"]

    send(store, 1, Outcome.SENT, *claim(store, limit=1))
    assert listed(store, ada) == ["1/4"]  # the lease is still open
    send(store, 1, Outcome.FAILED, *claim(store, limit=1))
    send(store, 1, Outcome.DEFERRED, *claim(store, limit=1))
    send(store, 1, Outcome.UNKNOWN, *claim(store, limit=1))
    close_leases(store)
    assert listed(store, ada) == ["2/4"]  # the unknown one is sent again


def test_progress_is_of_the_last_occurrence_that_was_sent(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "ann", "ben", every=Every.DAY)
    create_mailing(store, ada, start=NOW + 300 * DAY)
    send(store, 1, Outcome.SENT, *claim(store))
    close_leases(store)
    sweep(store)
    assert listed(store, ada) == ["2/2", ""]

    open_due(store, NOW + 30 * DAY)  # records missed ones, and opens the last
    assert listed(store, ada) == ["0/0", ""]


@pytest.mark.parametrize("number", [2, 7])
def test_stored_sums_are_used(store: Store, ada: Actor, number: int) -> None:
    open_mailing(store, ada, "ann", "ben")
    send(store, 1, Outcome.SENT, *claim(store))
    close_leases(store)
    sweep(store)
    rollups.delivery_outcomes(store, [1])
    write(store, lambda db: db.execute(update(DeliveryRollup.__table__).values(deliveries=number)))
    assert listed(store, ada) == [f"{number}/{number}"]

    update_row(store, Delivery, 1, state="queued", next_try_at=NOW)
    write(store, lambda db: db.exec_driver_sql("UPDATE occurrence SET state = 'open', finished_at = NULL"))
    assert listed(store, ada) == ["1/2"]


def test_list_and_show_have_the_progress(store: Store, ada: Actor, home: Home) -> None:
    open_mailing(store, ada, "ann", "ben", "cat")
    send(store, 1, Outcome.SENT, *claim(store, limit=1))
    update_row(store, Mailing, 1, topic="News")

    assert home.call("mailings", "list").out.rstrip("\n").split("\t")[-1] == "1/3"
    assert "1/3" in home.call("mailings", "list", width=100).out
    for done in (home.call("mailings", "list", "--json").json[0], home.call("mailings", "show", "1", "--json").json):
        assert (done["done"], done["deliveries"]) == (1, 3)
    assert "done\t1\n" in home.call("mailings", "show", "1").out


@pytest.mark.parametrize(
    "act",
    [
        lambda store, actor: mailings.change(store, actor, 1, topic="news"),
        lambda store, actor: mailings.disable(store, actor, 1),
        lambda store, actor: mailings.enable(store, actor, 1),
        lambda store, actor: mailings.remove(store, actor, 1),
    ],
    ids=["change", "disable", "enable", "remove"],
)
def test_others_can_write_while_progress_is_counted(
    store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch, act: Callable[[Store, Actor], MailingInfo]
) -> None:
    def count_beside_a_writer(db: Connection, mailing_ids: Sequence[int]) -> dict[int, Progress]:
        with store.write_soon() as other:  # fails if the lock is held
            other.connection().exec_driver_sql("UPDATE message SET subject = 'changed'")
        return read_progress(db, mailing_ids)

    open_mailing(store, ada, "ann", "ben")
    monkeypatch.setattr(queries, "read_progress", count_beside_a_writer)

    changed = act(store, ada)

    assert (changed.done, changed.deliveries) == (0, 2)

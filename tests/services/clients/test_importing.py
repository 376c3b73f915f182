"""Test the import of clients whose addresses are suppressed, and of who has opted out elsewhere."""

import io
from datetime import UTC, datetime, timedelta

from sqlalchemy import select
from support import ledger_rows

from skychimp.models import EVERYBODY, Delivery, DeliveryState, Suppression, SuppressionSource
from skychimp.permissions import Actor
from skychimp.services.clients import clients, importing
from skychimp.services.clients.files import csv_files
from skychimp.services.clients.importing import ImportResult, InvalidRow
from skychimp.services.listing import ListOptions
from skychimp.store.clients import suppressions
from skychimp.store.clients.suppressions import Holds, NewSuppression
from skychimp.store.database import Store


def import_csv(store: Store, actor: Actor, data: str, *, update: bool = False) -> tuple[ImportResult, list[int]]:
    """Import CSV. Returns the result, and the lines of the invalid rows."""
    file = csv_files.read(io.StringIO(data, newline=""))
    rejected: list[InvalidRow] = []
    columns = file.columns if update else ()
    result = importing.import_rows(store, actor, file.rows, update_columns=columns, on_rejected=rejected.append)
    return result, [row.line for row in rejected]


def add_delivery(store: Store, owner: Actor, address: str, state: DeliveryState) -> int:
    """Add a delivery in an open occurrence of a mailing of its own, and return its id."""
    return ledger_rows.delivery(store, ledger_rows.occurrence(store, ledger_rows.mailing(store, owner)), address, state)


def suppress(store: Store, owner_id: int, *addresses: str, reason: str = "unsubscribed") -> None:
    new = [NewSuppression(address, address, reason) for address in addresses]
    with store.write() as db:
        suppressions.add(db.connection(), new, Holds(owner_id), SuppressionSource.COMMAND, store.now())


def suppressed(store: Store, actor: Actor) -> dict[str, str | None]:
    return {each.email: each.suppressed for each in clients.list_clients(store, actor, ListOptions())}


def test_suppressed_address_is_imported_as_a_client_who_gets_no_mail(store: Store, ada: Actor, bob: Actor) -> None:
    suppress(store, ada.user_id, "a@x.org", "b@x.org")
    suppress(store, ada.user_id, "c@x.org", reason="bounce")
    suppress(store, EVERYBODY, "@y.org", reason="spam trap")
    suppress(store, bob.user_id, "d@x.org")
    data = "email\na@x.org\nA@x.org\nb@x.org\nc@x.org\nd@x.org\nz@y.org\n"

    result, _ = import_csv(store, ada, data)
    again, _ = import_csv(store, ada, data, update=True)

    reasons = {"unsubscribed": 2, "bounce": 1, "spam trap": 1}
    assert result == ImportResult(created=5, skipped=1, suppressed=4, reasons=reasons)
    assert again == ImportResult(updated=6, suppressed=4, reasons=reasons)
    assert suppressed(store, ada) == {
        "A@x.org": "unsubscribed", "b@x.org": "unsubscribed", "c@x.org": "bounce", "d@x.org": None,
        "z@y.org": "spam trap",
    }  # fmt: skip


def test_opt_out_of_a_file_suppresses_a_client_and_cancels_what_waits(store: Store, ada: Actor, bob: Actor) -> None:
    for owner in (ada, bob):
        clients.create(store, owner, email="a@x.org")
    waiting = [add_delivery(store, owner, "a@x.org", DeliveryState.QUEUED) for owner in (ada, bob)]
    data = "email,name,unsubscribed at\nA@x.org,New,2026-05-01 10:00\nb@x.org,B,\nc@x.org,C,x\nbad,D,x\n"

    result, bad = import_csv(store, ada, data, update=True)

    assert (result.created, result.updated, result.opted_out, result.suppressed) == (1, 0, 2, 2)
    assert bad == [5]
    assert suppressed(store, ada) == {"a@x.org": "unsubscribed", "b@x.org": None}
    assert suppressed(store, bob) == {"a@x.org": None}
    with store.read() as db:
        states = {row.id: row.state for row in db.execute(select(Delivery.__table__))}
        stored = {row.address_key: (row.source, row.at) for row in db.scalars(select(Suppression))}
    assert [states[each] for each in waiting] == [DeliveryState.CANCELLED, DeliveryState.QUEUED]
    assert stored["a@x.org"] == (SuppressionSource.IMPORT, datetime(2026, 5, 1, 10, tzinfo=UTC))
    assert store.now() - stored["c@x.org"][1] < timedelta(minutes=1)


def test_opt_out_in_the_future_has_the_time_of_the_import(store: Store, ada: Actor) -> None:
    import_csv(store, ada, "email,unsubscribed at\na@x.org,2999-01-01\n")

    with store.read() as db:
        assert db.scalars(select(Suppression)).one().at <= store.now()


def test_erased_address_is_known_again_after_an_import(store: Store, ada: Actor) -> None:
    suppress(store, ada.user_id, "a@x.org", "b@x.org")
    with store.write() as db:
        suppressions.erase(db.connection(), "a@x.org", None)

    result, _ = import_csv(store, ada, "email\nA@x.org\nc@x.org\n")

    assert (result.created, result.suppressed) == (2, 1)
    assert suppressed(store, ada) == {"A@x.org": "unsubscribed", "c@x.org": None}
    with store.read() as db:
        assert {row.address for row in db.scalars(select(Suppression))} == {"A@x.org", "b@x.org"}

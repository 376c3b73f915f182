"""Compacting is for administrators, is recorded, and is refused while anything is sending."""

from pathlib import Path

import pytest
from sqlalchemy import delete, insert, text
from support import ledger_rows
from support.command import Home
from support.sending import make_settings, rows
from support.stores import store_environ

from skychimp.delivery.sending.runner import registered_run
from skychimp.errors import Conflict
from skychimp.models import AuditEntry, Client, Delivery, DeliveryState, Run
from skychimp.permissions import Actor
from skychimp.services.operations import compaction, doctor, growth
from skychimp.store.database import SQLITE, Store


def test_space_of_deleted_records_is_given_back(store: Store, ada: Actor) -> None:
    now = store.now()
    clients = [
        {
            "owner_id": ada.user_id,
            "email": f"{n}@x.test",
            "address_key": f"{n}@x.test",
            "created_at": now,
            "name": "n" * 90,
        }
        for n in range(3_000)
    ]
    with store.write() as db:
        db.execute(insert(Client.__table__), clients)
    with store.write() as db:
        db.execute(delete(Client.__table__))
    store.checkpoint()
    compacted = compaction.compact(store)
    if store.dialect == SQLITE:
        assert compacted.size is not None
        assert compacted.size_before is not None
        assert compacted.size < compacted.size_before - 300_000
    assert [(entry.action, entry.object) for entry in rows(store, AuditEntry)][-1] == ("compact", "store")


def test_it_is_refused_while_a_run_lives(store: Store, tmp_path: Path) -> None:
    home = Home(tmp_path, **store_environ(store))
    with registered_run(store):
        with pytest.raises(Conflict):
            compaction.compact(store)
        done = home.call("store", "vacuum")
    assert done.status == 6
    assert done.err.startswith("error: something is sending from this store\nhint: stop the daemon")


@pytest.mark.postgres
def test_it_is_refused_while_another_machine_sends(store: Store) -> None:
    now = store.now()
    with store.write() as db:
        db.add(Run(host="other", host_id="other", pid=1, started_at=now, heartbeat_at=now))
    with pytest.raises(Conflict):
        compaction.compact(store)


def test_command_needs_no_login(store: Store, tmp_path: Path) -> None:
    home = Home(tmp_path, **store_environ(store))
    store.close()
    done = home.call("store", "vacuum", "--json")
    assert set(done.json) == {"store", "size_before", "size"}


# Growth


def add_deliveries(store: Store, owner: Actor, number: int) -> None:
    occurrence = ledger_rows.occurrence(store, ledger_rows.mailing(store, owner))
    ledger_rows.delivery(store, occurrence, "0@x.test", DeliveryState.SENT, None)
    columns = [column.name for column in Delivery.__table__.columns if column.name not in ("id", "address_key")]
    with store.write() as db:
        numbers = ", ".join(f"({n})" for n in range(1, number))
        db.execute(
            text(
                f"INSERT INTO delivery (address_key, {', '.join(columns)})"
                f" SELECT numbers.column1 || '@x.test', {', '.join(columns)}"
                f" FROM delivery, (VALUES {numbers}) AS numbers WHERE delivery.address_key = '0@x.test'"
            )
        )


def test_growth_is_known_from_some_thousand_emails_on(
    store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(1, mail__transport="outbox")
    monkeypatch.setattr(growth, "MIN_DELIVERIES", 300)
    add_deliveries(store, ada, 299)
    assert growth.measure(store) is None
    assert "growth" not in {finding.about for finding in doctor.check_installation(settings, lambda: store)}
    occurrence = rows(store, Delivery)[0].occurrence_id
    ledger_rows.delivery(store, occurrence, "last@x.test", DeliveryState.SENT, None)
    measured = growth.measure(store)
    assert measured is not None
    assert measured.deliveries == 300
    (found,) = (each for each in doctor.check_installation(settings, lambda: store) if each.about == "growth")
    assert found.found.startswith(f"a million emails take about {measured.bytes_per_million // 1_000_000:,} MB")
    assert ("there is room for" in found.found) == (store.dialect == SQLITE)

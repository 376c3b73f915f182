"""Test that a restored store has the suppressions that are newer than the backup, and that they hold."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import create_user
from sqlalchemy import delete, text
from support.ledger_rows import delivery, mailing, occurrence
from support.queue_steps import rows

from skychimp.models import Client, Delivery, DeliveryState, Occurrence, Suppression, User
from skychimp.permissions import OPERATOR, Actor
from skychimp.services.clients import clients, suppressions
from skychimp.services.clients.suppressions import Added
from skychimp.services.operations import backups
from skychimp.services.operations.backups import Restored
from skychimp.services.users import privacy
from skychimp.store.database import Store

pytestmark = pytest.mark.sqlite

GRACE = "grace@example.org"
Change = Callable[[Store, Actor], object]


def suppress(
    store: Store, actor: Actor, target: str = GRACE, reason: str = "unsubscribed", *, everywhere: bool = False
) -> Added:
    new = suppressions.new_suppression(target, reason)
    return suppressions.add(store, actor, [new], everywhere=everywhere)


def suppressed(store: Store, actor: Actor) -> dict[str, str | None]:
    """Return why each client of the actor is suppressed."""
    return {row.email: clients.show(store, actor, row.email).suppressed for row in rows(store, Client)}


def restore(store: Store, file: Path) -> Restored:
    store.close()
    return backups.restore(f"sqlite:///{store.path}", OPERATOR, file)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "today.backup"


def suppress_and_forget(store: Store, ada: Actor) -> None:
    suppress(store, ada)
    privacy.forget(store, ada, GRACE)


AFTER_THE_BACKUP: dict[str, tuple[Change, int, str | None]] = {
    "nothing": (lambda store, ada: None, 0, None),
    "suppressed": (suppress, 1, "unsubscribed"),
    "domain suppressed": (lambda store, ada: suppress(store, ada, "@example.org"), 1, "unsubscribed"),
    "suppressed and deleted": (lambda store, ada: (suppress(store, ada), clients.remove(store, ada, GRACE)), 1,
        "unsubscribed"),
    "suppressed and forgotten": (suppress_and_forget, 1, "unsubscribed"),
    "suppressed everywhere": (lambda store, ada: suppress(store, OPERATOR, everywhere=True), 1, "unsubscribed"),
    "suppressed and removed": (
        lambda store, ada: (suppress(store, ada), suppressions.remove(store, ada, [GRACE])), 0, None),
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "is_ledger_kept"),
    [
        *((change, True) for change in AFTER_THE_BACKUP),
        ("nothing", False),
        ("suppressed", False),
        *(pytest.param(change, False, marks=pytest.mark.slow) for change in list(AFTER_THE_BACKUP)[2:]),
    ],
)
def test_newer_suppressions_hold_in_the_restored_store(
    store: Store, ada: Actor, file: Path, change: str, is_ledger_kept: bool
) -> None:
    """Also if the emails that wait in the backup are not known to the replaced store."""
    step, kept, reason = AFTER_THE_BACKUP[change]
    clients.create(store, ada, email=GRACE)
    waiting = delivery(store, occurrence(store, mailing(store, ada)), GRACE, DeliveryState.QUEUED)
    backups.backup(store, OPERATOR, file)
    step(store, ada)
    if not is_ledger_kept:
        with store.write() as db:
            db.execute(delete(Delivery))
            db.execute(delete(Occurrence))
    done = restore(store, file)
    assert (done.ledger_kept, done.suppressions_kept) == (is_ledger_kept, kept)
    assert suppressed(store, ada) == {GRACE: reason}
    states = {row.id: row.state for row in rows(store, Delivery)}
    if reason is not None:
        assert states == {waiting: DeliveryState.CANCELLED}
    assert len(rows(store, Suppression)) == kept


def test_older_suppressions_of_the_backup_are_kept(store: Store, ada: Actor, file: Path) -> None:
    """Also one that was removed since. One that got another reason since has that one."""
    for name in ("removed", "same", "bounced"):
        clients.create(store, ada, email=f"{name}@example.org")
        suppress(store, ada, f"{name}@example.org", "bounce")
    backups.backup(store, OPERATOR, file)
    suppressions.remove(store, ada, ["removed@example.org"])
    suppress(store, ada, "bounced@example.org", "complaint")
    assert restore(store, file).suppressions_kept == 1
    assert suppressed(store, ada) == {
        "removed@example.org": "bounce", "same@example.org": "bounce", "bounced@example.org": "complaint",
    }  # fmt: skip


def test_suppressions_of_users_that_the_backup_lacks_are_not_given_to_others(
    store: Store, ada: Actor, file: Path
) -> None:
    backups.backup(store, OPERATOR, file)
    eve = create_user(store, "eve")
    suppress(store, eve)
    assert restore(store, file).suppressions_kept == 0
    bob = create_user(store, "bob")
    assert bob.user_id == eve.user_id
    assert [user.email for user in rows(store, User)] == [ada.email, bob.email]
    assert clients.create(store, bob, email=GRACE).suppressed is None


def test_suppressions_of_another_store_are_not_taken(store: Store, ada: Actor, file: Path) -> None:
    backups.backup(store, OPERATOR, file)
    suppress(store, ada)
    with store.write() as db:
        db.execute(text("UPDATE store_info SET secret = x'00'"))
    assert restore(store, file).suppressions_kept is None
    assert rows(store, Suppression) == []


def test_replaced_store_of_an_older_version_has_none(store: Store, ada: Actor, file: Path) -> None:
    backups.backup(store, OPERATOR, file)
    with store.write() as db:
        db.execute(text("DROP TABLE suppression"))
    assert restore(store, file).suppressions_kept == 0

"""Users: who may see, block and promote whom, and what happens to a blocked user's mailings."""

import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

import pytest
from conftest import create_user
from sqlmodel import col, select
from support.queue_steps import (
    NOW,
    claim,
    create_deliveries,
    create_run,
    delivery_states,
    due_occurrences,
    get_row,
    give_back,
    make_attempt,
    open_due,
    open_mailing,
    record_attempts,
    record_intents,
    rows,
    update_row,
)

from skychimp.errors import Denied, InvalidValue, NotFound, SkychimpError
from skychimp.models import (
    AuditEntry,
    CatchUp,
    DeliveryState,
    Every,
    Login,
    Mailing,
    Occurrence,
    OccurrenceState,
    Outcome,
    Role,
    User,
)
from skychimp.permissions import Actor
from skychimp.services.listing import ListOptions
from skychimp.services.mailings import mailings
from skychimp.services.operations import status
from skychimp.services.users import users
from skychimp.store.database import Store
from skychimp.store.schema import open_store

S = DeliveryState
DAY = timedelta(days=1)


@pytest.fixture
def eve(store: Store) -> Actor:
    return create_user(store, "eve", Role.EDITOR)


def names(listed: Iterable[users.UserInfo]) -> list[str]:
    return [user.email.partition("@")[0] for user in listed]


def log_in(store: Store, actor: Actor) -> None:
    now = datetime.now(UTC)
    with store.write() as db:
        db.add(Login(user_id=actor.user_id, token_hash=actor.email, created_at=now, seen_at=now, expires_at=now + DAY))


def promote(store: Store, actor: Actor, user: str) -> users.UserInfo:
    return users.set_role(store, actor, user, Role.ADMIN)[1]


def demote(store: Store, actor: Actor, user: str) -> users.UserInfo:
    return users.set_role(store, actor, user, Role.USER)[1]


def audit_trail(store: Store) -> list[tuple[int | None, str, int | None, str]]:
    return [(row.actor_id, row.action, row.object_id, row.detail) for row in rows(store, AuditEntry)]


# List and show


def test_actor_sees_only_the_users_they_manage(
    store: Store, ada: Actor, eve: Actor, manager: Actor, admin: Actor
) -> None:
    assert names(users.list_users(store, manager, ListOptions())) == ["ada", "eve"]
    assert names(users.list_users(store, admin, ListOptions())) == ["ada", "eve", "manager", "admin"]
    assert names(users.list_users(store, manager, ListOptions(), Role.ADMIN)) == []
    assert names(users.list_users(store, admin, ListOptions(), Role.ADMIN)) == ["admin"]


def test_list_options(store: Store, ada: Actor, bob: Actor, eve: Actor, admin: Actor) -> None:
    assert names(users.list_users(store, admin, ListOptions(search="EVE@"))) == ["eve"]
    assert names(users.list_users(store, admin, ListOptions(sort="-email", limit=2, offset=1))) == ["bob", "admin"]
    with pytest.raises(InvalidValue):
        list(users.list_users(store, admin, ListOptions(sort="password_hash")))


def test_no_secret_is_shown(store: Store, ada: Actor, admin: Actor) -> None:
    assert vars(users.show(store, admin, "ada@skychimp.test")).keys() == {
        "id", "email", "name", "role", "verified_at", "blocked_at", "created_at",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["1", "ada@skychimp.test", " ADA@Skychimp.Test "])
def test_user_is_found_by_id_or_email(store: Store, ada: Actor, admin: Actor, name: str) -> None:
    assert users.show(store, admin, name).id == ada.user_id == 1


@pytest.mark.parametrize("name", ["", "9", "9" * 5000, "-1", "ada", "nobody@skychimp.test", "\udcff@x", "1 OR 1=1"])
def test_unknown_user_is_not_found(store: Store, ada: Actor, manager: Actor, name: str) -> None:
    for service in (users.show, users.block, users.unblock):
        with pytest.raises(NotFound):
            service(store, manager, name)


@pytest.mark.parametrize("service", [users.show, users.block, users.unblock])
def test_user_whom_a_manager_does_not_manage_looks_like_a_missing_one(
    store: Store, manager: Actor, admin: Actor, service: Callable[..., object]
) -> None:
    """By id and by email: status, message and hint are the same but for what was typed."""
    other = create_user(store, "other", Role.MANAGER)

    def answer(name: str) -> tuple[int, str, str, str | None]:
        with pytest.raises(SkychimpError) as caught:
            service(store, manager, name)
        error = caught.value
        return error.exit_status, error.code, error.message.replace(name, "NAME"), error.hint

    missing = {answer("999"), answer("nobody@skychimp.test")}
    names = [str(admin.user_id), admin.email, admin.email.upper(), str(other.user_id), other.email]
    assert (
        {answer(name) for name in names}
        == missing
        == {(4, "not_found", "user NAME not found", 'run "skychimp users list"')}
    )
    assert [user.blocked_at for user in rows(store, User)] == [None] * 3


# Change roles


def test_role_is_changed_and_recorded_once(store: Store, ada: Actor, admin: Actor) -> None:
    assert users.set_role(store, admin, "1", Role.MANAGER)[1].role == Role.MANAGER
    assert users.set_role(store, admin, "1", Role.MANAGER)[1].role == Role.MANAGER
    assert audit_trail(store) == [(admin.user_id, "role", 1, "user to manager")]


@pytest.mark.parametrize("act", [users.block, users.unblock, demote])
def test_own_account_cannot_be_changed(store: Store, admin: Actor, act: Callable[..., object]) -> None:
    with pytest.raises(Denied, match="your own account"):
        act(store, admin, admin.email)
    assert (get_row(store, User, admin.user_id).role, audit_trail(store)) == (Role.ADMIN, [])


@pytest.mark.parametrize("change", [{"role": Role.USER}, {"blocked_at": NOW}])
def test_actor_who_has_just_lost_the_role_changes_nobody(
    store: Store, ada: Actor, admin: Actor, change: dict[str, object]
) -> None:
    with store.write() as db:
        for name, value in change.items():
            setattr(db.get_one(User, admin.user_id), name, value)
    for act in (users.block, users.unblock, promote):
        with pytest.raises(Denied):
            act(store, admin, ada.email)
    assert (get_row(store, User, 1).role, get_row(store, User, 1).blocked_at) == (Role.USER, None)


@pytest.mark.parametrize("act", [users.block, demote])
def test_two_administrators_cannot_remove_each_other_at_once(
    store: Store, store_url: str, admin: Actor, act: Callable[..., object]
) -> None:
    other = create_user(store, "other", Role.ADMIN)
    start, results = threading.Barrier(2), []

    def work(actor: Actor, victim: Actor) -> None:
        opened = open_store(store_url)
        start.wait()
        try:
            act(opened, actor, victim.email)
            results.append("done")
        except SkychimpError as error:
            results.append(error.code)
        opened.close()

    threads = [threading.Thread(target=work, args=pair) for pair in ((admin, other), (other, admin))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["denied", "done"]
    with store.read() as db:
        left = db.exec(select(User.id).where(User.role == Role.ADMIN, col(User.blocked_at).is_(None))).all()
    assert len(left) == 1


# Block and unblock


def test_block_ends_sessions_and_is_recorded(store: Store, ada: Actor, bob: Actor, manager: Actor) -> None:
    for user in (ada, ada, bob):
        log_in(store, Actor(user.user_id, f"{user.email} {len(rows(store, Login))}", user.role))
    blocked = users.block(store, manager, ada.email, "bought addresses")
    assert blocked.blocked_at is not None
    assert users.block(store, manager, ada.email).blocked_at == blocked.blocked_at
    assert [login.user_id for login in rows(store, Login)] == [bob.user_id]
    assert users.unblock(store, manager, ada.email).blocked_at is None
    assert users.unblock(store, manager, ada.email).blocked_at is None
    assert audit_trail(store) == [
        (manager.user_id, "block", ada.user_id, "bought addresses"), (manager.user_id, "unblock", ada.user_id, ""),
    ]  # fmt: skip


def test_blocking_again_ends_sessions_started_meanwhile(store: Store, ada: Actor, manager: Actor) -> None:
    users.block(store, manager, ada.email)
    log_in(store, ada)
    users.block(store, manager, ada.email)
    assert rows(store, Login) == []


def test_block_stops_claimed_emails_and_finishes_those_being_sent(
    store: Store, ada: Actor, bob: Actor, manager: Actor
) -> None:
    open_mailing(store, ada, "sent", "claimed", "queued")
    open_mailing(store, bob, "other")
    create_deliveries(store, 2)
    run_id = create_run(store)
    sending, claimed = claim(store, run_id, limit=2)
    others = claim(store, run_id, occurrence_id=2)
    assert record_intents(store, run_id, sending)

    users.block(store, manager, ada.email)

    assert delivery_states(store) == {"sent": S.SENDING, "claimed": S.CLAIMED, "queued": S.QUEUED, "other": S.CLAIMED}
    assert record_intents(store, run_id, claimed, *others) == {others[0].id}
    record_attempts(store, run_id, make_attempt(sending, Outcome.SENT))
    give_back(store, claimed)
    assert delivery_states(store) == {"sent": S.SENT, "claimed": S.QUEUED, "queued": S.QUEUED, "other": S.SENDING}
    assert (due_occurrences(store), claim(store, run_id)) == ([], [])
    users.unblock(store, manager, ada.email)
    assert due_occurrences(store) == [1]
    assert {again.id for again in claim(store, run_id)} == {claimed.id, claimed.id + 1}


def test_time_to_give_up_stands_still_while_the_owner_is_blocked(
    store: Store, ada: Actor, bob: Actor, manager: Actor
) -> None:
    open_mailing(store, ada, "one")
    open_mailing(store, bob, "other")
    users.block(store, manager, ada.email)
    update_row(store, User, ada.user_id, blocked_at=datetime.now(UTC) - 4 * DAY)
    users.unblock(store, manager, ada.email)
    users.unblock(store, manager, ada.email)
    held_up = [timedelta(seconds=occurrence.held_up_s) for occurrence in rows(store, Occurrence)]
    assert [each.days for each in held_up] == [4, 0]


def test_blocked_users_mailings_open_nothing_and_stay_unchanged(store: Store, ada: Actor, manager: Actor) -> None:
    open_mailing(store, ada, "one", every=Every.DAY)
    before = get_row(store, Mailing, 1)
    users.block(store, manager, ada.email)

    assert open_due(store, NOW + 3 * DAY) == 0
    assert status.status(store).oldest_due_at is None
    seen = mailings.show(store, manager, 1)
    assert (seen.owner_blocked, seen.disabled, seen.next_at) == (True, False, before.next_at)


@pytest.mark.parametrize(
    ("catch_up", "sent_for"), [(CatchUp.LATEST, [3]), (CatchUp.ALL, [1, 2, 3]), (CatchUp.SKIP, [])]
)
def test_due_times_missed_while_blocked_are_caught_up_as_the_mailing_says(
    store: Store, ada: Actor, manager: Actor, catch_up: CatchUp, sent_for: list[int]
) -> None:
    open_mailing(store, ada, "one", every=Every.DAY, catch_up=catch_up)
    users.block(store, manager, ada.email)
    users.unblock(store, manager, ada.email)

    open_due(store, NOW + 3 * DAY + timedelta(hours=2))

    states_by_day = {(row.due_at - NOW).days: row.state for row in rows(store, Occurrence) if row.due_at > NOW}
    assert states_by_day.keys() == {1, 2, 3}
    assert [day for day, state in sorted(states_by_day.items()) if state != OccurrenceState.MISSED] == sent_for

"""Sessions: whose a token is, and when a session ends."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlmodel import Session, select
from support.contents import contains
from support.sending import rows

from skychimp.errors import StoreFailed
from skychimp.models import Login, Role, User
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services.accounts import session_rule, sessions
from skychimp.store.database import Store
from skychimp.translation import verbatim

NOW = datetime.now(UTC)
SECOND = timedelta(seconds=1)


@pytest.fixture
def token(store: Store, ada: Actor) -> str:
    """Return the token of a session of Ada's."""
    with store.write() as db:
        return sessions.start(db, ada.user_id, NOW)


def change(store: Store, table: type[User] | type[Login], **values: object) -> None:
    with store.write() as db:
        row = db.exec(select(table)).one()
        for name, value in values.items():
            setattr(row, name, value)


def test_token_belongs_to_its_user(store: Store, ada: Actor, token: str) -> None:
    assert sessions.find_actor(store, token) == ada


@pytest.mark.parametrize("unknown", [None, "", "nobody's", "\udcff", "' OR 1=1 --"])
def test_unknown_token_is_anonymous(store: Store, token: str, unknown: str | None) -> None:
    assert sessions.find_actor(store, unknown) == ANONYMOUS


def test_token_is_random_and_not_stored(store: Store, ada: Actor, token: str) -> None:
    with store.write() as db:
        other = sessions.start(db, ada.user_id, NOW)
    assert other != token
    assert len(token) >= 43  # 256 bits
    assert not contains(store, token)


@pytest.mark.parametrize(
    "end",
    [
        lambda store: change(store, Login, expires_at=NOW),
        lambda store: change(store, Login, seen_at=NOW - session_rule.IDLE_LIMIT),
        lambda store: change(store, User, blocked_at=NOW),
        lambda store: change(store, User, verified_at=None),
    ],
    ids=["expired", "idle", "blocked", "unverified"],
)
def test_ended_session_is_anonymous(store: Store, token: str, end: Callable[[Store], None]) -> None:
    end(store)
    assert sessions.find_actor(store, token) == ANONYMOUS


def test_session_expires_even_if_it_is_used(store: Store, token: str) -> None:
    (login,) = rows(store, Login)
    assert login.expires_at - NOW == session_rule.LIFETIME
    change(store, Login, created_at=NOW - session_rule.LIFETIME, seen_at=NOW - 2 * sessions.LAST_USE_INTERVAL)
    sessions.find_actor(store, token)
    assert rows(store, Login)[0].expires_at == login.expires_at


def test_use_keeps_a_session_and_is_recorded_once_an_hour(store: Store, ada: Actor, token: str) -> None:
    change(store, Login, seen_at=NOW - session_rule.IDLE_LIMIT + timedelta(hours=1))
    assert sessions.find_actor(store, token) == ada
    (login,) = rows(store, Login)
    assert login.seen_at >= NOW
    for age, is_written in ((sessions.LAST_USE_INTERVAL / 2, False), (sessions.LAST_USE_INTERVAL, True)):
        change(store, Login, seen_at=NOW - age)
        assert sessions.find_actor(store, token) == ada
        assert (rows(store, Login)[0].seen_at != NOW - age) == is_written


def test_session_is_valid_even_if_its_use_cannot_be_recorded(
    store: Store, ada: Actor, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(store, Login, seen_at=NOW - sessions.LAST_USE_INTERVAL)

    def fail(self: Store) -> None:
        raise StoreFailed(verbatim("the disk is full"))

    monkeypatch.setattr(Store, "write", fail)
    assert sessions.find_actor(store, token) == ada


def test_role_is_read_at_each_command(store: Store, token: str) -> None:
    change(store, User, role=Role.EDITOR)
    assert sessions.find_actor(store, token).role == Role.EDITOR


def test_ended_sessions_are_deleted(store: Store, ada: Actor, token: str) -> None:
    def add(db: Session, name: str, expires_at: datetime, seen_at: datetime) -> None:
        row = Login(user_id=ada.user_id, token_hash=name, created_at=NOW, seen_at=seen_at, expires_at=expires_at)
        db.add(row)

    with store.write() as db:
        add(db, "expired", NOW, NOW)
        add(db, "idle", NOW + SECOND, NOW - session_rule.IDLE_LIMIT)
        add(db, "valid", NOW + SECOND, NOW - session_rule.IDLE_LIMIT + SECOND)
    with store.write() as db:
        sessions.delete_expired(db, NOW)
    assert [login.token_hash for login in rows(store, Login)][1:] == ["valid"]

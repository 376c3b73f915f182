"""Sessions: who a token stands for, and when it stands for nobody any more."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlmodel import Session, select
from support.sending import rows

from skychimp.errors import StoreFailed
from skychimp.models import Login, Role, User
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services.accounts import sessions
from skychimp.store.database import Store

NOW = datetime.now(UTC)
SECOND = timedelta(seconds=1)


@pytest.fixture
def token(store: Store, ada: Actor) -> str:
    """Ada's."""
    with store.write() as db:
        return sessions.start(db, ada.user_id, NOW)


def change(store: Store, table: type[User] | type[Login], **values: object) -> None:
    with store.write() as db:
        row = db.exec(select(table)).one()
        for name, value in values.items():
            setattr(row, name, value)


def test_a_token_stands_for_its_user(store: Store, ada: Actor, token: str) -> None:
    assert sessions.actor(store, token) == ada


@pytest.mark.parametrize("nobodys", [None, "", "nobody's", "\udcff", "' OR 1=1 --"])
def test_no_token_or_an_unknown_one_is_a_guest(store: Store, token: str, nobodys: str | None) -> None:
    assert sessions.actor(store, nobodys) == ANONYMOUS


def test_a_token_is_random_and_does_not_lie_in_the_store(store: Store, ada: Actor, token: str) -> None:
    with store.write() as db:
        other = sessions.start(db, ada.user_id, NOW)
    assert other != token
    assert len(token) >= 43  # 256 bits
    held = b"".join(path.read_bytes() for path in store.path.parent.iterdir() if path.is_file())
    assert token.encode() not in held


@pytest.mark.parametrize(
    "end",
    [
        lambda store: change(store, Login, expires_at=NOW),
        lambda store: change(store, Login, seen_at=NOW - sessions.IDLE),
        lambda store: change(store, User, blocked_at=NOW),
        lambda store: change(store, User, verified_at=None),
    ],
    ids=["too old", "not used for long", "blocked", "unverified"],
)
def test_a_session_that_has_ended(store: Store, token: str, end: Callable[[Store], None]) -> None:
    end(store)
    assert sessions.actor(store, token) == ANONYMOUS


def test_a_session_ends_at_last_however_often_it_is_used(store: Store, token: str) -> None:
    (login,) = rows(store, Login)
    assert login.expires_at - NOW == sessions.LIFE
    change(store, Login, created_at=NOW - sessions.LIFE, seen_at=NOW - 2 * sessions.SEEN_EVERY)
    sessions.actor(store, token)
    assert rows(store, Login)[0].expires_at == login.expires_at


def test_being_used_keeps_it_and_is_written_once_an_hour(store: Store, ada: Actor, token: str) -> None:
    change(store, Login, seen_at=NOW - sessions.IDLE + timedelta(hours=1))
    assert sessions.actor(store, token) == ada
    (login,) = rows(store, Login)
    assert login.seen_at >= NOW
    for age, is_written in ((sessions.SEEN_EVERY / 2, False), (sessions.SEEN_EVERY, True)):
        change(store, Login, seen_at=NOW - age)
        assert sessions.actor(store, token) == ada
        assert (rows(store, Login)[0].seen_at != NOW - age) == is_written


def test_a_store_that_can_not_be_written_lets_in_all_the_same(
    store: Store, ada: Actor, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(store, Login, seen_at=NOW - sessions.SEEN_EVERY)

    def fail(self: Store) -> None:
        raise StoreFailed("the disk is full")

    monkeypatch.setattr(Store, "write", fail)
    assert sessions.actor(store, token) == ada


def test_a_role_counts_from_the_next_command(store: Store, token: str) -> None:
    change(store, User, role=Role.EDITOR)
    assert sessions.actor(store, token).role == Role.EDITOR


def test_what_has_ended_by_itself_is_forgotten(store: Store, ada: Actor, token: str) -> None:
    def add(db: Session, name: str, expires_at: datetime, seen_at: datetime) -> None:
        row = Login(user_id=ada.user_id, token_hash=name, created_at=NOW, seen_at=seen_at, expires_at=expires_at)
        db.add(row)

    with store.write() as db:
        add(db, "too old", NOW, NOW)
        add(db, "idle", NOW + SECOND, NOW - sessions.IDLE)
        add(db, "neither", NOW + SECOND, NOW - sessions.IDLE + SECOND)
    with store.write() as db:
        sessions.forget(db, NOW)
    assert [login.token_hash for login in rows(store, Login)][1:] == ["neither"]

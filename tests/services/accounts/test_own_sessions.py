"""One's own sessions: which are listed, and which can be ended."""

from datetime import UTC, datetime

import pytest
from sqlmodel import col, update
from support.sending import rows

from skychimp.errors import NotFound, NotLoggedIn
from skychimp.models import AuditEntry, Login
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services.accounts import own_sessions, session_rule, sessions
from skychimp.store.database import Store

NOW = datetime.now(UTC)


def start(store: Store, actor: Actor) -> str:
    with store.write() as db:
        return sessions.start(db, actor.user_id, NOW)


@pytest.fixture
def token(store: Store, ada: Actor) -> str:
    """Return the token of a session of Ada's."""
    return start(store, ada)


@pytest.fixture
def others(store: Store, bob: Actor) -> str:
    """Return the token of a session of Bob's."""
    return start(store, bob)


@pytest.mark.usefixtures("others")
def test_own_valid_sessions_are_listed(store: Store, ada: Actor, token: str) -> None:
    ids = [login.id for login in rows(store, Login) if login.user_id == ada.user_id]
    newer = start(store, ada)
    listed = own_sessions.list_sessions(store, ada, newer)
    assert [session.current for session in listed] == [False, True]
    assert [listed[0].id] == ids
    assert (listed[0].created_at, listed[0].last_used_at) == (NOW, NOW)
    assert listed[0].ends_at == NOW + session_rule.IDLE_LIMIT
    with store.write() as db:
        db.exec(update(Login).where(col(Login.id) == listed[0].id).values(seen_at=NOW - session_rule.IDLE_LIMIT))
    assert [session.current for session in own_sessions.list_sessions(store, ada, None)] == [False]
    assert token not in repr(listed)


def test_one_session_is_ended(store: Store, ada: Actor, token: str, others: str) -> None:
    newer = start(store, ada)
    own = own_sessions.list_sessions(store, ada, token)
    (ended,) = own_sessions.end(store, ada, token, [str(own[1].id)] * 2)
    assert (ended.id, ended.current) == (own[1].id, False)
    assert [sessions.find_actor(store, each).user_id for each in (token, newer, others)] == [1, 0, 2]
    assert [(row.actor_id, row.action, row.object_id) for row in rows(store, AuditEntry)] == [
        (1, "session end", ended.id)
    ]


def test_all_sessions_are_ended_with_the_current_one(store: Store, ada: Actor, token: str, others: str) -> None:
    newer = start(store, ada)
    ended = own_sessions.end(store, ada, token, [], everything=True)
    assert [session.current for session in ended] == [True, False]
    assert [sessions.find_actor(store, each).user_id for each in (token, newer, others)] == [0, 0, 2]


@pytest.mark.parametrize("unknown", ["", "0", "-1", "x", "9" * 30, "1 OR 1=1", "01", " 1", "\udcff", "²"])
def test_other_sessions_are_not_found_and_nothing_is_ended(
    store: Store, ada: Actor, token: str, others: str, unknown: str
) -> None:
    first, bobs = (str(login.id) for login in rows(store, Login))
    for ids in ([unknown], [first, unknown], [bobs], [first, bobs]):
        with pytest.raises(NotFound):
            own_sessions.end(store, ada, token, ids)
    assert [sessions.find_actor(store, each).user_id for each in (token, others)] == [1, 2]


def test_nobody_has_no_sessions(store: Store, token: str) -> None:
    with pytest.raises(NotLoggedIn):
        own_sessions.list_sessions(store, ANONYMOUS, token)
    with pytest.raises(NotLoggedIn):
        own_sessions.end(store, ANONYMOUS, token, [], everything=True)

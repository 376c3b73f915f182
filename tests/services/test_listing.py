"""Scopes and list options: each service shows and changes what `authorize` allows, and nothing else."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import select
from support import ledger_rows

from skychimp import permissions
from skychimp.errors import InvalidValue, NotFound
from skychimp.models import Client, DeliveryState, Outcome, Role
from skychimp.permissions import Action, Actor, Scope
from skychimp.services.blog import posts
from skychimp.services.clients import clients
from skychimp.services.listing import ListOptions, apply, in_scope
from skychimp.services.mailings import mailings
from skychimp.services.messages import messages
from skychimp.services.operations import unknown_deliveries
from skychimp.services.reporting import address_history, reports
from skychimp.services.reporting.home import home
from skychimp.store.database import Store

ALL = ListOptions()
EMAIL = "grace@example.org"


@pytest.fixture
def bobs_mailing(store: Store, ada: Actor, bob: Actor) -> int:
    """Give Ada and Bob a client, a post, a message, a mailing and an unknown delivery each. Return Bob's mailing."""
    for owner in (ada, bob):
        clients.create(store, owner, email=EMAIL)
        posts.create(store, replace(owner, role=Role.EDITOR), title="Hello", content="Hello")
        mailing_id = ledger_rows.mailing(store, owner)
        occurrence_id = ledger_rows.occurrence(store, mailing_id)
        ledger_rows.delivery(store, occurrence_id, EMAIL, DeliveryState.UNKNOWN, None)
    return mailing_id


LISTS: list[tuple[Action, Callable[[Store, Actor], int]]] = [
    (Action.SEE_CLIENTS, lambda store, actor: len(list(clients.list_clients(store, actor, ALL)))),
    (Action.SEE_CLIENTS, lambda store, actor: clients.count(store, actor)),
    (Action.WRITE_POSTS, lambda store, actor: len(list(posts.list_posts(store, actor, ALL, unpublished=True)))),
    (Action.SEE_MESSAGES, lambda store, actor: len(list(messages.list_messages(store, actor, ALL)))),
    (Action.SEE_MAILINGS, lambda store, actor: len(list(mailings.list_mailings(store, actor, ALL)))),
    (Action.RESOLVE_DELIVERIES, lambda store, actor: len(list(unknown_deliveries.list_unknown(store, actor)))),
    (
        Action.SEE_REPORTS,
        lambda store, actor: len(address_history.address_history(store, actor, EMAIL).clients),
    ),
]
"""An action, and how many objects a service finds for the actor."""


@pytest.mark.usefixtures("bobs_mailing")
@pytest.mark.parametrize(("scope", "count"), [(Scope.OWN, 1), (Scope.ALL, 2)])
@pytest.mark.parametrize(("action", "find"), LISTS)
def test_list_has_the_objects_in_scope(
    store: Store,
    ada: Actor,
    monkeypatch: pytest.MonkeyPatch,
    action: Action,
    find: Callable[[Store, Actor], int],
    scope: Scope,
    count: int,
) -> None:
    monkeypatch.setitem(permissions.TABLE, action, {Role.USER: scope})
    assert find(store, ada) == count


CHANGES: list[tuple[Action, Callable[[Store, Actor, int], object]]] = [
    (Action.SEE_CLIENTS, lambda store, actor, _: clients.show(store, actor, "2")),
    (Action.WRITE_POSTS, lambda store, actor, _: posts.find(store, actor, "2")),
    (Action.WRITE_POSTS, lambda store, actor, _: posts.view(store, actor, "2")),
    (Action.WRITE_POSTS, lambda store, actor, _: posts.change(store, actor, "2", title="New")),
    (Action.WRITE_POSTS, lambda store, actor, _: posts.remove(store, actor, "2")),
    (Action.CHANGE_CLIENTS, lambda store, actor, _: clients.change(store, actor, "2", name="New")),
    (Action.CHANGE_CLIENTS, lambda store, actor, _: clients.remove(store, actor, "2")),
    (Action.SEE_MESSAGES, lambda store, actor, _: messages.show(store, actor, 2)),
    (Action.CHANGE_MESSAGES, lambda store, actor, _: messages.change(store, actor, 2, subject="New")),
    (Action.SEE_MAILINGS, lambda store, actor, mailing: mailings.show(store, actor, mailing)),
    (Action.CHANGE_MAILINGS, lambda store, actor, mailing: mailings.remove(store, actor, mailing)),
    (Action.DISABLE_MAILINGS, lambda store, actor, mailing: mailings.disable(store, actor, mailing)),
    (
        Action.RESOLVE_DELIVERIES,
        lambda store, actor, _: unknown_deliveries.resolve(store, actor, unknown_deliveries.Resolution.SENT, ids=[2]),
    ),
]
"""An action, and a service that does it to something of Bob's."""


@pytest.mark.parametrize(("action", "act"), CHANGES)
def test_another_users_object_is_found_only_in_scope(
    store: Store,
    ada: Actor,
    bobs_mailing: int,
    monkeypatch: pytest.MonkeyPatch,
    action: Action,
    act: Callable[[Store, Actor, int], object],
) -> None:
    for seen in (Action.SEE_CLIENTS, Action.SEE_MESSAGES, Action.SEE_MAILINGS):
        monkeypatch.setitem(permissions.TABLE, seen, {Role.USER: Scope.ALL})
    monkeypatch.setitem(permissions.TABLE, action, {Role.USER: Scope.OWN})
    with pytest.raises(NotFound):
        act(store, ada, bobs_mailing)
    monkeypatch.setitem(permissions.TABLE, action, {Role.USER: Scope.ALL})
    act(store, ada, bobs_mailing)


@pytest.mark.usefixtures("bobs_mailing")
def test_home_page_counts_unknown_deliveries_in_scope(
    store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for scope, number in ((Scope.OWN, "1"), (Scope.ALL, "2")):
        monkeypatch.setitem(permissions.TABLE, Action.RESOLVE_DELIVERIES, {Role.USER: scope})
        (concern,) = [repr(concern) for concern in home(store, ada).attention if "unknown" in repr(concern)]
        assert number in concern


@pytest.mark.usefixtures("bobs_mailing")
def test_range_report_counts_attempts_in_scope(store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)
    for delivery_id in (1, 2):
        ledger_rows.attempt(store, delivery_id, Outcome.FAILED, "550 no", now)
    for scope, number in ((Scope.OWN, 1), (Scope.ALL, 2)):
        monkeypatch.setitem(permissions.TABLE, Action.SEE_REPORTS, {Role.USER: scope})
        report = reports.range_report(store, ada, now.date(), now.date(), "UTC")
        assert [group.attempts for group in report.failures] == [number]


def test_condition_selects_the_rows_in_scope(store: Store, ada: Actor, bob: Actor) -> None:
    client = Client.__table__
    for owner in (ada, bob):
        clients.create(store, owner, email=EMAIL)
    with store.read() as db:
        owners = {
            scope: set(db.scalars(select(client.c.owner_id).where(in_scope(scope, ada, client.c.owner_id))))
            for scope in Scope
        }
    assert owners == {Scope.OWN: {ada.user_id}, Scope.ALL: {ada.user_id, bob.user_id}}


def test_unknown_column_to_sort_by_is_invalid() -> None:
    client = Client.__table__
    with pytest.raises(InvalidValue) as caught:
        apply(
            select(client),
            ListOptions(sort="-age"),
            searched=(),
            sorted_by={"id": client.c.id, "email": client.c.email},
        )
    assert (caught.value.message, caught.value.hint) == ('cannot sort by "-age"', "choose one of: id, email")

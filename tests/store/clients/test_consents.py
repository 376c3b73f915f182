"""Consents are a history of an address: nothing is overwritten, the newest counts, and forgetting keeps the proof."""

from collections.abc import Sequence
from datetime import datetime
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.queue_steps import (
    DAY,
    NOW,
    create_client,
    create_deliveries,
    create_mailing,
    delivery_states,
    open_due,
    rows,
    update_row,
    write,
)

from skychimp.models import Client, Consent, ConsentSource, Delivery, DeliveryState, Every
from skychimp.permissions import Actor
from skychimp.services.mailings import mailings, recipients, retries
from skychimp.services.mailings.audience_input import Audience
from skychimp.services.mailings.forecast import forecast
from skychimp.services.mailings.schedules import ScheduleInput
from skychimp.services.reporting.address_history import address_history
from skychimp.store.clients import consents
from skychimp.store.clients.audience import NO_CONSENT, AudienceCount
from skychimp.store.clients.consents import NewConsent
from skychimp.store.database import Store

ANN, BEN = "ann@example.org", "ben@example.org"
COMMAND, IMPORT = ConsentSource.COMMAND, ConsentSource.IMPORT


def record(
    store: Store,
    owner: Actor,
    *given: NewConsent,
    source: ConsentSource = COMMAND,
    now: datetime = NOW,
) -> None:
    write(store, lambda db: consents.record(db, owner.user_id, given, source, now))


def forget(store: Store, owner: Actor, key: str, now: datetime) -> int:
    return write(store, lambda db: consents.forget(db, key, owner.user_id, now))


def times(store: Store) -> dict[str, datetime | None]:
    """Return when each client agreed, by the local part of the address and the owner's id."""
    return {f"{row.email.partition('@')[0]}{row.owner_id}": row.consent_at for row in rows(store, Client)}


def test_newest_consent_counts_whatever_the_order(store: Store, ada: Actor, bob: Actor) -> None:
    for owner in (ada, bob):
        create_client(store, owner, "ann")
        create_client(store, owner, "ben")

    record(store, ada, NewConsent(ANN, NOW, "new"))
    record(store, ada, NewConsent(ANN, NOW - DAY, "old"))
    record(store, bob, NewConsent(BEN, NOW - DAY, "old", "form.pdf"), NewConsent(BEN, NOW, "new"))

    assert times(store) == {"ann1": NOW, "ben1": None, "ann2": None, "ben2": NOW}
    assert [row.wording for row in rows(store, Consent)] == ["new", "old", "old", "new"]


@pytest.mark.parametrize(
    ("other", "source", "is_added"),
    [
        (NewConsent(ANN, NOW, "news", "form.pdf"), COMMAND, False),
        (NewConsent(ANN, NOW, "news", "form.pdf"), IMPORT, True),
        (NewConsent(ANN, NOW, "news", "other.pdf"), COMMAND, True),
        (NewConsent(ANN, NOW, "offers", "form.pdf"), COMMAND, True),
        (NewConsent(ANN, NOW - DAY, "news", "form.pdf"), COMMAND, True),
        (NewConsent(BEN, NOW, "news", "form.pdf"), COMMAND, True),
    ],
)
def test_same_consent_is_recorded_once(
    store: Store, ada: Actor, other: NewConsent, source: ConsentSource, is_added: bool
) -> None:
    record(store, ada, NewConsent(ANN, NOW, "news", "form.pdf"), NewConsent(ANN, NOW, "news", "form.pdf"))
    record(store, ada, other, source=source)
    assert len(rows(store, Consent)) == 1 + is_added


def test_forgotten_person_leaves_the_proof_and_no_permission(store: Store, ada: Actor, bob: Actor) -> None:
    """Neither does an older consent that is recorded later, such as that of a file. A newer one counts."""
    record(store, ada, NewConsent(ANN, NOW - DAY, "news", "ann.pdf"))
    record(store, bob, NewConsent(ANN, NOW - DAY, "news", "ann.pdf"))
    forgotten = forget(store, ada, ANN, NOW)
    create_client(store, ada, "ann")
    write(store, lambda db: consents.recall(db, ada.user_id, [ANN]))

    old, same = NewConsent(ANN, NOW - 2 * DAY, "earlier", "x.pdf"), NewConsent(ANN, NOW - DAY, "news", "ann.pdf")
    for _ in range(2):
        record(store, ada, old, same)
    assert forgotten == 1
    assert times(store) == {"ann1": None}
    assert [(row.owner_id, row.wording, row.proof, row.forgotten_at) for row in rows(store, Consent)] == [
        (1, "news", "", NOW),
        (2, "news", "ann.pdf", None),
        (1, "earlier", "", NOW),
    ]

    record(store, ada, NewConsent(ANN, NOW + DAY, "again"))
    assert times(store) == {"ann1": NOW + DAY}


def test_all_users_can_be_made_to_forget(store: Store, ada: Actor, bob: Actor) -> None:
    for owner in (ada, bob):
        record(store, owner, NewConsent(ANN, NOW, "news"), NewConsent(BEN, NOW, "news"))
    assert write(store, lambda db: consents.forget(db, ANN, None, NOW)) == 2
    assert [row.forgotten_at for row in rows(store, Consent)] == [NOW, None, NOW, None]


EVENTS = st.lists(st.tuples(st.sampled_from(["record", "forget", "delete", "create"]), st.integers(-3, 0)), max_size=12)
_owner_numbers = count(1_000)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(EVENTS)
def test_client_has_the_newest_consent_since_it_was_forgotten(
    store: Store, ada: Actor, events: Sequence[tuple[str, int]]
) -> None:
    """Against the rule written down again: whatever happens, a client has no other time of consent."""
    name = f"ann{next(_owner_numbers)}"  # a person for each example
    key = f"{name}@example.org"
    given_times: list[datetime] = []
    forgotten_at, has_client = None, False
    for day, (event, offset) in enumerate(events):
        now = NOW + day * DAY
        if event == "record":
            record(store, ada, NewConsent(key, now + offset * DAY, "news"), now=now)
            if forgotten_at is None or now + offset * DAY > forgotten_at:
                given_times.append(now + offset * DAY)
        elif event == "create" and not has_client:
            create_client(store, ada, name)
            write(store, lambda db: consents.recall(db, ada.user_id, [key]))
            has_client = True
        elif event in ("forget", "delete"):
            if event == "forget":
                forget(store, ada, key, now)
                forgotten_at, given_times = now if given_times or forgotten_at else None, []
            with store.write() as db:
                for client in rows(store, Client):
                    if client.email == key:
                        db.delete(db.get_one(Client, client.id))
            has_client = False
        found = [client.consent_at for client in rows(store, Client) if client.email == key]
        assert found == ([max(given_times, default=None)] if has_client else [])


# A required consent

REASONS = {"ann": None, "ben": NO_CONSENT, "cat": "bad address since 2026-03-02 09:00:00+00:00"}


@pytest.mark.parametrize("require_consent", [False, True])
def test_all_agree_who_has_no_consent(store: Store, ada: Actor, require_consent: bool) -> None:
    ids = {
        "ann": create_client(store, ada, "ann"),
        "ben": create_client(store, ada, "ben"),
        "cat": create_client(store, ada, "cat", bad_at=NOW),
    }
    record(store, ada, NewConsent(ANN, NOW, "news"))
    mailing_id = create_mailing(store, ada)
    expected = {name: reason if require_consent or reason != NO_CONSENT else None for name, reason in REASONS.items()}
    counted = AudienceCount(1, 0, 1, 1) if require_consent else AudienceCount(2, 0, 1, 0)

    def by_name(found: Sequence[tuple[str, str | None]]) -> dict[str, str | None]:
        return {email.partition("@")[0]: reason for email, reason in found}

    listed = recipients.list_recipients(store, ada, mailing_id, require_consent=require_consent)
    assert by_name([(row.email, row.left_out) for row in listed]) == expected
    left_out = recipients.list_recipients(store, ada, mailing_id, only_left_out=True, require_consent=require_consent)
    assert by_name([(row.email, row.left_out) for row in left_out]) == {
        name: reason for name, reason in expected.items() if reason
    }
    forecast_rows = forecast(store, NOW, require_consent=require_consent)
    assert by_name([(row.email, row.left_out) for row in forecast_rows]) == expected
    for name, reason in expected.items():
        history = address_history(store, ada, f"{name}@example.org", require_consent=require_consent)
        assert [row.reason for row in history.coming] == [reason]
    assert recipients.count_recipients(store, ada, mailing_id, require_consent=require_consent) == counted
    assert recipients.count_when_enabled(store, ada, mailing_id, require_consent=require_consent).no_consent == (
        counted.no_consent if require_consent else 0
    )
    for audience in (Audience(all_clients=True), Audience(client_ids=tuple(ids.values()))):
        before = mailings.count_recipients_of_new(
            store,
            ada,
            message_id=1,
            schedule=ScheduleInput("now", None, Every.ONCE, "UTC"),
            audience=audience,
            require_consent=require_consent,
        )
        assert before == counted

    open_due(store)
    create_deliveries(store, require_consent=require_consent)
    assert set(delivery_states(store)) == {name for name, reason in expected.items() if reason is None}


def test_retry_leaves_out_who_has_no_consent(store: Store, ada: Actor) -> None:
    create_client(store, ada, "ann")
    create_client(store, ada, "ben")
    record(store, ada, NewConsent(ANN, NOW, "news"))
    mailing_id = create_mailing(store, ada)
    open_due(store)
    create_deliveries(store)
    for delivery_id in (1, 2):
        update_row(store, Delivery, delivery_id, state=DeliveryState.FAILED, next_try_at=None)

    counted = retries.count(store, ada, mailing_id, require_consent=True)
    assert (counted.queued, counted.left_out) == (1, 1)
    assert retries.retry(store, ada, mailing_id, require_consent=True) == counted
    assert delivery_states(store) == {"ann": "queued", "ben": "failed"}

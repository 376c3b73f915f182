"""What comes back is counted once, shown as a rate, and holds its mailing once if it is too much."""

import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from conftest import create_user
from sqlalchemy import insert
from support.queue_steps import (
    MINUTE,
    NOW,
    claim,
    close_leases,
    create_deliveries,
    create_mailing,
    get_row,
    make_attempt,
    open_due,
    record_attempts,
    rows,
    send,
    update_row,
    write,
)
from support.returned import bounce, complaint, return_path

from skychimp.config.settings import InboundSettings
from skychimp.models import (
    Client,
    Every,
    Mailing,
    MailingStatus,
    Occurrence,
    Outcome,
    ReturnCount,
    ReturnedKind,
    ReturnedMail,
)
from skychimp.permissions import Actor
from skychimp.return_rates import Limits, RateKind, ReturnCounts
from skychimp.services.clients import clients
from skychimp.services.inbound import processing
from skychimp.services.inbound.processing import ReceivedMail, Result
from skychimp.services.mailings import mailings
from skychimp.services.operations import housekeeping
from skychimp.services.reporting import reports, returns, rollups
from skychimp.store import holds, returned_mail
from skychimp.store.database import Store
from skychimp.store.occurrences import canary, return_counts

NO_USER, FULL = "550 5.1.1 no such user", "552 5.2.2 mailbox full"
LIMITS = Limits(0.05, 0.003)


def open_to_many(store: Store, owner: Actor, number: int, **more: object) -> None:
    """Open mailing 1 to clients with the ids 1 to `number`, and create its deliveries."""
    emails = [f"c{n}@example.org" for n in range(1, number + 1)]
    common = {"owner_id": owner.user_id, "name": "", "comment": "", "created_at": NOW}
    values = [{"email": each, "address_key": each, **common} for each in emails]
    write(store, lambda db: db.execute(insert(Client), values))
    create_mailing(store, owner, **more)  # type: ignore[arg-type]
    open_due(store)
    create_deliveries(store)


def send_to_many(store: Store, owner: Actor, number: int, **more: object) -> None:
    """Send mailing 1 to as many clients. The deliveries have the ids 1 to `number`."""
    open_to_many(store, owner, number, **more)
    while claims := claim(store):
        send(store, 1, Outcome.SENT, *claims)
        close_leases(store)


def bounces(store: Store, delivery_ids: Sequence[int], reply: str = NO_USER, **more: str) -> list[ReceivedMail]:
    return [ReceivedMail(bounce(f"c{n}@example.org", reply, **more), return_path(store, n)) for n in delivery_ids]


def complaints(store: Store, delivery_ids: Sequence[int]) -> list[ReceivedMail]:
    return [ReceivedMail(complaint(f"Return-Path: <{return_path(store, n)}>\n\n")) for n in delivery_ids]


def receive(store: Store, received: list[ReceivedMail], limits: Limits = LIMITS) -> Sequence[Result]:
    return processing.process(store, InboundSettings(), received, limits).results


def held(store: Store) -> str | None:
    return get_row(store, Mailing, 1).held_reason


# Counting


def test_each_kind_counts_once_for_an_email(store: Store, ada: Actor) -> None:
    send_to_many(store, ada, 4)
    receive(store, bounces(store, [1, 2]) + bounces(store, [3], FULL, status="5.2.2"))
    receive(store, bounces(store, [1], date="another report"))
    receive(store, bounces(store, [3], date="another kind"))
    receive(store, [*complaints(store, [4]), *complaints(store, [4])])

    (counted,) = rows(store, ReturnCount)
    assert (counted.bounced, counted.soft_bounce, counted.policy_bounce, counted.complaint) == (3, 1, 0, 1)
    report = reports.mailing_report(store, ada, 1)
    assert report.returned == {"bounced": 3, "soft_bounce": 1, "policy_bounce": 0, "complaint": 1}
    assert [(rate.kind, rate.emails, rate.of, rate.rate) for rate in report.rates] == [
        ("bounces", 3, 4, 0.75),
        ("complaints", 1, 4, 0.25),
    ]
    assert report.occurrences[0].rates == report.rates
    assert (mailing := mailings.show(store, ada, 1)).bounces == 3
    assert mailing.complaints == 1


def test_report_without_a_token_does_not_count(store: Store, ada: Actor) -> None:
    send_to_many(store, ada, 60)
    update_row(store, Occurrence, 1, opened_at=store.now())
    forged = [ReceivedMail(bounce(f"c{n}@example.org", NO_USER)) for n in range(1, 31)]
    assert receive(store, forged) == [Result.BOUNCE] * 30

    assert len(rows(store, ReturnedMail)) == 30
    assert rows(store, ReturnCount) == []
    assert held(store) is None


def test_reports_about_one_email_are_kept_up_to_a_number(store: Store, ada: Actor) -> None:
    send_to_many(store, ada, 1)
    for first in (0, 15, 30):
        receive(store, [mail for n in range(first, first + 15) for mail in bounces(store, [1], date=f"report {n}")])
    assert len(rows(store, ReturnedMail)) == returned_mail.MOST_OF_DELIVERY
    assert [row.bounced for row in rows(store, ReturnCount)] == [1]


def test_refusals_of_wrong_addresses_are_bounces(store: Store, ada: Actor) -> None:
    open_to_many(store, ada, 10)
    claims = claim(store)
    wrong, refused, sent = claims[:3], claims[3:5], claims[5:]
    record_attempts(store, 1, *(make_attempt(each, Outcome.FAILED, bad_address=True) for each in wrong))
    record_attempts(store, 1, *(make_attempt(each, Outcome.FAILED) for each in refused))
    send(store, 1, Outcome.SENT, *sent)
    close_leases(store)
    receive(store, bounces(store, [sent[0].id]))

    bounced, _ = reports.mailing_report(store, ada, 1).rates
    assert (bounced.emails, bounced.of, bounced.rate) == (4, 8, 0.5)


def test_users_see_the_rates_of_their_own_last_30_days(store: Store, ada: Actor) -> None:
    send_to_many(store, ada, 20)
    receive(store, bounces(store, [1]) + complaints(store, [2]))
    bob = create_user(store, "bob")

    def counts(owner: Actor, later: timedelta = timedelta()) -> ReturnCounts | None:
        with store.read() as db:
            return returns.own_counts(db.connection(), owner.user_id, NOW + later)

    assert counts(ada) == ReturnCounts(sent=20, bounced=1, complaints=1)  # no attempt is added up yet
    rollups.count_new_attempts(store)
    assert counts(ada) == ReturnCounts(sent=20, bounced=1, complaints=1)
    assert counts(bob) == counts(ada, returns.OWN_PERIOD) == ReturnCounts()


def test_rates_are_left_out_while_they_take_too_long(store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    send_to_many(store, ada, 2)
    monkeypatch.setattr(returns, "MAX_UNCOUNTED", 1)
    with store.read() as db:
        assert returns.own_counts(db.connection(), ada.user_id, NOW) is None


# Holding


def test_mailing_with_too_many_bounces_is_held_once(store: Store, ada: Actor) -> None:
    send_to_many(store, ada, 200, every=Every.DAY)
    receive(store, bounces(store, range(1, 10)))
    assert held(store) is None

    receive(store, bounces(store, [10]))
    assert held(store) == mailings.show(store, ada, 1).held
    assert held(store) == "5 % of its emails bounced (10 of 200), the limit is 5 %"
    assert [each.id for each in write(store, holds.held_mailings)] == [1]

    mailings.enable(store, ada, 1)
    receive(store, bounces(store, range(11, 15)))
    assert held(store) is None  # a person knows


def test_next_due_time_is_judged_anew(store: Store, ada: Actor) -> None:
    send_to_many(store, ada, 100, every=Every.DAY)
    receive(store, bounces(store, range(1, 11)))
    mailings.enable(store, ada, 1)

    tomorrow = NOW + timedelta(days=1)
    open_due(store, tomorrow)
    create_deliveries(store, 2)
    claims = claim(store, now=tomorrow, occurrence_id=2)
    send(store, 1, Outcome.SENT, *claims, now=tomorrow)
    receive(store, bounces(store, [each.id for each in claims[:9]]))
    assert held(store) is None
    receive(store, bounces(store, [claims[9].id]))
    assert held(store) == "11.1 % of its emails bounced (10 of 90), the limit is 5 %"


def test_mailing_with_too_many_complaints_is_held(store: Store, ada: Actor) -> None:
    send_to_many(store, ada, 1_000)
    receive(store, bounces(store, range(1, 40)))
    receive(store, complaints(store, [41, 42]))
    assert held(store) is None
    receive(store, complaints(store, [43]))
    assert held(store) == "0.3 % of its emails were marked as spam (3 of 1,000), the limit is 0.3 %"


@pytest.mark.parametrize("limits", [Limits(1, 1), Limits(0.3, 1)])
def test_limits_can_be_changed(store: Store, ada: Actor, limits: Limits) -> None:
    send_to_many(store, ada, 60)
    receive(store, bounces(store, range(1, 16)), limits)
    assert held(store) is None


def test_email_that_was_sent_just_now_counts(store: Store, ada: Actor) -> None:
    """Emails are judged by all that were sent, however little of that is added up or in the deliveries' own rows."""
    open_to_many(store, ada, 300)
    send(store, 1, Outcome.SENT, *claim(store))
    receive(store, bounces(store, range(1, 15)))
    assert held(store) is None
    receive(store, bounces(store, [15]))
    assert held(store) == "5 % of its emails bounced (15 of 300), the limit is 5 %"


def test_mailing_that_is_held_already_keeps_its_reason(store: Store, ada: Actor) -> None:
    send_to_many(store, ada, 100)
    write(store, lambda db: holds.hold_mailing(db, 1, "refused", None, NOW))
    receive(store, bounces(store, range(1, 12)))
    assert held(store) == "refused"

    mailings.enable(store, ada, 1)
    receive(store, bounces(store, [12]))
    assert held(store) == "12 % of its emails bounced (12 of 100), the limit is 5 %"


def test_completed_mailing_is_held_for_a_later_retry(store: Store, ada: Actor) -> None:
    """It is no reason for a run to complain, as there is nothing to send."""
    send_to_many(store, ada, 60)
    update_row(store, Mailing, 1, status=MailingStatus.COMPLETED)
    receive(store, bounces(store, range(1, 12)))
    assert held(store) is not None
    assert write(store, holds.held_mailings) == []


def test_only_one_of_several_holds_a_mailing(store: Store, ada: Actor) -> None:
    send_to_many(store, ada, 60)
    receive(store, bounces(store, range(1, 12)), Limits(1, 1))
    start, results = threading.Barrier(4), []

    def hold() -> None:
        start.wait()
        results.append(write(store, lambda db: return_counts.hold(db, 1, RateKind.BOUNCES, "too many", NOW)))

    threads = [threading.Thread(target=hold) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results, key=str) == [1, None, None, None]


# The canary


def open_canary(store: Store, owner: Actor) -> list[int]:
    """Send 60 emails of the canary of mailing 1, and return their deliveries' ids. 40 clients wait for half an hour."""
    open_to_many(store, owner, 100, canary="60", canary_wait_s=1800)
    claims = claim(store)
    assert len(claims) == 60
    send(store, 1, Outcome.SENT, *claims)
    close_leases(store)
    return [claimed.id for claimed in claims]


def judge(store: Store) -> list[str | None]:
    until = NOW + 30 * MINUTE
    with store.read() as db:
        results = canary.count_results(db.connection(), until)
    return [judged.held_reason for judged in write(store, lambda db: canary.judge(db, until, results, 0.1))]


def test_canary_counts_what_came_back(store: Store, ada: Actor) -> None:
    first = open_canary(store, ada)
    receive(store, bounces(store, first[:5]) + bounces(store, first[5:6], FULL, status="5.2.2"))
    receive(store, complaints(store, first[6:7]))

    assert judge(store) == ["7 of 60 canary emails failed, came back or were marked as spam"]
    assert held(store) is not None


def test_canary_is_judged_alone_while_others_wait(store: Store, ada: Actor) -> None:
    """Its bounces hold its mailing once: the canary does, and only when the wait is over."""
    first = open_canary(store, ada)
    receive(store, bounces(store, first[:12]))
    assert held(store) is None
    assert judge(store) == ["12 of 60 canary emails failed, came back or were marked as spam"]

    mailings.enable(store, ada, 1)
    receive(store, bounces(store, first[12:14]))
    assert held(store) is None
    assert judge(store) == []


def test_canary_that_failed_for_another_reason_excuses_no_bounces(store: Store, ada: Actor) -> None:
    open_to_many(store, ada, 100, canary="60", canary_wait_s=1800)
    claims = claim(store)
    send(store, 1, Outcome.FAILED, *claims[:10])
    send(store, 1, Outcome.SENT, *claims[10:])
    close_leases(store)
    assert judge(store) == ["10 of 60 canary emails failed"]

    mailings.enable(store, ada, 1)
    receive(store, bounces(store, [each.id for each in claims[10:20]]))
    assert held(store) == "20 % of its emails bounced (10 of 50), the limit is 5 %"


def test_bounces_after_a_good_canary_hold_the_mailing(store: Store, ada: Actor) -> None:
    first = open_canary(store, ada)
    receive(store, bounces(store, first[:6]))
    assert judge(store) == [None]

    receive(store, bounces(store, first[6:10]))
    assert held(store) == "16.7 % of its emails bounced (10 of 60), the limit is 5 %"


# Good again, and old reports


def test_client_that_is_good_again_is_not_bad_after_one_soft_bounce(store: Store, ada: Actor) -> None:
    send_to_many(store, ada, 1)
    receive(store, bounces(store, [1], FULL, status="5.2.2", date="first"))
    write(store, lambda db: db.execute(ReturnedMail.__table__.update().values(at=store.now() - timedelta(days=3))))
    settings = InboundSettings(soft_bounces=2)

    def bounce_softly(date: str) -> None:
        processing.process(store, settings, bounces(store, [1], FULL, status="5.2.2", date=date))

    bounce_softly("second")
    assert get_row(store, Client, 1).bad_at is not None
    clients.change(store, ada, "1", good=True)
    bounce_softly("third")
    assert get_row(store, Client, 1).bad_at is None
    write(store, lambda db: db.execute(ReturnedMail.__table__.update().values(at=store.now() + timedelta(days=1))))
    bounce_softly("fourth")
    assert get_row(store, Client, 1).bad_at is not None


@pytest.mark.parametrize(
    ("keep_attempts", "kept"),
    [
        (None, ["100 days", "70 days", "10 days", "10 days"]),
        (timedelta(days=80), ["70 days", "10 days", "10 days"]),
        (timedelta(days=5), ["10 days", "10 days"]),
    ],
)
def test_old_reports_are_removed(store: Store, ada: Actor, keep_attempts: timedelta | None, kept: list[str]) -> None:
    send_to_many(store, ada, 1)
    ages = [(100, True), (100, False), (70, True), (70, False), (10, True), (10, False)]
    common: dict[str, Any] = {"delivery_id": 1, "address_hash": "", "kind": ReturnedKind.BOUNCED}
    with store.write() as db:
        for days, has_token in ages:
            at, digest = store.now() - timedelta(days=days), f"{days} days {has_token}"
            db.add(ReturnedMail(digest=digest, at=at, has_token=has_token, **common))
    housekeeping.tidy(store, keep_attempts=keep_attempts)
    assert [row.digest.rpartition(" ")[0] for row in rows(store, ReturnedMail)] == kept


def test_old_reports_are_removed_in_batches_and_their_counts_stay(store: Store, ada: Actor) -> None:
    send_to_many(store, ada, 5)
    receive(store, bounces(store, range(1, 6)))
    later = store.now() + timedelta(days=1)
    assert [write(store, lambda db: returned_mail.delete_old(db, later, later, batch=2)) for _ in range(3)] == [
        True,
        True,
        False,
    ]
    assert rows(store, ReturnedMail) == []
    assert reports.mailing_report(store, ada, 1).returned["bounced"] == 5

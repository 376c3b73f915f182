"""Test that deliveries with an unknown outcome are listed and resolved."""

from datetime import timedelta
from pathlib import Path

import pytest
from support import queue_steps
from support.queue_steps import claim, open_mailing
from support.sending import attempts, create_mailing, deliveries, make_settings, rows, send, state_counts
from support.servers import CountingReceiver, ScriptedServer, Step, read_body, read_envelope, read_line

from skychimp.errors import Conflict, Denied, NotFound
from skychimp.models import AuditEntry, DeliveryState, Mailing, MailingStatus, OccurrenceState, Outcome
from skychimp.models import Occurrence as OccurrenceRow
from skychimp.permissions import Actor
from skychimp.services.mailings import mailings
from skychimp.services.operations import unknown_deliveries as service
from skychimp.services.operations.unknown_deliveries import Resolution
from skychimp.services.reporting import reports
from skychimp.store.database import Store

SILENT: list[Step] = [
    b"220 x\r\n",
    read_line,
    b"250-x\r\n250 PIPELINING\r\n",
    read_envelope,
    b"250 a\r\n250 b\r\n354 c\r\n",
]
DAY = timedelta(days=1)


@pytest.fixture
def unknown_id(store: Store, ada: Actor) -> int:
    """Create an unknown delivery of Ada's that waits for a person's decision."""
    with ScriptedServer([*SILENT, read_body]) as server:  # closes the connection after the final dot
        create_mailing(store, ada, ["bob@example.org"])
        send(store, make_settings(server.port, delivery__unknown="hold"))
    assert state_counts(store) == {DeliveryState.UNKNOWN: 1}
    return deliveries(store)[0].id or 0


def test_unknown_delivery_is_listed_for_its_owner_and_admins(
    store: Store, ada: Actor, bob: Actor, admin: Actor, unknown_id: int
) -> None:
    assert [row.id for row in service.list_unknown(store, ada)] == [unknown_id]
    (shown,) = service.list_unknown(store, admin)
    assert (shown.email, shown.phase, shown.queue_id) == ("bob@example.org", "dot", "")
    assert shown.message_id.endswith("@skychimp.test>")
    assert list(service.list_unknown(store, bob)) == []


@pytest.mark.parametrize(
    ("resolution", "state"), [(Resolution.SENT, DeliveryState.SENT), (Resolution.FAILED, DeliveryState.FAILED)]
)
def test_delivery_is_resolved_as_sent_or_failed(
    store: Store, ada: Actor, unknown_id: int, resolution: Resolution, state: DeliveryState
) -> None:
    before = attempts(store)
    assert service.resolve(store, ada, resolution, ids=[unknown_id]).resolved == 1
    assert state_counts(store) == {state: 1}
    assert attempts(store) == before  # the log contains only what was tried
    with pytest.raises(Conflict, match=f"delivery {unknown_id} is {state}, not unknown"):
        service.resolve(store, ada, resolution, ids=[unknown_id])


def test_resend_reopens_the_occurrence(store: Store, ada: Actor, unknown_id: int, tmp_path: Path) -> None:
    assert rows(store, OccurrenceRow)[0].state == OccurrenceState.FINISHED
    assert rows(store, Mailing)[0].status == MailingStatus.COMPLETED
    service.resolve(store, ada, Resolution.RESEND)
    assert rows(store, OccurrenceRow)[0].state == OccurrenceState.OPEN
    assert rows(store, Mailing)[0].status == MailingStatus.RUNNING
    with CountingReceiver(tmp_path / "arrived") as receiver:
        send(store, make_settings(receiver.port))
        assert receiver.accepted_count == 1
    assert state_counts(store) == {DeliveryState.SENT: 1}
    assert rows(store, Mailing)[0].status == MailingStatus.COMPLETED


def test_decision_is_in_the_audit_trail(store: Store, ada: Actor, unknown_id: int) -> None:
    with pytest.raises(NotFound):
        service.resolve(store, ada, Resolution.SENT, ids=[10**30])
    assert [row.action for row in rows(store, AuditEntry)] == ["import"]
    service.resolve(store, ada, Resolution.SENT, ids=[unknown_id])
    service.resolve(store, ada, Resolution.SENT)  # nothing is left to resolve or to record

    _, entry = rows(store, AuditEntry)
    assert (entry.actor_id, entry.action, entry.object, entry.object_id) == (ada.user_id, "resolve", "mailing", 1)
    assert entry.detail == "1 unknown delivery: sent"


@pytest.mark.parametrize("resolution", Resolution)
def test_all_are_resolved_in_batches(
    store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch, resolution: Resolution
) -> None:
    """Each batch has an entry in the audit trail, so that a command that is killed has one, too."""
    monkeypatch.setattr(service, "BATCH", 2)
    open_mailing(store, ada, *"abcde")
    queue_steps.send(store, 1, Outcome.UNKNOWN, *claim(store), next_try_at=None)
    queue_steps.close_leases(store)

    assert service.resolve(store, ada, resolution).resolved == 5

    states = {Resolution.SENT: "sent", Resolution.FAILED: "failed", Resolution.RESEND: "queued"}
    assert state_counts(store) == {states[resolution]: 5}
    assert [entry.detail.split()[0] for entry in rows(store, AuditEntry)] == ["2", "2", "1"]
    is_open = resolution == Resolution.RESEND
    assert rows(store, OccurrenceRow)[0].state == (OccurrenceState.OPEN if is_open else OccurrenceState.FINISHED)


def test_delivery_of_another_user_is_not_found(store: Store, bob: Actor, manager: Actor, unknown_id: int) -> None:
    with pytest.raises(NotFound):
        service.resolve(store, bob, Resolution.SENT, ids=[unknown_id])
    with pytest.raises(Denied):
        service.resolve(store, manager, Resolution.SENT)
    assert service.resolve(store, bob, Resolution.SENT).resolved == 0
    assert state_counts(store) == {DeliveryState.UNKNOWN: 1}


@pytest.mark.parametrize("resolution", Resolution)
def test_delivery_of_a_deleted_mailing_is_neither_listed_nor_resolved(
    store: Store, ada: Actor, admin: Actor, unknown_id: int, resolution: Resolution
) -> None:
    mailings.remove(store, ada, 1)

    for actor in (ada, admin):
        assert list(service.list_unknown(store, actor)) == []
        assert service.resolve(store, actor, resolution).resolved == 0
        with pytest.raises(NotFound, match=f"delivery {unknown_id} not found"):
            service.resolve(store, actor, resolution, ids=[unknown_id])
    assert state_counts(store) == {DeliveryState.UNKNOWN: 1}


def test_nothing_is_resolved_if_one_delivery_does_not_exist(store: Store, ada: Actor, unknown_id: int) -> None:
    with pytest.raises(NotFound):
        service.resolve(store, ada, Resolution.SENT, ids=[unknown_id, 12345])
    assert state_counts(store) == {DeliveryState.UNKNOWN: 1}


def test_report_counts_unknown_deliveries(store: Store, ada: Actor, bob: Actor, unknown_id: int) -> None:
    report = reports.mailing_report(store, ada, 1)
    assert (report.deliveries, report.attempts) == (1, 1)
    assert {state: number for state, number in report.counts.items() if number} == {DeliveryState.UNKNOWN: 1}
    assert [row.counts for row in report.occurrences] == [report.counts]
    with pytest.raises(NotFound):
        reports.mailing_report(store, bob, 1)
    assert unknown_id == 1

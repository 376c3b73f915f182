"""`resolve`: a person decides about letters whose end nobody knows."""

from datetime import timedelta
from pathlib import Path

import pytest
from support.sending import attempts, deliveries, mailing, rows, send, settings, states
from support.servers import CountingReceiver, ScriptedServer, Step, hear, hear_body, hear_group

from skychimp.errors import Conflict, Denied, NotFound
from skychimp.models import AuditEntry, DeliveryState, Mailing, MailingStatus, OccurrenceState
from skychimp.models import Occurrence as OccurrenceRow
from skychimp.permissions import Actor
from skychimp.services.operations import unknown_deliveries as service
from skychimp.services.operations.unknown_deliveries import Resolution
from skychimp.services.reporting import reports
from skychimp.store.database import Store

SILENT: list[Step] = [b"220 x\r\n", hear, b"250-x\r\n250 PIPELINING\r\n", hear_group, b"250 a\r\n250 b\r\n354 c\r\n"]
DAY = timedelta(days=1)


@pytest.fixture
def unknown_id(store: Store, ada: Actor) -> int:
    """A delivery of Ada's that is unknown, and waits for a person; one of another state comes after it."""
    with ScriptedServer([*SILENT, hear_body]) as server:  # it closes after the dot
        mailing(store, ada, ["bob@example.org"])
        send(store, settings(server.port, delivery__unknown="hold"))
    assert states(store) == {DeliveryState.UNKNOWN: 1}
    return deliveries(store)[0].id or 0


def test_it_is_listed_for_its_owner_and_for_an_admin(
    store: Store, ada: Actor, bob: Actor, admin: Actor, unknown_id: int
) -> None:
    assert [row.id for row in service.unknown(store, ada)] == [unknown_id]
    (shown,) = service.unknown(store, admin)
    assert (shown.email, shown.phase, shown.queue_id) == ("bob@example.org", "dot", "")
    assert shown.message_id.endswith("@skychimp.test>")
    assert list(service.unknown(store, bob)) == []


@pytest.mark.parametrize(
    ("resolution", "state"), [(Resolution.SENT, DeliveryState.SENT), (Resolution.FAILED, DeliveryState.FAILED)]
)
def test_a_person_knows_what_became_of_it(
    store: Store, ada: Actor, unknown_id: int, resolution: Resolution, state: DeliveryState
) -> None:
    before = attempts(store)
    assert service.resolve(store, ada, resolution, give_up_after=DAY, ids=[unknown_id]).resolved == 1
    assert states(store) == {state: 1}
    assert attempts(store) == before  # the log says what was tried, and nothing else
    with pytest.raises(Conflict, match=f"delivery {unknown_id} is {state}, not unknown"):
        service.resolve(store, ada, resolution, give_up_after=DAY, ids=[unknown_id])


def test_it_is_sent_again_and_its_occurrence_opens_again(
    store: Store, ada: Actor, unknown_id: int, tmp_path: Path
) -> None:
    assert rows(store, OccurrenceRow)[0].state == OccurrenceState.FINISHED
    assert rows(store, Mailing)[0].status == MailingStatus.COMPLETED
    service.resolve(store, ada, Resolution.RESEND, give_up_after=DAY)
    assert rows(store, OccurrenceRow)[0].state == OccurrenceState.OPEN
    assert rows(store, Mailing)[0].status == MailingStatus.RUNNING
    with CountingReceiver(tmp_path / "arrived") as receiver:
        send(store, settings(receiver.port))
        assert receiver.taken == 1
    assert states(store) == {DeliveryState.SENT: 1}
    assert rows(store, Mailing)[0].status == MailingStatus.COMPLETED


def test_what_a_person_said_is_in_the_audit_trail(store: Store, ada: Actor, unknown_id: int) -> None:
    with pytest.raises(NotFound):
        service.resolve(store, ada, Resolution.SENT, give_up_after=DAY, ids=[10**30])
    assert rows(store, AuditEntry) == []
    service.resolve(store, ada, Resolution.SENT, give_up_after=DAY, ids=[unknown_id])
    service.resolve(store, ada, Resolution.SENT, give_up_after=DAY)  # nothing is left, and nothing is said

    (said,) = rows(store, AuditEntry)
    assert (said.actor_id, said.action, said.object, said.object_id) == (ada.user_id, "resolve", "mailing", 1)
    assert said.detail == "1 unknown delivery: sent"


def test_somebody_elses_is_not_there(store: Store, bob: Actor, manager: Actor, unknown_id: int) -> None:
    with pytest.raises(NotFound):
        service.resolve(store, bob, Resolution.SENT, give_up_after=DAY, ids=[unknown_id])
    with pytest.raises(Denied):
        service.resolve(store, manager, Resolution.SENT, give_up_after=DAY)
    assert service.resolve(store, bob, Resolution.SENT, give_up_after=DAY).resolved == 0
    assert states(store) == {DeliveryState.UNKNOWN: 1}


def test_one_that_is_not_there_spoils_the_whole(store: Store, ada: Actor, unknown_id: int) -> None:
    with pytest.raises(NotFound):
        service.resolve(store, ada, Resolution.SENT, give_up_after=DAY, ids=[unknown_id, 12345])
    assert states(store) == {DeliveryState.UNKNOWN: 1}


def test_the_report_counts_by_state(store: Store, ada: Actor, bob: Actor, unknown_id: int) -> None:
    found = reports.report(store, ada, 1)
    assert (found.deliveries, found.attempts) == (1, 1)
    assert {state: number for state, number in found.counts.items() if number} == {DeliveryState.UNKNOWN: 1}
    assert [row.counts for row in found.occurrences] == [found.counts]
    with pytest.raises(NotFound):
        reports.report(store, bob, 1)
    assert unknown_id == 1

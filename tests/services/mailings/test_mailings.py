"""Test mailings: schedules, audiences, changes, access, and disabling."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from support.command import Home

from skychimp.delivery.composing.compose import MessageContent
from skychimp.delivery.scheduling import planner
from skychimp.errors import Denied, InvalidValue, NotFound, NotLoggedIn
from skychimp.models import Delivery, Every, Format, Mailing, MailingStatus, Occurrence, OccurrenceState
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services.clients import clients
from skychimp.services.listing import ListOptions
from skychimp.services.mailings import mailings
from skychimp.services.mailings.audience_input import Audience
from skychimp.services.mailings.queries import MailingInfo
from skychimp.services.mailings.schedules import ScheduleInput
from skychimp.services.messages import messages
from skychimp.store import holds, queue, relay_pauses
from skychimp.store.database import Store
from skychimp.store.occurrences import opening, sweeping

_D, _O = Delivery.__table__, Occurrence.__table__

HUGE = 10**30
ALL_CLIENTS = Audience(all_clients=True)
BERLIN = "Europe/Berlin"
CreateMailing = Callable[..., MailingInfo]

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def create(store: Store, ada: Actor) -> CreateMailing:
    """Create a mailing of Ada's. Every value has a default."""
    message = messages.create(store, ada, MessageContent("Hello", "Dear {{ client.name }}", Format.TEXT))

    def create(
        start: str = "2030-01-01 09:00",
        end: str | None = None,
        every: Every = Every.DAY,
        timezone: str = "UTC",
        audience: Audience = ALL_CLIENTS,
        message_id: int = message.id,
        actor: Actor = ada,
    ) -> MailingInfo:
        schedule = ScheduleInput(start, end, every, timezone)
        return mailings.create(store, actor, message_id=message_id, schedule=schedule, audience=audience)

    return create


def ago(time: timedelta) -> str:
    return (datetime.now(UTC) - time).isoformat()


def open_due(store: Store, now: datetime | None = None) -> int:
    """Open due occurrences, as a run does, and return how many."""
    now = now or datetime.now(UTC)
    with store.connect() as db, db.begin():
        opened = planner.open_due(db, now, sender="me@example.org", return_path="me@example.org")
        for occurrence_id in db.scalars(select(_O.c.id).where(_O.c.state == OccurrenceState.OPENING)).all():
            while not opening.create_deliveries(db, occurrence_id):
                pass
        sweeping.sweep(db, now)
    return opened.occurrences


def delivery_states(store: Store) -> list[str]:
    with store.read() as db:
        return [str(state) for state in db.scalars(select(_D.c.state).order_by(_D.c.id))]


# Schedule


@pytest.mark.parametrize(
    ("start", "timezone", "start_at"),
    [
        ("2030-12-01 09:00", "UTC", "2030-12-01T09:00:00+00:00"),
        ("2030-12-01 09:00", "Europe/Moscow", "2030-12-01T06:00:00+00:00"),
        ("2030-12-01T09:00+03:00", "UTC", "2030-12-01T06:00:00+00:00"),
        ("2030-12-01T09:00Z", "Asia/Tokyo", "2030-12-01T09:00:00+00:00"),
        (" 2030-12-01 09:00:30 ", "UTC", "2030-12-01T09:00:30+00:00"),
        ("2030-03-31 02:30", "Europe/Berlin", "2030-03-31T01:30:00+00:00"),
        ("2030-10-27 02:30", "Europe/Berlin", "2030-10-27T00:30:00+00:00"),
    ],
)
def test_start_is_read_in_its_time_zone(create: CreateMailing, start: str, timezone: str, start_at: str) -> None:
    created = create(start, timezone=timezone)

    assert created.start_at == created.next_at == datetime.fromisoformat(start_at)
    assert created.start_at.utcoffset() == timedelta()
    assert (created.status, created.disabled, created.end_at) == (MailingStatus.CREATED, False, None)


@pytest.mark.parametrize(
    ("start", "offset"), [("now", timedelta()), ("+10m", timedelta(minutes=10)), ("+1h30m", 1.5 * HOUR)]
)
def test_start_and_end_can_be_relative_to_now(create: CreateMailing, start: str, offset: timedelta) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    created = create(start, "+3d")

    assert created.end_at is not None
    for at, distance in ((created.start_at, offset), (created.end_at, 3 * DAY)):
        assert before + distance <= at <= datetime.now(UTC) + distance


@pytest.mark.parametrize(
    "wrong",
    [
        {"start": "someday"},
        {"start": ""},
        {"start": "2030-02-30 09:00"},
        {"start": "2030-13-01"},
        {"start": "+10"},
        {"start": "+" + "9" * 30 + "d"},
        {"start": "\udcff"},
        {"end": "soon"},
        {"end": ""},
        {"end": "2030-01-01 09:00"},
        {"end": "2030-01-01 08:59"},
        {"end": "2030-01-01T10:00+02:00"},
        {"timezone": "Mars/Olympus"},
        {"timezone": "../UTC"},
        {"timezone": "\udcff"},
        {"audience": Audience()},
        {"audience": Audience(all_clients=True, tags=["vip"])},
        {"audience": Audience(all_clients=True, client_ids=[1])},
        {"audience": Audience(tags=["a,b"])},
    ],
    ids=str,
)
def test_invalid_mailing_is_refused_and_changes_nothing(
    store: Store, ada: Actor, create: CreateMailing, wrong: dict[str, Any]
) -> None:
    good = create()

    with pytest.raises(InvalidValue):
        create(**wrong)
    if wrong != {"start": "2030-01-01"}:
        with pytest.raises(InvalidValue):
            mailings.change(store, ada, good.id, **wrong)

    assert list(mailings.list_mailings(store, ada, ListOptions())) == [good]


@pytest.mark.parametrize(
    ("start", "end", "every", "due"),
    [
        (-HOUR, None, Every.DAY, -HOUR),
        (-HOUR, None, Every.ONCE, -HOUR),
        (-3 * DAY - HOUR, None, Every.DAY, -HOUR),
        (-400 * DAY, None, Every.ONCE, -400 * DAY),
        (-8 * DAY, HOUR, Every.WEEK, -1 * DAY),
        (-2 * DAY - HOUR, -HOUR / 2, Every.DAY, None),
        (-2 * DAY, -DAY, Every.ONCE, None),
        (HOUR, None, Every.MONTH, HOUR),
        (HOUR, 2 * HOUR, Every.ONCE, HOUR),
    ],
)
def test_mailing_is_due_at_once_between_start_and_end_and_never_after_its_end(
    create: CreateMailing, start: timedelta, end: timedelta | None, every: Every, due: timedelta | None
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)

    created = create((now + start).isoformat(), None if end is None else (now + end).isoformat(), every)

    assert created.next_at == (None if due is None else now + due)
    assert created.status == (MailingStatus.COMPLETED if due is None else MailingStatus.CREATED)


@pytest.mark.parametrize(
    ("schedule", "since", "dates"),
    [
        (ScheduleInput("2030-01-31 09:00", None, Every.MONTH, "UTC"), "2030-01-01", ["01-31", "02-28", "03-31"]),
        (ScheduleInput("2030-03-30 09:00", None, Every.DAY, BERLIN), "2030-03-01", ["03-30", "03-31", "04-01"]),
        (ScheduleInput("2030-01-01 09:00", None, Every.WEEK, "UTC"), "2030-01-02", ["01-08", "01-15", "01-22"]),
        (ScheduleInput("2030-01-01 09:00", "2030-01-03 09:00", Every.DAY, "UTC"), "2030-01-01", ["01-01", "01-02"]),
        (ScheduleInput("2030-01-01 09:00", None, Every.ONCE, "UTC"), "2030-01-01 09:00", ["01-01"]),
        (ScheduleInput("2030-01-01 09:00", None, Every.ONCE, "UTC"), "2030-01-01 09:01", []),
    ],
)
def test_preview_follows_the_calendar_and_the_local_clock(
    store: Store, ada: Actor, create: CreateMailing, schedule: ScheduleInput, since: str, dates: list[str]
) -> None:
    created = create(schedule.start, schedule.end, schedule.every, schedule.timezone)

    _, due_times = mailings.preview(store, ada, created.id, since=since, number=3)

    assert [f"{due.local:%m-%d %H:%M}" for due in due_times] == [f"{date} 09:00" for date in dates]


# Audience


def test_audience_is_all_clients_or_those_named_or_tagged(store: Store, ada: Actor, create: CreateMailing) -> None:
    for name in "abcd":
        clients.create(store, ada, email=f"{name}@example.org", tags=["vip"] if name in "ab" else [])
    for audience, number in (
        (ALL_CLIENTS, 4),
        (Audience(tags=["vip"]), 2),
        (Audience(client_ids=[4, 4]), 1),
        (Audience(tags=["vip"], client_ids=[1, 3]), 3),
        (Audience(tags=["unused"]), 0),
    ):
        created = create("now", audience=audience)
        assert (created.all_clients, created.tags, created.client_ids) == (
            audience.all_clients,
            list(audience.tags),
            sorted(set(audience.client_ids)),
        )
        assert open_due(store) == 1
        assert len(delivery_states(store)) == number
        mailings.remove(store, ada, created.id)
        with store.write() as db:
            for delivery in db.scalars(select(Delivery)):
                db.delete(delivery)


def test_mailing_without_recipients_names_the_options_to_select_them(create: CreateMailing) -> None:
    with pytest.raises(InvalidValue, match="no recipients selected") as refused:
        create(audience=Audience())
    assert refused.value.hint == "use --all-clients, --tag, --segment, --where or --client"


@pytest.mark.parametrize("client_id", [0, -1, 3, HUGE, 2], ids=["0", "-1", "unknown", "huge", "bobs"])
def test_only_own_clients_and_messages_can_be_used(
    store: Store, ada: Actor, bob: Actor, create: CreateMailing, client_id: int
) -> None:
    clients.create(store, ada, email="a@example.org")
    clients.create(store, bob, email="b@example.org")
    messages.create(store, bob, MessageContent("Bob's", "", Format.TEXT))
    good = create(audience=Audience(client_ids=[1]))

    with pytest.raises(NotFound):
        create(audience=Audience(client_ids=[1, client_id]))
    with pytest.raises(NotFound):
        create(message_id=client_id)
    with pytest.raises(NotFound):
        mailings.change(store, ada, good.id, audience=Audience(client_ids=[client_id]))
    with pytest.raises(NotFound):
        mailings.change(store, ada, good.id, message_id=client_id)

    assert list(mailings.list_mailings(store, ada, ListOptions())) == [good]


def test_mailing_without_recipients_is_completed_at_once(store: Store, ada: Actor, create: CreateMailing) -> None:
    created = create("now", every=Every.ONCE)

    assert open_due(store) == 1

    assert mailings.show(store, ada, created.id).status == MailingStatus.COMPLETED


# Change


def test_new_message_or_audience_keeps_the_schedule(store: Store, ada: Actor, create: CreateMailing) -> None:
    other = messages.create(store, ada, MessageContent("Other", "", Format.TEXT))
    created = create("2030-03-31 02:30", "2031-01-01", Every.MONTH, "Europe/Berlin")  # the clock change skips this time

    changed = mailings.change(store, ada, created.id, message_id=other.id, audience=Audience(tags=["vip"]))

    assert (changed.message_id, changed.subject, changed.all_clients, changed.tags) == (
        other.id,
        "Other",
        False,
        ["vip"],
    )
    for name in ("start_at", "end_at", "every", "timezone", "next_at", "status", "created_at"):
        assert getattr(changed, name) == getattr(created, name)
    assert start_local(store, created.id) == "2030-03-31T02:30:00"


def start_local(store: Store, mailing_id: int) -> str:
    with store.read() as db:
        return db.get_one(Mailing, mailing_id).start_local


@pytest.mark.parametrize(
    ("change", "start_at", "end_at"),
    [
        ({"timezone": "Asia/Tokyo"}, "2030-03-30T17:30:00+00:00", "2031-01-01T00:00:00+00:00"),
        ({"every": Every.DAY}, "2030-03-31T01:30:00+00:00", "2031-01-01T00:00:00+00:00"),
        ({"no_end": True}, "2030-03-31T01:30:00+00:00", None),
        ({"end": "2030-06-01"}, "2030-03-31T01:30:00+00:00", "2030-05-31T22:00:00+00:00"),
        ({"start": "2030-02-01 10:00"}, "2030-02-01T09:00:00+00:00", "2031-01-01T00:00:00+00:00"),
    ],
)
def test_changed_schedule_keeps_the_local_time_and_the_other_values(
    store: Store,
    ada: Actor,
    create: CreateMailing,
    change: dict[str, Any],
    start_at: str,
    end_at: str | None,
) -> None:
    created = create("2030-03-31 02:30", "2031-01-01T00:00Z", Every.MONTH, "Europe/Berlin")

    changed = mailings.change(store, ada, created.id, **change)

    assert changed.start_at == changed.next_at == datetime.fromisoformat(start_at)
    assert changed.end_at == (None if end_at is None else datetime.fromisoformat(end_at))
    assert start_local(store, created.id) == ("2030-02-01T10:00:00" if "start" in change else "2030-03-31T02:30:00")


@pytest.mark.parametrize("start", ["now", "2020-01-01 09:00"])
def test_mailing_that_was_never_sent_starts_again_when_its_start_is_changed(
    store: Store, ada: Actor, create: CreateMailing, start: str
) -> None:
    created = create("2030-01-01 09:00", every=Every.ONCE)

    assert mailings.change(store, ada, created.id, start=start).next_at is not None
    assert open_due(store) == 1


def test_changed_schedule_sends_nothing_for_due_times_before_the_change(
    store: Store, ada: Actor, create: CreateMailing
) -> None:
    created = create(ago(2 * DAY + HOUR))
    assert open_due(store) == 1

    moved = mailings.change(store, ada, created.id, start=ago(3 * DAY + 2 * HOUR))

    assert moved.next_at is not None
    assert timedelta(hours=21) < moved.next_at - datetime.now(UTC) < timedelta(hours=22)
    assert open_due(store) == 0


def test_changed_start_of_now_is_due(store: Store, ada: Actor, create: CreateMailing) -> None:
    created = create(ago(2 * DAY + HOUR))
    assert open_due(store) == 1

    mailings.change(store, ada, created.id, start="now")

    assert open_due(store) == 1
    assert open_due(store) == 0


@pytest.mark.parametrize("change", [{"end": "2040-01-01"}, {"every": Every.DAY}, {"no_end": True}, {"timezone": "UTC"}])
def test_past_due_time_that_is_not_opened_yet_survives_a_change_that_keeps_it(
    store: Store, ada: Actor, create: CreateMailing, change: dict[str, Any]
) -> None:
    created = create(ago(2 * DAY + HOUR), "2039-01-01")
    waiting = created.next_at
    assert open_due(store) == 1
    with store.write() as db:  # as if a day had passed without a run
        db.get_one(Mailing, created.id).next_at = waiting
        db.get_one(Occurrence, 1).due_local = "2000-01-01T09:00:00"

    changed = mailings.change(store, ada, created.id, **change)

    assert changed.next_at == waiting
    assert open_due(store) == 1


def test_completed_mailing_continues_with_a_later_end(store: Store, ada: Actor, create: CreateMailing) -> None:
    sent = create(ago(DAY + HOUR), "+1h")
    assert open_due(store) == 1
    over = create(ago(2 * DAY), ago(DAY))

    ended = mailings.change(store, ada, sent.id, end=ago(HOUR / 2))
    assert (ended.status, ended.next_at) == (MailingStatus.COMPLETED, None)
    again = mailings.change(store, ada, sent.id, end="+3d")
    assert (again.status, again.next_at is not None) == (MailingStatus.RUNNING, True)
    begun = mailings.change(store, ada, over.id, no_end=True)
    assert begun.status == MailingStatus.CREATED
    assert begun.next_at is not None
    assert begun.next_at <= datetime.now(UTC)


# Deleting and disabling


def test_deleting_a_mailing_cancels_queued_deliveries_and_keeps_sent_ones(
    store: Store, ada: Actor, create: CreateMailing
) -> None:
    for name in "abc":
        clients.create(store, ada, email=f"{name}@example.org")
    created, other = create("now"), create("now")
    assert open_due(store) == 2
    with store.write() as db:
        db.get_one(Delivery, 1).state = "sent"  # type: ignore[assignment]

    assert mailings.remove(store, ada, created.id).id == created.id

    assert delivery_states(store) == ["sent", "cancelled", "cancelled", "queued", "queued", "queued"]
    assert [each.id for each in mailings.list_mailings(store, ada, ListOptions())] == [other.id]
    with store.read() as db:
        assert [each.state for each in db.scalars(select(Occurrence).order_by(_O.c.id))] == ["cancelled", "open"]
    for action in (mailings.show, mailings.remove, mailings.change, mailings.disable, mailings.enable):
        with pytest.raises(NotFound):
            action(store, ada, created.id)


@pytest.mark.parametrize("mailing_id", [0, -1, 99, HUGE, -HUGE])
def test_unknown_mailing_is_not_found(store: Store, ada: Actor, mailing_id: int) -> None:
    for action in (
        mailings.show,
        mailings.remove,
        mailings.change,
        mailings.disable,
        mailings.enable,
        mailings.preview,
    ):
        with pytest.raises(NotFound):
            action(store, ada, mailing_id)
    with pytest.raises(NotFound):
        mailings.require_mailing(store, str(mailing_id))


def test_only_the_owner_changes_a_mailing(
    store: Store, bob: Actor, manager: Actor, admin: Actor, create: CreateMailing
) -> None:
    created = create()
    refusals: list[tuple[Actor, type[Exception]]] = [
        (bob, NotFound), (admin, NotFound), (manager, Denied), (ANONYMOUS, NotLoggedIn)
    ]  # fmt: skip

    for actor, refusal in refusals:
        with pytest.raises(refusal):
            mailings.change(store, actor, created.id, every=Every.ONCE)
        with pytest.raises(refusal):
            mailings.remove(store, actor, created.id)
    for actor in (manager, admin):
        assert list(mailings.list_mailings(store, actor, ListOptions())) == [created]
    assert list(mailings.list_mailings(store, bob, ListOptions())) == []
    with pytest.raises(NotFound):
        mailings.disable(store, bob, created.id)
    with pytest.raises(Denied):
        create(actor=manager)


@pytest.mark.parametrize(
    ("disablers", "enabler", "allowed"),
    [
        (["ada"], "ada", True),
        (["ada"], "manager", True),
        (["manager"], "ada", False),
        (["admin"], "ada", False),
        (["manager"], "admin", True),
        (["ada", "manager"], "ada", False),
        (["manager", "ada"], "ada", False),
        (["the system"], "ada", True),
        (["the system", "manager"], "ada", False),
    ],
)
def test_only_managers_enable_what_a_manager_has_disabled(
    store: Store,
    ada: Actor,
    manager: Actor,
    admin: Actor,
    create: CreateMailing,
    disablers: list[str],
    enabler: str,
    allowed: bool,
) -> None:
    people = {"ada": ada, "manager": manager, "admin": admin}
    created = create()
    for name in disablers:
        if name == "the system":
            with store.connect() as db, db.begin():
                holds.disable_mailing(db, created.id, "too many failures", datetime.now(UTC))
        else:
            mailings.disable(store, people[name], created.id, f"by {name}")

    stopped = mailings.show(store, ada, created.id)
    decisive = "manager" if "manager" in disablers else disablers[-1]
    assert stopped.disabled
    assert stopped.disabled_by == (people[decisive].email if decisive in people else "the system")
    if allowed:
        mailings.enable(store, people[enabler], created.id)
        assert mailings.show(store, ada, created.id) == created
    else:
        with pytest.raises(Denied):
            mailings.enable(store, people[enabler], created.id)
        assert mailings.show(store, ada, created.id) == stopped


def test_disabled_mailing_opens_nothing_until_it_is_enabled(store: Store, ada: Actor, create: CreateMailing) -> None:
    created = create("now")
    mailings.disable(store, ada, created.id, "a pause")

    assert open_due(store) == 0
    mailings.enable(store, ada, created.id)
    assert open_due(store) == 1


def open_mailing(store: Store, actor: Actor, create: CreateMailing) -> int:
    """Create a mailing to two clients, open it, and return its id."""
    for name in ("bob", "eve"):
        clients.create(store, actor, email=f"{name}@example.org")
    created = create("now")
    assert open_due(store) == 1
    with store.write() as db:
        assert opening.create_deliveries(db.connection(), 1)
    return created.id


def age(store: Store, **times: timedelta) -> None:
    """Let these times of all mailings be so long ago."""
    with store.write() as db:
        db.execute(update(Mailing.__table__).values({name: datetime.now(UTC) - ago for name, ago in times.items()}))


def held_up(store: Store) -> list[float]:
    """Return for how many days each occurrence was held up."""
    with store.read() as db:
        return [round(seconds / 86_400, 2) for seconds in db.scalars(select(_O.c.held_up_s).order_by(_O.c.id))]


def test_time_to_give_up_stands_still_while_a_mailing_is_stopped(
    store: Store, ada: Actor, create: CreateMailing
) -> None:
    mailing_id = open_mailing(store, ada, create)
    create("now")
    assert open_due(store) == 1
    mailings.disable(store, ada, mailing_id)
    for stopped, days in [
        ({"disabled_at": 4 * DAY}, 4.0),
        ({"held_at": 2 * DAY}, 6.0),
        ({"disabled_at": DAY, "held_at": 3 * DAY}, 9.0),
    ]:
        age(store, **stopped)
        enabled = mailings.enable(store, ada, mailing_id)
        assert (enabled.disabled, enabled.held, held_up(store)) == (False, None, [days, 0.0])
    mailings.enable(store, ada, mailing_id)
    assert held_up(store) == [9.0, 0.0]


def test_time_counts_from_the_first_who_disables(
    store: Store, ada: Actor, manager: Actor, create: CreateMailing
) -> None:
    mailing_id = open_mailing(store, ada, create)
    mailings.disable(store, ada, mailing_id)
    age(store, disabled_at=3 * DAY)
    mailings.disable(store, manager, mailing_id)
    mailings.enable(store, manager, mailing_id)
    assert held_up(store) == [3.0]


def test_enable_says_how_many_emails_wait(store: Store, ada: Actor, create: CreateMailing, home: Home) -> None:
    mailing_id = open_mailing(store, ada, create)
    mailings.disable(store, ada, mailing_id)
    enable = ("mailings", "enable", str(mailing_id))
    asked = home.on_terminal(*enable, answers=[("Send to 2 clients now? [y/N]", "n\n")])
    assert (asked.status, "cancelled" in asked.out) == (1, True)
    assert mailings.show(store, ada, mailing_id).disabled
    asked = home.on_terminal(*enable, answers=[("Send to 2 clients now? [y/N]", "y\n")])
    assert (asked.status, "2 emails waiting; sent by the daemon" in asked.out) == (0, True)
    assert not mailings.show(store, ada, mailing_id).disabled
    mailings.disable(store, ada, mailing_id)
    assert home.call(*enable, "--yes", "--json").err == '2 emails waiting; sent by the daemon or "skychimp run"\n'


def test_enable_says_what_is_next_if_no_email_waits(
    store: Store, ada: Actor, create: CreateMailing, home: Home
) -> None:
    mailings.disable(store, ada, create().id)
    assert home.call("mailings", "enable", "1").err.startswith("next due 2030-01-01 09:00 UTC")


def test_enable_ends_a_hold_and_probes_a_paused_relay(
    store: Store, ada: Actor, create: CreateMailing, home: Home
) -> None:
    mailing_id, now = open_mailing(store, ada, create), datetime.now(UTC)
    with store.write() as db:
        holds.hold_mailing(db.connection(), mailing_id, "553 5.7.1 no", "hash", now)
        relay_pauses.pause(db.connection(), "relay", "hash", "535 5.7.8 no", now)
        assert queue.due_occurrences(db.connection(), now) == []
    assert mailings.show(store, ada, mailing_id).held == "553 5.7.1 no"
    assert home.call("mailings", "enable", "1", "--json").json["held"] is None
    with store.read() as db:
        later = datetime.now(UTC)
        assert relay_pauses.pause_reason(db.connection(), "relay", "hash", later) is None
        assert queue.due_occurrences(db.connection(), later) == [1]


@pytest.mark.parametrize("reason", ["a\nb", "\udcff", "x" * 1001])
def test_reason_to_disable_must_be_one_line(store: Store, ada: Actor, create: CreateMailing, reason: str) -> None:
    created = create()

    with pytest.raises(InvalidValue):
        mailings.disable(store, ada, created.id, reason)

    assert not mailings.show(store, ada, created.id).disabled


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (ListOptions(), [1, 2, 3]),
        (ListOptions(sort="-start_at"), [2, 3, 1]),
        (ListOptions(search="hell", limit=1, offset=1), [2]),
        (ListOptions(search="%"), []),
        (ListOptions(sort="status"), [3, 1, 2]),
    ],
)
def test_list_options_limit_sort_and_search(
    store: Store, ada: Actor, create: CreateMailing, options: ListOptions, expected: list[int]
) -> None:
    created = {mailing.id: mailing for mailing in (create("2030-01-01"), create("2030-03-01"), create("2030-02-01"))}
    with store.write() as db:
        db.get_one(Mailing, 3).status = MailingStatus.COMPLETED
    created[3] = mailings.show(store, ada, 3)

    assert list(mailings.list_mailings(store, ada, options)) == [created[number] for number in expected]


def test_missed_due_times_are_recorded(store: Store, ada: Actor, create: CreateMailing) -> None:
    create("2030-01-01 09:00")

    assert open_due(store, datetime(2030, 1, 1, 9, tzinfo=UTC)) == 1
    assert open_due(store, datetime(2030, 1, 4, 10, tzinfo=UTC)) == 1

    with store.read() as db:
        occurrences = [(each.due_local, each.state) for each in db.scalars(select(Occurrence))]
    assert sorted(occurrences) == [
        ("2030-01-01T09:00:00", "finished"),
        ("2030-01-02T09:00:00", "missed"),
        ("2030-01-03T09:00:00", "missed"),
        ("2030-01-04T09:00:00", "finished"),
    ]


def test_duplicate_is_equal_to_its_original_and_disabled(store: Store, ada: Actor, bob: Actor) -> None:
    message = messages.create(store, ada, MessageContent("Hello", "text", Format.TEXT))
    clients.create(store, ada, email="eve@example.org", tags=["vip"])
    schedule = ScheduleInput("2026-01-31 09:00", "2031-01-01 00:00", Every.MONTH, "Europe/Berlin")
    created = mailings.create(store, ada, message_id=message.id, schedule=schedule, audience=Audience(tags=["vip"]))
    copy = mailings.duplicate(store, ada, created.id)
    assert copy.disabled
    assert copy.disabled_reason == f"copy of mailing {created.id}"
    same = ("message_id", "start_at", "end_at", "every", "timezone", "tags", "all_clients", "client_ids", "next_at")
    assert {name: getattr(copy, name) for name in same} == {name: getattr(created, name) for name in same}
    later = mailings.duplicate(store, ada, created.id, start="2030-02-01 09:00")
    assert later.start_at == datetime(2030, 2, 1, 8, tzinfo=UTC)
    with pytest.raises(NotFound):
        mailings.duplicate(store, bob, created.id)

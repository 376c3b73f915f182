"""Which posts a digest tells of: each exactly once, whatever was missed, skipped or backdated."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy import Connection, delete, insert
from support.queue_steps import (
    DAY,
    MINUTE,
    NOW,
    change,
    claim,
    client,
    fill,
    mailing,
    number_of,
    one,
    open_due,
    rows,
    run,
    send,
    status,
    sweep,
    write,
)

from skychimp.delivery.scheduling import planner
from skychimp.models import (
    CatchUp,
    Client,
    Delivery,
    DigestPost,
    Every,
    Mailing,
    MailingStatus,
    Message,
    Occurrence,
    OccurrenceState,
    Outcome,
    Post,
    Run,
)
from skychimp.permissions import Actor
from skychimp.services.mailings.forecast import forecast
from skychimp.store import digest_posts
from skychimp.store.database import Store

WEEK = timedelta(days=7)


@pytest.fixture
def weekly(store: Store, ada: Actor) -> Store:
    """A weekly digest for one client, made a day before NOW, its first due time."""
    client(store, ada, "bob")
    mailing(store, ada, every=Every.WEEK)
    change(store, Message, 1, digest=True, body="News:")
    return store


def post(store: Store, title: str, published_at: datetime | None) -> int:
    """A post; its id."""
    values = {
        "author_id": 1,
        "slug": title.lower(),
        "title": title,
        "content": f"About {title}.",
        "views": 0,
        "revision": 1,
        "created_at": NOW - 365 * DAY,
        "updated_at": NOW - 365 * DAY,
        "published_at": published_at,
    }
    made = insert(Post).values(values).returning(Post.__table__.c.id)
    return write(store, lambda connection: int(connection.execute(made).scalar_one()))


def publish(store: Store, post_id: int, at: datetime | None) -> None:
    change(store, Post, post_id, published_at=at)


def told(store: Store) -> list[str]:
    """The posts in each occurrence's words; how it is where there are none."""
    return [
        " ".join(line.split("'")[1] for line in row.body.splitlines() if line.startswith("{{ 'P")) or row.state.value
        for row in rows(store, Occurrence)
    ]


def go_out(store: Store, now: datetime, outcome: Outcome = Outcome.SENT) -> None:
    """A run at that time, to a server that answers so."""
    sweep(store, now)
    open_due(store, now)
    for row in rows(store, Occurrence):
        if row.state == OccurrenceState.OPENING:
            fill(store, row.id or 0)
            claims = claim(store, run(store), now=now, occurrence_id=row.id or 0)
            send(store, number_of(store, Run), outcome, *claims, now=now)
    sweep(store, now)


def test_each_post_is_told_of_once(weekly: Store) -> None:
    post(weekly, "Past", NOW - 3 * DAY)
    go_out(weekly, NOW)
    post(weekly, "Pb", NOW + DAY)
    post(weekly, "Pc", NOW + WEEK)  # at the very second
    go_out(weekly, NOW + WEEK)
    go_out(weekly, NOW + 2 * WEEK)
    post(weekly, "Pd", NOW + 2 * WEEK + MINUTE)
    go_out(weekly, NOW + 3 * WEEK)

    assert told(weekly) == ["Past", "Pb Pc", "skipped", "Pd"]
    assert status(weekly) == MailingStatus.RUNNING
    skipped = one(weekly, Occurrence, 3)
    assert (skipped.finished_at, skipped.body, number_of(weekly, Delivery)) == (NOW + 2 * WEEK, "", 3)


def test_the_first_one_looks_back_a_period(weekly: Store) -> None:
    """Before the mailing was made, a day ago; what is older is left out for ever."""
    post(weekly, "Pold", NOW - DAY - WEEK)
    post(weekly, "Pnew", NOW - DAY - WEEK + MINUTE)
    post(weekly, "Pdraft", None)
    post(weekly, "Pcoming", NOW + MINUTE)
    go_out(weekly, NOW)
    go_out(weekly, NOW + WEEK)
    assert told(weekly) == ["Pnew", "Pcoming"]


def test_one_that_was_no_digest_before_looks_back_to_what_it_sent(weekly: Store) -> None:
    change(weekly, Message, 1, digest=False)
    post(weekly, "Pold", NOW - MINUTE)
    go_out(weekly, NOW)
    change(weekly, Message, 1, digest=True)
    post(weekly, "Pnew", NOW + MINUTE)
    go_out(weekly, NOW + WEEK)
    go_out(weekly, NOW + 2 * WEEK)
    assert told(weekly) == ["finished", "Pnew", "skipped"]


def test_one_that_begins_with_nothing_new_tells_of_what_comes(weekly: Store) -> None:
    post(weekly, "Pold", NOW - 30 * DAY)
    go_out(weekly, NOW)
    post(weekly, "Pnew", NOW + MINUTE)
    go_out(weekly, NOW + WEEK)
    assert told(weekly) == ["skipped", "Pnew"]


def test_what_is_published_late_with_an_early_date(weekly: Store) -> None:
    draft = post(weekly, "Pdraft", None)
    post(weekly, "Pa", NOW - MINUTE)
    go_out(weekly, NOW)
    publish(weekly, draft, NOW - 300 * DAY)
    go_out(weekly, NOW + WEEK)
    go_out(weekly, NOW + 2 * WEEK)
    assert told(weekly) == ["Pa", "Pdraft", "skipped"]


def test_one_that_goes_and_comes_back_is_not_told_of_again(weekly: Store) -> None:
    again, gone = post(weekly, "Pa", NOW - MINUTE), post(weekly, "Pb", NOW - MINUTE)
    go_out(weekly, NOW)
    publish(weekly, again, None)
    write(weekly, lambda connection: connection.execute(delete(Post).where(Post.__table__.c.id == gone)))
    publish(weekly, again, NOW + DAY)
    reused = post(weekly, "Pc", NOW + DAY)  # by SQLite, the number of the one that is gone
    go_out(weekly, NOW + WEEK)
    assert (reused, told(weekly)) == (gone, ["Pa Pb", "Pc"])


def test_after_missed_ones_the_next_tells_of_all(weekly: Store) -> None:
    post(weekly, "Pa", NOW - MINUTE)
    go_out(weekly, NOW)
    post(weekly, "Pb", NOW + DAY)
    post(weekly, "Pc", NOW + WEEK + DAY)
    go_out(weekly, NOW + 3 * WEEK)
    assert told(weekly) == ["Pa", "missed", "missed", "Pb Pc"]


def test_of_two_that_open_at_once_the_first_tells(weekly: Store) -> None:
    change(weekly, Mailing, 1, catch_up=CatchUp.ALL)
    post(weekly, "Pa", NOW - MINUTE)
    assert [row.left_out for row in forecast(weekly, NOW + WEEK)] == [None, "skipped: there is no new post"]
    go_out(weekly, NOW + WEEK)
    assert told(weekly) == ["Pa", "skipped"]


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Outcome.SENT, "skipped"),
        (Outcome.UNKNOWN, "skipped"),  # it may have arrived
        (Outcome.FAILED, "Pa"),
        (Outcome.DEFERRED, "Pa"),
    ],
)
def test_what_nobody_got_is_told_of_again(weekly: Store, outcome: Outcome, expected: str) -> None:
    post(weekly, "Pa", NOW - MINUTE)
    go_out(weekly, NOW, outcome)
    plan = ["skipped: there is no new post" if expected == "skipped" else None]
    assert [row.left_out for row in forecast(weekly, NOW + WEEK) if row.due_at > NOW] == plan
    go_out(weekly, NOW + WEEK)
    assert told(weekly) == ["Pa", expected]
    go_out(weekly, NOW + 2 * WEEK)
    assert told(weekly)[2] == "skipped"


def test_what_is_still_going_out_is_not_told_of_again(weekly: Store) -> None:
    post(weekly, "Pa", NOW - MINUTE)
    open_due(weekly, NOW)
    change(weekly, Mailing, 1, every=Every.DAY, next_at=NOW + DAY)
    open_due(weekly, NOW + DAY)
    assert told(weekly) == ["Pa", "skipped"]


def test_an_audience_of_nobody_is_told_nothing(weekly: Store) -> None:
    write(weekly, lambda connection: connection.execute(delete(Client)))
    post(weekly, "Pa", NOW - MINUTE)
    go_out(weekly, NOW)
    client(weekly, Actor(1), "eve")
    go_out(weekly, NOW + WEEK)
    assert told(weekly) == ["Pa", "Pa"]


def test_more_than_a_letter_holds_goes_on_in_the_next(weekly: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest_posts, "MOST_POSTS", 2)
    for name in ("Pa", "Pb", "Pc"):
        post(weekly, name, NOW - MINUTE)
    go_out(weekly, NOW)
    go_out(weekly, NOW + WEEK)
    assert told(weekly) == ["Pa Pb", "Pc"]


def test_each_mailing_tells_for_itself(weekly: Store, ada: Actor) -> None:
    mailing(weekly, ada)
    post(weekly, "Pa", NOW - MINUTE)
    change(weekly, Message, 2, digest=True)
    go_out(weekly, NOW)
    assert told(weekly) == ["Pa", "Pa"]


def test_an_opening_that_is_cut_off_has_told_nothing(weekly: Store) -> None:
    post(weekly, "Pa", NOW - MINUTE)

    def cut_off(db: Connection) -> None:
        planner.open_due(db, NOW, sender="a@x.example", return_path="a@x.example", give_up_after=DAY)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(weekly, cut_off)
    assert (number_of(weekly, Occurrence), number_of(weekly, DigestPost)) == (0, 0)
    assert [open_due(weekly), open_due(weekly)] == [1, 0]
    assert told(weekly) == ["Pa"]


def test_a_plan_says_what_is_skipped(weekly: Store) -> None:
    assert [row.left_out for row in forecast(weekly, NOW)] == ["skipped: there is no new post"]
    post(weekly, "Pa", NOW - MINUTE)
    assert [(row.email, row.left_out) for row in forecast(weekly, NOW)] == [("bob@example.org", None)]

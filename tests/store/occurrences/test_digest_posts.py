"""A digest sends each post exactly once, whatever is missed, skipped or backdated."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy import Connection, delete, insert
from support.queue_steps import (
    DAY,
    MINUTE,
    NOW,
    claim,
    count_rows,
    create_client,
    create_deliveries,
    create_mailing,
    create_run,
    get_row,
    open_due,
    rows,
    send,
    status,
    sweep,
    update_row,
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
from skychimp.store.database import Store
from skychimp.store.occurrences import digest_posts

WEEK = timedelta(days=7)


@pytest.fixture
def weekly(store: Store, ada: Actor) -> Store:
    """A weekly digest for one client. It was created a day before NOW, its first due time."""
    create_client(store, ada, "bob")
    create_mailing(store, ada, every=Every.WEEK)
    update_row(store, Message, 1, digest=True, body="News:")
    return store


def create_post(store: Store, title: str, published_at: datetime | None) -> int:
    """Create a post, and return its id."""
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
    statement = insert(Post).values(values).returning(Post.__table__.c.id)
    return write(store, lambda connection: int(connection.execute(statement).scalar_one()))


def publish(store: Store, post_id: int, at: datetime | None) -> None:
    update_row(store, Post, post_id, published_at=at)


def sent_posts(store: Store) -> list[str]:
    """Return the titles of the posts in each occurrence, or the occurrence's state if it has none."""
    return [
        " ".join(line.split("'")[1] for line in row.body.splitlines() if line.startswith("{{ 'P")) or row.state.value
        for row in rows(store, Occurrence)
    ]


def run_at(store: Store, now: datetime, outcome: Outcome = Outcome.SENT) -> None:
    """Take the steps of a run at this time. All its attempts have this outcome."""
    sweep(store, now)
    open_due(store, now)
    for row in rows(store, Occurrence):
        if row.state == OccurrenceState.OPENING:
            create_deliveries(store, row.id or 0)
            claims = claim(store, create_run(store), now=now, occurrence_id=row.id or 0)
            send(store, count_rows(store, Run), outcome, *claims, now=now)
    sweep(store, now)


def test_each_post_is_sent_once(weekly: Store) -> None:
    create_post(weekly, "Past", NOW - 3 * DAY)
    run_at(weekly, NOW)
    create_post(weekly, "Pb", NOW + DAY)
    create_post(weekly, "Pc", NOW + WEEK)  # exactly at the due time
    run_at(weekly, NOW + WEEK)
    run_at(weekly, NOW + 2 * WEEK)
    create_post(weekly, "Pd", NOW + 2 * WEEK + MINUTE)
    run_at(weekly, NOW + 3 * WEEK)

    assert sent_posts(weekly) == ["Past", "Pb Pc", "skipped", "Pd"]
    assert status(weekly) == MailingStatus.RUNNING
    skipped = get_row(weekly, Occurrence, 3)
    assert (skipped.finished_at, skipped.body, count_rows(weekly, Delivery)) == (NOW + 2 * WEEK, "", 3)


def test_first_digest_begins_one_period_before_the_mailing_was_created(weekly: Store) -> None:
    """Older posts are never sent."""
    create_post(weekly, "Pold", NOW - DAY - WEEK)
    create_post(weekly, "Pnew", NOW - DAY - WEEK + MINUTE)
    create_post(weekly, "Pdraft", None)
    create_post(weekly, "Pcoming", NOW + MINUTE)
    run_at(weekly, NOW)
    run_at(weekly, NOW + WEEK)
    assert sent_posts(weekly) == ["Pnew", "Pcoming"]


def test_mailing_that_becomes_a_digest_begins_after_its_last_occurrence(weekly: Store) -> None:
    update_row(weekly, Message, 1, digest=False)
    create_post(weekly, "Pold", NOW - MINUTE)
    run_at(weekly, NOW)
    update_row(weekly, Message, 1, digest=True)
    create_post(weekly, "Pnew", NOW + MINUTE)
    run_at(weekly, NOW + WEEK)
    run_at(weekly, NOW + 2 * WEEK)
    assert sent_posts(weekly) == ["finished", "Pnew", "skipped"]


def test_digest_without_posts_at_first_sends_later_posts(weekly: Store) -> None:
    create_post(weekly, "Pold", NOW - 30 * DAY)
    run_at(weekly, NOW)
    create_post(weekly, "Pnew", NOW + MINUTE)
    run_at(weekly, NOW + WEEK)
    assert sent_posts(weekly) == ["skipped", "Pnew"]


def test_backdated_post_is_sent(weekly: Store) -> None:
    draft = create_post(weekly, "Pdraft", None)
    create_post(weekly, "Pa", NOW - MINUTE)
    run_at(weekly, NOW)
    publish(weekly, draft, NOW - 300 * DAY)
    run_at(weekly, NOW + WEEK)
    run_at(weekly, NOW + 2 * WEEK)
    assert sent_posts(weekly) == ["Pa", "Pdraft", "skipped"]


def test_post_that_is_published_again_is_not_sent_again(weekly: Store) -> None:
    republished, deleted = create_post(weekly, "Pa", NOW - MINUTE), create_post(weekly, "Pb", NOW - MINUTE)
    run_at(weekly, NOW)
    publish(weekly, republished, None)
    write(weekly, lambda connection: connection.execute(delete(Post).where(Post.__table__.c.id == deleted)))
    publish(weekly, republished, NOW + DAY)
    create_post(weekly, "Pc", NOW + DAY)  # SQLite gives it the id of the deleted post
    run_at(weekly, NOW + WEEK)
    assert sent_posts(weekly) == ["Pa Pb", "Pc"]


def test_occurrence_after_missed_ones_sends_all_posts(weekly: Store) -> None:
    create_post(weekly, "Pa", NOW - MINUTE)
    run_at(weekly, NOW)
    create_post(weekly, "Pb", NOW + DAY)
    create_post(weekly, "Pc", NOW + WEEK + DAY)
    run_at(weekly, NOW + 3 * WEEK)
    assert sent_posts(weekly) == ["Pa", "missed", "missed", "Pb Pc"]


def test_first_of_two_occurrences_opened_at_once_sends_the_posts(weekly: Store) -> None:
    update_row(weekly, Mailing, 1, catch_up=CatchUp.ALL)
    create_post(weekly, "Pa", NOW - MINUTE)
    assert [row.left_out for row in forecast(weekly, NOW + WEEK)] == [None, "skipped: there is no new post"]
    run_at(weekly, NOW + WEEK)
    assert sent_posts(weekly) == ["Pa", "skipped"]


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Outcome.SENT, "skipped"),
        (Outcome.UNKNOWN, "skipped"),  # it may have arrived
        (Outcome.FAILED, "Pa"),
        (Outcome.DEFERRED, "Pa"),
    ],
)
def test_posts_are_sent_again_if_no_email_was_sent(weekly: Store, outcome: Outcome, expected: str) -> None:
    create_post(weekly, "Pa", NOW - MINUTE)
    run_at(weekly, NOW, outcome)
    left_out = ["skipped: there is no new post" if expected == "skipped" else None]
    assert [row.left_out for row in forecast(weekly, NOW + WEEK) if row.due_at > NOW] == left_out
    run_at(weekly, NOW + WEEK)
    assert sent_posts(weekly) == ["Pa", expected]
    run_at(weekly, NOW + 2 * WEEK)
    assert sent_posts(weekly)[2] == "skipped"


def test_posts_of_an_unfinished_occurrence_are_not_sent_again(weekly: Store) -> None:
    create_post(weekly, "Pa", NOW - MINUTE)
    run_at(weekly, NOW, Outcome.UNKNOWN)
    update_row(weekly, Mailing, 1, every=Every.DAY, next_at=NOW + DAY)
    open_due(weekly, NOW + DAY)
    assert sent_posts(weekly) == ["Pa", "skipped"]


def test_posts_are_sent_again_after_an_empty_audience(weekly: Store) -> None:
    write(weekly, lambda connection: connection.execute(delete(Client)))
    create_post(weekly, "Pa", NOW - MINUTE)
    run_at(weekly, NOW)
    create_client(weekly, Actor(1), "eve")
    run_at(weekly, NOW + WEEK)
    assert sent_posts(weekly) == ["Pa", "Pa"]


def test_posts_beyond_the_maximum_are_in_the_next_email(weekly: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest_posts, "MOST_POSTS", 2)
    for name in ("Pa", "Pb", "Pc"):
        create_post(weekly, name, NOW - MINUTE)
    run_at(weekly, NOW)
    run_at(weekly, NOW + WEEK)
    assert sent_posts(weekly) == ["Pa Pb", "Pc"]


def test_mailings_are_independent(weekly: Store, ada: Actor) -> None:
    create_mailing(weekly, ada)
    create_post(weekly, "Pa", NOW - MINUTE)
    update_row(weekly, Message, 2, digest=True)
    run_at(weekly, NOW)
    assert sent_posts(weekly) == ["Pa", "Pa"]


def test_interrupted_opening_records_no_posts(weekly: Store) -> None:
    create_post(weekly, "Pa", NOW - MINUTE)

    def fail(db: Connection) -> None:
        planner.open_due(db, NOW, sender="a@x.example", return_path="a@x.example")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(weekly, fail)
    assert (count_rows(weekly, Occurrence), count_rows(weekly, DigestPost)) == (0, 0)
    assert [open_due(weekly), open_due(weekly)] == [1, 0]
    assert sent_posts(weekly) == ["Pa"]


def test_forecast_shows_a_skipped_digest(weekly: Store) -> None:
    assert [row.left_out for row in forecast(weekly, NOW)] == ["skipped: there is no new post"]
    create_post(weekly, "Pa", NOW - MINUTE)
    assert [(row.email, row.left_out) for row in forecast(weekly, NOW)] == [("bob@example.org", None)]

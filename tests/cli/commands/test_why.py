"""`skychimp why` tells why nothing is sent to a suppressed client: in a pipe, on a terminal and as JSON."""

import pytest
from support.command import Home
from support.queue_steps import NOW, create_client, create_deliveries, create_mailing, open_due, write

from skychimp.models import Every, SuppressionSource
from skychimp.permissions import Actor
from skychimp.store.clients import suppressions
from skychimp.store.clients.suppressions import Holds, NewSuppression
from skychimp.store.database import Store

BOB = "bob@example.org"


@pytest.fixture
def suppressed(store: Store, ada: Actor, home: Home) -> Home:
    """Ada's command line. Bob has left her news while a mailing to him was waiting."""
    create_client(store, ada, "bob")
    create_mailing(store, ada, every=Every.DAY, topic="news")
    open_due(store)
    create_deliveries(store)
    new = [NewSuppression(BOB, BOB, "unsubscribed")]
    holds = Holds(ada.user_id, "news")
    write(store, lambda db: suppressions.add(db, new, holds, SuppressionSource.COMMAND, NOW))
    return home


def test_pipe_has_a_line_for_each(suppressed: Home) -> None:
    lines = [line.split("\t") for line in suppressed.call("why", BOB).out.splitlines()]

    assert [(line[0], line[1], line[3], line[6]) for line in lines] == [
        ("suppressed", "", "", "unsubscribed (topic news of ada@skychimp.test)"),
        ("chosen", "1", "cancelled", "suppressed for topic news since 2026-03-02: unsubscribed"),
        ("coming", "1", "left out", "suppressed for topic news since 2026-03-02: unsubscribed"),
    ]


def test_report_tells_where_the_reasons_are(suppressed: Home) -> None:
    shown = suppressed.call("report", "1", width=100)

    assert "for who is left out now, and why: skychimp mailings audience 1 --left-out" in shown.err


def test_terminal_and_json_say_the_same(suppressed: Home) -> None:
    page = " ".join(suppressed.call("why", BOB, width=100).out.split())
    assert "unsubscribed (topic news of ada@skychimp.test)" in page
    assert (
        "(mailing 1): \x1b[0m\x1b[1mcancelled\x1b[0m suppressed for topic news since 2026-03-02: unsubscribed" in page
    )
    assert "left out: suppressed for topic news since 2026-03-02: unsubscribed" in page

    history = suppressed.call("why", BOB, "--json").json
    (suppression,) = history["suppressions"]
    assert (suppression["topic"], suppression["reason"], suppression["owner"]) == (
        "news",
        "unsubscribed",
        "ada@skychimp.test",
    )
    assert (
        history["chosen"][0]["reason"]
        == history["coming"][0]["reason"]
        == "suppressed for topic news since 2026-03-02: unsubscribed"
    )

"""Test who would get a mailing again with another topic, and that nobody does without a warning."""

from collections.abc import Sequence

import pytest
from support.command import Home

from skychimp.delivery.composing.compose import MessageContent
from skychimp.models import Every, Format
from skychimp.permissions import Actor
from skychimp.services.clients import clients, suppressions
from skychimp.services.mailings import mailings
from skychimp.services.mailings.audience_input import Audience
from skychimp.services.mailings.schedules import ScheduleInput
from skychimp.services.mailings.topic_changes import count_returning
from skychimp.services.messages import messages
from skychimp.store.database import Store

NOBODY = Audience()
WARNING = "warning: 1 client unsubscribed from News, and would get mailing 1 again\n"


@pytest.fixture
def mailing(store: Store, ada: Actor) -> int:
    """Return a mailing of topic News to ann, bob and eve. Each of them has their name as a tag."""
    for name in ("ann", "bob", "eve"):
        clients.create(store, ada, email=f"{name}@x.org", tags=[name])
    message = messages.create(store, ada, MessageContent("Hello", "Hello", Format.TEXT)).id
    schedule = ScheduleInput("2030-01-01 09:00", None, Every.DAY, "UTC")
    audience = Audience(all_clients=True)
    return mailings.create(store, ada, message_id=message, schedule=schedule, audience=audience, topic="News").id


def leave(store: Store, actor: Actor, *targets: str, topic: str | None = "news") -> None:
    suppressions.add(store, actor, [suppressions.new_suppression(target) for target in targets], topic=topic)


def count(store: Store, actor: Actor, mailing: int, topic: str | None, audience: Audience = NOBODY) -> int:
    return count_returning(store, actor, mailings.find(store, actor, mailing), topic, audience)


@pytest.mark.parametrize(
    ("left", "also_left", "everything", "topic", "expected"),
    [
        (["bob@x.org"], [], [], "offers", 1),
        (["bob@x.org", "eve@x.org"], [], [], None, 2),
        (["@x.org"], [], [], "offers", 3),
        (["bob@x.org"], [], [], "NEWS", 0),
        (["bob@x.org"], ["bob@x.org"], [], "Offers", 0),
        (["bob@x.org"], [], ["bob@x.org"], "offers", 0),
        (["stranger@x.com"], [], [], "offers", 0),
        ([], ["bob@x.org"], [], "offers", 0),
    ],
)
def test_who_would_get_it_again(
    store: Store,
    ada: Actor,
    mailing: int,
    left: Sequence[str],
    also_left: Sequence[str],
    everything: Sequence[str],
    topic: str | None,
    expected: int,
) -> None:
    leave(store, ada, *left)
    leave(store, ada, *also_left, topic="offers")
    leave(store, ada, *everything, topic=None)
    assert count(store, ada, mailing, topic) == expected


@pytest.mark.parametrize(
    ("audience", "expected"),
    [
        (Audience(tags=["ann"]), 0),
        (Audience(tags=["eve"]), 1),
        (Audience(except_tags=["bob"]), 1),
        (Audience(where="tag = 'bob'"), 1),
    ],
)
def test_new_audience_counts(store: Store, ada: Actor, mailing: int, audience: Audience, expected: int) -> None:
    leave(store, ada, "bob@x.org", "eve@x.org")
    assert count(store, ada, mailing, "offers", audience) == expected


def test_mailing_without_a_topic_has_nobody_to_bring_back(store: Store, ada: Actor, mailing: int) -> None:
    leave(store, ada, "bob@x.org")
    mailings.change(store, ada, mailing, no_topic=True)
    assert count(store, ada, mailing, "offers") == 0


@pytest.mark.parametrize(
    ("option", "into"), [(("--topic", "offers"), "--topic offers"), (("--no-topic",), "--ignore-column topic")]
)
def test_pipe_gets_a_warning_with_a_way_out(
    store: Store, ada: Actor, mailing: int, home: Home, option: tuple[str, ...], into: str
) -> None:
    leave(store, ada, "bob@x.org")
    changed = home.call("mailings", "update", "1", *option)
    assert changed.status == 0
    way_out = f"skychimp suppressions export --topic News | skychimp suppressions import - {into}"
    assert f"{WARNING}hint: to keep them out: {way_out}\n" in changed.err
    assert "goes to 3 clients" in changed.err

    assert home.call("mailings", "update", "1", "--topic", "news").status == 0
    exported = home.call("suppressions", "export", "--topic", "News").out
    assert home.call("suppressions", "import", "-", *into.split(), stdin=exported).status == 0
    assert "warning" not in home.call("mailings", "update", "1", *option).err
    assert home.call("mailings", "show", "1", "--json").json["recipients"] == 2


@pytest.mark.parametrize(("answer", "topic"), [("n", "News"), ("y", "offers")])
def test_terminal_is_asked(store: Store, ada: Actor, mailing: int, home: Home, answer: str, topic: str) -> None:
    leave(store, ada, "bob@x.org")
    asked = home.call("mailings", "update", "1", "--topic", "offers", stdin=f"{answer}\n", width=100)
    assert WARNING in asked.err
    assert "Change the topic? [y/N]" in asked.err
    assert asked.status == (0 if answer == "y" else 1)
    assert home.call("mailings", "show", "1", "--json").json["topic"] == topic


def test_yes_answers_the_question(store: Store, ada: Actor, mailing: int, home: Home) -> None:
    leave(store, ada, "bob@x.org")
    done = home.call("mailings", "update", "1", "--topic", "offers", "--yes", width=100)
    assert (done.status, "[y/N]" in done.err, WARNING in done.err) == (0, False, True)


def test_invalid_topic_is_an_error_before_any_warning(store: Store, ada: Actor, mailing: int, home: Home) -> None:
    leave(store, ada, "bob@x.org")
    refused = home.call("mailings", "update", "1", "--topic", "")
    assert (refused.status, refused.err.splitlines()[0]) == (2, "error: the topic is empty")

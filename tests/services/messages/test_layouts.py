"""Layouts of messages: who gets which, what an occurrence keeps, and what cannot be changed or deleted."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, update
from support.sending import disabled_mailings, make_settings, rows, send
from support.servers import GREETING, LimitingRelay, ScriptedServer, accept_mail

from skychimp.delivery.composing.compose import MessageContent
from skychimp.errors import Conflict, InvalidValue, NotFound
from skychimp.models import Content, Every, Format, Layout, Message, MessageLayout, Occurrence
from skychimp.permissions import Actor
from skychimp.services.clients import clients
from skychimp.services.listing import ListOptions
from skychimp.services.mailings import mailings, unsubscribing
from skychimp.services.mailings.audience_input import Audience
from skychimp.services.mailings.schedules import ScheduleInput
from skychimp.services.messages import layouts, messages, rendering
from skychimp.store.database import Store

NEWS = MessageContent("News", "# News for {{ client.email }}", Format.MARKDOWN)
HTML = MessageContent("News", "", Format.HTML, "<p>News</p>")
OWN = "<body><style>h1{color:red}</style>{{ content }}<p>own</p></body>"


@pytest.mark.parametrize(
    ("content", "named", "stored"),
    [
        (NEWS, None, "default"), (NEWS, "none", "none"), (NEWS, "DEFAULT", "default"), (NEWS, "own", "Own"),
        (HTML, None, "none"), (HTML, "default", "default"), (HTML, "Own", "Own"), (HTML, "1", "Own"),
        (NEWS._replace(format=Format.TEXT), None, None), (NEWS._replace(format=Format.TEXT), "none", None),
        (NEWS._replace(body=f"---\nlayout: own\n---\n{NEWS.body}"), None, "Own"),
        (NEWS._replace(body=f"---\nlayout: own\n---\n{NEWS.body}"), "none", "none"),
    ],
)  # fmt: skip
def test_message_gets_the_layout(
    store: Store, ada: Actor, content: MessageContent, named: str | None, stored: str | None
) -> None:
    layouts.create(store, ada, "Own", OWN)
    created = messages.create(store, ada, content, layout=named)
    assert created.layout == stored
    preview = rendering.preview(store, ada, created.id)
    assert ("<p>own</p>" in (preview.html or ""), "max-width:600px" in (preview.html or "")) == (
        stored == "Own",
        stored == "default",
    )


@pytest.mark.parametrize(
    ("content", "values", "reason"),
    [
        (NEWS._replace(format=Format.TEXT), {"layout": "own"}, "a plain text has no layout"),
        (NEWS._replace(format=Format.TEXT), {"preheader": "x"}, "a preheader needs a layout"),
        (NEWS, {"layout": "none", "preheader": "x"}, "a preheader needs a layout"),
        (NEWS, {"layout": "own", "preheader": "x"}, "the layout has no {{ preheader }}"),
        (NEWS, {"preheader": "{{ client.nam }}"}, "the preheader, line 1: unknown attribute client.nam"),
        (NEWS, {"preheader": "a\nb"}, "line break"),
        (HTML._replace(html="<html><body>a</body></html>"), {"layout": "own"}, "is a whole page"),
    ],
)  # fmt: skip
def test_message_that_its_layout_cannot_show_is_refused(
    store: Store, ada: Actor, content: MessageContent, values: dict[str, Any], reason: str
) -> None:
    layouts.create(store, ada, "own", OWN)
    with pytest.raises(InvalidValue) as refused:
        messages.create(store, ada, content, **values)
    assert reason in refused.value.message
    assert rows(store, Message) == []


def test_layouts_belong_to_their_owner(store: Store, ada: Actor, bob: Actor) -> None:
    created = layouts.create(store, ada, "own", OWN)
    layouts.create(store, bob, "own", OWN)
    with pytest.raises(Conflict):
        layouts.create(store, ada, " OWN ", OWN)
    assert [each.name for each in layouts.list_layouts(store, ada, ListOptions())] == ["own"]
    for act in (layouts.show, layouts.remove, layouts.change):
        with pytest.raises(NotFound):
            act(store, bob, str(created.id))
    with pytest.raises(NotFound):
        messages.create(store, bob, NEWS, layout=str(created.id))
    for name in ("none", "Default", "7", ""):
        with pytest.raises(InvalidValue):
            layouts.create(store, ada, name, OWN)


def test_format_and_layout_change_together(store: Store, ada: Actor) -> None:
    layouts.create(store, ada, "own", OWN)
    message_id = messages.create(store, ada, NEWS._replace(format=Format.TEXT)).id
    assert messages.change(store, ada, message_id, format=Format.MARKDOWN).layout == "default"
    assert messages.change(store, ada, message_id, layout="own").layout == "own"
    assert messages.change(store, ada, message_id, format=Format.HTML, html="<p>a</p>").layout == "own"
    assert messages.change(store, ada, message_id, layout="none").layout == "none"
    assert messages.change(store, ada, message_id, subject="New").layout == "none"
    assert messages.change(store, ada, message_id, format=Format.TEXT).layout is None
    assert layouts.remove(store, ada, "own").name == "own"


def test_message_of_an_older_version_is_sent_as_before(store: Store, ada: Actor) -> None:
    message_id = messages.create(store, ada, NEWS).id
    with store.write() as db:
        db.execute(delete(MessageLayout.__table__))
    old = messages.change(store, ada, message_id, subject="Changed")
    assert old.layout is None
    preview = rendering.preview(store, ada, message_id)
    assert (preview.text, preview.html) == ("# News for ada@example.org", "<h1>News for ada@example.org</h1>\n")
    assert messages.change(store, ada, message_id, layout="default").layout == "default"


def test_layout_that_a_message_uses_cannot_be_deleted(store: Store, ada: Actor) -> None:
    layouts.create(store, ada, "own", OWN)
    message_id = messages.create(store, ada, NEWS, layout="own").id
    with pytest.raises(Conflict, match="used by message 1"):
        layouts.remove(store, ada, "own")
    messages.remove(store, ada, message_id)
    layouts.remove(store, ada, "own")
    assert (rows(store, Layout), rows(store, MessageLayout)) == ([], [])


def test_layout_that_a_message_could_not_use_is_refused(store: Store, ada: Actor) -> None:
    layouts.create(store, ada, "own", OWN + "{{ preheader }}")
    messages.create(store, ada, NEWS, layout="own", preheader="x")
    with pytest.raises(InvalidValue, match="message 1 cannot use this layout: the layout has no"):
        layouts.change(store, ada, "own", html=OWN)
    assert layouts.show(store, ada, "own").html == OWN + "{{ preheader }}"


def create_mailing(store: Store, actor: Actor, message_id: int, names: str) -> int:
    """Create a mailing that is due, to clients with these names."""
    for name in names:
        clients.create(store, actor, email=f"{name}@example.org")
    schedule, audience = ScheduleInput("now", None, Every.DAY, "UTC"), Audience(all_clients=True)
    return mailings.create(store, actor, message_id=message_id, schedule=schedule, audience=audience).id


def send_rest(store: Store, later: timedelta = timedelta()) -> list[bytes]:
    """Send what is left, and return the emails."""
    with ScriptedServer([GREETING, accept_mail()]) as server:
        send(store, make_settings(server.port), later=later)
    return server.emails


def test_occurrence_keeps_its_layout_unless_the_message_is_updated(store: Store, ada: Actor) -> None:
    layouts.create(store, ada, "own", OWN)
    message_id = messages.create(store, ada, NEWS, layout="own").id
    mailing_id = create_mailing(store, ada, message_id, "ab")
    with LimitingRelay() as relay:
        send(store, make_settings(relay.port), limit=1)
    mailings.disable(store, ada, mailing_id)

    own = layouts.change(store, ada, "own", html=OWN.replace("own", "changed"))
    assert layouts.open_mailings(store, own.id) == {message_id: [mailing_id]}
    assert messages.open_mailings(store, message_id) == [mailing_id]
    (occurrence,) = rows(store, Occurrence)
    assert "<p>own</p>" in (occurrence.html or "")

    messages.change(store, ada, message_id, also_open=True)
    assert messages.open_mailings(store, message_id) == []
    mailings.enable(store, ada, mailing_id)
    (email,) = send_rest(store)
    assert b"<p>changed</p>" in email
    assert b'<h1 style="color:red">News for' in email
    assert rows(store, Content) == []


def close_after_the_dot(command: str, address: str) -> bytes | None:
    return b"" if command == "." else None


def test_resend_has_the_layout_that_was_sent(store: Store, ada: Actor) -> None:
    layouts.create(store, ada, "own", OWN)
    message_id = messages.create(store, ada, NEWS, layout="own").id
    create_mailing(store, ada, message_id, "a")
    with ScriptedServer([GREETING, accept_mail(close_after_the_dot)]) as server:
        send(store, make_settings(server.port))
    messages.change(store, ada, message_id, layout="default", also_open=True)
    (repeated,) = send_rest(store, later=timedelta(hours=1))
    assert repeated == server.emails[0]


def test_mailing_whose_message_cannot_be_put_into_its_layout_is_disabled(store: Store, ada: Actor) -> None:
    """A layout was checked when it was stored, but a newer version may check more."""
    layouts.create(store, ada, "own", OWN)
    mailing_id = create_mailing(store, ada, messages.create(store, ada, NEWS, layout="own").id, "a")
    with store.write() as db:
        db.execute(update(Layout.__table__).values(html="<style>p{color:red}</style><b>{{ content }}"))
    assert send_rest(store) == []
    assert "the message cannot be composed: the CSS of the layout" in (disabled_mailings(store)[mailing_id] or "")
    layouts.change(store, ada, "own", html=OWN)
    mailings.enable(store, ada, mailing_id)
    assert len(send_rest(store)) == 1


def test_mailing_looks_for_the_link_in_the_layout_too(store: Store, ada: Actor) -> None:
    layouts.create(store, ada, "own", OWN + "{{ unsubscribe_url }}")
    own, built_in = (messages.create(store, ada, NEWS, layout=name).id for name in ("own", "default"))
    settings = make_settings(1)
    with pytest.raises(InvalidValue, match="message 1 uses "):
        unsubscribing.check_message(store, ada, own, settings)
    (warning,) = unsubscribing.check_message(store, ada, built_in, settings)
    assert warning.startswith("recipients cannot unsubscribe")

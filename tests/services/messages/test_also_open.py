"""`skychimp messages update --also-open`: what is not sent yet changes, and what may have arrived does not."""

from datetime import timedelta

from support.command import Home
from support.sending import create_mailing, make_settings, rows, send, state_counts
from support.servers import GREETING, LimitingRelay, ScriptedServer, accept_mail

from skychimp.models import Content, Message, Occurrence
from skychimp.permissions import Actor
from skychimp.services.mailings import mailings
from skychimp.store.database import Store

NAMES = ["bob@example.org", "eve@example.org", "zoe@example.org"]


def one_is_sent(store: Store, actor: Actor) -> int:
    """Create a mailing of which one email has gone out, and which is disabled now. Return its id."""
    mailing_id = create_mailing(store, actor, NAMES, subject="Old", body="old text")
    with LimitingRelay() as relay:
        send(store, make_settings(relay.port), limit=1)
    mailings.disable(store, actor, mailing_id)
    return mailing_id


def send_rest(store: Store, later: timedelta = timedelta()) -> list[bytes]:
    """Send what is left, and return the emails."""
    with ScriptedServer([GREETING, accept_mail()]) as server:
        send(store, make_settings(server.port), later=later)
    return server.emails


def update(home: Home, *options: str) -> tuple[int, str]:
    """Change the message. Return the exit status and what was written to stderr."""
    done = home.call("messages", "update", "1", *options)
    return done.status, done.err


def test_without_the_option_the_mailing_that_keeps_the_old_content_is_named(
    store: Store, ada: Actor, home: Home
) -> None:
    mailing_id = one_is_sent(store, ada)
    status, err = update(home, "--subject", "New", "--body", "new text")
    note = "mailing 1 still sends the old content; --also-open changes what was not sent yet\n"
    assert (status, note in err) == (0, True)
    mailings.enable(store, ada, mailing_id)
    first, second = send_rest(store)
    assert all(b"Subject: Old\r\n" in email and b"old text" in email for email in (first, second))


def test_with_the_option_what_is_not_sent_changes(store: Store, ada: Actor, home: Home) -> None:
    mailing_id = one_is_sent(store, ada)
    status, err = update(home, "--subject", "New", "--body", "new text", "--also-open")
    assert (status, "still sends" in err) == (0, False)
    mailings.enable(store, ada, mailing_id)
    first, second = send_rest(store)
    assert all(b"Subject: New\r\n" in email and b"new text" in email for email in (first, second))
    assert rows(store, Content) == []


def test_option_alone_applies_what_was_changed_before(store: Store, ada: Actor, home: Home) -> None:
    mailing_id = one_is_sent(store, ada)
    assert update(home, "--subject", "New")[0] == 0
    status, err = update(home, "--also-open")
    assert (status, "still sends" in err) == (0, False)
    mailings.enable(store, ada, mailing_id)
    assert all(b"Subject: New\r\n" in email for email in send_rest(store))


def test_nothing_is_said_without_open_mailings(store: Store, ada: Actor, home: Home) -> None:
    create_mailing(store, ada, NAMES)
    assert "still sends" not in update(home, "--subject", "New")[1]
    send_rest(store)
    assert "still sends" not in update(home, "--subject", "Newer")[1]


def test_mailing_that_is_being_sent_is_a_conflict_and_nothing_changes(store: Store, ada: Actor, home: Home) -> None:
    create_mailing(store, ada, NAMES, subject="Old")
    answered: list[tuple[int, str]] = []

    def update_meanwhile(command: str, address: str) -> bytes | None:
        if command == "MAIL" and not answered:
            answered.append(update(home, "--subject", "New", "--also-open"))
        return None

    with ScriptedServer([GREETING, accept_mail(update_meanwhile)]) as server:
        send(store, make_settings(server.port))
    ((status, err),) = answered
    assert (status, err) == (
        6, 'error: mailing 1 is being sent\nhint: run "skychimp mailings disable 1", and update the message then\n'
    )  # fmt: skip
    assert [message.subject for message in rows(store, Message)] == ["Old"]
    assert [occurrence.subject for occurrence in rows(store, Occurrence)] == ["Old"]
    assert all(b"Subject: Old\r\n" in email for email in server.emails)
    assert state_counts(store) == {"sent": 3}


def test_email_that_may_have_arrived_keeps_its_content_to_the_byte(store: Store, ada: Actor, home: Home) -> None:
    create_mailing(store, ada, NAMES, subject="Old", body="old text")
    dots: list[str] = []

    def break_at_the_second_dot(command: str, address: str) -> bytes | None:
        dots.extend([address] * (command == "."))
        return b"" if command == "." and len(dots) == 2 else None

    with ScriptedServer([GREETING, accept_mail(break_at_the_second_dot)]) as server:
        send(store, make_settings(server.port), limit=2)
    assert state_counts(store) == {"sent": 1, "unknown": 1, "queued": 1}
    assert update(home, "--subject", "New", "--body", "new text", "--also-open")[0] == 0
    emails = send_rest(store, later=timedelta(hours=1))
    resent = [email for email in emails if b"Subject: Old\r\n" in email]
    assert resent == [server.emails[1]]
    (other,) = (email for email in emails if email not in resent)
    assert b"Subject: New\r\n" in other
    assert b"new text" in other
    assert update(home, "--subject", "Newest", "--also-open")[0] == 0


def test_open_digest_keeps_its_content(store: Store, ada: Actor, home: Home) -> None:
    one_is_sent(store, ada)
    assert update(home, "--digest")[0] == 0
    status, err = update(home, "--subject", "New", "--also-open")
    assert (status, err) == (
        6, "error: a digest that is open keeps its content\nhint: update it without --also-open\n"
    )  # fmt: skip
    assert [message.subject for message in rows(store, Message)] == ["Old"]
    assert update(home, "--subject", "New")[0] == 0

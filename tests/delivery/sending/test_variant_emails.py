"""Send variants: each client gets theirs, as it was when the mailing opened, and the same one again."""

import signal
from datetime import timedelta
from email import message_from_bytes, policy

import pytest
from support.sending import make_settings, rows, send, start_run, state_counts, wait_for_exit, wait_until
from support.servers import (
    EHLO,
    ENVELOPE_ACCEPTED,
    GREETING,
    LimitingRelay,
    ScriptedServer,
    Step,
    accept_mail,
    hang,
    read_body,
    read_envelope,
    read_line,
)

from skychimp.delivery.composing.compose import MessageContent
from skychimp.models import Content, Every, Format, Occurrence
from skychimp.permissions import Actor
from skychimp.services.clients import clients
from skychimp.services.mailings import mailings
from skychimp.services.mailings.audience_input import Audience
from skychimp.services.mailings.schedules import ScheduleInput
from skychimp.services.messages import messages, variants
from skychimp.services.messages.attachments import AttachmentChanges, NewFile
from skychimp.services.messages.variants import VariantChanges
from skychimp.store.database import Store

NEWS = MessageContent("News", "# News for {{ client.email }}", Format.MARKDOWN)
PEOPLE = {"ann": "ru", "bob": "ru-RU", "cid": "DE", "dan": "xx", "eve": "", "fay": "de"}
SUBJECTS = {"ann": "Ru", "bob": "Ru", "cid": "De", "dan": "News", "eve": "News", "fay": "De"}
LOSES_REPLY: list[Step] = [GREETING, read_line, EHLO, read_envelope, ENVELOPE_ACCEPTED, read_body]
"""A server that takes an email, and closes without a reply."""


@pytest.fixture
def mailing_id(store: Store, ada: Actor) -> int:
    """Create a due mailing of a message with two variants."""
    for name, lang in PEOPLE.items():
        clients.create(store, ada, email=f"{name}@x.org", fields={"lang": lang})
    messages.create(store, ada, NEWS, variant_by="lang")
    write(store, ada, "ru", subject="Ru", body="Новости для {{ client.email }}")
    write(store, ada, "de", subject="De", body="Neues")
    schedule = ScheduleInput("now", None, Every.DAY, "UTC")
    return mailings.create(store, ada, message_id=1, schedule=schedule, audience=Audience(all_clients=True)).id


def write(store: Store, actor: Actor, value: str, **changes: str) -> None:
    variants.set_variant(store, actor, 1, value, VariantChanges(**changes))  # type: ignore[arg-type]


def subjects(emails: list[bytes]) -> dict[str, str]:
    """Return the subjects by the names of the clients."""
    read = [message_from_bytes(email, policy=policy.default) for email in emails]
    return {str(email["To"]).partition("@")[0]: str(email["Subject"]) for email in read}


def send_rest(store: Store, later: timedelta = timedelta(), **settings: str) -> list[bytes]:
    """Send what is left, and return the emails."""
    with ScriptedServer([GREETING, accept_mail()]) as server:
        send(store, make_settings(server.port, **settings), later=later)
    return server.emails


def send_one(store: Store, actor: Actor, mailing_id: int) -> None:
    """Send one email, and disable the mailing."""
    with LimitingRelay() as relay:
        send(store, make_settings(relay.port), limit=1)
    mailings.disable(store, actor, mailing_id)


@pytest.mark.usefixtures("mailing_id")
def test_each_client_gets_their_variant_in_its_language(store: Store) -> None:
    emails = send_rest(store, mail__language="ru", web__url="https://x.org")
    assert subjects(emails) == SUBJECTS
    languages = {"Ru": "ru", "De": "ru", "News": "ru"}
    for email in emails:
        body = message_from_bytes(email, policy=policy.default).get_body(("html",))
        assert body is not None
        subject = subjects([email]).popitem()[1]
        assert f'<html lang="{languages[subject]}"' in str(body.get_content())
    assert [occurrence.fields for occurrence in rows(store, Occurrence)] == ['["lang"]']


def test_occurrence_keeps_its_variants_and_who_gets_which(store: Store, ada: Actor, mailing_id: int) -> None:
    send_one(store, ada, mailing_id)
    write(store, ada, "ru", subject="New")
    variants.remove(store, ada, 1, "de")
    for name in PEOPLE:
        clients.change(store, ada, f"{name}@x.org", fields={"lang": "ru"})
    assert messages.open_mailings(store, 1) == [mailing_id]
    mailings.enable(store, ada, mailing_id)
    emails = subjects(send_rest(store))
    assert len(emails) == 5
    assert emails == {name: SUBJECTS[name] for name in emails}


def test_also_open_changes_variants_of_what_was_not_sent(store: Store, ada: Actor, mailing_id: int) -> None:
    send_one(store, ada, mailing_id)
    write(store, ada, "ru", subject="New")
    write(store, ada, "xx", subject="Xx", body="xx")
    messages.change(store, ada, 1, also_open=True)
    assert messages.open_mailings(store, 1) == []
    mailings.enable(store, ada, mailing_id)
    expected = SUBJECTS | {"ann": "New", "bob": "New", "dan": "Xx"}
    emails = subjects(send_rest(store))
    assert len(emails) == 5
    assert emails == {name: expected[name] for name in emails}
    assert rows(store, Content) == []


def test_mailing_that_opened_without_variants_takes_them_with_also_open(store: Store, ada: Actor) -> None:
    for name, lang in PEOPLE.items():
        clients.create(store, ada, email=f"{name}@x.org", fields={"Lang": lang})
    messages.create(store, ada, NEWS)
    schedule = ScheduleInput("now", None, Every.DAY, "UTC")
    mailing_id = mailings.create(store, ada, message_id=1, schedule=schedule, audience=Audience(all_clients=True)).id
    send_one(store, ada, mailing_id)
    messages.change(store, ada, 1, variant_by="lang")
    write(store, ada, "ru", subject="Ru", body="a")
    messages.change(store, ada, 1, also_open=True)
    mailings.enable(store, ada, mailing_id)
    expected = SUBJECTS | {"cid": "News", "fay": "News"}
    emails = subjects(send_rest(store))
    assert emails == {name: expected[name] for name in emails}
    assert "Ru" in emails.values()


@pytest.mark.usefixtures("mailing_id")
def test_unknown_email_is_sent_again_with_the_same_bytes(store: Store, ada: Actor) -> None:
    attached = AttachmentChanges(files=[NewFile("ru.pdf", b"ru")])
    variants.set_variant(store, ada, 1, "ru", VariantChanges(attached=attached))
    with ScriptedServer(LOSES_REPLY) as server:
        send(store, make_settings(server.port), limit=1)
    (first, *_) = server.emails
    variants.set_variant(
        store, ada, 1, "ru", VariantChanges(subject="New", attached=AttachmentChanges(removes_all=True))
    )
    variants.remove(store, ada, 1, "de")
    messages.change(store, ada, 1, subject="New", no_variant_by=True, also_open=True)
    emails = send_rest(store, later=timedelta(hours=1))
    (again,) = [email for email in emails if subjects([email]).keys() == subjects([first]).keys()]
    assert again == first
    assert set(subjects(emails).values()) == {"New", *subjects([first]).values()}
    assert state_counts(store) == {"sent": len(PEOPLE)}


@pytest.mark.usefixtures("mailing_id")
def test_email_of_a_killed_run_is_sent_again_with_the_same_bytes(store: Store, ada: Actor) -> None:
    with ScriptedServer([*LOSES_REPLY, hang]) as server:
        process = start_run(store, server.port, smtp__connections=1)
        wait_until(lambda: len(server.emails) == 1, process)
        wait_for_exit(process, signal.SIGKILL)
    (first,) = server.emails
    for value in ("ru", "de"):
        write(store, ada, value, subject="New", body="New")
    clients.change(store, ada, f"{subjects([first]).popitem()[0]}@x.org", fields={"lang": "xx"})
    send_rest(store)
    emails = send_rest(store, later=timedelta(hours=1))
    assert first in emails
    assert state_counts(store) == {"sent": len(PEOPLE)}

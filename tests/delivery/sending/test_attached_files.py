"""Send emails with attachments: shared ones, and files of each client that are missing or change."""

import logging
import signal
from collections.abc import Sequence
from datetime import timedelta
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
from support.sending import (
    attempts,
    create_mailing,
    deliveries,
    make_settings,
    rows,
    send,
    start_run,
    state_counts,
    wait_for_exit,
    wait_until,
)
from support.servers import (
    EHLO,
    ENVELOPE_ACCEPTED,
    GREETING,
    ScriptedServer,
    Step,
    accept_mail,
    hang,
    read_body,
    read_envelope,
    read_line,
)

from skychimp.delivery.attachments.folder import AttachmentsFolder
from skychimp.delivery.sending.outcomes import RunStats
from skychimp.models import DeliveryState, Mailing
from skychimp.permissions import Actor
from skychimp.services.mailings import mailings, retries
from skychimp.services.mailings.forecast import forecast
from skychimp.services.messages import messages
from skychimp.services.messages.attachments import AttachmentChanges, NewFile
from skychimp.services.operations import unknown_deliveries
from skychimp.services.operations.unknown_deliveries import Resolution
from skychimp.store.database import Store

PATH = "{{ client.name }}.pdf"
LOSES_REPLY: list[Step] = [GREETING, read_line, EHLO, read_envelope, ENVELOPE_ACCEPTED, read_body]
"""A server that takes an email, and closes without a reply."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a file of each client."""
    folder = tmp_path / "certificates"
    folder.mkdir(mode=0o700)
    for name in ("Bob", "Eve"):
        (folder / f"{name}.pdf").write_bytes(f"certificate of {name}".encode())
    return folder


def create(store: Store, owner: Actor, *, paths: Sequence[str] = (PATH,), files: Sequence[NewFile] = ()) -> int:
    """Create a due mailing to Bob and Eve with attachments, and return its id."""
    mailing_id = create_mailing(store, owner)
    message_id = mailings.show(store, owner, mailing_id).message_id
    messages.change(store, owner, message_id, attached=AttachmentChanges(files=files, paths=paths))
    return mailing_id


def run(store: Store, folder: Path | None, script: Sequence[Any] = (), **options: Any) -> tuple[RunStats, list[bytes]]:
    """Send in one run. Return what it did, and the emails that the server got."""
    with ScriptedServer(list(script) or [GREETING, accept_mail()]) as server:
        settings = make_settings(server.port, mail__attachments_folder=folder and str(folder))
        stats = send(store, settings, **options)
    return stats, server.emails


def attached(email: bytes) -> list[tuple[str | None, object]]:
    message = message_from_bytes(email, policy=policy.default)
    parts = [part for part in message.walk() if part.get_content_disposition() == "attachment"]
    return [(part.get_filename(), part.get_payload(decode=True)) for part in parts]


def reasons(store: Store) -> list[str]:
    return [attempt.reply for attempt in attempts(store)]


def test_shared_file_is_sent_to_all_as_it_was_when_the_mailing_opened(store: Store, ada: Actor) -> None:
    data = bytes(range(256)) * 3_000  # several batches of a connection
    create(store, ada, paths=[], files=[NewFile("a.bin", data)])
    first, emails = run(store, None, limit=1)
    messages.change(store, ada, 1, attached=AttachmentChanges(removes_all=True))
    second, more = run(store, None)
    assert (first.sent, second.sent) == (1, 1)
    assert [attached(email) for email in (*emails, *more)] == [[("a.bin", data)]] * 2


def test_each_client_gets_their_own_file(store: Store, ada: Actor, folder: Path) -> None:
    create(store, ada, files=[NewFile("terms.txt", b"terms")])
    _, emails = run(store, folder)
    assert sorted(map(attached, emails)) == [
        [("terms.txt", b"terms"), (f"{name}.pdf", f"certificate of {name}".encode())] for name in ("Bob", "Eve")
    ]


def test_missing_file_fails_only_its_email_until_it_is_there(
    store: Store, ada: Actor, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mailing_id = create(store, ada)
    (folder / "Bob.pdf").unlink()
    looked_for = AttachmentsFolder(folder, 1_000)
    reason = 'cannot attach "Bob.pdf": no such file or directory'
    assert {row.email: row.left_out for row in forecast(store, store.now(), folder=looked_for)} == {
        "bob@example.org": f"would fail: {reason}",
        "eve@example.org": None,
    }
    with caplog.at_level(logging.WARNING, "skychimp"):
        stats, emails = run(store, folder)
    assert (stats.sent, stats.failed, len(emails)) == (1, 1, 1)
    assert reason in reasons(store)
    (record,) = caplog.records
    assert (record.getMessage(), vars(record)["reason"]) == ("an email failed because of its file", reason)
    assert vars(record)["hint"] == 'add the missing files, then run "skychimp mailings retry 1"'

    (folder / "Bob.pdf").write_bytes(b"late")
    retries.retry(store, ada, mailing_id)
    stats, emails = run(store, folder)
    assert (stats.sent, [attached(email) for email in emails]) == (1, [[("Bob.pdf", b"late")]])


def test_mailing_with_too_many_missing_files_is_disabled_with_the_reason(
    store: Store, ada: Actor, folder: Path
) -> None:
    create(store, ada, paths=["missing/{{ client.name }}"])
    with ScriptedServer([GREETING, accept_mail()]) as server:
        settings = make_settings(server.port, mail__attachments_folder=str(folder), delivery__disable_failures=2)
        assert send(store, settings).failed == 2
    (mailing,) = rows(store, Mailing)
    assert mailing.disabled_reason == "2 of 2 emails failed, 2 of them because a file is missing"


def test_mailing_is_held_while_its_folder_is_missing(store: Store, ada: Actor, folder: Path, tmp_path: Path) -> None:
    create(store, ada)
    for place, reason in (
        (None, "mail.attachments_folder is not set"),
        (tmp_path / "unmounted", "cannot use mail.attachments_folder: no such file or directory"),
    ):
        stats, emails = run(store, place)
        assert (stats.sent, stats.failed, emails) == (0, 0, [])
        assert [row.held_reason for row in rows(store, Mailing)] == [reason]
    assert run(store, folder)[0].sent == 2


# What may have arrived


def lose_reply(store: Store, folder: Path) -> bytes:
    """Send Bob's email without getting the final reply. Return the email."""
    stats, (email, *_) = run(store, folder, LOSES_REPLY, limit=1)
    assert stats.unknown == 1
    return email


def test_unknown_email_is_sent_again_with_the_same_bytes(store: Store, ada: Actor, folder: Path) -> None:
    create(store, ada, files=[NewFile("terms.txt", b"terms")])
    first = lose_reply(store, folder)
    messages.change(store, ada, 1, attached=AttachmentChanges(removes_all=True), also_open=True)
    _, emails = run(store, folder, later=timedelta(hours=1))
    (again,) = [email for email in emails if message_id(email) == message_id(first)]
    assert again == first
    assert attached(again)[0] == ("terms.txt", b"terms")


@pytest.mark.parametrize("change", ["changed", "missing", "a link"])
def test_unknown_email_whose_file_is_not_the_same_waits_for_a_person(
    store: Store, ada: Actor, folder: Path, change: str
) -> None:
    create(store, ada)
    first = lose_reply(store, folder)
    name = str(attached(first)[0][0])
    file, old = folder / name, (folder / name).read_bytes()
    file.unlink()
    if change == "changed":
        file.write_bytes(b"another certificate")
    elif change == "a link":
        file.symlink_to(folder.parent / "old")
        (folder.parent / "old").write_bytes(old)

    stats, emails = run(store, folder, later=timedelta(hours=1))
    assert (stats.sent, stats.unknown, len(emails)) == (1, 1, 1)
    assert message_id(emails[0]) != message_id(first)
    (held,) = [each for each in deliveries(store) if each.state == DeliveryState.UNKNOWN]
    assert held.next_try_at is None
    assert name in attempts(store)[-1].reply

    file.unlink(missing_ok=True)
    file.write_bytes(old)
    unknown_deliveries.resolve(store, ada, Resolution.RESEND, ids=[held.id or 0])
    stats, emails = run(store, folder, later=timedelta(hours=2))
    assert (stats.sent, emails) == (1, [first])


def test_email_of_a_killed_run_whose_file_has_changed_waits_for_a_person(
    store: Store, ada: Actor, folder: Path
) -> None:
    create(store, ada)
    with ScriptedServer([*LOSES_REPLY, hang]) as server:
        options = {"mail__attachments_folder": str(folder), "smtp__connections": 1}
        process = start_run(store, server.port, "--limit", "1", **options)
        wait_until(lambda: len(server.emails) == 1, process)
        wait_for_exit(process, signal.SIGKILL)
        first = server.emails[0]
    (folder / str(attached(first)[0][0])).write_bytes(b"another certificate")

    run(store, folder)  # takes back what the killed run had
    _, emails = run(store, folder, later=timedelta(hours=1))
    assert message_id(first) not in [message_id(email) for email in emails]
    assert state_counts(store) == {"sent": 1, "unknown": 1}
    assert "has changed since" in attempts(store)[-1].reply


def test_email_that_a_person_says_has_not_arrived_gets_the_new_file(store: Store, ada: Actor, folder: Path) -> None:
    mailing_id = create(store, ada)
    name = str(attached(lose_reply(store, folder))[0][0])
    (folder / name).write_bytes(b"new")
    run(store, folder, later=timedelta(hours=1))
    (held,) = [each for each in deliveries(store) if each.state == DeliveryState.UNKNOWN]
    unknown_deliveries.resolve(store, ada, Resolution.FAILED, ids=[held.id or 0])
    retries.retry(store, ada, mailing_id)
    stats, emails = run(store, folder, later=timedelta(hours=2))
    assert (stats.sent, attached(emails[0])) == (1, [(name, b"new")])


def message_id(email: bytes) -> bytes:
    return email.partition(b"\r\nMessage-ID: ")[2].partition(b"\r\n")[0]

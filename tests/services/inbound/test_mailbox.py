"""The mail of an IMAP mailbox is processed once and marked as seen, at once when it comes in."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.imap_server import PASSWORD, Mailbox, running_imap_server
from support.queue_steps import rows
from support.returned import bounce, return_path, send_mailing

from skychimp.config.settings import InboundSettings
from skychimp.errors import ConfigError, RelayUnavailable
from skychimp.models import ReturnedMail
from skychimp.permissions import Actor
from skychimp.services.inbound import mailbox
from skychimp.services.inbound.processing import Summary
from skychimp.store.database import Store


@pytest.fixture
def server() -> Iterator[Mailbox]:
    with running_imap_server() as server:
        yield server


def settings_for(server: Mailbox, tmp_path: Path, password: str = PASSWORD) -> InboundSettings:
    file = tmp_path / "password"
    file.write_text(f"{password}\n")
    file.chmod(0o600)
    url = f"imap://bounces%40skychimp.test@127.0.0.1:{server.port}/INBOX"
    return InboundSettings.model_validate({"imap_url": url, "password_file": str(file)})


def test_unseen_mail_is_processed_once(store: Store, ada: Actor, server: Mailbox, tmp_path: Path) -> None:
    (sent,) = send_mailing(store, ada, "grace")
    server.deliver(bounce("grace@example.org", "550 5.1.1 no such user", to=return_path(store, sent)))
    server.deliver(b"From: somebody\n\n" + b"x" * 2_000_000)
    settings = settings_for(server, tmp_path)

    assert mailbox.process_unseen(store, settings) == Summary(bounces=1, ignored=1, marked_bad=1)
    assert mailbox.process_unseen(store, settings) == Summary()
    assert (server.seen, len(rows(store, ReturnedMail))) == ({1, 2}, 1)


def test_mail_is_processed_when_it_comes_in(store: Store, server: Mailbox, tmp_path: Path) -> None:
    stopping, summaries = threading.Event(), list[Summary]()
    settings = settings_for(server, tmp_path)

    def report(summary: Summary) -> None:
        summaries.append(summary)
        if summary.ignored:
            stopping.set()
        else:
            threading.Timer(0.1, server.deliver, [b"From: somebody\n\nHello"]).start()

    mailbox.watch(store, settings, lambda: not stopping.is_set(), report)

    assert summaries == [Summary(), Summary(ignored=1)]


def test_closed_connection_ends_the_wait(store: Store, server: Mailbox, tmp_path: Path) -> None:
    """At once. It was asked again and again, without a pause, until IDLE would have begun again."""
    checks = list[float]()

    def may_continue() -> bool:
        checks.append(time.monotonic())
        return len(checks) < 100

    def report(summary: Summary) -> None:
        threading.Timer(0.1, server.close_connections).start()

    with pytest.raises(RelayUnavailable, match="cannot read the mailbox"):
        mailbox.watch(store, settings_for(server, tmp_path), may_continue, report)
    assert len(checks) < 100


def test_failures_are_explained(store: Store, server: Mailbox, tmp_path: Path) -> None:
    with pytest.raises(RelayUnavailable, match="wrong password"):
        mailbox.process_unseen(store, settings_for(server, tmp_path, "wrong"))
    with pytest.raises(ConfigError, match="is not set"):
        mailbox.process_unseen(store, InboundSettings())
    server.port = 1
    with pytest.raises(RelayUnavailable, match="cannot read the mailbox"):
        mailbox.process_unseen(store, settings_for(server, tmp_path))

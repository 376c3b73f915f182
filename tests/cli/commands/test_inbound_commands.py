"""`inbound read` fits a mail server's pipe: it has its effect, or exits with status 75 and is tried again."""

from pathlib import Path

import pytest
from support.command import Home
from support.queue_steps import get_row, rows
from support.returned import bounce, return_path, send_mailing, unsubscribe_address

from skychimp.models import Client, ReturnedMail, Suppression
from skychimp.permissions import Actor
from skychimp.store.database import Store

NO_USER = "550 5.1.1 no such user"
COUNTS = {
    "bounces": 0, "complaints": 0, "unsubscribes": 0, "ignored": 0, "repeated": 0, "automatic": 0, "marked_bad": 0,
}  # fmt: skip


def test_installed_command_reads_a_pipe(store: Store, ada: Actor, home: Home) -> None:
    (sent,) = send_mailing(store, ada, "grace")
    data = bounce("grace@example.org", NO_USER)

    done = home.run("inbound", "read", "--recipient", return_path(store, sent), "-", "--json", stdin=data)

    assert (done.status, done.json, done.err) == (0, COUNTS | {"bounces": 1, "marked_bad": 1}, "")
    assert get_row(store, Client, 1).bad_at is not None


def test_file_is_read(store: Store, ada: Actor, home: Home, tmp_path: Path) -> None:
    (sent,) = send_mailing(store, ada, "grace")
    (tmp_path / "mail").write_text(f"To: {unsubscribe_address(store, sent)}\n\n")

    done = home.call("inbound", "read", str(tmp_path / "mail"))

    assert done.status == 0
    assert "unsubscribes\t1\n" in done.out
    assert rows(store, Suppression)[0].source == "mail"


def test_other_mail_is_ignored(home: Home) -> None:
    done = home.call("inbound", "read", "--recipient", "bounces@skychimp.test", "-", "--json", stdin="\0\n\nHello")
    assert (done.status, done.json) == (0, COUNTS | {"ignored": 1})


FAILURES = {
    "usage": (["--no-such-option", "-"], {}),
    "no file": ([], {}),
    "missing file": (["nowhere"], {}),
    "config": (["-"], {"SKYCHIMP_SMTP__PORT": "none"}),
    "no store": (["-"], {"SKYCHIMP_STORE": "/nowhere/store.db"}),
    "missing extra": (["-"], {"SKYCHIMP_STORE": "postgresql+psycopg://nobody@127.0.0.1:1/none"}),
}


@pytest.mark.sqlite
@pytest.mark.parametrize("failure", FAILURES)
def test_any_failure_keeps_the_mail(home: Home, failure: str) -> None:
    arguments, environ = FAILURES[failure]
    done = home.call("inbound", "read", *arguments, environ=environ)
    assert done.status == 75
    assert done.err.startswith("error: ")


def test_bug_keeps_the_mail(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skychimp.delivery.inbound.reading.read", None)
    assert home.call("inbound", "read", "-").status == 75


def test_other_commands_keep_their_statuses(home: Home) -> None:
    assert home.call("inbound", "maildir").status == 3
    assert home.call("inbound", "imap").status == 3
    assert home.call("inbound", "reed").status == 2
    assert home.call("inbound", "read", "--help").status == 0


def test_maildir_is_processed(store: Store, ada: Actor, home: Home, tmp_path: Path) -> None:
    (sent,) = send_mailing(store, ada, "grace")
    for name in ("new", "cur", "tmp"):
        (tmp_path / "Maildir" / name).mkdir(parents=True, mode=0o700)
    data = bounce("grace@example.org", NO_USER, to=return_path(store, sent))
    (tmp_path / "Maildir" / "new" / "1").write_bytes(data)

    done = home.call("inbound", "maildir", "--json", environ={"SKYCHIMP_INBOUND__MAILDIR": str(tmp_path / "Maildir")})

    assert (done.status, done.json["bounces"]) == (0, 1)
    assert len(rows(store, ReturnedMail)) == 1

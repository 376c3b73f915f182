"""Kill `inbound maildir` between any two steps: the next one finishes, loses nothing and counts nothing twice."""

import os
import shutil
from pathlib import Path

import pytest
from support.forks import run_forked, sweep
from support.queue_steps import rows
from support.returned import bounce, complaint, return_path, send_mailing, unsubscribe_address

from skychimp.models import Client, ReturnedMail, Suppression
from skychimp.permissions import Actor
from skychimp.store.database import Store
from skychimp.store.schema import open_store

pytestmark = pytest.mark.sqlite

SOFT, HARD = "552 5.2.2 mailbox full", "550 5.1.1 no such user"
KILL = """
import itertools, os, signal
from skychimp.services.inbound import maildir, processing
from skychimp.store import returned_mail
from skychimp.store.clients import bad_addresses

maildir.BATCH = 2
steps = itertools.count(1)

def killed(step):
    def call(*arguments, **more):
        for place in ("before", "after"):
            if next(steps) == {number}:
                os.kill(os.getpid(), signal.SIGKILL)
            if place == "before":
                result = step(*arguments, **more)
        return result
    return call

processing.process = killed(processing.process)
returned_mail.record = killed(returned_mail.record)
bad_addresses.mark = killed(bad_addresses.mark)
maildir._keep = killed(maildir._keep)
"""


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_reading_is_finished_by_the_next(store: Store, ada: Actor, tmp_path: Path, step: int) -> None:
    make_mail(store, ada, tmp_path / "Maildir")
    store.close()

    def experiment(number: int) -> str | None:
        folder = tmp_path / str(number)
        folder.mkdir(mode=0o700)
        shutil.copytree(tmp_path / "Maildir", folder / "Maildir")
        shutil.copy(tmp_path / "skychimp.db", folder)
        status, output = read(folder, KILL.replace("{number}", str(number)))
        if status == 0:
            return None
        assert status == -9, output
        status, output = read(folder)
        assert status == 0, output
        return find_faults(folder)

    faults = sweep(experiment, step)
    assert set(faults) == {""}
    assert len(faults) >= 16 // step


def make_mail(store: Store, ada: Actor, maildir: Path) -> None:
    """Deliver a hard and a soft bounce, a complaint, a request to unsubscribe, and an email that is none of ours."""
    hard, soft, complained, unsubscribed = send_mailing(store, ada, "hard", "soft", "complained", "unsubscribed")
    emails = [
        bounce("hard@example.org", HARD, to=return_path(store, hard)),
        bounce("soft@example.org", SOFT, status="5.2.2", to=return_path(store, soft)),
        complaint(f"Return-Path: <{return_path(store, complained)}>\n\n"),
        f"To: {unsubscribe_address(store, unsubscribed)}\n\n".encode(),
        b"From: somebody\n\nHello",
    ]
    for name in ("new", "cur", "tmp"):
        (maildir / name).mkdir(parents=True, mode=0o700)
    for number, data in enumerate(emails):
        (maildir / "new" / str(number)).write_bytes(data)


def read(folder: Path, preamble: str = "") -> tuple[int, str]:
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "SKYCHIMP_STORE": str(folder / "skychimp.db")}
    return run_forked(["inbound", "maildir", "Maildir"], environ, folder, preamble)


def find_faults(folder: Path) -> str:
    """Return what is lost, repeated or left, "" if nothing is."""
    store = open_store(f"sqlite:///{folder / 'skychimp.db'}")
    kinds = sorted(each.kind.value for each in rows(store, ReturnedMail))
    bad = [client.email for client in rows(store, Client) if client.bad_at is not None]
    suppressed = sorted(each.reason for each in rows(store, Suppression))
    store.close()
    left = [os.listdir(folder / "Maildir" / name) for name in ("new", "cur")]
    is_right = (kinds, bad, suppressed) == (
        ["bounced", "complaint", "soft_bounce"],
        ["hard@example.org"],
        ["bounce", "complaint", "unsubscribed"],
    )
    return "" if is_right and (len(left[0]), len(left[1])) == (0, 5) else f"{kinds} {bad} {suppressed} {left}"

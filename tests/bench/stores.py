"""Skychimp as it is installed: a fresh store with its clients and a mailing that is due, and a run over it."""

import json
import os
import shutil
import sqlite3
import sys
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from programs import Measured, measure
from templates import SENDER, SUBJECT, Words, people

SKYCHIMP = str(Path(sys.executable).with_name("skychimp"))


class Run(NamedTuple):
    """What one `skychimp run` took: all of it; and from the first outcome in the ledger to the last."""

    letters: int
    whole: Measured
    sending_seconds: float


def make(folder: Path, letters: int, words: Words) -> float:
    """A store in `folder`, with so many clients and a mailing to all of them that is due; the import's seconds."""
    folder.mkdir(parents=True)
    with (folder / "clients.csv").open("w") as file:
        file.write("email,name\n")
        file.writelines(f"{email},{name}\n" for email, name in people(letters))
    ours = words.marked("{{ client.name }}", "{{ client.email }}")
    (folder / "letter.txt").write_text(ours.text)
    (folder / "letter.html").write_text(ours.html or "")
    html_file = ["--html-file", "letter.html"] if ours.html is not None else []
    subject = SUBJECT.format(name="{{ client.name }}")
    skychimp(folder, "init", "--email", "bench@example.com", "--sender", SENDER)
    imported = skychimp(folder, "clients", "import", "clients.csv").seconds
    skychimp(folder, "messages", "create", "--subject", subject, "--body-file", "letter.txt", *html_file)
    mailing = ("--message", "1", "--start", "now", "--every", "once", "--all-clients")
    skychimp(folder, "mailings", "create", *mailing, "--no-send")
    return imported


def copy(folder: Path, to: Path) -> Path:
    """Another store, the same to the byte, and on the disk: no later sync has to carry it."""
    shutil.copytree(folder, to)
    os.sync()
    return to


def run(folder: Path, port: int, connections: int) -> Run:
    """Send what is due in the store, to a server on this machine."""
    took = skychimp(
        folder,
        "run",
        "--json",
        SKYCHIMP_MAIL__TRANSPORT="smtp",
        SKYCHIMP_SMTP__HOST="127.0.0.1",
        SKYCHIMP_SMTP__PORT=str(port),
        SKYCHIMP_SMTP__SECURITY="none",
        SKYCHIMP_SMTP__CONNECTIONS=str(connections),
    )
    return Run(json.loads(took.stdout)["sent"], took, _sending_seconds(folder))


def skychimp(folder: Path, *arguments: str, **settings: str) -> Measured:
    """Run the installed command on the store in `folder`, with these settings and nothing else of this account's."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("SKYCHIMP_")}
    ours = {
        "SKYCHIMP_CONFIG": str(folder / "skychimp.toml"),
        "SKYCHIMP_STORE": str(folder / "skychimp.db"),
        "XDG_STATE_HOME": str(folder / "state"),
    }
    return measure([SKYCHIMP, *arguments], others | ours | settings, folder)


def _sending_seconds(folder: Path) -> float:
    with closing(sqlite3.connect(folder / "skychimp.db")) as ledger:
        first, last = ledger.execute("SELECT min(finished_at), max(finished_at) FROM attempt").fetchone()
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()

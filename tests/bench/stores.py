"""Create stores with a due mailing by the installed command, and run it on them."""

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
from templates import SENDER, SUBJECT, EmailTemplate, recipients

SKYCHIMP = str(Path(sys.executable).with_name("skychimp"))


class Run(NamedTuple):
    """The cost of one `skychimp run`. `sending_seconds` is from the first outcome in the ledger to the last."""

    emails: int
    whole: Measured
    sending_seconds: float


def make_store(folder: Path, clients: int, template: EmailTemplate, *, attach_kb: int = 0) -> float:
    """Create a store in `folder` with a due mailing to this many clients. Returns the seconds that the import took.

    A file of `attach_kb` kB is attached to each email, if that is not 0.
    """
    folder.mkdir(parents=True)
    with (folder / "clients.csv").open("w") as file:
        file.write("email,name\n")
        file.writelines(f"{email},{name}\n" for email, name in recipients(clients))
    own = template.with_placeholders("{{ client.name }}", "{{ client.email }}")
    (folder / "email.txt").write_text(own.text)
    (folder / "email.html").write_text(own.html or "")
    html_file = ["--html-file", "email.html"] if own.html is not None else []
    (folder / "attached.bin").write_bytes(os.urandom(attach_kb * 1_000))
    attach = ["--attach", "attached.bin"] if attach_kb else []
    subject = SUBJECT.format(name="{{ client.name }}")
    skychimp(folder, "init", "--email", "bench@example.com", "--sender", SENDER)
    imported = skychimp(folder, "clients", "import", "clients.csv").seconds
    skychimp(folder, "messages", "create", "--subject", subject, "--body-file", "email.txt", *html_file, *attach)
    mailing = ("--message", "1", "--start", "now", "--every", "once", "--all-clients")
    skychimp(folder, "mailings", "create", *mailing, "--no-send")
    return imported


def copy_store(folder: Path, to: Path) -> Path:
    """Copy a store and write it to the disk, so that later syncs do not have to."""
    shutil.copytree(folder, to)
    os.sync()
    return to


ALL_HEADERS = {
    "SKYCHIMP_WEB__URL": "https://mail.example.org",
    "SKYCHIMP_INBOUND__ADDRESS": "bounces@example.org",
    "SKYCHIMP_MAIL__REPLY_TO": "help@example.org",
}
"""Settings for a link, a return path and a reply address in each email. They are used if BENCH_HEADERS is set."""


def run(folder: Path, port: int, connections: int, **settings: str) -> Run:
    """Send all due emails of a store to a server on this machine, with further settings as in the environment."""
    measured = skychimp(
        folder,
        "run",
        "--json",
        SKYCHIMP_MAIL__TRANSPORT="smtp",
        SKYCHIMP_SMTP__HOST="127.0.0.1",
        SKYCHIMP_SMTP__PORT=str(port),
        SKYCHIMP_SMTP__SECURITY="none",
        SKYCHIMP_SMTP__CONNECTIONS=str(connections),
        **(ALL_HEADERS if os.environ.get("BENCH_HEADERS") else {}),
        **settings,
    )
    return Run(json.loads(measured.stdout)["sent"], measured, _sending_seconds(folder))


def skychimp(folder: Path, *arguments: str, **settings: str) -> Measured:
    """Run the installed command on the store in `folder` with these settings, and without those of this account."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SKYCHIMP_")}
    paths = {
        "SKYCHIMP_CONFIG": str(folder / "skychimp.toml"),
        "SKYCHIMP_STORE": str(folder / "skychimp.db"),
        "XDG_STATE_HOME": str(folder / "state"),
    }
    return measure([SKYCHIMP, *arguments], inherited | paths | settings, folder)


def _sending_seconds(folder: Path) -> float:
    with closing(sqlite3.connect(folder / "skychimp.db")) as ledger:
        first, last = ledger.execute("SELECT min(finished_at), max(finished_at) FROM attempt").fetchone()
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()

"""Measure time, memory and the longest pause of a sender for each command that writes, on a small and a large store.

    python tests/bench/pauses.py                     10,000 clients, 30,000 attempts; 1,000,000 and 3,000,000
    python tests/bench/pauses.py --only delete       only the commands whose names have this word

Beside each command, a sender commits every 10 ms. Its pause is the longest time between two commits. The first row,
without a command, shows what the disk and other programs add.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from select import select
from typing import NamedTuple

import stores
from programs import Measured
from templates import SIZES

from skychimp.store.sqlite import connect_file

SMALL, LARGE = 10_000, 1_000_000
SENDER_INTERVAL_S = 0.01
ROW = "{:>10}  {:<28}{:>10}{:>12}{:>12}"

HISTORY = [
    # Three occurrences of mailing 1 were sent to everybody. One of mailing 2 is open, and a twentieth of it is sent.
    """INSERT INTO run (host, pid, started_at, heartbeat_at, ended_at, sent, deferred, failed, unknown)
       VALUES ('here', 1, '2026-01-01', '2026-01-01', '2026-01-01', 0, 0, 0, 0)""",
    """INSERT INTO occurrence (mailing_id, due_local, due_at, state, opened_at, finished_at, cursor, subject, body,
           format, sender, return_path, timezone)
       SELECT 1, value, value, 'finished', value, value, 0, 'News', 'Hello', 'text', 'bench@example.com',
           'bench@example.com', 'UTC'
       FROM json_each('["2026-01-01 09:00:00.000000", "2026-01-02 09:00:00.000000", "2026-01-03 09:00:00.000000"]')""",
    """INSERT INTO occurrence (mailing_id, due_local, due_at, state, opened_at, cursor, subject, body, format,
           sender, return_path, timezone)
       VALUES (2, 'now', '2026-01-04 09:00:00.000000', 'open', '2026-01-04 09:00:00.000000', 0, 'News', 'Hello', 'text',
           'bench@example.com', 'bench@example.com', 'UTC')""",
    """INSERT INTO delivery (occurrence_id, client_id, address, address_key, name, comment, tags, state, attempts,
           given_back, next_try_at)
       SELECT o.id, c.id, c.email, c.address_key, c.name, '', '[]',
           CASE WHEN o.id < 4 OR c.id % 20 = 0 THEN 'sent' ELSE 'queued' END, o.id < 4 OR c.id % 20 = 0, 0,
           CASE WHEN o.id < 4 OR c.id % 20 = 0 THEN NULL ELSE o.due_at END
       FROM occurrence AS o CROSS JOIN client AS c ORDER BY o.id, c.id""",
    """INSERT INTO attempt (delivery_id, number, started_at, finished_at, outcome, phase, code, enhanced, reply, relay)
       SELECT d.id, 1, o.due_at, o.due_at, 'sent', 'dot', 250, '2.0.0', '250 2.0.0 Ok: queued as ' || d.id,
           'relay.example.com:25'
       FROM delivery AS d JOIN occurrence AS o ON o.id = d.occurrence_id
       WHERE d.state = 'sent' ORDER BY d.id""",
    "UPDATE mailing SET status = 'completed', next_at = NULL WHERE id = 1",
    """UPDATE mailing SET start_at = '2026-01-04 09:00:00.000000', start_local = '2026-01-04T09:00:00' WHERE id = 2""",
]
RESTORE = [
    "DELETE FROM attempt WHERE relay != 'relay.example.com:25'",
    "DELETE FROM delivery WHERE occurrence_id > 4",
    "DELETE FROM content",
    "DELETE FROM occurrence WHERE id > 4",
    """UPDATE delivery SET state = CASE WHEN client_id % 20 = 0 THEN 'sent' ELSE 'queued' END,
           next_try_at = CASE WHEN client_id % 20 = 0 THEN NULL ELSE '2026-01-04 09:00:00.000000' END,
           attempts = client_id % 20 = 0, content_id = NULL, dated_at = NULL
       WHERE occurrence_id = 4 AND state != CASE WHEN client_id % 20 = 0 THEN 'sent' ELSE 'queued' END""",
    "UPDATE occurrence SET state = 'open', finished_at = NULL, results_of = NULL WHERE id = 4",
    """UPDATE mailing SET status = 'running', next_at = NULL, deleted_at = NULL, message_id = 1, end_at = NULL,
       disabled_at = NULL, disabled_reason = NULL WHERE id = 2""",
    "UPDATE mailing SET deleted_at = '2026-01-05 09:00:00.000000', next_at = NULL, message_id = NULL WHERE id > 2",
]
"""Makes occurrence 4 of mailing 2 what it was at first, and removes all later ones."""
SET_UP = {
    "expire": ["UPDATE mailing SET end_at = '2026-01-04 10:00:00.000000' WHERE id = 2"],
    "opening": [
        "UPDATE mailing SET disabled_at = '2026-01-04 10:00:00.000000', disabled_reason = '' WHERE id = 2",
        """UPDATE mailing SET deleted_at = NULL, message_id = 1, status = 'created', next_at = start_at
           WHERE id = (SELECT max(id) FROM mailing)""",
    ],
    "replacing": [
        """UPDATE delivery SET state = 'cancelled', next_try_at = NULL WHERE occurrence_id = 4 AND state = 'sent'""",
        "UPDATE mailing SET next_at = '2026-11-27 09:00:00.000000' WHERE id = 2",
    ],
    "deferred": [
        "UPDATE delivery SET state = 'deferred', attempts = 1 WHERE occurrence_id = 4 AND state = 'queued'",
        "UPDATE mailing SET next_at = '2026-11-27 09:00:00.000000' WHERE id = 2",
    ],
    "retry": [
        "UPDATE delivery SET state = 'failed', next_try_at = NULL WHERE occurrence_id = 4 AND state = 'queued'",
        "UPDATE occurrence SET state = 'finished', finished_at = '2026-01-05 09:00:00.000000' WHERE id = 4",
    ],
    "resolve": [
        "UPDATE delivery SET state = 'unknown', next_try_at = NULL WHERE occurrence_id = 4 AND state = 'queued'",
    ],
}
"""What is changed in the store before the command, by a word of its name."""
COMMANDS = {
    "(nothing)": "",
    "report, the first": "report 2",
    "report": "report 1",
    "stats": "stats",
    "clients create": "clients create --email new@example.org",
    "clients update": "clients update client77@example.com --email new77@example.com",
    "clients delete": "clients delete client78@example.com --yes",
    "clients forget": "clients forget client79@example.com --yes",
    "clients import": "clients import more.csv",
    "messages update --also-open": "messages update 1 --subject Others --also-open",
    "run --limit 10": "run --limit 10",
    "mailings create --all-clients": "mailings create --message 1 --start now --every once --all-clients --no-send",
    "run --limit 10, opening": "run --limit 10",
    "run --limit 10, replacing": "run --limit 10",
    "run --limit 10, deferred": "run --limit 10",
    "run, 950,000 expire": "run --limit 10",
    "mailings update --end": "mailings update 2 --end 2026-01-05T10:00",
    "mailings delete": "mailings delete 2 --yes",
    "mailings retry": "mailings retry 2 --failed --yes",
    "resolve --all": "resolve --all --sent --yes",
    "backup": "backup copy.db --yes",
}
"""What is measured, in this order: a name, and the command."""


class Result(NamedTuple):
    """What a command used, and the longest pause of the sender beside it."""

    command: Measured
    pause_s: float


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="skychimp-bench-", dir=options.folder) as name:
        print(ROW.format("clients", "command", "seconds", "peak MiB", "pause ms"), flush=True)
        for clients in options.clients:
            folder = Path(name) / str(clients)
            _make_store(folder, clients)
            for command, arguments in COMMANDS.items():
                if options.only in command:
                    _show(clients, command, _measure(folder, command, arguments.split()))
            shutil.rmtree(folder)


def _make_store(folder: Path, clients: int) -> None:
    stores.make_store(folder, clients, SIZES["1k"])
    mailing = ("--message", "1", "--start", "now", "--every", "day")
    stores.skychimp(folder, "mailings", "create", *mailing, "--all-clients", "--no-send")
    (folder / "more.csv").write_text("email\n" + "".join(f"more{i}@example.com\n" for i in range(clients // 10)))
    _execute(folder, HISTORY)


def _execute(folder: Path, statements: Sequence[str]) -> None:
    with closing(connect_file(folder / "skychimp.db")) as db:
        db.execute("BEGIN IMMEDIATE")
        for statement in statements:
            db.execute(statement)
        db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _measure(folder: Path, name: str, arguments: Sequence[str]) -> Result:
    _execute(folder, RESTORE + next((SET_UP[word] for word in SET_UP if word in name), []))
    sender = subprocess.Popen(
        [sys.executable, __file__, "--sender", str(folder / "skychimp.db")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert sender.stdout is not None
    sender.stdout.readline()
    if arguments:
        command = stores.skychimp(folder, *arguments)
    else:
        time.sleep(5)
        command = Measured(5, 0, 0, "")
    pause_s = float(sender.communicate("")[0])
    return Result(command, pause_s)


def _send(path: Path) -> None:
    """Commit every 10 ms until the end of stdin, and print the longest pause in seconds."""
    with closing(connect_file(path)) as db:
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA busy_timeout = 600000")
        longest_s, last = 0.0, time.perf_counter()
        print(flush=True)
        while not select([sys.stdin], [], [], SENDER_INTERVAL_S)[0]:
            db.execute("UPDATE run SET sent = sent + 1 WHERE id = 1")
            now = time.perf_counter()
            longest_s, last = max(longest_s, now - last), now
        print(longest_s)


def _show(clients: int, command: str, result: Result) -> None:
    used = result.command
    cells = (f"{clients:,}", command, f"{used.seconds:.2f}", f"{used.peak_mib:.0f}", f"{result.pause_s * 1000:,.0f}")
    print(ROW.format(*cells), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[SMALL, LARGE])
    parser.add_argument("--only", default="", help="only commands whose names have this word")
    parser.add_argument("--folder", help="folder for the stores; use a real disk, not a tmpfs")
    return parser.parse_args()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--sender"]:
        _send(Path(sys.argv[2]))
    else:
        main()

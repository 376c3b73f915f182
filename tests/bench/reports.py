"""How long a look back takes, beside `select count(*)` on the same table; and the memory that a long log takes.

    python tests/bench/reports.py              1,000,000 deliveries
    python tests/bench/reports.py 100000

The first report after a mailing counts its attempts and deliveries, once; those after it read what was kept. Times are
medians of ten, in one process with warm caches, but for the first report and for whole commands. A sixteenth of the
letters failed, in words of their own; each reply that took one names another queue id.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import opening
import stores
from programs import measure
from sqlalchemy import text
from templates import SIZES

from skychimp.models import Role
from skychimp.permissions import Actor
from skychimp.services.reporting import address_history, reports, rollups
from skychimp.store.database import Store
from skychimp.store.schema import open_store

MILLION = 1_000_000
SENT = [
    """UPDATE delivery SET state = CASE WHEN id % 16 = 0 THEN 'failed' ELSE 'sent' END, attempts = 1,
           next_try_at = NULL""",
    """INSERT INTO attempt (delivery_id, number, started_at, finished_at, outcome, phase, code, enhanced, reply, relay)
       SELECT id, 1, at, at, state, CASE state WHEN 'sent' THEN 'dot' ELSE 'rcpt' END,
           CASE state WHEN 'sent' THEN 250 ELSE 550 END, CASE state WHEN 'sent' THEN '2.0.0' ELSE '5.1.1' END,
           CASE state WHEN 'sent' THEN '250 2.0.0 Ok: queued as ' || hex(randomblob(6))
               ELSE '550 5.1.1 <' || address || '>: Recipient address rejected: User unknown' END, 'relay.example:25'
       FROM (SELECT *, strftime('%Y-%m-%d %H:%M:%f000', :now, printf('+%.3f seconds', id / 2000.0)) AS at
             FROM delivery)""",
    "UPDATE occurrence SET state = 'finished', finished_at = :now",
    "UPDATE mailing SET status = 'completed', next_at = NULL",
]
"""As a run of 2,000 letters a second would have left it."""


def main(letters: int) -> None:
    with tempfile.TemporaryDirectory(prefix="skychimp-bench-") as name:
        few, folder = Path(name) / "few", Path(name) / "all"
        for where, number in ((few, letters // 10), (folder, letters)):
            measure([sys.executable, __file__, "make", str(where), str(number)])
            took = stores.skychimp(where, "mailings", "log", "1", "--csv")  # by a small process: memory is inherited
            print(
                f"{f'log of {number:,} attempts':34}{took.seconds:10,.1f} s, peak {took.peak_mib:,.0f} MiB", flush=True
            )
        with closing(open_store(f"sqlite:///{folder / 'skychimp.db'}")) as store:
            for line in _compared(store, letters):
                print(line, flush=True)


def _compared(store: Store, letters: int) -> Iterator[str]:
    ada, today = Actor(1, "", Role.USER), datetime.now(UTC).date()
    count = _median(lambda: _count(store))

    def line(what: str, seconds: float) -> str:
        return f"{what:34}{seconds * 1e3:10,.1f} ms{seconds / count:9.2f} x count(*)"

    yield line(f"select count(*), {letters:,} deliveries", count)
    yield line("the first report: counts attempts", _took(lambda: rollups.add_up(store)))
    yield line("the first report: and deliveries", _took(lambda: reports.report(store, ada, 1)))
    yield line("report, the whole command", stores.skychimp(store.path.parent, "report", "1").seconds)
    yield line("report", _median(lambda: reports.report(store, ada, 1)))
    yield line("stats --range", _median(lambda: reports.range_report(store, ada, today, today, "UTC")))
    yield line("why", _median(lambda: address_history.address_history(store, ada, "client7@example.com")))
    _say(store, "UPDATE occurrence SET state = 'open', finished_at = NULL")
    yield line("report while it is being sent", _took(lambda: reports.report(store, ada, 1)))


def _make(folder: Path, letters: int) -> None:
    """A store with a mailing to so many clients that has been sent."""
    stores.make(folder, letters, SIZES["1k"])
    opening.main(str(folder / "skychimp.db"))
    with closing(open_store(f"sqlite:///{folder / 'skychimp.db'}")) as store:
        for statement in SENT:
            _say(store, statement)
        store.checkpoint()


def _say(store: Store, statement: str) -> None:
    with store.write() as db:
        db.execute(text(statement), {"now": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f}"})


def _count(store: Store) -> int:
    with store.read() as db:
        return int(db.execute(text("SELECT count(*) FROM delivery")).scalar_one())


def _took(what: Callable[[], object]) -> float:
    started = time.perf_counter()
    what()
    return time.perf_counter() - started


def _median(what: Callable[[], object]) -> float:
    return median(_took(what) for _ in range(10))


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        _make(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else MILLION)

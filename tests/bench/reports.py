"""Compare the time of reports with `select count(*)` on the same table, and measure the memory of a long log.

    python tests/bench/reports.py              1,000,000 deliveries
    python tests/bench/reports.py 100000

The first report after a mailing counts its attempts and deliveries once. Later reports read the stored counts. Times
are medians of ten in one process with warm caches, except for the first report and for whole commands. One in 16
emails failed. All replies differ: in the address, or in the queue id.
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
"""What a run of 2,000 emails/s would have left in the store."""


def main(deliveries: int) -> None:
    with tempfile.TemporaryDirectory(prefix="skychimp-bench-") as name:
        few, folder = Path(name) / "few", Path(name) / "all"
        for store_folder, number in ((few, deliveries // 10), (folder, deliveries)):
            measure([sys.executable, __file__, "make", str(store_folder), str(number)])
            # Another process makes the stores: a child would inherit the peak memory of this one.
            measured = stores.skychimp(store_folder, "mailings", "log", "1", "--csv")
            print(
                f"{f'log of {number:,} attempts':34}{measured.seconds:10,.1f} s, peak {measured.peak_mib:,.0f} MiB",
                flush=True,
            )
        with closing(open_store(f"sqlite:///{folder / 'skychimp.db'}")) as store:
            for line in _compare(store, deliveries):
                print(line, flush=True)


def _compare(store: Store, deliveries: int) -> Iterator[str]:
    ada, today = Actor(1, "", Role.USER), datetime.now(UTC).date()
    count = _median_seconds(lambda: _count(store))

    def line(label: str, seconds: float) -> str:
        return f"{label:34}{seconds * 1e3:10,.1f} ms{seconds / count:9.2f} x count(*)"

    yield line(f"select count(*), {deliveries:,} deliveries", count)
    yield line("first report: counts attempts", _seconds(lambda: rollups.count_new_attempts(store)))
    yield line("first report: counts deliveries", _seconds(lambda: reports.mailing_report(store, ada, 1)))
    yield line("report, whole command", stores.skychimp(store.path.parent, "report", "1").seconds)
    yield line("report", _median_seconds(lambda: reports.mailing_report(store, ada, 1)))
    yield line("stats --range", _median_seconds(lambda: reports.range_report(store, ada, today, today, "UTC")))
    yield line("why", _median_seconds(lambda: address_history.address_history(store, ada, "client7@example.com")))
    _execute(store, "UPDATE occurrence SET state = 'open', finished_at = NULL")
    yield line("report while sending", _seconds(lambda: reports.mailing_report(store, ada, 1)))


def _make(folder: Path, deliveries: int) -> None:
    """Create a store with a mailing that has been sent to this many clients."""
    stores.make_store(folder, deliveries, SIZES["1k"])
    opening.main(str(folder / "skychimp.db"))
    with closing(open_store(f"sqlite:///{folder / 'skychimp.db'}")) as store:
        for statement in SENT:
            _execute(store, statement)
        store.checkpoint()


def _execute(store: Store, statement: str) -> None:
    with store.write() as db:
        db.execute(text(statement), {"now": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f}"})


def _count(store: Store) -> int:
    with store.read() as db:
        return int(db.execute(text("SELECT count(*) FROM delivery")).scalar_one())


def _seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _median_seconds(action: Callable[[], object]) -> float:
    return median(_seconds(action) for _ in range(10))


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        _make(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else MILLION)

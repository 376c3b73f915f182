"""Measure how long it takes to open an occurrence, which creates a delivery for each client.

python tests/bench/opening.py STORE    prints the seconds and the number of deliveries, which stay in the store
"""

import sys
import time
from datetime import UTC, datetime

from sqlalchemy import func, select

from skychimp.delivery.scheduling import planner
from skychimp.models import Delivery, Occurrence
from skychimp.store.occurrences import opening
from skychimp.store.schema import open_store

SENDER = "bench@example.com"


def main(path: str) -> None:
    now = datetime.now(UTC)
    with open_store(f"sqlite:///{path}").connect() as db:
        started = time.perf_counter()
        with db.begin():
            planner.open_due(db, now, sender=SENDER, return_path=SENDER)
            occurrence_id = db.execute(select(Occurrence.__table__.c.id)).scalar_one()
        is_complete = False
        while not is_complete:
            with db.begin():  # one transaction for each batch, as in a run
                is_complete = opening.create_deliveries(db, occurrence_id)
        seconds = time.perf_counter() - started
        print(seconds, db.scalar(select(func.count()).select_from(Delivery.__table__)))


if __name__ == "__main__":
    main(sys.argv[1])

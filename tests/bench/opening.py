"""How long it takes to open an occurrence: from what is due to a delivery for each client.

python tests/bench/opening.py STORE    prints the seconds and the number of deliveries; the store keeps them
"""

import sys
import time
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select

from skychimp.delivery.scheduling import planner
from skychimp.models import Delivery, Occurrence
from skychimp.store import queue
from skychimp.store.schema import open_store

WHO = "bench@example.com"


def main(path: str) -> None:
    now = datetime.now(UTC)
    with open_store(f"sqlite:///{path}").connect() as db:
        started = time.perf_counter()
        with db.begin():
            planner.open_due(db, now, sender=WHO, return_path=WHO, give_up_after=timedelta(days=3))
            occurrence_id = db.execute(select(Occurrence.__table__.c.id)).scalar_one()
        done = False
        while not done:
            with db.begin():  # one transaction a batch, as a run does it
                done = queue.fill(db, occurrence_id)
        seconds = time.perf_counter() - started
        print(seconds, db.scalar(select(func.count()).select_from(Delivery.__table__)))


if __name__ == "__main__":
    main(sys.argv[1])

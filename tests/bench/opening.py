"""How long it takes to open an occurrence: from what is due to a delivery for each client.

python tests/bench/opening.py STORE    prints the seconds and the number of deliveries; the store keeps them
"""

import sys
import time
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select

from skychimp.delivery import planner
from skychimp.models import Delivery, Occurrence
from skychimp.store import queue
from skychimp.store.engine import open_store

WHO = "bench@example.com"


def main(path: str) -> None:
    now = datetime.now(UTC)
    with open_store(f"sqlite:///{path}").connect() as connection:
        started = time.perf_counter()
        with connection.begin():
            planner.open_due(connection, now, sender=WHO, return_path=WHO, give_up_after=timedelta(days=3))
            occurrence_id = connection.execute(select(Occurrence.__table__.c.id)).scalar_one()
        done = False
        while not done:
            with connection.begin():  # one transaction a batch, as a run does it
                done = queue.fill(connection, occurrence_id)
        seconds = time.perf_counter() - started
        print(seconds, connection.scalar(select(func.count()).select_from(Delivery.__table__)))


if __name__ == "__main__":
    main(sys.argv[1])

"""Find out whether a timer, cron or a daemon sends from a store, or nobody but a person does."""

import os
from datetime import timedelta

from sqlalchemy import and_, select

from skychimp.models import tables
from skychimp.services.installing import systemd
from skychimp.store.database import Store

_RUN = tables.run

RECENT = timedelta(days=2)
LONG = timedelta(minutes=2)
MANY = 3
"""A person seldom runs it so often in that time, or for that long. Cron and a timer do it each minute."""


def is_sent_by_itself(store: Store) -> bool:
    """Return whether something else than a person seems to send from a store."""
    if any(os.path.lexists(systemd.unit_path(user=user)) for user in (True, False)):
        return True
    since = store.now() - RECENT
    recent = and_(_RUN.c.heartbeat_at >= since, _RUN.c.mailing_id.is_(None))
    with store.read() as transaction:
        db = transaction.connection()
        runs = db.execute(select(_RUN.c.started_at, _RUN.c.heartbeat_at).where(recent).limit(MANY)).all()
    return len(runs) >= MANY or any(run.heartbeat_at - run.started_at >= LONG for run in runs)

"""Keep the keys that tokens are made with. Part of the caller's transaction.

A key that was replaced is good for another 60 days, so that the links in emails that were sent before still work.
"""

import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, func, insert, select, update

from skychimp.errors import Conflict
from skychimp.models import tables
from skychimp.translation import tr

_K = tables.token_key

KEPT_FOR = timedelta(days=60)
MAX_NUMBER = 255


def read(db: Connection, now: datetime) -> dict[int, bytes]:
    """Return the keys that are good now, by their numbers. The last one is the key for new tokens."""
    is_good = _K.c.replaced_at.is_(None) | (_K.c.replaced_at > now - KEPT_FOR)
    keys = db.execute(select(_K.c.number, _K.c.key).where(is_good).order_by(_K.c.replaced_at.is_(None), _K.c.number))
    return {number: bytes(key) for number, key in keys}


def newest(keys: Mapping[int, bytes]) -> int:
    """Return the number of the key for new tokens, among those that `read` returns. 0 if there is none."""
    return next(reversed(list(keys)), 0)


def replace(db: Connection, now: datetime) -> int:
    """Make a new key for the tokens from now on, forget those that are no longer good, and return its number.

    Raises Conflict if all numbers are in use.
    """
    db.execute(select(tables.store_info.c.id).with_for_update())  # one after the other
    db.execute(delete(_K).where(_K.c.replaced_at <= now - KEPT_FOR))
    last = db.scalar(select(func.max(_K.c.number))) or 0
    used = set(db.scalars(select(_K.c.number)))
    free = (each for each in (*range(last + 1, MAX_NUMBER + 1), *range(1, last)) if each not in used)
    number: int | None = next(free, None)
    if number is None:
        raise Conflict(
            tr("there are {max_number} keys already", max_number=MAX_NUMBER),
            tr("each is kept for 60 days after it was replaced"),
        )
    db.execute(update(_K).where(_K.c.replaced_at.is_(None)).values(replaced_at=now))
    db.execute(insert(_K).values(number=number, key=secrets.token_bytes(32), created_at=now))
    return number

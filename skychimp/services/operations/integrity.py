"""Is the store sound: SQLite's own check, and what must be true of a ledger that has lost and repeated nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, select

from skychimp.models import Post
from skychimp.services.blog import images
from skychimp.store import backup_file
from skychimp.store.database import Store, translate_db_errors

RESTORE = "bring back a copy: skychimp restore FILE --operator"
REPORT = "this is a defect of Skychimp, or somebody has changed the file: please report it"


class _Rule(NamedTuple):
    """What must never be: a query for the ids of the rows that break it, and what to do then."""

    table: str
    says: str
    broken_by: str
    remedy: str = REPORT


# Attempts may have gone by age, the oldest first (delivery.keep_attempts), or with a person that was erased: only those
# that are left can be judged. And a person's word may have made an unknown delivery sent or failed.
_LEFT = """SELECT d.id FROM delivery AS d JOIN (
    SELECT delivery_id, count(*) AS number, min(number) AS first, max(number) AS last,
        max(outcome IN ('sent', 'unknown')) AS arrived, max(outcome IN ('failed', 'unknown')) AS failed,
        max(outcome = 'deferred') AS deferred, max(outcome = 'unknown') AS unknown
    FROM attempt GROUP BY delivery_id) AS a ON a.delivery_id = d.id WHERE """
_OPEN = "(state IN ('queued', 'claimed', 'sending', 'deferred') OR (state = 'unknown' AND next_try_at IS NOT NULL))"

RULES = (
    _Rule("delivery", "its count of attempts is not that of the log", _LEFT + "a.last != d.attempts"),
    _Rule("delivery", "an attempt is missing in the log", _LEFT + "a.number != a.last - a.first + 1"),
    _Rule("delivery", "it is sent, and no attempt says so", _LEFT + "d.state = 'sent' AND NOT a.arrived"),
    _Rule("delivery", "it is failed, and no attempt says so", _LEFT + "d.state = 'failed' AND NOT a.failed"),
    _Rule("delivery", "it is deferred, and no attempt says so", _LEFT + "d.state = 'deferred' AND NOT a.deferred"),
    _Rule("delivery", "it is unknown, and no attempt says so", _LEFT + "d.state = 'unknown' AND NOT a.unknown"),
    _Rule(
        "delivery",
        "it was tried, and the log has nothing of it",
        """SELECT d.id FROM delivery AS d JOIN occurrence AS o ON o.id = d.occurrence_id WHERE d.attempts > 0
           AND o.opened_at >= (SELECT finished_at FROM attempt ORDER BY id LIMIT 1)
           AND d.client_id IN (SELECT id FROM client) AND d.id NOT IN (SELECT delivery_id FROM attempt)""",
    ),
    _Rule(
        "delivery",
        "its outcome is there without any attempt",
        "SELECT id FROM delivery WHERE attempts = 0 AND state IN ('sent', 'deferred', 'unknown')",
    ),
    _Rule(
        "delivery",
        "a letter was sent, and would be sent again",
        f"""SELECT id FROM delivery WHERE {_OPEN} AND state != 'sending'
            AND EXISTS (SELECT 1 FROM attempt WHERE delivery_id = delivery.id AND outcome = 'sent')""",  # noqa: S608
    ),
    _Rule(
        "occurrence",
        "it is over, and a letter of it still waits",
        f"""SELECT DISTINCT occurrence_id FROM delivery JOIN occurrence AS o ON o.id = occurrence_id
            WHERE o.state NOT IN ('opening', 'open') AND {_OPEN.replace("state", "delivery.state")}""",  # noqa: S608
    ),
    _Rule(
        "occurrence",
        "it was missed, and has letters",
        "SELECT DISTINCT o.id FROM occurrence AS o JOIN delivery ON occurrence_id = o.id WHERE o.state = 'missed'",
    ),
    _Rule(
        "occurrence",
        "it is over without an end, or has an end and is not over",
        "SELECT id FROM occurrence WHERE (state IN ('opening', 'open')) != (finished_at IS NULL)",
    ),
    _Rule(
        "mailing",
        "it is completed, and still has something to come",
        """SELECT id FROM mailing WHERE status = 'completed' AND deleted_at IS NULL AND (next_at IS NOT NULL
           OR EXISTS (SELECT 1 FROM occurrence WHERE mailing_id = mailing.id AND state IN ('opening', 'open')))""",
    ),
    _Rule(
        "mailing",
        "it has not begun, and will never be due",
        "SELECT id FROM mailing WHERE status = 'created' AND deleted_at IS NULL AND next_at IS NULL",
        "give it a start: skychimp mailings update ID --start WHEN",
    ),
    _Rule(
        "mailing",
        "it has no message",
        "SELECT id FROM mailing WHERE message_id IS NULL AND deleted_at IS NULL",
        "give it one: skychimp mailings update ID --message ID",
    ),
    _Rule(
        "store_info", "the store does not know itself", "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM store_info)", RESTORE
    ),
)


@dataclass(frozen=True)
class Fault:
    """What is wrong with how many rows of a table, some of which are named; and what to do."""

    table: str
    fault: str
    number: int
    ids: list[int]
    remedy: str


def check(store: Store) -> Iterator[Fault]:
    """All that is wrong with a store, as it is found; nothing is changed. Where SQLite finds a fault, that is all."""
    with translate_db_errors(), store.connect_at_once() as db:
        broken = [Fault("", fault, 1, [], RESTORE) for fault in backup_file.faults(db)]
    yield from broken
    if not broken:
        with store.read() as db:
            yield from _broken_rules(db.connection())
            yield from _missing_images(store, db.connection())


def _broken_rules(db: Connection) -> Iterator[Fault]:
    for rule in RULES:
        counted = f"SELECT count(*) FROM ({rule.broken_by})"  # noqa: S608
        number = db.exec_driver_sql(counted).scalar() or 0
        if number:
            ids = list(db.exec_driver_sql(f"{rule.broken_by} LIMIT 5").scalars())
            yield Fault(rule.table, rule.says, number, ids, rule.remedy)


def _missing_images(store: Store, db: Connection) -> Iterator[Fault]:
    with_image = select(Post.__table__.c.id, Post.__table__.c.image).where(Post.__table__.c.image.is_not(None))
    missing = [row.id for row in db.execute(with_image) if not images.path(store, row.image).is_file()]
    if missing:
        remedy = "restore a backup, or: skychimp blog update ID --image FILE"
        yield Fault("post", "its image is not there", len(missing), missing[:5], remedy)

"""Check the store for damage: by SQLite's own check, and by rules that every ledger must satisfy."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, select

from skychimp.models import tables
from skychimp.services.blog import images
from skychimp.store import place, schema
from skychimp.store.copies import verification
from skychimp.store.database import Store
from skychimp.store.sqlite import SqliteStore
from skychimp.translation import Phrase, tr

RESTORE = tr('run "skychimp restore FILE --operator"')
FOREIGN = "remove it with sqlite3 if you know it, else restore a backup"
REPORT = "report this as a bug in Skychimp, unless somebody has edited the store"


class _Rule(NamedTuple):
    """A rule: what is wrong if it is broken, a query for the ids of the rows that break it, and what to do."""

    table: str
    fault: str
    broken_by: str
    remedy: Phrase = REPORT


# Old attempts (delivery.keep_attempts) and those of an erased person may be gone, so only deliveries that still have
# attempts are compared with them. An unknown delivery may have been resolved as sent or failed.
_WITH_ATTEMPTS = """SELECT d.id FROM delivery AS d JOIN (
    SELECT delivery_id, count(*) AS number, min(number) AS first, max(number) AS last,
        count(CASE WHEN outcome IN ('sent', 'unknown') THEN 1 END) AS arrived,
        count(CASE WHEN outcome IN ('outbox', 'unknown') THEN 1 END) AS written,
        count(CASE WHEN outcome IN ('failed', 'unknown') THEN 1 END) AS failed,
        count(CASE WHEN outcome = 'deferred' THEN 1 END) AS deferred,
        count(CASE WHEN outcome = 'unknown' THEN 1 END) AS unknown
    FROM attempt GROUP BY delivery_id) AS a ON a.delivery_id = d.id WHERE """
_OPEN = "(state IN ('queued', 'deferred') OR (state = 'unknown' AND next_try_at IS NOT NULL))"

RULES = (
    _Rule(
        "delivery",
        tr("number of attempts differs from the log"),
        _WITH_ATTEMPTS + "a.last != d.attempts AND d.id NOT IN (SELECT delivery_id FROM intent)",  # noqa: S608
    ),
    _Rule("delivery", tr("an attempt is missing from the log"), _WITH_ATTEMPTS + "a.number != a.last - a.first + 1"),
    _Rule("delivery", tr("sent, but no attempt was sent"), _WITH_ATTEMPTS + "d.state = 'sent' AND a.arrived = 0"),
    _Rule(
        "delivery",
        tr("in the outbox, but no attempt was written there"),
        _WITH_ATTEMPTS + "d.state = 'outbox' AND a.written = 0",
    ),
    _Rule("delivery", tr("failed, but no attempt failed"), _WITH_ATTEMPTS + "d.state = 'failed' AND a.failed = 0"),
    _Rule(
        "delivery",
        tr("deferred, but no attempt was deferred"),
        _WITH_ATTEMPTS + "d.state = 'deferred' AND a.deferred = 0",
    ),
    _Rule(
        "delivery", tr("unknown, but no attempt is unknown"), _WITH_ATTEMPTS + "d.state = 'unknown' AND a.unknown = 0"
    ),
    _Rule(
        "delivery",
        tr("tried, but no attempt is in the log"),
        """SELECT d.id FROM delivery AS d JOIN occurrence AS o ON o.id = d.occurrence_id WHERE d.attempts > 0
           AND o.opened_at >= (SELECT finished_at FROM attempt ORDER BY id LIMIT 1)
           AND d.client_id IN (SELECT id FROM client)
           AND NOT EXISTS (SELECT 1 FROM attempt WHERE delivery_id = d.id)""",
    ),
    _Rule(
        "delivery",
        tr("has an outcome without any attempt"),
        "SELECT id FROM delivery WHERE attempts = 0 AND state IN ('sent', 'outbox', 'deferred', 'unknown')",
    ),
    _Rule(
        "delivery",
        tr("sent already, but queued to be sent again"),
        f"""SELECT id FROM delivery WHERE {_OPEN} AND id NOT IN (SELECT delivery_id FROM intent)
            AND EXISTS (SELECT 1 FROM attempt WHERE delivery_id = delivery.id AND outcome = 'sent')""",  # noqa: S608
    ),
    # Of a missed occurrence, too many can wait to be replaced at once: sweeps go on.
    _Rule(
        "occurrence",
        tr("finished, but has deliveries that are waiting"),
        f"""SELECT DISTINCT occurrence_id FROM delivery JOIN occurrence AS o ON o.id = occurrence_id
            WHERE o.state NOT IN ('opening', 'open', 'missed') AND {_OPEN.replace("state", "delivery.state")}""",  # noqa: S608
    ),
    _Rule(
        "occurrence",
        tr("missed, but emails were sent"),
        """SELECT DISTINCT o.id FROM occurrence AS o JOIN delivery AS d ON d.occurrence_id = o.id
           WHERE o.state = 'missed' AND d.state IN ('sent', 'outbox', 'unknown')""",
    ),
    _Rule(
        "occurrence",
        tr("finished without a finish time, or unfinished with one"),
        "SELECT id FROM occurrence WHERE (state IN ('opening', 'open')) != (finished_at IS NULL)",
    ),
    _Rule(
        "mailing",
        tr("completed, but not everything was sent"),
        """SELECT id FROM mailing WHERE status = 'completed' AND deleted_at IS NULL AND (next_at IS NOT NULL
           OR EXISTS (SELECT 1 FROM occurrence WHERE mailing_id = mailing.id AND state IN ('opening', 'open')))""",
    ),
    _Rule(
        "mailing",
        tr("created, but has no due time"),
        "SELECT id FROM mailing WHERE status = 'created' AND deleted_at IS NULL AND next_at IS NULL",
        'run "skychimp mailings update ID --start WHEN"',
    ),
    _Rule(
        "mailing",
        tr("has no message"),
        "SELECT id FROM mailing WHERE message_id IS NULL AND deleted_at IS NULL",
        'run "skychimp mailings update ID --message ID"',
    ),
    _Rule(
        "store_info",
        tr("the row that describes the store is missing"),
        "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM store_info)",
        RESTORE,
    ),
)


@dataclass(frozen=True)
class Fault:
    """A fault in a table: what is wrong, with how many rows, the ids of some of them, and what to do.

    `table` is "" if SQLite found the fault.
    """

    table: str
    fault: str
    number: int
    ids: list[int]
    remedy: Phrase


def find_damage(path: Path) -> Iterator[Fault]:
    """Yield what makes it unsafe to use a file as a store: a schema that is not ours, or damage that SQLite finds.

    The file is only read, and nothing in it is run. Raises StoreNotReady if it is no store or a newer one, and if
    others can change it.
    """
    path = schema.real_path(path)
    place.check_place(path)
    schema.require_store(path)
    differences = verification.find_differences(path)
    yield from (Fault("", difference, 1, [], FOREIGN) for difference in differences)
    if not differences:
        yield from (Fault("", damage, 1, [], RESTORE) for damage in verification.find_damage(path))


def find_faults(store: Store) -> Iterator[Fault]:
    """Yield the faults in what a store contains, without changing it. It must be free of damage."""
    is_file = isinstance(store, SqliteStore)  # a server checks the type of each value itself
    invalid_values = list(verification.find_invalid_values(store.path)) if is_file else []
    yield from (Fault(row.table, f"invalid {row.column}", row.number, row.ids, RESTORE) for row in invalid_values)
    if not invalid_values:
        with store.read() as db:
            yield from _broken_rules(db.connection())
            yield from _missing_images(store, db.connection())


def _broken_rules(db: Connection) -> Iterator[Fault]:
    for rule in RULES:
        count = f"SELECT count(*) FROM ({rule.broken_by}) AS broken"  # noqa: S608
        number = db.exec_driver_sql(count).scalar() or 0
        if number:
            ids = list(db.exec_driver_sql(f"{rule.broken_by} LIMIT 5").scalars())
            yield Fault(rule.table, rule.fault, number, ids, rule.remedy)


def _missing_images(store: Store, db: Connection) -> Iterator[Fault]:
    posts = tables.post.c
    with_image = select(posts.id, posts.image).where(posts.image.is_not(None))
    missing = [row.id for row in db.execute(with_image) if images.find(store, row.image) is None]
    if missing:
        remedy = tr('run "skychimp blog update ID --image FILE", or restore a backup')
        yield Fault("post", "image file is missing", len(missing), missing[:5], remedy)

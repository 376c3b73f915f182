"""Import suppressions from the rows of a file, in batches."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from skychimp.errors import InvalidValue
from skychimp.models import SuppressionSource
from skychimp.permissions import Actor
from skychimp.services.clients import suppressions
from skychimp.services.clients.files.suppression_files import FileRow, SubscribedRow, SuppressedRow
from skychimp.services.clients.importing import SUPPRESSION_BATCH, InvalidRow
from skychimp.services.clients.suppressions import MAX_NOTE_LENGTH, UNSUBSCRIBED
from skychimp.store.clients.suppressions import NewSuppression
from skychimp.store.database import Store
from skychimp.text import checked_topic, count_of
from skychimp.translation import tr


@dataclass(frozen=True)
class Chosen:
    """What the user says of all rows: the reason and the topic (else those of the file), and whose mail it is."""

    reason: str | None = None
    topic: str | None = None
    everywhere: bool = False


@dataclass
class SuppressionImportResult:
    """How many rows were imported and how many were not.

    `subscribed` rows are those of contacts who get mail, as the file says. `cancelled` counts waiting emails.
    """

    added: int = 0
    known: int = 0
    subscribed: int = 0
    bad: int = 0
    cancelled: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many rows were read."""
        return self.added + self.known + self.subscribed + self.bad


def import_rows(
    store: Store,
    actor: Actor,
    rows: Iterable[FileRow],
    chosen: Chosen,
    *,
    on_rejected: Callable[[InvalidRow], None],
    on_batch: Callable[[SuppressionImportResult], None] = lambda result: None,
) -> SuppressionImportResult:
    """Suppress the address or domain of each row, and call `on_rejected` for each row that is not imported.

    Rows are committed in batches; `on_batch` gets the result so far. Raises Denied, and InvalidValue, which says how
    many are imported, if the rest of the rows cannot be read.
    """
    suppressions.require_allowed(actor, topic=chosen.topic, everywhere=chosen.everywhere)
    if chosen.reason is not None:
        suppressions.new_suppression("@example.org", chosen.reason)  # so that an invalid reason is no fault of the rows
    result = SuppressionImportResult()
    rows = iter(rows)
    try:
        while batch := list(islice(rows, SUPPRESSION_BATCH)):
            _add(store, actor, batch, chosen, result, on_rejected)
            on_batch(result)
    except (InvalidValue, OSError) as error:
        if not result.added + result.known:
            raise
        done = f"{count_of(result.added, 'suppression')} added before"
        raise InvalidValue(f"{error}; {done}", tr("fix the rest of the file and import it again")) from None
    return result


def _add(
    store: Store,
    actor: Actor,
    batch: Sequence[FileRow],
    chosen: Chosen,
    result: SuppressionImportResult,
    on_rejected: Callable[[InvalidRow], None],
) -> None:
    by_topic: dict[str | None, list[NewSuppression]] = {}
    for row in batch:
        if isinstance(row, SubscribedRow):
            result.subscribed += 1
            continue
        try:
            topic, new = _validated(row, chosen)
        except InvalidValue as error:
            result.bad += 1
            on_rejected(InvalidRow(row.line, "; ".join(filter(None, (error.message, error.hint)))))
            continue
        by_topic.setdefault(topic, []).append(new)
    for topic, some in by_topic.items():
        added = suppressions.add(
            store, actor, some, topic=topic, everywhere=chosen.everywhere, source=SuppressionSource.IMPORT
        )
        unchanged = set(added.unchanged)
        new_ones = Counter(each.reason for each in added.suppressions if each not in unchanged)
        result.added += new_ones.total()
        result.known += len(some) - new_ones.total()
        result.cancelled += added.cancelled
        result.reasons = dict(Counter(result.reasons) + new_ones)


def _validated(row: SuppressedRow | InvalidRow, chosen: Chosen) -> tuple[str | None, NewSuppression]:
    """Return the topic and the suppression of a row. Raises InvalidValue."""
    if isinstance(row, InvalidRow):
        raise InvalidValue(row.reason)
    try:
        "".join((row.target, row.reason or "", row.topic, row.note)).encode()
    except UnicodeEncodeError:
        raise InvalidValue(tr("characters that are not valid in the file's encoding; see --encoding")) from None
    if not row.target.strip():
        raise InvalidValue(tr("missing email address"))
    topic = checked_topic(row.topic) if row.topic and not chosen.everywhere else None
    note = " ".join(row.note.split())[:MAX_NOTE_LENGTH]
    new = suppressions.new_suppression(
        row.target, (row.reason or UNSUBSCRIBED) if chosen.reason is None else chosen.reason, note
    )
    return topic if chosen.topic is None else chosen.topic, new._replace(at=row.at)

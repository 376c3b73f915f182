"""Compose the emails of one occurrence, and count their failures."""

import json
from dataclasses import dataclass
from functools import lru_cache

from sqlalchemy import Connection, select

from skychimp.delivery.composing import compose
from skychimp.delivery.composing.compose import Composer, MessageContent, Recipient
from skychimp.delivery.scheduling import planner
from skychimp.delivery.sending.retry_policy import MAX_SENDER_REFUSALS, RetryPolicy, has_too_many_failures
from skychimp.errors import InvalidValue
from skychimp.models import DeliveryState, Occurrence
from skychimp.store import ledger
from skychimp.store.queue import ClaimedDelivery
from skychimp.text import count_of
from skychimp.transport.interfaces import OutgoingEmail, Phase, SendResult

_O = Occurrence.__table__


@dataclass
class OccurrenceEmails:
    """What is needed to compose an occurrence's emails, and how many were tried and failed.

    `composer` is None if the content cannot be used, and `error` then says why.
    """

    mailing_id: int
    return_path: str
    composer: Composer | None
    error: str
    failed: int
    tried: int
    consecutive_sender_refusals: int = 0
    is_disabled: bool = False
    """Whether a result was a reason to disable the mailing. Emails that are in flight then may fail, too."""

    def count_result(self, result: SendResult, *, is_failed: bool, policy: RetryPolicy) -> str | None:
        """Count a result. Return why the mailing must be disabled, or None if it must not or a result said so before.

        The reason is that the sender was refused several times in a row, or that too many emails failed.
        """
        if not is_failed:
            self.consecutive_sender_refusals = 0
            return None
        self.failed += 1
        is_sender_refused = result.phase == Phase.MAIL and result.reply is not None
        self.consecutive_sender_refusals = self.consecutive_sender_refusals + 1 if is_sender_refused else 0
        if self.is_disabled:
            return None
        reason = self._reason_to_disable(result, policy)
        self.is_disabled = reason is not None
        return reason

    def _reason_to_disable(self, result: SendResult, policy: RetryPolicy) -> str | None:
        if self.consecutive_sender_refusals >= MAX_SENDER_REFUSALS and result.reply:
            return f"the mail server refused the sender: {result.reply.text}"
        if has_too_many_failures(self.failed, self.tried, policy):
            return f"{self.failed:,} of {count_of(self.tried, 'email')} failed"
        return None

    def compose(self, claimed: ClaimedDelivery, secret: bytes) -> OutgoingEmail:
        """Return the email for a delivery. Raises InvalidValue if it cannot be composed."""
        if self.composer is None:
            raise InvalidValue(self.error)
        try:
            recipient = Recipient(claimed.address, claimed.name, claimed.comment, _parse_tags(claimed.tags))
            message_id = compose.message_id(secret, claimed.id, self.return_path.rpartition("@")[2])
            return OutgoingEmail(self.return_path, claimed.address, *self.composer.compose(recipient, message_id))
        except InvalidValue:
            raise
        except Exception as error:
            raise InvalidValue(f"cannot compose the email: {error!r}") from error


def load_occurrence_emails(db: Connection, occurrence_id: int) -> OccurrenceEmails:
    """Read an occurrence's content and its counts so far."""
    row = db.execute(select(_O).where(_O.c.id == occurrence_id)).one()
    counts = ledger.count_by_state(db, occurrence_id)
    composer, message = None, ""
    try:
        composer = Composer(
            MessageContent(row.subject, row.body, row.format, row.html),
            sender=row.sender,
            date=row.opened_at,
            mailing_id=row.mailing_id,
            due_at=planner.local_due_time(row.due_at, row.timezone),
        )
    except InvalidValue as error:
        message = error.message
    except Exception as error:
        message = f"cannot compose the email: {error!r}"
    failed = counts.get(DeliveryState.FAILED, 0)
    tried = failed + counts.get(DeliveryState.SENT, 0) + counts.get(DeliveryState.DEFERRED, 0)
    return OccurrenceEmails(row.mailing_id, row.return_path, composer, message, failed, tried)


@lru_cache(maxsize=1024)  # most clients have one of a few combinations of tags
def _parse_tags(stored: str) -> tuple[str, ...]:
    return tuple(json.loads(stored))

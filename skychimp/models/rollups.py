"""Describe the totals that reports read instead of the whole ledger."""

from skychimp.models import tables
from skychimp.models.enums import DeliveryState, Outcome
from skychimp.models.objects import Table


class ReplyKind(Table, table=True):
    """A kind of reply: its outcome, codes, and wording without what varies from email to email (replies.pattern)."""

    __table__ = tables.reply_kind
    id: int | None = None
    outcome: Outcome
    phase: str
    code: int
    """0 if there was no reply."""
    enhanced: str
    words: str


class AttemptRollup(Table, table=True):
    """The number of attempts of an occurrence with one kind of reply in one time slot. Counted once, never changed."""

    __table__ = tables.attempt_rollup
    occurrence_id: int
    slot: int
    """Seconds since 1970, divided by rollups.SLOT."""
    cause_id: int
    attempts: int


class DeliveryRollup(Table, table=True):
    """The number of deliveries of a finished occurrence by domain, state, and number of attempts."""

    __table__ = tables.delivery_rollup
    occurrence_id: int
    domain: str
    """"" is the total of all smaller domains."""
    state: DeliveryState
    attempts: int
    deliveries: int

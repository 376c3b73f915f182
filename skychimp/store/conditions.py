"""State the rules by which mailings, occurrences and deliveries are selected, each in one place.

Most are conditions on the tables of the same names, for a query that selects from these tables. Those without a
parameter are built once, as every claim uses them.
"""

from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    String,
    and_,
    case,
    exists,
    func,
    literal,
    or_,
    select,
    type_coerce,
)

from skychimp.models import (
    SUCCESSES,
    UNFINISHED_STATES,
    WAITING_STATES,
    DeliveryState,
    MailingStatus,
    Outcome,
    tables,
)
from skychimp.models.base import has_state
from skychimp.store.sql import ids_in
from skychimp.translation import Phrase, tr

_O = tables.occurrence
_D = tables.delivery
_A = tables.attempt
_I = tables.intent
_L = tables.lease
_M = tables.mailing
_U = tables.user
_INFO = tables.store_info


# Mailings


@cache
def is_running() -> ColumnElement[bool]:
    """Return the condition of a mailing that has opened an occurrence and is not completed."""
    return has_state(_M.c.status, MailingStatus.RUNNING)


@cache
def is_sendable() -> ColumnElement[bool]:
    """Return the condition of a mailing that is enabled and not held."""
    return and_(is_enabled(), _M.c.held_at.is_(None))


@cache
def is_enabled() -> ColumnElement[bool]:
    """Return the condition of a mailing that nobody has stopped: not disabled, not deleted, its owner not blocked."""
    owner = _U.alias("owner")
    is_owner_blocked = exists().where(owner.c.id == _M.c.owner_id, owner.c.blocked_at.is_not(None)).correlate(_M)
    return and_(_M.c.disabled_at.is_(None), _M.c.deleted_at.is_(None), ~is_owner_blocked)


def why_stopped(
    disabled_at: datetime | None, disabled_reason: str | None, held_reason: str | None, blocked_at: datetime | None
) -> Phrase | None:
    """Return why a mailing that is not deleted sends nothing, or None if it does. `blocked_at` is its owner's."""
    if disabled_at is not None:
        return tr("the mailing is disabled: {reason}", reason=disabled_reason)
    if blocked_at is not None:
        return tr("the mailing's owner is blocked")
    return None if held_reason is None else tr("the mailing is held: {reason}", reason=held_reason)


def is_active(now: datetime) -> ColumnElement[bool]:
    """Return the condition of a mailing that goes on: enabled, created or running, and not past its end."""
    return and_(is_enabled(), has_more_to_send(now))


def has_more_to_send(now: datetime) -> ColumnElement[bool]:
    """Return the condition of a mailing that is not complete and not past its end, whether or not it is stopped."""
    return and_(_M.c.status.in_([MailingStatus.CREATED, MailingStatus.RUNNING]), is_before_end(now))


def is_before_end(now: datetime | BindParameter[Any]) -> ColumnElement[bool]:
    """Return the condition of a mailing that is not past its end."""
    return or_(_M.c.end_at.is_(None), _M.c.end_at > now)


# Occurrences


@cache
def is_unfinished() -> ColumnElement[bool]:
    """Return the condition of an occurrence that may still send something."""
    return has_state(_O.c.state, *UNFINISHED_STATES)


def may_send(now: datetime | BindParameter[Any]) -> ColumnElement[bool]:
    """Return the condition of an occurrence that may send now. The query joins it with its mailing.

    It is unfinished, its mailing is neither stopped nor over, and the store is not on hold.
    """
    return and_(is_unfinished(), _is_store_released(), is_before_end(now), is_sendable())


@cache
def _is_store_released() -> ColumnElement[bool]:
    return select(_INFO.c.held_at).scalar_subquery().is_(None)


# Deliveries


@cache
def is_waiting() -> ColumnElement[bool]:
    """Return the condition of a delivery that waits for its next try, leased or not, and is not being sent."""
    return and_(has_waiting_state(), ~has_intent())


@cache
def has_waiting_state() -> ColumnElement[bool]:
    """Return the condition of a delivery that waits for its next try, or had to when a run leased it."""
    return has_state(_D.c.state, *WAITING_STATES)


@cache
def has_intent() -> ColumnElement[bool]:
    """Return the condition of a delivery that is being sent, or was sent under a lease that is still open."""
    return exists(_I.c.delivery_id).where(_I.c.delivery_id == _D.c.id).correlate(_D)


@cache
def is_leased() -> ColumnElement[bool]:
    """Return the condition of a delivery that a run has leased."""
    # One query for all rows: SQLite keeps its result for the whole statement.
    leased = ids_in(_L.c.delivery_ids, joins_implicitly=True)
    return _D.c.id.in_(select(leased.c.value).select_from(_L))


@cache
def current_state() -> ColumnElement[str]:
    """Return the expression for the state that a delivery has now. The stored one is older while its lease is open."""
    return case(
        (has_success(), new_state()),
        (has_intent(), literal(DeliveryState.SENDING.value)),
        (and_(has_waiting_state(), is_leased()), literal(DeliveryState.CLAIMED.value)),
        else_=_D.c.state,
    )


@cache
def current_attempts() -> ColumnElement[int]:
    """Return the expression for the number of attempts that a delivery has now."""
    return _D.c.attempts + case((has_success(), 1), else_=0)


@cache
def has_success() -> ColumnElement[bool]:
    """Return the condition of a delivery that was sent, or written to the outbox, under a lease that is still open."""
    return and_(has_intent(), has_state(func.coalesce(_new_outcome(), ""), *SUCCESSES))


@cache
def was_sent() -> ColumnElement[bool]:
    """Return the condition of a delivery that was sent under a lease that is still open."""
    return and_(has_intent(), has_state(func.coalesce(_new_outcome(), ""), Outcome.SENT))


@cache
def new_state() -> ColumnElement[str]:
    """Return the expression for the state that a delivery with `has_success` gets. Once it was sent, it stays sent."""
    sent_before = exists(_A.c.number).where(_A.c.delivery_id == _D.c.id, _A.c.outcome == Outcome.SENT).correlate(_D)
    is_written = and_(has_state(_new_outcome(), Outcome.OUTBOX), ~sent_before)
    return case((is_written, literal(DeliveryState.OUTBOX.value)), else_=literal(DeliveryState.SENT.value))


@cache
def _new_outcome() -> ColumnElement[str]:
    """Return the expression for the outcome of a delivery's attempt under an open lease, NULL if there is none."""
    is_next_attempt = and_(_A.c.delivery_id == _D.c.id, _A.c.number == _D.c.attempts + 1)
    # Not EXISTS: PostgreSQL might read all attempts to join them, if it does not know yet that there are many.
    return select(type_coerce(_A.c.outcome, String)).where(is_next_attempt).correlate(_D).scalar_subquery()


@cache
def is_in_outbox() -> ColumnElement[bool]:
    """Return the condition of a delivery that was written to the outbox, under a lease that is closed."""
    return has_state(_D.c.state, DeliveryState.OUTBOX)


@cache
def is_unknown() -> ColumnElement[bool]:
    """Return the condition of a delivery whose final reply was not recorded."""
    return has_state(_D.c.state, DeliveryState.UNKNOWN)


@cache
def awaits_resend() -> ColumnElement[bool]:
    """Return the condition of an unknown delivery that is sent again at its next try."""
    return and_(is_unknown(), _D.c.next_try_at.is_not(None))


@cache
def awaits_a_try() -> ColumnElement[bool]:
    """Return the condition of a delivery that is sent at its next try, for the first time or again."""
    return or_(is_waiting(), awaits_resend())


@cache
def awaits_decision() -> ColumnElement[bool]:
    """Return the condition of an unknown delivery about which a person decides."""
    return and_(is_unknown(), _D.c.next_try_at.is_(None))

"""Tell who gets a mailing now, and who does not and why. Changes nothing."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from skychimp.delivery.scheduling import planner
from skychimp.errors import InvalidValue
from skychimp.permissions import Action, Actor
from skychimp.services.mailings.queries import get_mailing, get_own_mailing
from skychimp.store import ledger
from skychimp.store.clients import audience
from skychimp.store.clients.audience import AudienceCount
from skychimp.store.database import Store
from skychimp.store.occurrences import canary, opening


@dataclass(frozen=True)
class Recipient:
    """A client in the audience of a mailing. `left_out` says why nothing is sent to it, None if it gets the mailing."""

    email: str
    left_out: str | None


def list_recipients(
    store: Store, actor: Actor, mailing_id: int, *, only_left_out: bool = False, require_consent: bool = False
) -> Iterator[Recipient]:
    """Yield the clients that a mailing chooses, read in batches.

    `require_consent` is the setting of that name. Raises NotFound, also if it is not the actor's, and InvalidValue if
    its audience cannot be read.
    """
    now = store.now()
    with store.read() as session:
        get_own_mailing(session, actor, mailing_id)
    after: int | None = 0
    while after is not None:
        with store.read() as session:  # not open while the caller has the clients: see paging
            db = session.connection()
            chosen = audience.selection(db, mailing_id, now, require_consent=require_consent)
            members = audience.members(
                db, chosen, after=after, limit=opening.OPENING_BATCH, only_left_out=only_left_out
            )
        for member in members:
            yield Recipient(member.email, audience.why_left_out(member))
        after = members[-1].client_id if members else None


def count_recipients(store: Store, actor: Actor, mailing_id: int, *, require_consent: bool = False) -> AudienceCount:
    """Count the clients in a mailing's audience now. Raises NotFound if the actor may not see the mailing."""
    with store.read() as db:
        get_mailing(db, actor, mailing_id)
        return _count(db.connection(), mailing_id, store.now(), require_consent)


def count_when_enabled(store: Store, actor: Actor, mailing_id: int, *, require_consent: bool = False) -> AudienceCount:
    """Count the clients that a mailing would send to now if it were enabled. Raises NotFound.

    They are those with an email that waits, or, if it is due again, those in its audience. Those who wait for a canary
    do not count.
    """
    now = store.now()
    with store.read() as transaction:
        db = transaction.connection()
        mailing = get_mailing(transaction, actor, mailing_id, Action.DISABLE_MAILINGS)
        waiting = ledger.count_pending(db, mailing_id)
        waiting -= sum(each.emails for each in canary.list_waiting(db, mailing_id) if each.until > now)
        due = planner.due_mailings(db, now, mailing_id, include_disabled=True)
        if not any(each.plan.open for each in due):
            return AudienceCount(waiting)
        counted = _count(db, mailing_id, now, require_consent)
        first = canary.sample_size(mailing.canary or "", counted.recipients)
        return counted._replace(recipients=max(first, waiting))


def add_up(counts: Iterable[AudienceCount]) -> AudienceCount:
    """Return the sums of several counts, and the first problem that one of them has."""
    counted = list(counts)
    return AudienceCount(
        recipients=sum(each.recipients for each in counted),
        suppressed=sum(each.suppressed for each in counted),
        bad=sum(each.bad for each in counted),
        no_consent=sum(each.no_consent for each in counted),
        excluded=sum(each.excluded for each in counted),
        problem=next((each.problem for each in counted if each.problem is not None), None),
    )


def _count(db: Connection, mailing_id: int, now: datetime, require_consent: bool) -> AudienceCount:
    """Count the clients in a mailing's audience, or say why that is not possible."""
    try:
        return audience.count(db, audience.selection(db, mailing_id, now, require_consent=require_consent))
    except InvalidValue as error:
        return AudienceCount(problem=error.message)

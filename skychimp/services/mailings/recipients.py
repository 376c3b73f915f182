"""Tell who gets a mailing now, and who does not and why. Changes nothing."""

from collections.abc import Iterator
from dataclasses import dataclass

from skychimp.delivery.scheduling import planner
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


def list_recipients(store: Store, actor: Actor, mailing_id: int, *, only_left_out: bool = False) -> Iterator[Recipient]:
    """Yield the clients in a mailing's audience, read in batches. Raises NotFound, also if it is not the actor's."""
    with store.read() as db:
        all_clients = get_own_mailing(db, actor, mailing_id).all_clients
    after: int | None = 0
    while after is not None:
        with store.read() as db:  # not open while the caller has the clients: see paging
            members = audience.members(
                db.connection(),
                mailing_id,
                all_clients=all_clients,
                after=after,
                limit=opening.OPENING_BATCH,
                only_left_out=only_left_out,
            )
        for member in members:
            yield Recipient(member.email, audience.why_left_out(member))
        after = members[-1].client_id if members else None


def count_recipients(store: Store, actor: Actor, mailing_id: int) -> AudienceCount:
    """Count the clients in a mailing's audience now. Raises NotFound if the actor may not see the mailing."""
    with store.read() as db:
        mailing = get_mailing(db, actor, mailing_id)
        return audience.count(db.connection(), mailing_id, all_clients=mailing.all_clients)


def count_when_enabled(store: Store, actor: Actor, mailing_id: int) -> AudienceCount:
    """Count the clients that a mailing would send to now if it were enabled. Raises NotFound.

    They are those with an email that waits, or, if it is due again, those in its audience. Those who wait for a canary
    do not count.
    """
    now = store.now()
    with store.read() as transaction:
        mailing, db = get_mailing(transaction, actor, mailing_id, Action.DISABLE_MAILINGS), transaction.connection()
        waiting = ledger.count_pending(db, mailing_id)
        waiting -= sum(each.emails for each in canary.list_waiting(db, mailing_id) if each.until > now)
        due = planner.due_mailings(db, now, mailing_id, include_disabled=True)
        if not any(each.plan.open for each in due):
            return AudienceCount(waiting)
        counted = audience.count(db, mailing_id, all_clients=mailing.all_clients)
        first = canary.sample_size(mailing.canary or "", counted.recipients)
        return counted._replace(recipients=max(first, waiting))

"""Find who would get a mailing again after its topic changes, although they have unsubscribed from the one it has."""

from sqlalchemy import func, literal, select

from skychimp.errors import InvalidValue
from skychimp.models import tables
from skychimp.permissions import Action, Actor, authorize
from skychimp.services.mailings.audience_input import Audience, choice, merged
from skychimp.services.mailings.queries import MailingInfo, get_mailing
from skychimp.store.clients import audience as store_audience
from skychimp.store.clients import suppressions, topics
from skychimp.store.database import Store
from skychimp.text import checked_topic, folded

_C = tables.client


def count_returning(
    store: Store,
    actor: Actor,
    mailing: MailingInfo,
    new_topic: str | None,
    new_audience: Audience,
    *,
    no_except: bool = False,
    require_consent: bool = False,
) -> int:
    """Count the clients who have unsubscribed from a mailing's topic, and would get it with another one.

    `new_topic` is None for none. `new_audience` and `no_except` are what `mailings.change` is going to get. Without any
    topic before there is nobody: who has unsubscribed from all mail stays so. Raises NotFound, and InvalidValue for the
    topic.
    """
    authorize(actor, Action.CHANGE_MAILINGS)
    new = "" if new_topic is None else checked_topic(new_topic)
    if mailing.topic is None or folded(mailing.topic) == folded(new):
        return 0
    planned = merged(mailing, new_audience, no_except=no_except)
    with store.read() as session:
        get_mailing(session, actor, mailing.id, Action.CHANGE_MAILINGS)
        db = session.connection()
        spelled = topics.find_spelling(db, actor.user_id, new)
        try:
            chosen = store_audience.new_selection(
                db,
                choice(session, actor, planned, spelled, mailing.timezone),
                store.now(),
                require_consent=require_consent,
            )
        except InvalidValue:  # nobody is chosen by a query that cannot be evaluated
            return 0
        members = store_audience.client_ids(chosen).subquery()
        had_left = suppressions.is_suppressed(_C.c.address_key, _C.c.owner_id, literal(mailing.topic))
        counted = select(func.count()).join_from(_C, members, members.c.id == _C.c.id)
        return db.scalar(counted.where(had_left, store_audience.can_receive(chosen))) or 0

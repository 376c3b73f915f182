"""Check that the clients of a mailing can unsubscribe, as far as its message and the settings say."""

from typing import NamedTuple

from sqlalchemy import select

from skychimp.config.settings import Settings
from skychimp.delivery.composing import compose
from skychimp.delivery.composing.extras import POSTAL_ADDRESS, UNSUBSCRIBE_URL
from skychimp.delivery.sending.occurrence_emails import NO_LINK_HINT
from skychimp.errors import InvalidValue
from skychimp.models import tables
from skychimp.permissions import Action, Actor, authorize
from skychimp.services.messages import contents
from skychimp.store.database import Store
from skychimp.translation import Phrase, tr

_MSG = tables.message


class Gap(NamedTuple):
    """What a message or the settings lack, and what to do about it."""

    found: Phrase
    remedy: Phrase


def check_message(
    store: Store, actor: Actor, message_id: int, settings: Settings, *, transactional: bool = False
) -> list[Phrase]:
    """Return warnings about a message that a mailing of the actor is to send. Raises what `find_gaps` does."""
    gaps = find_gaps(store, actor, message_id, settings, transactional=transactional)
    return [tr("{found}: {remedy}", found=gap.found, remedy=gap.remedy) for gap in gaps]


def find_gaps(
    store: Store, actor: Actor, message_id: int, settings: Settings, *, transactional: bool = False
) -> list[Gap]:
    """Return what is lacking for a mailing of the actor that is to send this message.

    Raises InvalidValue if it shows a link for unsubscribing, and the settings have none. About somebody else's message
    nothing is said.
    """
    authorize(actor, Action.SEE_MESSAGES)
    with store.read() as db:
        owner_id = db.scalar(select(_MSG.c.owner_id).where(_MSG.c.id == message_id))
        if owner_id is None or owner_id != actor.user_id:
            return []
        content = contents.read_content(db, message_id)
    has_link = settings.web.url is not None or settings.inbound.address is not None
    if not has_link and any(compose.uses_variable(each, UNSUBSCRIBE_URL) for each in content.all):
        reason = tr(
            "message {message_id} uses {{{{ unsubscribe_url }}}}, but there is no address for unsubscribing",
            message_id=message_id,
        )
        raise InvalidValue(reason, NO_LINK_HINT)
    gaps = []
    if not (has_link or transactional):
        gaps.append(Gap(tr("recipients cannot unsubscribe"), NO_LINK_HINT))
    if settings.mail.postal_address is None and any(
        compose.uses_variable(each, POSTAL_ADDRESS) for each in content.all
    ):
        gaps.append(Gap(tr("{{ postal_address }} is empty"), tr("set mail.postal_address")))
    return gaps

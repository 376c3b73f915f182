"""Check that the clients of a mailing can unsubscribe, as far as its message and the settings say."""

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
from skychimp.translation import tr

_MSG = tables.message


def check_message(
    store: Store, actor: Actor, message_id: int, settings: Settings, *, transactional: bool = False
) -> list[str]:
    """Return warnings about a message that a mailing of the actor is to send.

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
    if not has_link and compose.uses_variable(content, UNSUBSCRIBE_URL):
        reason = tr(
            "message {message_id} uses {{{{ unsubscribe_url }}}}, but there is no address for unsubscribing",
            message_id=message_id,
        )
        raise InvalidValue(reason, NO_LINK_HINT)
    warnings = []
    if not (has_link or transactional):
        warnings.append(f"recipients cannot unsubscribe: {NO_LINK_HINT}")
    if settings.mail.postal_address is None and compose.uses_variable(content, POSTAL_ADDRESS):
        warnings.append("{{ postal_address }} is empty: set mail.postal_address")
    return warnings

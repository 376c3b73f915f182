"""Replace the key that links and return paths are made with (`skychimp store rotate-key`)."""

from dataclasses import dataclass
from datetime import datetime

from skychimp.permissions import Action, Actor, authorize
from skychimp.services import audit
from skychimp.store import token_keys
from skychimp.store.database import Store


@dataclass(frozen=True)
class NewKey:
    """The number of the new key, and until when the links that were made with the last one work."""

    key: int
    old_links_until: datetime


def replace(store: Store, actor: Actor) -> NewKey:
    """Make a new key for the emails from now on. For administrators. What is being sent keeps the old one.

    Raises Conflict after 254 new keys in 60 days, Denied, NotLoggedIn and StoreFailed.
    """
    authorize(actor, Action.ROTATE_LINK_KEY)
    now = store.now()
    with store.write() as db:
        number = token_keys.replace(db.connection(), now)
        audit.record(db, actor, "rotate token key", "token_key", number)
    return NewKey(number, now + token_keys.KEPT_FOR)

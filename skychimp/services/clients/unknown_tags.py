"""Find tags that none of a user's clients has, and what the user may have meant."""

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from skychimp.permissions import Action, Actor, authorize
from skychimp.store.clients import tags as store_tags
from skychimp.store.database import Store
from skychimp.text import checked_tags, close_matches, folded

MAX_COMPARED = 10_000
"""Comparing a word with as many others takes about 0.2 s."""

MOST_SIMILAR = 20


class UnknownTag(NamedTuple):
    """A tag that no client has, and a similar one that a client has, or None."""

    tag: str
    meant: str | None


def find_unknown_tags(store: Store, actor: Actor, tags: Sequence[str]) -> list[UnknownTag]:
    """Return those of these tags that none of the actor's clients has. Raises InvalidValue."""
    authorize(actor, Action.SEE_CLIENTS)
    wanted = checked_tags(tags)
    if not wanted:
        return []
    unknown = []
    with store.read() as session:
        db = session.connection()
        known = store_tags.tags_of_clients(db)

        def is_used(tag: str) -> bool:
            return store_tags.is_used(db, actor.user_id, [each for each in known if folded(each) == folded(tag)])

        for tag in wanted:
            if not is_used(tag):
                similar = close_matches(tag, islice(known, MAX_COMPARED), most=MOST_SIMILAR)
                unknown.append(UnknownTag(tag, next(filter(is_used, similar), None)))
    return unknown

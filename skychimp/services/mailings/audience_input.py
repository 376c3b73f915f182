"""Set who receives a mailing."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, insert, select
from sqlmodel import Session

from skychimp.errors import InvalidValue
from skychimp.models import Client, Mailing, MailingClient, MailingTag
from skychimp.permissions import Actor
from skychimp.services.listing import is_valid_id, not_found
from skychimp.store.clients.tags import spell
from skychimp.text import checked_tags

_C = Client.__table__
_MC = MailingClient.__table__
_MT = MailingTag.__table__


@dataclass(frozen=True)
class Audience:
    """The recipients that a user selected: all clients, or clients by id together with those that have one of the tags.

    All clients include those that are added later.
    """

    all_clients: bool = False
    tags: Sequence[str] = ()
    client_ids: Sequence[int] = ()


def set_audience(db: Session, actor: Actor, mailing: Mailing, audience: Audience) -> None:
    """Replace a mailing's audience.

    Raises InvalidValue if nobody is selected, or some besides all; NotFound if a client is not the actor's.
    """
    _require_selection(audience)
    client_ids = sorted(set(audience.client_ids))
    _require_own_clients(db, actor, client_ids)
    mailing.all_clients = audience.all_clients
    db.execute(delete(_MC).where(_MC.c.mailing_id == mailing.id))
    db.execute(delete(_MT).where(_MT.c.mailing_id == mailing.id))
    if client_ids:
        db.execute(insert(_MC), [{"mailing_id": mailing.id, "client_id": client_id} for client_id in client_ids])
    if tags := checked_tags(audience.tags):
        spelled = spell(db.connection(), mailing.owner_id, tags)
        db.execute(insert(_MT), [{"mailing_id": mailing.id, "tag": spelled[tag]} for tag in tags])


def _require_selection(audience: Audience) -> None:
    selects_some = bool(audience.tags or audience.client_ids)
    if audience.all_clients and selects_some:
        raise InvalidValue("--all-clients cannot be combined with --tag or --client", "use --all-clients alone")
    if not audience.all_clients and not selects_some:
        raise InvalidValue("no recipients selected", "use --all-clients, --tag or --client")


def _require_own_clients(db: Session, actor: Actor, client_ids: Sequence[int]) -> None:
    own = select(_C.c.id).where(_C.c.owner_id == actor.user_id, _C.c.id.in_(filter(is_valid_id, client_ids)))
    missing = set(client_ids) - set(db.execute(own).scalars())
    if missing:
        raise not_found("client", min(missing))

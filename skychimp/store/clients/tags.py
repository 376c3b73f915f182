"""Keep one spelling of each of a user's tags: the only place with this rule.

Tags are the same if they differ only in case or in how Unicode composes their characters: `vip` and `VIP` are one tag.
All of a user's clients and mailings have it in the spelling that the user gave first. So a query compares tags as they
are stored, and an index finds them. Earlier versions kept every spelling. They are merged when a store is upgraded, or
when the tag is given again.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from sqlalchemy import ColumnElement, Connection, Table, delete, exists, func, insert, literal, select

from skychimp.models import tables
from skychimp.store.sql import json_list
from skychimp.text import folded, nfc

_C = tables.client
_T = tables.client_tag
_M = tables.mailing
_MT = tables.mailing_tag

# Recursion finds each next tag by the index. DISTINCT would read every row.
_TAGS_OF_CLIENTS = """
    WITH RECURSIVE known (tag) AS (
        SELECT min(tag) FROM client_tag
        UNION ALL
        SELECT (SELECT min(tag) FROM client_tag WHERE client_tag.tag > known.tag) FROM known WHERE known.tag IS NOT NULL
    )
    SELECT tag FROM known WHERE tag IS NOT NULL"""


def tags_of_clients(db: Connection) -> list[str]:
    """Return the tags of all users' clients, each spelling once."""
    return [tag for (tag,) in db.exec_driver_sql(_TAGS_OF_CLIENTS)]


def spellings(db: Connection, tag: str) -> list[str]:
    """Return the spellings of a tag that the clients of any user have."""
    return [known for known in tags_of_clients(db) if folded(known) == folded(tag)]


def client_tags() -> ColumnElement[str]:
    """Return the expression for the tags of the query's client row, as a JSON list in order."""
    tags = select(_T.c.tag).where(_T.c.client_id == _C.c.id).order_by(_T.c.tag).correlate(_C).subquery()
    return select(json_list(tags.c.tag)).scalar_subquery()


def is_used(db: Connection, owner_id: int, tags: Collection[str]) -> bool:
    """Return whether a client of the user has a tag in one of these spellings."""
    return bool(
        db.scalar(select(exists().where(_T.c.client_id == _C.c.id, _C.c.owner_id == owner_id, _T.c.tag.in_(tags))))
    )


def spell(db: Connection, owner_id: int, tags: Iterable[str]) -> dict[str, str]:
    """Return the spelling in which each of these tags is to be stored for a user, by the spelling given.

    Part of a transaction that writes. Different spellings that the user has of one of the tags are merged.
    """
    spelled: dict[str, str] = {}
    given = {tag: folded(tag) for tag in tags}
    for tag, key in given.items():
        spelled.setdefault(key, nfc(tag))
    for key, known in _group(_known_tags(db, owner_id), spelled).items():
        if known != {spelled[key]}:  # otherwise it makes no difference whose tag it is
            spelled[key] = _merge(db, owner_id, known, spelled[key])
    return {tag: spelled[key] for tag, key in given.items()}


def merge_spellings(db: Connection) -> None:
    """Merge the spellings of each user's tags, in a store that an earlier version has written."""
    tags = {*tags_of_clients(db), *db.scalars(select(_MT.c.tag).distinct())}
    groups = _group(tags, {folded(tag) for tag in tags})
    to_merge = [known for known in groups.values() if known != {nfc(min(known))}]
    if to_merge:
        for owner_id in db.scalars(select(_C.c.owner_id).union(select(_M.c.owner_id))).all():
            for known in to_merge:
                _merge(db, owner_id, known, "")


def _known_tags(db: Connection, owner_id: int) -> set[str]:
    """Return the tags of all users' clients, and those of this user's mailings."""
    of_mailings = select(_MT.c.tag).join(_M, _M.c.id == _MT.c.mailing_id)
    of_mailings = of_mailings.where(_M.c.owner_id == owner_id, _M.c.deleted_at.is_(None))
    return {*tags_of_clients(db), *db.scalars(of_mailings)}


def _group(tags: Iterable[str], keys: Collection[str]) -> Mapping[str, set[str]]:
    """Return the spellings that have one of these keys, by key."""
    groups: dict[str, set[str]] = {}
    for tag in tags:
        if (key := folded(tag)) in keys:
            groups.setdefault(key, set()).add(tag)
    return groups


def _merge(db: Connection, owner_id: int, known: Collection[str], new: str) -> str:
    """Give all of a user's clients and mailings the first spelling that one of them has, and return it.

    Return `new` if none has any.
    """
    own = _in_order_of_use(db, owner_id, known)
    if not own:
        return new
    kept = nfc(own[0])
    others = [tag for tag in own if tag != kept]
    if others:
        _rename(db, _T, "client_id", _C, owner_id, others, kept)
        _rename(db, _MT, "mailing_id", _M, owner_id, others, kept)
    return kept


def _in_order_of_use(db: Connection, owner_id: int, known: Collection[str]) -> Sequence[str]:
    """Return the spellings that a user's clients and mailings have: that of the oldest client first."""
    first_clients = {}
    for tag in sorted(known):
        having = select(_T.c.client_id).join(_C, _C.c.id == _T.c.client_id)
        having = having.where(_T.c.tag == tag, _C.c.owner_id == owner_id).order_by(_T.c.client_id)
        if (client_id := db.scalar(having.limit(1))) is not None:
            first_clients[tag] = client_id
    of_mailings = select(_MT.c.tag).join(_M, _M.c.id == _MT.c.mailing_id).group_by(_MT.c.tag)
    of_mailings = of_mailings.where(_M.c.owner_id == owner_id, _M.c.deleted_at.is_(None), _MT.c.tag.in_(known))
    in_order = [*sorted(first_clients, key=first_clients.__getitem__)]
    return list(dict.fromkeys([*in_order, *db.scalars(of_mailings.order_by(func.min(_M.c.id)))]))


def _rename(
    db: Connection, table: Table, id_name: str, parent: Table, owner_id: int, others: Sequence[str], kept: str
) -> None:
    row_id = table.c[id_name]
    is_other = table.c.tag.in_(others) & exists().where(parent.c.id == row_id, parent.c.owner_id == owner_id)
    has_kept = table.alias()
    is_missing = ~exists().where(has_kept.c[id_name] == row_id, has_kept.c.tag == kept)
    renamed = select(row_id, literal(kept)).where(is_other, is_missing).distinct()
    db.execute(insert(table).from_select([id_name, "tag"], renamed))
    db.execute(delete(table).where(is_other))

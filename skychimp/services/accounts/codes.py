"""Issue and check the codes that are sent by email.

A code is random, short-lived, valid once and for a few tries. The store has only a keyed hash of it.
"""

import hashlib
import hmac
import secrets
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Row, delete, insert, select, update

from skychimp.models import CodePurpose, tables
from skychimp.store.session import Session

_C = tables.code

LIFETIME = timedelta(minutes=15)
MAX_TRIES = 5
ALPHABET = "23456789ABCDEFGHJKMNPQRSTVWXYZ"  # without look-alikes: 0 and O, 1 and I and L, U and V
LENGTH = 10  # 49 bits


class IssuedCode(NamedTuple):
    """A code to send, and the id of the row that has its hash."""

    id: int
    text: str


def generate() -> str:
    """Return a new random code, formatted as XXXXX-XXXXX."""
    characters = "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))
    return f"{characters[: LENGTH // 2]}-{characters[LENGTH // 2 :]}"


def issue(db: Session, user_id: int, purpose: CodePurpose, now: datetime) -> IssuedCode:
    """Issue a new code that replaces the user's earlier ones."""
    invalidate(db, user_id, purpose)
    text = generate()
    code = insert(_C).values(
        user_id=user_id,
        purpose=purpose,
        code_hash=_hash(db, user_id, purpose, text),
        created_at=now,
        expires_at=now + LIFETIME,
    )
    return IssuedCode(db.execute(code.returning(_C.c.id)).scalar_one(), text)


def check(db: Session, user_id: int, purpose: CodePurpose, text: str, now: datetime) -> bool:
    """Return whether this is the user's valid code, which stays valid. A wrong one costs one of its MAX_TRIES tries."""
    valid = _find_valid(db, user_id, purpose, now)
    if valid is None:
        return False
    if hmac.compare_digest(valid.code_hash, _hash(db, user_id, purpose, text)):
        return True
    _change(db, valid, tries=valid.tries + 1)
    return False


def redeem(db: Session, user_id: int, purpose: CodePurpose, text: str, now: datetime) -> bool:
    """Return whether this is the user's valid code, and use it up. A wrong one costs one of its MAX_TRIES tries."""
    is_right = check(db, user_id, purpose, text, now)
    valid = _find_valid(db, user_id, purpose, now)
    return is_right and valid is not None and _change(db, valid, used_at=now)


def count_try(db: Session, user_id: int, purpose: CodePurpose, now: datetime) -> None:
    """Take one of the tries of the user's valid code, because of a wrong password that came with it."""
    if (valid := _find_valid(db, user_id, purpose, now)) is not None:
        _change(db, valid, tries=valid.tries + 1)


def invalidate(db: Session, user_id: int, purpose: CodePurpose) -> None:
    """Make all of a user's codes for this purpose invalid."""
    db.execute(update(_C).where(_C.c.user_id == user_id, _C.c.purpose == purpose).values(tries=MAX_TRIES))


def withdraw(db: Session, code_id: int) -> None:
    """Delete a code whose email was not sent."""
    db.execute(delete(_C).where(_C.c.id == code_id))


def delete_expired(db: Session, now: datetime) -> None:
    """Delete the codes that have expired."""
    db.execute(delete(_C).where(_C.c.expires_at <= now))


def looks_complete(text: str) -> bool:
    """Return whether a text has as many characters as a code."""
    return len(_normalized(text)) == LENGTH


def _find_valid(db: Session, user_id: int, purpose: CodePurpose, now: datetime) -> Row[Any] | None:
    is_valid = (_C.c.used_at.is_(None), _C.c.expires_at > now, _C.c.tries < MAX_TRIES)
    return db.execute(select(_C).where(_C.c.user_id == user_id, _C.c.purpose == purpose, *is_valid)).first()


def _change(db: Session, valid: Row[Any], **values: object) -> bool:
    """Change a code, and return whether it was done. Of several processes that read the same row, one changes it."""
    unchanged = update(_C).where(_C.c.id == valid.id, _C.c.used_at.is_(None), _C.c.tries == valid.tries)
    return db.connection().execute(unchanged.values(**values)).rowcount == 1


def _normalized(text: str) -> str:
    """Return a code as typed, in capitals and without spaces and hyphens."""
    return "".join(character for character in text.upper() if character.isalnum())


def _hash(db: Session, user_id: int, purpose: CodePurpose, text: str) -> str:
    key = db.execute(select(tables.store_info.c.secret)).scalar_one()[:64]
    data = f"{user_id} {purpose} {_normalized(text)}".encode(errors="surrogateescape")
    return hashlib.blake2b(data, key=key, person=b"skychimp code", digest_size=32).hexdigest()

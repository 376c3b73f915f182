"""Codes that are mailed: random, short-lived, good once and for a few tries; the store has only a keyed hash."""

import hashlib
import hmac
import secrets
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlmodel import Session, col, delete, func, select, update

from skychimp.models import Code, CodePurpose, StoreInfo

LIFE = timedelta(minutes=15)
TRIES = 5
PER_HOUR = 3
ALPHABET = "23456789ABCDEFGHJKMNPQRSTVWXYZ"  # nothing that is read as something else: 0 and O, 1 and I and L, U and V
LENGTH = 10  # 49 bits


class Issued(NamedTuple):
    """A code for its letter, and the row that knows its hash."""

    id: int
    text: str


def make() -> str:
    """A new code, as XXXXX-XXXXX."""
    drawn = "".join(secrets.choice(ALPHABET) for _ in range(LENGTH))
    return f"{drawn[: LENGTH // 2]}-{drawn[LENGTH // 2 :]}"


def issue(db: Session, user_id: int, purpose: CodePurpose, now: datetime) -> Issued | None:
    """A new code, in place of those there were; None where the user got as many as an hour allows."""
    recent = select(func.count()).where(
        Code.user_id == user_id, Code.purpose == purpose, Code.created_at > now - timedelta(hours=1)
    )
    if db.exec(recent).one() >= PER_HOUR:
        return None
    void(db, user_id, purpose)
    text = make()
    code = Code(
        user_id=user_id,
        purpose=purpose,
        code_hash=_hash(db, user_id, purpose, text),
        created_at=now,
        expires_at=now + LIFE,
    )
    db.add(code)
    db.flush()
    assert code.id is not None
    return Issued(code.id, text)


def use(db: Session, user_id: int, purpose: CodePurpose, text: str, now: datetime) -> bool:
    """Whether this is the user's code: then it is used up; else it has one try less."""
    live = db.exec(
        select(Code).where(
            Code.user_id == user_id,
            Code.purpose == purpose,
            col(Code.used_at).is_(None),
            Code.expires_at > now,
            Code.tries < TRIES,
        )
    ).first()
    if live is None:
        return False
    right = hmac.compare_digest(live.code_hash, _hash(db, user_id, purpose, text))
    untouched = update(Code).where(col(Code.id) == live.id, col(Code.used_at).is_(None), col(Code.tries) == live.tries)
    change = untouched.values(used_at=now) if right else untouched.values(tries=live.tries + 1)
    return db.exec(change).rowcount == 1 and right


def void(db: Session, user_id: int, purpose: CodePurpose) -> None:
    """Let no code of this purpose be good any more; they count for their hour all the same."""
    db.exec(update(Code).where(col(Code.user_id) == user_id, col(Code.purpose) == purpose).values(tries=TRIES))


def withdraw(db: Session, code_id: int) -> None:
    """Take back a code whose letter did not go out, so that it does not count."""
    db.exec(delete(Code).where(col(Code.id) == code_id))


def forget(db: Session, now: datetime) -> None:
    """Delete the codes that are good for nothing, not even for being counted."""
    db.exec(delete(Code).where(col(Code.created_at) <= now - timedelta(hours=1), col(Code.expires_at) <= now))


def is_whole(text: str) -> bool:
    """Whether a text has what a code has, as far as one can see."""
    return len(_bare(text)) == LENGTH


def _bare(text: str) -> str:
    """A code as it was typed: in capitals or not, with or without what stands between."""
    return "".join(character for character in text.upper() if character.isalnum())


def _hash(db: Session, user_id: int, purpose: CodePurpose, text: str) -> str:
    key = db.exec(select(StoreInfo.secret)).one()[:64]
    said = f"{user_id} {purpose} {_bare(text)}".encode(errors="surrogateescape")
    return hashlib.blake2b(said, key=key, person=b"skychimp code", digest_size=32).hexdigest()

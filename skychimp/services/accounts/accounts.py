"""Accounts: how one is made, confirmed, entered and kept.

Nobody learns from these whether an address has an account, nor in which state it is, before having shown its password
or a code from its mailbox: known and unknown get the same words, the same work and a letter sent as far.
"""

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlmodel import Session, select

from skychimp import addresses
from skychimp.config.settings import Settings
from skychimp.errors import Conflict, Denied, InvalidValue, RelayError
from skychimp.models import CodePurpose, Role, User
from skychimp.permissions import ANONYMOUS, Action, Actor, authorize
from skychimp.services import audit
from skychimp.services.accounts import codes, login_throttle, passwords, sessions
from skychimp.services.clients.clients import LONGEST_NAME
from skychimp.store.database import Store
from skychimp.text import one_line

Keep = Callable[[str], None]
"""Is given a session's token before anything is committed: where it raises, nothing has happened."""


@dataclass(frozen=True)
class Account:
    id: int
    email: str
    name: str
    role: Role


@dataclass(frozen=True)
class CurrentUser:
    """Who is logged in, and when that ends unless it is used."""

    id: int
    email: str
    name: str
    role: Role
    created_at: datetime
    session_ends_at: datetime | None


def check_is_new(store: Store) -> None:
    """Raise Conflict where the store has a user already."""
    with store.read() as db:
        _refuse_a_second(db)


def create_first_admin(store: Store, *, email: str, password: str | None, keep: Keep) -> Account:
    """Make the store's first user, an administrator whose mailbox needs no proof, and log that person in.

    Raises Conflict where the store has a user already, InvalidValue for the address or the password.
    """
    address = addresses.parse(email)
    password_hash = None if password is None else passwords.hashed(password)
    now = datetime.now(UTC)
    with store.write() as db:
        _refuse_a_second(db)
        user = User(
            email=address.email,
            address_key=address.key,
            password_hash=password_hash,
            role=Role.ADMIN,
            created_at=now,
            verified_at=now,
        )
        db.add(user)
        db.flush()
        return _log_in(db, user, keep, now)


def register(store: Store, settings: Settings, *, email: str, name: str = "", password: str) -> str:
    """Make an account that can't be used before its mailbox is confirmed, and mail it a code; the address as written.

    Who registers an address again before it is confirmed replaces its password, name and code. The owner of one that
    has an account is told by letter, and nothing changes. More than three letters an hour are not sent.
    Raises InvalidValue, and RelayError where the letter has not gone out: the account is there.
    """
    address, name = addresses.parse(email), one_line(name, "name", LONGEST_NAME)
    password_hash = passwords.hashed(password)
    now = datetime.now(UTC)
    with store.write() as db:
        user = _user(db, address.key)
        if user is None:
            user = User(email=address.email, address_key=address.key, role=Role.USER, created_at=now)
            db.add(user)
            db.flush()
        issued = codes.issue(db, _id(user), CodePurpose.VERIFY, now)
        if issued and user.verified_at is None:
            user.email, user.name, user.password_hash = address.email, name, password_hash
        taken = user.verified_at is not None
        audit.record(db, ANONYMOUS, "register", "user", user.id, "has an account already" if taken else "")
    # Never to the address as it was typed: what counts as the same here may be somebody else's mailbox there.
    _mail(store, settings, "taken" if taken else "verify", user.email, issued)
    return address.email


def send_code(store: Store, settings: Settings, purpose: CodePurpose, email: str) -> str:
    """Mail a code to whoever has an account that can use one; the address as written.

    Raises InvalidValue, and RelayError where the letter has not gone out, or would not have.
    """
    address = addresses.parse(email)
    with store.write() as db:
        user = _user(db, address.key)
        useful = (
            user is not None and user.blocked_at is None and (purpose == CodePurpose.RESET or user.verified_at is None)
        )
        issued = codes.issue(db, _id(user), purpose, datetime.now(UTC)) if user and useful else None
        audit.record(db, ANONYMOUS, f"{purpose} letter", "user", user.id if user is not None else None)
    _mail(store, settings, purpose.value, user.email if user is not None else address.email, issued)
    return address.email


def verify(store: Store, *, email: str, code: str) -> str:
    """Confirm that a mailbox is its user's; the address as written. Raises InvalidValue, Denied.

    Nobody is logged in by that: had somebody else registered this mailbox, its owner would not know the password.
    """
    address, now = addresses.parse(email), datetime.now(UTC)
    with store.write() as db:
        user = _user_by_code(db, address.key, CodePurpose.VERIFY, code, now)
        if user is not None:
            audit.record(db, _actor(user), "verify", "user", user.id)
    if user is None:
        raise _wrong_code(f"skychimp verify --email {shlex.quote(address.email)} --resend")
    return user.email


def login(store: Store, *, email: str, password: str, keep: Keep) -> Account:
    """Log in. Raises InvalidValue; Denied for a wrong address or password, or where there have been too many.

    Only who knows the password hears that the mailbox is not confirmed yet, or that the user is blocked.
    """
    key = addresses.parse(email).key
    with _proven(store, key, password, "wrong e-mail or password") as (session, user):
        return _log_in(session, user, keep, datetime.now(UTC))


def logout(store: Store, token: str | None) -> str | None:
    """End a token's session; the address of the user who was logged in, if anybody was."""
    who = sessions.actor(store, token)
    if not token or who == ANONYMOUS:
        return None
    with store.write() as db:
        if (found := sessions.find(db, token)) is not None:
            db.delete(found)
            audit.record(db, who, "logout", "user", who.user_id)
    return who.email


def whoami(store: Store, token: str | None) -> CurrentUser:
    """Who is logged in. Raises NotLoggedIn."""
    who = sessions.actor(store, token)
    authorize(who, Action.SEE_OWN_ACCOUNT)
    with store.read() as db:
        user, login = db.get_one(User, who.user_id), sessions.find(db, token or "")
    ends_at = min(login.expires_at, login.seen_at + sessions.IDLE) if login is not None else None
    return CurrentUser(_id(user), user.email, user.name, Role(user.role), user.created_at, ends_at)


def has_password(store: Store, actor: Actor) -> bool:
    """Whether the actor has a password: the first administrator may have none yet. Raises NotLoggedIn."""
    authorize(actor, Action.CHANGE_OWN_ACCOUNT)
    with store.read() as db:
        return db.get_one(User, actor.user_id).password_hash is not None


def change_password(store: Store, actor: Actor, *, current: str | None, new: str, keep: Keep) -> Account:
    """Give oneself another password: all one's sessions end, and a new one begins here.

    `current` is None for who has no password yet. Raises NotLoggedIn, InvalidValue, and Denied for a wrong one.
    """
    authorize(actor, Action.CHANGE_OWN_ACCOUNT)
    new_hash, now = passwords.hashed(new), datetime.now(UTC)
    if current is None:
        with store.write() as db:
            user = db.get_one(User, actor.user_id)
            if user.password_hash is not None:
                raise InvalidValue("the current password is missing")
            return _set_password(db, user, new_hash, "password change", keep, now)
    with store.read() as db:
        key = db.get_one(User, actor.user_id).address_key
    with _proven(store, key, current, "the current password is wrong") as (db, user):
        return _set_password(db, user, new_hash, "password change", keep, now)


def reset_password(store: Store, *, email: str, code: str, new: str, keep: Keep) -> Account:
    """Set a password by a code that was mailed, which confirms the mailbox, too: all sessions end, and one begins here.

    Raises InvalidValue, Denied.
    """
    address, new_hash, now = addresses.parse(email), passwords.hashed(new), datetime.now(UTC)
    with store.write() as db:
        user = _user_by_code(db, address.key, CodePurpose.RESET, code, now)
        if user is not None:
            return _set_password(db, user, new_hash, "password reset", keep, now)
    raise _wrong_code(f"skychimp password reset --email {shlex.quote(address.email)}")


@contextmanager
def _proven(store: Store, address_key: str, password: str, otherwise: str) -> Iterator[tuple[Session, User]]:
    """A transaction for whoever has shown the password. Raises Denied, with the words of `otherwise` or of a delay.

    The delay is looked at again once the work is done: of many who guess at the same time, only so many hear whether
    they were right.
    """
    with store.read() as db:
        login_throttle.check(db, address_key, datetime.now(UTC))
        user = _user(db, address_key)
    password_hash = None if user is None else user.password_hash
    right = passwords.is_right(password, password_hash)
    newer_hash = passwords.renewed(password, password_hash) if right and password_hash else None
    with store.write() as db:
        now = datetime.now(UTC)
        login_throttle.check(db, address_key, now)
        user = _user(db, address_key)
        if right and user is not None and user.password_hash == password_hash:
            login_throttle.clear(db, address_key)
            user.password_hash = newer_hash
            yield db, user
            return
        login_throttle.count(db, address_key, now)
        audit.record(db, ANONYMOUS, "login failed", "user", user.id if user is not None else None)
    raise Denied(otherwise, "set another one by mail: skychimp password reset --email YOU@EXAMPLE.ORG")


def _set_password(db: Session, user: User, new_hash: str, action: str, keep: Keep, now: datetime) -> Account:
    user.password_hash = new_hash
    sessions.end_all(db, _id(user))
    codes.void(db, _id(user), CodePurpose.RESET)
    login_throttle.clear(db, user.address_key)
    audit.record(db, _actor(user), action, "user", user.id)
    return _log_in(db, user, keep, now)


def _log_in(db: Session, user: User, keep: Keep, now: datetime) -> Account:
    if user.blocked_at is not None:
        raise Denied("this account is blocked", "ask whoever runs this service")
    if user.verified_at is None:
        address = shlex.quote(user.email)
        raise Denied(
            "this address is not confirmed yet", f"type the letter's code: skychimp verify --email {address} CODE"
        )
    keep(sessions.start(db, _id(user), now))
    audit.record(db, _actor(user), "login", "user", user.id)
    return Account(_id(user), user.email, user.name, Role(user.role))


def _user(db: Session, address_key: str) -> User | None:
    return db.exec(select(User).where(User.address_key == address_key)).first()


def _user_by_code(db: Session, address_key: str, purpose: CodePurpose, code: str, now: datetime) -> User | None:
    """The user whose code this is: it is used up, and the mailbox is confirmed. None where it is nobody's."""
    user = _user(db, address_key)
    user_id = _id(user) if user is not None and user.blocked_at is None else 0
    if not codes.use(db, user_id, purpose, code, now) or user is None:
        audit.record(db, ANONYMOUS, f"{purpose} failed", "user", user.id if user is not None else None)
        return None
    user.verified_at = user.verified_at or now
    return user


def _mail(store: Store, settings: Settings, kind: str, to: str, issued: codes.Issued | None) -> None:
    """Send a letter, or, where no code is issued, one that never arrives."""
    from skychimp.services.accounts import account_mail

    code = codes.make() if issued is None else issued.text
    try:
        account_mail.send(
            settings, store.path, account_mail.AccountEmail(kind), to=to, code=code, really=issued is not None
        )
    except RelayError:
        if issued is not None:
            with store.write() as db:
                codes.withdraw(db, issued.id)
        raise


def _wrong_code(another: str) -> Denied:
    return Denied("this code is wrong, used, or too old", f"get another one: {another}")


def _refuse_a_second(db: Session) -> None:
    if db.exec(select(User.id)).first() is not None:
        raise Conflict("this store has its first administrator already", "log in, or ask that person for an account")


def _actor(user: User) -> Actor:
    return Actor(_id(user), user.email, Role(user.role))


def _id(user: User) -> int:
    assert user.id is not None
    return user.id

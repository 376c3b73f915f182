"""Register, verify and log in users, and change their passwords.

These functions do not reveal whether an address has an account, or its state, to anybody who has not shown its password
or a code from its mailbox. Known and unknown addresses get the same answers and take the same work: whoever asks for an
email, it is sent, and only the email says what is known about the address.

An account is verified by two things together: a code, which shows who has the mailbox, and the password of the newest
registration, which shows that the same person registered. So whoever registers somebody else's address gains nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from sqlmodel import select

from skychimp import addresses
from skychimp.addresses import Address
from skychimp.config.settings import Settings
from skychimp.errors import Conflict, Denied, InvalidValue
from skychimp.models import CodePurpose, Role, User
from skychimp.permissions import ANONYMOUS, Action, Actor, authorize
from skychimp.services import audit
from skychimp.services.accounts import code_emails, codes, login_throttle, passwords, session_rule, sessions, unverified
from skychimp.shell import run_hint
from skychimp.store.database import Store
from skychimp.store.session import Session
from skychimp.text import MAX_NAME_LENGTH, one_line
from skychimp.translation import tr

SaveToken = Callable[[str], None]
"""Called with a new session's token before anything is committed. If it raises, nothing is changed."""


@dataclass(frozen=True)
class Account:
    """The account of a user who has just logged in."""

    id: int
    email: str
    name: str
    role: Role


@dataclass(frozen=True)
class CurrentUser:
    """The user who is logged in, and when the session ends if it is not used."""

    id: int
    email: str
    name: str
    role: Role
    created_at: datetime
    session_ends_at: datetime | None


def require_no_users(store: Store) -> None:
    """Raise Conflict if the store has a user."""
    with store.read() as db:
        _require_no_users(db)


def create_first_admin(store: Store, *, email: str, password: str | None, save_token: SaveToken) -> Account:
    """Create the store's first user, an administrator whose address needs no verification, and log in.

    Raises Conflict if the store has a user, and InvalidValue for the address or the password.
    """
    address = addresses.parse(email, addresses.LOCAL)
    password_hash = None if password is None else passwords.hash_password(password, address.email)
    now = store.now()
    with store.write() as db:
        _require_no_users(db)
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
        return _log_in(db, user, save_token, now)


def register(store: Store, settings: Settings, *, email: str, name: str = "", password: str) -> str:
    """Create an account, email it a verification code, and return the normalized address.

    The account cannot be used until the address is verified, and ends after unverified.LIFETIME. Registering an
    unverified address again replaces its password, name and code. If the address has a verified account, nothing
    changes, and its owner gets an email that says so. Nothing is done if the mailbox has been sent
    email_limits.MAX_PER_MAILBOX emails in the last hour. Raises InvalidValue; Denied if too many emails were sent; and
    RelayError if the email was not sent: the account exists all the same.
    """
    rules = addresses.Rules(allow_local=settings.mail.allow_local)
    address, name = addresses.parse(email, rules), one_line(name, "name", MAX_NAME_LENGTH)
    password_hash = passwords.hash_password(password, address.email, name)
    now = store.now()
    with _write_recording_denials(store, address.key) as db:
        unverified.delete_expired(db, now)
        user = _find_user(db, address.key)
        is_taken = user is not None and user.verified_at is not None
        if user is not None and _may_be_registered(user):
            user.registered_again = True  # even if a limit stops this one: the code in the mailbox is another's then
        count_id = code_emails.reserve(db, settings, address, CodePurpose.VERIFY, now)
        if count_id is not None:
            user = _register(db, user, address, name, password_hash, now)
        email_to_send = code_emails.prepare(db, user, address, CodePurpose.VERIFY, count_id, now)
        detail = "address already has an account" if is_taken else ""
        audit.record(db, ANONYMOUS, "register", "user", user.id if user is not None else None, detail)
    code_emails.send(store, settings, email_to_send)
    return address.email


def send_code(store: Store, settings: Settings, purpose: CodePurpose, email: str) -> str:
    """Email a code to the user with this address, or the reason why there is none, and return the normalized address.

    Nothing is sent if the mailbox has been sent email_limits.MAX_PER_MAILBOX emails in the last hour. Raises
    InvalidValue; Denied if too many emails were sent; and RelayError if the email was not sent.
    """
    address, now = addresses.parse(email, addresses.LOCAL), store.now()
    with _write_recording_denials(store, address.key) as db:
        unverified.delete_expired(db, now)
        user = _find_user(db, address.key)
        count_id = code_emails.reserve(db, settings, address, purpose, now)
        email_to_send = code_emails.prepare(db, user, address, purpose, count_id, now)
        audit.record(db, ANONYMOUS, f"{purpose} email", "user", user.id if user is not None else None)
    code_emails.send(store, settings, email_to_send)
    return address.email


def verify(store: Store, *, email: str, code: str, password: str | None) -> str:
    """Verify a user's address with the code that was sent to it and the password, and return the address.

    The password is that of the newest registration of the address. It may be None if nobody can be asked for it and the
    address was registered only once, as a script does that registers and reads the code. The user is not logged in.

    Raises InvalidValue if the password is missing, and Denied for a wrong code or password. Only those who have the
    code are told about the password, and a wrong one costs a try of the code.
    """
    address, now = addresses.parse(email, addresses.LOCAL), store.now()
    user = _find_user_by_code(store, address, code, now)
    if password is None:
        _require_registered_once(user)
    is_right = password is None or passwords.is_right(password, user.password_hash)
    with store.write() as db:
        if not is_right:
            codes.count_try(db, _id(user), CodePurpose.VERIFY, now)
            audit.record(db, ANONYMOUS, "verify failed", "user", user.id, "wrong password")
        # The address may have been registered again while we compared the password. Then the code is no longer valid.
        elif (verified := _redeem_code(db, address.key, CodePurpose.VERIFY, code, now)) is not None:
            audit.record(db, _actor(verified), "verify", "user", verified.id)
            return verified.email
    raise _wrong_code(CodePurpose.VERIFY, address) if is_right else _wrong_password(user)


def login(store: Store, *, email: str, password: str, save_token: SaveToken) -> Account:
    """Log in with a password.

    Raises InvalidValue, and Denied for a wrong address or password, or after too many of them. That the address is not
    verified, or the user is blocked, is told only to those who know the password.
    """
    key = addresses.parse(email, addresses.LOCAL).key
    with _authenticated(store, key, password, "wrong email or password") as (db, user):
        _require_usable(user)
        return _log_in(db, user, save_token, store.now())


def logout(store: Store, token: str | None) -> str | None:
    """End a token's session, and return the address of the user who was logged in, or None."""
    actor = sessions.find_actor(store, token)
    if not token or actor == ANONYMOUS:
        return None
    with store.write() as db:
        if (session := sessions.find(db, token)) is not None:
            db.delete(session)
            audit.record(db, actor, "logout", "user", actor.user_id)
    return actor.email


def whoami(store: Store, token: str | None) -> CurrentUser:
    """Return the user who is logged in with this token. Raises NotLoggedIn."""
    actor = sessions.find_actor(store, token)
    authorize(actor, Action.SEE_OWN_ACCOUNT)
    with store.read() as db:
        user, session = db.get_one(User, actor.user_id), sessions.find(db, token or "")
    ends_at = min(session.expires_at, session.seen_at + session_rule.IDLE_LIMIT) if session is not None else None
    return CurrentUser(_id(user), user.email, user.name, Role(user.role), user.created_at, ends_at)


def has_password(store: Store, actor: Actor) -> bool:
    """Return whether the actor has a password. The first administrator may have none yet. Raises NotLoggedIn."""
    authorize(actor, Action.CHANGE_OWN_ACCOUNT)
    with store.read() as db:
        return db.get_one(User, actor.user_id).password_hash is not None


def change_password(store: Store, actor: Actor, *, current: str | None, new: str, save_token: SaveToken) -> Account:
    """Change the actor's password, end all of the actor's sessions, and log in again.

    `current` is None if the actor has no password yet. Raises NotLoggedIn, InvalidValue, and Denied if the current
    password is wrong.
    """
    authorize(actor, Action.CHANGE_OWN_ACCOUNT)
    with store.read() as db:
        user = db.get_one(User, actor.user_id)
        key, owner = user.address_key, (user.email, user.name)
    new_hash, now = passwords.hash_password(new, *owner), store.now()
    if current is None:
        with store.write() as db:
            user = db.get_one(User, actor.user_id)
            if user.password_hash is not None:
                raise InvalidValue(tr("missing current password"))
            return _set_password(db, user, new_hash, "password change", save_token, now)
    with _authenticated(store, key, current, "the current password is wrong") as (db, user):
        return _set_password(db, user, new_hash, "password change", save_token, now)


def reset_password(store: Store, *, email: str, code: str, new: str, save_token: SaveToken) -> Account:
    """Set a new password with a code that was sent by email, end all of the user's sessions, and log in.

    The code also verifies the address. Raises InvalidValue, and Denied for a wrong code.
    """
    address, now = addresses.parse(email, addresses.LOCAL), store.now()
    new_hash = passwords.hash_password(new, address.email)
    with store.write() as db:
        user = _redeem_code(db, address.key, CodePurpose.RESET, code, now)
        if user is not None:
            passwords.require_not_personal(new, user.email, user.name)  # if it is, the code stays valid
            return _set_password(db, user, new_hash, "password reset", save_token, now)
    raise _wrong_code(CodePurpose.RESET, address)


@contextmanager
def _authenticated(store: Store, address_key: str, password: str, error: str) -> Iterator[tuple[Session, User]]:
    """Open a transaction for the user with this address and password.

    Raises Denied with the message `error`, or because of a delay. The delay is checked again after the hashing: of
    many who guess at the same time, only FREE_FAILURES + 1 learn whether they were right.
    """
    with _write_recording_denials(store, address_key) as db:
        login_throttle.require_no_delay(db, address_key, store.now())
        user = _find_user(db, address_key)
        password_hash = None if user is None else user.password_hash
    is_right = passwords.is_right(password, password_hash)
    new_hash = passwords.rehash_if_outdated(password, password_hash) if is_right and password_hash else None
    with _write_recording_denials(store, address_key) as db:
        now = store.now()
        login_throttle.require_no_delay(db, address_key, now)
        user = _find_user(db, address_key)
        # The password may have been changed while we compared it.
        if is_right and user is not None and user.password_hash == password_hash:
            login_throttle.clear(db, address_key)
            user.password_hash = new_hash
            yield db, user
            return
        login_throttle.record_failure(db, address_key, now)
        audit.record(db, ANONYMOUS, "login failed", "user", user.id if user is not None else None)
    raise Denied(error, tr('run "skychimp password reset --email YOU@EXAMPLE.ORG" if you forgot your password'))


@contextmanager
def _write_recording_denials(store: Store, address_key: str) -> Iterator[Session]:
    """Open a transaction that is committed also if Denied is raised in it, with an entry about that.

    The entry names the user with this address, if there is one.
    """
    with store.write() as db:
        try:
            yield db
            return
        except Denied as error:
            denied = error
            user = _find_user(db, address_key)
            audit.record(db, ANONYMOUS, "refused", "user", user.id if user is not None else None, error.message)
    raise denied


def _set_password(
    db: Session, user: User, password_hash: str, action: str, save_token: SaveToken, now: datetime
) -> Account:
    _require_usable(user)
    user.password_hash = password_hash
    sessions.end_all(db, _id(user))
    for purpose in CodePurpose:
        codes.invalidate(db, _id(user), purpose)
    login_throttle.clear(db, user.address_key)
    audit.record(db, _actor(user), action, "user", user.id)
    return _log_in(db, user, save_token, now)


def _require_usable(user: User) -> None:
    if user.blocked_at is not None:
        raise Denied(tr("your account is blocked"), tr("ask the administrator of this service"))
    if user.verified_at is None:
        raise Denied(tr("your email address is not verified"), run_hint("verify", "--email", user.email, "CODE"))


def _log_in(db: Session, user: User, save_token: SaveToken, now: datetime) -> Account:
    save_token(sessions.start(db, _id(user), now))
    audit.record(db, _actor(user), "login", "user", user.id)
    return Account(_id(user), user.email, user.name, Role(user.role))


def _register(db: Session, user: User | None, address: Address, name: str, password_hash: str, now: datetime) -> User:
    """Register an address, unless its account is verified or blocked, and return the account."""
    user = user or User(email=address.email, address_key=address.key, role=Role.USER, created_at=now)
    if _may_be_registered(user):
        user.email, user.name, user.password_hash = address.email, name, password_hash
        user.created_at = now
    db.add(user)
    db.flush()
    return user


def _may_be_registered(user: User) -> bool:
    return user.verified_at is None and user.blocked_at is None


def _find_user(db: Session, address_key: str) -> User | None:
    return db.exec(select(User).where(User.address_key == address_key)).first()


def _redeem_code(db: Session, address_key: str, purpose: CodePurpose, code: str, now: datetime) -> User | None:
    """Use up a code, verify its user's address and return the user, or None if the code is wrong."""
    user = _find_user(db, address_key)
    user_id = _id(user) if user is not None and user.blocked_at is None else 0
    if not codes.redeem(db, user_id, purpose, code, now) or user is None:
        audit.record(db, ANONYMOUS, f"{purpose} failed", "user", user.id if user is not None else None)
        return None
    user.verified_at = user.verified_at or now
    return user


def _find_user_by_code(store: Store, address: Address, code: str, now: datetime) -> User:
    """Return the user who was sent this verification code, which stays valid. Raises Denied for a wrong code."""
    with store.write() as db:
        user = _find_user(db, address.key)
        user_id = _id(user) if user is not None and user.blocked_at is None else 0
        if codes.check(db, user_id, CodePurpose.VERIFY, code, now) and user is not None:
            db.expunge(user)
            return user
        audit.record(db, ANONYMOUS, "verify failed", "user", user.id if user is not None else None)
    raise _wrong_code(CodePurpose.VERIFY, address)


def _wrong_code(purpose: CodePurpose, address: Address) -> Denied:
    commands = {
        CodePurpose.VERIFY: run_hint("verify", "--email", address.email, "--resend"),
        CodePurpose.RESET: run_hint("password", "reset", "--email", address.email),
    }
    return Denied(
        tr("the code is wrong, used or expired"), tr("{commands} to get a new one", commands=commands[purpose])
    )


def _require_registered_once(user: User) -> None:
    if user.registered_again:
        raise InvalidValue(
            tr("missing password: {email} was registered more than once", email=user.email),
            tr("use --password-stdin or set SKYCHIMP_PASSWORD to the password of the newest registration"),
        )


def _wrong_password(user: User) -> Denied:
    return Denied(
        tr("this is not the password of the newest registration of {email}", email=user.email),
        tr("{hint} to set your own password", hint=run_hint("password", "reset", "--email", user.email)),
    )


def _require_no_users(db: Session) -> None:
    if db.exec(select(User.id)).first() is not None:
        raise Conflict(tr("this store already has an administrator"), tr('run "skychimp login" or "skychimp register"'))


def _actor(user: User) -> Actor:
    return Actor(_id(user), user.email, Role(user.role))


def _id(user: User) -> int:
    assert user.id is not None
    return user.id

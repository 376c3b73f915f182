"""Accounts: register, verify, log in and change passwords, without revealing who has an account."""

import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from functools import partial
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from sqlmodel import col, select, update
from support.argon import CALLS, fast_argon2  # noqa: F401
from support.inbox import body_of, code_in, read_outbox
from support.sending import make_settings, rows
from support.servers import GREETING, ScriptedServer, accept_mail

from skychimp.config.settings import MailSettings, Settings
from skychimp.errors import ConfigError, Conflict, Denied, InvalidValue, NotLoggedIn, RelayRefused, RelayUnavailable
from skychimp.models import AccountEmail, AuditEntry, Code, CodePurpose, Login, LoginFailure, Role, User
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services.accounts import accounts, codes, login_throttle, passwords, session_rule, sessions
from skychimp.services.operations import housekeeping
from skychimp.store.database import Store
from skychimp.store.schema import open_store
from skychimp.translation import verbatim

PASSWORD, NEW = "correct horse battery", "staple, staple"
ADA, EVE = "Ada@Example.org", "eve@example.org"
OUTBOX = Settings(mail=MailSettings(sender="News <news@skychimp.test>", return_path="news@skychimp.test"))
pytestmark = pytest.mark.usefixtures("fast_argon2")


@pytest.fixture
def long_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make delays longer than a test takes on a slow machine."""

    def delay(failures: int) -> timedelta:
        return timedelta(hours=failures > login_throttle.FREE_FAILURES)

    monkeypatch.setattr(login_throttle, "delay", delay)


def sent_emails(store: Store) -> list[EmailMessage]:
    return read_outbox(store.path.with_name("outbox"))


def newest_code(store: Store) -> str:
    return code_in(sent_emails(store)[-1])


def register(store: Store, email: str = ADA, password: str = PASSWORD, name: str = "") -> None:
    accounts.register(store, OUTBOX, email=email, name=name, password=password)


def verify(store: Store, code: str, password: str | None = PASSWORD, email: str = ADA) -> str:
    return accounts.verify(store, email=email, code=code, password=password)


def create_account(store: Store, email: str = ADA, password: str = PASSWORD) -> None:
    """Create a verified account."""
    register(store, email, password)
    accounts.verify(store, email=email, code=newest_code(store), password=None)


def log_in(store: Store, email: str = ADA, password: str = PASSWORD) -> str:
    """Log in and return the token."""
    tokens: list[str] = []
    accounts.login(store, email=email, password=password, save_token=tokens.append)
    return tokens[0]


def denial(call: Callable[[], object]) -> tuple[int, str, str, str | None]:
    """Call a function that must raise Denied, and return all that a user sees of the error."""
    with pytest.raises(Denied) as caught:
        call()
    return caught.value.exit_status, caught.value.code, caught.value.message, caught.value.hint


def only_user(store: Store) -> User:
    (user,) = rows(store, User)
    return user


def update_users(store: Store, **values: object) -> None:
    with store.write() as db:
        db.exec(update(User).values(**values))


def pass_an_hour(store: Store) -> None:
    """Make all codes, emails and wrong passwords an hour older."""
    with store.write() as db:
        for email in db.exec(select(AccountEmail)):
            email.sent_at -= timedelta(hours=1)
        for code in db.exec(select(Code)):
            code.created_at -= timedelta(hours=1)
            code.expires_at -= timedelta(hours=1)
        for failure in db.exec(select(LoginFailure)):
            failure.failed_at -= timedelta(hours=1)


def run_in_threads(count: int, work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# The first administrator


def create_admin(store: Store, email: str = ADA, password: str | None = PASSWORD) -> str:
    """Create the first administrator and return the token."""
    tokens: list[str] = []
    accounts.create_first_admin(store, email=email, password=password, save_token=tokens.append)
    return tokens[0]


def test_first_administrator_is_logged_in(store: Store) -> None:
    token = create_admin(store)
    user = only_user(store)
    assert (user.email, user.address_key, user.role) == ("Ada@example.org", "ada@example.org", Role.ADMIN)
    assert user.verified_at is not None
    assert sessions.find_actor(store, token) == Actor(user.id or 0, "Ada@example.org", Role.ADMIN)
    log_in(store)


def test_second_administrator_is_refused(store: Store) -> None:
    accounts.require_no_users(store)
    token = create_admin(store)
    with pytest.raises(Conflict):
        accounts.require_no_users(store)
    with pytest.raises(Conflict):
        create_admin(store, "bob@example.org")
    assert only_user(store).email == "Ada@example.org"
    assert sessions.find_actor(store, token).role == Role.ADMIN


def test_no_user_is_created_if_the_session_cannot_be_saved(store: Store) -> None:
    def fail(token: str) -> None:
        raise ConfigError(verbatim("cannot save the session"))

    with pytest.raises(ConfigError):
        accounts.create_first_admin(store, email="ada@example.org", password=None, save_token=fail)
    accounts.require_no_users(store)
    create_admin(store)


@pytest.mark.parametrize("password", ["1234567", "x" * 1001])
def test_invalid_password_creates_no_administrator(store: Store, password: str) -> None:
    with pytest.raises(InvalidValue):
        create_admin(store, password=password)
    accounts.require_no_users(store)


def test_administrator_without_a_password_can_set_one(store: Store) -> None:
    admin = sessions.find_actor(store, create_admin(store, password=None))
    assert only_user(store).password_hash is None
    assert not accounts.has_password(store, admin)
    with pytest.raises(Denied):
        log_in(store)
    accounts.change_password(store, admin, current=None, new=NEW, save_token=print)
    assert accounts.has_password(store, admin)
    log_in(store, password=NEW)
    with pytest.raises(InvalidValue):  # from now on, the current password is needed too
        accounts.change_password(store, admin, current=None, new=PASSWORD, save_token=print)


# Register and verify


def test_register_verify_and_log_in(store: Store) -> None:
    register(store, name="Ada Lovelace")
    user = only_user(store)
    assert (user.email, user.name, user.role, user.verified_at) == ("Ada@example.org", "Ada Lovelace", Role.USER, None)
    accounts.verify(store, email="ADA@EXAMPLE.ORG", code=newest_code(store), password=None)
    assert sessions.find_actor(store, log_in(store, "ada@example.ORG")).email == "Ada@example.org"


def test_log_in_with_any_form_of_an_address(store: Store) -> None:
    create_account(store, "Ада.Л@Пример.РФ")
    for email in ("ада.л@пример.рф", "АДА.Л@xn--e1afmkfd.xn--p1ai", "ада.л@XN--E1AFMKFD.xn--p1ai"):
        assert sessions.find_actor(store, log_in(store, email)).email == "Ада.Л@пример.рф"


def test_verification_email(store: Store) -> None:
    register(store, name="BUY NOW http://spam.example")
    (email,) = sent_emails(store)
    assert (email["From"], email["To"]) == ("News <news@skychimp.test>", "Ada@example.org")
    assert email["Subject"] == "Your Skychimp verification code"
    assert email["Auto-Submitted"] == "auto-generated"
    code = code_in(email)
    text, html = body_of(email), body_of(email, "html")
    assert f"skychimp verify --email Ada@example.org {code}\n" in text
    assert f">{code}<" in html
    assert "spam" not in email.as_string()  # or anybody could send text of their own to strangers
    assert all(len(line) < 80 for line in text.splitlines())


def test_password_reset_email(store: Store) -> None:
    create_account(store)
    accounts.send_code(store, OUTBOX, CodePurpose.RESET, ADA)
    email = sent_emails(store)[-1]
    assert email["Subject"] == "Your Skychimp password reset code"
    command = f"skychimp password reset --email Ada@example.org {code_in(email)}"
    assert f"{command}\n" in body_of(email)
    assert f">{command}<" in body_of(email, "html")


@pytest.mark.parametrize(
    ("email", "quoted", "escaped"),
    [
        (
            "o'neil@example.org",
            r" o\'neil@example.org ",
            r"o\&#39;neil@example.org",
        ),
        ("a&b@example.org", " 'a&b@example.org' ", "&#39;a&amp;b@example.org&#39;"),
        ("ада@пример.рф", " 'ада@пример.рф' ", "ада@пример.рф"),
    ],
)
def test_address_in_an_email_is_quoted_for_shell_and_html(store: Store, email: str, quoted: str, escaped: str) -> None:
    register(store, email)
    (sent,) = sent_emails(store)
    assert quoted in body_of(sent)
    assert escaped in body_of(sent, "html")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"email": "nobody"}, "invalid email address"),
        ({"name": "a\nb"}, "a control character"),
        ({"password": "short"}, "12 to 1000"),
        ({"password": "password1234"}, "too common"),
        ({"password": "Ada@example.org"}, "your email address"),
        ({"password": "Grace Hopper", "name": "grace hopper"}, "your name"),
    ],
)
def test_invalid_value_creates_no_account_and_sends_no_email(
    store: Store, values: dict[str, str], message: str
) -> None:
    with pytest.raises(InvalidValue, match=message):
        accounts.register(store, OUTBOX, **{"email": ADA, "password": PASSWORD} | values)
    assert not rows(store, User)
    assert not sent_emails(store)


# Whoever registers somebody else's address gains nothing

STRANGERS = "a stranger's own words"


def test_only_the_newest_registration_can_be_verified_and_its_password_counts(store: Store) -> None:
    register(store, "ada@example.org", STRANGERS, "Somebody")
    old = newest_code(store)
    register(store, ADA, PASSWORD, "Ada")
    user = only_user(store)
    assert (user.email, user.name) == ("Ada@example.org", "Ada")
    for password in (PASSWORD, STRANGERS, None):
        with pytest.raises(Denied, match="the code is wrong"):
            verify(store, old, password)
    verify(store, newest_code(store))
    with pytest.raises(Denied):
        log_in(store, password=STRANGERS)
    log_in(store)


def test_stranger_who_registers_an_address_again_does_not_get_the_account(store: Store) -> None:
    """The owner of the mailbox uses the newest code with the own password, or has a script that knows none."""
    register(store)
    register(store, password=STRANGERS, name="Eve")
    code = newest_code(store)
    message, hint = denial(lambda: verify(store, code))[2:]
    assert message == "this is not the password of the newest registration of Ada@example.org"
    assert hint == 'run "skychimp password reset --email Ada@example.org" to set your own password'
    with pytest.raises(InvalidValue, match=r"missing password: Ada@example\.org was registered more"):
        verify(store, code, None)
    assert only_user(store).verified_at is None
    for password in (PASSWORD, STRANGERS):
        with pytest.raises(Denied):
            log_in(store, password=password)
    register(store)
    verify(store, newest_code(store))
    log_in(store)


def test_stranger_who_registers_an_address_first_does_not_get_the_account(store: Store) -> None:
    register(store, password=STRANGERS)
    code = newest_code(store)
    with pytest.raises(Denied, match="not the password of the newest registration"):
        verify(store, code)
    register(store)
    verify(store, newest_code(store))
    with pytest.raises(Denied):
        log_in(store, password=STRANGERS)
    log_in(store)


def test_stranger_who_uses_up_the_limit_does_not_keep_the_owner_out(store: Store) -> None:
    """Each reset code goes to the mailbox, whoever asks for it, and verifies the address with a new password."""
    for _ in range(5):
        register(store, password=STRANGERS)
    register(store)
    with pytest.raises(Denied):
        verify(store, newest_code(store))
    for _ in range(5):
        accounts.send_code(store, OUTBOX, CodePurpose.RESET, ADA)
    accounts.reset_password(store, email=ADA, code=newest_code(store), new=NEW, save_token=print)
    with pytest.raises(Denied):
        log_in(store, password=STRANGERS)
    log_in(store, password=NEW)


def test_registration_that_the_limit_stops_counts_as_another_one(store: Store) -> None:
    """Otherwise a stranger could register first and use up the limit, and a script of the owner would use the code."""
    register(store, password=STRANGERS)
    for _ in range(2):
        accounts.send_code(store, OUTBOX, CodePurpose.VERIFY, ADA)
    register(store)
    assert len(sent_emails(store)) == 3
    with pytest.raises(InvalidValue):
        verify(store, newest_code(store), None)
    with pytest.raises(Denied):
        verify(store, newest_code(store))


def test_code_alone_is_enough_for_an_address_registered_once(store: Store) -> None:
    register(store)
    accounts.send_code(store, OUTBOX, CodePurpose.VERIFY, ADA)
    verify(store, newest_code(store), None)
    log_in(store)


def test_registration_that_a_limit_stops_counts_as_another_one(store: Store) -> None:
    """The code in the mailbox belongs to a registration of somebody else."""
    register(store, password=NEW)
    limited = Settings(mail=OUTBOX.mail.model_copy(update={"account_emails_per_hour": 1}))
    with pytest.raises(Denied, match="too many emails"):
        accounts.register(store, limited, email=ADA, password=PASSWORD)
    with pytest.raises(InvalidValue, match="missing password"):
        verify(store, newest_code(store), None)
    with pytest.raises(Denied):
        verify(store, newest_code(store))


def test_given_password_must_be_right_even_if_it_is_not_needed(store: Store) -> None:
    register(store)
    for password in ("", NEW, PASSWORD + " "):
        with pytest.raises(Denied):
            verify(store, newest_code(store), password)
    verify(store, newest_code(store))


def test_wrong_password_costs_a_try_of_the_code(store: Store) -> None:
    register(store)
    code = newest_code(store)
    for _ in range(codes.MAX_TRIES):
        assert "not the password" in denial(lambda: verify(store, code, NEW))[2]
    assert denial(lambda: verify(store, code))[2] == "the code is wrong, used or expired"


def test_missing_password_costs_no_try(store: Store) -> None:
    register(store)
    register(store)
    for _ in range(codes.MAX_TRIES):
        with pytest.raises(InvalidValue):
            verify(store, newest_code(store), None)
    verify(store, newest_code(store))


def test_wrong_code_takes_no_work_and_reveals_nothing_about_the_password(store: Store) -> None:
    register(store)
    register(store)
    CALLS.clear()
    for password in (PASSWORD, NEW, None):
        assert denial(lambda password=password: verify(store, "22222-22222", password))[2].startswith("the code is")  # type: ignore[misc]
    assert not CALLS


def test_registered_again_while_the_password_is_compared(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    register(store)
    code = newest_code(store)

    def compare_slowly(password: str, password_hash: str | None) -> bool:
        register(store, password=STRANGERS)
        return True

    monkeypatch.setattr(passwords, "is_right", compare_slowly)
    assert denial(lambda: verify(store, code))[2] == "the code is wrong, used or expired"
    assert only_user(store).verified_at is None


def test_unsent_code_of_a_new_registration_does_not_revive_the_old_one(store: Store) -> None:
    register(store)
    old = newest_code(store)
    with pytest.raises(RelayUnavailable):
        accounts.register(store, smtp_settings(1), email=ADA, password=STRANGERS)
    with pytest.raises(Denied):
        verify(store, old)


def test_blocked_address_cannot_be_registered_again(store: Store) -> None:
    register(store)
    update_users(store, blocked_at=datetime.now(UTC))
    before = only_user(store)
    register(store, password=NEW, name="Somebody else")
    assert only_user(store) == before
    assert sent_emails(store)[-1]["Subject"] == "Your Skychimp account is blocked"


# The end of accounts that nobody verifies


def make_older(store: Store, age: timedelta) -> None:
    update_users(store, created_at=datetime.now(UTC) - age)


@pytest.mark.parametrize(("age", "is_left"), [(timedelta(days=6, hours=23), True), (timedelta(days=7), False)])
def test_unverified_account_ends_after_seven_days(store: Store, age: timedelta, is_left: bool) -> None:
    register(store)
    make_older(store, age)
    housekeeping.tidy(store)
    assert (len(rows(store, User)), len(rows(store, Code)) > 0) == ((1, True) if is_left else (0, False))
    actions = [row.action for row in rows(store, AuditEntry)]
    assert actions == ["register"] if is_left else ["register", "expire"]


def test_address_of_an_ended_account_is_free_at_the_next_registration(store: Store) -> None:
    register(store, password=STRANGERS, name="Somebody")
    make_older(store, timedelta(days=8))
    register(store)
    assert (only_user(store).id, only_user(store).name) == (2, "")  # an id is never used again
    verify(store, newest_code(store), None)
    log_in(store)


def test_ended_account_gets_no_code(store: Store) -> None:
    register(store)
    make_older(store, timedelta(days=8))
    accounts.send_code(store, OUTBOX, CodePurpose.VERIFY, ADA)
    assert sent_emails(store)[-1]["Subject"] == "You have no Skychimp account"


def test_registering_again_starts_the_seven_days_again(store: Store) -> None:
    register(store)
    make_older(store, timedelta(days=6))
    register(store)
    assert datetime.now(UTC) - only_user(store).created_at < timedelta(days=1)


def test_verified_and_blocked_accounts_do_not_end(store: Store) -> None:
    create_account(store)
    register(store, EVE)
    with store.write() as db:
        db.exec(update(User).where(col(User.email) == EVE).values(blocked_at=datetime.now(UTC)))
    make_older(store, timedelta(days=800))
    housekeeping.tidy(store)
    assert len(rows(store, User)) == 2


def test_account_that_something_refers_to_does_not_end(store: Store) -> None:
    """Such an account cannot come to be, but it must not stop the housekeeping or a registration."""
    register(store)
    with store.write() as db:
        db.add(AuditEntry(at=datetime.now(UTC), actor_id=1, action="login", object="user"))
    make_older(store, timedelta(days=8))
    housekeeping.tidy(store)
    register(store, EVE)
    assert len(rows(store, User)) == 2


# What happens if the address is taken


def test_registering_a_taken_address_changes_nothing_and_notifies_its_owner(store: Store) -> None:
    create_account(store)
    token = log_in(store)
    before = only_user(store)
    register(store, "ada@EXAMPLE.org", "somebody else's", "Eve")
    assert only_user(store) == before
    assert sessions.find_actor(store, token) != ANONYMOUS
    log_in(store)
    email = sent_emails(store)[-1]
    assert email["Subject"] == "You already have a Skychimp account"
    assert "already have one" in body_of(email)
    assert "password reset --email Ada@example.org" in body_of(email)
    assert len(sent_emails(store)) == 2


def test_emails_go_to_the_verified_address_however_it_is_typed(store: Store) -> None:
    """On another server, the address as typed may be the mailbox of whoever typed it."""
    create_account(store)
    register(store, "ADA@example.org")
    accounts.send_code(store, OUTBOX, CodePurpose.RESET, "ADA@example.org")
    assert [email["To"] for email in sent_emails(store)] == ["Ada@example.org"] * 3


@pytest.mark.parametrize("has_account", [False, True])
def test_at_most_three_emails_per_hour(store: Store, has_account: bool) -> None:
    if has_account:
        create_account(store)
        pass_an_hour(store)
    for number in range(5):
        register(store, password=f"a long password {number}")
    assert len(sent_emails(store)) == 3 + has_account
    if not has_account:  # without an email nothing changes: the code and password of the last email are valid
        verify(store, newest_code(store), "a long password 2")
        log_in(store, password="a long password 2")
    pass_an_hour(store)
    register(store)
    assert len(sent_emails(store)) == 4 + has_account


def test_new_code_replaces_the_old_one(store: Store) -> None:
    register(store)
    first = newest_code(store)
    accounts.send_code(store, OUTBOX, CodePurpose.VERIFY, ADA)
    with pytest.raises(Denied):
        accounts.verify(store, email=ADA, code=first, password=None)
    verify(store, newest_code(store))


def test_concurrent_verifications_use_the_code_once(store: Store, store_url: str) -> None:
    register(store)
    code, results = newest_code(store), Counter[str]()
    start = threading.Barrier(6)

    def verify() -> None:
        own_store = open_store(store_url)
        start.wait()
        try:
            accounts.verify(own_store, email=ADA, code=code, password=None)
            results["verified"] += 1
        except Denied:
            results["denied"] += 1
        own_store.close()

    run_in_threads(6, verify)
    assert results == {"verified": 1, "denied": 5}
    assert Counter(row.action for row in rows(store, AuditEntry)) == {"register": 1, "verify": 1, "verify failed": 5}


# Nobody learns who has an account


def no_account(store: Store) -> None:
    """Leave the address without an account."""


def unverified_account(store: Store) -> None:
    register(store)
    pass_an_hour(store)


def verified_account(store: Store) -> None:
    create_account(store)
    pass_an_hour(store)


def blocked_account(store: Store) -> None:
    verified_account(store)
    update_users(store, blocked_at=datetime.now(UTC))


def account_without_password(store: Store) -> None:
    create_admin(store, password=None)


STATES = [no_account, unverified_account, verified_account, blocked_account, account_without_password]


@pytest.fixture(params=STATES)
def every_state(store: Store, request: pytest.FixtureRequest) -> None:
    """Run a test once for each state that the account of an address can have."""
    request.getfixturevalue("fast_argon2")  # before the state is set: a mark does not say in which order
    request.param(store)
    CALLS.clear()


@pytest.mark.usefixtures("every_state", "long_delays")
def test_wrong_password_reveals_nothing(store: Store) -> None:
    denials, call_counts = [], []
    for _ in range(3):
        denials.append(denial(lambda: log_in(store, password="a wrong one")))
        call_counts.append(len(CALLS))
    hint = 'run "skychimp password reset --email YOU@EXAMPLE.ORG" if you forgot your password'
    assert set(denials) == {(5, "denied", "wrong email or password", hint)}
    assert call_counts == [1, 2, 3]  # each login costs one Argon2 computation
    fourth = denial(lambda: log_in(store, password="a wrong one"))
    assert fourth[2] == "too many wrong passwords; try again in 3600 s"
    assert len(CALLS) == 3
    assert [row.action for row in rows(store, AuditEntry)][-4:] == ["login failed"] * 3 + ["refused"]


@pytest.mark.usefixtures("every_state")
def test_wrong_code_reveals_nothing(store: Store) -> None:
    def reset() -> None:
        accounts.reset_password(store, email=ADA, code="22222-22222", new=NEW, save_token=print)

    denials = {denial(lambda: accounts.verify(store, email=ADA, code="22222-22222", password=None)) for _ in range(7)}
    hint = 'run "skychimp verify --email Ada@example.org --resend" to get a new one'
    assert denials == {(5, "denied", "the code is wrong, used or expired", hint)}
    denials = {denial(reset) for _ in range(7)}
    hint = 'run "skychimp password reset --email Ada@example.org" to get a new one'
    assert denials == {(5, "denied", "the code is wrong, used or expired", hint)}
    assert CALLS == ["hash"] * 7


def requests(store: Store) -> list[Callable[[Settings], str]]:
    """Return the calls with which anybody can ask for an email to Ada."""
    return [
        lambda settings: accounts.register(store, settings, email=ADA, password=NEW),
        *(partial(send_code_to_ada, store, purpose) for purpose in CodePurpose),
    ]


def send_code_to_ada(store: Store, purpose: CodePurpose, settings: Settings) -> str:
    return accounts.send_code(store, settings, purpose, ADA)


def smtp_settings(port: int) -> Settings:
    return make_settings(port, mail__return_path="ada@skychimp.test")


@pytest.mark.usefixtures("every_state")
def test_same_conversation_with_the_mail_server_for_every_account_state(store: Store) -> None:
    """One email is completely sent for each request, until its mailbox was sent enough."""

    def smtp_commands(do: Callable[[Settings], object]) -> list[str]:
        with ScriptedServer([GREETING, accept_mail()]) as server:
            assert do(smtp_settings(server.port)) == "Ada@example.org"
            server.wait() if server.conversations else None
        lines = server.received.splitlines()
        return [line[:4].decode() for line in lines if line[:5] in (b"MAIL ", b"RCPT ", b"DATA") or line == b"."]

    ask_register, ask_verify, ask_reset = requests(store)
    sent = [smtp_commands(do) for do in (ask_register, ask_verify, ask_verify, ask_verify, *[ask_reset] * 4)]
    envelope = ["MAIL", "RCPT", "DATA", "."]
    assert sent == [envelope, envelope, envelope, [], envelope, envelope, envelope, []]
    assert CALLS == ["hash"]


@pytest.mark.parametrize(
    ("set_state", "verify_subject", "reset_subject"),
    [
        (no_account, "You have no Skychimp account", "You have no Skychimp account"),
        (unverified_account, "Your Skychimp verification code", "Your Skychimp password reset code"),
        (verified_account, "You already have a Skychimp account", "Your Skychimp password reset code"),
        (blocked_account, "Your Skychimp account is blocked", "Your Skychimp account is blocked"),
        (account_without_password, "You already have a Skychimp account", "Your Skychimp password reset code"),
    ],
)
def test_mailbox_learns_what_is_known_about_its_address(
    store: Store, set_state: Callable[[Store], None], verify_subject: str, reset_subject: str
) -> None:
    set_state(store)
    before = len(sent_emails(store))
    for purpose in CodePurpose:
        for _ in range(5):
            accounts.send_code(store, OUTBOX, purpose, ADA)
    sent = sent_emails(store)[before:]
    assert [email["Subject"] for email in sent] == [verify_subject] * 3 + [reset_subject] * 3
    for email in sent:
        text, html = body_of(email), body_of(email, "html")
        assert ("XXXXX" in re.sub("[A-Z0-9]{5}-[A-Z0-9]{5}", "XXXXX", text)) == email["Subject"].endswith("code")
        assert all(len(line) < 80 for line in text.splitlines())
        assert " ".join(text.split()[:9]) in " ".join(re.sub("<[^>]*>", " ", html).split())


@pytest.mark.usefixtures("every_state")
@pytest.mark.parametrize(
    ("command", "reply", "error"),
    [
        ("EHLO", b"421 4.3.2 not now\r\n", RelayUnavailable),
        ("RCPT", b"450 4.2.0 greylisted\r\n", RelayUnavailable),
        ("RCPT", b"550 5.1.1 no such mailbox\r\n", RelayRefused),
        ("DATA", b"", RelayUnavailable),
        (".", b"451 4.3.0 not now\r\n", RelayUnavailable),
        (".", b"554 5.7.1 refused\r\n", RelayRefused),
    ],
)
def test_sending_fails_alike_for_every_account_state(
    store: Store, command: str, reply: bytes, error: type[Exception]
) -> None:
    def answer(received: str, address: str) -> bytes | None:
        return reply if received == command else None

    for do in requests(store) * 2:  # an unsent email does not count towards the limit
        with ScriptedServer([GREETING, accept_mail(answer)]) as server, pytest.raises(error):
            do(smtp_settings(server.port))


@pytest.mark.usefixtures("every_state")
def test_slow_mail_server_takes_the_same_time_for_every_account_state(store: Store) -> None:
    """Each reply takes a while, the one to the final dot most of all, so an email that is not sent would be noticed."""
    delay_s, replies = 0.05, ("MAIL", "RCPT", "DATA", ".")

    def answer_slowly(received: str, address: str) -> None:
        time.sleep(delay_s if received in replies else 0)

    for do in requests(store):
        with ScriptedServer([GREETING, accept_mail(answer_slowly)]) as server:
            start = time.monotonic()
            do(smtp_settings(server.port))
            assert time.monotonic() - start >= delay_s * len(replies)


@pytest.mark.usefixtures("every_state")
def test_limit_for_all_addresses_is_the_same_for_every_account_state(store: Store) -> None:
    settings = Settings(mail=OUTBOX.mail.model_copy(update={"account_emails_per_hour": 1}))
    accounts.send_code(store, settings, CodePurpose.RESET, "nobody@example.org")
    before = rows(store, User)
    for do in requests(store):
        assert denial(partial(do, settings))[2:] == (
            "too many emails about accounts were sent in the last hour",
            "try again later, or raise mail.account_emails_per_hour",
        )
    for user in before:  # but for the account that cannot be verified without the password any more
        user.registered_again = user.verified_at is None and user.blocked_at is None
    assert rows(store, User) == before
    refused = ("refused", "too many emails about accounts were sent in the last hour")
    assert [(row.action, row.detail) for row in rows(store, AuditEntry)][-3:] == [refused] * 3


def test_concurrent_requests_send_three_emails(store: Store, store_url: str) -> None:
    start = threading.Barrier(8)

    def ask() -> None:
        own_store = open_store(store_url)
        start.wait()
        accounts.send_code(own_store, OUTBOX, CodePurpose.RESET, ADA)
        own_store.close()

    run_in_threads(8, ask)
    assert len(sent_emails(store)) == 3


def test_tagged_addresses_of_one_mailbox_are_sent_three_emails(store: Store) -> None:
    for number in range(20):
        register(store, f"ada+{number}@example.org")
        accounts.send_code(store, OUTBOX, CodePurpose.RESET, f"ada+{number}@example.org")
    assert len(sent_emails(store)) == 6
    assert len(rows(store, User)) == 3  # no account without an email


def test_emails_that_a_wrong_file_of_the_settings_stops_do_not_count_towards_the_limit(
    store: Store, tmp_path: Path
) -> None:
    wrong = make_settings(1, mail__return_path="ada@skychimp.test", smtp__security="tls", smtp__ca_file=str(tmp_path))
    for _ in range(2):
        with pytest.raises(RelayRefused, match="cannot read"):
            accounts.register(store, wrong, email=ADA, password=PASSWORD)
        with pytest.raises(RelayRefused, match="cannot read"):
            accounts.send_code(store, wrong, CodePurpose.RESET, ADA)
    assert not rows(store, AccountEmail)
    assert not rows(store, Code)


def test_unsent_emails_do_not_count_towards_the_limit(store: Store) -> None:
    unreachable = smtp_settings(1)
    for _ in range(4):
        with pytest.raises(RelayUnavailable):
            accounts.register(store, unreachable, email=ADA, password=PASSWORD)
    assert only_user(store).verified_at is None
    accounts.send_code(store, OUTBOX, CodePurpose.VERIFY, ADA)
    verify(store, newest_code(store))
    log_in(store)


def test_code_stays_valid_if_the_final_reply_is_lost(store: Store) -> None:
    def hang_up(received: str, address: str) -> bytes | None:
        return b"" if received == "." else None

    with ScriptedServer([GREETING, accept_mail(hang_up)]) as server:
        accounts.register(store, smtp_settings(server.port), email=ADA, password=PASSWORD)
        server.wait()
        (email,) = server.emails
    code = next(line for line in email.decode().splitlines() if len(line) == codes.LENGTH + 1 and line.isupper())
    accounts.verify(store, email=ADA, code=code, password=None)


# Log in and out


def test_reason_of_a_refusal_is_told_only_with_the_right_password(store: Store) -> None:
    register(store)
    assert denial(lambda: log_in(store))[2:] == (
        "your email address is not verified", 'run "skychimp verify --email Ada@example.org CODE"',
    )  # fmt: skip
    verify(store, newest_code(store))
    update_users(store, blocked_at=datetime.now(UTC))
    assert denial(lambda: log_in(store))[2] == "your account is blocked"
    refused = rows(store, AuditEntry)[-1]
    assert (refused.action, refused.object_id, refused.detail) == ("refused", 1, "your account is blocked")
    assert not rows(store, Login)


def test_blocked_user_cannot_use_a_code(store: Store) -> None:
    create_account(store)
    register(store, EVE)
    verify_code = newest_code(store)
    accounts.send_code(store, OUTBOX, CodePurpose.RESET, ADA)
    update_users(store, blocked_at=datetime.now(UTC))
    with pytest.raises(Denied):
        accounts.reset_password(store, email=ADA, code=newest_code(store), new=NEW, save_token=print)
    with pytest.raises(Denied):
        accounts.verify(store, email=EVE, code=verify_code, password=None)


def test_no_session_if_it_cannot_be_saved(store: Store) -> None:
    create_account(store)

    def fail(token: str) -> None:
        raise ConfigError(verbatim("cannot save the session"))

    with pytest.raises(ConfigError):
        accounts.login(store, email=ADA, password=PASSWORD, save_token=fail)
    assert not rows(store, Login)


def test_right_password_clears_the_failures(store: Store) -> None:
    create_account(store)
    for _ in range(2):
        for _ in range(2):
            with pytest.raises(Denied):
                log_in(store, password="a wrong one")
        log_in(store)
    assert not rows(store, LoginFailure)


def test_delay_refuses_the_right_password_too(store: Store) -> None:
    create_account(store)
    with store.write() as db:
        for _ in range(10):
            login_throttle.record_failure(db, "ada@example.org", datetime.now(UTC))
    CALLS.clear()
    assert "too many wrong passwords" in denial(lambda: log_in(store))[2]
    assert not CALLS
    assert rows(store, LoginFailure)[0].failures == 10
    pass_an_hour(store)
    log_in(store)


@pytest.mark.usefixtures("long_delays")
def test_of_concurrent_guesses_only_three_are_answered(
    store: Store, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_account(store)
    all_checked = threading.Barrier(8)
    messages = Counter[str]()

    def compare_slowly(password: str, password_hash: str | None) -> bool:
        all_checked.wait()  # until all have passed the first check of the delay
        return False

    monkeypatch.setattr(passwords, "is_right", compare_slowly)

    def guess() -> None:
        own_store = open_store(store_url)
        messages[denial(lambda: log_in(own_store, password="a guess"))[2][:9]] += 1
        own_store.close()

    run_in_threads(8, guess)
    assert messages == {"wrong ema": 3, "too many ": 5}


def test_password_changed_during_a_login_is_wrong(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    create_account(store)

    def compare_and_change(password: str, password_hash: str | None) -> bool:
        update_users(store, password_hash="another one")
        return True

    monkeypatch.setattr(passwords, "is_right", compare_and_change)
    assert denial(lambda: log_in(store))[2] == "wrong email or password"
    assert not rows(store, Login)


def test_outdated_hash_is_replaced_at_login(store: Store) -> None:
    create_account(store)
    old = PasswordHasher(time_cost=2, memory_cost=16, parallelism=1).hash(PASSWORD)
    update_users(store, password_hash=old)
    with pytest.raises(Denied):
        log_in(store, password="a wrong one")
    assert only_user(store).password_hash == old
    log_in(store)
    new = only_user(store).password_hash
    assert new != old
    log_in(store)
    assert only_user(store).password_hash == new


def test_log_out_ends_one_session(store: Store) -> None:
    create_account(store)
    first, second = log_in(store), log_in(store)
    assert accounts.logout(store, first) == "Ada@example.org"
    assert sessions.find_actor(store, first) == ANONYMOUS
    assert sessions.find_actor(store, second) != ANONYMOUS
    assert [accounts.logout(store, token) for token in (first, None, "nobody's")] == [None] * 3


def test_whoami(store: Store) -> None:
    register(store, name="Ada")
    verify(store, newest_code(store))
    user = accounts.whoami(store, log_in(store))
    assert (user.email, user.name, user.role) == ("Ada@example.org", "Ada", Role.USER)
    assert user.session_ends_at is not None
    assert user.session_ends_at - datetime.now(UTC) <= session_rule.IDLE_LIMIT
    for token in (None, "nobody's"):
        with pytest.raises(NotLoggedIn):
            accounts.whoami(store, token)


# Change and reset passwords


def test_password_change_ends_all_sessions_and_starts_a_new_one(store: Store) -> None:
    create_account(store)
    old = [log_in(store) for _ in range(3)]
    new: list[str] = []
    actor = sessions.find_actor(store, old[0])
    accounts.change_password(store, actor, current=PASSWORD, new=NEW, save_token=new.append)
    assert [sessions.find_actor(store, token) for token in old] == [ANONYMOUS] * 3
    assert sessions.find_actor(store, new[0]) != ANONYMOUS
    with pytest.raises(Denied):
        log_in(store)
    log_in(store, password=NEW)


@pytest.mark.usefixtures("long_delays")
def test_password_change_needs_the_password_and_is_throttled(store: Store) -> None:
    create_account(store)
    ada = sessions.find_actor(store, log_in(store))

    def change(current: str, new: str = NEW) -> None:
        accounts.change_password(store, ada, current=current, new=new, save_token=print)

    with pytest.raises(InvalidValue):
        change(PASSWORD, "short")
    assert [denial(lambda: change("a wrong one"))[2] for _ in range(4)] == [
        *["the current password is wrong"] * 3,
        "too many wrong passwords; try again in 3600 s",
    ]
    with pytest.raises(NotLoggedIn):
        accounts.change_password(store, ANONYMOUS, current=PASSWORD, new=NEW, save_token=print)
    pass_an_hour(store)
    log_in(store)


def test_password_reset_ends_all_sessions_delays_and_codes(store: Store) -> None:
    create_account(store)
    old, new = log_in(store), list[str]()
    with store.write() as db:
        for _ in range(10):
            login_throttle.record_failure(db, "ada@example.org", datetime.now(UTC))
    accounts.send_code(store, OUTBOX, CodePurpose.RESET, ADA)
    code = newest_code(store)
    accounts.reset_password(store, email=ADA, code=code, new=NEW, save_token=new.append)
    assert sessions.find_actor(store, old) == ANONYMOUS
    assert sessions.find_actor(store, new[0]) != ANONYMOUS
    log_in(store, password=NEW)
    with pytest.raises(Denied):
        accounts.reset_password(store, email=ADA, code=code, new=PASSWORD, save_token=print)


def test_password_change_invalidates_reset_codes(store: Store) -> None:
    create_account(store)
    accounts.send_code(store, OUTBOX, CodePurpose.RESET, ADA)
    ada = sessions.find_actor(store, log_in(store))
    accounts.change_password(store, ada, current=PASSWORD, new=NEW, save_token=print)
    with pytest.raises(Denied):
        accounts.reset_password(store, email=ADA, code=newest_code(store), new=PASSWORD, save_token=print)


def test_password_reset_verifies_the_address_and_replaces_a_strangers_password(store: Store) -> None:
    register(store, password="somebody else's")
    accounts.send_code(store, OUTBOX, CodePurpose.RESET, ADA)
    accounts.reset_password(store, email=ADA, code=newest_code(store), new=NEW, save_token=print)
    with pytest.raises(Denied):
        log_in(store, password="somebody else's")
    log_in(store, password=NEW)


# The audit trail


def test_audit_trail_of_accounts(store: Store) -> None:
    create_account(store)
    register(store)
    with pytest.raises(Denied):
        log_in(store, EVE)
    with pytest.raises(Denied):
        log_in(store, password="a wrong one")
    ada = sessions.find_actor(store, log_in(store))
    accounts.change_password(store, ada, current=PASSWORD, new=NEW, save_token=print)
    accounts.send_code(store, OUTBOX, CodePurpose.RESET, ADA)
    accounts.reset_password(store, email=ADA, code=newest_code(store), new=PASSWORD, save_token=print)
    accounts.logout(store, log_in(store))
    with pytest.raises(Denied):
        accounts.verify(store, email=EVE, code="22222-22222", password=None)
    trail = [(row.actor_id, row.action, row.object_id) for row in rows(store, AuditEntry)]
    assert trail == [
        (None, "register", 1),
        (1, "verify", 1),
        (None, "register", 1),
        (None, "login failed", None),
        (None, "login failed", 1),
        (1, "login", 1),
        (1, "password change", 1),
        (1, "login", 1),
        (None, "reset email", 1),
        (1, "password reset", 1),
        (1, "login", 1),
        (1, "login", 1),
        (1, "logout", 1),
        (None, "verify failed", None),
    ]


def test_no_secret_is_stored(store: Store, tmp_path: Path) -> None:
    create_account(store)
    accounts.send_code(store, OUTBOX, CodePurpose.RESET, ADA)
    secrets = [PASSWORD, log_in(store), *(code_in(email) for email in sent_emails(store))]
    stored = b"".join(path.read_bytes() for path in store.path.parent.iterdir() if path.is_file())
    assert not [secret for secret in secrets if secret.encode() in stored]

"""Accounts: register, verify, log in and change passwords, without revealing who has an account."""

import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from functools import partial
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from sqlmodel import select, update
from support.argon import CALLS, fast_argon2  # noqa: F401
from support.inbox import body_of, code_in, read_outbox
from support.sending import make_settings, rows
from support.servers import GREETING, ScriptedServer, accept_mail

from skychimp.config.settings import MailSettings, Settings
from skychimp.errors import ConfigError, Conflict, Denied, InvalidValue, NotLoggedIn, RelayRefused, RelayUnavailable
from skychimp.models import AuditEntry, Code, CodePurpose, Login, LoginFailure, Role, User
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services.accounts import accounts, codes, login_throttle, passwords, session_rule, sessions
from skychimp.store.database import Store
from skychimp.store.schema import open_store

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


def create_account(store: Store, email: str = ADA, password: str = PASSWORD) -> None:
    """Create a verified account."""
    register(store, email, password)
    accounts.verify(store, email=email, code=newest_code(store))


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
    """Make all codes and wrong passwords an hour older."""
    with store.write() as db:
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
        raise ConfigError("cannot save the session")

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
    accounts.verify(store, email="ADA@EXAMPLE.ORG", code=newest_code(store))
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
            """ 'o'"'"'neil@example.org' """,
            "&#39;o&#39;&#34;&#39;&#34;&#39;neil@example.org&#39;",
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
        ({"password": "short"}, "8 to 1000"),
    ],
)
def test_invalid_value_creates_no_account_and_sends_no_email(
    store: Store, values: dict[str, str], message: str
) -> None:
    with pytest.raises(InvalidValue, match=message):
        accounts.register(store, OUTBOX, **{"email": ADA, "password": PASSWORD} | values)
    assert not rows(store, User)
    assert not sent_emails(store)


def test_registering_again_before_verifying_replaces_everything(store: Store) -> None:
    register(store, "ada@example.org", "somebody else's")
    old = newest_code(store)
    register(store, ADA, PASSWORD, "Ada")
    user = only_user(store)
    assert (user.email, user.name) == ("Ada@example.org", "Ada")
    with pytest.raises(Denied):
        accounts.verify(store, email=ADA, code=old)
    accounts.verify(store, email=ADA, code=newest_code(store))
    with pytest.raises(Denied):
        log_in(store, password="somebody else's")
    log_in(store)


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
        register(store, password=f"password {number}")
    assert len(sent_emails(store)) == 3 + has_account
    if not has_account:  # without an email nothing changes: the code and password of the last email are valid
        accounts.verify(store, email=ADA, code=newest_code(store))
        log_in(store, password="password 2")
    pass_an_hour(store)
    register(store)
    assert len(sent_emails(store)) == 4 + has_account


def test_new_code_replaces_the_old_one(store: Store) -> None:
    register(store)
    first = newest_code(store)
    accounts.send_code(store, OUTBOX, CodePurpose.VERIFY, ADA)
    with pytest.raises(Denied):
        accounts.verify(store, email=ADA, code=first)
    accounts.verify(store, email=ADA, code=newest_code(store))


def test_concurrent_verifications_use_the_code_once(store: Store) -> None:
    register(store)
    code, results = newest_code(store), Counter[str]()
    start = threading.Barrier(6)

    def verify() -> None:
        own_store = open_store(f"sqlite:///{store.path}")
        start.wait()
        try:
            accounts.verify(own_store, email=ADA, code=code)
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
    assert [row.action for row in rows(store, AuditEntry)][-3:] == ["login failed"] * 3


@pytest.mark.usefixtures("every_state")
def test_wrong_code_reveals_nothing(store: Store) -> None:
    def reset() -> None:
        accounts.reset_password(store, email=ADA, code="22222-22222", new=NEW, save_token=print)

    denials = {denial(lambda: accounts.verify(store, email=ADA, code="22222-22222")) for _ in range(7)}
    hint = 'run "skychimp verify --email Ada@example.org --resend" to get a new one'
    assert denials == {(5, "denied", "the code is wrong, used or expired", hint)}
    denials = {denial(reset) for _ in range(7)}
    hint = 'run "skychimp password reset --email Ada@example.org" to get a new one'
    assert denials == {(5, "denied", "the code is wrong, used or expired", hint)}
    assert CALLS == ["hash"] * 7


@pytest.mark.usefixtures("every_state")
def test_same_work_for_every_account_state(store: Store) -> None:
    """The conversation with the mail server is the same, except for the final dot of an email that is not delivered."""

    def smtp_commands(do: Callable[[Settings], object]) -> list[str]:
        with ScriptedServer([GREETING, accept_mail()]) as server:
            assert do(smtp_settings(server.port)) == "Ada@example.org"
            server.wait()
        lines = server.received.splitlines()
        return [line[:4].decode() for line in lines if line[:5] in (b"MAIL ", b"RCPT ", b"DATA")]

    envelope = ["MAIL", "RCPT", "DATA"]
    assert smtp_commands(lambda settings: accounts.register(store, settings, email=ADA, password=NEW)) == envelope
    assert CALLS == ["hash"]
    for purpose in CodePurpose:
        send_code = partial(send_code_to_ada, store, purpose)
        for _ in range(5):
            assert smtp_commands(send_code) == envelope


def send_code_to_ada(store: Store, purpose: CodePurpose, settings: Settings) -> str:
    return accounts.send_code(store, settings, purpose, ADA)


def smtp_settings(port: int) -> Settings:
    return make_settings(port, mail__return_path="ada@skychimp.test")


@pytest.mark.parametrize("purpose", CodePurpose)
@pytest.mark.parametrize(
    ("set_state", "usable_codes"),
    [
        (no_account, set()),
        (unverified_account, {CodePurpose.VERIFY, CodePurpose.RESET}),
        (verified_account, {CodePurpose.RESET}),
        (blocked_account, set()),
        (account_without_password, {CodePurpose.RESET}),
    ],
)
def test_code_is_sent_only_to_users_who_can_use_it(
    store: Store, set_state: Callable[[Store], None], usable_codes: set[CodePurpose], purpose: CodePurpose
) -> None:
    set_state(store)
    before = len(sent_emails(store))
    for _ in range(5):
        accounts.send_code(store, OUTBOX, purpose, ADA)
    assert len(sent_emails(store)) - before == (3 if purpose in usable_codes else 0)
    assert not list((store.path.with_name("outbox") / "tmp").iterdir())


@pytest.mark.usefixtures("every_state")
@pytest.mark.parametrize(
    ("command", "reply", "error"),
    [
        ("EHLO", b"421 4.3.2 not now\r\n", RelayUnavailable),
        ("RCPT", b"450 4.2.0 greylisted\r\n", RelayUnavailable),
        ("RCPT", b"550 5.1.1 no such mailbox\r\n", RelayRefused),
        ("DATA", b"", RelayUnavailable),
    ],
)
def test_sending_fails_alike_for_every_account_state(
    store: Store, command: str, reply: bytes, error: type[Exception]
) -> None:
    def answer(received: str, address: str) -> bytes | None:
        return reply if received == command else None

    for purpose in CodePurpose:
        with ScriptedServer([GREETING, accept_mail(answer)]) as server, pytest.raises(error):
            accounts.send_code(store, smtp_settings(server.port), purpose, ADA)


def test_unsent_emails_do_not_count_towards_the_limit(store: Store) -> None:
    unreachable = smtp_settings(1)
    for _ in range(4):
        with pytest.raises(RelayUnavailable):
            accounts.register(store, unreachable, email=ADA, password=PASSWORD)
    assert only_user(store).verified_at is None
    accounts.send_code(store, OUTBOX, CodePurpose.VERIFY, ADA)
    accounts.verify(store, email=ADA, code=newest_code(store))
    log_in(store)


def test_code_stays_valid_if_the_final_reply_is_lost(store: Store) -> None:
    def hang_up(received: str, address: str) -> bytes | None:
        return b"" if received == "." else None

    with ScriptedServer([GREETING, accept_mail(hang_up)]) as server:
        accounts.register(store, smtp_settings(server.port), email=ADA, password=PASSWORD)
        server.wait()
        (email,) = server.emails
    code = next(line for line in email.decode().splitlines() if len(line) == codes.LENGTH + 1 and line.isupper())
    accounts.verify(store, email=ADA, code=code)


# Log in and out


def test_reason_of_a_refusal_is_told_only_with_the_right_password(store: Store) -> None:
    register(store)
    assert denial(lambda: log_in(store))[2:] == (
        "your email address is not verified", 'run "skychimp verify --email Ada@example.org CODE"',
    )  # fmt: skip
    accounts.verify(store, email=ADA, code=newest_code(store))
    update_users(store, blocked_at=datetime.now(UTC))
    assert denial(lambda: log_in(store))[2] == "your account is blocked"
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
        accounts.verify(store, email=EVE, code=verify_code)


def test_no_session_if_it_cannot_be_saved(store: Store) -> None:
    create_account(store)

    def fail(token: str) -> None:
        raise ConfigError("cannot save the session")

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
def test_of_concurrent_guesses_only_three_are_answered(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    create_account(store)
    all_checked = threading.Barrier(8)
    messages = Counter[str]()

    def compare_slowly(password: str, password_hash: str | None) -> bool:
        all_checked.wait()  # until all have passed the first check of the delay
        return False

    monkeypatch.setattr(passwords, "is_right", compare_slowly)

    def guess() -> None:
        own_store = open_store(f"sqlite:///{store.path}")
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
    accounts.verify(store, email=ADA, code=newest_code(store))
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
        accounts.verify(store, email=EVE, code="22222-22222")
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

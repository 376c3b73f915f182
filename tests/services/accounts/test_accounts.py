"""Accounts: how one is made, confirmed, entered and kept, and that nobody learns who has one."""

import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from sqlmodel import select, update
from support.argon import WORK, cheap_argon  # noqa: F401
from support.inbox import code_in, letters, text_of
from support.sending import rows, settings
from support.servers import GREETING, ScriptedServer, obey

from skychimp.config.settings import MailSettings, Settings
from skychimp.errors import ConfigError, Conflict, Denied, InvalidValue, NotLoggedIn, RelayRefused, RelayUnavailable
from skychimp.models import AuditEntry, Code, CodePurpose, Login, LoginFailure, Role, User
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services.accounts import accounts, codes, login_throttle, passwords, sessions
from skychimp.store.database import Store
from skychimp.store.schema import open_store

PASSWORD, NEW = "correct horse battery", "staple, staple"
ADA, EVE = "Ada@Example.org", "eve@example.org"
OUTBOX = Settings(mail=MailSettings(sender="News <news@skychimp.test>", return_path="news@skychimp.test"))
pytestmark = pytest.mark.usefixtures("cheap_argon")


@pytest.fixture
def long_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delays that last longer than a test on a slow machine."""
    monkeypatch.setattr(login_throttle, "delay", lambda failures: timedelta(hours=failures > login_throttle.FREE))


def came(store: Store) -> list[EmailMessage]:
    return letters(store.path.with_name("outbox"))


def newest_code(store: Store) -> str:
    return code_in(came(store)[-1])


def register(store: Store, email: str = ADA, password: str = PASSWORD, name: str = "") -> None:
    accounts.register(store, OUTBOX, email=email, name=name, password=password)


def confirmed(store: Store, email: str = ADA, password: str = PASSWORD) -> None:
    """Somebody with an account that can be used."""
    register(store, email, password)
    accounts.verify(store, email=email, code=newest_code(store))


def log_in(store: Store, email: str = ADA, password: str = PASSWORD) -> str:
    """The token of a new session."""
    tokens: list[str] = []
    accounts.login(store, email=email, password=password, keep=tokens.append)
    return tokens[0]


def refusal(call: Callable[[], object]) -> tuple[int, str, str, str | None]:
    """What somebody who is denied gets to see."""
    with pytest.raises(Denied) as caught:
        call()
    return caught.value.exit_status, caught.value.code, caught.value.message, caught.value.hint


def the_user(store: Store) -> User:
    (user,) = rows(store, User)
    return user


def set_user(store: Store, **values: object) -> None:
    with store.write() as db:
        db.exec(update(User).values(**values))


def an_hour_passes(store: Store) -> None:
    """Codes and wrong passwords are an hour older."""
    with store.write() as db:
        for code in db.exec(select(Code)):
            code.created_at -= timedelta(hours=1)
            code.expires_at -= timedelta(hours=1)
        for failure in db.exec(select(LoginFailure)):
            failure.failed_at -= timedelta(hours=1)


# The first administrator


def first_admin(store: Store, email: str = ADA, password: str | None = PASSWORD) -> str:
    """Make the first administrator; that person's token."""
    tokens: list[str] = []
    accounts.create_first_admin(store, email=email, password=password, keep=tokens.append)
    return tokens[0]


def test_the_first_administrator_is_logged_in(store: Store) -> None:
    token = first_admin(store)
    user = the_user(store)
    assert (user.email, user.address_key, user.role) == ("Ada@example.org", "ada@example.org", Role.ADMIN)
    assert user.verified_at is not None
    assert sessions.actor(store, token) == Actor(user.id or 0, "Ada@example.org", Role.ADMIN)
    log_in(store)


def test_there_is_no_second_one(store: Store) -> None:
    accounts.check_is_new(store)
    token = first_admin(store)
    with pytest.raises(Conflict):
        accounts.check_is_new(store)
    with pytest.raises(Conflict):
        first_admin(store, "bob@example.org")
    assert the_user(store).email == "Ada@example.org"
    assert sessions.actor(store, token).role == Role.ADMIN


def test_without_a_session_there_is_no_user_either(store: Store) -> None:
    def fail(token: str) -> None:
        raise ConfigError("the session can't be kept")

    with pytest.raises(ConfigError):
        accounts.create_first_admin(store, email="ada@example.org", password=None, keep=fail)
    accounts.check_is_new(store)
    first_admin(store)


@pytest.mark.parametrize("password", ["1234567", "x" * 1001])
def test_a_wrong_password_makes_no_administrator(store: Store, password: str) -> None:
    with pytest.raises(InvalidValue):
        first_admin(store, password=password)
    accounts.check_is_new(store)


def test_an_administrator_without_a_password_can_set_one(store: Store) -> None:
    admin = sessions.actor(store, first_admin(store, password=None))
    assert the_user(store).password_hash is None
    assert not accounts.has_password(store, admin)
    with pytest.raises(Denied):
        log_in(store)
    accounts.change_password(store, admin, current=None, new=NEW, keep=print)
    assert accounts.has_password(store, admin)
    log_in(store, password=NEW)
    with pytest.raises(InvalidValue):  # from now on, the session is not enough
        accounts.change_password(store, admin, current=None, new=PASSWORD, keep=print)


# Register and verify


def test_register_verify_log_in(store: Store) -> None:
    register(store, name="Ada Lovelace")
    user = the_user(store)
    assert (user.email, user.name, user.role, user.verified_at) == ("Ada@example.org", "Ada Lovelace", Role.USER, None)
    accounts.verify(store, email="ADA@EXAMPLE.ORG", code=newest_code(store))
    assert sessions.actor(store, log_in(store, "ada@example.ORG")).email == "Ada@example.org"


def test_an_address_is_known_in_all_its_forms(store: Store) -> None:
    confirmed(store, "Ада.Л@Пример.РФ")
    for email in ("ада.л@пример.рф", "АДА.Л@xn--e1afmkfd.xn--p1ai", "ада.л@XN--E1AFMKFD.xn--p1ai"):
        assert sessions.actor(store, log_in(store, email)).email == "Ада.Л@пример.рф"


def test_the_letter(store: Store) -> None:
    register(store, name="BUY NOW http://spam.example")
    (letter,) = came(store)
    assert (letter["From"], letter["To"]) == ("News <news@skychimp.test>", "Ada@example.org")
    assert letter["Auto-Submitted"] == "auto-generated"
    code = code_in(letter)
    text, html = text_of(letter), text_of(letter, "html")
    assert f"skychimp verify --email Ada@example.org {code}\n" in text
    assert f">{code}<" in html
    assert "spam" not in letter.as_string()  # or anybody could write to anybody by way of us
    assert all(len(line) < 80 for line in text.splitlines())


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
def test_an_address_stands_in_a_letter_as_a_shell_and_a_browser_take_it(
    store: Store, email: str, quoted: str, escaped: str
) -> None:
    register(store, email)
    (letter,) = came(store)
    assert quoted in text_of(letter)
    assert escaped in text_of(letter, "html")


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({"email": "nobody"}, "not an e-mail address"),
        ({"name": "a\nb"}, "a control character"),
        ({"password": "short"}, "8 to 1000"),
    ],
)
def test_a_wrong_value_makes_no_account_and_no_letter(store: Store, values: dict[str, str], wrong: str) -> None:
    with pytest.raises(InvalidValue, match=wrong):
        accounts.register(store, OUTBOX, **{"email": ADA, "password": PASSWORD} | values)
    assert not rows(store, User)
    assert not came(store)


def test_who_registers_again_before_confirming_replaces_all(store: Store) -> None:
    register(store, "ada@example.org", "somebody else's")
    old = newest_code(store)
    register(store, ADA, PASSWORD, "Ada")
    user = the_user(store)
    assert (user.email, user.name) == ("Ada@example.org", "Ada")
    with pytest.raises(Denied):
        accounts.verify(store, email=ADA, code=old)
    accounts.verify(store, email=ADA, code=newest_code(store))
    with pytest.raises(Denied):
        log_in(store, password="somebody else's")
    log_in(store)


def test_an_address_that_has_an_account_keeps_it_and_is_told(store: Store) -> None:
    confirmed(store)
    token = log_in(store)
    before = the_user(store)
    register(store, "ada@EXAMPLE.org", "somebody else's", "Eve")
    assert the_user(store) == before
    assert sessions.actor(store, token) != ANONYMOUS
    log_in(store)
    letter = came(store)[-1]
    assert "You have one already" in text_of(letter)
    assert "password reset --email Ada@example.org" in text_of(letter)
    assert len(came(store)) == 2


def test_letters_go_to_the_mailbox_that_was_confirmed_however_the_address_is_typed(store: Store) -> None:
    """Elsewhere, what is the same address here may be the mailbox of whoever has typed it."""
    confirmed(store)
    register(store, "ADA@example.org")
    accounts.send_code(store, OUTBOX, CodePurpose.RESET, "ADA@example.org")
    assert [letter["To"] for letter in came(store)] == ["Ada@example.org"] * 3


@pytest.mark.parametrize("known", [False, True])
def test_three_letters_an_hour(store: Store, known: bool) -> None:
    if known:
        confirmed(store)
        an_hour_passes(store)
    for number in range(5):
        register(store, password=f"password {number}")
    assert len(came(store)) == 3 + known
    if not known:  # what has no letter changes nothing: the newest letter's code and password are good
        accounts.verify(store, email=ADA, code=newest_code(store))
        log_in(store, password="password 2")
    an_hour_passes(store)
    register(store)
    assert len(came(store)) == 4 + known


def test_another_code(store: Store) -> None:
    register(store)
    first = newest_code(store)
    accounts.send_code(store, OUTBOX, CodePurpose.VERIFY, ADA)
    with pytest.raises(Denied):
        accounts.verify(store, email=ADA, code=first)
    accounts.verify(store, email=ADA, code=newest_code(store))


def test_many_verify_at_once_and_one_does(store: Store) -> None:
    register(store)
    code, done = newest_code(store), Counter[str]()
    start = threading.Barrier(6)

    def try_it() -> None:
        own = open_store(f"sqlite:///{store.path}")
        start.wait()
        try:
            accounts.verify(own, email=ADA, code=code)
            done["verified"] += 1
        except Denied:
            done["denied"] += 1
        own.close()

    in_threads(6, try_it)
    assert done == {"verified": 1, "denied": 5}
    assert Counter(row.action for row in rows(store, AuditEntry)) == {"register": 1, "verify": 1, "verify failed": 5}


def in_threads(number: int, work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# Nobody learns who has an account


def nobody(store: Store) -> None:
    """An address without an account."""


def unconfirmed(store: Store) -> None:
    register(store)
    an_hour_passes(store)


def known(store: Store) -> None:
    confirmed(store)
    an_hour_passes(store)


def blocked(store: Store) -> None:
    known(store)
    set_user(store, blocked_at=datetime.now(UTC))


def without_password(store: Store) -> None:
    first_admin(store, password=None)


EVERYBODY = [nobody, unconfirmed, known, blocked, without_password]


@pytest.fixture(params=EVERYBODY)
def somebody(store: Store, request: pytest.FixtureRequest) -> None:
    """An address in each state that one can be in."""
    request.param(store)
    WORK.clear()


@pytest.mark.usefixtures("somebody", "long_delays")
def test_a_wrong_password_tells_nothing(store: Store) -> None:
    seen, work = [], []
    for _ in range(3):
        seen.append(refusal(lambda: log_in(store, password="a wrong one")))
        work.append(len(WORK))
    assert set(seen) == {
        (
            5,
            "denied",
            "wrong e-mail or password",
            "set another one by mail: skychimp password reset --email YOU@EXAMPLE.ORG",
        )
    }
    assert work == [1, 2, 3]  # one go of Argon2 each: comparing is as much work as there is to be
    fourth = refusal(lambda: log_in(store, password="a wrong one"))
    assert fourth[2] == "too many wrong passwords; try again in 3600 s"
    assert len(WORK) == 3
    assert [row.action for row in rows(store, AuditEntry)][-3:] == ["login failed"] * 3


@pytest.mark.usefixtures("somebody")
def test_a_wrong_code_tells_nothing(store: Store) -> None:
    hint = "get another one: skychimp verify --email Ada@example.org --resend"
    seen = {refusal(lambda: accounts.verify(store, email=ADA, code="22222-22222")) for _ in range(7)}
    assert seen == {(5, "denied", "this code is wrong, used, or too old", hint)}
    hint = "get another one: skychimp password reset --email Ada@example.org"
    seen = {
        refusal(lambda: accounts.reset_password(store, email=ADA, code="22222-22222", new=NEW, keep=print))
        for _ in range(7)
    }
    assert seen == {(5, "denied", "this code is wrong, used, or too old", hint)}
    assert WORK == ["hash"] * 7


@pytest.mark.usefixtures("somebody")
def test_registering_and_asking_for_codes_is_the_same_work(store: Store) -> None:
    """The same conversation with the relay, but for the dot of a letter that is for nobody."""
    said: list[bytes] = []

    def commands(do: Callable[[Settings], object]) -> list[str]:
        with ScriptedServer([GREETING, obey()]) as server:
            assert do(over_smtp(server.port)) == "Ada@example.org"
            server.wait()
        said.append(server.heard)
        return [line[:4].decode() for line in server.heard.splitlines() if line[:5] in (b"MAIL ", b"RCPT ", b"DATA")]

    def by_purpose(purpose: CodePurpose) -> Callable[[Settings], str]:
        return lambda settings: accounts.send_code(store, settings, purpose, ADA)

    group = ["MAIL", "RCPT", "DATA"]
    assert commands(lambda settings: accounts.register(store, settings, email=ADA, password=NEW)) == group
    assert WORK == ["hash"]
    for purpose in CodePurpose:
        for _ in range(5):
            assert commands(by_purpose(purpose)) == group


def over_smtp(port: int) -> Settings:
    return settings(port, mail__return_path="ada@skychimp.test")


@pytest.mark.parametrize("purpose", CodePurpose)
@pytest.mark.parametrize(
    ("state", "who_gets_one"),
    [
        (nobody, set()),
        (unconfirmed, {CodePurpose.VERIFY, CodePurpose.RESET}),
        (known, {CodePurpose.RESET}),
        (blocked, set()),
        (without_password, {CodePurpose.RESET}),
    ],
)
def test_only_who_can_use_a_code_gets_a_letter(
    store: Store, state: Callable[[Store], None], who_gets_one: set[CodePurpose], purpose: CodePurpose
) -> None:
    state(store)
    before = len(came(store))
    for _ in range(5):
        accounts.send_code(store, OUTBOX, purpose, ADA)
    assert len(came(store)) - before == (3 if purpose in who_gets_one else 0)
    assert not list((store.path.with_name("outbox") / "tmp").iterdir())


@pytest.mark.usefixtures("somebody")
@pytest.mark.parametrize(
    ("command", "answer", "error"),
    [
        ("EHLO", b"421 4.3.2 not now\r\n", RelayUnavailable),
        ("RCPT", b"450 4.2.0 greylisted\r\n", RelayUnavailable),
        ("RCPT", b"550 5.1.1 no such mailbox\r\n", RelayRefused),
        ("DATA", b"", RelayUnavailable),
    ],
)
def test_a_letter_that_fails_fails_for_everybody(
    store: Store, command: str, answer: bytes, error: type[Exception]
) -> None:
    def reply(said: str, address: str) -> bytes | None:
        return answer if said == command else None

    for purpose in CodePurpose:
        with ScriptedServer([GREETING, obey(reply)]) as server, pytest.raises(error):
            accounts.send_code(store, over_smtp(server.port), purpose, ADA)


def test_letters_that_did_not_go_out_do_not_count(store: Store) -> None:
    away = over_smtp(1)
    for _ in range(4):
        with pytest.raises(RelayUnavailable):
            accounts.register(store, away, email=ADA, password=PASSWORD)
    assert the_user(store).verified_at is None
    accounts.send_code(store, OUTBOX, CodePurpose.VERIFY, ADA)
    accounts.verify(store, email=ADA, code=newest_code(store))
    log_in(store)


def test_a_letter_whose_last_reply_is_missing_may_have_arrived(store: Store) -> None:
    def hang_up(said: str, address: str) -> bytes | None:
        return b"" if said == "." else None

    with ScriptedServer([GREETING, obey(hang_up)]) as server:
        accounts.register(store, over_smtp(server.port), email=ADA, password=PASSWORD)
        server.wait()
        (letter,) = server.letters
    code = next(line for line in letter.decode().splitlines() if len(line) == codes.LENGTH + 1 and line.isupper())
    accounts.verify(store, email=ADA, code=code)


# Log in and out


def test_only_with_the_password_one_hears_why_not(store: Store) -> None:
    register(store)
    assert refusal(lambda: log_in(store))[2] == "this address is not confirmed yet"
    accounts.verify(store, email=ADA, code=newest_code(store))
    set_user(store, blocked_at=datetime.now(UTC))
    assert refusal(lambda: log_in(store))[2] == "this account is blocked"
    assert not rows(store, Login)


def test_a_blocked_user_can_not_come_back_by_a_code(store: Store) -> None:
    confirmed(store)
    register(store, EVE)
    verify_code = newest_code(store)
    accounts.send_code(store, OUTBOX, CodePurpose.RESET, ADA)
    set_user(store, blocked_at=datetime.now(UTC))
    with pytest.raises(Denied):
        accounts.reset_password(store, email=ADA, code=newest_code(store), new=NEW, keep=print)
    with pytest.raises(Denied):
        accounts.verify(store, email=EVE, code=verify_code)


def test_a_session_that_can_not_be_kept_is_none(store: Store) -> None:
    confirmed(store)

    def fail(token: str) -> None:
        raise ConfigError("the session can't be kept")

    with pytest.raises(ConfigError):
        accounts.login(store, email=ADA, password=PASSWORD, keep=fail)
    assert not rows(store, Login)


def test_the_right_password_ends_the_delays(store: Store) -> None:
    confirmed(store)
    for _ in range(2):
        for _ in range(2):
            with pytest.raises(Denied):
                log_in(store, password="a wrong one")
        log_in(store)
    assert not rows(store, LoginFailure)


def test_a_delay_refuses_the_right_password_too(store: Store) -> None:
    confirmed(store)
    with store.write() as db:
        for _ in range(10):
            login_throttle.count(db, "ada@example.org", datetime.now(UTC))
    WORK.clear()
    assert "too many wrong passwords" in refusal(lambda: log_in(store))[2]
    assert not WORK
    assert rows(store, LoginFailure)[0].failures == 10
    an_hour_passes(store)
    log_in(store)


@pytest.mark.usefixtures("long_delays")
def test_of_many_who_guess_at_once_three_hear_whether_they_were_right(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirmed(store)
    at_work = threading.Barrier(8)
    heard = Counter[str]()

    def slowly(password: str, password_hash: str | None) -> bool:
        at_work.wait()  # all have passed the first look at the delay
        return False

    monkeypatch.setattr(passwords, "is_right", slowly)

    def guess() -> None:
        own = open_store(f"sqlite:///{store.path}")
        heard[refusal(lambda: log_in(own, password="a guess"))[2][:9]] += 1
        own.close()

    in_threads(8, guess)
    assert heard == {"wrong e-m": 3, "too many ": 5}


def test_a_password_that_was_changed_meanwhile_is_wrong(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    confirmed(store)

    def change(password: str, password_hash: str | None) -> bool:
        set_user(store, password_hash="another one")
        return True

    monkeypatch.setattr(passwords, "is_right", change)
    assert refusal(lambda: log_in(store))[2] == "wrong e-mail or password"
    assert not rows(store, Login)


def test_a_hash_of_old_parameters_is_made_anew_at_login(store: Store) -> None:
    confirmed(store)
    old = PasswordHasher(time_cost=2, memory_cost=16, parallelism=1).hash(PASSWORD)
    set_user(store, password_hash=old)
    with pytest.raises(Denied):
        log_in(store, password="a wrong one")
    assert the_user(store).password_hash == old
    log_in(store)
    new = the_user(store).password_hash
    assert new != old
    log_in(store)
    assert the_user(store).password_hash == new


def test_log_out(store: Store) -> None:
    confirmed(store)
    one, other = log_in(store), log_in(store)
    assert accounts.logout(store, one) == "Ada@example.org"
    assert sessions.actor(store, one) == ANONYMOUS
    assert sessions.actor(store, other) != ANONYMOUS
    assert [accounts.logout(store, token) for token in (one, None, "nobody's")] == [None] * 3


def test_who_am_i(store: Store) -> None:
    register(store, name="Ada")
    accounts.verify(store, email=ADA, code=newest_code(store))
    here = accounts.whoami(store, log_in(store))
    assert (here.email, here.name, here.role) == ("Ada@example.org", "Ada", Role.USER)
    assert here.session_ends_at is not None
    assert here.session_ends_at - datetime.now(UTC) <= sessions.IDLE
    for token in (None, "nobody's"):
        with pytest.raises(NotLoggedIn):
            accounts.whoami(store, token)


# Another password


def test_a_change_ends_all_sessions_but_a_new_one(store: Store) -> None:
    confirmed(store)
    old = [log_in(store) for _ in range(3)]
    new: list[str] = []
    accounts.change_password(store, sessions.actor(store, old[0]), current=PASSWORD, new=NEW, keep=new.append)
    assert [sessions.actor(store, token) for token in old] == [ANONYMOUS] * 3
    assert sessions.actor(store, new[0]) != ANONYMOUS
    with pytest.raises(Denied):
        log_in(store)
    log_in(store, password=NEW)


@pytest.mark.usefixtures("long_delays")
def test_a_change_needs_the_password_and_waits_like_a_login(store: Store) -> None:
    confirmed(store)
    ada = sessions.actor(store, log_in(store))

    def change(current: str, new: str = NEW) -> None:
        accounts.change_password(store, ada, current=current, new=new, keep=print)

    with pytest.raises(InvalidValue):
        change(PASSWORD, "short")
    assert [refusal(lambda: change("a wrong one"))[2] for _ in range(4)] == [
        *["the current password is wrong"] * 3,
        "too many wrong passwords; try again in 3600 s",
    ]
    with pytest.raises(NotLoggedIn):
        accounts.change_password(store, ANONYMOUS, current=PASSWORD, new=NEW, keep=print)
    an_hour_passes(store)
    log_in(store)


def test_a_reset_ends_all_sessions_delays_and_codes(store: Store) -> None:
    confirmed(store)
    old, new = log_in(store), list[str]()
    with store.write() as db:
        for _ in range(10):
            login_throttle.count(db, "ada@example.org", datetime.now(UTC))
    accounts.send_code(store, OUTBOX, CodePurpose.RESET, ADA)
    code = newest_code(store)
    accounts.reset_password(store, email=ADA, code=code, new=NEW, keep=new.append)
    assert sessions.actor(store, old) == ANONYMOUS
    assert sessions.actor(store, new[0]) != ANONYMOUS
    log_in(store, password=NEW)
    with pytest.raises(Denied):
        accounts.reset_password(store, email=ADA, code=code, new=PASSWORD, keep=print)


def test_a_change_makes_a_code_for_a_reset_worthless(store: Store) -> None:
    confirmed(store)
    accounts.send_code(store, OUTBOX, CodePurpose.RESET, ADA)
    ada = sessions.actor(store, log_in(store))
    accounts.change_password(store, ada, current=PASSWORD, new=NEW, keep=print)
    with pytest.raises(Denied):
        accounts.reset_password(store, email=ADA, code=newest_code(store), new=PASSWORD, keep=print)


def test_a_reset_confirms_the_mailbox_and_shuts_out_who_registered_it(store: Store) -> None:
    register(store, password="somebody else's")
    accounts.send_code(store, OUTBOX, CodePurpose.RESET, ADA)
    accounts.reset_password(store, email=ADA, code=newest_code(store), new=NEW, keep=print)
    with pytest.raises(Denied):
        log_in(store, password="somebody else's")
    log_in(store, password=NEW)


# The audit trail


def test_what_an_overseer_wants_to_know(store: Store) -> None:
    confirmed(store)
    register(store)
    with pytest.raises(Denied):
        log_in(store, EVE)
    with pytest.raises(Denied):
        log_in(store, password="a wrong one")
    token = log_in(store)
    accounts.change_password(store, sessions.actor(store, token), current=PASSWORD, new=NEW, keep=print)
    accounts.send_code(store, OUTBOX, CodePurpose.RESET, ADA)
    accounts.reset_password(store, email=ADA, code=newest_code(store), new=PASSWORD, keep=print)
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
        (None, "reset letter", 1),
        (1, "password reset", 1),
        (1, "login", 1),
        (1, "login", 1),
        (1, "logout", 1),
        (None, "verify failed", None),
    ]


def test_no_secret_lies_in_the_store(store: Store, tmp_path: Path) -> None:
    confirmed(store)
    accounts.send_code(store, OUTBOX, CodePurpose.RESET, ADA)
    secrets = [PASSWORD, log_in(store), *(code_in(letter) for letter in came(store))]
    held = b"".join(path.read_bytes() for path in store.path.parent.iterdir() if path.is_file())
    assert not [secret for secret in secrets if secret.encode() in held]

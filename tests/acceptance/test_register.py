"""A new user, from registration to the first mailing: on a terminal and in scripts."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.argon import fast_argon2  # noqa: F401
from support.command import CommandResult, Home
from support.inbox import code_in, read_outbox
from support.stores import store_environ

from skychimp.store.database import Store

ADA, EVE = "ada@example.org", "eve@example.org"
pytestmark = pytest.mark.usefixtures("fast_argon2")

PASSWORD, NEW = "correct horse battery", "staple, staple"


@pytest.fixture
def home(store: Store, tmp_path: Path) -> Home:
    """Return the command line of a person without an account."""
    folder = tmp_path / "home"
    folder.mkdir()
    sender = "News <news@skychimp.test>"
    return Home(folder, **store_environ(store), SKYCHIMP_MAIL__SENDER=sender, SKYCHIMP_MAIL__TIMEZONE="UTC")


@pytest.fixture
def outbox(store: Store) -> Path:
    return store.path.with_name("outbox")


def newest_code(outbox: Path) -> str:
    return code_in(read_outbox(outbox)[-1])


def register(home: Home, email: str = ADA, *options: str) -> CommandResult:
    return home.call("register", "--email", email, "--password-stdin", *options, stdin=f"{PASSWORD}\n")


@pytest.fixture
def account(home: Home, outbox: Path) -> Home:
    """Return the command line of Ada, who has an account and is not logged in."""
    assert register(home).status == 0
    assert home.call("verify", "--email", ADA, newest_code(outbox)).status == 0
    return home


def log_in(home: Home, password: str = PASSWORD, *options: str) -> CommandResult:
    return home.call("login", "--email", ADA, "--password-stdin", *options, stdin=f"{password}\n")


# On a terminal


def hints(done: CommandResult) -> list[str]:
    return re.findall("^(?:next|then): (.*)$", done.out + done.err, re.MULTILINE)


def test_hints_lead_from_registration_to_the_first_mailing(home: Home, outbox: Path) -> None:
    done = home.on_terminal(
        "register",
        answers=[
            ("Email:", "nobody\n"),
            ("Email:", f"{ADA}\n"),
            ("Password:", "short\n"),
            ("Password:", f"{PASSWORD}\n"),
            ("Repeat password:", f"{PASSWORD}\n"),
            ("Code:", "\n"),  # what cannot be a code does not cost a try
            ("Code:", "22222-22222\n"),
            ("Code:", lambda: f"{newest_code(outbox).lower()}\n"),
        ],
    )
    assert done.status == 0
    assert PASSWORD not in done.out
    assert f"{outbox}/new" in done.out  # without a mail server, this is where the email is
    assert "you are logged in" in done.out
    for hint in hints(done):
        assert home.call(*hint.replace("CLIENT@EXAMPLE.ORG", EVE).split()[1:], width=80).status == 0
    now = ("--message", "1", "--start", "now", "--every", "day", "--all-clients")
    created = home.call("mailings", "create", *now, width=80)
    assert "1 written to the outbox" in created.out + created.err
    assert read_outbox(outbox)[-1]["To"] == f"NAME <{EVE}>"


def test_interrupted_registration_continues_with_verify_and_login(home: Home, outbox: Path) -> None:
    answers = [("Password:", f"{PASSWORD}\n"), ("Repeat password:", f"{PASSWORD}\n"), ("Code:", "\x03")]
    assert home.on_terminal("register", "--email", ADA, answers=answers).status == 130
    done = home.on_terminal(
        *("verify", "--email", ADA),
        answers=[
            ("Code:", lambda: f"{newest_code(outbox)}\n"),
            ("Password:", "a wrong password\n"),
            ("Code:", lambda: f"{newest_code(outbox)}\n"),
            ("Password:", f"{PASSWORD}\n"),
        ],
    )
    assert done.status == 0
    assert hints(done) == [f"skychimp login --email {ADA}"]
    done = home.on_terminal("login", answers=[("Email:", f"{ADA}\n"), ("Password:", f"{PASSWORD}\n")])
    assert done.status == 0
    assert home.call("whoami", "--json").json["email"] == ADA


def test_reset_and_change_password_on_a_terminal(account: Home, outbox: Path) -> None:
    done = account.on_terminal(
        *("password", "reset", "--email", ADA),
        answers=[
            ("New password:", f"{NEW}\n"),
            ("Repeat password:", f"{NEW}\n"),
            ("Code:", lambda: f"{newest_code(outbox)}\n"),
        ],
    )
    assert done.status == 0
    done = account.on_terminal(
        *("password", "change"),
        answers=[
            ("Current password:", f"{NEW}\n"),
            ("New password:", f"{PASSWORD}\n"),
            ("Repeat password:", "something else\n"),
            ("New password:", f"{PASSWORD}\n"),
            ("Repeat password:", f"{PASSWORD}\n"),
        ],
    )
    assert done.status == 0
    assert account.call("whoami").status == 0
    assert log_in(account, NEW).status == 5
    assert log_in(account).status == 0


def test_no_input_asks_nothing(account: Home) -> None:
    for command in ("register", "login", "verify", "password reset"):
        done = account.call("--no-input", *command.split(), width=80)
        assert done.status == 2
        assert "missing option --email" in done.err
    assert "missing option --email" in account.on_terminal("--no-input", "login").out


# In scripts


def test_script_registers_verifies_and_logs_in(home: Home, outbox: Path) -> None:
    done = register(home, ADA, "--name", "Ada Lovelace", "--json")
    assert (done.status, done.json) == (0, {"email": ADA, "name": "Ada Lovelace", "verified": False})
    assert hints(done) == [f"skychimp verify --email {ADA} CODE"]
    assert log_in(home).status == 5
    done = home.call("verify", "--email", ADA, newest_code(outbox), "--json")
    assert (done.status, done.json) == (0, {"email": ADA, "verified": True})
    account = {"id": 1, "email": ADA, "name": "Ada Lovelace", "role": "user"}
    assert log_in(home, PASSWORD, "--json").json == account
    done = home.call("whoami", "--json")
    assert done.json.items() >= account.items()
    assert home.call("logout", "--json").json == {"email": ADA}
    done = home.call("whoami", "--json")
    assert (done.status, done.error["code"]) == (5, "not_logged_in")
    assert home.call("logout", "--json").json == {"email": None}


def verify_in_script(home: Home, code: str, password: str | None, email: str = ADA) -> CommandResult:
    environ = {} if password is None else {"SKYCHIMP_PASSWORD": password}
    return home.call("verify", "--email", email, code, environ=environ)


@pytest.mark.parametrize("password", [PASSWORD, None])
def test_script_verifies_with_and_without_the_password(home: Home, outbox: Path, password: str | None) -> None:
    assert register(home).status == 0
    assert verify_in_script(home, newest_code(outbox), password).status == 0
    assert log_in(home).status == 0


def test_script_passes_code_and_password_on_stdin(home: Home, outbox: Path) -> None:
    assert register(home).status == 0
    stdin = f"{newest_code(outbox)}\n{PASSWORD}\n"
    assert home.call("verify", "--email", ADA, "-", "--password-stdin", stdin=stdin).status == 0


def test_stranger_who_registers_an_address_too_does_not_get_the_account(home: Home, outbox: Path) -> None:
    """Whoever has the mailbox and the password of the newest registration gets the account, in any order."""
    stranger = {"SKYCHIMP_PASSWORD": NEW}
    assert home.call("register", "--email", ADA, environ=stranger).status == 0
    assert register(home).status == 0
    assert home.call("register", "--email", ADA, environ=stranger).status == 0
    code = newest_code(outbox)
    done = verify_in_script(home, code, PASSWORD)
    assert (done.status, done.out) == (5, "")
    assert done.err.startswith(f"error: this is not the password of the newest registration of {ADA}\nhint: run ")
    done = verify_in_script(home, code, None)
    assert (done.status, done.out) == (2, "")
    assert "hint: use --password-stdin or set SKYCHIMP_PASSWORD" in done.err
    assert [log_in(home, password).status for password in (PASSWORD, NEW)] == [5, 5]
    assert home.call("password", "reset", "--email", ADA).status == 0
    reset = ("password", "reset", "--email", ADA, newest_code(outbox))
    assert home.call(*reset, environ={"SKYCHIMP_PASSWORD": PASSWORD}).status == 0
    assert [log_in(home, password).status for password in (PASSWORD, NEW)] == [0, 5]


def test_owner_is_told_of_a_changed_password(account: Home, outbox: Path) -> None:
    assert log_in(account).status == 0
    account.call("password", "change", "--password-stdin", stdin=f"{PASSWORD}\n{NEW}\n")
    account.call("password", "reset", "--email", ADA)
    account.call("password", "reset", "--email", ADA, newest_code(outbox), environ={"SKYCHIMP_PASSWORD": PASSWORD})
    changed, _, reset = read_outbox(outbox)[-3:]
    for email in (changed, reset):
        assert (email["To"], email["Subject"]) == (ADA, "Your Skychimp password was changed")
        assert f"skychimp password reset --email {ADA}" in email.as_string()
    assert "code" not in changed.as_string()


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({"SKYCHIMP_MAIL__SENDER": ""}, "mail.sender is not set"),
        ({"SKYCHIMP_MAIL__TRANSPORT": "smtp", "SKYCHIMP_SMTP__HOST": "127.0.0.1", "SKYCHIMP_SMTP__PORT": "1"}, ""),
    ],
)
def test_password_is_changed_even_if_the_owner_cannot_be_told(
    account: Home, environ: dict[str, str], reason: str
) -> None:
    assert log_in(account).status == 0
    stdin = f"{PASSWORD}\n{NEW}\n"
    done = account.call("password", "change", "--password-stdin", "--json", stdin=stdin, environ=environ)
    assert (done.status, done.json["email"]) == (0, ADA)
    assert f"no email about this change was sent to {ADA}: {reason}" in done.err
    assert log_in(account, NEW).status == 0


def test_installed_command_includes_the_email_templates(home: Home, outbox: Path) -> None:
    done = home.run("register", "--email", ADA, environ={"SKYCHIMP_PASSWORD": PASSWORD})
    assert done.status == 0
    done = home.run("verify", "--email", ADA, "-", stdin=newest_code(outbox).encode())
    assert done.status == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["register"], "missing option --email"),
        (["register", "--email", ADA], "missing password"),
        (["register", "--email", ADA, "--password-stdin"], "the password must have 12 to 1000 characters"),
        (["register", "--email", ADA, "--name", "a\nb", "--password-stdin"], "the password must have"),
        (["login", "--email", ADA], "missing password"),
        (["verify", "--email", ADA], "missing argument CODE"),
        (["verify", "--email", ADA, "--resend", "22222-22222"], "CODE and --resend cannot be used together"),
        (["password", "reset", "--email", ADA, "22222-22222"], "missing password"),
        (["register", "--email", "nobody", "--password-stdin"], 'invalid email address "nobody"'),
    ],
)
def test_missing_or_invalid_value(home: Home, arguments: list[str], error: str) -> None:
    done = home.call(*arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"error: {error}")


@pytest.mark.parametrize(
    ("stdin", "environ"),
    [(f"{PASSWORD}\n{NEW}\n", {}), (f"{NEW}\n", {"SKYCHIMP_PASSWORD": PASSWORD})],
    ids=["both from stdin", "current from environment"],
)
def test_script_changes_a_password(account: Home, stdin: str, environ: dict[str, str]) -> None:
    assert log_in(account).status == 0
    done = account.call("password", "change", "--password-stdin", "--json", stdin=stdin, environ=environ)
    assert (done.status, done.json["email"]) == (0, ADA)
    assert account.call("whoami").status == 0
    assert [log_in(account, password).status for password in (PASSWORD, NEW)] == [5, 0]


def test_script_resets_a_password(account: Home, outbox: Path) -> None:
    reset = ("password", "reset", "--email", ADA)
    done = account.call(*reset, "--json")
    assert (done.status, done.json) == (0, {"email": ADA})
    assert hints(done) == [f"skychimp password reset --email {ADA} CODE"]
    done = account.call(*reset, "-", "--password-stdin", stdin=f"{newest_code(outbox)}\n{NEW}\n")
    assert done.status == 0
    assert account.call("whoami").status == 0
    assert log_in(account, NEW).status == 0


def test_token_for_scripts(account: Home) -> None:
    done = log_in(account, PASSWORD, "--print-token")
    assert (done.status, done.err) == (0, "")
    token = done.out.removesuffix("\n")
    assert account.call("whoami").status == 5  # the session is not saved here
    as_token = {"SKYCHIMP_TOKEN": token}
    assert account.call("clients", "create", "--email", EVE, environ=as_token).status == 0
    assert log_in(account, PASSWORD, "--print-token", "--json").json["token"] != token
    done = account.call("login", "--email", ADA, environ=as_token | {"SKYCHIMP_PASSWORD": PASSWORD})
    assert "$SKYCHIMP_TOKEN is set and is used instead of this session" in done.err
    assert account.call("logout", environ=as_token).status == 0
    assert account.call("whoami", environ=as_token).status == 5
    assert account.call("whoami").status == 0


@pytest.mark.slow  # test_people_at_work.py has the same with sessions that exist before
def test_two_users_at_once_see_only_their_own_clients(account: Home, outbox: Path) -> None:
    assert register(account, EVE).status == 0
    assert account.call("verify", "--email", EVE, newest_code(outbox)).status == 0

    def create_clients(email: str) -> list[str]:
        done = account.run("login", "--email", email, "--print-token", environ={"SKYCHIMP_PASSWORD": PASSWORD})
        as_one = {"SKYCHIMP_TOKEN": done.out.strip()}
        done = account.run("clients", "create", "--email", f"1-of-{email}", environ=as_one)
        assert done.status == 0, done.err
        return [client["email"] for client in account.run("clients", "list", "--json", environ=as_one).json]

    with ThreadPoolExecutor() as both:
        for email, listed in zip((ADA, EVE), both.map(create_clients, (ADA, EVE)), strict=True):
            assert listed == [f"1-of-{email}"]


# What is missing


def test_without_a_sender_nothing_is_asked_or_done(home: Home, outbox: Path) -> None:
    environ = {"SKYCHIMP_MAIL__SENDER": ""}
    for command in (["register"], ["verify", "--resend"], ["password", "reset"]):
        done = home.call(*command, "--email", ADA, environ=environ, width=80)
        assert done.status == 3
        assert "hint: set mail.sender = " in done.err
    assert not outbox.exists()
    assert log_in(home).status == 5


def test_unreachable_mail_server(home: Home, outbox: Path) -> None:
    unreachable = {
        "SKYCHIMP_MAIL__TRANSPORT": "smtp",
        "SKYCHIMP_SMTP__HOST": "127.0.0.1",
        "SKYCHIMP_SMTP__PORT": "1",
        "SKYCHIMP_SMTP__SECURITY": "none",
    }
    done = home.call("register", "--email", ADA, environ=unreachable | {"SKYCHIMP_PASSWORD": PASSWORD})
    assert (done.status, done.out) == (75, "")
    assert done.err.startswith("error: the account was created, but no code was sent: ")
    assert done.err.endswith(f'hint: run "skychimp verify --email {ADA} --resend" to try again\n')
    resend = ("verify", "--email", ADA, "--resend")
    assert home.call(*resend, environ=unreachable).status == 75
    assert home.call(*resend).status == 0
    assert home.call("verify", "--email", ADA, newest_code(outbox)).status == 0
    for email in (ADA, EVE):  # and the same for every address
        assert home.call("password", "reset", "--email", email, environ=unreachable).status == 75


def test_wrong_file_in_the_settings(home: Home) -> None:
    wrong = {
        "SKYCHIMP_MAIL__TRANSPORT": "smtp",
        "SKYCHIMP_SMTP__SECURITY": "tls",
        "SKYCHIMP_SMTP__CA_FILE": str(home.folder / "missing.pem"),
    }
    done = home.call("register", "--email", ADA, environ=wrong | {"SKYCHIMP_PASSWORD": PASSWORD})
    assert (done.status, done.out) == (75, "")
    assert done.err.startswith("error: the account was created, but no code was sent: cannot read ")
    for _ in range(4):  # what was not sent does not count towards the limit
        assert home.call("password", "reset", "--email", ADA, environ=wrong).status == 75


# What is revealed


def test_same_answers_with_and_without_an_account(account: Home) -> None:
    def answers(email: str) -> list[tuple[int, str, str]]:
        results = [
            register(account, email),
            register(account, email, "--json"),
            account.call("verify", "--email", email, "22222-22222"),
            account.call("verify", "--email", email, "--resend"),
            account.call("password", "reset", "--email", email),
            account.call("login", "--email", email, environ={"SKYCHIMP_PASSWORD": "a wrong one"}),
        ]
        return [(done.status, done.out.replace(email, "E"), done.err.replace(email, "E")) for done in results]

    assert answers(ADA) == answers(EVE)


# The session


def test_session_file_readable_by_others_is_refused_until_logout(account: Home) -> None:
    assert log_in(account).status == 0
    (path,) = (account.folder / ".local/state/skychimp/sessions").iterdir()
    path.chmod(0o644)
    done = account.call("clients", "list")
    assert (done.status, done.out) == (5, "")
    assert "is accessible to others" in done.err
    done = account.call("logout")
    assert done.status == 0
    assert "until you change your password" in done.err
    assert not path.exists()
    path.parent.chmod(0o755)
    done = account.call("logout")
    assert (done.status, done.err.count("is not safe")) == (5, 1)
    done = log_in(account)
    assert done.status == 3
    assert str(path.parent) in done.err
    path.parent.chmod(0o700)
    assert log_in(account).status == 0

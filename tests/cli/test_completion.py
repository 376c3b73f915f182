"""Completion from the store: what is offered, to whom, and that nothing of it runs in a shell."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from conftest import enrol
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update
from support import ledger_rows
from support.command import PROGRAM, Home

from skychimp.cli import completion
from skychimp.models import DeliveryState, Login, Post, Role, User
from skychimp.permissions import Actor
from skychimp.services.clients import clients, importing
from skychimp.services.clients.importing import ClientRow
from skychimp.store.database import Store


def offered(home: Home, words: str, shell: str = "bash", **environ: str) -> list[str]:
    """What a shell is told for these words, of which the last is being typed; bash breaks them at each `@` and `=`."""
    broken = re.sub("([@=])", r" \1 ", words).replace("  ", " ") if shell == "bash" else words
    broken = broken.rstrip() + " " * words.endswith(" ")
    asked = {
        "_SKYCHIMP_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": broken.replace(" ", "\n"),
        "COMP_CWORD": str(broken.count(" ")),
        "_TYPER_COMPLETE_ARGS": words,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = home.call(environ=asked | environ)
    assert (done.status, done.err) == (0, "")
    return done.out.strip().splitlines()


@pytest.fixture
def full(store: Store, home: Home, ada: Actor, bob: Actor) -> Home:
    """Ada's command line, with something of each kind that is hers, and something that is Bob's."""
    for owner in (ada, bob):
        name = owner.email.partition("@")[0]
        rows = [ClientRow(1, f"{name}{number}@example.org", name, "", (f"{name}s", "all")) for number in range(12)]
        importing.import_rows(store, owner, rows, on_bad=print)
        mailing = ledger_rows.mailing(store, owner)
        ledger_rows.delivery(store, ledger_rows.occurrence(store, mailing), "x@example.org", DeliveryState.UNKNOWN)
    return home


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("skychimp clients show ada1", {"ada1@example.org", "ada10@example.org", "ada11@example.org"}),
        ("skychimp clients show ADA10", set()),  # a shell takes only what begins as it was typed
        ("skychimp clients show ada10@", {"@example.org"}),
        ("skychimp clients show ada10@exa", {"@example.org"}),
        ("skychimp messages preview 1 --client=ada10@e", {"@example.org"}),
        ("skychimp messages preview 1 --client=ada10", {"ada10@example.org"}),
        ("skychimp clients show bob", set()),
        ("skychimp clients show 1", {"1", "10", "11", "12"}),
        ("skychimp clients show 01", set()),
        ("skychimp messages preview 1 --client ada10", {"ada10@example.org"}),
        ("skychimp messages preview 1 --client ada10@example.org --js", {"--json"}),
        ("skychimp messages show ", {"1"}),
        ("skychimp mailings create --message ", {"1"}),
        ("skychimp mailings create --client 1", {"1", "10", "11", "12"}),
        ("skychimp mailings create --client ada", set()),
        ("skychimp mailings create --tag a", {"all", "adas"}),
        ("skychimp mailings log ", {"1"}),
        ("skychimp run --mailing ", {"1"}),
        ("skychimp resolve --sent ", {"1"}),
        ("skychimp --store gone.db clients show ada1", set()),
        ("skychimp --config gone.toml clients show ada10", {"ada10@example.org"}),
    ],
)
def test_what_is_offered(full: Home, words: str, found: set[str]) -> None:
    assert set(offered(full, words)) == found


def test_other_shells_are_told_a_few_words_more(full: Home) -> None:
    assert offered(full, "skychimp messages show ", "fish") == ["1\tHello"]
    assert offered(full, "skychimp messages show ", "zsh") == ["""_arguments '*: :(("1":"Hello"))'"""]


@pytest.mark.parametrize(
    ("role", "kind", "seen"),
    [
        (role, kind, seen)
        for kind, *found in (
            ("client", 0, 0, 0, 0),
            ("tag", 0, 0, 0, 0),
            ("message", 0, 2, 0, 2),
            ("mailing", 0, 2, 0, 2),
            ("deliveries", 0, 0, 0, 2),
            ("user", 0, 2, 0, 3),
            ("post", 1, 1, 2, 2),
        )
        for role, seen in zip((Role.USER, Role.MANAGER, Role.EDITOR, Role.ADMIN), found, strict=True)
    ],
)
def test_somebody_elses_is_offered_only_to_who_may_see_it(
    store: Store, full: Home, home_of: Callable[[Actor], Home], role: Role, kind: str, seen: int
) -> None:
    now = datetime.now(UTC)
    with store.write() as db:
        for slug, published in (("news", now - timedelta(days=1)), ("draft", None)):
            post = Post(author_id=1, slug=slug, title=slug, content="", created_at=now, updated_at=now)
            post.published_at = published
            db.add(post)
    home = home_of(enrol(store, "eve", role))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in home.environ.items():
            patch.setenv(name, value)
        found = completion._find({}, completion.KINDS[kind], "", by_word=kind == "tag")
    assert len(found) == seen


@pytest.mark.parametrize("change", ["blocked", "unverified", "expired", "nobody"])
def test_who_is_not_logged_in_is_offered_nothing(store: Store, full: Home, change: str) -> None:
    now = datetime.now(UTC)
    with store.write() as db:
        if change == "blocked":
            db.execute(update(User).values(blocked_at=now))
        elif change == "unverified":
            db.execute(update(User).values(verified_at=None))
        elif change == "expired":
            db.execute(update(Login).values(expires_at=now))
    token = {"SKYCHIMP_TOKEN": "nobody's"} if change == "nobody" else {}
    for words in ("skychimp clients show ", "skychimp mailings show ", "skychimp clients list --tag "):
        assert offered(full, words, **token) == []


@pytest.mark.parametrize("content", [b"", b"not a store", b"SQLite format 3\0" + b"x" * 5000])
def test_a_store_that_can_not_be_read_offers_nothing(full: Home, content: bytes) -> None:
    (full.folder / "broken.db").write_bytes(content)
    assert offered(full, "skychimp clients show ", SKYCHIMP_STORE="broken.db") == []


def test_the_sessions_file_is_enough(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = Home(tmp_path_factory.mktemp("home"))
    assert home.call("init", "--email", "you@example.org").status == 0
    assert home.call("clients", "create", "--email", "ada@example.org").status == 0
    assert offered(home, "skychimp clients show ad") == ["ada@example.org"]


@given(st.text())
def test_nothing_that_came_from_outside_runs_in_a_shell(text: str) -> None:
    safe = set("@.+-_% ,")
    assert all(each.isalnum() or each in safe for each in completion._plain(text))
    if completion._is_safe(text) and text:
        assert all(each.isalnum() or each in safe - {" ", ","} for each in text)
        assert text[0] not in "-+"


def test_an_address_that_a_shell_would_run_is_not_offered(store: Store, home: Home, ada: Actor) -> None:
    for email in ("a`id`@example.org", "a$HOME@example.org", "a|id@example.org", "abc@example.org"):
        clients.create(store, ada, email=email, name="\\$(id) `id` '\"; id")
    assert offered(home, "skychimp clients show a") == ["abc@example.org"]
    (told,) = offered(home, "skychimp clients show a", "zsh")
    assert told == """_arguments '*: :(("abc@example.org":"id id id"))'"""


@given(st.integers(1, 10**18 - 1), st.integers(1, 18))
def test_ids_are_found_by_their_first_digits(number: int, digits: int) -> None:
    typed = str(number)[:digits]
    assert any(low <= number <= high for low, high in completion._beginning_with(typed))
    assert not any(low <= number <= high for low, high in completion._beginning_with(str(int(typed) + 1)))


def test_bash_itself(full: Home) -> None:
    """An interactive one, with a person who types and presses Tab."""
    here, there = pty.openpty()
    start = f"PATH={PROGRAM.parent}:$PATH; PS1='> '; source <(skychimp --show-completion)"
    (full.folder / "rc").write_text(f"{start}\necho ready\n")
    shell = subprocess.Popen(
        ["bash", "--rcfile", "rc", "-i"], cwd=full.folder, env=full.environ | {"TERM": "dumb"},
        stdin=there, stdout=there, stderr=there, start_new_session=True,
    )  # fmt: skip
    os.close(there)
    shown = ""
    with shell:
        for wait_for, typed in (
            ("ready", "skychimp clients show ada10\t"),
            ("ada10@example.org", "\x15skychimp clients show ada11@e\t"),
            ("ada11@example.org", "\x15exit\n"),
        ):
            while wait_for not in shown:
                shown += os.read(here, 4096).decode()
            os.write(here, typed.encode())
        with suppress(OSError):  # Linux: the other side is closed
            while os.read(here, 4096):
                pass
    os.close(here)


def test_it_imports_nothing_that_takes_long(full: Home) -> None:
    program = """
import atexit, sys
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
from skychimp.cli.main import main
sys.argv[1:] = []
main()
"""
    asked = {
        "_SKYCHIMP_COMPLETE": "complete_bash",
        "COMP_WORDS": "skychimp\nclients\nshow\nada10",
        "COMP_CWORD": "3",
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=full.environ | asked,
        cwd=full.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "ada10@example.org\n"
    assert set(done.stderr.split()) & {"sqlalchemy", "sqlmodel", "alembic", "jinja2", "rich.console"} == set()

"""Test completion from the store: what is suggested, to whom, and that no suggestion runs in a shell."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from conftest import create_user
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update
from sqlmodel import col
from support import ledger_rows
from support.command import PROGRAM, Home

from skychimp.cli import completion
from skychimp.models import DeliveryState, Login, Mailing, Post, Role, User
from skychimp.permissions import Actor
from skychimp.services.accounts import session_rule
from skychimp.services.clients import clients, importing, segments, suppressions
from skychimp.services.clients.importing import ImportedRow
from skychimp.services.messages import layouts
from skychimp.store.database import Store

BY_NAME = ("tag", "field", "suppression")
"""Kinds that have no ids."""


def complete(home: Home, words: str, shell: str = "bash", **environ: str) -> list[str]:
    """Return the lines that a shell gets for a command line whose last word is being typed.

    Bash breaks words at each `@` and `=`.
    """
    line = re.sub("([@=])", r" \1 ", words).replace("  ", " ") if shell == "bash" else words
    line = line.rstrip() + " " * words.endswith(" ")
    variables = {
        "_SKYCHIMP_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line.replace(" ", "\n"),
        "COMP_CWORD": str(line.count(" ")),
        "_TYPER_COMPLETE_ARGS": words,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = home.call(environ=variables | environ)
    assert (done.status, done.err) == (0, "")
    return done.out.strip().splitlines()


@pytest.fixture
def filled_home(store: Store, home: Home, ada: Actor, bob: Actor) -> Home:
    """Return Ada's command line and a store where Ada and Bob each own objects of every kind."""
    for owner in (ada, bob):
        name = owner.email.partition("@")[0]
        rows = [ImportedRow(1, f"{name}{number}@example.org", name, "", (f"{name}s", "all")) for number in range(12)]
        importing.import_rows(store, owner, rows, on_rejected=print)
        suppressions.add(store, owner, [suppressions.new_suppression(f"{name}@example.net")])
        mailing = ledger_rows.mailing(store, owner)
        ledger_rows.delivery(store, ledger_rows.occurrence(store, mailing), "x@example.org", DeliveryState.UNKNOWN)
        segments.create(store, owner, f"{name}-segment", "name IS NULL", "UTC")
        layouts.create(store, owner, f"{name}-layout", "{{ content }}")
        with store.write() as db:
            db.execute(update(Mailing).where(col(Mailing.id) == mailing).values(name=f"{name}-news"))
    return home


@pytest.mark.parametrize(
    ("line", "suggested"),
    [
        ("skychimp clients show ada1", {"ada1@example.org", "ada10@example.org", "ada11@example.org"}),
        ("skychimp clients show ADA10", set()),  # a shell accepts only what begins as it was typed
        ("skychimp clients show ada10@", {"@example.org"}),
        ("skychimp clients show ada10@exa", {"@example.org"}),
        ("skychimp messages preview 1 --client=ada10@e", {"@example.org"}),
        ("skychimp messages preview 1 --client=ada10", {"ada10@example.org"}),
        ("skychimp clients show bob", set()),
        ("skychimp clients show 1", {"1", "10", "11", "12"}),
        ("skychimp clients show 01", set()),
        ("skychimp messages preview 1 --client ada10", {"ada10@example.org"}),
        ("skychimp messages preview 1 --client ada10@example.org --js", {"--json"}),
        ("skychimp suppressions add bob1 ada1", {"ada1@example.org", "ada10@example.org", "ada11@example.org"}),
        ("skychimp suppressions remove ", {"ada@example.net"}),
        ("skychimp suppressions show ada@", {"@example.net"}),
        ("skychimp messages show ", {"1"}),
        ("skychimp mailings create --message ", {"1"}),
        ("skychimp mailings create --client 1", {"1", "10", "11", "12"}),
        ("skychimp mailings create --client ada10", {"ada10@example.org"}),
        ("skychimp mailings create --tag a", {"all", "adas"}),
        ("skychimp mailings create --tag A", set()),
        ("skychimp clients update 1 --add-tag ad", {"adas"}),
        ("skychimp clients update 1 --remove-tag ad", {"adas"}),
        ("skychimp mailings log ", {"1", "ada-news"}),
        ("skychimp mailings log a", {"ada-news"}),
        ("skychimp mailings log b", set()),
        ("skychimp run --mailing ", {"1", "ada-news"}),
        ("skychimp mailings create --segment ", {"ada-segment"}),
        ("skychimp mailings create --except-segment a", {"ada-segment"}),
        ("skychimp mailings create --except-tag a", {"all", "adas"}),
        ("skychimp segments show 1", {"1"}),
        ("skychimp messages create --layout a", {"ada-layout"}),
        ("skychimp layouts show 1", {"1"}),
        ("skychimp resolve --sent ", {"1"}),
        ("skychimp --store gone.db clients show ada1", set()),
        ("skychimp --config gone.toml clients show ada10", {"ada10@example.org"}),
    ],
)
def test_suggestions(filled_home: Home, line: str, suggested: set[str]) -> None:
    assert set(complete(filled_home, line)) == suggested


def test_fish_and_zsh_also_get_descriptions(filled_home: Home) -> None:
    assert complete(filled_home, "skychimp messages show ", "fish") == ["1\tHello"]
    assert complete(filled_home, "skychimp messages show ", "zsh") == ["""_arguments '*: :(("1":"Hello"))'"""]


@pytest.mark.parametrize(
    ("role", "kind", "count"),
    [
        (role, kind, count)
        for kind, *counts in (
            ("client", 0, 0, 0, 0),
            ("tag", 0, 0, 0, 0),
            ("suppression", 0, 0, 0, 0),
            ("message", 0, 2, 0, 2),
            ("mailing", 0, 2, 0, 2),
            ("deliveries", 0, 0, 0, 2),
            ("user", 0, 2, 0, 3),
            ("post", 1, 1, 2, 2),
        )
        for role, count in zip((Role.USER, Role.MANAGER, Role.EDITOR, Role.ADMIN), counts, strict=True)
    ],
)
def test_number_of_suggestions_by_role(
    store: Store, filled_home: Home, home_of: Callable[[Actor], Home], role: Role, kind: str, count: int
) -> None:
    now = datetime.now(UTC)
    with store.write() as db:
        for slug, published in (("news", now - timedelta(days=1)), ("draft", None)):
            post = Post(author_id=1, slug=slug, title=slug, content="", created_at=now, updated_at=now)
            post.published_at = published
            db.add(post)
    home = home_of(create_user(store, "eve", role))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in home.environ.items():
            patch.setenv(name, value)
        suggestions = completion.find_suggestions({}, completion.KINDS[kind], "", by_name=kind in BY_NAME)
    assert len(suggestions) == count


@pytest.mark.parametrize("change", ["blocked", "unverified", "expired", "idle", "unknown"])
def test_nothing_is_suggested_without_a_valid_session(store: Store, filled_home: Home, change: str) -> None:
    now = datetime.now(UTC)
    with store.write() as db:
        if change == "blocked":
            db.execute(update(User).values(blocked_at=now))
        elif change == "unverified":
            db.execute(update(User).values(verified_at=None))
        elif change == "expired":
            db.execute(update(Login).values(expires_at=now))
        elif change == "idle":
            db.execute(update(Login).values(seen_at=now - session_rule.IDLE_LIMIT))
    token = {"SKYCHIMP_TOKEN": "unknown"} if change == "unknown" else {}
    for line in ("skychimp clients show ", "skychimp mailings show ", "skychimp clients list --tag "):
        assert complete(filled_home, line, **token) == []


@pytest.mark.parametrize("content", [b"", b"not a store", b"SQLite format 3\0" + b"x" * 5000])
def test_unreadable_store_suggests_nothing(filled_home: Home, content: bytes) -> None:
    (filled_home.folder / "broken.db").write_bytes(content)
    assert complete(filled_home, "skychimp clients show ", SKYCHIMP_STORE="broken.db") == []


def test_completion_uses_the_saved_session(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = Home(tmp_path_factory.mktemp("home"))
    assert home.call("init", "--email", "you@example.org").status == 0
    assert home.call("clients", "create", "--email", "ada@example.org").status == 0
    assert complete(home, "skychimp clients show ad") == ["ada@example.org"]


@given(st.text())
def test_no_stored_text_runs_in_a_shell(text: str) -> None:
    safe = set("@.+-_% ,")
    assert all(character.isalnum() or character in safe for character in completion._describe(text))
    if completion._is_safe(text) and text:
        assert all(character.isalnum() or character in safe - {" ", ","} for character in text)
        assert text[0] not in "-+"


def test_address_that_a_shell_would_run_is_not_suggested(store: Store, home: Home, ada: Actor) -> None:
    for email in ("a`id`@example.org", "a$HOME@example.org", "a|id@example.org", "abc@example.org"):
        clients.create(store, ada, email=email, name="\\$(id) `id` '\"; id")
    assert complete(home, "skychimp clients show a") == ["abc@example.org"]
    (line,) = complete(home, "skychimp clients show a", "zsh")
    assert line == """_arguments '*: :(("abc@example.org":"id id id"))'"""


@given(st.integers(1, 10**18 - 1), st.integers(1, 18))
def test_id_ranges_contain_the_ids_that_begin_with_the_digits(number: int, digits: int) -> None:
    typed = str(number)[:digits]
    assert any(first <= number <= last for first, last in completion._id_ranges(typed))
    assert not any(first <= number <= last for first, last in completion._id_ranges(str(int(typed) + 1)))


def test_completion_in_interactive_bash(filled_home: Home) -> None:
    """Type in an interactive shell and press Tab."""
    terminal, shell_side = pty.openpty()
    start = f"PATH={PROGRAM.parent}:$PATH; PS1='> '; source <(skychimp --show-completion)"
    (filled_home.folder / "rc").write_text(f"{start}\necho ready\n")
    shell = subprocess.Popen(
        ["bash", "--rcfile", "rc", "-i"], cwd=filled_home.folder, env=filled_home.environ | {"TERM": "dumb"},
        stdin=shell_side, stdout=shell_side, stderr=shell_side, start_new_session=True,
    )  # fmt: skip
    os.close(shell_side)
    output = ""
    with shell:
        for wait_for, typed in (
            ("ready", "skychimp clients show ada10\t"),
            ("ada10@example.org", "\x15skychimp clients show ada11@e\t"),
            ("ada11@example.org", "\x15exit\n"),
        ):
            while wait_for not in output:
                output += os.read(terminal, 4096).decode()
            os.write(terminal, typed.encode())
        with suppress(OSError):  # Linux reports a closed terminal as an error
            while os.read(terminal, 4096):
                pass
    os.close(terminal)


def test_completion_imports_nothing_slow(filled_home: Home) -> None:
    program = """
import atexit, sys
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
from skychimp.cli.main import main
sys.argv[1:] = []
main()
"""
    variables = {
        "_SKYCHIMP_COMPLETE": "complete_bash",
        "COMP_WORDS": "skychimp\nclients\nshow\nada10",
        "COMP_CWORD": "3",
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=filled_home.environ | variables,
        cwd=filled_home.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "ada10@example.org\n"
    assert set(done.stderr.split()) & {"sqlalchemy", "sqlmodel", "alembic", "jinja2", "rich.console"} == set()

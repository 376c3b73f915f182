"""`skychimp sessions`: see and end one's own login sessions."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from support.argon import fast_argon2  # noqa: F401
from support.command import Home
from support.stores import store_environ

from skychimp.permissions import Actor
from skychimp.services.accounts import accounts
from skychimp.store.database import Store

EMAIL, PASSWORD = "ada@example.org", "correct horse battery"
pytestmark = pytest.mark.usefixtures("fast_argon2")

FIELDS = {"id", "created_at", "last_used_at", "ends_at", "current"}


@pytest.fixture
def home(store: Store, tmp_path: Path) -> Home:
    """Return the command line of Ada, who is logged in with a saved session."""
    accounts.create_first_admin(store, email=EMAIL, password=PASSWORD, save_token=print)
    (tmp_path / "home").mkdir()
    home = Home(tmp_path / "home", **store_environ(store), SKYCHIMP_MAIL__TIMEZONE="UTC")
    assert home.call("login", "--email", EMAIL, environ={"SKYCHIMP_PASSWORD": PASSWORD}).status == 0
    return home


def new_token(home: Home) -> str:
    """Log in for a script and return the token."""
    done = home.call("login", "--email", EMAIL, "--print-token", environ={"SKYCHIMP_PASSWORD": PASSWORD})
    return done.out.strip()


def test_sessions_in_json_and_plain_lines(home: Home) -> None:
    listed = home.call("sessions", "list", "--json").json
    assert [session.keys() for session in listed] == [FIELDS] * 2
    assert [session["current"] for session in listed] == [False, True]
    assert all(datetime.fromisoformat(listed[0][name]).utcoffset() is not None for name in FIELDS - {"id", "current"})
    lines = home.call("sessions", "list").out.splitlines()
    assert [line.split("\t")[0] for line in lines] == [str(session["id"]) for session in listed]
    assert "This one" in home.call("sessions", "list", width=120).out


def test_ended_token_can_no_longer_be_used(home: Home) -> None:
    token = new_token(home)
    newest = str(home.call("sessions", "list", "--json").json[-1]["id"])
    done = home.call("sessions", "end", newest, "--json")
    assert (done.status, [session["id"] for session in done.json], done.err) == (0, [int(newest)], "")
    assert home.call("whoami", environ={"SKYCHIMP_TOKEN": token}).status == 5
    assert home.call("whoami").status == 0
    done = home.call("sessions", "end", newest, "--json")
    assert (done.status, done.error["message"]) == (4, f"session {newest} not found")


def test_end_of_all_sessions_deletes_the_saved_one(home: Home) -> None:
    token = new_token(home)
    done = home.call("sessions", "end", "--all")
    assert (done.status, len(done.out.splitlines()), done.err) == (0, 3, "you are logged out\n")
    assert not list((home.folder / ".local/state/skychimp/sessions").iterdir())
    for environ in ({}, {"SKYCHIMP_TOKEN": token}):
        assert home.call("sessions", "list", environ=environ).status == 5


def test_end_of_the_session_of_the_variable_keeps_the_saved_one(home: Home) -> None:
    token = {"SKYCHIMP_TOKEN": new_token(home)}
    current = next(one["id"] for one in home.call("sessions", "list", "--json", environ=token).json if one["current"])
    done = home.call("sessions", "end", str(current), environ=token)
    assert (done.status, done.err) == (0, "the session of $SKYCHIMP_TOKEN has ended too; unset the variable\n")
    assert home.call("whoami").status == 0


@pytest.mark.parametrize(
    ("arguments", "message"), [((), "no session selected"), (("1", "--all"), "ID and --all cannot be combined")]
)
def test_id_or_all(home: Home, arguments: tuple[str, ...], message: str) -> None:
    done = home.call("sessions", "end", *arguments)
    assert (done.status, done.err) == (2, f"error: {message}\nhint: use ID or --all\n")


def test_another_users_session_is_not_found(home: Home, home_of: Callable[[Actor], Home], bob: Actor) -> None:
    bobs = home_of(bob)
    (session,) = bobs.call("sessions", "list", "--json").json
    assert session["id"] not in [one["id"] for one in home.call("sessions", "list", "--json").json]
    assert home.call("sessions", "end", str(session["id"])).status == 4
    assert home.call("sessions", "end", "--all").status == 0
    assert bobs.call("whoami").status == 0

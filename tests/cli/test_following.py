"""Test --watch: screens that are drawn again and again."""

import re
from collections.abc import Callable
from itertools import pairwise
from unittest.mock import patch

import pytest
from rich.cells import cell_len
from support.command import CTRL_C, CommandResult, Home
from support.queue_steps import create_client

from skychimp.permissions import Actor
from skychimp.store.database import Store

CREATE = ("mailings", "create", "--message", "1", "--every", "once", "--all-clients", "--no-send", "--start")
ALTERNATE_SCREEN, NORMAL_SCREEN = "\x1b[?1049h", "\x1b[?1049l"


@pytest.fixture
def people(store: Store, ada: Actor, home: Home) -> Home:
    """Ada's command line, with message 1 and three clients."""
    for name in ("one", "two", "three"):
        create_client(store, ada, name)
    assert home.call("messages", "create", "--subject", "Привет 👋 שלום", "--body", "Hi").status == 0
    return home


def watched(home: Home, *arguments: str, width: int = 80, meanwhile: list[Callable[[], object]]) -> CommandResult:
    """Run a command that watches. Between its screens, do one thing after the other, then press Ctrl-C."""
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) > len(meanwhile):
            raise KeyboardInterrupt
        meanwhile[len(waits) - 1]()

    with patch("skychimp.cli.following.time.sleep", wait):
        return home.call(*arguments, width=width)


def screens(shown: str) -> list[str]:
    """Return the screens in a terminal's output, without colors and the cursor, and what is left after the last one."""
    text = (
        re.sub(r"\x1b\[([0-9;]*m|\?25[lh])", "", shown).partition(ALTERNATE_SCREEN)[2].replace(NORMAL_SCREEN, "\x1b[H")
    )
    drawn = [screen for screen in text.split("\x1b[H") if screen.strip()]
    return [screen for screen, following in pairwise([*drawn, ""]) if screen.rstrip() != following.rstrip()]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_status_is_drawn_again_until_ctrl_c(people: Home, width: int) -> None:
    def create() -> None:
        people.call(*CREATE, "2020-01-01 09:00")

    done = watched(people, "status", "--watch", "--interval", "5s", width=width, meanwhile=[create])
    assert done.status == 130
    assert "error" not in done.err
    before, after, left = screens(done.out)
    assert re.search(r"oldest due  *\n", before)
    for screen in (after, left):
        assert "oldest due      " in screen
        assert "days ago (2020-01-01" in screen
    assert "again every 5s; Ctrl-C to end" in after
    assert "Ctrl-C" not in left
    for line in f"{before}\n{after}\n{left}".splitlines():
        assert cell_len(line) <= width


@pytest.mark.parametrize("width", [60, 120])
def test_mailing_is_watched_until_it_is_complete(people: Home, width: int) -> None:
    people.call(*CREATE, "now")
    show = ("mailings", "show", "1", "--watch")
    done = watched(
        people, *show, width=width,
        meanwhile=[lambda: people.call("run", "--limit", "1"), lambda: people.call("run")],
    )  # fmt: skip
    assert done.status == 0
    created, running, complete = screens(done.out)
    assert "nothing sent yet" in created
    assert re.search(r"1/3, \d:\d\d:\d\d left, \d+/s", running) or "1/3" in running
    assert "completed" in complete
    assert "3/3\n" in complete.replace(" ", "")
    assert "Привет 👋 שלום" in complete

    again = people.call(*show, width=width)
    assert (again.status, ALTERNATE_SCREEN in again.out, "3/3" in again.out) == (0, False, True)


def test_mailing_that_is_gone_ends_the_watch_and_gives_the_terminal_back(people: Home) -> None:
    people.call(*CREATE, "now")
    gone = watched(
        people, "mailings", "show", "1", "--watch", meanwhile=[lambda: people.call("mailings", "delete", "1", "--yes")]
    )
    assert gone.status == 4
    assert gone.out.rpartition(NORMAL_SCREEN)[2].strip()
    assert "error: mailing 1 not found" in re.sub(r"\x1b\[[0-9;]*m", "", gone.err)


@pytest.mark.parametrize(
    ("arguments", "width", "problem"),
    [
        (("status", "--watch"), None, "--watch needs a terminal"),
        (("status", "--watch", "--json"), 80, "--watch and --json cannot be combined"),
        (("status", "--watch", "--max-age", "2h"), 80, "--watch and --max-age cannot be combined"),
        (("status", "--interval", "2s"), 80, "--interval needs --watch"),
        (("status", "--watch", "--interval", "0s"), 80, "--interval must be from 1s to 1h"),
        (("status", "--watch", "--interval", "2d"), 80, "--interval must be from 1s to 1h"),
        (("status", "--watch", "--interval", "soon"), 80, "invalid duration"),
        (("mailings", "show", "1", "--watch"), None, "--watch needs a terminal"),
        (("mailings", "show", "1", "--watch", "--json"), None, "--watch and --json cannot be combined"),
    ],
)
def test_watch_is_for_a_terminal(home: Home, arguments: tuple[str, ...], width: int | None, problem: str) -> None:
    done = home.call(*arguments, width=width)
    assert (done.status, done.out) == (2, "")
    assert problem in done.err
    assert "hint" in done.err


def test_ctrl_c_on_a_real_terminal_ends_the_watch(home: Home) -> None:
    blank_line = " " * 80  # the screen's last one
    done = home.on_terminal("status", "--watch", answers=[(blank_line, CTRL_C)])
    assert done.status == 130
    assert "\x1b[?25h" in done.out.rpartition("\x1b[?25l")[2]  # the cursor is visible again
    assert "mail server" in done.out.rpartition(NORMAL_SCREEN)[2]

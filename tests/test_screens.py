"""Test that the README's pictures are up to date, and that every screen fits the terminal."""

import re
import shlex
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len
from support import screens
from support.command import Home

from skychimp.transport.demo_server import demo_server

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
ADDRESSES = ["ada@example.org", "grace@example.org", "natalya@example.org", "nobody@example.org"]


def test_pictures_are_up_to_date() -> None:
    for name, svg in screens.pictures():
        path = screens.FOLDER / f"{name}.svg"
        assert screens.texts(svg) == screens.texts(path.read_text(encoding="utf-8")), (
            f'{name}.svg is outdated: run "cd tests && python -m support.screens"'
        )
        assert f"tests/pictures/{name}.svg" in README
    assert {path.stem for path in screens.FOLDER.iterdir()} == set(screens.SCREENS)


# Every screen, at every width


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a store that has something of each kind."""
    with demo_server() as receiver:
        home = Home(
            tmp_path_factory.mktemp("full"),
            TZ="UTC",
            SKYCHIMP_MAIL__TRANSPORT="smtp",
            SKYCHIMP_SMTP__HOST="127.0.0.1",
            SKYCHIMP_SMTP__PORT=str(receiver.port),
            SKYCHIMP_SMTP__SECURITY="none",
        )
        (home.folder / "people.csv").write_text(screens.PEOPLE, encoding="utf-8")
        options = ["--tag", "vip", "--end", "2032-01-01", "--timezone", "America/Argentina/Buenos_Aires"]
        for command in (
            ["init", "--email", "you@example.org"],
            ["clients", "import", "people.csv"],
            [
                "messages",
                "create",
                "--subject",
                "News of {{ due_at }} for {{ client.name }}, as promised",
                "--body",
                "Hi",
            ],
            ["mailings", "create", "--message", "1", "--start", "now", "--every", "month", "--all-clients"],
            ["mailings", "create", "--message", "1", "--start", "2031-01-31 09:00", "--every", "week", *options],
        ):
            assert home.call(*command).status == 0
    return home


SCREENS = {
    "--help": ["clients", "mailings", "init"],
    "clients --help": ["create", "import"],
    "mailings create --help": ["--every", "<once|day|week|month>", "--timezone"],
    "clients list": ADDRESSES,
    "clients show 5": ["nobody@example.org", "550"],
    "suppressions list": ["nobody@example.org", "bounce"],
    "suppressions show nobody@example.org": ["nobody@example.org", "bounce"],
    "messages list": ["promised"],
    "messages show 1": ["promised"],
    "messages preview 1": ["Ada Lovelace"],
    "mailings list": ["running", "created"],
    "mailings show 2": ["week", "2031-01-31 09:00 America/Argentina/Buenos_Aires"],
    "mailings preview 2": ["Fri 2031-01-31 12:00", "Fri 2031-01-31 09:00", "America/Argentina/Buenos_Aires"],
    "mailings log 1": [*ADDRESSES, "sent", "failed"],
    "report 1": ["4 sent", "1 failed"],
    "run": ["nothing was due"],
    "run --dry-run": ["nothing is due"],
    "status": ["ok"],
    "resolve": ["no unknown deliveries"],
    "help": ["exit-statuses", "templates"],
    "help time": ["+10m"],
    "clients show 99": ["error: client 99 not found", 'hint: run "skychimp clients list"'],
}
"""Each command, and texts on its screen that must not be cut or wrapped."""

WRAPPED = {"clients show 99"}
"""Commands with long lines, which the terminal wraps."""


@pytest.mark.parametrize("command", SCREENS)
@pytest.mark.parametrize(
    ("width", "environ"),
    [
        pytest.param(80, {}, id="80 columns, colour"),
        pytest.param(120, {"NO_COLOR": "1"}, id="120 columns, no colour"),
        pytest.param(80, {"NO_COLOR": "1"}, marks=pytest.mark.slow, id="80 columns, no colour"),
        pytest.param(120, {}, marks=pytest.mark.slow, id="120 columns, colour"),
    ],
)
def test_screen_fits_and_cuts_nothing(full: Home, command: str, width: int, environ: dict[str, str]) -> None:
    done = full.call(*command.split(), width=width, environ=environ)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", done.out + done.err).replace("\r", "\n")
    for line in shown.splitlines():
        assert cell_len(line.rstrip()) <= width or command in WRAPPED, line
    for text in SCREENS[command]:
        assert text in shown
    assert "…" not in shown or command == "report 1"  # there it stands for the parts that differ between replies
    colours = re.findall(r"\x1b\[[0-9;]*3[0-9][;0-9]*m", done.out + done.err)
    assert not (environ and colours)


def test_due_times_in_utc_have_one_column(full: Home) -> None:
    heading = full.call("mailings", "preview", "1", width=80).out.splitlines()[0]
    assert re.sub(r"\x1b\[[0-9;]*m", "", heading).split() == ["UTC", "Note"]


@pytest.mark.parametrize("command", SCREENS)
def test_dumb_terminal_is_treated_like_a_pipe(full: Home, command: str) -> None:
    dumb = full.call(*command.split(), width=80, environ={"TERM": "dumb"})
    assert "\x1b" not in dumb.out + dumb.err
    if not command.endswith("--help"):
        piped = full.call(*command.split())
        assert (dumb.status, without_minute(dumb.out)) == (piped.status, without_minute(piped.out))


def without_minute(text: str) -> str:
    """Return a text without its times of day, as a minute may end between two commands."""
    return re.sub(r"\d\d:\d\d", "", text)


# The suggested next command


@pytest.fixture
def copy_home(full: Home, tmp_path: Path) -> Callable[[], Home]:
    """A function that returns a new copy of that home on each call."""
    (session,) = (full.folder / ".local/state/skychimp/sessions").iterdir()
    environ = {name: value for name, value in full.environ.items() if name != "HOME"}

    def copy_home() -> Home:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        shutil.copy(full.folder / ".local/share/skychimp/skychimp.db", folder)
        shutil.copy(full.folder / "people.csv", folder)
        login = {"SKYCHIMP_STORE": str(folder / "skychimp.db"), "SKYCHIMP_TOKEN": session.read_text(encoding="ascii")}
        return Home(folder, **environ | login, SKYCHIMP_MAIL__SENDER="you@example.org")

    return copy_home


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("clients create --email new@example.org", "messages create --subject 'Hello {{ client.name }}'"),
        ("clients import people.csv", None),
        ("messages create --subject Hi --body Hi", "messages preview 2"),
        ("messages update 1 --body Ho", "messages preview 1"),
        ("messages preview 1", "messages test 1 --to you@example.org"),
        ("mailings create --message 1 --start +1d --every day --all-clients", "mailings preview 3"),
        ("mailings create --message 1 --start now --every day --all-clients --yes", "run"),  # the server has ended
        ("clients list", None),
    ],
)
def test_next_command_is_suggested(copy_home: Callable[[], Home], command: str, hint: str | None) -> None:
    arguments, no_wait = shlex.split(command), {"SKYCHIMP_RUN__PATIENCE": "0s"}
    result = copy_home().call(*arguments, width=80, environ=no_wait)
    assert result.status == 0
    assert re.findall(r"next: skychimp (.*)", result.err) == ([hint] if hint else [])
    for quiet in (
        copy_home().call(*arguments, environ=no_wait),
        copy_home().call("-q", *arguments, width=80, environ=no_wait),
        copy_home().call(*arguments, "--json", width=80, environ=no_wait),
    ):
        assert "next: " not in quiet.out + quiet.err

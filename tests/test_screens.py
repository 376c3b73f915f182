"""The README's pictures are what the commands show today; every screen fits the terminal and loses nothing."""

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


def test_the_pictures_show_what_the_commands_show() -> None:
    for name, svg in screens.pictures():
        path = screens.FOLDER / f"{name}.svg"
        assert screens.texts(svg) == screens.texts(path.read_text(encoding="utf-8")), (
            f"{name}.svg shows what was: run: cd tests && python -m support.screens"
        )
        assert f"tests/pictures/{name}.svg" in README
    assert {path.stem for path in screens.FOLDER.iterdir()} == set(screens.SCREENS)


# Every screen, at every width


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home in which something of each kind is to be seen."""
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
        rest = ["--tag", "vip", "--end", "2032-01-01", "--timezone", "America/Argentina/Buenos_Aires"]
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
            ["mailings", "create", "--message", "1", "--start", "2031-01-31 09:00", "--every", "week", *rest],
        ):
            assert home.call(*command).status == 0
    return home


SCREENS = {
    "--help": ["clients", "mailings", "init"],
    "clients --help": ["create", "import"],
    "mailings create --help": ["--every", "<once|day|week|month>", "--timezone"],
    "clients list": ADDRESSES,
    "clients show 5": ["nobody@example.org", "550"],
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
    "status": ["fine"],
    "resolve": ["no delivery is unknown"],
    "help": ["exit-statuses", "templates"],
    "help time": ["+10m"],
    "clients show 99": ["error: there is no client '99'", "hint: see them: skychimp clients list"],
}
"""Each screen, and what must not be cut or broken on it."""

TEXTS = {"clients show 5", "mailings show 2", "messages show 1", "clients show 99"}
"""Not laid out: what is longer than the terminal is wrapped by the terminal itself."""


@pytest.mark.parametrize("command", SCREENS)
@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("environ", [{}, {"NO_COLOR": "1"}], ids=["colour", "no-colour"])
def test_a_screen_fits_and_loses_nothing(full: Home, command: str, width: int, environ: dict[str, str]) -> None:
    done = full.call(*command.split(), width=width, environ=environ)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", done.out + done.err).replace("\r", "\n")
    for line in shown.splitlines():
        assert cell_len(line.rstrip()) <= width or command in TEXTS, line
    for words in SCREENS[command]:
        assert words in shown
    assert "…" not in shown or command == "report 1"  # there it stands for what varies in replies
    colours = re.findall(r"\x1b\[[0-9;]*3[0-9][;0-9]*m", done.out + done.err)
    assert not (environ and colours)


@pytest.mark.parametrize("command", SCREENS)
def test_a_dumb_terminal_is_a_pipe(full: Home, command: str) -> None:
    dumb = full.call(*command.split(), width=80, environ={"TERM": "dumb"})
    assert "\x1b" not in dumb.out + dumb.err
    if not command.endswith("--help"):
        piped = full.call(*command.split())
        assert (dumb.status, dumb.out) == (piped.status, piped.out)


# What comes next


@pytest.fixture
def again(full: Home, tmp_path: Path) -> Callable[[], Home]:
    """That home again, as often as asked for: nobody else sees what is changed in it."""
    (session,) = (full.folder / ".local/state/skychimp/sessions").iterdir()
    kept = {name: value for name, value in full.environ.items() if name != "HOME"}

    def again() -> Home:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        shutil.copy(full.folder / ".local/share/skychimp/skychimp.db", folder)
        shutil.copy(full.folder / "people.csv", folder)
        own = {"SKYCHIMP_STORE": str(folder / "skychimp.db"), "SKYCHIMP_TOKEN": session.read_text(encoding="ascii")}
        return Home(folder, **kept | own, SKYCHIMP_MAIL__SENDER="you@example.org")

    return again


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("clients create --email new@example.org", "messages create --subject 'Hello {{ client.name }}'"),
        ("clients import people.csv", None),
        ("messages create --subject Hi --body Hi", "messages preview 2"),
        ("messages update 1 --body Ho", "messages preview 1"),
        ("messages preview 1", "mailings create --message 1 --start now --every day --all-clients"),
        ("mailings create --message 1 --start +1d --every day --all-clients", "mailings preview 3"),
        ("mailings create --message 1 --start now --every day --all-clients", "run"),  # the relay is gone
        ("clients list", None),
    ],
)
def test_a_person_is_told_what_comes_next(again: Callable[[], Home], command: str, hint: str | None) -> None:
    words, patience = shlex.split(command), {"SKYCHIMP_RUN__PATIENCE": "0s"}
    told = again().call(*words, width=80, environ=patience)
    assert told.status == 0
    assert re.findall(r"next: skychimp (.*)", told.err) == ([hint] if hint else [])
    for silent in (
        again().call(*words, environ=patience),
        again().call("-q", *words, width=80, environ=patience),
        again().call(*words, "--json", width=80, environ=patience),
    ):
        assert "next: " not in silent.out + silent.err

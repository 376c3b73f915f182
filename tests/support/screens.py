"""Draw the pictures of the README: the output of real commands on a terminal 80 columns wide.

cd tests && python -m support.screens    writes them to tests/pictures/
"""

import io
import re
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text

from skychimp.transport.demo_server import demo_server
from support.command import Home

FOLDER = Path(__file__).parents[1] / "pictures"
WIDTH = 80
PEOPLE = """\
email,name,tags
ada@example.org,Ada Lovelace,vip
grace@example.org,Grace Hopper,"vip,navy"
natalya@example.org,Наталья Бехтерева,
chien-shiung@example.org,Chien-Shiung Wu,vip
nobody@example.org,Moved Away,
"""
SETUP = (
    "init --email you@example.org --sender 'You <you@example.org>'",
    "clients import people.csv",
    "messages create --subject 'Hello {{ client.name }}' --body 'News!'",
)
SCREENS = {
    "send": ("mailings create --message 1 --start now --every month --all-clients", "mailings log 1"),
}
"""The name of each picture, and the commands that it shows, in the order in which they run."""


def pictures() -> Iterator[tuple[str, str]]:
    """Yield the name and the SVG of each picture. Times that depend on the clock are replaced by a constant."""
    with tempfile.TemporaryDirectory() as folder, demo_server() as receiver:
        home = Home(
            Path(folder),
            TZ="UTC",
            SKYCHIMP_MAIL__TRANSPORT="smtp",
            SKYCHIMP_SMTP__HOST="127.0.0.1",
            SKYCHIMP_SMTP__PORT=str(receiver.port),
            SKYCHIMP_SMTP__SECURITY="none",
            SKYCHIMP_SMTP__CONNECTIONS="1",
        )
        (home.folder / "people.csv").write_text(PEOPLE, encoding="utf-8")
        for command in SETUP:
            assert home.call(*shlex.split(command)).status == 0
        for name, commands in SCREENS.items():
            yield name, _draw(name, home, commands)


def texts(svg: str) -> list[str]:
    """Return the texts in a picture. They do not depend on the version of Rich."""
    return [text for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg) if text.strip("&#160;\n ")]


def _draw(name: str, home: Home, commands: tuple[str, ...]) -> str:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for number, command in enumerate(commands):
        console.print(Text(f"{chr(10) if number else ''}$ skychimp {command}", style="bold cyan"))
        console.print(Text.from_ansi(_with_constant_times(_output(home, command)).rstrip()))
    return console.export_svg(title="skychimp", unique_id=name)


def _output(home: Home, command: str) -> str:
    """Return what is on the screen when the command has ended. Progress bars have disappeared by then."""
    done = home.call(*shlex.split(command), width=WIDTH, stdin="y\n")
    return done.out + re.sub(r".*\x1b\[2K", "", done.err, flags=re.DOTALL).removeprefix("\x1b[?25h")


def _with_constant_times(shown: str) -> str:
    """Replace all times by the same one."""
    return re.sub(r"20\d\d-\d\d-\d\d \d\d:\d\d(:\d\d)?", "2026-12-01 09:00", shown)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, svg in pictures():
        (FOLDER / f"{name}.svg").write_text(svg, encoding="utf-8")

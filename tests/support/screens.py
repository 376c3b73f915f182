"""The README's pictures: real commands on a terminal 80 columns wide, drawn by Rich.

python -m support.screens    (in tests/) makes them again, in tests/pictures/
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
SCREENS = {
    "begin": (
        "clients import people.csv",
        "clients list",
        "messages create --subject 'Hello {{ client.name }}' --body 'News!'",
    ),
    "send": ("mailings create --message 1 --start now --every month --all-clients", "mailings log 1"),
    "when": (
        "mailings create --message 1 --start '2031-01-31 09:00' --every month --tag vip --timezone Europe/Berlin",
        "mailings preview 2 --next 4",
        "clients show 99",
    ),
}
"""Each picture's name, and the commands on it, in the order in which they are run."""


def pictures() -> Iterator[tuple[str, str]]:
    """Each picture's name and its SVG; times that come of now are always the same."""
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
        assert home.call("init", "--email", "you@example.org", "--sender", "You <you@example.org>").status == 0
        for name, commands in SCREENS.items():
            yield name, _drawn(name, home, commands)


def texts(svg: str) -> list[str]:
    """What a picture says, whatever release of Rich has drawn it."""
    return [text for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg) if text.strip("&#160;\n ")]


def _drawn(name: str, home: Home, commands: tuple[str, ...]) -> str:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for number, command in enumerate(commands):
        console.print(Text(f"{chr(10) if number else ''}$ skychimp {command}", style="bold cyan"))
        console.print(Text.from_ansi(_at_one_time(_shown(home, command)).rstrip()))
    return console.export_svg(title="skychimp", unique_id=name)


def _shown(home: Home, command: str) -> str:
    """What a person sees: without the progress, which is gone again when the command ends."""
    done = home.call(*shlex.split(command), width=WIDTH)
    return done.out + re.sub(r".*\x1b\[2K", "", done.err, flags=re.DOTALL).removeprefix("\x1b[?25h")


def _at_one_time(shown: str) -> str:
    """All times as one, but for those that a picture names itself."""
    return re.sub(r"20(?!31)\d\d-\d\d-\d\d \d\d:\d\d(:\d\d)?", "2026-12-01 09:00", shown)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, svg in pictures():
        (FOLDER / f"{name}.svg").write_text(svg, encoding="utf-8")

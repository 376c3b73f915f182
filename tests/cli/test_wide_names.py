"""Test tables with right-to-left, wide and combining characters, and with long addresses, at three widths."""

import re
from pathlib import Path

import pytest
from rich.cells import cell_len
from support.command import Home

NAMES = [
    "שרה כהן־לוי", "محمد عبد الرحمن بن عبد العزيز", "吳健雄教授（普林斯頓大學物理系）",
    "ひらがなとカタカナのとても長い名前", "김철수",
    "Zoë Müller-Lüdenscheidt", "e\u0301a\u0308o\u0302 combined", "👩 🇱🇻 👍🏽 ❤️", "Наталья Петровна Бехтерева",
    "Supercalifragilisticexpialidocious-without-any-space", "ไทยแลนด์ดินแดนแห่งรอยยิ้ม", "नमस्ते दुनिया", "Ada",
]  # fmt: skip
ADDRESSES = [f"client.number.{n}.{'x' * n}@mail.example.org" for n in range(1, len(NAMES) + 1)]
"""Up to 44 characters long."""

COMMANDS = (
    "clients list", "clients list --suppressed", "clients list --columns id,name,email,created_at,tags",
    "suppressions list", "mailings list", "mailings audience 1", "mailings audience 1 --left-out", "mailings log 2",
    "run --dry-run", "run --plan --list", "users list", "audit list", "resolve",
)  # fmt: skip
COLOUR = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home of an administrator, with clients of these names, of whom some are suppressed, and mailings."""
    made = Home(tmp_path_factory.mktemp("wide"), TZ="UTC")
    rows = "".join(f'{email},"{name}","{name}"\n' for email, name in zip(ADDRESSES, NAMES, strict=True))
    mailing = ("mailings", "create", "--message", "1", "--every", "day", "--all-clients", "--name")
    for command, stdin in (
        (("init", "--email", "a.long.address.of.an.administrator@example.org"), ""),
        (("clients", "import", "-"), f"email,name,tags\n{rows}"),
        (("suppressions", "add", *ADDRESSES[-3:]), ""),
        (("messages", "create", "--subject", NAMES[2], "--body", "Hi"), ""),
        ((*mailing, NAMES[0], "--start", "now", "--no-send"), ""),
        ((*mailing, NAMES[3], "--start", "now"), ""),
    ):
        assert made.call(*command, stdin=stdin).status == 0
    return made


@pytest.mark.parametrize("command", COMMANDS)
def test_list_fits_and_breaks_no_address(home: Home, command: str) -> None:
    plain = home.call(*command.split()).out
    addresses = set(re.findall(r"[\w.]+@[\w.]+", plain))
    assert addresses or command in ("mailings list", "resolve")
    for width in (60, 80, 120):
        lines = COLOUR.sub("", home.call(*command.split(), width=width).out).splitlines()
        assert max(map(cell_len, map(str.rstrip, lines)), default=0) <= width, width
        for address in addresses:
            assert any(address in line.split() for line in lines), (width, address)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_columns_stay_below_their_headings(home: Home, width: int) -> None:
    lines = COLOUR.sub("", home.call("clients", "list", width=width).out).splitlines()
    heading = next(line for line in lines if line.startswith("ID"))
    column = heading.index("Email")
    for number, address in enumerate(ADDRESSES, 1):
        (line,) = (line for line in lines if address in line.split())
        assert line.split()[0] == str(number)
        assert cell_len(line.partition(address)[0]) == column


def test_names_are_complete_at_every_width(home: Home) -> None:
    for width in (80, 120):
        shown = re.sub(r"\s", "", COLOUR.sub("", home.call("clients", "list", "--columns", "name", width=width).out))
        for name in NAMES:
            assert "".join(name.split()).replace("\ufe0f", "") in shown.replace("\ufe0f", ""), name


def test_address_that_is_wider_than_the_terminal_does_not_hide_the_names(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert home.call("init", "--email", "you@example.org").status == 0
    address = f"{'a' * 60}@{'b' * 40}.example.org"
    home.call("clients", "create", "--email", address, "--name", "Zoë")
    shown = COLOUR.sub("", home.call("clients", "list", width=60).out)
    assert "Zoë" in shown
    assert max(map(cell_len, map(str.rstrip, shown.splitlines()))) <= 60

"""Every command in the README works, in the order in which it is written, and prints what the README shows."""

import re
import shlex
from pathlib import Path

from support.command import Home

from skychimp.cli.commands.help import topics
from skychimp.config import sources

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
INSTALL = [line for block in BLOCKS[:2] for line in block.splitlines()]
COMMANDS = [line for block in BLOCKS[2:] for line in block.splitlines()]
SHOWN = re.findall(r"^\$ (skychimp .*)\n((?:(?!\$ |```).*\n)*)", README, re.MULTILINE)
"""Each command of the first mailing, and what it prints on a terminal."""

SETTINGS = re.findall(r"^```toml\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
MOST_WORDS = 1_200

PEOPLE = "email,name,tags\ngrace@example.org,Grace Hopper,vip\nnatalya@example.org,Наталья Бехтерева,\n"


def test_first_two_commands_install_into_a_virtual_environment() -> None:
    # CI runs them word for word. Here they would only install what runs this test.
    assert [line.rpartition("&& ")[2] for line in INSTALL] == [".venv/bin/skychimp demo", ".venv/bin/pytest"]
    assert all(line.startswith("python3 -m venv .venv && .venv/bin/pip install ") for line in INSTALL)


def test_first_demo_command_works_in_a_fresh_clone() -> None:
    first = next(line for line in README.splitlines() if "skychimp demo" in line)
    assert first == INSTALL[0]


def test_every_command_works_and_prints_what_is_shown(tmp_path: Path) -> None:
    home = Home(tmp_path, NO_COLOR="1", TZ="UTC")
    assert len(SHOWN) == 6
    for command, expected in SHOWN:
        answers = [("Password", "\n")] if command.startswith("skychimp init") else []
        shown = home.on_terminal(*shlex.split(command)[1:], answers=answers)
        assert shown.status == 0, (command, shown.out)
        assert _comparable(shown.out, tmp_path) == _comparable(expected, tmp_path), command
    home.environ["SKYCHIMP_PASSWORD"] = "correct horse battery"
    (tmp_path / "people.csv").write_text(PEOPLE, encoding="utf-8")
    (tmp_path / "news.md").write_text("Hello **{{ client.name }}**!\n", encoding="utf-8")
    assert len(COMMANDS) > 20
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        assert program == "skychimp"
        done = home.call(*arguments)
        assert done.status == 0, (command, done.err)


def test_settings_are_valid(tmp_path: Path) -> None:
    assert SETTINGS
    for number, text in enumerate(SETTINGS):
        path = tmp_path / f"{number}.toml"
        path.write_text(text, encoding="utf-8")
        sources.load_settings(config_file=path, environ={})


def test_every_help_topic_is_listed() -> None:
    assert re.findall(r"^\| `([a-z-]+)` \|", README, re.MULTILINE) == list(topics())


def test_readme_is_short() -> None:
    assert len(README.split()) < MOST_WORDS


def _comparable(output: str, home: Path) -> list[str]:
    """Return the lines of an output without progress, colours, trailing spaces, times, file names and random IDs."""
    text = re.sub(r".*\x1b\[2K", "", output, flags=re.DOTALL).replace(str(home), "/home/you")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    text = re.sub(r"20\d\d-\d\d-\d\d \d\d:\d\d(:\d\d)?", "2026-12-01 09:00", text)
    text = re.sub(r"[0-9a-f]{6,}", "ID", text)
    return [line.rstrip() for line in text.splitlines() if line.strip()]

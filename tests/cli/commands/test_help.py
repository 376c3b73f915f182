"""Test that the help topics agree with the program, and that the man pages are complete and valid."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from support.command import Home

from skychimp import durations, errors
from skychimp.cli import man, registry
from skychimp.cli.commands import help  # noqa: A004
from skychimp.delivery.composing import templates


@pytest.mark.parametrize("topic", help.topics())
def test_topic_is_plain_in_a_pipe_and_formatted_on_a_terminal(tmp_path: Path, topic: str) -> None:
    home = Home(tmp_path)
    piped = home.call("help", topic)
    assert (piped.status, piped.err) == (0, "")
    assert piped.out.startswith(f"# {help.topics()[topic].title}\n")
    assert home.call("help", topic, "--json").json == {"topic": topic, "text": piped.out.removesuffix("\n")}
    shown = home.on_terminal("help", topic, environ={"NO_COLOR": "1"}).out
    assert help.topics()[topic].title.split()[-1] in shown
    assert "## " not in shown
    assert home.on_terminal("help", topic, environ={"TERM": "dumb"}).out == piped.out


def test_list_of_topics(tmp_path: Path) -> None:
    home = Home(tmp_path)
    listed = home.call("help")
    assert [line.split("\t")[0] for line in listed.out.splitlines()] == list(help.topics())
    assert [topic["name"] for topic in home.call("help", "--json").json] == list(help.topics())
    assert {"templates", "time", "exit-statuses", "config"} <= set(help.topics())


@pytest.mark.parametrize(
    ("topic", "hint"),
    [
        ("tmie", "did you mean time?"),
        ("cleints", "did you mean clients?"),
        ("x", 'run "skychimp help" to list the topics'),
    ],
)
def test_unknown_topic(tmp_path: Path, topic: str, hint: str) -> None:
    done = Home(tmp_path).call("help", topic)
    assert (done.status, done.err) == (4, f'error: help topic "{topic}" not found\nhint: {hint}\n')


@pytest.mark.parametrize("words", [("run",), ("clients",), ("clients", "create")])
def test_help_of_a_command_is_its_own_help(tmp_path: Path, words: tuple[str, ...]) -> None:
    home = Home(tmp_path)
    assert home.call("help", *words) == home.call(*words, "--help")


def test_help_of_an_unknown_subcommand(tmp_path: Path) -> None:
    done = Home(tmp_path).call("help", "clients", "lst")
    assert (done.status, done.err.splitlines()[1]) == (2, "hint: did you mean list?")


def test_topics_agree_with_the_program() -> None:
    text = {topic: (help.TOPICS / f"{topic}.md").read_text(encoding="utf-8") for topic in help.topics()}
    statuses = {int(number) for number in re.findall(r"^\| (\d+) \|", text["exit-statuses"], re.MULTILINE)}
    classes = [each for each in vars(errors).values() if isinstance(each, type)]
    assert {each.exit_status for each in classes if issubclass(each, errors.SkychimpError)} | {0, 141} == statuses
    for name in templates.FILTERS:
        assert f"`{name}`" in text["templates"]
    for source in re.findall(r"`(\{\{.*?\}\})`", text["templates"]):
        templates.TextTemplate(source, "body", {"client": None, "mailing": None, "due_at": None})
    for duration in re.findall(r"`([0-9][0-9smhd]*)`", text["time"]):
        durations.parse_duration(duration)
    assert "```toml" in help._topic_text("config", "en")


# Man pages


def test_a_page_is_written_for_each_command(tmp_path: Path) -> None:
    done = Home(tmp_path).call("help", "--man", "man/man1", "--json")
    written = {path.name for path in (tmp_path / "man/man1").iterdir()}
    assert done.json == {"pages": len(written), "folder": "man/man1"}
    assert written == {"skychimp.1", *(f"skychimp-{name}.1" for name in registry.COMMANDS)}
    assert Home(tmp_path).call("help", "--man", "/dev/null/x").status == 2


def test_man_page_has_each_option_and_example() -> None:
    pages = man.man_pages(help.topics())
    for name in registry.COMMANDS:
        command, page = registry.load_command(name), pages[f"skychimp-{name}.1"].replace(r"\-", "-")
        for each in (command, *getattr(command, "commands", {}).values()):
            assert all(option in page for param in each.params for option in param.opts if option.startswith("-"))
            assert (each.epilog or "") in page.replace(r"\&$ ", "").replace(r"\e", "\\")
        assert f"skychimp-{name}" in pages["skychimp.1"].replace(r"\-", "-")


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
def test_groff_accepts_every_man_page(tmp_path: Path) -> None:
    for name, page in man.man_pages(help.topics()).items():
        shown = subprocess.run(
            ["groff", "-ww", "-man", "-Tutf8", "-Kutf8"], input=page, capture_output=True, text=True, check=True
        )
        assert shown.stderr == "", name
        assert "SYNOPSIS" in re.sub(".\b", "", shown.stdout)

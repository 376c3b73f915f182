"""Test the help in Russian: that it is complete, and that the topics say the same as the English ones."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support.command import Home
from typer import rich_utils

from skychimp.cli import help_pages, man
from skychimp.cli.commands import help  # noqa: A004
from skychimp.translation import use_language

CYRILLIC = re.compile("[а-яё]", re.IGNORECASE)
BLOCK = re.compile(r"^ *```.*?^ *```$|^ {6}[^\n]*", re.MULTILINE | re.DOTALL)
"""A block of code in Markdown, or a line of one in a list."""


class Code(NamedTuple):
    """What is the same in all languages: blocks of code in their order, code in sentences, and addresses of pages."""

    blocks: list[str]
    spans: set[str]
    urls: set[str]


def code_of(text: str) -> Code:
    """Return the code of a topic."""
    prose = BLOCK.sub("", text)
    spans = {" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)}
    return Code(BLOCK.findall(text), spans, set(re.findall(r"https?://[^\s)`]+", prose)))


def structure_of(text: str) -> list[str]:
    """Return what each line of a topic begins with, if it is a heading, an item of a list or a row of a table."""
    return re.findall(r"^(#+|-|\|)(?= )", BLOCK.sub("", text), re.MULTILINE)


@pytest.fixture
def in_russian(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Show text in Russian, in this process."""
    for name in help_pages.RICH_TEXTS:
        monkeypatch.setattr(rich_utils, name, getattr(rich_utils, name))  # put back afterwards
    use_language("ru")
    yield
    use_language("en")


@pytest.mark.parametrize("topic", help.topics())
def test_topic_says_the_same_in_russian(topic: str) -> None:
    english, russian = (path.joinpath(f"{topic}.md").read_text("utf-8") for path in (help.TOPICS, help.TOPICS / "ru"))
    assert code_of(russian) == code_of(english)
    assert structure_of(russian) == structure_of(english)
    assert CYRILLIC.search(help.topics("ru")[topic].title)


def test_no_russian_topic_is_left_over() -> None:
    assert {path.stem for path in (help.TOPICS / "ru").iterdir()} <= set(help.topics())


def test_topics_are_shown_in_russian(tmp_path: Path) -> None:
    home = Home(tmp_path, SKYCHIMP_LANG="ru")
    title = help.topics("ru")["exit-statuses"].title
    assert home.run("help", "exit-statuses").out.startswith(f"# {title}\n")
    assert title in home.on_terminal("help", environ={"NO_COLOR": "1"}).out


def test_data_about_topics_is_in_english(tmp_path: Path) -> None:
    home, in_english = Home(tmp_path, SKYCHIMP_LANG="ru"), Home(tmp_path)
    for words in (("help",), ("help", "--json"), ("help", "audience", "--json")):
        assert home.call(*words) == in_english.call(*words)


def test_help_of_a_command_is_in_russian(tmp_path: Path) -> None:
    shown = Home(tmp_path).on_terminal("--lang", "ru", "report", "--help", environ={"NO_COLOR": "1"}).out
    for text in ("Использование: skychimp report", "Аргументы", "[обязательно]", "Параметры"):
        assert text in shown
    assert "[по умолчанию: " in shown
    assert "Показать эту справку" in shown


@pytest.mark.usefixtures("in_russian")
def test_man_pages_are_in_russian() -> None:
    pages = man.man_pages(help.topics())
    assert {"ИМЯ", "СИНТАКСИС", "КОМАНДЫ"} <= set(re.findall(r"^\.SH (.*)", pages["skychimp-clients.1"], re.MULTILINE))
    of_parameter_or_command = re.compile(r"^\.(?:TP|PP|SH .*)\n(?:\\f.*\n)?(\w.*)", re.MULTILINE)
    texts = [text for page in pages.values() for text in of_parameter_or_command.findall(page)]
    assert len(texts) > 500
    assert [text for text in texts if not CYRILLIC.search(text) and not text.startswith("skychimp help")] == []

"""Test that the commands speak Russian to a person, and English to programs."""

import re
from pathlib import Path

import pytest
from support.command import Home
from support.example_homes import copy_of, create_home

from skychimp.cli.commands import demo
from skychimp.translation import LANGUAGES, VARIABLE, use_language

PEOPLE = "email,name,tags,unsubscribed\nada@a.example,Ada,vip,\ngrace@a.example,Grace,,\nbob@a.example,Bob,,yes\n"
CREATE = ("mailings", "create", "--message", "1", "--start", "now", "--every", "week", "--all-clients", "--no-send")


@pytest.fixture(scope="module")
def example(_new_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Ada's command line, with two clients, one suppressed address, and mailing 1 to both clients."""
    home = create_home(_new_store, tmp_path_factory.mktemp("example"))
    for arguments in (
        ("clients", "import", "-"),
        ("messages", "create", "--subject", "Hello", "--body", "Hi"),
        CREATE,
    ):
        assert home.call(*arguments, stdin=PEOPLE).status == 0
    return home


@pytest.fixture
def home(example: Home, tmp_path: Path) -> Home:
    return copy_of(example, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("clients delete 1 --yes", "импорт может вернуть этого клиента; чтобы больше ничего ему не отправлять: sky"),
        ("clients delete 1 2 --yes", "импорт может вернуть этих клиентов; чтобы больше ничего им не отправлять: sky"),
        ("clients update 1 2 --add-tag gold", "теги изменились: 2 клиента из 2"),
        ("clients update 1 --no-tags --tag a", "--tag, --no-tags и --add-tag или --remove-tag нельзя указать вместе"),
        ("clients list --columns nmae", 'неизвестный столбец "nmae"'),
        ("mailings audience 1", "получатели рассылки 1: 2 клиента"),
        ("mailings retry 1", "повторять нечего"),
        ("run --plan", r"рассылка 1, срок 20\d\d-\d\d-\d\d \d\d:\d\d: 2 письма "),
        ("status", r"последний запуск .* очередь .* приостановленные рассылки "),
        ("stats", r"1 рассылка, активных: 1 ближайшая 20\d\d"),
        ("why ada@a.example", r"клиент 1 с 20\d\d-\d\d-\d\d \d\d:\d\d, владелец ada@[a-z.]+; Ada; теги: vip"),
        ("why bob@a.example", r"не клиент в стоп-листе с [^а-я]*: unsubscribed \(вся почта, отправитель ada@"),
        ("resolve", "доставок с неизвестным исходом нет"),
    ],
)
def test_person_reads_russian(home: Home, arguments: str, text: str) -> None:
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", home.on_terminal("--lang", "ru", *arguments.split()).out)
    assert re.search(text, " ".join(shown.split()))


def test_pipe_gets_the_same_in_both_languages(home: Home) -> None:
    shown = home.call("status").out
    assert home.call("--lang", "ru", "status").out == shown
    assert shown.startswith("sending\t0 processes\n")


@pytest.mark.parametrize("language", LANGUAGES)
def test_steps_of_the_demo_are_in_its_language(tmp_path: Path, language: str) -> None:
    try:
        use_language(language)
        assert demo.environment(tmp_path, port=25)[VARIABLE] == language
    finally:
        use_language("en")

"""Test that what Skychimp says can be translated, is translated, and is shown in the reader's language."""

import json
import re
from collections.abc import Iterator, Mapping
from io import BytesIO
from string import Formatter

import pytest
from babel.messages.catalog import Catalog
from babel.messages.mofile import read_mo
from hypothesis import given
from hypothesis import strategies as st
from support.command import Home
from support.translations import as_mo, as_po, originals, po_path, read_catalog, translations, update

from skychimp.text import count_of
from skychimp.translation import (
    LANGUAGES,
    joined,
    looked_up,
    tr,
    translated,
    trn,
    use_language,
    verbatim,
    wanted_language,
)

OTHERS = LANGUAGES[1:]
RUSSIAN = {"LC_ALL": "", "LANG": "ru_RU.UTF-8"}


@pytest.fixture
def russian() -> Iterator[None]:
    use_language("ru")
    yield
    use_language("en")


# The catalogs


@pytest.mark.parametrize("language", OTHERS)
def test_catalog_has_all_messages_and_is_compiled(language: str) -> None:
    """If this fails: cd tests && python -m support.translations"""
    catalog = read_catalog(language)
    update(catalog)
    assert as_po(catalog) == po_path(language).read_bytes()
    compiled = read_mo(BytesIO(po_path(language).with_suffix(".mo").read_bytes()))  # its header names Babel's version
    assert texts_of(compiled) == texts_of(read_mo(BytesIO(as_mo(catalog))))
    assert [message.id for message in catalog if message.id and not all(translations(message))] == []


def texts_of(catalog: Catalog) -> dict[tuple[str, ...], list[str]]:
    return {tuple(originals(message)): translations(message) for message in catalog if message.id}


@pytest.mark.parametrize("language", OTHERS)
def test_translations_keep_values_commands_and_options(language: str) -> None:
    for message in read_catalog(language):
        kept = {kept_parts(text) for text in originals(message)}
        if message.id:
            assert {kept_parts(text) for text in translations(message)} <= kept, message.id


def kept_parts(text: str) -> tuple[frozenset[str], ...]:
    """Return what must be the same in each language: values, options, settings, commands."""
    has_values = re.search(r"\{[a-z_0-9]+[!:}]", text) is not None
    values = {name for _, name, _, _ in Formatter().parse(text) if name} if has_values else set()
    options, settings = re.findall(r"(?<![\w-])--[a-z-]+", text), re.findall(r"\b[a-z]+\.[a-z]+_[a-z_]+\b", text)
    return (*(frozenset(part) for part in (values, options, settings, re.findall(r"skychimp [a-z -]*[a-z]", text))),)


@pytest.mark.parametrize("language", OTHERS)
def test_translations_are_not_english(language: str) -> None:
    """A few words of English in a row are a text that was forgotten."""
    for message in read_catalog(language):
        for text in translations(message):
            assert not english_prose(text), text


def english_prose(text: str) -> list[str]:
    """Return runs of three English words outside of commands and quotes."""
    prose = re.sub(r'"[^"]*"|`[^`]*`|\{[^{}]*\}|\$ .*|\bskychimp .*|\S*[/@=<>_.]\S+|--\S+( [A-Z]+)?', "·", text)
    return re.findall(r"\b[A-Za-z][a-z]+ [a-z]{2,} [a-z]{2,}\b", prose)


# The language


@pytest.mark.parametrize(
    ("arguments", "environ", "language"),
    [
        ("", {}, "en"),
        ("", {"LANG": "ru_RU.UTF-8"}, "ru"),
        ("", {"LANG": "ru"}, "ru"),
        ("", {"LANG": "de_DE.UTF-8"}, "en"),
        ("", {"LANG": "ru_RU.UTF-8", "LC_MESSAGES": "en_US.UTF-8"}, "en"),
        ("", {"LANG": "en_US.UTF-8", "LC_ALL": "ru_UA.KOI8-U"}, "ru"),
        ("", {"LC_ALL": "C", "LANG": "ru_RU.UTF-8"}, "en"),
        ("", {"LC_ALL": "C.UTF-8", "LANGUAGE": "ru"}, "en"),
        ("", {"LANG": "de_DE.UTF-8", "LANGUAGE": "uk:ru:en"}, "ru"),
        ("", {"LANG": "ru_RU.UTF-8", "LANGUAGE": "en"}, "en"),
        ("", {"LANG": "ru_RU.UTF-8", "SKYCHIMP_LANG": "en"}, "en"),
        ("", {"SKYCHIMP_LANG": "ru"}, "ru"),
        ("--lang ru run", {"SKYCHIMP_LANG": "en"}, "ru"),
        ("--lang=ru run", {}, "ru"),
        ("--config x -q --lang ru run", {}, "ru"),
        ("--store --lang ru run", {}, "en"),
        ("messages create --subject --lang ru", {}, "en"),
        ("--lang en run", {"LANG": "ru_RU.UTF-8"}, "en"),
        ("--lang tlh run", {"LANG": "ru_RU.UTF-8"}, "en"),
        ("--lang", {}, "en"),
    ],
)
def test_language_of_the_reader(arguments: str, environ: Mapping[str, str], language: str) -> None:
    assert wanted_language(arguments.split(), environ) == language


def test_unknown_language_is_refused(home: Home) -> None:
    refused = home.call("--lang", "tlh", "status")
    assert (refused.status, refused.err) == (2, 'error: unknown language "tlh"\nhint: use en or ru\n')


# Phrases


@given(st.text(), st.integers())
def test_phrase_is_its_english_text(text: str, number: int) -> None:
    assert tr("{text} and {number}", text=text, number=number) == f"{text} and {number}"
    assert verbatim(text) == text == translated(verbatim(text))
    assert trn("{number} one", "{number} many", number) == (f"{number} one" if number == 1 else f"{number} many")
    assert joined("; ", [tr("a"), text, tr("")]) == "; ".join(filter(None, ["a", text]))
    assert tr("{{ content }}") == "{{ content }}"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 писем"),
        (1, "1 письмо"),
        (2, "2 письма"),
        (5, "5 писем"),
        (11, "11 писем"),
        (21, "21 письмо"),
        (1002, "1\N{NO-BREAK SPACE}002 письма"),
    ],
)
def test_russian_plurals(russian: None, number: int, text: str) -> None:
    assert translated(count_of(number, "email")) == text


def test_values_are_translated_too_but_what_users_typed_is_not(russian: None) -> None:
    assert translated(tr("{shown:,} of {total}", shown=0, total=count_of(5, "tag"))) == "показано 0, всего 5 тегов"
    assert translated(verbatim("tag")) == "tag"
    assert translated("client 7") == "client 7"
    assert translated(tr("{path}: unknown", path="{other} {")) == "{other} {: unknown"
    assert looked_up("") == ""


# The program


def test_messages_are_shown_in_the_language_of_the_locale(home: Home) -> None:
    assert home.run("clients", "show", "7", environ=RUSSIAN).err.startswith("ошибка: ")
    shown = home.call("--lang", "ru", "--help")
    assert (shown.status, english_prose(shown.out)) == (0, [])


def test_json_logs_and_statuses_are_the_same_in_each_language(home: Home) -> None:
    for arguments in (["clients", "show", "7", "--json"], ["run", "--log-format", "json"], ["run", "--limit", "x"]):
        english, russian = (home.call(*arguments, environ=environ) for environ in ({}, RUSSIAN))
        assert english.status == russian.status
        if "json" in " ".join(arguments):
            assert without_times(english.err) == without_times(russian.err)


def without_times(lines: str) -> list[object]:
    return [{**json.loads(line), "at": ""} for line in lines.splitlines()]


SCREENS = [
    "clients list",
    "clients create --email ada@example.org --name Ada",
    "clients show 1",
    "clients create --email ada@example.org",
    "clients create --email ada",
    "clients update 1 --tag",
    "client list --sort x",
    "messages create --subject Hello --body Hello",
    "messages show 1",
    "messages preview 1",
    "messages check 1",
    "mailings create --message 1 --start now --every day --all-clients --yes",
    "mailings list",
    "mailings show 1",
    "mailings log 1",
    "mailings audience 1",
    "mailings disable 1",
    "mailings enable 1 --yes",
    "run",
    "run --plan",
    "status",
    "stats",
    "doctor",
    "report 1",
    "why ada@example.org",
    "suppressions add grace@example.org",
    "suppressions list",
    "segments create vips --where tag=",
    "users list",
    "whoami",
    "blog list",
    "clients delete 1 --yes",
    "clinets list",
    "help",
]
"""Commands whose output on a terminal must have no English sentence, in the order in which they run."""


@pytest.mark.slow
def test_nothing_is_said_in_english_on_a_russian_terminal(home: Home) -> None:
    english = {
        command: found
        for command in SCREENS
        if (found := english_prose(without_styles(home.on_terminal(*command.split(), environ=RUSSIAN).out)))
    }
    replies = "written to the"  # the outbox's reply, as the store keeps it
    assert {command: found for command, found in english.items() if found != [replies]} == {}


def without_styles(output: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)

"""A body that is written in the person's own editor."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command import Home

from skychimp.cli import editor
from skychimp.errors import InvalidValue, SkychimpError


@pytest.fixture
def edits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a shell script the person's editor."""

    def edits(script: str) -> None:
        path = tmp_path / "my editor"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o700)
        monkeypatch.setenv("VISUAL", f"'{path}' --wait")

    return edits


@pytest.mark.parametrize(
    ("script", "left"),
    [
        ("", "Zoë\n"),
        ('[ "$1" = --wait ] && echo more >> "$2"', "Zoë\nmore\n"),
        ('printf "\\357\\273\\277Hello\\n" > "$2"', "Hello\n"),
        (': > "$2"', ""),
        ('printf " \\n\\n" > "$2"', ""),
        ('case "$2" in *.md) echo Markdown > "$2";; esac', "Markdown\n"),
        ('ls -ld "$2" "$(dirname "$2")" | cut -c1-10 > "$0.modes"', "Zoë\n"),
    ],
)
def test_what_is_left_in_the_editor(edits: Callable[[str], None], tmp_path: Path, script: str, left: str) -> None:
    edits(script)
    assert editor.edit("Zoë\n", ".md") == left
    modes = tmp_path / "my editor.modes"
    assert not modes.exists() or modes.read_text() == "drwx------\n-rw-------\n"


@pytest.mark.parametrize(
    ("script", "error"),
    [("exit 3", SkychimpError), ('printf "\\377" > "$2"', InvalidValue), ('rm "$2"', SkychimpError)],
)
def test_an_editor_that_fails(edits: Callable[[str], None], script: str, error: type[SkychimpError]) -> None:
    edits(script)
    with pytest.raises(error):
        editor.edit("", ".txt")


@pytest.mark.parametrize("name", ["/nowhere/vi", "'unclosed", os.devnull])
def test_an_editor_that_is_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", name)
    with pytest.raises(InvalidValue):
        editor.edit("", ".txt")


def test_a_message_is_written_and_changed_in_the_editor(home: Home, edits: Callable[[str], None]) -> None:
    edits('echo "and *more*" >> "$2"')
    environ = {"VISUAL": os.environ["VISUAL"]}
    made = home.on_terminal("messages", "create", "--subject", "Hi", "--markdown", environ=environ)
    changed = home.on_terminal("messages", "update", "1", environ=environ)
    assert (made.status, changed.status) == (0, 0), made.out + changed.out
    shown = home.call("messages", "show", "1", "--json").json
    assert (shown["body"], shown["format"]) == ("and *more*\nand *more*\n", "markdown")


def test_nothing_is_kept_where_nothing_was_written(home: Home, edits: Callable[[str], None]) -> None:
    edits("")
    done = home.on_terminal("messages", "create", "--subject", "Hi", environ={"VISUAL": os.environ["VISUAL"]})
    assert done.status == 2
    assert "nothing was kept" in done.out
    assert home.call("messages", "list").out == ""


def test_what_can_not_be_used_is_edited_again(home: Home, edits: Callable[[str], None]) -> None:
    edits('grep -q "{{ nobody }}" "$2" && echo mended > "$2" || echo "{{ nobody }}" > "$2"')
    create = ("messages", "create", "--subject", "Hi")
    environ = {"VISUAL": os.environ["VISUAL"]}
    assert home.on_terminal(*create, answers=[("again? [Y/n] ", "n\n")], environ=environ).status == 1
    assert home.on_terminal(*create, answers=[("again? [Y/n] ", "\n")], environ=environ).status == 0
    assert home.call("messages", "show", "1", "--json").json["body"] == "mended\n"


def test_without_a_person_there_is_no_editor(home: Home) -> None:
    for command in (("messages", "create", "--subject", "Hi"), ("messages", "update", "1")):
        done = home.call(*command)
        assert done.status in (2, 4)
    assert "hint: give --body TEXT or --body-file FILE" in home.call("messages", "create", "--subject", "Hi").err

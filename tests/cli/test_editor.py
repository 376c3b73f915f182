"""Test the text that is written in the user's own editor, and that it is never lost."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command import Home

from skychimp.cli import editor
from skychimp.errors import InvalidValue, SkychimpError

CREATE = ("messages", "create", "--subject", "Hi")


@pytest.fixture
def set_editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that makes a shell script the user's editor. The script gets the file as `$2`."""
    drafts = tmp_path / "drafts"
    drafts.mkdir()
    monkeypatch.setenv("TMPDIR", str(drafts))

    def set_editor(script: str) -> None:
        path = tmp_path / "my editor"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o700)
        monkeypatch.setenv("VISUAL", f"'{path}' --wait")

    return set_editor


def editor_environ() -> dict[str, str]:
    return {name: os.environ[name] for name in ("VISUAL", "TMPDIR")}


def drafts() -> list[Path]:
    return [path for path in Path(os.environ["TMPDIR"]).rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("", "Zoë\n"),
        ('[ "$1" = --wait ] && echo more >> "$2"', "Zoë\nmore\n"),
        ('printf "\\357\\273\\277Hello\\n" > "$2"', "Hello\n"),
        (': > "$2"', ""),
        ('case "$2" in *.md) echo Markdown > "$2";; esac', "Markdown\n"),
    ],
)
def test_edited_text(set_editor: Callable[[str], None], tmp_path: Path, script: str, text: str) -> None:
    set_editor(script)
    path = tmp_path / "text.md"
    path.write_text("Zoë\n", encoding="utf-8")
    assert editor.edit_file(path) == text


@pytest.mark.parametrize(
    ("script", "error"),
    [("exit 3", SkychimpError), ('printf "\\377" > "$2"', InvalidValue), ('rm "$2"', SkychimpError)],
)
def test_failing_editor(
    set_editor: Callable[[str], None], tmp_path: Path, script: str, error: type[SkychimpError]
) -> None:
    set_editor(script)
    path = tmp_path / "text.txt"
    path.touch()
    with pytest.raises(error):
        editor.edit_file(path)


@pytest.mark.parametrize("name", ["/nowhere/vi", "'unclosed", os.devnull])
def test_editor_that_cannot_be_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", name)
    with pytest.raises(InvalidValue):
        editor.edit_file(tmp_path / "text.txt")


def test_message_is_written_and_changed_in_the_editor(home: Home, set_editor: Callable[[str], None]) -> None:
    set_editor('echo "and *more*" >> "$2"')
    created = home.on_terminal(*CREATE, "--markdown", environ=editor_environ())
    changed = home.on_terminal("messages", "update", "1", environ=editor_environ())
    assert (created.status, changed.status) == (0, 0), created.out + changed.out
    shown = home.call("messages", "show", "1", "--json").json
    assert (shown["body"], shown["format"]) == ("and *more*\nand *more*\n", "markdown")
    assert drafts() == []


def test_draft_can_be_read_by_its_owner_only(home: Home, set_editor: Callable[[str], None]) -> None:
    set_editor('ls -ld "$2" "$(dirname "$2")" | cut -c1-10 > "$0.modes"; echo Hello > "$2"')
    assert home.on_terminal(*CREATE, environ=editor_environ()).status == 0
    modes = Path(os.environ["VISUAL"].split("'")[1] + ".modes").read_text()
    assert modes == "drwx------\n-rw-------\n"


@pytest.mark.parametrize("script", ["", 'printf " \\n\\n" > "$2"', "exit 1"])
def test_nothing_is_created_from_an_empty_text(home: Home, set_editor: Callable[[str], None], script: str) -> None:
    set_editor(script)
    done = home.on_terminal(*CREATE, environ=editor_environ())
    assert done.status == (1 if script == "exit 1" else 2)
    assert ("the message has no body" in done.out) == (script != "exit 1")
    assert home.call("messages", "list").out == ""
    assert drafts() == []


def test_invalid_text_can_be_edited_again(home: Home, set_editor: Callable[[str], None]) -> None:
    set_editor('grep -q "{{ nobody }}" "$2" && echo fixed > "$2" || echo "{{ nobody }}" > "$2"')
    done = home.on_terminal(*CREATE, answers=[("again? [Y/n] ", "\n")], environ=editor_environ())
    assert done.status == 0, done.out
    assert home.call("messages", "show", "1", "--json").json["body"] == "fixed\n"
    assert drafts() == []


@pytest.mark.parametrize(
    ("script", "answers", "status"),
    [
        ('echo "{{ nobody }}" > "$2"', [("again? [Y/n] ", "n\n")], 1),
        ('echo "{{ nobody }}" > "$2"', [("again? [Y/n] ", "\x03")], 130),
        ('echo "{{ nobody }}" > "$2"; exit 3', [], 1),
        ('printf "{{ nobody }}\\377" > "$2"', [], 2),
    ],
)
def test_text_that_was_not_saved_is_kept(
    home: Home, set_editor: Callable[[str], None], script: str, answers: list[tuple[str, str]], status: int
) -> None:
    set_editor(script)
    done = home.on_terminal(*CREATE, answers=answers, environ=editor_environ())
    assert done.status == status
    (draft,) = drafts()
    assert f"your text is saved in {draft}" in done.out
    assert draft.read_bytes().startswith(b"{{ nobody }}")


def test_no_editor_without_a_terminal(home: Home) -> None:
    for command in (CREATE, ("messages", "update", "1")):
        done = home.call(*command)
        assert done.status in (2, 4)
    error = home.call(*CREATE).err
    assert error == "error: the message has no body\nhint: use --body, --body-file or --html-file\n"

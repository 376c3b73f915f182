"""`skychimp blog`: for anyone to read, on a terminal and in a pipe, and for editors to write."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import enrol
from PIL import Image
from support.command import PROGRAM, Home

from skychimp.models import Role
from skychimp.permissions import Actor
from skychimp.store.database import Store

POST = {
    "id", "slug", "title", "content", "image", "views", "created_at", "updated_at", "published_at", "revision",
    "author",
}  # fmt: skip
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def editor(store: Store, home_of: Callable[[Actor], Home]) -> Home:
    """An editor's command line, with an image and a text at hand."""
    home = home_of(enrol(store, "editor", Role.EDITOR))
    Image.new("RGB", (8, 8), (200, 0, 0)).save(home.folder / "red.png")
    (home.folder / "post.md").write_text("Some *words*.\n", encoding="utf-8")
    return home


@pytest.fixture
def guest(store: Store, tmp_path: Path) -> Home:
    (tmp_path / "guest").mkdir()
    return Home(tmp_path / "guest", SKYCHIMP_STORE=str(store.path))


def make(editor: Home, *arguments: str, title: str = "A title") -> str:
    """A post that is made; its slug."""
    made = editor.call("blog", "create", "--title", title, "--body", "Some *words*.", *arguments, "--json")
    assert made.status == 0, made.err
    return str(made.json["slug"])


def test_the_life_of_a_post_in_json(editor: Home, guest: Home) -> None:
    slug = make(editor, "--image", "red.png")
    steps = {
        ("blog", "list"): [],
        ("blog", "publish", slug): 1,
        ("blog", "update", slug, "--title", "Another"): 2,
        ("blog", "update", slug, "--body-file", "post.md", "--no-image"): 3,
        ("blog", "unpublish", "1"): 3,
    }
    for command, revision in steps.items():
        found = editor.call(*command, "--json").json
        assert found == [] if revision == [] else (set(found) == POST and found["revision"] == revision)

    assert guest.call("blog", "show", slug, "--json").status == 4
    assert editor.call("blog", "list", "--all", "--json").json[0]["published_at"] is None
    editor.call("blog", "publish", slug)
    shown = [guest.call("blog", "show", name, "--json").json for name in (slug, "1")]
    assert [(post["title"], post["content"], post["image"]) for post in shown] == [
        ("Another", "Some *words*.\n", None)
    ] * 2
    assert [post["views"] for post in shown] == [1, 2]
    assert set(guest.call("blog", "list", "--json").json[0]) == POST - {"content"}
    assert editor.call("blog", "delete", slug, "--yes", "--json").json["slug"] == slug
    assert guest.call("blog", "show", slug).status == 4


@pytest.mark.parametrize(
    ("arguments", "is_published"),
    [
        ([], None),
        (["--publish"], True),
        (["--publish", "now"], True),
        (["--publish", "2020-01-01 09:00"], True),
        (["--publish", "+1d"], False),
        (["--publish", "--image", "red.png"], True),
    ],
)
def test_publish_takes_a_time_or_none(
    editor: Home, guest: Home, arguments: list[str], is_published: bool | None
) -> None:
    slug = make(editor, *arguments)

    assert (editor.call("blog", "show", slug, "--json").json["published_at"] is None) == (is_published is None)
    assert (guest.call("blog", "show", slug).status == 0) == bool(is_published)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["create", "--title", "A"], 2, "what does it say"),
        (["create", "--title", "A", "--body", "x", "--body-file", "post.md"], 2, "--body-file"),
        (["create", "--title", "A", "--body-file", "gone.md"], 2, "gone.md"),
        (["create", "--title", "A", "--body", "x", "--image", "gone.png"], 2, "gone.png"),
        (["create", "--title", "A", "--body", "x", "--image", "post.md"], 2, "no image"),
        (["create", "--title", "A", "--body", "x", "--image", "."], 2, "can't be read"),
        (["create", "--title", "A", "--body", "x", "--publish", "someday"], 2, "someday"),
        (["update", "a-title"], 2, "what does it say"),
        (["update", "a-title", "--image", "red.png", "--no-image"], 2, "--no-image"),
        (["update", "nothing", "--title", "A"], 4, "nothing"),
        (["publish", "a-title", "someday"], 2, "someday"),
        (["show", "no\x1b[2Jthing"], 4, r"no\x1b[2Jthing"),
        (["delete", "a-title"], 2, "--yes"),
        (["list", "--sort", "content"], 2, "published_at"),
    ],
    ids=str,
)
def test_what_can_not_be_done_is_one_line_and_changes_nothing(
    editor: Home, arguments: list[str], status: int, words: str
) -> None:
    make(editor)
    before = editor.call("blog", "list", "--all", "--json").out

    done = editor.call("blog", *arguments)
    assert (done.status, done.out) == (status, "")
    assert words in done.err
    assert re.fullmatch(r"error: .+\n(hint: .+\n)?", done.err)
    assert editor.call("blog", "list", "--all", "--json").out == before


def test_others_may_not_write(store: Store, guest: Home, home: Home, editor: Home) -> None:
    slug = make(editor)
    for who in (guest, home):
        for command in (
            ["create", "--title", "A", "--body", "x"],
            ["publish", slug],
            ["list", "--all"],
            ["delete", slug],
        ):
            assert who.call("blog", *command).status == 5
        assert who.call("blog", "list").status == 0


def test_in_a_pipe_a_post_is_its_markdown_with_nothing_that_does_anything(editor: Home, guest: Home) -> None:
    slug = make(editor, "--body", "a [link](https://example.org)\n\n\tcode \u202eevil", "--publish", title="[b]T\u202e")

    assert guest.call("blog", "show", slug).out == (
        "# [b]T\\u202e\n\na [link](https://example.org)\n\n\\tcode \\u202eevil\n"
    )
    assert guest.call("blog", "list").out.split("\t")[2] == "[b]T\\u202e"


def test_on_a_terminal_a_post_is_drawn(editor: Home, guest: Home) -> None:
    body = "Some *words* and a [link](https://example.org/a).\n\n- one\n- two &#x202e; &#27;[2J\n"
    make(editor, "--body", body, "--image", "red.png", "--publish", title="T\u202e [bold]")
    seen = guest.on_terminal("blog", "show", "1", environ={"COLORTERM": "truecolor"}).out

    assert "T\\u202e [bold]" in ESCAPES.sub("", seen)
    assert "▀▀▀▀▀▀▀▀" in ESCAPES.sub("", seen)
    assert "38;2;200;0;0" in seen
    assert "a link (https://example.org/a)" in ESCAPES.sub("", seen)
    assert "• two \\u202e" in ESCAPES.sub("", seen)
    assert not re.search("[\u202e\x07]|\x1b[^\\[]|\x1b\\[[0-9;?]*[^0-9;?m]", seen)  # nothing but colours


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_where_there_are_no_colours_there_is_no_picture(editor: Home, guest: Home, environ: dict[str, str]) -> None:
    make(editor, "--image", "red.png", "--publish")
    seen = guest.on_terminal("blog", "show", "1", environ=environ).out

    assert "words" in seen
    assert "▀" not in seen
    assert "38;2" not in seen


def test_an_image_that_is_gone_keeps_nobody_from_reading(store: Store, editor: Home, guest: Home) -> None:
    make(editor, "--image", "red.png", "--publish")
    for file in store.path.with_name("skychimp.db.images").iterdir():
        file.unlink()
    done = guest.on_terminal("blog", "show", "1", environ={"COLORTERM": "truecolor"})

    assert done.status == 0
    assert "its image can't be shown" in done.out
    assert "words" in done.out


# In the editor


def program(home: Home, script: str) -> dict[str, str]:
    """An editor that does what a shell script says with the file, $2."""
    path = home.folder / "the editor"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    temporary = home.folder / "tmp"
    temporary.mkdir(exist_ok=True)
    return {"EDITOR": f"'{path}' --wait", "VISUAL": "", "TMPDIR": str(temporary)}


def test_a_post_is_written_in_the_persons_editor(editor: Home) -> None:
    environ = program(editor, 'stat -c %a "$2" > mode; test -s "$2" || echo "Written *there*" > "$2"')
    done = editor.on_terminal("blog", "create", "--title", "A", "--publish", environ=environ)

    assert done.status == 0, done.out
    assert editor.call("blog", "show", "1").out == "# A\n\nWritten *there*\n\n"
    assert (editor.folder / "mode").read_text() == "600\n"
    assert os.listdir(environ["TMPDIR"]) == []

    assert "nothing was changed" in editor.on_terminal("blog", "update", "a", environ=environ).out
    more = program(editor, 'echo "and more" >> "$2"')
    assert editor.on_terminal("blog", "update", "a", environ=more).status == 0
    assert editor.call("blog", "show", "1").out == "# A\n\nWritten *there*\nand more\n\n"


def test_what_was_written_is_not_lost_where_it_can_not_be_kept(editor: Home) -> None:
    environ = program(editor, 'printf "long work\\a" > "$2"')
    done = editor.on_terminal("blog", "create", "--title", "A", environ=environ)

    (kept,) = Path(environ["TMPDIR"]).iterdir()
    assert done.status == 2
    assert f"what you wrote is kept in {kept}" in done.out
    assert kept.read_bytes() == b"long work\a"


def test_two_who_edit_at_once_lose_nothing(editor: Home) -> None:
    slug = make(editor)
    environ = program(editor, f'echo mine > "$2"; "{PROGRAM}" blog update {slug} --body theirs')
    done = editor.on_terminal("blog", "update", slug, environ=environ)

    (kept,) = Path(environ["TMPDIR"]).iterdir()
    assert done.status == 6, done.out
    assert kept.read_text() == "mine\n"
    assert editor.call("blog", "show", slug, "--json").json["content"] == "theirs"


@pytest.mark.parametrize("script", ["exit 1", "true"])
def test_an_editor_that_writes_nothing_makes_nothing(editor: Home, script: str) -> None:
    environ = program(editor, script)
    done = editor.on_terminal("blog", "create", "--title", "A", environ=environ)

    assert done.status in (1, 2)
    assert "error: " in ESCAPES.sub("", done.out)
    assert os.listdir(environ["TMPDIR"]) == []
    assert editor.call("blog", "list", "--all").out == ""

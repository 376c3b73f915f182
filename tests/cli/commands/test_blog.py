"""Test `skychimp blog`: reading posts on a terminal and in a pipe, and writing them."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import create_user
from PIL import Image
from support.command import PROGRAM, Home
from support.contents import image_names, lose_image
from support.stores import store_environ

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
    """Return the command line of an editor, with an image and a text in its folder."""
    home = home_of(create_user(store, "editor", Role.EDITOR))
    Image.new("RGB", (8, 8), (200, 0, 0)).save(home.folder / "red.png")
    (home.folder / "post.md").write_text("Some *words*.\n", encoding="utf-8")
    return home


@pytest.fixture
def guest(store: Store, tmp_path: Path) -> Home:
    (tmp_path / "guest").mkdir()
    return Home(tmp_path / "guest", **store_environ(store))


def create_post(editor: Home, *arguments: str, title: str = "A title") -> str:
    """Create a post, and return its slug."""
    created = editor.call("blog", "create", "--title", title, "--body", "Some *words*.", *arguments, "--json")
    assert created.status == 0, created.err
    return str(created.json["slug"])


def test_post_is_created_published_changed_and_deleted(editor: Home, guest: Home) -> None:
    slug = create_post(editor, "--image", "red.png")
    steps = {
        ("blog", "list"): [],
        ("blog", "publish", slug): 1,
        ("blog", "update", slug, "--title", "Another"): 2,
        ("blog", "update", slug, "--body-file", "post.md", "--no-image"): 3,
        ("blog", "unpublish", "1"): 3,
    }
    for command, revision in steps.items():
        result = editor.call(*command, "--json").json
        assert result == [] if revision == [] else (set(result) == POST and result["revision"] == revision)

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
        pytest.param(["--publish", "now"], True, marks=pytest.mark.slow),
        pytest.param(["--publish", "2020-01-01 09:00"], True, marks=pytest.mark.slow),
        (["--publish", "+1d"], False),
        (["--publish", "--image", "red.png"], True),
    ],
)
def test_publish_with_and_without_a_time(
    editor: Home, guest: Home, arguments: list[str], is_published: bool | None
) -> None:
    slug = create_post(editor, *arguments)

    assert (editor.call("blog", "show", slug, "--json").json["published_at"] is None) == (is_published is None)
    assert (guest.call("blog", "show", slug).status == 0) == bool(is_published)


ERRORS = [
    (["create", "--title", "A"], 2, "the post has no content"),
    (["create", "--title", "A", "--body", "x", "--body-file", "post.md"], 2, "--body-file"),
    (["create", "--title", "A", "--body-file", "gone.md"], 2, "gone.md"),
    (["create", "--title", "A", "--body", "x", "--image", "gone.png"], 2, "gone.png"),
    (["create", "--title", "A", "--body", "x", "--image", "post.md"], 2, "not a valid image"),
    (["create", "--title", "A", "--body", "x", "--image", "."], 2, "cannot read"),
    (["create", "--title", "A", "--body", "x", "--publish", "someday"], 2, "someday"),
    (["update", "a-title"], 2, "the post has no content"),
    (["update", "a-title", "--image", "red.png", "--no-image"], 2, "--no-image"),
    (["update", "nothing", "--title", "A"], 4, "nothing"),
    (["publish", "a-title", "someday"], 2, "someday"),
    (["show", "no\x1b[2Jthing"], 4, r"no\x1b[2Jthing"),
    (["delete", "a-title"], 2, "--yes"),
    (["list", "--sort", "content"], 2, "published_at"),
]
"""Wrong arguments, with the status and a part of the error."""


def test_error_is_one_line_and_changes_nothing(editor: Home) -> None:
    create_post(editor)
    before = editor.call("blog", "list", "--all", "--json").out

    for arguments, status, message in ERRORS:
        done = editor.call("blog", *arguments)
        assert (done.status, done.out) == (status, ""), arguments
        assert message in done.err
        assert re.fullmatch(r"error: .+\n(hint: .+\n)?", done.err), arguments
        assert editor.call("blog", "list", "--all", "--json").out == before, arguments


def test_only_editors_may_write(store: Store, guest: Home, home: Home, editor: Home) -> None:
    slug = create_post(editor)
    for reader in (guest, home):
        for command in (
            ["create", "--title", "A", "--body", "x"],
            ["publish", slug],
            ["list", "--all"],
            ["delete", slug],
        ):
            assert reader.call("blog", *command).status == 5
        assert reader.call("blog", "list").status == 0


def test_pipe_gets_escaped_markdown(editor: Home, guest: Home) -> None:
    slug = create_post(
        editor, "--body", "a [link](https://example.org)\n\n\tcode \u202eevil", "--publish", title="[b]T\u202e"
    )

    assert guest.call("blog", "show", slug).out == (
        "# [b]T\\u202e\n\na [link](https://example.org)\n\n\\tcode \\u202eevil\n"
    )
    assert guest.call("blog", "list").out.split("\t")[2] == "[b]T\\u202e"


def test_terminal_shows_the_rendered_post(editor: Home, guest: Home) -> None:
    body = "Some *words* and a [link](https://example.org/a).\n\n- one\n- two &#x202e; &#27;[2J\n"
    create_post(editor, "--body", body, "--image", "red.png", "--publish", title="T\u202e [bold]")
    seen = guest.on_terminal("blog", "show", "1", environ={"COLORTERM": "truecolor"}).out

    assert "T\\u202e [bold]" in ESCAPES.sub("", seen)
    assert "▀▀▀▀▀▀▀▀" in ESCAPES.sub("", seen)
    assert "38;2;200;0;0" in seen
    assert "a link (https://example.org/a)" in ESCAPES.sub("", seen)
    assert "• two \\u202e" in ESCAPES.sub("", seen)
    assert not re.search("[\u202e\x07]|\x1b[^\\[]|\x1b\\[[0-9;?]*[^0-9;?m]", seen)  # only colors


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, pytest.param({"TERM": "dumb"}, marks=pytest.mark.slow)])
def test_no_picture_without_colors(editor: Home, guest: Home, environ: dict[str, str]) -> None:
    create_post(editor, "--image", "red.png", "--publish")
    seen = guest.on_terminal("blog", "show", "1", environ=environ).out

    assert "words" in seen
    assert "▀" not in seen
    assert "38;2" not in seen


def test_post_with_a_missing_image_can_be_read(store: Store, editor: Home, guest: Home) -> None:
    create_post(editor, "--image", "red.png", "--publish")
    (name,) = image_names(store)
    lose_image(store, name)
    done = guest.on_terminal("blog", "show", "1", environ={"COLORTERM": "truecolor"})

    assert done.status == 0
    assert "cannot show the image" in done.out
    assert "words" in done.out


# In an editor


def editor_environ(home: Home, script: str) -> dict[str, str]:
    """Return the environment for an editor that runs a shell script with the file as $2."""
    path = home.folder / "the editor"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    temporary = home.folder / "tmp"
    temporary.mkdir(exist_ok=True)
    return {"EDITOR": f"'{path}' --wait", "VISUAL": "", "TMPDIR": str(temporary)}


def test_post_is_written_in_the_editor(editor: Home) -> None:
    environ = editor_environ(editor, 'stat -c %a "$2" > mode; test -s "$2" || echo "Written *there*" > "$2"')
    done = editor.on_terminal("blog", "create", "--title", "A", "--publish", environ=environ)

    assert done.status == 0, done.out
    assert editor.call("blog", "show", "1").out == "# A\n\nWritten *there*\n\n"
    assert (editor.folder / "mode").read_text() == "600\n"
    assert os.listdir(environ["TMPDIR"]) == []

    assert "nothing was changed" in editor.on_terminal("blog", "update", "a", environ=environ).out
    more = editor_environ(editor, 'echo "and more" >> "$2"')
    assert editor.on_terminal("blog", "update", "a", environ=more).status == 0
    assert editor.call("blog", "show", "1").out == "# A\n\nWritten *there*\nand more\n\n"


def test_text_that_cannot_be_saved_is_not_lost(editor: Home) -> None:
    environ = editor_environ(editor, 'printf "long work\\a" > "$2"')
    done = editor.on_terminal("blog", "create", "--title", "A", environ=environ, answers=[("[Y/n]", "n\n")])

    (file,) = Path(environ["TMPDIR"]).glob("*/*")
    assert done.status == 1
    assert f"your text is saved in {file}" in done.out
    assert file.read_bytes() == b"long work\a"


def test_invalid_text_is_edited_again(editor: Home) -> None:
    environ = editor_environ(editor, 'test -s "$2" && echo fixed > "$2" || printf "long work\\a" > "$2"')
    done = editor.on_terminal("blog", "create", "--title", "A", environ=environ, answers=[("[Y/n]", "\n")])

    assert done.status == 0, done.out
    assert editor.call("blog", "show", "a", "--json").json["content"] == "fixed\n"
    assert os.listdir(environ["TMPDIR"]) == []


def test_concurrent_edits_lose_nothing(editor: Home) -> None:
    slug = create_post(editor)
    environ = editor_environ(editor, f'echo mine > "$2"; "{PROGRAM}" blog update {slug} --body theirs')
    done = editor.on_terminal("blog", "update", slug, environ=environ)

    (file,) = Path(environ["TMPDIR"]).glob("*/*")
    assert done.status == 6, done.out
    assert file.read_text() == "mine\n"
    assert editor.call("blog", "show", slug, "--json").json["content"] == "theirs"


@pytest.mark.parametrize("script", [pytest.param("exit 1", marks=pytest.mark.slow), "true"])
def test_editor_without_text_creates_nothing(editor: Home, script: str) -> None:
    environ = editor_environ(editor, script)
    done = editor.on_terminal("blog", "create", "--title", "A", environ=environ)

    assert done.status in (1, 2)
    assert "error: " in ESCAPES.sub("", done.out)
    assert os.listdir(environ["TMPDIR"]) == []
    assert editor.call("blog", "list", "--all").out == ""

"""`skychimp layouts`: from the command to the email, what is refused, and what is said."""

from pathlib import Path

import pytest
from support.command import Home
from support.inbox import body_of, read_outbox

from skychimp.store.database import Store

LAYOUT = "<style>h1{color:red}</style>\n{{ content }}\n<p>{{ preheader }}</p>\n"


def write(home: Home, name: str, text: str) -> str:
    Path(home.folder / name).write_text(text)
    return name


def test_layout_is_created_used_changed_and_deleted(store: Store, home: Home) -> None:
    file = write(home, "layout.html", LAYOUT)
    created = home.call("layouts", "create", "newsletter", "--html-file", file, "--json").json
    assert (created["id"], created["name"], created["html"]) == (1, "newsletter", LAYOUT)
    message = ["--subject", "News", "--body", "# News", "--markdown"]
    made = home.call("messages", "create", *message, "--layout", "newsletter", "--preheader", "Look", "--json")
    assert (made.json["layout"], made.json["preheader"]) == ("newsletter", "Look")
    assert home.call("messages", "test", "1", "--to", "zoe@example.org").status == 0
    (email,) = read_outbox(store.path.with_name("outbox"))
    assert '<h1 style="color:red">News</h1>\n<p>Look</p>' in body_of(email, "html")
    assert body_of(email) == "News\n"

    refused = home.call("layouts", "delete", "newsletter", "--yes")
    assert (refused.status, refused.err) == (
        6,
        'error: layout newsletter is used by message 1\nhint: run "skychimp messages update 1 --layout default"\n',
    )
    assert home.call("messages", "update", "1", "--layout", "default").status == 0
    assert home.call("layouts", "update", "newsletter", "--name", "old", "--json").json["name"] == "old"
    assert home.call("layouts", "list").out.split("\t")[:2] == ["1", "old"]
    assert home.call("layouts", "delete", "old").status == 2
    assert home.call("layouts", "delete", "old", "--yes", "--json").json["name"] == "old"
    assert home.call("layouts", "show", "old").status == 4


def test_built_in_layout_is_the_beginning_of_another_one(home: Home) -> None:
    shown = home.call("layouts", "show", "default", "--html").out
    assert shown == home.call("layouts", "show", "default", "--json").json["html"]
    assert home.call("layouts", "create", "mine", "--html-file", "-", stdin=shown).status == 0
    assert home.call("layouts", "show", "mine", "--html").out == shown


@pytest.mark.parametrize(
    ("arguments", "source", "error"),
    [
        (["layouts", "create", "x", "--html-file", "page.html"], "<p>Hello</p>",
         "error: the layout has no {{ content }}\nhint: write {{ content }} where the message belongs\n"),
        (["layouts", "create", "x", "--html-file", "page.html"], "<style>b{color:red}</style>\n<b>{{ content }}\n",
         "error: page.html: the CSS of the layout cannot be inlined: line 2: <b> is not closed\n"),
        (["messages", "create", "--subject", "s", "--html-file", "page.html"], "<style>b{color:red}</style>\n<b>x<p>",
         "error: page.html: the CSS of the HTML part cannot be inlined: line 2: <b> is not closed\n"),
        (["layouts", "update", "default", "--html-file", "page.html"], "{{ content }}",
         "error: the built-in layout cannot be changed or deleted\n"),
        (["messages", "create", "--subject", "s", "--body", "x", "--layout", "default"], "",
         "error: a plain text has no layout\nhint: use --markdown or --html-file, or --layout none\n"),
    ],
    ids=["no content", "layout", "message", "built-in", "plain text"],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(home: Home, arguments: list[str], source: str, error: str) -> None:
    write(home, "page.html", source)
    refused = home.call(*arguments)
    assert (refused.status, refused.out) == (2, "")
    assert refused.err.startswith(error)
    assert home.call("messages", "list", "--json").json == home.call("layouts", "list", "--json").json == []


def test_update_names_the_mailings_that_keep_the_old_layout(home: Home) -> None:
    file = write(home, "layout.html", LAYOUT)
    home.call("layouts", "create", "own", "--html-file", file)
    home.call("clients", "create", "--email", "bob@example.org")
    home.call("messages", "create", "--subject", "s", "--body", "b", "--markdown", "--layout", "own")
    home.environ |= {"SKYCHIMP_MAIL__TRANSPORT": "smtp", "SKYCHIMP_SMTP__PORT": "1", "SKYCHIMP_RUN__PATIENCE": "0s"}
    home.environ |= {"SKYCHIMP_SMTP__HOST": "127.0.0.1", "SKYCHIMP_SMTP__SECURITY": "none"}
    home.call("mailings", "create", "--message", "1", "--start", "now", "--every", "once", "--all-clients")
    write(home, file, LAYOUT + "<hr>")
    changed = home.call("layouts", "update", "own", "--html-file", file)
    assert changed.err == (
        "mailing 1 still sends the old layout; to change what was not sent yet,"
        ' run "skychimp messages update 1 --also-open"\n'
    )
    assert home.call("messages", "update", "1", "--also-open").status == 0
    assert home.call("layouts", "update", "own", "--html-file", file).err == ""


def test_preview_on_a_terminal_names_the_layout_instead_of_its_html(home: Home) -> None:
    home.call("messages", "create", "--subject", "s", "--body", "*News*", "--markdown")
    shown = home.on_terminal("messages", "preview", "1")
    assert "the HTML part has the layout default; --open shows it" in shown.out
    assert "<table" not in shown.out
    assert "<em>News</em>" in home.call("messages", "preview", "1").out

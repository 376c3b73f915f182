"""`skychimp messages`: files that other tools made, from the command to the bytes of the email."""

from pathlib import Path

import pytest
from support.command import Home
from support.inbox import body_of, read_outbox

from skychimp.store.database import Store

MINIFIED = (
    "<html><style>@media print{#menu{display:none!important}}</style><body><div id=menu>Hello</div></body></html>\n"
)
MADE = "the text part was made from the HTML part; use --body or --body-file to replace it\n"
MERGE_TAGS = (
    "merge tags of another program are sent as they are: *|FNAME|*, *|UNSUB|*\n"
    'hint: use {{ client.name }} or {{ client.email }}, or run "skychimp help templates"\n'
)


@pytest.mark.parametrize(
    ("options", "source", "text", "html"),
    [
        (["--subject", "s", "--html-file"], MINIFIED, "Hello\n", MINIFIED),
        (["--subject", "s", "--markdown", "--layout", "none", "--body-file"], "## Events {#events}\n",
         "Events {#events}\n", "<h2>Events &#123;#events}</h2>\n"),
        (["--subject", "s", "--html-file"], "<p>Dear <b>{{ client.name }}</b>", "Dear Ada Lovelace\n",
         "<p>Dear <b>Ada Lovelace</b>\n"),
        (["--markdown", "--body-file"], "---\nsubject: s\nlayout: none\n---\n# News\n", "News\n", "<h1>News</h1>\n"),
        (["--subject", "s", "--markdown", "--layout", "none", "--body-file"], "Hello\n-- \nAda\n", "Hello\n-- \nAda\n",
         "<p>Hello</p>\n<p>-- <br />\nAda</p>\n"),
    ],
    ids=["minified CSS", "ID of a heading", "HTML only", "front matter", "signature"],
)  # fmt: skip
def test_file_is_sent_unharmed(store: Store, home: Home, options: list[str], source: str, text: str, html: str) -> None:
    (home.folder / "source").write_text(source)
    created = home.call("messages", "create", *options, "source")
    assert (created.status, created.err) == (0, MADE if "--html-file" in options else "")
    assert home.call("messages", "test", "1", "--to", "zoe@example.org").status == 0
    (email,) = read_outbox(store.path.with_name("outbox"))
    assert (email["Subject"], body_of(email), body_of(email, "html")) == ("s", text, html)


def test_update_says_where_the_text_part_comes_from(home: Home) -> None:
    (home.folder / "page.html").write_text("<p>Hello</p>")
    home.call("messages", "create", "--subject", "s", "--html-file", "page.html")
    for options, note, body in [
        (("--html-file", "page.html"), MADE, "Hello\n"),
        (("--body", "Mine"), "the HTML part was not changed; use", "Mine"),
        (("--html-file", "page.html"), "the text part was not changed; use --body ''", "Mine"),
        (("--body", ""), MADE, "Hello\n"),
        (("--body", "Mine", "--html-file", "page.html"), "", "Mine"),
        (("--subject", "t"), "", "Mine"),
    ]:
        updated = home.call("messages", "update", "1", *options, "--json")
        assert (updated.status, updated.json["body"]) == (0, body)
        assert note in updated.err
        assert bool(updated.err) == bool(note)


def test_merge_tags_of_other_tools_are_named(home: Home) -> None:
    source = "<style>p{$a}</style>Hi *|FNAME|*, <a href='*|UNSUB|*'>unsubscribe</a>"
    create = ("messages", "create", "--subject", "Hi *|FNAME|*")
    assert home.call(*create, "--html-file", "-", stdin=source).err == MADE + MERGE_TAGS
    assert home.call("messages", "update", "1", "--body", "*|FNAME|* *|UNSUB|*", "--plain").err == MERGE_TAGS
    assert home.call("messages", "update", "1", "--body", "Hello").err == ""
    many = home.call("messages", "update", "1", "--body", " ".join(f"*|F{number}|*" for number in range(2_000)))
    assert "*|F4|* and 1,995 more\n" in many.err


@pytest.mark.parametrize(
    ("options", "source", "error"),
    [
        (["--html-file", "-"], "<p>Hello</p>", "error: the message has no subject\nhint: use --subject\n"),
        (["--markdown", "--body-file", "-"], "# News", "error: the subject is empty\nhint: use --subject\n"),
        (["--markdown", "--body-file", "-", "--subject", "s"], "---\ntitle: x\n---\n# News",
         'error: unknown key in the front matter: "title"\n'
         "hint: use subject, digest, layout or preheader, or remove it\n"),
        (["--html-file", "-", "--subject", "s"], "<img src='x.png'>",
         "error: no text part can be made from the HTML part: it has no text\nhint: use --body or --body-file\n"),
    ],
    ids=["no subject", "no front matter", "unknown key", "no text"],
)  # fmt: skip
def test_file_that_cannot_be_sent_is_refused(home: Home, options: list[str], source: str, error: str) -> None:
    refused = home.call("messages", "create", *options, stdin=source)
    assert (refused.status, refused.out, refused.err) == (2, "", error)
    assert home.call("messages", "list", "--json").json == []


def test_preview_opens_in_a_browser(home: Home) -> None:
    browser = home.folder / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {home.folder / "opened"}\n')
    browser.chmod(0o755)
    home.call("messages", "create", "--subject", "Hi {{ client.name }}", "--body", "**Dear** you", "--markdown")
    environ = {"BROWSER": f"{browser} %s", "TMPDIR": str(home.folder)}
    shown = home.run("messages", "preview", "1", "--open", "--json", environ=environ)
    assert shown.status == 0
    page = Path(shown.json["file"])
    assert (home.folder / "opened").read_text().strip() == page.as_uri()
    assert page.stat().st_mode & 0o077 == 0
    assert "Hi Ada Lovelace" in page.read_text()
    assert "&lt;strong&gt;Dear&lt;/strong&gt;" in page.read_text()

    broken = home.run("messages", "preview", "1", "--open", environ=environ | {"BROWSER": "false %s"})
    assert broken.status == 1
    assert "cannot start a browser" in broken.err


def test_test_email_is_what_a_client_would_get_and_goes_to_several(store: Store, home: Home) -> None:
    home.call("clients", "create", "--email", "c@example.org", "--name", "Grace")
    home.call("messages", "create", "--subject", "Hi {{ client.name }}", "--body", "For {{ client.email }}")
    to = ("--to", "a@example.org", "--to", "b@example.org", "--to", "A@example.org")
    sent = home.call("messages", "test", "1", *to, "--client", "c@example.org", "--json")
    assert [each["to"] for each in sent.json] == ["a@example.org", "b@example.org", "A@example.org"]
    for email in read_outbox(store.path.with_name("outbox")):
        assert email["To"] in ("a@example.org", "b@example.org", "A@example.org")
        assert (email["Subject"], body_of(email)) == ("Hi Grace", "For c@example.org\n")


def test_test_email_in_the_outbox_is_not_called_sent(home: Home) -> None:
    home.call("messages", "create", "--subject", "Hi", "--body", "x")
    shown = home.call("messages", "test", "1", "--to", "a@example.org", width=80).err
    assert shown == (
        'nothing has left this machine\nhint: set mail.transport = "smtp"\nnext: skychimp mailings create --help\n'
    )


def test_preview_on_a_terminal_says_that_the_client_is_a_sample(home: Home) -> None:
    home.call("messages", "create", "--subject", "Hi", "--body", "x")
    home.call("clients", "create", "--email", "c@example.org")
    note = "this is for a sample client; use --client to choose one of yours\n"
    assert home.call("messages", "preview", "1", width=80).err.startswith(note)
    assert note not in home.call("messages", "preview", "1", "--client", "c@example.org", width=80).err
    assert home.call("messages", "preview", "1").err == ""


def test_tests_that_were_sent_are_shown_before_an_error(home: Home) -> None:
    home.call("messages", "create", "--subject", "Hi", "--body", "x")
    refused = home.call("messages", "test", "1", "--to", "a@example.org", "--to", "nobody")
    assert (refused.status, refused.out) == (2, "")

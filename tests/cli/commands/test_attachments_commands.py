"""The commands with attachments: `messages create --attach`, pictures beside a text, and what `run --plan` says."""

import os
from email.message import EmailMessage
from pathlib import Path

import PIL.Image
import pytest
from support.command import Home
from support.inbox import read_outbox

from skychimp.store.database import Store

FOLDER_HINT = "hint: set mail.attachments_folder to the folder with the files\n"
CREATE = ("messages", "create", "--subject", "Hello", "--body", "Hi")
PATH = "{{ client.name }}.pdf"


@pytest.fixture
def files(home: Home) -> Path:
    """Return the home folder of the user, with a file to attach and a text with a picture."""
    (home.folder / "terms.pdf").write_bytes(b"terms")
    (home.folder / "text" / "sub").mkdir(parents=True)
    PIL.Image.new("RGB", (2, 2)).save(home.folder / "text" / "sub" / "logo.png")
    (home.folder / "text" / "hello.md").write_text("Hi\n\n![Our logo](sub/logo.png)\n")
    return home.folder


def outbox(store: Store) -> list[EmailMessage]:
    return read_outbox(store.path.with_name("outbox"))


def test_file_is_attached_shown_sent_and_removed(store: Store, home: Home, files: Path) -> None:
    assert home.call(*CREATE, "--attach", "terms.pdf").status == 0
    (files / "terms.pdf").unlink()
    shown = home.call("messages", "show", "1")
    assert "attachments\tterms.pdf (application/pdf, 5 bytes)\n" in shown.out
    (info,) = home.call("messages", "show", "1", "--json").json["attachments"]
    assert (info["name"], info["type"], info["size"], info["path"]) == ("terms.pdf", "application/pdf", 5, None)
    assert home.call("messages", "preview", "1").out.endswith("Attached: terms.pdf\n")

    assert home.call("messages", "test", "1", "--to", "zoe@example.org").status == 0
    (email,) = outbox(store)
    (part,) = email.iter_attachments()
    assert (part.get_filename(), part.get_content()) == ("terms.pdf", b"terms")
    assert home.call("messages", "update", "1", "--no-attachments", "--json").json["attachments"] == []


def test_picture_beside_the_text_is_sent_inline(store: Store, home: Home, files: Path) -> None:
    arguments = ("--subject", "Hello", "--markdown", "--body-file", "text/hello.md")
    assert home.call("messages", "create", *arguments).status == 0
    assert home.call("messages", "test", "1", "--to", "zoe@example.org").status == 0
    (email,) = outbox(store)
    html = email.get_body(("html",))
    (picture,) = [part for part in email.walk() if part.get_content_type() == "image/png"]
    assert html is not None
    assert f'<img src="cid:{picture["Content-ID"][1:-1]}" alt="Our logo"' in html.get_content()
    assert picture.get_content() == (files / "text" / "sub" / "logo.png").read_bytes()


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("no.png", "cannot read the picture no.png: No such file or directory"),
        ("../terms.pdf", "cannot read the picture ../terms.pdf: the path leads out of the folder"),
        ("/etc/passwd", "cannot read the picture /etc/passwd: the path leads out of the folder"),
        ("link.png", "cannot read the picture link.png: it is a link, or in a folder that is one"),
        ("linked/logo.png", "cannot read the picture linked/logo.png: it is a link, or in a folder that is one"),
        ("fifo", "cannot read the picture fifo: not a regular file"),
        ("hello.md", 'cannot use the picture "hello.md": the file is not a valid image'),
    ],
)
def test_picture_is_read_only_from_the_folder_of_the_text(home: Home, files: Path, source: str, error: str) -> None:
    (files / "text" / "link.png").symlink_to(files / "text" / "sub" / "logo.png")
    (files / "text" / "linked").symlink_to(files / "text" / "sub")
    os.mkfifo(files / "text" / "fifo")
    (files / "text" / "hello.md").write_text(f"![x]({source})")
    refused = home.call("messages", "create", "--subject", "s", "--markdown", "--body-file", "text/hello.md")
    assert (refused.status, refused.out, refused.err.splitlines()[0]) == (2, "", f"error: {error}")


@pytest.mark.parametrize(
    ("arguments", "stdin"), [(("--body", "![x](a.png)"), ""), (("--body-file", "-"), "![x](a.png)")]
)
def test_text_without_a_file_has_no_pictures_beside_it(home: Home, arguments: tuple[str, ...], stdin: str) -> None:
    refused = home.call("messages", "create", "--subject", "s", "--markdown", *arguments, stdin=stdin)
    assert (refused.status, refused.err.splitlines()[0]) == (2, 'error: the picture "a.png" has no folder')
    (content,) = {text.replace("a.png", "https://x.org/a.png") for text in (*arguments, stdin) if "a.png" in text}
    assert home.call("messages", "create", "--subject", "s", "--markdown", "--body", content).status == 0


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (("--attach", "no.pdf"), 2, "cannot read no.pdf: No such file or directory"),
        (("--attach", "text"), 2, "cannot read text: Is a directory"),
        (("--attach", PATH), 3, "mail.attachments_folder is not set"),
        (("--attach", "large"), 2, "large is larger than 2 kB"),
        (("--attach", "terms.pdf", "--attach", "text/../terms.pdf"), 2, 'two attachments have the name "terms.pdf"'),
    ],
)
def test_file_that_cannot_be_attached_is_refused(
    home: Home, files: Path, arguments: tuple[str, ...], status: int, error: str
) -> None:
    (files / "large").write_bytes(bytes(2_001))
    refused = home.call(*CREATE, *arguments, environ={"SKYCHIMP_MAIL__MAX_ATTACHMENT_SIZE": "2 kB"})
    assert (refused.status, refused.out, refused.err.splitlines()[0]) == (status, "", f"error: {error}")
    assert home.call("messages", "list", "--json").json == []


def test_missing_files_are_listed_before_anything_is_sent(store: Store, home: Home, files: Path) -> None:
    folder = files / "certificates"
    folder.mkdir(mode=0o700)
    (folder / "Zoe.pdf").touch()
    setting = {"SKYCHIMP_MAIL__ATTACHMENTS_FOLDER": str(folder)}
    for name in ("Zoe", "Bob"):
        home.call("clients", "create", "--email", f"{name.lower()}@example.org", "--name", name)
    assert home.call(*CREATE, "--attach", PATH, environ=setting).status == 0
    shown = home.call("messages", "show", "1")
    assert f"attachments\t{PATH} (each client's own)\n" in shown.out

    arguments = ("mailings", "create", "--message", "1", "--start", "now", "--every", "once", "--all-clients")
    refused = home.call(*arguments, "--no-send")
    assert (refused.status, refused.err) == (3, f"error: mail.attachments_folder is not set\n{FOLDER_HINT}")
    created = home.call(*arguments, "--no-send", environ=setting)
    reason = 'cannot attach "Bob.pdf": no such file or directory'
    assert f"warning: 1 email of mailing 1 would fail\n  bob@example.org: {reason}\n" in created.err
    assert f"hint: add the files to {folder}\n" in created.err

    plan = home.call("run", "--plan", environ=setting)
    assert f"bob@example.org\twould fail: {reason}\n" in plan.out
    assert ": 1 email; left out: 1 would fail\n" in plan.err
    sent = home.call("run", "--json", environ=setting)
    assert (sent.json["sent"] + sent.json.get("outbox", 0), sent.json["failed"]) == (1, 1)
    assert 'hint=add the missing files, then run "skychimp mailings retry 1"' in sent.err
    assert [each["reply"] for each in home.call("mailings", "log", "1", "--status", "failed", "--json").json] == [
        reason
    ]

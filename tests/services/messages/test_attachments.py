"""Test how files are attached to messages: kept once, replaced, removed, limited, and copied with the store."""

import hashlib
import io
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import PIL.Image
import pytest
from support.sending import create_mailing, rows

from skychimp.config.types import parse_size
from skychimp.delivery.composing.compose import MessageContent
from skychimp.errors import InvalidValue
from skychimp.models import Format, Message, Occurrence, StoredFile
from skychimp.permissions import Actor
from skychimp.services.messages import messages, rendering
from skychimp.services.messages.attachments import MOST_ATTACHMENTS, AttachmentChanges, NewFile
from skychimp.services.operations import store_copy
from skychimp.services.users import privacy
from skychimp.store.copies import backup_file
from skychimp.store.database import Store
from skychimp.store.schema import open_store

TEXT = MessageContent("Hello", "Dear {{ client.name }}", Format.TEXT)
PICTURES = MessageContent("Hello", "![a](a.png) ![b](sub/b%20c.gif) ![x](https://x.org/x.png)", Format.MARKDOWN)


def image(kind: str = "PNG", size: tuple[int, int] = (2, 2)) -> bytes:
    raw = io.BytesIO()
    PIL.Image.new("RGB", size).save(raw, kind)
    return raw.getvalue()


def files(*names: str, data: bytes = b"x") -> AttachmentChanges:
    return AttachmentChanges(files=[NewFile(name, data) for name in names])


def contents(store: Store) -> list[bytes]:
    return sorted(file.content for file in rows(store, StoredFile))


def folder_of(**pictures: bytes) -> Callable[[str], bytes]:
    """Return what reads pictures, as from a folder with these files."""
    return lambda name: pictures[name.partition(".")[0].rpartition("/")[2].partition(" ")[0]]


def test_files_are_listed_and_kept_once(store: Store, ada: Actor) -> None:
    created = messages.create(store, ada, TEXT, attached=files("a/terms.pdf", "b.csv"))
    messages.create(store, ada, TEXT, attached=files("other.pdf"))

    sha256 = hashlib.sha256(b"x").hexdigest()
    assert [(info.name, info.type, info.size, info.sha256) for info in created.attachments] == [
        ("terms.pdf", "application/pdf", 1, sha256),
        ("b.csv", "text/csv", 1, sha256),
    ]
    assert messages.show(store, ada, created.id) == created
    assert str(created.attachments[0]) == "terms.pdf (application/pdf, 1 byte)"
    assert contents(store) == [b"x"]


def test_update_adds_replaces_and_removes(store: Store, ada: Actor) -> None:
    created = messages.create(store, ada, TEXT, attached=files("a.pdf", "b.pdf"))

    def names(changes: AttachmentChanges) -> list[str]:
        changed = messages.change(store, ada, created.id, attached=changes)
        return [info.name for info in changed.attachments]

    assert names(files("a.pdf", data=b"new")) == ["b.pdf", "a.pdf"]
    assert contents(store) == [b"new", b"x"]
    assert names(AttachmentChanges(paths=["c/{{ client.name }}.pdf"])) == ["b.pdf", "a.pdf", "{{ client.name }}.pdf"]
    assert messages.change(store, ada, created.id, subject="Other").attachments[2].path == "c/{{ client.name }}.pdf"
    assert names(AttachmentChanges(files=[NewFile("d.pdf", b"d")], removes_all=True)) == ["d.pdf"]
    assert contents(store) == [b"d"]
    assert names(AttachmentChanges(removes_all=True)) == []
    assert contents(store) == []


def test_file_is_removed_with_the_last_that_uses_it(store: Store, ada: Actor) -> None:
    first, second = (messages.create(store, ada, TEXT, attached=files("a.pdf")).id for _ in range(2))
    messages.remove(store, ada, first)
    assert contents(store) == [b"x"]
    messages.remove(store, ada, second)
    assert contents(store) == []


def test_file_of_an_open_occurrence_stays(store: Store, ada: Actor) -> None:
    mailing_id = create_mailing(store, ada)
    messages.change(store, ada, 1, attached=files("a.pdf"))
    open_due(store)
    messages.change(store, ada, 1, attached=AttachmentChanges(removes_all=True))
    assert contents(store) == [b"x"]
    assert messages.open_mailings(store, 1) == [mailing_id]
    messages.change(store, ada, 1, subject="New", also_open=True)
    assert [occurrence.attachments for occurrence in rows(store, Occurrence)] == ["[]"]


def open_due(store: Store) -> None:
    from skychimp.delivery.scheduling import planner

    with store.write() as db:
        planner.open_due(db.connection(), store.now(), sender="a@example.org", return_path="a@example.org")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (files("a/x.pdf", "b/x.pdf"), 'two attachments have the name "x.pdf"'),
        (files(*map(str, range(MOST_ATTACHMENTS + 1))), "more than 100 attachments"),
        (
            AttachmentChanges(files=[NewFile("x", bytes(7_600))], max_size=parse_size("10 kB")),
            "the attachments have 10 kB in an email, more than 10 kB",
        ),
        (AttachmentChanges(paths=["../{{ client.name }}"]), "leads out of"),
        (AttachmentChanges(paths=["{{ client.fields.no }}"]), "unknown field no"),
    ],
)
def test_refused_attachment_changes_nothing(store: Store, ada: Actor, changes: AttachmentChanges, error: str) -> None:
    created = messages.create(store, ada, TEXT, attached=files("kept.pdf"))
    with pytest.raises(InvalidValue, match=error):
        messages.create(store, ada, TEXT, attached=changes)
    with pytest.raises(InvalidValue, match=error):
        messages.change(store, ada, created.id, attached=changes)
    assert messages.show(store, ada, created.id) == created
    assert (len(rows(store, Message)), contents(store)) == (1, [b"x"])


# Pictures


def test_pictures_become_inline(store: Store, ada: Actor) -> None:
    changes = AttachmentChanges(read_picture=folder_of(a=image(), b=image("GIF")))
    created = messages.create(store, ada, PICTURES, attached=changes)
    listed = [(info.name, info.type, info.source) for info in created.attachments]
    assert listed == [("a.png", "image/png", "a.png"), ("b c.gif", "image/gif", "sub/b c.gif")]
    assert created.body == PICTURES.body
    assert rendering.preview(store, ada, created.id).attachments == ["a.png", "sub/b c.gif"]

    edited = messages.change(store, ada, created.id, body="![a](a.png)")  # as in an editor
    assert [info.source for info in edited.attachments] == ["a.png"]
    assert (
        messages.change(store, ada, created.id, attached=AttachmentChanges(removes_all=True)).attachments
        == edited.attachments
    )
    with pytest.raises(InvalidValue, match=r'the picture "new\.png" has no folder'):
        messages.change(store, ada, created.id, body="![new](new.png)")
    assert messages.change(store, ada, created.id, format=Format.TEXT).attachments == []
    assert contents(store) == []


def test_pictures_of_an_html_file_become_inline(store: Store, ada: Actor) -> None:
    content = MessageContent("Hello", "text", Format.HTML, "<p>Hi<img src='a.png'></p>")
    changes = AttachmentChanges(read_picture=folder_of(a=image("WEBP")))
    created = messages.create(store, ada, content, attached=changes)
    assert [info.type for info in created.attachments] == ["image/webp"]
    assert messages.change(store, ada, created.id, body="other text").attachments == created.attachments


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"<svg onload='alert(1)'>", "not a valid image"),
        (b"", "not a valid image"),
        (image()[:-20], "not a valid image"),
        (image("BMP"), "not a valid image"),
        (image(size=(70_000, 1)), "longer than 65,535 pixels"),
    ],
)
def test_file_that_is_no_picture_is_refused(store: Store, ada: Actor, data: bytes, error: str) -> None:
    changes = AttachmentChanges(read_picture=lambda name: data)
    with pytest.raises(InvalidValue, match=f'cannot use the picture "a.png": .*{error}'):
        messages.create(store, ada, PICTURES, attached=changes)
    assert contents(store) == []


@pytest.mark.parametrize("format_", [Format.MARKDOWN, Format.HTML])
def test_picture_without_a_folder_is_refused(store: Store, ada: Actor, format_: Format) -> None:
    content = MessageContent("s", "![a](a.png)", format_, "<p>x<img src='a.png'>" if format_ == Format.HTML else None)
    with pytest.raises(InvalidValue, match=r'the picture "a\.png" has no folder') as refused:
        messages.create(store, ada, content)
    assert "--body-file" in (refused.value.hint or "")


# Copies


def test_copies_and_exports_have_the_files(
    store: Store, ada: Actor, admin: Actor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages.create(store, ada, TEXT, attached=files("a.pdf", data=bytes(range(256))))
    exported = {name: list(part) for name, part in privacy.export(store, ada) if name in ("messages", "files")}
    assert exported["files"] == [{"sha256": hashlib.sha256(bytes(range(256))).hexdigest(), "content": BASE64}]

    store_copy.copy_store(store, admin, f"sqlite:///{tmp_path}/copy.db", None)
    with closing(open_store(f"sqlite:///{tmp_path}/copy.db")) as copy:
        assert contents(copy) == [bytes(range(256))]
    backup_file.write_backup(store, tmp_path / "b", lambda name: None, lambda done, total: None, replace=False)
    with closing(open_store(f"sqlite:///{tmp_path}/b")) as backup:
        assert contents(backup) == [bytes(range(256))]


BASE64 = (
    "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+P0BBQkNERUZHSElKS0xNTk9QUVJTVFVW"
    "V1hZWltcXV5fYGFiY2RlZmdoaWprbG1ub3BxcnN0dXZ3eHl6e3x9fn+AgYKDhIWGh4iJiouMjY6PkJGSk5SVlpeYmZqbnJ2en6ChoqOkpaanqKmqq6yt"
    "rq+wsbKztLW2t7i5uru8vb6/wMHCw8TFxsfIycrLzM3Oz9DR0tPU1dbX2Nna29zd3t/g4eLj5OXm5+jp6uvs7e7v8PHy8/T19vf4+fr7/P3+/w=="
)

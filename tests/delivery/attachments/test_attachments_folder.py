"""Test that clients' own files are read from their folder only, whatever the paths and files are."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skychimp.delivery.attachments import listing
from skychimp.delivery.attachments.folder import AttachmentsFolder, FileUnavailable, hash_files
from skychimp.delivery.attachments.listing import AttachedFile, Attachments
from skychimp.delivery.composing.compose import Composer, MessageContent, Recipient, check_content
from skychimp.errors import InvalidValue
from skychimp.models import Format

NOW = datetime(2026, 11, 29, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a file, beside a file that is not in it."""
    folder = tmp_path / "certificates"
    (folder / "sub").mkdir(parents=True, mode=0o700)
    (folder / "7.pdf").write_bytes(b"seven")
    (folder / "sub" / "8.pdf").write_bytes(b"eight")
    (tmp_path / "secret").write_bytes(b"secret")
    return folder


def reader(folder: Path | None, max_size: int = 1_000) -> AttachmentsFolder:
    return AttachmentsFolder(folder, max_size)


def test_files_are_read(folder: Path) -> None:
    read = reader(folder).read(["7.pdf", "sub/8.pdf"])
    assert [file.data for file in read] == [b"seven", b"eight"]
    assert b'filename="8.pdf"' in read[1].encode()
    reader(folder).check(["7.pdf", "sub/8.pdf"])
    assert hash_files(read) != hash_files(read[:1]) != hash_files([read[0]._replace(data=b"x")])


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("9.pdf", "no such file or directory"),
        ("sub/9.pdf", "no such file or directory"),
        ("../secret", "the path leads out of the folder"),
        ("sub/../../secret", "the path leads out of the folder"),
        ("/etc/passwd", "the path leads out of the folder"),
        ("", "the path leads out of the folder"),
        ("sub//8.pdf", "the path leads out of the folder"),
        ("./7.pdf", "the path leads out of the folder"),
        ("sub", "not a regular file"),
        ("link.pdf", "it is a link"),
        ("linked/8.pdf", "its folder is a link or a file"),
        ("7.pdf/x", "its folder is a link or a file"),
        ("fifo", "not a regular file"),
        ("open.pdf", "it can be changed by others"),
        ("large", "the files have more than 1 kB"),
        ("a\nb", "has a control character"),
        ("x" * 300, "file name too long"),
    ],
)
def test_nothing_else_is_read(folder: Path, path: str, reason: str) -> None:
    (folder / "link.pdf").symlink_to(folder.parent / "secret")
    (folder / "linked").symlink_to(folder / "sub")
    (folder / "large").write_bytes(bytes(1_000))
    (folder / "open.pdf").touch()
    (folder / "open.pdf").chmod(0o666)
    os.mkfifo(folder / "fifo")
    for action in (reader(folder).read, reader(folder).check):
        with pytest.raises(FileUnavailable, match=reason):
            action([path])


def test_limit_is_for_all_files_of_an_email(folder: Path) -> None:
    (folder / "a").write_bytes(bytes(300))
    assert reader(folder).read(["a"])
    with pytest.raises(FileUnavailable, match="more than 1 kB"):
        reader(folder).read(["a", "a", "a"])
    with pytest.raises(FileUnavailable, match="more than 1 kB"):
        reader(folder).beside([AttachedFile("x", "x/x", "", 500)]).read(["a"])


def test_path_that_the_file_system_cannot_have_is_an_error(folder: Path) -> None:
    with pytest.raises(FileUnavailable, match="not valid Unicode"):
        reader(folder).read(["\ud800.pdf"])


@pytest.mark.parametrize("is_file", [False, True])
def test_link_that_takes_the_place_of_a_file_is_not_followed(
    folder: Path, is_file: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file or folder is replaced after it was looked at."""
    place = folder / "7.pdf" if is_file else folder / "sub"
    stat: Callable[..., os.stat_result] = os.stat
    replaced: list[object] = []

    def replace_after(path: object, **options: object) -> os.stat_result:
        status = stat(path, **options)
        if not replaced:
            replaced.append(path)
            place.rename(folder.parent / "old")
            place.symlink_to(folder.parent / "secret" if is_file else folder.parent)
        return status

    monkeypatch.setattr(os, "stat", replace_after)
    if is_file:
        with pytest.raises(FileUnavailable, match="it is a link"):
            reader(folder).read(["7.pdf"])
    else:  # the folder was open already
        assert reader(folder).read(["sub/8.pdf"])[0].data == b"eight"
    assert replaced


@pytest.mark.parametrize(
    ("prepare", "problem"),
    [
        (lambda folder: None, None),
        (lambda folder: folder.chmod(0o777), "it can be changed by others"),
        (lambda folder: folder.rename(folder.with_name("x")), "no such file or directory"),
    ],
)
def test_folder_itself_may_be_a_problem(folder: Path, prepare: Callable[[Path], object], problem: str | None) -> None:
    prepare(folder)
    found = reader(folder).problem
    assert found == (problem and f"cannot use mail.attachments_folder: {problem}")


def test_folder_may_be_reached_by_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert reader(tmp_path / "link").read(["7.pdf"])[0].data == b"seven"


def test_without_a_folder_there_are_no_files() -> None:
    assert reader(None).problem == "mail.attachments_folder is not set"
    with pytest.raises(FileUnavailable, match="is not set"):
        reader(None).read(["7.pdf"])


# Paths


def content(path: str) -> MessageContent:
    return MessageContent("s", "x", Format.TEXT, None, listing.dump(Attachments(paths=(path,))))


def own_path(path: str, **values: str) -> str:
    composer = Composer(content(path), sender="n@example.org", date=NOW, mailing_id=7, due_at=NOW)
    recipient = Recipient("ada@example.org", values.pop("name", "Ada"), "", (), values)
    (found,) = composer.own_paths(recipient)
    return found


@pytest.mark.parametrize(
    ("path", "rendered"),
    [
        ("{{ client.name }}.pdf", "Ada.pdf"),
        ("a/{{ client.fields.number }}/{{ due_at | date('%Y') }}.pdf", "a/7/2026.pdf"),
        ("{{ client.fields.other | default('none') }}.pdf", "none.pdf"),
    ],
)
def test_path_is_filled_in(path: str, rendered: str) -> None:
    assert own_path(path, number="7") == rendered


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/etc/{{ client.name }}", "leads out of mail.attachments_folder"),
        ("../{{ client.name }}", "leads out of mail.attachments_folder"),
        ("{% if client.name %}a{% endif %}", "tag"),
        ("{{ client.nam }}.pdf", "the path of the attachment, line 1: unknown attribute"),
        ("{{ client.fields.city }}.pdf", "city"),
        ("{{ unsubscribe_url }}.pdf", "cannot be used in the path of the attachment"),
        ("{{ client.name", "the path of the attachment, line 1"),
        ("{{ 'a/b' }}", "slash"),
        ("x" * 1_001, "longer than 1,000 characters"),
    ],
)
def test_invalid_path_is_refused(path: str, error: str) -> None:
    with pytest.raises(InvalidValue, match=error):
        check_content(content(path))


@given(st.text(max_size=20))
def test_no_value_leads_to_another_folder(value: str) -> None:
    try:
        path = own_path("a/{{ client.name }}/b.pdf", name=value)
    except InvalidValue:
        assert "/" in value or any("\ud800" <= character <= "\udfff" for character in value)
    else:
        assert path.split("/") == ["a", value, "b.pdf"]

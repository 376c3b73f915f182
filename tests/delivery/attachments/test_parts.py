"""Test how files become parts of an email: names, types, and a structure that parses as it was meant."""

import hashlib
import re
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skychimp.delivery.attachments import listing, parts
from skychimp.delivery.attachments.listing import AttachedFile, Attachments
from skychimp.delivery.composing.compose import ComposedEmail, Composer, MessageContent, Recipient
from skychimp.delivery.composing.mime import MAX_LINE_LENGTH
from skychimp.errors import InvalidValue
from skychimp.models import Format

DATE = datetime(2026, 11, 29, 9, tzinfo=UTC)
ADA = Recipient("ada@example.org", "Ada", "", ())
HTML = "<p>Hello {{ client.name }}</p><img src='a.png'>\n"
RLO, ZWSP = "\u202e", "\u200b"

OWN = [parts.encode("7.pdf", "application/pdf", b"own")]


def attached(name: str, data: bytes, source: str = "") -> AttachedFile:
    return AttachedFile(name, parts.media_type_of(name), hashlib.sha256(data).hexdigest(), len(data), source)


def composer(
    files: dict[AttachedFile, bytes], *, html: str | None = None, paths: tuple[str, ...] = (), body: str = "Hello\n"
) -> Composer:
    text = listing.dump(Attachments(tuple(files), paths))
    content = MessageContent("News", body, Format.TEXT if html is None else Format.HTML, html, text)
    contents = {file.sha256: data for file, data in files.items()}
    return Composer(content, sender="News <n@example.org>", date=DATE, mailing_id=7, due_at=DATE, files=contents)


def parsed(email: ComposedEmail) -> EmailMessage:
    """Return the email as a mail program reads it, which finds no defect in it."""
    message = message_from_bytes(email.whole, policy=policy.default)
    assert not [defect for part in message.walk() for defect in part.defects]
    return message


def structure(message: EmailMessage) -> object:
    if not message.is_multipart():
        return message.get_content_type()
    return message.get_content_subtype(), [structure(cast(EmailMessage, part)) for part in message.iter_parts()]


PDF, PNG = attached("terms.pdf", b"PDF"), attached("a.png", b"PNG", "a.png")


@pytest.mark.parametrize(
    ("files", "html", "own", "expected"),
    [
        ([], None, [], "text/plain"),
        ([PDF], None, [], ("mixed", ["text/plain", "application/pdf"])),
        ([], None, OWN, ("mixed", ["text/plain", "application/pdf"])),
        ([PDF], None, OWN, ("mixed", ["text/plain", "application/pdf", "application/pdf"])),
        ([PNG], HTML, [], ("related", [("alternative", ["text/plain", "text/html"]), "image/png"])),
        ([PDF], HTML, [], ("mixed", [("alternative", ["text/plain", "text/html"]), "application/pdf"])),
        (
            [PDF, PNG], HTML, OWN,
            (
                "mixed",
                [
                    ("related", [("alternative", ["text/plain", "text/html"]), "image/png"]),
                    "application/pdf",
                    "application/pdf",
                ],
            ),
        ),
    ],
)  # fmt: skip
def test_email_has_only_the_levels_that_it_needs(
    files: list[AttachedFile], html: str | None, own: list[bytes], expected: object
) -> None:
    contents = {PDF: b"PDF", PNG: b"PNG"}
    made = composer({file: contents[file] for file in files}, html=html, paths=("{{ client.name }}",) * len(own))
    email = made.compose(ADA, "<1@example.org>", own_parts=own)
    assert structure(parsed(email)) == expected
    assert made.compose(ADA, "<1@example.org>", own_parts=own) == email


def test_parts_have_what_was_attached() -> None:
    message = parsed(composer({PDF: b"PDF", PNG: b"PNG"}, html=HTML).compose(ADA, "<1@example.org>"))
    pdf = next(message.iter_attachments())
    assert (pdf.get_filename(), pdf.get_content_disposition(), pdf.get_content()) == ("terms.pdf", "attachment", b"PDF")
    (picture,) = [part for part in message.walk() if part.get_content_type() == "image/png"]
    assert picture.get_content_disposition() == "inline"
    html = next(part for part in message.walk() if part.get_content_type() == "text/html").get_content()
    assert f'src="cid:{picture["Content-ID"][1:-1]}"' in html


def test_shared_file_is_the_same_object_in_each_email() -> None:
    data = bytes(100_000)
    made = composer({attached("a.bin", data): data})
    first, second = (made.compose(ADA, f"<{number}@example.org>") for number in range(2))
    assert all(one is other for one, other in zip(first.tail, second.tail, strict=True))
    assert len(first.data) < 1_000 < len(first.whole)


def test_text_that_contains_a_boundary_ends_no_part() -> None:
    """A client cannot know the hash in it before an email was sent. The next email has another one."""
    made = composer({PDF: b"PDF"}, body="Hello {{ client.comment }}\n")
    boundary = re.findall(rb'boundary="(.*?)"', made.compose(ADA, "<1@example.org>").data)[0].decode()
    comment = f"x\n--{boundary}--\nContent-Type: text/html\n\n<b>\n--{boundary}"
    message = parsed(made.compose(ADA._replace(comment=comment), "<1@example.org>"))
    assert structure(message) == ("mixed", ["text/plain", "application/pdf"])
    body = message.get_body()
    assert body is not None
    assert body.get_content().replace("\r\n", "\n") == f"Hello {comment}\n"


def test_email_without_attachments_has_the_boundary_that_it_had_before_there_were_any() -> None:
    """What was sent by an older version is sent again byte for byte."""
    content = MessageContent("s", "Hi\n", Format.HTML, "<p>x</p>\n")
    made = Composer(content, sender="n@example.org", date=DATE, mailing_id=7, due_at=DATE, files={})
    old = "(MessageContent(subject='s', body='Hi\\n', format=<Format.HTML: 'html'>, html='<p>x</p>\\n')"
    seed = f"{old}, {DATE.timestamp()!r}, 7)".encode()
    mark = hashlib.blake2b(seed, digest_size=16).hexdigest().encode()
    assert b'boundary="=_%b"' % mark in made.compose(ADA, "<1@example.org>").data


def test_missing_content_is_an_error() -> None:
    content = MessageContent("s", "x", Format.TEXT, None, listing.dump(Attachments((PDF,))))
    with pytest.raises(InvalidValue, match=r"content of terms\.pdf is missing"):
        Composer(content, sender="n@example.org", date=DATE, mailing_id=7, due_at=DATE, files={})


@pytest.mark.parametrize(
    "text",
    ["[1]", "{}", "[", '[{"path": 1}]', '[{"name": "x"}]', '[{"name":1,"type":"","sha256":"","size":1}]', "[[]]", "3"],
)
def test_damaged_list_is_an_error(text: str) -> None:
    with pytest.raises(InvalidValue, match="damaged"):
        listing.parse(text)


# Names and types


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("terms.pdf", "terms.pdf"),
        ("/home/ada/terms.pdf", "terms.pdf"),
        ("..\\..\\terms.pdf", "terms.pdf"),
        (f"invoice{RLO}fdp.exe", "invoicefdp.exe"),
        (f"a{ZWSP}b.txt", "ab.txt"),
        ("a\r\nBcc: eve@example.org.txt", "aBcc_ eve@example.org.txt"),
        ('a"b?.txt', "a_b_.txt"),
        ("  a   b  .txt ", "a b.txt"),
        ("e\u0301te\u0301.pdf", "\xe9t\xe9.pdf"),
        (".htaccess", "htaccess"),
        ("..", "attachment"),
        ("", "attachment"),
        ("\u202e.pdf", "pdf"),
        ("я" * 150 + ".pdf", "я" * 98 + ".pdf"),
        ("x" * 300, "x" * 200),
    ],
)
def test_name_is_clean(path: str, name: str) -> None:
    assert parts.clean_name(path) == name


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("a.pdf", "application/pdf"),
        ("a.PNG", "image/png"),
        ("a.docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        ("a.html", "text/html"),
        ("a.tar.gz", "application/gzip"),
        ("a.txt.xz", "application/octet-stream"),
        ("a.eml", "application/octet-stream"),
        ("a", "application/octet-stream"),
        ("http://x.org/a", "application/octet-stream"),
        ("data:text/html,x", "application/octet-stream"),
    ],
)
def test_type_is_that_of_the_suffix(name: str, media_type: str) -> None:
    assert parts.media_type_of(name) == media_type


@given(st.text(max_size=300), st.binary(max_size=300))
@example(name="я" * 100 + ".pdf", data=b"")
@example(name="a;b='c'%41*0*=\\.txt", data=b".")
def test_any_name_is_read_back(name: str, data: bytes) -> None:
    part = parts.encode(name, "text/plain; x", data)
    head = part.partition(b"\r\n\r\n")[0]
    assert head.isascii()
    assert max(map(len, part.split(b"\r\n"))) <= 78
    assert not re.search(rb"(?m)^\.", part)
    message = message_from_bytes(part, policy=policy.default)
    assert message.keys() == ["Content-Type", "Content-Transfer-Encoding", "Content-Disposition"]
    assert message.get_filename() == parts.clean_name(name)
    assert message.get_content_type() == "application/octet-stream"
    assert message.get_payload(decode=True) == data
    assert len(part) - len(head) - 4 == parts.encoded_size(len(data))


@settings(max_examples=40)
@given(
    st.lists(st.binary(max_size=100), max_size=3),
    st.lists(st.binary(max_size=100), max_size=2),
    st.booleans(),
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00"), max_size=40),
)
def test_any_structure_is_read_back(shared: list[bytes], own: list[bytes], has_html: bool, name: str) -> None:
    files = {attached(f"{number}.bin", data): data for number, data in enumerate(shared)}
    picture = attached("a.png", b"PNG", "a.png")
    made = composer(
        files | ({picture: b"PNG"} if has_html else {}),
        html=HTML if has_html else None,
        body="Dear {{ client.name }}\n",
        paths=("x/{{ client.name }}",) * len(own),
    )
    encoded = [parts.encode(name, "text/csv", data) for data in own]
    email = made.compose(ADA._replace(name=name[:40]), "<1@example.org>", own_parts=encoded)
    message = parsed(email)
    found = [
        part.get_payload(decode=True) for part in message.iter_attachments() if part.get_content_subtype() != "png"
    ]
    related = [each for each in found if each is not None]
    assert related[-len(shared + own) or len(related) :] == [*shared, *own]
    assert all(len(line) <= MAX_LINE_LENGTH for line in email.whole.split(b"\r\n"))
    assert b"\n" not in email.whole.replace(b"\r\n", b"")

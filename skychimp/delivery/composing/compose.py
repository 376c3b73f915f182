"""Letters: a message is compiled once an occurrence and turned into bytes once a client; pure.

What is the same for all clients is encoded once. The same letter composed again is the same to the byte.
"""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import NamedTuple

from skychimp import addresses
from skychimp.delivery.composing import mime
from skychimp.errors import InvalidValue
from skychimp.models import Format

LONGEST_SUBJECT = 1_000


class MessageContent(NamedTuple):
    """A message's words: templates; `html` is the HTML part where it is given, a Markdown body makes its own."""

    subject: str
    body: str
    format: Format
    html: str | None = None


class Recipient(NamedTuple):
    email: str
    name: str
    comment: str
    tags: Sequence[str]


class _MailingId(NamedTuple):
    id: int


class Composer:
    """Composes the letters of one occurrence. Raises InvalidValue where its words are no templates."""

    def __init__(
        self, words: MessageContent, *, sender: str, date: datetime, mailing_id: int, due_at: datetime
    ) -> None:
        from skychimp.delivery.composing import templates  # a list of messages needs no Jinja2
        from skychimp.delivery.composing.templates import DueAt, Text

        self._values: dict[str, object] = {"mailing": _MailingId(mailing_id), "due_at": DueAt(due_at)}
        self._subject = Text(words.subject, "subject", self._values)
        self._text = Text(words.body, "body", self._values)
        html = templates.from_markdown(words.body) if words.format == Format.MARKDOWN else words.html
        self._html = None if html is None else Text(html, "HTML", self._values, html=True)
        seed = repr((words, date.timestamp(), mailing_id)).encode()
        self._boundary = b"=_" + hashlib.blake2b(seed, digest_size=16).hexdigest().encode()
        self._from = b"From: " + mime.sender(sender) + b"\r\nTo: "
        self._date = b"\r\nDate: " + format_datetime(date).encode() + b"\r\nMessage-ID: "
        self._same_subject = self._subject_header() if self._subject.is_constant else None
        is_constant = self._text.is_constant and (self._html is None or self._html.is_constant)
        self._same_body = self._body() if is_constant else None

    def compose(self, to: Recipient, message_id: str) -> bytes:
        """The letter for one client: bytes with CRLF line ends. Raises InvalidValue with the reason there is none."""
        self._values["client"] = to
        try:
            return b"".join(
                (
                    self._from,
                    mime.mailbox(mime.one_line(to.name), to.email),
                    b"\r\nSubject: ",
                    self._same_subject or self._subject_header(),
                    self._date,
                    message_id.encode("ascii"),
                    b"\r\nMIME-Version: 1.0\r\n",
                    self._same_body or self._body(),
                )
            )
        except UnicodeEncodeError:
            raise InvalidValue("the letter holds half a character (a lone surrogate)") from None

    def render(self, to: Recipient) -> tuple[str, str, str | None]:
        """Subject, text and HTML as that client would read them. Raises InvalidValue."""
        self._values["client"] = to
        html = None if self._html is None else self._html.render()
        return mime.one_line(self._subject.render()), self._text.render(), html

    def _subject_header(self) -> bytes:
        return mime.header(mime.one_line(self._subject.render()))

    def _body(self) -> bytes:
        if self._html is None:
            return mime.part(self._text.pieces(), "plain")
        boundary = self._boundary
        return b"".join(
            (
                b'Content-Type: multipart/alternative; boundary="%b"\r\n\r\n--%b\r\n' % (boundary, boundary),
                mime.part(self._text.pieces(), "plain", avoid=boundary),
                b"\r\n--%b\r\n" % boundary,
                mime.part(self._html.pieces(), "html", avoid=boundary),
                b"\r\n--%b--\r\n" % boundary,
            )
        )


def message_id(secret: bytes, delivery_id: int, domain: str) -> str:
    """The Message-ID of a delivery: a keyed hash, the same at every attempt, that tells nobody how many there are."""
    digest = hashlib.blake2b(str(delivery_id).encode(), key=secret[:64], digest_size=16).hexdigest()
    return f"<{addresses.with_ascii_domain(f'{digest}@{domain}')}>"


def check(words: MessageContent) -> None:
    """Check a message's templates, and compose it for two made-up clients. Raises InvalidValue."""
    if not words.subject.strip():
        raise InvalidValue("the subject is empty")
    if len(words.subject) > LONGEST_SUBJECT or mime.one_line(words.subject) != words.subject.strip():
        raise InvalidValue(f"the subject is one line of up to {LONGEST_SUBJECT} characters")
    now = datetime(2000, 1, 1, tzinfo=UTC)
    composer = Composer(words, sender="check@localhost", date=now, mailing_id=1, due_at=now)
    for sample in (Recipient("ada@example.org", "Ada Lovelace", "", ("vip",)), Recipient("b@example.org", "", "", ())):
        try:
            composer.compose(sample, "<check@localhost>")
        except InvalidValue as error:
            hint = "it is tried for a client with a name and a tag, and for one without: write | default('...', true)"
            raise InvalidValue(error.message, hint) from None

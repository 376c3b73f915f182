"""Compose emails: compile a message once per occurrence, and turn it into bytes once per client; pure.

What is the same for all clients is encoded once. Composing an email again gives exactly the same bytes.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from skychimp import addresses, markdown
from skychimp.delivery.attachments import listing
from skychimp.delivery.attachments.parts import NO_FRAME, make_frame
from skychimp.delivery.composing import mime
from skychimp.delivery.composing.extras import (
    GAP,
    LARGEST_SAMPLE,
    NO_EXTRAS,
    SAMPLE,
    UNSUBSCRIBE_URL,
    Extras,
    header_lines,
)
from skychimp.errors import InvalidValue
from skychimp.fields import MAX_VALUE_LENGTH, Field, FieldValue, find_field, unknown_field
from skychimp.models import Format
from skychimp.text import MAX_COMMENT_LENGTH, MAX_NAME_LENGTH, MAX_TAG_LENGTH, MAX_TAGS, folded
from skychimp.translation import tr

if TYPE_CHECKING:
    from skychimp.delivery.composing.field_uses import FieldUse
    from skychimp.delivery.composing.field_values import FieldValues
    from skychimp.delivery.composing.prepared_body import BodyPart, PreparedBody

MAX_SUBJECT_LENGTH = 1_000
MAX_RENDERED_SUBJECT_LENGTH = 20_000
MAX_BODY_SIZE = 200_000
MAX_HTML_SIZE = 1_000_000
"""Bytes of a text or Markdown body, and of an HTML part."""
MAX_POSTS_SIZE = 200_000
"""Bytes that the posts of a digest may add."""


class MessageContent(NamedTuple):
    """The templates of a message. Without `html`, the HTML part of a Markdown message is made from its body."""

    subject: str
    body: str
    format: Format
    html: str | None = None
    attachments: str = listing.NOTHING
    """What is attached, as the store keeps it (attachments.listing)."""


class Recipient(NamedTuple):
    """A client as templates see it."""

    email: str
    name: str
    comment: str
    tags: Sequence[str]
    fields: "Mapping[str, FieldValue] | FieldValues" = MappingProxyType({})
    """The custom fields that the message uses, by name."""
    unsubscribe_url: str = ""


class SampleRecipients(NamedTuple):
    """Clients that a message is checked for: with all values, without optional ones, and with the longest values."""

    ordinary: Sequence[Recipient]
    largest: Sequence[Recipient]


class _Tags(tuple[str, ...]):
    """A client's tags as templates see them: `"vip" in client.tags` also finds `VIP`, which is the same tag."""

    def __contains__(self, tag: object) -> bool:
        if not isinstance(tag, str) or len(tag) > _MAX_SPELLING_LENGTH:
            return False
        return folded(tag) in self._keys

    @cached_property
    def _keys(self) -> frozenset[str]:
        return frozenset(map(folded, self))


class ComposedEmail(NamedTuple):
    """An email with CRLF line ends. `has_dots` says whether a line of `data` may begin with a dot.

    `tail` is what follows: its attachments. It is the same object for all emails, so that nobody copies it for each.
    """

    data: bytes
    has_dots: bool
    tail: tuple[bytes, ...] = ()

    @property
    def whole(self) -> bytes:
        """The email in one piece."""
        return b"".join((self.data, *self.tail))


class _MailingId(NamedTuple):
    id: int


_SAMPLE_TIME = datetime(2000, 1, 1, tzinfo=UTC)
_SAMPLE_RECIPIENTS = (
    Recipient("ada@example.org", "Ada Lovelace", "", ("vip",)),
    Recipient("b@example.org", "", "", ()),
)
_MAX_SPELLING_LENGTH = 4 * MAX_TAG_LENGTH  # of a tag whose characters are not composed
_COSTLY_CHARACTERS = '😀ΐ"'  # the longest in UTF-8, after `upper`, and in HTML


class Composer:
    """Composes the emails of one occurrence. Raises InvalidValue if the content has an invalid template.

    The content may be larger than `check_content` allows, because it can be older than that limit. `files` has the
    content of the attached files by their hashes. None leaves the files out, as for a preview.
    """

    def __init__(
        self,
        content: MessageContent,
        *,
        sender: str,
        date: datetime,
        mailing_id: int,
        due_at: datetime,
        extras: Extras = NO_EXTRAS,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        from skychimp.delivery.attachments.own_paths import OwnPath
        from skychimp.delivery.attachments.pictures import link_pictures
        from skychimp.delivery.composing import conversions  # lists of messages do without the time to import Jinja2
        from skychimp.delivery.composing.templates import DueAt, TextTemplate

        self._values: dict[str, object] = {"mailing": _MailingId(mailing_id), "due_at": DueAt(due_at)}
        self._subject = TextTemplate(content.subject, "subject", self._values, max_length=MAX_RENDERED_SUBJECT_LENGTH)
        address, has_link = extras.postal_address, bool(extras.unsubscribe_url)
        self._text = TextTemplate(content.body, "body", self._values, postal_address=address, has_link=has_link)
        html = conversions.html_from_markdown(content.body) if content.format == Format.MARKDOWN else content.html
        attached = listing.parse(content.attachments)
        self._html: TextTemplate | None = None
        if html is not None:
            html = link_pictures(html, {picture.source: f"cid:{picture.content_id}" for picture in attached.pictures})
            self._html = TextTemplate(html, "HTML", self._values, html=True, postal_address=address, has_link=has_link)
        self._paths = [OwnPath(path, self._values) for path in attached.paths]
        parts = (self._subject, self._text, self._html, *(path.template for path in self._paths))
        self._templates = [each for each in parts if each is not None]
        mark = hashlib.blake2b(_seed(content, date, mailing_id), digest_size=16).hexdigest().encode()
        self._boundary = b"=_" + mark
        self._frame = NO_FRAME if files is None else make_frame(attached, files, mark)
        self._tail = self._frame.close(())
        # One boundary is avoided with its beginning, several by the hash that they have in common.
        self._avoid = mark if self._tail else self._boundary
        self._from = b"From: " + mime.sender_header(sender) + b"\r\nTo: "
        self._date, self._date_header = date, _date_header(date)
        headers = header_lines(extras)
        self._more_headers = (b"\r\n" + headers + b"MIME-Version: 1.0\r\n").split(GAP.encode())
        self._unsubscribe_url = extras.unsubscribe_url.split(GAP)
        self.shows_link = self.uses(UNSUBSCRIBE_URL)
        """Whether the content has a link for unsubscribing."""
        self.needs_token = len(self._more_headers) > 1 or (self.shows_link and len(self._unsubscribe_url) > 1)
        """Whether the emails have the token of their delivery, in the headers or in the content."""
        self._uses_fields = any(template.fields for template in self._templates)
        self._constant_subject = self._encode_subject() if self._subject.is_constant else None
        has_constant_body = self._text.is_constant and (self._html is None or self._html.is_constant)
        self._constant_body = self._encode_body() if has_constant_body else None
        self._prepared_body = None if has_constant_body else self._prepare_body()

    @property
    def fields(self) -> "Mapping[str, FieldUse]":
        """The custom fields that the content uses, by their folded names."""
        return {key: use for template in reversed(self._templates) for key, use in template.fields.items()}

    @property
    def required_fields(self) -> Collection[str]:
        """The folded names of the custom fields of which each client must have a value, as there is no default."""
        return frozenset().union(*(template.required_fields for template in self._templates))

    @property
    def has_own_files(self) -> bool:
        """Whether each client gets files of their own."""
        return bool(self._paths)

    def own_paths(self, to: Recipient) -> list[str]:
        """Return the paths of the files that only this client gets. Raises InvalidValue."""
        self._show(to)
        return [path.render() for path in self._paths]

    def uses(self, variable: str) -> bool:
        """Return whether the content uses a variable, such as `client` or `unsubscribe_url`."""
        return any(variable in template.variables for template in self._templates)

    def compose(
        self,
        to: Recipient,
        message_id: str,
        date: datetime | None = None,
        token: str = SAMPLE,
        own_parts: Sequence[bytes] = (),
    ) -> ComposedEmail:
        """Return the email to one client, with this date, or with that of the composer.

        `token` is that of the links for unsubscribing, `own_parts` are the client's own files, encoded. Raises
        InvalidValue if the email cannot be composed.
        """
        if date is not None and date != self._date:  # most emails have the date of the one before
            self._date, self._date_header = date, _date_header(date)
        if len(to.comment) > MAX_COMMENT_LENGTH or len(to.name) > MAX_NAME_LENGTH:  # a damaged store
            raise InvalidValue(tr("the client's name or comment is too long"))
        to = self._show(to, token)
        body = self._prepared_body
        prepared = None if body is None else body.fill(to)
        try:
            data = b"".join(
                (
                    self._from,
                    mime.mailbox(mime.one_line(to.name), to.email),
                    b"\r\nSubject: ",
                    self._constant_subject or self._encode_subject(),
                    self._date_header,
                    message_id.encode("ascii"),
                    token.encode("ascii").join(self._more_headers),
                    self._frame.head,
                    prepared or self._constant_body or self._encode_body(),
                )
            )
        except UnicodeEncodeError:
            raise InvalidValue(tr("the email contains invalid Unicode (a lone surrogate)")) from None
        tail = self._frame.close(own_parts) if own_parts else self._tail
        return ComposedEmail(data, body is None or prepared is None or body.has_dots, tail)

    def render(self, to: Recipient) -> tuple[str, str, str | None]:
        """Return subject, text and HTML (or None) as one client reads them. Raises InvalidValue."""
        self._show(to)
        html = None if self._html is None else self._html.render()
        return mime.one_line(self._subject.render()), self._text.render(), html

    def _show(self, to: Recipient, token: str = SAMPLE) -> Recipient:
        """Return a client as the templates see it from now on."""
        fields = to.fields
        if self._uses_fields:
            from skychimp.delivery.composing.field_values import FieldValues

            assert not isinstance(fields, FieldValues)
            fields = FieldValues(fields)
        url = to.unsubscribe_url or (token.join(self._unsubscribe_url) if self.shows_link else "")
        to = Recipient(to.email, to.name, to.comment, _Tags(to.tags), fields, url)  # faster than to replace
        self._values["client"], self._values[UNSUBSCRIBE_URL] = to, url
        return to

    def _encode_subject(self) -> bytes:
        return mime.header_value(mime.one_line(self._subject.render()))

    def _encode_body(self) -> bytes:
        return b"".join(part for part, _ in self._body_parts())

    def _body_parts(self) -> "list[BodyPart]":
        """Return the body, with its headers, in parts."""
        if self._html is None:
            avoid = self._avoid if self._tail else b""
            return [(mime.text_part(self._text.pieces(), "plain", avoid=avoid), "plain")]
        boundary = self._boundary
        head = b'Content-Type: multipart/alternative;\r\n boundary="%b"\r\n\r\n--%b\r\n' % (boundary, boundary)
        return [
            (head, ""),
            (mime.text_part(self._text.pieces(), "plain", avoid=self._avoid), "plain"),
            (b"\r\n--%b\r\n" % boundary, ""),
            (mime.text_part(self._html.pieces(), "html", avoid=self._avoid), "html"),
            (b"\r\n--%b--\r\n" % boundary, ""),
        ]

    def _prepare_body(self) -> "PreparedBody | None":
        """Encode the body once for all clients, or return None if that is not possible."""
        from skychimp.delivery.composing import prepared_body
        from skychimp.delivery.composing.field_uses import FIELD_PREFIX
        from skychimp.delivery.composing.templates import TEXTS

        if not (self._text.has_only_gaps and (self._html is None or self._html.has_only_gaps)):
            return None
        mark = "x" + self._boundary[2:].decode()  # no text contains its own hash
        names = sorted(self._text.gaps | (self._html.gaps if self._html else set()))
        marks = {name: prepared_body.gap_text(mark, number) for number, name in enumerate(names)}
        email, name, comment, url = (marks.get(text, "") for text in (*TEXTS, UNSUBSCRIBE_URL))
        fields = {name.removeprefix(FIELD_PREFIX): text for name, text in marks.items()}
        self._show(Recipient(email, name, comment, (), fields, url))
        try:
            return prepared_body.prepare(self._body_parts(), mark, names)
        except (InvalidValue, UnicodeEncodeError):
            return None


def _seed(content: MessageContent, date: datetime, mailing_id: int) -> bytes:
    """Return what the boundaries are made from.

    Without attachments it is what it was before there were any, as an email is sent again with the same boundary.
    """
    *templates, attachments = content
    named = ", ".join(f"{name}={value!r}" for name, value in zip(MessageContent._fields, templates, strict=False))
    seed = f"(MessageContent({named}), {date.timestamp()!r}, {mailing_id!r})"
    return (seed if attachments == listing.NOTHING else seed + repr(attachments)).encode()


def _date_header(date: datetime) -> bytes:
    return b"\r\nDate: " + format_datetime(date).encode() + b"\r\nMessage-ID: "


def message_id(secret: bytes, delivery_id: int, domain: str) -> str:
    """Return the Message-ID of a delivery, which is the same for all its attempts.

    It is a keyed hash, so that it does not reveal how many emails are sent.
    """
    digest = hashlib.blake2b(str(delivery_id).encode(), key=secret[:64], digest_size=16).hexdigest()
    return f"<{addresses.with_ascii_domain(f'{digest}@{domain}')}>"


def require_sizes(content: MessageContent, *, extra: int = 0) -> None:
    """Raise InvalidValue if a template is too large. `extra` bytes are allowed for what was inserted into it."""
    if len(content.subject) > MAX_SUBJECT_LENGTH:
        raise InvalidValue(
            tr("the subject is longer than {max_subject_length:,} characters", max_subject_length=MAX_SUBJECT_LENGTH)
        )
    for part, source, max_size in (("body", content.body, MAX_BODY_SIZE), ("HTML", content.html, MAX_HTML_SIZE)):
        if source and _size(source) > max_size + extra:
            raise InvalidValue(
                tr("the {part} is larger than {max_size:,} kB", part=part, max_size=(max_size + extra) // 1000),
                tr("make it shorter"),
            )


def used_fields(content: MessageContent) -> Sequence[str]:
    """Return the names of the custom fields that a message uses, as it writes them. An invalid message uses none."""
    composer = _field_composer(content)
    return [] if composer is None else [use.name for use in composer.fields.values()]


def required_fields(content: MessageContent) -> Collection[str]:
    """Return the folded names of the custom fields of which each client must have a value."""
    composer = _field_composer(content)
    return [] if composer is None else composer.required_fields


def may_use_fields(content: MessageContent) -> bool:
    """Return whether a message may use custom fields. It takes no time, unlike `used_fields`."""
    parts = (content.subject, content.body, content.html, content.attachments)
    return any("fields" in (part or "") for part in parts)


def with_samples(recipient: Recipient, fields: Collection[Field], text: str = "") -> Recipient:
    """Return a client with a value of each of these fields: in text fields their names, unless a text is given."""
    if not fields:
        return recipient
    from skychimp.delivery.composing.field_values import sample_values

    return recipient._replace(fields=sample_values(fields, text))


def uses_variable(content: MessageContent, name: str) -> bool:
    """Return whether the body of a message uses this variable. An invalid message uses none."""
    if not any(name in (part or "") for part in (content.body, content.html)):
        return False
    composer = _sample_composer(content)
    return composer is not None and composer.uses(name)


def check_content(content: MessageContent, fields: Collection[Field] = ()) -> None:
    """Raise InvalidValue if a message is too large or invalid, or cannot be composed for one of the sample clients.

    The last of them have the longest name, comment, tags and fields that a client can have. `fields` are those that
    there are.
    """
    if not content.subject.strip():
        raise InvalidValue(tr("the subject is empty"), tr("use --subject"))
    require_sizes(content, extra=MAX_POSTS_SIZE)
    if content.format == Format.MARKDOWN:
        markdown.require_little_markup(content.body, "body")
    if mime.one_line(content.subject) != content.subject.strip():
        raise InvalidValue(tr("the subject contains a line break or a control character"))
    composer = Composer(
        content,
        sender="check@localhost",
        date=_SAMPLE_TIME,
        mailing_id=1,
        due_at=_SAMPLE_TIME,
        extras=LARGEST_SAMPLE,
    )
    samples = sample_recipients(composer, fields)
    for recipient in samples.ordinary:
        try:
            composer.compose(recipient, "<check@localhost>")
            composer.own_paths(recipient)
        except InvalidValue as error:
            hint = tr("use | default('...', true) for clients without a name or tags")
            raise InvalidValue(error.message, error.hint or hint) from None
    for recipient in samples.largest:
        try:
            composer.compose(recipient, "<check@localhost>")
        except InvalidValue as error:
            hint = error.hint or tr("make it shorter, or use client.comment and client.tags less often")
            raise InvalidValue(
                tr("{message}, for a client with a long comment and many tags", message=error.message), hint
            ) from None


def sample_recipients(composer: Composer, fields: Collection[Field]) -> SampleRecipients:
    """Return the clients that a message is checked for. Raises InvalidValue if it uses a field that there is not."""
    used = _require_known(composer, fields)
    required = [field for field in used if folded(field.name) in composer.required_fields]
    return SampleRecipients(
        [with_samples(each, known) for each, known in zip(_SAMPLE_RECIPIENTS, (used, required), strict=True)],
        [with_samples(_largest_recipient(each), used, each * MAX_VALUE_LENGTH) for each in _COSTLY_CHARACTERS],
    )


def _field_composer(content: MessageContent) -> Composer | None:
    return _sample_composer(content) if may_use_fields(content) else None


def _sample_composer(content: MessageContent) -> Composer | None:
    try:
        return Composer(content, sender="check@localhost", date=_SAMPLE_TIME, mailing_id=1, due_at=_SAMPLE_TIME)
    except InvalidValue:
        return None


def _require_known(composer: Composer, known: Collection[Field]) -> list[Field]:
    """Return the fields that a message uses. Raises InvalidValue if there is no such field."""
    found = []
    for use in composer.fields.values():
        field = find_field(use.name, known)
        if field is None:
            raise unknown_field(use.name, known, f"line {use.line}: ")
        found.append(field)
    return found


def _largest_recipient(character: str) -> Recipient:
    tags = (str(number).ljust(MAX_TAG_LENGTH, character) for number in range(MAX_TAGS))
    address = f"{'a' * 64}@{'.'.join(['b' * 61] * 3)}.cc"
    return Recipient(address, character * MAX_NAME_LENGTH, character * MAX_COMMENT_LENGTH, tuple(tags))


def _size(source: str) -> int:
    return len(source.encode("utf-8", "surrogatepass"))

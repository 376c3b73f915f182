"""Choose the variant of a message that a client gets, by the value of a custom field; pure.

An occurrence keeps all variants as they are when it opens. A delivery keeps the value of the field.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from skychimp.delivery.attachments import listing
from skychimp.delivery.composing import compose
from skychimp.delivery.composing.compose import MessageContent
from skychimp.delivery.composing.digest import PostSummary, insert_posts
from skychimp.errors import InvalidValue
from skychimp.fields import FieldValue, format_value
from skychimp.models import EmailLanguage, Format
from skychimp.text import folded
from skychimp.translation import tr

if TYPE_CHECKING:
    from sqlalchemy import Row

    from skychimp.delivery.composing.layouts.finishing import Layout

T = TypeVar("T")

NOTHING = ""
"""What the store keeps for content without variants."""

_LANGUAGE_TAG = re.compile(r"[a-z]{2}(?:[-_][a-z]{4})?(?:[-_](?:[a-z]{2}|[0-9]{3}))?")
"""A language with its script and region (RFC 5646, section 2.1). Other values are not cut: `vip-gold` is not `vip`."""


class StoredContent(Protocol):
    """A row with the content of a message or a variant, and its layout."""

    @property
    def subject(self) -> str: ...
    @property
    def body(self) -> str: ...
    @property
    def format(self) -> str: ...
    @property
    def html(self) -> str | None: ...
    @property
    def attachments(self) -> str: ...
    @property
    def layout_kind(self) -> str | None: ...
    @property
    def layout_html(self) -> str | None: ...
    @property
    def preheader(self) -> str | None: ...


class Variant(NamedTuple):
    """A variant as its owner wrote it. `key` is the folded value of the field."""

    key: str
    content: MessageContent
    layout: "Layout | None"


class VariedContent(NamedTuple):
    """What the emails of a message contain: the content for all, and those for the folded values of a field."""

    fallback: MessageContent
    field: str = ""
    variants: tuple[tuple[str, MessageContent], ...] = ()

    @property
    def all(self) -> list[MessageContent]:
        """The content for all, and then the variants."""
        return [self.fallback, *(content for _, content in self.variants)]

    @property
    def used_fields(self) -> list[str]:
        """The names of the custom fields that the emails depend on. A delivery keeps their values."""
        names = [name for content in self.all for name in compose.used_fields(content)]
        return [*names, self.field] if self.variants else names

    def columns(self) -> dict[str, Any]:
        """Return the content as an occurrence keeps it, by the names of the columns."""
        return self.fallback._asdict() | {"variants": dump(self.field, self.variants)}

    def content_for(self, fields: Mapping[str, FieldValue]) -> MessageContent:
        """Return what a client with these fields gets."""
        return choose(dict(self.variants), value_of(fields, self.field), self.fallback)

    def replaced(self, contents: Mapping[str, MessageContent]) -> "VariedContent":
        """Return it with other contents, by their keys. That of the content for all is ""."""
        made = tuple((key, contents.get(key, content)) for key, content in self.variants)
        return self._replace(fallback=contents.get("", self.fallback), variants=made)

    def without(self, key: str) -> "VariedContent":
        """Return it without a variant."""
        return self._replace(variants=tuple(each for each in self.variants if each[0] != key))

    def with_variant(self, key: str, content: MessageContent, field: str) -> "VariedContent":
        """Return it with a variant, in place of one with this key."""
        made = (*self.without(key).variants, (key, content))
        return self._replace(field=field, variants=tuple(sorted(made)))


@lru_cache(maxsize=1024, typed=True)  # typed, as 1 and true are two values
def keys_for(value: FieldValue) -> tuple[str, ...]:
    """Return the keys of the variants that fit a value, the best first.

    Case does not matter. A language such as `zh-Hant-TW` is also `zh-Hant` and `zh` (RFC 4647, section 3.4).
    """
    keys = [folded(format_value(value))]
    if _LANGUAGE_TAG.fullmatch(keys[0]):
        while (end := max(keys[-1].rfind("-"), keys[-1].rfind("_"))) > 0:
            keys.append(keys[-1][:end])
    return tuple(keys)


def choose(by_key: Mapping[str, T], value: FieldValue | None, fallback: T) -> T:
    """Return what belongs to the value that a client has, or the fallback. It is a look-up for each email."""
    if value is not None:
        for key in keys_for(value):
            if key in by_key:
                return by_key[key]
    return fallback


def value_of(fields: Mapping[str, FieldValue], name: str) -> FieldValue | None:
    """Return a client's value of a field. Case does not matter in its name."""
    key = folded(name)
    return next((value for each, value in fields.items() if folded(each) == key), None)


def language_of(value: str, default: EmailLanguage) -> EmailLanguage:
    """Return the language that a value such as `ru` or `ru-RU` names, if emails have words in it."""
    primary = keys_for(value)[-1]
    return EmailLanguage(primary) if primary in tuple(EmailLanguage) else default


def finish_rows(
    message: StoredContent,
    variants: Sequence["Row[Any]"],
    field: str,
    language: EmailLanguage,
    posts: Sequence[PostSummary] | None = None,
) -> VariedContent:
    """Return what the emails of a message contain, from its row and those of its variants. Raises InvalidValue."""
    return finish(
        content_of(message), layout_of(message, language), [variant_of(row, language) for row in variants], field, posts
    )


def content_of(row: StoredContent) -> MessageContent:
    """Return the content in a row, as its owner wrote it."""
    return MessageContent(row.subject, row.body, Format(row.format), row.html, row.attachments)


def layout_of(row: StoredContent, language: EmailLanguage) -> "Layout | None":
    """Return the layout in a row, with its words in a language."""
    if row.layout_kind is None:
        return None
    from skychimp.delivery.composing.layouts import finishing

    return finishing.layout_of(row.layout_kind, row.layout_html, row.preheader or "", language)


def variant_of(row: "Row[Any]", language: EmailLanguage) -> Variant:
    """Return the variant in a row. Its language is that of its value, if that names one."""
    return Variant(row.key, content_of(row), layout_of(row, language_of(row.value, language)))


def finish(
    content: MessageContent,
    layout: "Layout | None",
    variants: Iterable[Variant] = (),
    field: str = "",
    posts: Sequence[PostSummary] | None = None,
) -> VariedContent:
    """Return what the emails of a message contain, with the posts of a digest. Raises InvalidValue.

    A variant has the message's attachments, too.
    """

    def finished(content: MessageContent, layout: "Layout | None") -> MessageContent:
        content = content if posts is None else insert_posts(content, posts)
        if layout is None:
            return content
        from skychimp.delivery.composing.layouts import finishing

        return finishing.finish(content, layout)

    made = tuple(
        (variant.key, finished(with_files(variant.content, content.attachments), variant.layout))
        for variant in sorted(variants, key=lambda variant: variant.key)
    )
    return VariedContent(finished(content, layout), field if made else "", made)


def with_files(variant: MessageContent, of_message: str) -> MessageContent:
    """Return the content of a variant with the attachments of its message. Its own replace those with their names.

    Raises InvalidValue if a list of attachments is damaged.
    """
    message, own = listing.parse(of_message), listing.parse(variant.attachments)
    names = {file.name for file in own.shared}
    added = [file for file in message.shared if file.name not in names]
    merged = listing.Attachments((*added, *own.files), tuple(message.paths))
    return variant._replace(attachments=listing.dump(merged))


def dump(field: str, variants: Sequence[tuple[str, MessageContent]]) -> str:
    """Return variants as the store keeps them with an occurrence."""
    if not variants:
        return NOTHING
    contents = {key: content._asdict() for key, content in variants}
    return json.dumps({"field": field, "contents": contents}, ensure_ascii=False)


def parse(stored: str) -> tuple[str, Mapping[str, MessageContent]]:
    """Return the field and the variants of an occurrence. Raises InvalidValue if they are damaged."""
    if stored == NOTHING:
        return "", {}
    try:
        values = json.loads(stored)
        contents = {key: _content(content) for key, content in values["contents"].items()}
        if not isinstance(values["field"], str):
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise InvalidValue(tr("the variants of the message are damaged")) from None
    return values["field"], contents


def _content(values: dict[str, Any]) -> MessageContent:
    content = MessageContent(**values)._replace(format=Format(values["format"]))
    texts = (content.subject, content.body, content.html or "", content.attachments)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError
    return content

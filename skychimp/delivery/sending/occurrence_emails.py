"""Compose the emails of one occurrence, and count their failures."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, NamedTuple, cast

from sqlalchemy import Connection, Row, select

from skychimp.config.settings import Settings
from skychimp.delivery.attachments import listing
from skychimp.delivery.attachments.folder import (
    NO_FOLDER_HINT,
    AttachmentsFolder,
    FileUnavailable,
    OwnFile,
    hash_files,
)
from skychimp.delivery.composing import compose, extras, settings_extras, tokens, variants
from skychimp.delivery.composing.compose import Composer, MessageContent, Recipient
from skychimp.delivery.composing.extras import GAP, NO_EXTRAS, Extras
from skychimp.delivery.composing.tokens import Purpose, TokenKey
from skychimp.delivery.scheduling import planner
from skychimp.delivery.sending import replies
from skychimp.delivery.sending.retry_policy import RetryPolicy, has_too_many_failures
from skychimp.errors import InvalidValue
from skychimp.fields import FieldValue, parse_fields
from skychimp.models import tables
from skychimp.return_rates import Rate, RateKind
from skychimp.store import token_keys
from skychimp.store.database import Store
from skychimp.store.ledger import ResultCounts
from skychimp.store.occurrences import opening, stored_files
from skychimp.store.queue import ClaimedDelivery
from skychimp.text import NO_TEXT, count_of, shortened
from skychimp.translation import Phrase, tr
from skychimp.transport.interfaces import OutgoingEmail

_O = tables.occurrence
_M = tables.mailing

ALIKE_IN_A_ROW, ALIKE_IN_ALL = 5, 3
"""How many refusals in the same words are a pattern."""

NO_LINK = tr("the message uses {{ unsubscribe_url }}, but neither web.url nor inbound.address is set")
NO_LINK_HINT = tr("set web.url or inbound.address")


@dataclass
class OccurrenceEmails:
    """What is needed to compose an occurrence's emails, and how many were tried, failed and bounced.

    `older` has the content that some emails may have been sent with before it was changed, by the content's id.
    `may_bounce` says that its mailing is not held for bounces: it was before, or the canary is judged for them.
    """

    mailing_id: int
    content: "OccurrenceContent"
    older: Mapping[int, "OccurrenceContent"]
    failed: int
    tried: int
    bounced: int = 0
    may_bounce: bool = False
    refusals: list[tuple[ClaimedDelivery, str]] = field(default_factory=list)
    """The last deliveries that were refused in the same words, without a success between them, and the words."""
    folder: AttachmentsFolder = field(default_factory=AttachmentsFolder)
    """Where the clients' own files are."""
    lacking_files: int = 0
    """How many emails failed because a file of their client could not be read."""
    changed_files: int = 0
    """How many emails are held because a file of their client is not the one that may have been sent before."""
    is_held: bool = False
    is_disabled: bool = False
    """Whether a result was a reason to hold or disable the mailing. Emails that are in flight then may fail, too."""

    @property
    def is_stopped(self) -> bool:
        """Whether the mailing was held or disabled for these emails."""
        return self.is_held or self.is_disabled

    def count_success(self, *, is_first_try: bool) -> None:
        """Count an email that was sent."""
        self.tried += is_first_try
        if self.refusals:
            self.refusals = []

    def count_result(self, *, is_first_try: bool, is_failed: bool) -> None:
        """Count an email that was not sent."""
        self.tried += is_first_try
        self.failed += is_failed

    def find_pattern(self, claimed: ClaimedDelivery, reply: str) -> list[int]:
        """Note that a delivery was refused. Return the refused ones if that cannot be the clients' fault, else [].

        It cannot if five in a row got the same reply, at two domains or more, or if all that were tried did, at least
        three.
        """
        words = replies.pattern(reply, claimed.address)
        if self.refusals and self.refusals[-1][1] != words:
            self.refusals = []
        self.refusals.append((claimed, words))
        domains = {each.address.rpartition("@")[2] for each, _ in self.refusals}
        number = len(self.refusals)
        is_pattern = (number >= ALIKE_IN_A_ROW and len(domains) > 1) or ALIKE_IN_ALL <= number == self.tried
        return [each.id for each, _ in self.refusals] if is_pattern else []

    def has_too_many_failures(self, policy: RetryPolicy) -> bool:
        """Return whether enough emails failed to disable the mailing."""
        return has_too_many_failures(self.failed, self.tried, policy)

    def why_too_many_bounces(self, policy: RetryPolicy) -> str | None:
        """Return why the mailing is to be held for hard bounces, or None if it is not."""
        if self.may_bounce or self.is_stopped:
            return None
        return Rate(RateKind.BOUNCES, self.bounced, self.tried).why_too_high(policy.bounce_rate)

    @property
    def failures(self) -> Phrase:
        """How many emails failed, in words."""
        emails = count_of(self.tried, "email")
        if not self.lacking_files:
            return tr("{number:,} of {emails} failed", number=self.failed, emails=emails)
        return tr(
            "{number:,} of {emails} failed, {lacking_files:,} of them because a file is missing",
            number=self.failed,
            emails=emails,
            lacking_files=self.lacking_files,
        )

    @property
    def problem(self) -> tuple[Phrase, Phrase] | None:
        """Why no email can be sent with the present settings, and a hint. None if they can be."""
        composers = self.content.composers
        if any(each.shows_link for each in composers) and not self.content.extras.unsubscribe_url:
            return NO_LINK, NO_LINK_HINT
        if any(each.has_own_files for each in composers) and (reason := self.folder.problem) is not None:
            return reason, NO_FOLDER_HINT
        return None

    def read_files(self, claimed: ClaimedDelivery) -> Sequence[OwnFile]:
        """Return the files that only the client of a delivery gets.

        Raises InvalidValue, and if it is a FileUnavailable, only the client's files are the reason. So it is if the
        email may have been sent before with other files: an email that is sent again must have the same bytes.
        """
        content = self._content_of(claimed)
        if content.composer is None or not content.composer.has_own_files:  # the files of all variants are the same
            return ()
        try:
            recipient = _recipient(claimed)
            own = self.folder.read(content.composer_for(recipient).own_paths(recipient))
        except InvalidValue:
            raise
        except Exception as error:
            raise FileUnavailable(tr("cannot attach the client's files: {error!r}", error=error)) from error
        if claimed.may_have_arrived and claimed.files_hash not in (None, hash_files(own)):
            names = ", ".join(shortened(file.path) for file in own)
            raise FileUnavailable(tr("the email may have been sent before, and {names} has changed since", names=names))
        return own

    def compose(self, claimed: ClaimedDelivery, secret: bytes, own: Sequence[OwnFile] = ()) -> OutgoingEmail:
        """Return the email for a delivery, with its client's own files. Raises InvalidValue if that is not possible."""
        content = self._content_of(claimed)
        if content.composer is None:
            raise InvalidValue(content.error)
        try:
            recipient = _recipient(claimed)
            parts = [file.encode() for file in own] if own else ()
            message_id = compose.message_id(secret, claimed.id, content.return_path.rpartition("@")[2])
            composer = content.composer_for(recipient)
            token = content.make_token(Purpose.UNSUBSCRIBE, claimed.id) if composer.needs_token else ""
            data, has_dots, tail = composer.compose(recipient, message_id, claimed.date, token, parts)
            sender, envelope_id = content.name_for_bounces(claimed.id)
            return OutgoingEmail(sender, claimed.address, data, has_dots, envelope_id, None, tail)
        except InvalidValue:
            raise
        except Exception as error:
            raise InvalidValue(tr("cannot compose the email: {error!r}", error=error)) from error

    def _content_of(self, claimed: ClaimedDelivery) -> "OccurrenceContent":
        return self.content if claimed.content_id is None else self.older[claimed.content_id]


class OccurrenceContent(NamedTuple):
    """What an occurrence's emails contain. `composer` is None if that cannot be used, and `error` then says why.

    `variants` has the composers for clients whose `field` has certain values. `key` makes the tokens. `return_paths` is
    what stands around the token in each email's own return path, () if all have the same.
    """

    return_path: str
    composer: Composer | None
    error: Phrase = NO_TEXT
    extras: Extras = NO_EXTRAS
    key: TokenKey | None = None
    has_bounce_tokens: bool = False
    return_paths: Sequence[str] = ()
    field: str = ""
    variants: Mapping[str, Composer] = MappingProxyType({})

    @property
    def composers(self) -> Sequence[Composer]:
        """All composers, none if the content cannot be used."""
        return () if self.composer is None else (self.composer, *self.variants.values())

    def composer_for(self, recipient: Recipient) -> Composer:
        """Return what composes the email to a client. The content must be one that can be used."""
        assert self.composer is not None
        if not self.variants:
            return self.composer
        fields = cast("Mapping[str, FieldValue]", recipient.fields)
        return variants.choose(self.variants, variants.value_of(fields, self.field), self.composer)

    def make_token(self, purpose: Purpose, delivery_id: int) -> str:
        """Return the token of a delivery, which is the same for all its attempts."""
        return "" if self.key is None else tokens.make(self.key, purpose, delivery_id)

    def name_for_bounces(self, delivery_id: int) -> tuple[str, str]:
        """Return the envelope sender of a delivery's email, and its envelope id. Bounces name it by both."""
        if not self.has_bounce_tokens:
            return self.return_path, ""
        token = self.make_token(Purpose.BOUNCE, delivery_id)
        return token.join(self.return_paths) if self.return_paths else self.return_path, token


def keep_sent_content(store: Store, occurrence_id: int, settings: Settings) -> int | None:
    """Do what takes long before `load_occurrence_emails` changes the sender. Return its `looked_to`.

    Raises StoreFailed.
    """
    with store.read() as transaction:
        db = transaction.connection()
        values = _present_values(db, occurrence_id, settings, token_keys.read(db, store.now()))
        row = db.execute(select(*(_O.c[name] for name in values)).where(_O.c.id == occurrence_id)).one()
    return None if row._asdict() == values else opening.keep_sent_content(store, occurrence_id)


def load_occurrence_emails(
    db: Connection,
    occurrence_id: int,
    counts: ResultCounts,
    settings: Settings,
    now: datetime,
    *,
    looked_to: int | None = None,
) -> OccurrenceEmails:
    """Read an occurrence's content. From now on its emails have the sender, headers and links of these settings.

    `counts` has its results so far. Lease its emails in the same transaction, so that nobody changes the content
    meanwhile.
    """
    keys = token_keys.read(db, now)
    opening.change_content(db, occurrence_id, looked_to, **_present_values(db, occurrence_id, settings, keys))
    row = db.execute(select(_O).where(_O.c.id == occurrence_id)).one()
    contents = db.execute(select(tables.content).where(tables.content.c.occurrence_id == occurrence_id)).all()
    files = _read_files(db, [row, *contents])
    folder = AttachmentsFolder(settings.mail.attachments_folder, settings.mail.max_attachment_size)
    with suppress(InvalidValue):
        folder = folder.beside(listing.parse(row.attachments).files)
    return OccurrenceEmails(
        row.mailing_id,
        _compile(row, row, keys, files),
        {content.id: _compile(content, row, keys, files) for content in contents},
        counts.failed,
        counts.tried,
        counts.bounced,
        may_bounce=counts.held_for_bounces or row.canary_until is not None,
        folder=folder,
    )


def _present_values(
    db: Connection, occurrence_id: int, settings: Settings, keys: Mapping[int, bytes]
) -> dict[str, Any]:
    """Return what an occurrence's emails get from the settings and its mailing now, by the names of the columns."""
    columns = (_M.c.id, _M.c.owner_id, _M.c.topic, _M.c.transactional)
    mailing = db.execute(select(*columns).join(_O, _O.c.mailing_id == _M.c.id).where(_O.c.id == occurrence_id)).one()
    made = settings_extras.make(settings, cast("settings_extras.MailingTraits", mailing), token_keys.newest(keys))
    mail = settings.mail
    return {"sender": mail.sender or "", "return_path": mail.return_path or "", "extras": extras.dump(made)}


def _read_files(db: Connection, contents: Sequence[Row[Any]]) -> Mapping[str, bytes]:
    """Return the files that are attached to these contents, by their hashes."""
    hashes: set[str] = set()
    for content in contents:
        with suppress(InvalidValue):  # `_compile` says so
            of_variants = variants.parse(content.variants)[1].values()
            for each in (content.attachments, *(variant.attachments for variant in of_variants)):
                hashes.update(file.sha256 for file in listing.parse(each).files)
    return stored_files.read(db, hashes)


def _compile(
    content: Row[tuple[object, ...]],
    occurrence: Row[tuple[object, ...]],
    keys: Mapping[int, bytes],
    files: Mapping[str, bytes],
) -> OccurrenceContent:
    try:
        added = extras.parse(content.extras)
        compile_content = partial(
            Composer,
            sender=content.sender,
            date=occurrence.opened_at,
            mailing_id=occurrence.mailing_id,
            due_at=planner.local_due_time(occurrence.due_at, occurrence.timezone),
            extras=added,
            files=files,
        )
        own = MessageContent(content.subject, content.body, content.format, content.html, content.attachments)
        composer = compile_content(own)
        field, others = variants.parse(content.variants)
        by_value = {key: compile_content(variant) for key, variant in others.items()}
    except InvalidValue as error:
        return OccurrenceContent(content.return_path, None, error.message)
    except Exception as error:
        return OccurrenceContent(content.return_path, None, tr("cannot compose the email: {error!r}", error=error))
    made = OccurrenceContent(
        content.return_path,
        composer,
        extras=added,
        key=_token_key(keys, added.key),
        field=field,
        variants=by_value,
    )
    if not added.inbound_address or made.key is None:
        return made
    is_ours = content.return_path == added.inbound_address
    return made._replace(has_bounce_tokens=True, return_paths=added.tagged_address.split(GAP) if is_ours else ())


def _token_key(keys: Mapping[int, bytes], number: int) -> TokenKey | None:
    """Return the key of this number. If it is no longer good, its tokens are not either: then return the newest key."""
    if number not in keys:
        number = token_keys.newest(keys)
    return TokenKey(number, keys[number]) if number else None


def _recipient(claimed: ClaimedDelivery) -> Recipient:
    recipient = Recipient(claimed.address, claimed.name, claimed.comment, _parse_tags(claimed.tags))
    return recipient if claimed.fields is None else recipient._replace(fields=parse_fields(claimed.fields))


@lru_cache(maxsize=1024)  # most clients have one of a few combinations of tags
def _parse_tags(stored: str) -> tuple[str, ...]:
    return tuple(json.loads(stored))

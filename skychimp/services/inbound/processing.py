"""Apply what incoming mail says: mark bad addresses, suppress complaints, unsubscribe.

A report counts only if it names a delivery by a valid token. Without one, anybody may have written it: it is recorded
and adds to an address's score, but it never suppresses an address and never marks one as bad.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from sqlalchemy import Connection, select

from skychimp import addresses
from skychimp.config.settings import InboundSettings
from skychimp.delivery.composing import compose, tokens
from skychimp.delivery.composing.tokens import Purpose
from skychimp.delivery.inbound import reading
from skychimp.delivery.inbound.delivery_status import Failure
from skychimp.delivery.inbound.reading import IncomingMail, Kind
from skychimp.delivery.inbound.severity import Severity
from skychimp.errors import InvalidValue
from skychimp.models import ReturnedKind, StoreInfo, SuppressionSource
from skychimp.services.clients.suppressions import COMPLAINT, UNSUBSCRIBED
from skychimp.services.inbound import unsubscribing
from skychimp.services.inbound.unsubscribing import Recipient
from skychimp.store import returned_mail, token_keys
from skychimp.store.clients import bad_addresses, suppressions
from skychimp.store.database import Store
from skychimp.store.ledger import storable
from skychimp.store.returned_mail import Returned

log = logging.getLogger("skychimp")

RECENT = timedelta(days=14)
"""For how long after an email a report without a token may be about it."""

_EXTENSION = re.compile(r"[+=_.-]([0-9A-Va-v]{28,64})$")


class Result(StrEnum):
    """What became of an incoming email."""

    BOUNCE = "bounces"
    COMPLAINT = "complaints"
    UNSUBSCRIBE = "unsubscribes"
    REPEATED = "repeated"
    """The same report was processed before."""
    AUTOMATIC = "automatic"
    """An automatic reply, a notice of delay or the like."""
    OTHER = "other"


@dataclass(frozen=True)
class Summary:
    """How many incoming emails there were of each kind. `ignored` counts `automatic`, and all that is none of ours.

    `marked_bad` counts the clients whose address is known to be bad since now.
    """

    bounces: int = 0
    complaints: int = 0
    unsubscribes: int = 0
    ignored: int = 0
    repeated: int = 0
    automatic: int = 0
    marked_bad: int = 0

    def __add__(self, other: "Summary") -> "Summary":
        names = (field.name for field in fields(self))
        return Summary(**{name: getattr(self, name) + getattr(other, name) for name in names})


class ReceivedMail(NamedTuple):
    """The bytes of an email, and the envelope's recipient if that is known."""

    data: bytes
    recipient: str | None = None


class Outcome(NamedTuple):
    """What became of an email, and how many clients it marked as bad."""

    result: Result
    marked_bad: int = 0

    @property
    def summary(self) -> Summary:
        """The outcome as numbers."""
        ignored = self.result in (Result.AUTOMATIC, Result.OTHER)
        counts = {"ignored": int(ignored)} | ({} if self.result == Result.OTHER else {self.result.value: 1})
        return Summary(**counts, marked_bad=self.marked_bad)


def process(store: Store, settings: InboundSettings, received: Sequence[ReceivedMail]) -> list[Outcome]:
    """Apply what emails say, all in one transaction, and return what became of each. Raises StoreFailed."""
    mails = [(reading.read(each.data), each.recipient) for each in received]
    with store.read() as db:
        finder = _Finder(db.connection(), store.now())
        matched = [(mail, finder.find(mail, recipient)) for mail, recipient in mails]
    if not any(found.matches for _, found in matched):
        return [Outcome(_ignored(mail)) for mail, _ in matched]
    with store.write() as db:
        effects = _Effects(db.connection(), settings, store.now())
        return [effects.apply(mail, found) for mail, found in matched]


def _ignored(mail: IncomingMail) -> Result:
    return Result.AUTOMATIC if mail.kind == Kind.AUTOMATIC else Result.OTHER


class _Match(NamedTuple):
    """A delivery that an email is about. `failure` is what a bounce says, None for any other email."""

    recipient: Recipient
    has_token: bool
    failure: Failure | None = None


class _Found(NamedTuple):
    """What an email is about. `result` is what it will be if there are matches."""

    result: Result
    matches: Sequence[_Match] = ()


class _Finder:
    """Finds the deliveries that incoming mail is about."""

    def __init__(self, db: Connection, now: datetime) -> None:
        self._db = db
        self._now = now

    @cached_property
    def _keys(self) -> Mapping[int, bytes]:
        return token_keys.read(self._db, self._now)

    @cached_property
    def _secret(self) -> bytes:
        return bytes(self._db.scalar(select(StoreInfo.__table__.c.secret)) or b"")

    def find(self, mail: IncomingMail, envelope: str | None) -> _Found:
        """Return the deliveries that an email is about. `envelope` is its recipient, None if that is not known."""
        addressees = mail.addressees if envelope is None else [envelope]
        own = [match[1] for each in addressees if (match := _EXTENSION.search(each.rpartition("@")[0]))]
        match mail.kind:
            case Kind.BOUNCE:
                recipient = self._by_token(Purpose.BOUNCE, [*own, *mail.possible_tokens])
                return _Found(Result.BOUNCE, list(self._bounces(mail, recipient)))
            case Kind.COMPLAINT:
                return _Found(Result.COMPLAINT, list(self._complaints(mail, own)))
        recipient = self._by_token(Purpose.UNSUBSCRIBE, own)
        return _Found(Result.UNSUBSCRIBE, [] if recipient is None else [_Match(recipient, has_token=True)])

    def _bounces(self, mail: IncomingMail, recipient: Recipient | None) -> Iterator[_Match]:
        if recipient is not None:
            yield _Match(recipient, True, _failure_of(recipient, mail.failures))
            return
        for failure in mail.failures:
            named = failure.original or failure.recipient
            if (recent := self._recent(named, mail.message_ids)) is not None:
                yield _Match(recent, False, failure)

    def _complaints(self, mail: IncomingMail, own: Sequence[str]) -> Iterator[_Match]:
        candidates = [*own, *mail.possible_tokens]
        recipient = self._by_token(Purpose.BOUNCE, candidates) or self._by_token(Purpose.UNSUBSCRIBE, candidates)
        if recipient is not None:
            yield _Match(recipient, has_token=True)
            return
        recent = (self._recent(address, mail.message_ids) for address in mail.recipients)
        yield from (_Match(each, has_token=False) for each in recent if each is not None)

    def _by_token(self, purpose: Purpose, candidates: Sequence[str]) -> Recipient | None:
        ids = (tokens.read(self._keys, purpose, candidate) for candidate in candidates)
        delivery_id = next((each for each in ids if each is not None), None)
        return None if delivery_id is None else unsubscribing.recipient_of(self._db, delivery_id)

    def _recent(self, address: str, message_ids: Sequence[str]) -> Recipient | None:
        """Return the recipient of the email that a report is about, by its Message-ID, or else the newest one."""
        try:
            key = addresses.parse(address, addresses.STORED).key
        except InvalidValue:
            return None
        recent = returned_mail.recent_deliveries(self._db, key, self._now, RECENT)
        named = {message_id.partition("@")[0] for message_id in message_ids}
        same = (each for each in recent if compose.message_id(self._secret, each, "x").partition("@")[0] in named)
        delivery_id = next(same, next(iter(recent), None))
        return None if delivery_id is None else unsubscribing.recipient_of(self._db, delivery_id)


def _failure_of(recipient: Recipient, failures: Sequence[Failure]) -> Failure:
    """Return the failure that counts for a recipient: that of the address, or else the mildest.

    Where an address forwards its mail to other domains, a mailbox that is missing there is not the address's fault
    alone: its failure is only scored.
    """
    address = recipient.address_key
    own = next((each for each in failures if address in (each.original.lower(), each.recipient.lower())), None)
    if own is not None:
        return own
    mildest = min(failures, key=lambda failure: failure.severity)
    domain = mildest.recipient.rpartition("@")[2].lower()
    is_forwarded = domain != "" and recipient.address is not None and domain != address.rpartition("@")[2]
    if is_forwarded and mildest.severity == Severity.HARD:
        return mildest._replace(severity=Severity.SOFT)
    return mildest


_KINDS = {
    Severity.HARD: ReturnedKind.BOUNCED,
    Severity.SOFT: ReturnedKind.SOFT_BOUNCE,
    Severity.POLICY: ReturnedKind.POLICY_BOUNCE,
}


class _Effects:
    """Applies what emails say, in one transaction."""

    def __init__(self, db: Connection, settings: InboundSettings, now: datetime) -> None:
        self._db = db
        self._settings = settings
        self._now = now

    def apply(self, mail: IncomingMail, found: _Found) -> Outcome:
        """Apply what an email says, and return what became of it."""
        if not found.matches:
            return Outcome(_ignored(mail))
        if found.result == Result.UNSUBSCRIBE:
            for match in found.matches:
                unsubscribing.suppress(self._db, match.recipient, UNSUBSCRIBED, SuppressionSource.MAIL, self._now)
            return Outcome(Result.UNSUBSCRIBE)
        recorded = [match for match in found.matches if self._record(mail, match)]
        marked = sum([self._react(match) for match in recorded])
        return Outcome(found.result if recorded else Result.REPEATED, marked)

    def _record(self, mail: IncomingMail, match: _Match) -> bool:
        """Record what came back. Return False if it was recorded before.

        Without a token at most one report a day counts for an address, so that nobody can fill the store.
        """
        hashed = self._hash(match.recipient)
        midnight = self._now.replace(hour=0, minute=0, second=0, microsecond=0)
        if not match.has_token and returned_mail.has_any_since(self._db, hashed, midnight):
            return False
        kind = ReturnedKind.COMPLAINT if match.failure is None else _KINDS[match.failure.severity]
        reply = "" if match.failure is None or match.recipient.address is None else match.failure.reply
        delivery_id = match.recipient.delivery_id
        digest = f"{mail.digest}-{delivery_id}"
        return returned_mail.record(
            self._db, Returned(digest, delivery_id, hashed, kind, self._now, reply, match.has_token)
        )

    def _react(self, match: _Match) -> bool:
        """Suppress the recipient or mark the client as bad if a report says so. Return whether a client was marked."""
        recipient, failure = match.recipient, match.failure
        if not match.has_token:
            return False
        if failure is None:
            source = SuppressionSource.COMPLAINT
            unsubscribing.suppress(self._db, recipient, COMPLAINT, source, self._now, all_mail=True)
            return False
        reason = failure.reply
        if failure.severity == Severity.SOFT:
            since = self._now - self._settings.soft_bounce_period
            days = returned_mail.count_days(self._db, self._hash(recipient), recipient.owner_id, since)
            if days < self._settings.soft_bounces:
                return False
            reason = f"bounced on {days} days, at last: {failure.reply}"
        if failure.severity == Severity.POLICY or recipient.address is None:
            return False
        return bad_addresses.mark(self._db, recipient.client_id, recipient.address, storable(reason), self._now)

    def _hash(self, recipient: Recipient) -> str:
        return recipient.address_hash or suppressions.hash_of(self._db, recipient.address_key)

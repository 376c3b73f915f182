"""Apply what incoming mail says: mark bad addresses, suppress complaints, unsubscribe.

A report counts only if it names a delivery by a valid token. Without one, anybody may have written it: it is recorded
and adds to an address's score, but it never suppresses an address and never marks one as bad.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from enum import StrEnum
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
from skychimp.models import ReturnedKind, SuppressionSource, tables
from skychimp.return_rates import DEFAULT_LIMITS, Limits
from skychimp.services.clients.suppressions import COMPLAINT, UNSUBSCRIBED
from skychimp.services.reporting import returns
from skychimp.services.unsubscribing import recipients
from skychimp.services.unsubscribing.recipients import Recipient
from skychimp.store import returned_mail, token_keys
from skychimp.store.clients import bad_addresses, suppressions
from skychimp.store.clients.bad_addresses import BadAddress
from skychimp.store.database import Store
from skychimp.store.ledger import storable
from skychimp.store.returned_mail import Returned
from skychimp.translation import tr

RECENT = timedelta(days=14)
"""For how long after an email a report without a token may be about it."""

_EXTENSION = re.compile(r"(?:[+=_.-]|%2[Bb])([0-9A-Va-v]{28,64})$")


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


IGNORED = (Result.AUTOMATIC, Result.OTHER)


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


class Processed(NamedTuple):
    """What became of emails, in their order, and how many clients they marked as bad.

    For the emails of `occurrence_ids` more came back than before.
    """

    results: Sequence[Result]
    marked_bad: int = 0
    occurrence_ids: Sequence[int] = ()

    @property
    def summary(self) -> Summary:
        """The results as numbers."""
        counts = Counter(self.results)
        named = {result.value: counts[result] for result in Result if result != Result.OTHER}
        return Summary(**named, ignored=sum(counts[result] for result in IGNORED), marked_bad=self.marked_bad)


def process(
    store: Store, settings: InboundSettings, received: Sequence[ReceivedMail], limits: Limits = DEFAULT_LIMITS
) -> Processed:
    """Apply what emails say, all in one transaction, and return what became of them. Raises StoreFailed.

    If too much came back for a mailing by these `limits`, it is held.
    """
    mails = [(reading.read(each.data), each.recipient) for each in received]
    with store.read() as db:
        finder = _Finder(db.connection(), store.now())
        found = finder.find(mails)
    if not any(each.matches for each in found):
        return Processed([each.result for each in found])
    with store.write() as db:
        processed = _Effects(db.connection(), settings, finder.secret, store.now()).apply(found)
    returns.hold_bad_mailings(store, processed.occurrence_ids, limits)
    return processed


class _Match(NamedTuple):
    """A delivery that an email is about. `failure` is what a bounce says, None for any other email."""

    recipient: Recipient
    has_token: bool
    failure: Failure | None = None


class _Found(NamedTuple):
    """What an email is, and the deliveries that it is about. Without any it is none of ours."""

    result: Result
    digest: str
    matches: Sequence[_Match] = ()


class _Tokens(NamedTuple):
    """The deliveries that the tokens in an email name, by the tokens' purposes. None for a purpose without a token."""

    bounce: int | None
    unsubscribe: int | None


class _Finder:
    """Finds the deliveries that incoming mail is about."""

    def __init__(self, db: Connection, now: datetime) -> None:
        self._db = db
        self._now = now
        self._keys = token_keys.read(db, now)
        self.secret = bytes(db.scalar(select(tables.store_info.c.secret)) or b"")
        self._recipients: dict[int, Recipient] = {}

    def find(self, mails: Sequence[tuple[IncomingMail, str | None]]) -> list[_Found]:
        """Return what emails are about. Each comes with the recipient of its envelope, None if that is not known."""
        named = [self._read_tokens(mail, envelope) for mail, envelope in mails]
        ids = {delivery_id for each in named for delivery_id in each if delivery_id is not None}
        self._recipients |= recipients.recipients_of(self._db, list(ids))
        return [self._find(mail, each) for (mail, _), each in zip(mails, named, strict=True)]

    def _read_tokens(self, mail: IncomingMail, envelope: str | None) -> _Tokens:
        addressees = mail.addressees if envelope is None else [envelope]
        own = [match[1] for each in addressees if (match := _EXTENSION.search(each.rpartition("@")[0]))]
        is_complaint = mail.kind == Kind.COMPLAINT  # it has an unsubscribe link of ours, if any
        candidates = [*own, *mail.possible_tokens]
        return _Tokens(
            self._read_token(Purpose.BOUNCE, candidates),
            self._read_token(Purpose.UNSUBSCRIBE, candidates if is_complaint else own),
        )

    def _read_token(self, purpose: Purpose, candidates: Sequence[str]) -> int | None:
        ids = (tokens.read(self._keys, purpose, candidate) for candidate in candidates)
        return next((each for each in ids if each is not None), None)

    def _find(self, mail: IncomingMail, named: _Tokens) -> _Found:
        match mail.kind:
            case Kind.BOUNCE:
                result, matches = Result.BOUNCE, list(self._bounces(mail, self._named(named.bounce)))
            case Kind.COMPLAINT:
                recipient = self._named(named.bounce) or self._named(named.unsubscribe)
                result, matches = Result.COMPLAINT, list(self._complaints(mail, recipient))
            case _:
                recipient = self._named(named.unsubscribe)
                result = Result.UNSUBSCRIBE
                matches = [] if recipient is None else [_Match(recipient, has_token=True)]
        if not matches:
            result = Result.AUTOMATIC if mail.kind == Kind.AUTOMATIC else Result.OTHER
        return _Found(result, mail.digest, matches)

    def _named(self, delivery_id: int | None) -> Recipient | None:
        return None if delivery_id is None else self._recipients.get(delivery_id)

    def _bounces(self, mail: IncomingMail, recipient: Recipient | None) -> Iterator[_Match]:
        if recipient is not None:
            yield _Match(recipient, True, _failure_of(recipient, mail.failures))
            return
        for failure in mail.failures:
            named = failure.original or failure.recipient
            if (recent := self._recent(named, mail.message_ids)) is not None:
                yield _Match(recent, False, failure)

    def _complaints(self, mail: IncomingMail, recipient: Recipient | None) -> Iterator[_Match]:
        if recipient is not None:
            yield _Match(recipient, has_token=True)
            return
        recent = (self._recent(address, mail.message_ids) for address in mail.recipients)
        yield from (_Match(each, has_token=False) for each in recent if each is not None)

    def _recent(self, address: str, message_ids: Sequence[str]) -> Recipient | None:
        """Return the recipient of the email that a report is about, by its Message-ID, or else the newest one."""
        try:
            key = addresses.parse(address, addresses.STORED).key
        except InvalidValue:
            return None
        recent = returned_mail.recent_deliveries(self._db, key, self._now, RECENT)
        named = {message_id.partition("@")[0] for message_id in message_ids}
        same = (each for each in recent if compose.message_id(self.secret, each, "x").partition("@")[0] in named)
        delivery_id = next(same, next(iter(recent), None))
        return None if delivery_id is None else recipients.recipients_of(self._db, [delivery_id]).get(delivery_id)


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

    def __init__(self, db: Connection, settings: InboundSettings, secret: bytes, now: datetime) -> None:
        self._db = db
        self._settings = settings
        self._secret = secret
        self._now = now

    def apply(self, found: Sequence[_Found]) -> Processed:
        """Apply what emails say, and return what became of them."""
        results = [each.result for each in found]
        new, occurrence_ids = self._record(found)
        recorded = {index for index, _ in new}
        unsubscribed = list[tuple[Recipient, str]]()
        for index, each in enumerate(found):
            if each.result == Result.UNSUBSCRIBE:
                unsubscribed += ((match.recipient, match.recipient.topic) for match in each.matches)
            elif each.matches and index not in recorded:
                results[index] = Result.REPEATED
        proven = [match for _, match in new if match.has_token]
        complained = [(match.recipient, "") for match in proven if match.failure is None]
        recipients.suppress_many(self._db, unsubscribed, UNSUBSCRIBED, SuppressionSource.MAIL, self._now)
        recipients.suppress_many(self._db, complained, COMPLAINT, SuppressionSource.COMPLAINT, self._now)
        bad = bad_addresses.mark(self._db, list(self._bad(proven)), self._now)
        return Processed(results, bad, occurrence_ids)

    def _record(self, found: Sequence[_Found]) -> tuple[list[tuple[int, _Match]], Sequence[int]]:
        """Record what came back. Return what was not recorded before, each with the number of its email.

        Return also the occurrences that have more of it now.
        """
        reports: dict[str, tuple[int, _Match]] = {}
        for index, each in enumerate(found):
            for match in each.matches if each.result != Result.UNSUBSCRIBE else ():
                reports.setdefault(f"{each.digest}-{match.recipient.delivery_id}", (index, match))
        known = returned_mail.find_recorded(self._db, reports)
        today = set[str]()
        new = {
            digest: report
            for digest, report in reports.items()
            if digest not in known and (report[1].has_token or self._is_first_today(report[1].recipient, today))
        }
        rows = [self._returned(digest, match) for digest, (_, match) in new.items()]
        return list(new.values()), returned_mail.record(self._db, rows)

    def _is_first_today(self, recipient: Recipient, today: set[str]) -> bool:
        """Return whether nothing came back for an address today, and note that something has.

        Without a token one report a day counts for an address, so that nobody can fill the store.
        """
        hashed = self._hash(recipient)
        midnight = self._now.replace(hour=0, minute=0, second=0, microsecond=0)
        is_first = hashed not in today and not returned_mail.has_any_since(self._db, hashed, midnight)
        today.add(hashed)
        return is_first

    def _returned(self, digest: str, match: _Match) -> Returned:
        recipient, failure = match.recipient, match.failure
        kind = ReturnedKind.COMPLAINT if failure is None else _KINDS[failure.severity]
        reply = "" if failure is None or recipient.address is None else failure.reply
        return Returned(digest, recipient.delivery_id, self._hash(recipient), kind, self._now, reply, match.has_token)

    def _bad(self, proven: Sequence[_Match]) -> Iterator[BadAddress]:
        """Yield the addresses that are bad after bounces: those that do not exist, or have bounced on enough days."""
        soft = [
            self._hash(match.recipient)
            for match in proven
            if match.failure is not None and match.failure.severity == Severity.SOFT
        ]
        since = self._now - self._settings.soft_bounce_period
        days_by_address = returned_mail.count_days(self._db, soft, since) if soft else {}
        for recipient, _, failure in proven:
            if failure is None or recipient.address is None or failure.severity == Severity.POLICY:
                continue
            reason = storable(failure.reply)
            if failure.severity == Severity.SOFT:
                days = days_by_address.get((self._hash(recipient), recipient.owner_id), 0)
                if days < self._settings.soft_bounces:
                    continue
                reason = tr("bounced on {days} days, at last: {reason}", days=days, reason=reason)
            yield BadAddress(recipient.client_id, recipient.address, reason)

    def _hash(self, recipient: Recipient) -> str:
        return recipient.address_hash or suppressions.address_hash(self._secret, recipient.address_key)

"""Check and list consents: when and to what clients agreed, and what proves it."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from skychimp import addresses
from skychimp.errors import InvalidValue, NotFound
from skychimp.models import ConsentSource
from skychimp.permissions import Action, Actor, authorize
from skychimp.shell import arguments, run_hint
from skychimp.store.clients import consents as store_consents
from skychimp.store.clients.consents import RecordedConsent
from skychimp.store.database import Store
from skychimp.text import one_line, shortened, some_lines
from skychimp.translation import Phrase, joined, tr

MAX_LENGTH = 1_000
"""How many characters a wording or a proof may have."""

FIRST_YEAR = 1970
_CONSENT, _PROOF = tr("consent"), tr("proof")
_DATE = re.compile(r"\d{4}-\d\d-\d\d([ T].*)?", re.ASCII)


class GivenConsent(NamedTuple):
    """A consent as a person or a file gives it, checked. `at` is None for the time at which it is recorded."""

    wording: str
    at: datetime | None = None
    proof: str = ""

    def new(self, key: str, now: datetime) -> store_consents.NewConsent:
        """Return the consent of the address with this key to record."""
        return store_consents.NewConsent(key, self.at or now, self.wording, self.proof)


@dataclass(frozen=True)
class ConsentInfo:
    """A consent of a client. `proof` is "" if there is none."""

    at: datetime
    wording: str
    source: ConsentSource
    proof: str
    recorded_at: datetime


@dataclass(frozen=True)
class AddressConsent(ConsentInfo):
    """A consent of an address. `forgotten_at` is set if the person was forgotten: it allows no mail any more."""

    forgotten_at: datetime | None


def checked_consent(wording: str, at: datetime | None, proof: str, now: datetime) -> GivenConsent:
    """Return a consent that can be recorded. Raises InvalidValue for an invalid text and for a time after `now`."""
    wording = some_lines(wording, _CONSENT, MAX_LENGTH).strip()
    if not wording:
        raise InvalidValue(tr("the consent is empty"), tr("say what the client agreed to, or name that text"))
    if at is not None and at > now:
        raise InvalidValue(
            tr("the consent is in the future: {at:%Y-%m-%d %H:%M} UTC", at=at),
            tr("use the time at which the client agreed"),
        )
    return GivenConsent(wording, at, one_line(proof, _PROOF, MAX_LENGTH))


@lru_cache(1_000)
def parse_file_time(text: str) -> datetime:
    """Return the time of a consent in a file, in UTC. It is UTC unless it has an offset. Raises InvalidValue."""
    text = text.strip()
    try:
        if not _DATE.fullmatch(text):
            raise ValueError
        time = datetime.fromisoformat(text.removesuffix("UTC").strip())
        at = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        at = None
    if at is None or at.year < FIRST_YEAR:
        raise InvalidValue(
            tr("invalid time of consent {value}", value=shortened(text)),
            tr("use 2026-12-01 09:00 or 2026-12-01T09:00Z"),
        )
    return at


def list_of_client(store: Store, actor: Actor, email: str) -> list[ConsentInfo]:
    """Return the consents of the actor's client with this address, the newest first, without forgotten ones."""
    authorize(actor, Action.SEE_CLIENTS)
    found = _history(store, actor, email)
    return [ConsentInfo(*consent[:-1]) for consent in found if consent.forgotten_at is None]


def list_of_address(store: Store, actor: Actor, email: str) -> list[AddressConsent]:
    """Return the consents to get the actor's mail that an address has, the newest first, also of a forgotten person.

    Raises InvalidValue for an invalid address, and NotFound if there is none.
    """
    authorize(actor, Action.SEE_CLIENTS)
    found = _history(store, actor, email)
    if not found:
        hint = run_hint("clients", "update", *arguments(email), "--consent", "WORDS")
        raise NotFound(tr("no consent of {email} is recorded", email=email), hint)
    return [AddressConsent(*consent) for consent in found]


def newest_of(store: Store, actor: Actor, emails: Collection[str]) -> dict[str, RecordedConsent]:
    """Return the newest consent of each of these addresses of the actor's clients that has one."""
    authorize(actor, Action.SEE_CLIENTS)
    keys = {_key(email): email for email in emails}
    with store.read() as db:
        newest = store_consents.newest_of(db.connection(), actor.user_id, keys)
    return {keys[key]: consent for key, consent in newest.items()}


def in_words(consent: ConsentInfo) -> Phrase:
    """Return a consent in one line: `2026-03-02 09:00 UTC: newsletter terms of 2026 (by import; form.pdf)`."""
    how = joined("; ", (tr("by {source}", source=consent.source), consent.proof))
    at, wording = consent.at.astimezone(UTC), " ".join(consent.wording.split())
    return tr("{at:%Y-%m-%d %H:%M} UTC: {wording} ({how})", at=at, wording=wording, how=how)


def _history(store: Store, actor: Actor, email: str) -> list[RecordedConsent]:
    with store.read() as db:
        found = store_consents.history(db.connection(), actor.user_id, [_key(email)])
        return [consent for _, consent in found][::-1]


def _key(email: str) -> str:
    return addresses.parse(email.strip(), addresses.STORED).key

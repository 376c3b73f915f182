"""Judge how many emails bounced or were marked as spam, by the limits that are published for that; pure.

The publishers change their limits: `source` says where to look them up.
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from skychimp.translation import Phrase, tr, verbatim


class RateKind(StrEnum):
    """What a rate counts."""

    BOUNCES = "bounces"
    COMPLAINTS = "complaints"


class PublishedLimit(NamedTuple):
    """A rate that is still good if it is below `advised`, and that has consequences from `most` on."""

    advised: float
    most: float
    publisher: Phrase
    source: str


PUBLISHED: dict[RateKind, PublishedLimit] = {
    # Below 5 % is fine, from 5 % on an account is reviewed, and from 10 % on its sending may be stopped.
    RateKind.BOUNCES: PublishedLimit(
        0.05, 0.1, verbatim("Amazon SES"), "https://docs.aws.amazon.com/ses/latest/dg/faqs-enforcement.html"
    ),
    # Gmail: below 0.1 %, and never 0.3 % or more. Yahoo: below 0.3 %.
    RateKind.COMPLAINTS: PublishedLimit(
        0.001, 0.003, tr("Gmail and Yahoo"), "https://support.google.com/mail/answer/81126"
    ),
}


class Limits(NamedTuple):
    """From which rates on a mailing is held. 1 is never."""

    bounces: float = PUBLISHED[RateKind.BOUNCES].advised
    complaints: float = PUBLISHED[RateKind.COMPLAINTS].most


DEFAULT_LIMITS = Limits()


class Minimum(NamedTuple):
    """How many emails a rate must be of, and how many must be counted, before it says anything."""

    of: int
    number: int


MINIMUM: dict[RateKind, Minimum] = {
    # With half the rate of the limit, 10 bounces of 200 emails happen by chance once in 30 times.
    RateKind.BOUNCES: Minimum(50, 10),
    # One complaint among 1,000 emails is what Gmail takes for good.
    RateKind.COMPLAINTS: Minimum(1_000, 3),
}


class Rate(NamedTuple):
    """That `number` of the emails `of` bounced, or were marked as spam."""

    kind: RateKind
    number: int
    of: int

    @property
    def value(self) -> float | None:
        """The rate as a fraction from 0 to 1, None without any email."""
        return min(self.number / self.of, 1.0) if self.of else None

    @property
    def published(self) -> PublishedLimit:
        """The limit to compare it with."""
        return PUBLISHED[self.kind]

    def why_too_high(self, limit: float) -> Phrase | None:
        """Return why a mailing with this rate is held, or None if it is not. From `limit` on it is; 1 is never."""
        value = self.value
        if value is None or self.of < MINIMUM[self.kind].of or not self.may_be_too_high(limit):
            return None
        rate, most = format_rate(value), format_rate(limit)
        if self.kind is RateKind.BOUNCES:
            return tr(
                "{rate} of its emails bounced ({number:,} of {total:,}), the limit is {limit}",
                rate=rate,
                number=self.number,
                total=self.of,
                limit=most,
            )
        return tr(
            "{rate} of its emails were marked as spam ({number:,} of {total:,}), the limit is {limit}",
            rate=rate,
            number=self.number,
            total=self.of,
            limit=most,
        )

    def may_be_too_high(self, limit: float) -> bool:
        """Return whether a mailing with this rate is held if its emails are many enough.

        If not, it is not held either once `of` counts more emails.
        """
        return limit < 1 and self.number >= MINIMUM[self.kind].number and self.number >= limit * self.of


class ReturnCounts(NamedTuple):
    """How many emails were `sent`, and what came of them.

    `refused` counts those that a mail server refused at once as the address is wrong. Of the sent ones `bounced` came
    back for that reason, and `complaints` were marked as spam.
    """

    sent: int = 0
    refused: int = 0
    bounced: int = 0
    complaints: int = 0

    @property
    def bounce_rate(self) -> Rate:
        """Wrong addresses among all emails that a mail server has decided about.

        Both counts are hard bounces, whether the first mail server knew that or a later one. Emails with an unknown
        outcome, soft bounces and refusals by a policy are none.
        """
        return Rate(RateKind.BOUNCES, self.refused + self.bounced, self.sent + self.refused)

    @property
    def complaint_rate(self) -> Rate:
        """Complaints among all emails that were sent."""
        return Rate(RateKind.COMPLAINTS, self.complaints, self.sent)

    @property
    def rates(self) -> tuple[Rate, Rate]:
        """Both rates."""
        return self.bounce_rate, self.complaint_rate

    def may_be_too_high(self, limits: Limits) -> bool:
        """Return whether one of the rates may be too high, however few emails it is of."""
        return any(rate.may_be_too_high(getattr(limits, rate.kind)) for rate in self.rates)

    def why_too_high(self, limits: Limits) -> Iterator[tuple[RateKind, Phrase]]:
        """Yield each rate for which a mailing is held, and the reason."""
        for rate in self.rates:
            if (reason := rate.why_too_high(getattr(limits, rate.kind))) is not None:
                yield rate.kind, reason


def format_rate(fraction: float) -> str:
    """Return a fraction as a percentage: `5 %`, `3.2 %`, or with two decimals if it is below 1 %: `0.35 %`."""
    percent = 100 * fraction
    digits = f"{percent:.1f}" if percent >= 1 else f"{percent:.2f}"
    return f"{digits.rstrip('0').rstrip('.')} %"

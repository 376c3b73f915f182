"""Decide what to do after each attempt: sent, retried later, queued again, failed or unknown; pure."""

from datetime import datetime, timedelta
from enum import Enum, auto
from typing import NamedTuple

from skychimp.delivery.sending.refusals.faults import classify
from skychimp.delivery.sending.refusals.verdicts import Fault, Verdict
from skychimp.models import Outcome
from skychimp.transport.interfaces import Phase, SendResult

MAX_GIVEN_BACK = 3
"""How often a delivery is queued again without counting a try because its connection was lost."""

MAX_LIMITS_MET = 3
"""How often it is because it met a limit of the mail server while other emails passed."""

SESSIONS_ALIKE = 3
"""How many connections in a row the server closes after as many emails before that is taken as its limit."""

JITTER = 0.2


class RetryPolicy(NamedTuple):
    """The settings for retries. `unknown_after` is None if a person decides about unknown deliveries.

    `bounce_rate` is the rate from which on a mailing is held. 1 is never.
    """

    retry_after: tuple[timedelta, ...]
    give_up_after: timedelta
    unknown_after: timedelta | None
    disable_failures: int
    disable_failure_rate: float
    bounce_rate: float = 1.0


class Reaction(Enum):
    """What an attempt's result means for the other emails."""

    NONE = auto()
    FEWER_CONNECTIONS = auto()
    FEWER_PER_CONNECTION = auto()
    SLOWER = auto()
    HOLD_RELAY = auto()
    HOLD_MAILING = auto()


class Decision(NamedTuple):
    """What to record for an attempt, and how to react to it. `verdict` is None without a reply."""

    outcome: Outcome
    next_try_at: datetime | None = None
    reaction: Reaction = Reaction.NONE
    verdict: Verdict | None = None

    @property
    def bad_address(self) -> bool:
        """Whether the client's address is wrong."""
        return self.outcome == Outcome.FAILED and self.verdict is not None and self.verdict.fault == Fault.ADDRESS

    @property
    def is_limit(self) -> bool:
        """Whether the email met a limit of the mail server."""
        return self.verdict is not None and self.verdict.fault in _LIMITS

    @property
    def is_doubtful(self) -> bool:
        """Whether the email failed for a reason that may be the sender's, or that of all its emails."""
        return (
            self.outcome == Outcome.FAILED
            and self.verdict is not None
            and self.verdict.fault in (Fault.REFUSED, Fault.MESSAGE)
        )


SENT, WRITTEN = Decision(Outcome.SENT), Decision(Outcome.OUTBOX)

_REACTIONS = {
    Fault.SESSION_LIMIT: Reaction.FEWER_PER_CONNECTION,
    Fault.CONNECTION_LIMIT: Reaction.FEWER_CONNECTIONS,
    Fault.RATE_LIMIT: Reaction.SLOWER,
    Fault.QUOTA: Reaction.HOLD_RELAY,
    Fault.LOGIN: Reaction.HOLD_RELAY,
    Fault.RELAY: Reaction.HOLD_RELAY,
    Fault.SENDER: Reaction.HOLD_MAILING,
}
_SHUTS_DOWN = "4.3.2"
_LIMITS = (Fault.SESSION_LIMIT, Fault.CONNECTION_LIMIT, Fault.RATE_LIMIT)


def decide(
    result: SendResult,
    *,
    attempts: int,
    given_back: int,
    policy: RetryPolicy,
    now: datetime,
    chance: float,
    limits_met: int = 0,
    is_session_limit: bool = False,
) -> Decision:
    """Return the decision for a result.

    `attempts` and `given_back` count the attempts before this one, and `limits_met` those that met a limit while other
    emails passed. `is_session_limit` says whether the server seems to take no more emails over one connection.
    `chance` is a random number in [0, 1) that spreads the retries.
    """
    if result.is_success:
        return SENT
    reply = result.reply
    if reply is not None and reply.code < 400:
        reply = None  # 3xx, or 2xx before the final dot: not a reply about this email
    if reply is None and result.dot_written:
        return _unknown(policy, now)
    deferred = Decision(Outcome.DEFERRED, _next_try_at(attempts, given_back, policy, now, chance))
    lost = Decision(Outcome.GIVEN_BACK, now) if given_back < MAX_GIVEN_BACK else deferred
    if reply is None:
        return lost._replace(reaction=Reaction.FEWER_CONNECTIONS)
    verdict = classify(reply.code, reply.enhanced, reply.text, result.phase)
    if is_session_limit and verdict.fault == Fault.TEMPORARY and reply.enhanced != _SHUTS_DOWN:
        verdict = verdict._replace(fault=Fault.SESSION_LIMIT)
    reaction = _REACTIONS.get(verdict.fault, Reaction.NONE)
    if reply.code < 500 and verdict.fault == Fault.SENDER:
        return deferred._replace(verdict=verdict)
    if verdict.fault in _LIMITS:
        limited = Decision(Outcome.GIVEN_BACK, now) if limits_met < MAX_LIMITS_MET else deferred
        return limited._replace(reaction=reaction, verdict=verdict)
    if reaction != Reaction.NONE:
        return Decision(Outcome.GIVEN_BACK, now, reaction, verdict)
    if reply.code >= 500:
        return Decision(Outcome.FAILED, verdict=verdict)
    if reply.code == 421:  # the server closes the connection
        decision = deferred if result.dot_written else lost
        return decision._replace(reaction=Reaction.FEWER_CONNECTIONS, verdict=verdict)
    return deferred._replace(verdict=verdict)


class SessionLimit:
    """Notices that the server closes each connection after the same number of emails, whatever it says.

    A server that is shutting down or has too much to do closes connections too, but after different numbers. It may
    close all that are open at once after the same number, so a connection that was opened later must show it, too.
    """

    def __init__(self) -> None:
        self.most = 0
        """The most emails that it took over one connection."""
        self._closed_after = self._in_a_row = 0
        self._first_closed_at: datetime | None = None
        self._is_shown_later = False

    def is_met(self, result: SendResult, emails_before: int, opened_at: datetime, now: datetime) -> bool:
        """Return whether a refusal meets the limit.

        `emails_before` counts the emails before it on the connection, which was opened at `opened_at`.
        """
        if result.reply is None or result.reply.code != 421 or result.phase != Phase.MAIL:
            return False
        if emails_before != self._closed_after or self._first_closed_at is None:
            self._closed_after, self._in_a_row = emails_before, 0
            self._first_closed_at, self._is_shown_later = now, False
        self._in_a_row += 1
        self._is_shown_later |= opened_at >= self._first_closed_at
        return self._in_a_row >= SESSIONS_ALIKE and self._is_shown_later and 0 < emails_before == self.most


def decide_after_defect(
    *, dot_written: bool, attempts: int, given_back: int, policy: RetryPolicy, now: datetime
) -> Decision:
    """Return the decision after an unexpected exception: deferred before the dot, unknown after it."""
    if dot_written:
        return _unknown(policy, now)
    return Decision(Outcome.DEFERRED, _next_try_at(attempts, given_back, policy, now, chance=0.5))


def has_too_many_failures(failed: int, tried: int, policy: RetryPolicy) -> bool:
    """Return whether a mailing must be disabled, because it reached both the number and the rate of failures."""
    return failed >= policy.disable_failures and failed >= policy.disable_failure_rate * tried


def _unknown(policy: RetryPolicy, now: datetime) -> Decision:
    return Decision(Outcome.UNKNOWN, None if policy.unknown_after is None else now + policy.unknown_after)


def _next_try_at(attempts: int, given_back: int, policy: RetryPolicy, now: datetime, chance: float) -> datetime:
    step = min(attempts - given_back, len(policy.retry_after) - 1)
    return now + policy.retry_after[step] * (1 + JITTER * chance)

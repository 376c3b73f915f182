"""Decide what to do after each attempt: sent, retried later, failed or unknown; pure."""

from datetime import datetime, timedelta
from typing import NamedTuple

from skychimp.models import Outcome
from skychimp.transport.interfaces import Phase, SendResult

BAD_ADDRESS_CODES = frozenset({"5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.2.1"})
"""Enhanced codes (RFC 3463) of a mailbox or domain that does not exist, has moved or is disabled."""

LOGIN_REQUIRED_CODES = frozenset({530, 534, 535})
MAX_SENDER_REFUSALS = 3
JITTER = 0.2


class RetryPolicy(NamedTuple):
    """The settings for retries. `unknown_after` is None if a person decides about unknown deliveries."""

    retry_after: tuple[timedelta, ...]
    unknown_after: timedelta | None
    disable_failures: int
    disable_failure_rate: float


class Decision(NamedTuple):
    """What to record for an attempt.

    If `outcome` is None, the attempt is not counted and the relay must be paused until a person acts.
    """

    outcome: Outcome | None
    next_try_at: datetime | None = None
    bad_address: bool = False
    fewer_connections: bool = False


SENT = Decision(Outcome.SENT)


def decide(
    result: SendResult, *, attempts: int, given_back: int, policy: RetryPolicy, now: datetime, chance: float
) -> Decision:
    """Return the decision for a result.

    `attempts` and `given_back` count the attempts before this one. `chance` is a random number in [0, 1) that spreads
    the retries.
    """
    if result.is_success:
        return SENT
    reply = result.reply
    if reply is not None and reply.code < 400:
        reply = None  # 3xx, or 2xx before the final dot: not a reply about this email
    if reply is None and result.dot_written:
        return _unknown(policy, now)
    if reply is None or (reply.code == 421 and not result.dot_written):
        if given_back == 0:
            return Decision(Outcome.GIVEN_BACK, now, fewer_connections=True)
        next_try_at = _next_try_at(attempts, given_back, policy, now, chance)
        return Decision(Outcome.DEFERRED, next_try_at, fewer_connections=True)
    if not result.dot_written and reply.code in LOGIN_REQUIRED_CODES:
        return Decision(None)
    if reply.code >= 500:
        # After MAIL the enhanced code is about the sender's address.
        bad_address = result.phase != Phase.MAIL and reply.enhanced in BAD_ADDRESS_CODES
        return Decision(Outcome.FAILED, bad_address=bad_address)
    next_try_at = _next_try_at(attempts, given_back, policy, now, chance)
    return Decision(Outcome.DEFERRED, next_try_at, fewer_connections=reply.code == 421)


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
    return now + policy.retry_after[step] * (1 - JITTER + 2 * JITTER * chance)

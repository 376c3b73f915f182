"""What an answer means for its delivery: the table of the design's section 5, as pure functions."""

from datetime import datetime, timedelta
from typing import NamedTuple

from skychimp.models import Outcome
from skychimp.transport.interfaces import Phase, SendResult

BAD_ADDRESS = frozenset({"5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.2.1"})
"""RFC 3463: the mailbox or its domain doesn't exist, has moved or is disabled; nobody will read a later letter."""

NEEDS_LOGIN = frozenset({530, 534, 535})
SENDER_REFUSALS = 3
JITTER = 0.2


class RetryPolicy(NamedTuple):
    """What the config says about trying again; `unknown_after` is None where a person decides about unknown ones."""

    retry_after: tuple[timedelta, ...]
    unknown_after: timedelta | None
    disable_failures: int
    disable_failure_rate: float


class Decision(NamedTuple):
    """What to record; `outcome` None spends no attempt: the relay needs a person."""

    outcome: Outcome | None
    next_try_at: datetime | None = None
    bad_address: bool = False
    fewer_connections: bool = False


def decide(
    answer: SendResult, *, attempts: int, given_back: int, policy: RetryPolicy, now: datetime, chance: float
) -> Decision:
    """Decide about one answer. `attempts` and `given_back` count those before it; `chance` is random in [0, 1)."""
    reply = answer.reply
    if reply is not None and not (reply.code >= 400 or (answer.dot_written and reply.code < 300)):
        reply = None  # 3xx, or a yes to a letter that was never ended: not an answer to what was asked
    if reply is None and answer.dot_written:
        return _unknown(policy, now)
    if reply is None or (reply.code == 421 and not answer.dot_written):
        if given_back == 0:
            return Decision(Outcome.GIVEN_BACK, now, fewer_connections=True)
        return Decision(Outcome.DEFERRED, _retry(attempts, given_back, policy, now, chance), fewer_connections=True)
    if reply.code < 300:
        return Decision(Outcome.SENT)
    if not answer.dot_written and reply.code in NEEDS_LOGIN:
        return Decision(None)
    if reply.code >= 500:
        return Decision(Outcome.FAILED, bad_address=answer.phase != Phase.MAIL and reply.enhanced in BAD_ADDRESS)
    return Decision(
        Outcome.DEFERRED,
        _retry(attempts, given_back, policy, now, chance),
        fewer_connections=reply.code == 421,
    )


def crash(*, dot_written: bool, attempts: int, given_back: int, policy: RetryPolicy, now: datetime) -> Decision:
    """Decide about an unexpected exception of our own: deferred before the dot, unknown after it."""
    if dot_written:
        return _unknown(policy, now)
    return Decision(Outcome.DEFERRED, _retry(attempts, given_back, policy, now, chance=0.5))


def too_many_failures(failed: int, tried: int, policy: RetryPolicy) -> bool:
    """Whether a mailing has failed so often that the system disables it: both the count and the rate are passed."""
    return failed >= policy.disable_failures and failed >= policy.disable_failure_rate * tried


def _unknown(policy: RetryPolicy, now: datetime) -> Decision:
    return Decision(Outcome.UNKNOWN, None if policy.unknown_after is None else now + policy.unknown_after)


def _retry(attempts: int, given_back: int, policy: RetryPolicy, now: datetime, chance: float) -> datetime:
    step = min(attempts - given_back, len(policy.retry_after) - 1)
    return now + policy.retry_after[step] * (1 - JITTER + 2 * JITTER * chance)

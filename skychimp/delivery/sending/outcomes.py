"""Record the result of each email of a run, and react to it."""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from skychimp.delivery.sending import retry_policy
from skychimp.delivery.sending.claims import Claims, OpenOccurrence
from skychimp.delivery.sending.connection_pool import ConnectionPool
from skychimp.delivery.sending.recorder import Recorder
from skychimp.delivery.sending.retry_policy import Decision, RetryPolicy
from skychimp.models import Outcome
from skychimp.store import queue
from skychimp.store.ledger import AttemptRecord
from skychimp.store.queue import ClaimedDelivery
from skychimp.transport.interfaces import OutgoingEmail, Phase, SendResult

log = logging.getLogger("skychimp")


@dataclass
class RunStats:
    """What a run did. `queued` and `deferred` count what is still waiting at its end.

    `opened` counts occurrences, the other numbers count deliveries. `stopped` is the reason why the run ended early, ""
    if it did not.
    """

    opened: int = 0
    sent: int = 0
    deferred: int = 0
    failed: int = 0
    unknown: int = 0
    given_back: int = 0
    queued: int = 0
    stopped: str = ""
    hint: str = ""


class Sending(NamedTuple):
    """A delivery and its email. If the email cannot be composed, it is None and `error` says why."""

    claimed: ClaimedDelivery
    occurrence: OpenOccurrence
    email: OutgoingEmail | None
    error: str


class Outcomes:
    """Takes the results of one run. `relay` is the mail server's name in the ledger.

    A delivery that is given back is due again at `run_started_at`, so that the same run takes it again.
    """

    def __init__(
        self,
        recorder: Recorder,
        claims: Claims,
        pool: ConnectionPool,
        stats: RunStats,
        policy: RetryPolicy,
        *,
        relay: str,
        now: Callable[[], datetime],
        run_started_at: datetime,
    ) -> None:
        self._recorder = recorder
        self._claims = claims
        self._pool = pool
        self._stats = stats
        self._policy = policy
        self._relay = relay
        self._now = now
        self._run_started_at = run_started_at

    def take(self, sending: Sending, result: SendResult, started_at: datetime) -> None:
        """Record the result of an email, and take from it what to do with the mail server and the mailing."""
        if result.is_success:  # without what only another result needs, as almost all results are successes
            self._take(sending, result, retry_policy.SENT, started_at)
            self._pool.record_success()
        else:
            self._take(sending, result, self._decide(sending.claimed, result), started_at)

    def take_uncomposed(self, sending: Sending, started_at: datetime) -> None:
        """Record that an email could not be composed."""
        self._take(sending, SendResult(Phase.MAIL, None, sending.error), Decision(Outcome.FAILED), started_at)

    def take_defect(self, sending: Sending, error: Exception, started_at: datetime, *, dot_written: bool) -> None:
        """Record an unexpected exception as the result of an email, so that the run can go on."""
        decision = retry_policy.decide_after_defect(
            dot_written=dot_written,
            attempts=sending.claimed.attempts,
            given_back=sending.claimed.given_back,
            policy=self._policy,
            now=self._now(),
        )
        result = SendResult(Phase.DOT if dot_written else Phase.DATA, None, f"unexpected error: {error!r}")
        self._take(sending, result, decision, started_at)

    def _decide(self, claimed: ClaimedDelivery, result: SendResult) -> Decision:
        return retry_policy.decide(
            result,
            attempts=claimed.attempts,
            given_back=claimed.given_back,
            policy=self._policy,
            now=self._now(),
            chance=random.random(),  # noqa: S311
        )

    def _take(self, sending: Sending, result: SendResult, decision: Decision, started_at: datetime) -> None:
        if decision.fewer_connections:
            self._pool.reduce_limit()
        if decision.outcome is None:
            self._give_back_and_pause(sending.claimed, result)
        elif decision.outcome == Outcome.GIVEN_BACK:
            self._record(sending, result, decision._replace(next_try_at=self._run_started_at), started_at)
            self._claims.refresh(sending.occurrence)
        else:
            self._record(sending, result, decision, started_at)
        self._claims.finish(sending.claimed, sending.occurrence)

    def _record(self, sending: Sending, result: SendResult, decision: Decision, started_at: datetime) -> None:
        outcome, reply, stats = decision.outcome, result.reply, self._stats
        assert outcome is not None
        self._recorder.record(
            AttemptRecord(
                sending.claimed,
                started_at,
                self._now(),
                outcome,
                result.phase,
                reply.code if reply else None,
                reply.enhanced if reply else "",
                reply.text if reply else result.error,
                self._relay,
                decision.next_try_at,
                decision.bad_address,
            )
        )
        setattr(stats, outcome, getattr(stats, outcome) + 1)
        self._count(sending, result, outcome)

    def _count(self, sending: Sending, result: SendResult, outcome: Outcome) -> None:
        """Count a result, and disable the mailing if it was one too many of its kind."""
        emails = sending.occurrence.emails
        assert emails is not None
        emails.tried += sending.claimed.attempts == 0
        reason = emails.count_result(result, is_failed=outcome == Outcome.FAILED, policy=self._policy)
        if reason is None:
            return
        mailing_id, now = emails.mailing_id, self._now()
        log.error("mailing disabled", extra={"mailing": mailing_id, "reason": reason})
        self._recorder.submit(lambda db: queue.disable_mailing(db, mailing_id, reason, now))
        self._claims.discard(sending.occurrence)

    def _give_back_and_pause(self, claimed: ClaimedDelivery, result: SendResult) -> None:
        """Pause the relay, which now requires a login, and give the delivery back without counting an attempt."""
        self._recorder.submit(lambda db: queue.give_back(db, [claimed]), is_quick=True)
        self._pool.pause(result.reply.text if result.reply else result.error)

"""Record the result of each email of a run, and react to it."""

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection

from skychimp.delivery.sending import retry_policy
from skychimp.delivery.sending.claims import Claims, OpenOccurrence
from skychimp.delivery.sending.connection_pool import ConnectionPool
from skychimp.delivery.sending.occurrence_emails import OccurrenceEmails
from skychimp.delivery.sending.pacing.slow_domains import SlowDomains
from skychimp.delivery.sending.pacing.throttle import Throttle
from skychimp.delivery.sending.recorder import Recorder
from skychimp.delivery.sending.retry_policy import Decision, Reaction, RetryPolicy, SessionLimit
from skychimp.models import Outcome
from skychimp.return_rates import RateKind
from skychimp.shell import run_hint
from skychimp.store import holds, queue
from skychimp.store.holds import HeldMailing
from skychimp.store.ledger import AttemptRecord
from skychimp.store.occurrences import return_counts
from skychimp.store.queue import ClaimedDelivery
from skychimp.translation import Phrase, tr
from skychimp.transport.interfaces import OUTBOX, OutgoingEmail, Phase, SendResult

log = logging.getLogger("skychimp")

LIMITS_PER_CONNECTION = 2
"""After this number of refusals for each connection, and no success between them, sending pauses."""


@dataclass
class RunStats:
    """What a run did. `queued` and `deferred` count what is left for the next run at its end.

    `outbox` counts what was only written to the outbox. `waiting` counts what was not due yet, because other clients of
    the mailing get it first (its canary). `opened` counts occurrences, the other numbers count deliveries. `stopped` is
    the reason why the run ended early, "" if it did not.
    """

    opened: int = 0
    sent: int = 0
    outbox: int = 0
    deferred: int = 0
    failed: int = 0
    unknown: int = 0
    given_back: int = 0
    expired: int = 0
    replaced: int = 0
    queued: int = 0
    waiting: int = 0
    stopped: str = ""
    hint: Phrase = ""
    held: Sequence[HeldMailing] = ()
    """The mailings that an earlier run has held, or whose clients this one could not choose."""


class Sending(NamedTuple):
    """A delivery and its email. If the email cannot be composed, it is None and `error` says why.

    `lacks_file` says that a file of the client is the reason: it cannot be read, or is not what was sent before.
    """

    claimed: ClaimedDelivery
    occurrence: OpenOccurrence
    email: OutgoingEmail | None
    error: str
    lacks_file: bool = False


class Outcomes:
    """Takes the results of one run. `relay` is the mail server's name in the ledger.

    A delivery that is given back is due again at `run_started_at`, so that the same run takes it again.
    """

    def __init__(
        self,
        recorder: Recorder,
        claims: Claims,
        pool: ConnectionPool,
        throttle: Throttle,
        slow_domains: SlowDomains,
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
        self._throttle = throttle
        self._slow_domains = slow_domains
        self._stats = stats
        self._policy = policy
        self._relay = relay
        self._success = retry_policy.WRITTEN if relay == OUTBOX else retry_policy.SENT
        self._now = now
        self._run_started_at = run_started_at
        self._session_limit = SessionLimit()
        self._limits_in_a_row = 0
        self._limits_met: dict[int, tuple[int, int]] = {}
        """How often each delivery has met a limit while others passed, and how many were sent when it last did."""

    def take(
        self, sending: Sending, result: SendResult, started_at: datetime, emails_before: int, connected_at: datetime
    ) -> Reaction:
        """Record the result of an email, and take from it what to do with the mail server and the mailing.

        `emails_before` counts the emails before it on the same connection, which was opened at `connected_at`. Return
        the reaction.
        """
        if result.is_success:
            self._session_limit.most = max(self._session_limit.most, emails_before + 1)
            self._take_success(sending, result, started_at)
            return Reaction.NONE
        decision = self._decide(sending.claimed, result, emails_before, connected_at)
        self._take(sending, result, decision, started_at, emails_before)
        return decision.reaction

    def take_uncomposed(self, sending: Sending, started_at: datetime) -> None:
        """Record that an email could not be composed.

        If it may have been sent before, and only a file of its client is the reason, a person has to decide about it.
        """
        is_held = sending.lacks_file and sending.claimed.may_have_arrived
        if sending.lacks_file:
            self._report_file(sending, is_held=is_held)
        decision = Decision(Outcome.UNKNOWN if is_held else Outcome.FAILED)
        self._take(sending, SendResult(Phase.MAIL, None, sending.error), decision, started_at)

    def _report_file(self, sending: Sending, *, is_held: bool) -> None:
        """Count an email that lacks a file, and log the first one of an occurrence."""
        emails = sending.occurrence.emails
        assert emails is not None
        extra = {"mailing": emails.mailing_id, "email": sending.claimed.address, "reason": sending.error}
        if is_held:
            emails.changed_files += 1
            if emails.changed_files == 1:
                hint = tr("put the old file back, or {hint}", hint=run_hint("resolve"))
                log.warning("an email waits for a decision", extra=extra | {"hint": hint})
        else:
            emails.lacking_files += 1
            if emails.lacking_files == 1:
                hint = tr("add the missing files, then {hint}", hint=run_hint("mailings", "retry", emails.mailing_id))
                log.warning("an email failed because of its file", extra=extra | {"hint": hint})

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

    def _take_success(self, sending: Sending, result: SendResult, started_at: datetime) -> None:
        """Do what `_take` does, without what only another result needs: almost all results are successes."""
        emails = sending.occurrence.emails
        assert emails is not None
        emails.count_success(is_first_try=sending.claimed.is_untried)
        if self._success is retry_policy.SENT:
            self._stats.sent += 1
        else:
            self._stats.outbox += 1
        self._record(sending, result, self._success, started_at)
        self._claims.finish(sending.claimed, sending.occurrence)
        self._pool.record_success()
        self._throttle.record_success()
        self._limits_in_a_row = 0
        if self._limits_met:
            self._limits_met.pop(sending.claimed.id, None)

    def _decide(
        self, claimed: ClaimedDelivery, result: SendResult, emails_before: int, connected_at: datetime
    ) -> Decision:
        now = self._now()
        limits_met, sent_at_last = self._limits_met.get(claimed.id, (0, self._stats.sent))
        decision = retry_policy.decide(
            result,
            attempts=claimed.attempts,
            given_back=claimed.given_back,
            policy=self._policy,
            now=now,
            chance=random.random(),  # noqa: S311
            limits_met=limits_met,
            is_session_limit=self._session_limit.is_met(result, emails_before, connected_at, now),
        )
        if decision.outcome == Outcome.GIVEN_BACK and decision.is_limit:
            have_passed = self._stats.sent > sent_at_last
            self._limits_met[claimed.id] = limits_met + have_passed, self._stats.sent
        else:
            self._limits_met.pop(claimed.id, None)
        return decision

    def _take(
        self, sending: Sending, result: SendResult, decision: Decision, started_at: datetime, emails_before: int = 0
    ) -> None:
        emails, stats = sending.occurrence.emails, self._stats
        assert emails is not None
        if decision.is_doubtful and emails.is_held:  # it was on its way when the mailing was held for such a reply
            decision = Decision(Outcome.GIVEN_BACK)
        if decision.outcome == Outcome.GIVEN_BACK:
            decision = decision._replace(next_try_at=self._run_started_at)
        self._record(sending, result, decision, started_at)
        setattr(stats, decision.outcome, getattr(stats, decision.outcome) + 1)
        self._claims.finish(sending.claimed, sending.occurrence)
        if decision.outcome == Outcome.GIVEN_BACK and not emails.is_held:
            self._claims.refresh(sending.occurrence)
        self._react(sending, result, decision, emails_before)
        self._count(sending, result, decision)

    def _record(self, sending: Sending, result: SendResult, decision: Decision, started_at: datetime) -> None:
        code, enhanced, text = result.reply or (None, "", result.error)
        now = self._now()
        self._slow_domains.note(sending.claimed.address, (now - started_at).total_seconds())
        attempt = AttemptRecord(
            sending.claimed,
            started_at,
            now,
            decision.outcome,
            result.phase,
            code,
            enhanced,
            text,
            self._relay,
            decision.next_try_at,
            decision.bad_address,
            self._policy.give_up_after,
        )
        self._recorder.record(attempt)

    def _react(self, sending: Sending, result: SendResult, decision: Decision, emails_before: int) -> None:
        """Do what a result means for the emails after it."""
        reply, hint = result.reply.text if result.reply else result.error, decision.verdict and decision.verdict.remedy
        match decision.reaction:
            case Reaction.FEWER_CONNECTIONS:
                self._pool.reduce_limit()
            case Reaction.FEWER_PER_CONNECTION:
                self._pool.limit_emails_per_connection(emails_before)
            case Reaction.HOLD_RELAY:
                self._pool.pause(reply, hint or "")
            case Reaction.HOLD_MAILING:
                self._hold(sending.occurrence, reply, hint or "", [])
        if decision.is_limit:
            self._react_to_limit(decision, reply, hint or "")

    def _react_to_limit(self, decision: Decision, reply: str, hint: Phrase) -> None:
        """Slow down if the rate is too high. If nothing passes, whatever the limit is, only waiting helps."""
        self._limits_in_a_row += 1
        if decision.reaction == Reaction.SLOWER:
            self._throttle.slow_down()
        elif self._limits_in_a_row > LIMITS_PER_CONNECTION * self._pool.max_connections:
            self._throttle.pause()
        self._pool.lose_patience(self._throttle.refused_for_s, reply, hint)

    def _count(self, sending: Sending, result: SendResult, decision: Decision) -> None:
        """Count a result. Hold or disable the mailing if it was one too many of its kind."""
        emails, occurrence = sending.occurrence.emails, sending.occurrence
        assert emails is not None
        if decision.outcome != Outcome.GIVEN_BACK:
            emails.count_result(is_first_try=sending.claimed.is_untried, is_failed=decision.outcome == Outcome.FAILED)
        if decision.bad_address:
            emails.bounced += 1
            if (why := emails.why_too_many_bounces(self._policy)) is not None:
                self._hold_for_bounces(occurrence, emails, why)
        if decision.is_doubtful and decision.verdict is not None:
            reply = result.reply.text if result.reply else result.error
            refused = emails.find_pattern(sending.claimed, reply)
            if refused:
                self._hold(occurrence, reply, decision.verdict.remedy, refused)
        if not emails.is_held and not emails.is_disabled and emails.has_too_many_failures(self._policy):
            self._disable(occurrence, emails)

    def _hold(self, occurrence: OpenOccurrence, reply: str, hint: Phrase, refused: Sequence[int]) -> None:
        """Hold a mailing, and queue the deliveries again that were refused."""
        emails = occurrence.emails
        assert emails is not None
        self._claims.discard(occurrence)
        if emails.is_held:
            return
        emails.is_held = True
        self._stats.failed -= len(refused)
        mailing_id, now, settings_hash = emails.mailing_id, self._now(), self._pool.settings_hash
        log.error("mailing held", extra={"mailing": mailing_id, "reason": reply, "hint": hint})

        def hold(db: Connection) -> None:
            holds.hold_mailing(db, mailing_id, reply, settings_hash, now)
            queue.queue_refused(db, refused, now)

        self._recorder.submit(hold)

    def _hold_for_bounces(self, occurrence: OpenOccurrence, emails: OccurrenceEmails, reason: str) -> None:
        """Hold a mailing. What is claimed of it is given back once its next intents are refused."""
        emails.may_bounce = True
        now = self._now()

        def hold(db: Connection) -> None:
            mailing_id = return_counts.hold(db, occurrence.id, RateKind.BOUNCES, reason, now)
            if mailing_id is not None:
                log.error("mailing held", extra={"mailing": mailing_id, "reason": reason})

        self._recorder.submit(hold)

    def _disable(self, occurrence: OpenOccurrence, emails: OccurrenceEmails) -> None:
        emails.is_disabled = True
        reason, mailing_id, now = emails.failures, emails.mailing_id, self._now()
        log.error("mailing disabled", extra={"mailing": mailing_id, "reason": reason})
        self._recorder.submit(lambda db: holds.disable_mailing(db, mailing_id, reason, now))
        self._claims.discard(occurrence)

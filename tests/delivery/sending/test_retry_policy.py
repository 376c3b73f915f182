"""Test the decision for each result, and the properties that hold for every result."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skychimp.delivery.sending.retry_policy import (
    BAD_ADDRESS_CODES,
    Decision,
    RetryPolicy,
    decide,
    decide_after_defect,
    has_too_many_failures,
)
from skychimp.models import Outcome
from skychimp.transport.interfaces import Phase, Reply, SendResult

NOW = datetime(2026, 12, 1, 9, tzinfo=UTC)
RETRY = tuple(timedelta(minutes=minutes) for minutes in (5, 15, 45, 120, 240))
RESEND = RetryPolicy(RETRY, timedelta(minutes=15), disable_failures=100, disable_failure_rate=0.5)
HOLD = RESEND._replace(unknown_after=None)


def replied(phase: Phase, code: int, enhanced: str = "") -> SendResult:
    return SendResult(phase, Reply(code, enhanced, f"{code} {enhanced} text"), dot_written=phase == Phase.DOT)


def no_reply(phase: Phase, *, dot_written: bool = False) -> SendResult:
    return SendResult(phase, None, "connection closed", dot_written=dot_written)


def decision_for(
    result: SendResult, *, attempts: int = 0, given_back: int = 0, policy: RetryPolicy = RESEND, chance: float = 0.5
) -> Decision:
    return decide(result, attempts=attempts, given_back=given_back, policy=policy, now=NOW, chance=chance)


LATER = NOW + RETRY[0]
DEFERRED = Decision(Outcome.DEFERRED, LATER)
FAILED = Decision(Outcome.FAILED)
BAD = Decision(Outcome.FAILED, bad_address=True)
UNKNOWN = Decision(Outcome.UNKNOWN, NOW + timedelta(minutes=15))
GIVEN_BACK = Decision(Outcome.GIVEN_BACK, NOW, fewer_connections=True)
PAUSE = Decision(None)
BEFORE_DOT = [Phase.MAIL, Phase.RCPT, Phase.DATA]


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (replied(Phase.DOT, 250), Decision(Outcome.SENT)),
        (replied(Phase.DOT, 200), Decision(Outcome.SENT)),
        (replied(Phase.DOT, 299, "2.0.0"), Decision(Outcome.SENT)),
        # 421, or no valid reply before the dot
        *[(replied(phase, 421), GIVEN_BACK) for phase in BEFORE_DOT],
        *[(no_reply(phase), GIVEN_BACK) for phase in Phase],
        # 421 after the dot is an ordinary 4xx, except that the server closes the connection
        (replied(Phase.DOT, 421), Decision(Outcome.DEFERRED, LATER, fewer_connections=True)),
        # the relay requires a login: no attempt is counted
        *[(replied(phase, code, "5.7.0"), PAUSE) for code in (530, 534, 535) for phase in BEFORE_DOT],
        (replied(Phase.MAIL, 550, "5.7.1"), FAILED),
        (replied(Phase.MAIL, 553, "5.1.8"), FAILED),
        (replied(Phase.MAIL, 550, "5.1.1"), FAILED),  # about the sender's address, not the client's
        *[(replied(phase, code), DEFERRED) for phase in Phase for code in (400, 450, 451, 452, 499)],
        (replied(Phase.RCPT, 450, "4.2.1"), DEFERRED),
        *[(replied(phase, code), FAILED) for phase in (Phase.RCPT, Phase.DATA, Phase.DOT) for code in (500, 554, 599)],
        *[(replied(Phase.RCPT, 550, enhanced), BAD) for enhanced in ("5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.2.1")],
        (replied(Phase.DATA, 550, "5.1.1"), BAD),
        (replied(Phase.DOT, 550, "5.1.1"), BAD),
        *[(replied(Phase.RCPT, 550, enhanced), FAILED) for enhanced in ("5.7.1", "5.2.2", "5.1.10", "5.1.0", "5.4.1")],
        # no valid reply after the dot, or a reply to something else
        (no_reply(Phase.DOT, dot_written=True), UNKNOWN),
        (replied(Phase.DOT, 354), UNKNOWN),
        (replied(Phase.DOT, 300), UNKNOWN),
        # 2xx before the dot does not accept the email
        (replied(Phase.MAIL, 250), GIVEN_BACK),
        (replied(Phase.DATA, 354), GIVEN_BACK),
        (SendResult(Phase.DOT, Reply(250, "", "250 ok"), dot_written=False), GIVEN_BACK),
    ],
)  # fmt: skip
def test_decision_after_the_first_attempt(result: SendResult, expected: Decision) -> None:
    assert decision_for(result) == expected


@pytest.mark.parametrize("result", [replied(Phase.RCPT, 421), no_reply(Phase.DATA), replied(Phase.MAIL, 250)])
def test_given_back_once_then_deferred(result: SendResult) -> None:
    assert decision_for(result, attempts=1, given_back=1) == Decision(Outcome.DEFERRED, LATER, fewer_connections=True)


def test_policy_hold_does_not_retry_unknown_deliveries() -> None:
    assert decision_for(no_reply(Phase.DOT, dot_written=True), policy=HOLD) == Decision(Outcome.UNKNOWN, None)
    assert decide_after_defect(dot_written=True, attempts=0, given_back=0, policy=HOLD, now=NOW) == Decision(
        Outcome.UNKNOWN, None
    )


@pytest.mark.parametrize(
    ("attempts", "given_back", "minutes"),
    [(0, 0, 5), (1, 0, 15), (2, 0, 45), (3, 0, 120), (4, 0, 240), (5, 0, 240), (99, 0, 240), (1, 1, 5), (3, 1, 45)],
)
@pytest.mark.parametrize(("chance", "factor"), [(0.0, 0.8), (0.5, 1.0), (0.75, 1.1)])
def test_each_retry_waits_longer(attempts: int, given_back: int, minutes: int, chance: float, factor: float) -> None:
    decision = decision_for(replied(Phase.RCPT, 451), attempts=attempts, given_back=given_back, chance=chance)
    assert decision == Decision(Outcome.DEFERRED, NOW + timedelta(minutes=minutes) * factor)


def test_decision_after_a_defect() -> None:
    before = decide_after_defect(dot_written=False, attempts=1, given_back=0, policy=RESEND, now=NOW)
    assert before == Decision(Outcome.DEFERRED, NOW + RETRY[1])
    assert decide_after_defect(dot_written=True, attempts=1, given_back=0, policy=RESEND, now=NOW) == UNKNOWN


@pytest.mark.parametrize(
    ("failed", "tried", "is_disabled"),
    [(99, 99, False), (100, 100, True), (100, 200, True), (100, 201, False), (500, 1000, True), (499, 1000, False)],
)
def test_mailing_is_disabled_when_both_count_and_rate_are_reached(failed: int, tried: int, is_disabled: bool) -> None:
    assert has_too_many_failures(failed, tried, RESEND) == is_disabled


replies = st.none() | st.builds(
    lambda code, enhanced: Reply(code, enhanced, str(code)),
    st.integers(200, 599),
    st.sampled_from(["", *BAD_ADDRESS_CODES]),
)
results = st.builds(
    lambda phase, reply, dot: SendResult(phase, reply, "", dot), st.sampled_from(Phase), replies, st.booleans()
)


@given(
    results, st.integers(0, 50), st.integers(0, 1), st.sampled_from([RESEND, HOLD]), st.floats(0, 1, exclude_max=True)
)
def test_properties_of_every_decision(
    result: SendResult, attempts: int, given_back: int, policy: RetryPolicy, chance: float
) -> None:
    attempts += given_back
    decision = decision_for(result, attempts=attempts, given_back=given_back, policy=policy, chance=chance)
    if decision.outcome == Outcome.SENT:
        assert result.dot_written
        assert result.reply is not None
        assert result.reply.code // 100 == 2
    if result.dot_written and (result.reply is None or result.reply.code // 100 == 3):
        assert decision.outcome == Outcome.UNKNOWN
    else:
        assert decision.outcome != Outcome.UNKNOWN
    if decision.outcome in (Outcome.SENT, Outcome.FAILED, None):
        assert decision.next_try_at is None
    elif decision.outcome == Outcome.DEFERRED:
        assert decision.next_try_at is not None
        assert decision.next_try_at >= NOW + RETRY[0] * 0.8
    assert not decision.bad_address or decision.outcome == Outcome.FAILED

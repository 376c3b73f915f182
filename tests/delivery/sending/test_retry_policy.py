"""What an answer means, row by row, and properties that hold for every answer."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skychimp.delivery.sending.retry_policy import BAD_ADDRESS, Decision, RetryPolicy, crash, decide, too_many_failures
from skychimp.models import Outcome
from skychimp.transport.interfaces import Phase, Reply, SendResult

NOW = datetime(2026, 12, 1, 9, tzinfo=UTC)
RETRY = tuple(timedelta(minutes=minutes) for minutes in (5, 15, 45, 120, 240))
RESEND = RetryPolicy(RETRY, timedelta(minutes=15), disable_failures=100, disable_failure_rate=0.5)
HOLD = RESEND._replace(unknown_after=None)


def said(phase: Phase, code: int, enhanced: str = "") -> SendResult:
    return SendResult(phase, Reply(code, enhanced, f"{code} {enhanced} words"), dot_written=phase == Phase.DOT)


def silent(phase: Phase, *, dot_written: bool = False) -> SendResult:
    return SendResult(phase, None, "connection closed", dot_written=dot_written)


def decided(
    answer: SendResult, *, attempts: int = 0, given_back: int = 0, policy: RetryPolicy = RESEND, chance: float = 0.5
) -> Decision:
    return decide(answer, attempts=attempts, given_back=given_back, policy=policy, now=NOW, chance=chance)


LATER = NOW + RETRY[0]
DEFERRED = Decision(Outcome.DEFERRED, LATER)
FAILED = Decision(Outcome.FAILED)
BAD = Decision(Outcome.FAILED, bad_address=True)
UNKNOWN = Decision(Outcome.UNKNOWN, NOW + timedelta(minutes=15))
GIVEN_BACK = Decision(Outcome.GIVEN_BACK, NOW, fewer_connections=True)
PAUSE = Decision(None)
BEFORE_DOT = [Phase.MAIL, Phase.RCPT, Phase.DATA]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (said(Phase.DOT, 250), Decision(Outcome.SENT)),
        (said(Phase.DOT, 200), Decision(Outcome.SENT)),
        (said(Phase.DOT, 299, "2.0.0"), Decision(Outcome.SENT)),
        # 421, the end, silence or garbage before the dot
        *[(said(phase, 421), GIVEN_BACK) for phase in BEFORE_DOT],
        *[(silent(phase), GIVEN_BACK) for phase in Phase],
        # 421 is the only 4xx that closes; after the dot it is a plain no
        (said(Phase.DOT, 421), Decision(Outcome.DEFERRED, LATER, fewer_connections=True)),
        # the relay wants a login: no delivery pays for it
        *[(said(phase, code, "5.7.0"), PAUSE) for code in (530, 534, 535) for phase in BEFORE_DOT],
        (said(Phase.MAIL, 550, "5.7.1"), FAILED),
        (said(Phase.MAIL, 553, "5.1.8"), FAILED),
        (said(Phase.MAIL, 550, "5.1.1"), FAILED),  # about the sender, not the client
        *[(said(phase, code), DEFERRED) for phase in Phase for code in (400, 450, 451, 452, 499)],
        (said(Phase.RCPT, 450, "4.2.1"), DEFERRED),
        *[(said(phase, code), FAILED) for phase in (Phase.RCPT, Phase.DATA, Phase.DOT) for code in (500, 554, 599)],
        *[(said(Phase.RCPT, 550, enhanced), BAD) for enhanced in ("5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.2.1")],
        (said(Phase.DATA, 550, "5.1.1"), BAD),
        (said(Phase.DOT, 550, "5.1.1"), BAD),
        *[(said(Phase.RCPT, 550, enhanced), FAILED) for enhanced in ("5.7.1", "5.2.2", "5.1.10", "5.1.0", "5.4.1")],
        # after the dot: silence, garbage (no reply either), or an answer to something else
        (silent(Phase.DOT, dot_written=True), UNKNOWN),
        (said(Phase.DOT, 354), UNKNOWN),
        (said(Phase.DOT, 300), UNKNOWN),
        # a yes before the dot is no yes to the letter
        (said(Phase.MAIL, 250), GIVEN_BACK),
        (said(Phase.DATA, 354), GIVEN_BACK),
        (SendResult(Phase.DOT, Reply(250, "", "250 ok"), dot_written=False), GIVEN_BACK),
    ],
)  # fmt: skip
def test_the_first_attempt(answer: SendResult, expected: Decision) -> None:
    assert decided(answer) == expected


@pytest.mark.parametrize("answer", [said(Phase.RCPT, 421), silent(Phase.DATA), said(Phase.MAIL, 250)])
def test_given_back_once_and_deferred_after_that(answer: SendResult) -> None:
    assert decided(answer, attempts=1, given_back=1) == Decision(Outcome.DEFERRED, LATER, fewer_connections=True)


def test_the_policy_hold_leaves_an_unknown_one_to_a_person() -> None:
    assert decided(silent(Phase.DOT, dot_written=True), policy=HOLD) == Decision(Outcome.UNKNOWN, None)
    assert crash(dot_written=True, attempts=0, given_back=0, policy=HOLD, now=NOW) == Decision(Outcome.UNKNOWN, None)


@pytest.mark.parametrize(
    ("attempts", "given_back", "minutes"),
    [(0, 0, 5), (1, 0, 15), (2, 0, 45), (3, 0, 120), (4, 0, 240), (5, 0, 240), (99, 0, 240), (1, 1, 5), (3, 1, 45)],
)
@pytest.mark.parametrize(("chance", "factor"), [(0.0, 0.8), (0.5, 1.0), (0.75, 1.1)])
def test_a_deferred_one_waits_longer_each_time(
    attempts: int, given_back: int, minutes: int, chance: float, factor: float
) -> None:
    decision = decided(said(Phase.RCPT, 451), attempts=attempts, given_back=given_back, chance=chance)
    assert decision == Decision(Outcome.DEFERRED, NOW + timedelta(minutes=minutes) * factor)


def test_an_exception_of_our_own() -> None:
    before = crash(dot_written=False, attempts=1, given_back=0, policy=RESEND, now=NOW)
    assert before == Decision(Outcome.DEFERRED, NOW + RETRY[1])
    assert crash(dot_written=True, attempts=1, given_back=0, policy=RESEND, now=NOW) == UNKNOWN


@pytest.mark.parametrize(
    ("failed", "tried", "disables"),
    [(99, 99, False), (100, 100, True), (100, 200, True), (100, 201, False), (500, 1000, True), (499, 1000, False)],
)
def test_a_mailing_is_disabled_when_both_count_and_rate_are_passed(failed: int, tried: int, disables: bool) -> None:
    assert too_many_failures(failed, tried, RESEND) == disables


replies = st.none() | st.builds(
    lambda code, enhanced: Reply(code, enhanced, str(code)), st.integers(200, 599), st.sampled_from(["", *BAD_ADDRESS])
)
answers = st.builds(
    lambda phase, reply, dot: SendResult(phase, reply, "", dot), st.sampled_from(Phase), replies, st.booleans()
)


@given(
    answers, st.integers(0, 50), st.integers(0, 1), st.sampled_from([RESEND, HOLD]), st.floats(0, 1, exclude_max=True)
)
def test_what_holds_for_every_answer(
    answer: SendResult, attempts: int, given_back: int, policy: RetryPolicy, chance: float
) -> None:
    attempts += given_back
    decision = decided(answer, attempts=attempts, given_back=given_back, policy=policy, chance=chance)
    if decision.outcome == Outcome.SENT:
        assert answer.dot_written
        assert answer.reply is not None
        assert answer.reply.code // 100 == 2
    if answer.dot_written and (answer.reply is None or answer.reply.code // 100 == 3):
        assert decision.outcome == Outcome.UNKNOWN
    else:
        assert decision.outcome != Outcome.UNKNOWN
    if decision.outcome in (Outcome.SENT, Outcome.FAILED, None):
        assert decision.next_try_at is None
    elif decision.outcome == Outcome.DEFERRED:
        assert decision.next_try_at is not None
        assert decision.next_try_at >= NOW + RETRY[0] * 0.8
    assert not decision.bad_address or decision.outcome == Outcome.FAILED

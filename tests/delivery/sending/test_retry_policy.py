"""Test the decision for each result, and the properties that hold for every result."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skychimp.delivery.sending.refusals.verdicts import Fault
from skychimp.delivery.sending.retry_policy import (
    MAX_GIVEN_BACK,
    MAX_LIMITS_MET,
    Decision,
    Reaction,
    RetryPolicy,
    SessionLimit,
    decide,
    decide_after_defect,
    has_too_many_failures,
)
from skychimp.models import Outcome
from skychimp.transport.interfaces import Phase, Reply, SendResult

NOW = datetime(2026, 12, 1, 9, tzinfo=UTC)
RETRY = tuple(timedelta(minutes=minutes) for minutes in (6, 15, 45, 120, 240))
RESEND = RetryPolicy(RETRY, timedelta(days=3), timedelta(minutes=15), disable_failures=100, disable_failure_rate=0.5)
HOLD = RESEND._replace(unknown_after=None)


def replied(phase: Phase, code: int, enhanced: str = "", words: str = "text") -> SendResult:
    return SendResult(phase, Reply(code, enhanced, f"{code} {enhanced} {words}"), dot_written=phase == Phase.DOT)


def no_reply(phase: Phase, *, dot_written: bool = False) -> SendResult:
    return SendResult(phase, None, "connection closed", dot_written=dot_written)


def decision_for(
    result: SendResult, *, attempts: int = 0, given_back: int = 0, policy: RetryPolicy = RESEND, chance: float = 0.0
) -> Decision:
    return decide(result, attempts=attempts, given_back=given_back, policy=policy, now=NOW, chance=chance)


LATER = NOW + RETRY[0]
BEFORE_DOT = [Phase.MAIL, Phase.RCPT, Phase.DATA]
SENT, FAILED, DEFERRED = (Outcome.SENT, None), (Outcome.FAILED, None), (Outcome.DEFERRED, LATER)
UNKNOWN, GIVEN_BACK = (Outcome.UNKNOWN, NOW + timedelta(minutes=15)), (Outcome.GIVEN_BACK, NOW)
NONE, FEWER = Reaction.NONE, Reaction.FEWER_CONNECTIONS


@pytest.mark.parametrize(
    ("result", "expected", "reaction"),
    [
        (replied(Phase.DOT, 250), SENT, NONE),
        (replied(Phase.DOT, 200), SENT, NONE),
        (replied(Phase.DOT, 299, "2.0.0"), SENT, NONE),
        # 421, or no valid reply before the dot
        *[(replied(phase, 421), GIVEN_BACK, FEWER) for phase in BEFORE_DOT],
        *[(no_reply(phase), GIVEN_BACK, FEWER) for phase in Phase],
        # 421 after the dot is an ordinary 4xx, except that the server closes the connection
        (replied(Phase.DOT, 421), DEFERRED, FEWER),
        # a limit, a quota, and faults of the account or the sender: no attempt is counted, in whatever phase
        *[
            (replied(phase, code, enhanced, words), GIVEN_BACK, reaction)
            for code, enhanced, words, reaction in (
                (530, "5.7.0", "Authentication required", Reaction.HOLD_RELAY),
                (535, "5.7.8", "authentication failed", Reaction.HOLD_RELAY),
                (550, "5.4.5", "Daily user sending limit exceeded", Reaction.HOLD_RELAY),
                (553, "5.7.1", "Sender address rejected: not owned by user", Reaction.HOLD_MAILING),
                (452, "4.4.5", "Maximum number of messages per session exceeded", Reaction.FEWER_PER_CONNECTION),
                (421, "4.7.0", "too many concurrent connections", FEWER),
                (454, "4.7.0", "Throttling failure: Maximum sending rate exceeded.", Reaction.SLOWER),
            )
            for phase in Phase
        ],
        (replied(Phase.MAIL, 553, "5.1.8"), GIVEN_BACK, Reaction.HOLD_MAILING),
        (replied(Phase.MAIL, 550, "5.1.1"), GIVEN_BACK, Reaction.HOLD_MAILING),  # about the sender's address
        *[(replied(phase, code), DEFERRED, NONE) for phase in Phase for code in (400, 450, 451, 499)],
        (replied(Phase.RCPT, 450, "4.2.1"), DEFERRED, NONE),
        *[(replied(phase, code), FAILED, NONE) for phase in (Phase.RCPT, Phase.DATA, Phase.DOT) for code in (554, 599)],
        *[(replied(phase, 550, "5.1.1"), FAILED, NONE) for phase in (Phase.RCPT, Phase.DATA, Phase.DOT)],
        # no valid reply after the dot, or a reply to something else
        (no_reply(Phase.DOT, dot_written=True), UNKNOWN, NONE),
        (replied(Phase.DOT, 354), UNKNOWN, NONE),
        (replied(Phase.DOT, 300), UNKNOWN, NONE),
        # 2xx before the dot does not accept the email
        (replied(Phase.MAIL, 250), GIVEN_BACK, FEWER),
        (replied(Phase.DATA, 354), GIVEN_BACK, FEWER),
        (SendResult(Phase.DOT, Reply(250, "", "250 ok"), dot_written=False), GIVEN_BACK, FEWER),
    ],
)  # fmt: skip
def test_decision_after_the_first_attempt(
    result: SendResult, expected: tuple[Outcome, datetime | None], reaction: Reaction
) -> None:
    decision = decision_for(result)
    assert (decision.outcome, decision.next_try_at) == expected
    assert decision.reaction == reaction


@pytest.mark.parametrize("enhanced", ["5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1", "5.2.2", "5.7.1", "5.4.1"])
def test_only_a_wrong_address_is_marked_as_bad(enhanced: str) -> None:
    decision = decision_for(replied(Phase.RCPT, 550, enhanced))
    assert decision.outcome == Outcome.FAILED
    assert decision.bad_address == (enhanced not in ("5.2.2", "5.7.1", "5.4.1"))


@pytest.mark.parametrize(
    "result",
    [
        replied(Phase.RCPT, 421),
        no_reply(Phase.DATA),
        replied(Phase.MAIL, 250),
    ],
)
def test_given_back_three_times_and_then_deferred(result: SendResult) -> None:
    decisions = [decision_for(result, attempts=number, given_back=number) for number in range(MAX_GIVEN_BACK + 1)]
    assert [decision.outcome for decision in decisions] == [Outcome.GIVEN_BACK] * 3 + [Outcome.DEFERRED]


def test_limit_that_others_do_not_meet_counts_as_a_try() -> None:
    """Not the times that an email was given back for another reason, such as a quota."""
    result = replied(Phase.RCPT, 452, "4.5.3", "too many messages in this session")
    decisions = [
        decide(result, attempts=50, given_back=50, policy=RESEND, now=NOW, chance=0, limits_met=met)
        for met in range(MAX_LIMITS_MET + 1)
    ]
    assert [decision.outcome for decision in decisions] == [Outcome.GIVEN_BACK] * 3 + [Outcome.DEFERRED]


@pytest.mark.parametrize(
    ("enhanced", "is_session_limit", "reaction"),
    [
        ("", True, Reaction.FEWER_PER_CONNECTION),
        ("4.7.0", True, Reaction.FEWER_PER_CONNECTION),
        ("4.7.0", False, Reaction.FEWER_CONNECTIONS),
        ("4.3.2", True, Reaction.FEWER_CONNECTIONS),
    ],
    ids=["without a code", "with a code", "no limit", "shutting down"],
)
def test_server_that_closes_connections_without_a_reason(
    enhanced: str, is_session_limit: bool, reaction: Reaction
) -> None:
    result = replied(Phase.MAIL, 421, enhanced, "closing, try again")
    decision = decide(
        result, attempts=0, given_back=0, policy=RESEND, now=NOW, chance=0, is_session_limit=is_session_limit
    )
    assert (decision.outcome, decision.reaction) == (Outcome.GIVEN_BACK, reaction)


@pytest.mark.parametrize(
    ("most", "closed_after", "is_met"),
    [
        (20, [20, 20, 20], [False, False, True]),
        (20, [5, 20, 20, 20], [False, False, False, True]),
        (20, [20, 20, 7, 20], [False] * 4),
        (1, [1, 1, 1], [False, False, True]),
        (3, [2, 2, 2], [False] * 3),
        (0, [0, 0, 0], [False] * 3),
    ],
    ids=["always", "after the first", "not in a row", "after one", "others took more", "at once"],
)
def test_session_limit_is_met_after_three_connections_alike(
    most: int, closed_after: list[int], is_met: list[bool]
) -> None:
    limit = SessionLimit()
    limit.most = most
    assert [limit.is_met(replied(Phase.MAIL, 421), number, NOW, NOW) for number in closed_after] == is_met


def test_session_limit_is_not_met_by_connections_that_were_open_at_the_first_refusal() -> None:
    """A server that takes only so many emails at a time may refuse the second one of ten connections alike."""
    limit, earlier, later = SessionLimit(), NOW - timedelta(seconds=1), NOW + timedelta(seconds=1)
    limit.most = 1
    refusal = replied(Phase.MAIL, 421)
    assert not any(limit.is_met(refusal, 1, earlier, NOW) for _ in range(10))
    assert limit.is_met(refusal, 1, later, later)
    assert limit.is_met(refusal, 1, earlier, later)


def test_session_limit_is_not_met_by_other_refusals() -> None:
    limit = SessionLimit()
    limit.most = 20
    for result in (replied(Phase.RCPT, 421), replied(Phase.MAIL, 451), no_reply(Phase.MAIL)) * 3:
        assert not limit.is_met(result, 20, NOW, NOW)


def test_quota_never_counts_as_a_try() -> None:
    result = replied(Phase.DATA, 550, "5.4.5", "Daily user sending limit exceeded")
    assert decision_for(result, attempts=50, given_back=50).outcome == Outcome.GIVEN_BACK


def test_policy_hold_does_not_retry_unknown_deliveries() -> None:
    assert decision_for(no_reply(Phase.DOT, dot_written=True), policy=HOLD) == Decision(Outcome.UNKNOWN, None)
    assert decide_after_defect(dot_written=True, attempts=0, given_back=0, policy=HOLD, now=NOW) == Decision(
        Outcome.UNKNOWN, None
    )


@pytest.mark.parametrize(
    ("attempts", "given_back", "minutes"),
    [(0, 0, 6), (1, 0, 15), (2, 0, 45), (3, 0, 120), (4, 0, 240), (5, 0, 240), (99, 0, 240), (1, 1, 6), (3, 1, 45)],
)
@pytest.mark.parametrize(("chance", "factor"), [(0.0, 1.0), (0.5, 1.1), (0.75, 1.15)])
def test_each_retry_waits_longer(attempts: int, given_back: int, minutes: int, chance: float, factor: float) -> None:
    decision = decision_for(replied(Phase.RCPT, 451), attempts=attempts, given_back=given_back, chance=chance)
    assert decision.outcome == Outcome.DEFERRED
    assert decision.next_try_at == NOW + timedelta(minutes=minutes) * factor


def test_decision_after_a_defect() -> None:
    before = decide_after_defect(dot_written=False, attempts=1, given_back=0, policy=RESEND, now=NOW)
    assert before == Decision(Outcome.DEFERRED, NOW + RETRY[1] * 1.1)
    after = decide_after_defect(dot_written=True, attempts=1, given_back=0, policy=RESEND, now=NOW)
    assert (after.outcome, after.next_try_at) == UNKNOWN


@pytest.mark.parametrize(
    ("failed", "tried", "is_disabled"),
    [(99, 99, False), (100, 100, True), (100, 200, True), (100, 201, False), (500, 1000, True), (499, 1000, False)],
)
def test_mailing_is_disabled_when_both_count_and_rate_are_reached(failed: int, tried: int, is_disabled: bool) -> None:
    assert has_too_many_failures(failed, tried, RESEND) == is_disabled


replies = st.none() | st.builds(
    lambda code, enhanced, words: Reply(code, enhanced, f"{code} {enhanced} {words}"),
    st.integers(200, 599),
    st.sampled_from(["", "5.1.1", "5.2.1", "5.4.5", "4.7.0", "5.7.1"]),
    st.sampled_from(["no", "too many connections", "Daily sending quota exceeded", "Sender address rejected"]),
)
results = st.builds(
    lambda phase, reply, dot: SendResult(phase, reply, "", dot), st.sampled_from(Phase), replies, st.booleans()
)


@given(
    results, st.integers(0, 50), st.integers(0, 4), st.sampled_from([RESEND, HOLD]), st.floats(0, 1, exclude_max=True)
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
    if decision.outcome in (Outcome.SENT, Outcome.FAILED):
        assert decision.next_try_at is None
    elif decision.outcome == Outcome.DEFERRED:
        assert decision.next_try_at is not None
        assert decision.next_try_at >= NOW + RETRY[0]
    if decision.bad_address:
        assert decision.outcome == Outcome.FAILED
    if decision.reaction in (Reaction.HOLD_RELAY, Reaction.HOLD_MAILING):
        assert decision.outcome == Outcome.GIVEN_BACK, "no client fails for it"
    if decision.outcome == Outcome.FAILED:
        assert decision.verdict is not None
        assert decision.verdict.fault not in (Fault.QUOTA, Fault.LOGIN, Fault.RELAY, Fault.SENDER)

"""A mailing is held for a rate that is too high, and only if the rate is of enough emails."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skychimp.return_rates import DEFAULT_LIMITS, MINIMUM, PUBLISHED, Limits, Rate, RateKind, ReturnCounts, format_rate

BOUNCES, COMPLAINTS = RateKind.BOUNCES, RateKind.COMPLAINTS


@pytest.mark.parametrize(
    ("kind", "number", "of", "limit", "reason"),
    [
        (BOUNCES, 10, 200, 0.05, "5 % of its emails bounced (10 of 200), the limit is 5 %"),
        (BOUNCES, 32, 1_000, 0.03, "3.2 % of its emails bounced (32 of 1,000), the limit is 3 %"),
        (BOUNCES, 10, 50, 0.05, "20 % of its emails bounced (10 of 50), the limit is 5 %"),
        (BOUNCES, 10, 49, 0.05, None),
        (BOUNCES, 9, 100, 0.05, None),
        (BOUNCES, 10, 201, 0.05, None),
        (BOUNCES, 200, 200, 0.999, "100 % of its emails bounced (200 of 200), the limit is 99.9 %"),
        (BOUNCES, 200, 200, 1.0, None),
        (BOUNCES, 10, 0, 0.05, None),
        (BOUNCES, 10, 5_000, 0.0, "0.2 % of its emails bounced (10 of 5,000), the limit is 0 %"),
        (COMPLAINTS, 3, 1_000, 0.003, "0.3 % of its emails were marked as spam (3 of 1,000), the limit is 0.3 %"),
        (COMPLAINTS, 4, 1_000, 0.003, "0.4 % of its emails were marked as spam (4 of 1,000), the limit is 0.3 %"),
        (COMPLAINTS, 2, 1_000, 0.001, None),
        (COMPLAINTS, 3, 999, 0.003, None),
        (COMPLAINTS, 3, 1_001, 0.003, None),
    ],
)
def test_mailing_is_held_from_the_limit_on(
    kind: RateKind, number: int, of: int, limit: float, reason: str | None
) -> None:
    assert Rate(kind, number, of).why_too_high(limit) == reason


@given(
    st.sampled_from(RateKind), st.integers(0, 3_000), st.integers(0, 10_000), st.integers(0, 10_000), st.floats(0, 1)
)
def test_rate_that_cannot_be_too_high_is_not_with_more_emails(
    kind: RateKind, number: int, of: int, more: int, limit: float
) -> None:
    if not Rate(kind, number, of).may_be_too_high(limit):
        assert Rate(kind, number, of + more).why_too_high(limit) is None


def test_refusals_and_returned_mail_are_both_bounces() -> None:
    counts = ReturnCounts(sent=980, refused=20, bounced=30, complaints=4)
    assert counts.bounce_rate == Rate(BOUNCES, 50, 1_000)
    assert counts.complaint_rate == Rate(COMPLAINTS, 4, 980)
    assert [kind for kind, _ in counts.why_too_high(Limits(0.06, 0.002))] == []
    assert [kind for kind, _ in counts._replace(sent=1_980).why_too_high(Limits(0.02, 0.002))] == [BOUNCES, COMPLAINTS]


def test_rate_is_at_most_1_and_unknown_without_emails() -> None:
    assert ReturnCounts(sent=1, bounced=2).bounce_rate.value == 1
    assert ReturnCounts(refused=2).bounce_rate.value == 1
    assert [rate.value for rate in ReturnCounts().rates] == [None, None]


def test_default_limits_are_published_ones() -> None:
    assert Limits(PUBLISHED[BOUNCES].advised, PUBLISHED[COMPLAINTS].most) == DEFAULT_LIMITS
    assert set(MINIMUM) == set(PUBLISHED) == set(RateKind)


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0.0, "0 %"), (0.003, "0.3 %"), (0.0035, "0.35 %"), (0.00001, "0 %"), (0.05, "5 %"), (0.032, "3.2 %"),
        (0.1, "10 %"), (1.0, "100 %"), (0.999, "99.9 %"),
    ],
)  # fmt: skip
def test_rates_are_percentages(fraction: float, text: str) -> None:
    assert format_rate(fraction) == text

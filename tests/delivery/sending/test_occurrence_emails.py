"""Test when an occurrence's failures disable its mailing, and emails that cannot be composed."""

import pytest

from skychimp.delivery.sending.occurrence_emails import OccurrenceEmails
from skychimp.delivery.sending.retry_policy import RetryPolicy
from skychimp.errors import InvalidValue
from skychimp.store.queue import ClaimedDelivery
from skychimp.transport.interfaces import Phase, Reply, SendResult

POLICY = RetryPolicy((), None, disable_failures=4, disable_failure_rate=0.5)
SENDER_REFUSED = SendResult(Phase.MAIL, Reply(550, "5.7.1", "550 5.7.1 no"))
RECIPIENT_REFUSED = SendResult(Phase.RCPT, Reply(550, "5.1.1", "550 5.1.1 no"))
NOT_COMPOSED = SendResult(Phase.MAIL, None, "cannot compose the email")


def emails(*, tried: int = 0) -> OccurrenceEmails:
    return OccurrenceEmails(1, "news@example.org", None, "the sender is invalid", failed=0, tried=tried)


def count(occurrence: OccurrenceEmails, result: SendResult, *, is_failed: bool = True) -> str | None:
    occurrence.tried += 1
    return occurrence.count_result(result, is_failed=is_failed, policy=POLICY)


def test_three_sender_refusals_in_a_row_disable_the_mailing() -> None:
    occurrence = emails(tried=100)
    reasons = [count(occurrence, SENDER_REFUSED) for _ in range(3)]
    assert reasons == [None, None, "the mail server refused the sender: 550 5.7.1 no"]


@pytest.mark.parametrize(
    ("result", "is_failed"), [(RECIPIENT_REFUSED, True), (NOT_COMPOSED, True), (RECIPIENT_REFUSED, False)]
)
def test_other_result_ends_a_series_of_sender_refusals(result: SendResult, is_failed: bool) -> None:
    occurrence = emails(tried=100)
    results = [SENDER_REFUSED, SENDER_REFUSED]
    assert [count(occurrence, refusal) for refusal in results] == [None, None]
    assert count(occurrence, result, is_failed=is_failed) is None
    assert [count(occurrence, refusal) for refusal in results] == [None, None]


def test_number_and_rate_of_failures_disable_the_mailing() -> None:
    occurrence = emails()
    assert [count(occurrence, RECIPIENT_REFUSED) for _ in range(4)] == [None, None, None, "4 of 4 emails failed"]


@pytest.mark.parametrize("result", [RECIPIENT_REFUSED, SENDER_REFUSED])
def test_reason_to_disable_the_mailing_is_given_once(result: SendResult) -> None:
    """Emails over other connections fail at the same time."""
    occurrence = emails()
    assert len([reason for reason in (count(occurrence, result) for _ in range(9)) if reason]) == 1


def test_unusable_content_is_an_error_for_each_email() -> None:
    claimed = ClaimedDelivery(1, 1, 1, "ada@example.org", "Ada", "", "[]", 0, 0, 1)
    with pytest.raises(InvalidValue, match="the sender is invalid"):
        emails().compose(claimed, b"secret")

"""Test when an occurrence's failures hold or disable its mailing, and emails that cannot be composed."""

from datetime import UTC, datetime, timedelta

import pytest

from skychimp.delivery.sending.occurrence_emails import OccurrenceContent, OccurrenceEmails
from skychimp.delivery.sending.retry_policy import RetryPolicy
from skychimp.errors import InvalidValue
from skychimp.store.queue import ClaimedDelivery
from skychimp.translation import verbatim

POLICY = RetryPolicy((), timedelta(days=3), None, disable_failures=4, disable_failure_rate=0.5)
NOW = datetime(2026, 12, 1, 9, tzinfo=UTC)


def emails(*, tried: int = 0) -> OccurrenceEmails:
    content = OccurrenceContent("news@example.org", None, verbatim("the sender is invalid"))
    return OccurrenceEmails(1, content, {}, failed=0, tried=tried)


def claim(number: int, domain: str = "example.org") -> ClaimedDelivery:
    return ClaimedDelivery(number, 1, 1, f"c{number}@{domain}", "", "", "[]", 0, 0, None, None, None, None, 1, NOW)


def refuse(occurrence: OccurrenceEmails, *refusals: tuple[str, str]) -> list[list[int]]:
    """Count emails that were refused, each given by its domain and the reply. Return what each pattern found."""
    found = []
    for domain, reply in refusals:
        occurrence.count_result(is_first_try=True, is_failed=True)
        found.append(occurrence.find_pattern(claim(occurrence.failed, domain), reply))
    return found


def test_five_alike_at_two_domains_are_a_pattern() -> None:
    occurrence = emails(tried=100)
    domains = ["a.org", "a.org", "a.org", "a.org", "b.org", "a.org"]
    found = refuse(occurrence, *[(domain, "550 5.7.1 Message rejected") for domain in domains])
    assert found == [[], [], [], [], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6]]


def test_many_alike_at_one_domain_may_be_that_domains_fault() -> None:
    occurrence = emails(tried=100)
    assert refuse(occurrence, *[("a.org", "550 5.7.1 Message rejected")] * 20) == [[]] * 20


def test_three_alike_are_a_pattern_if_nothing_else_was_tried() -> None:
    assert refuse(emails(), *[("a.org", "554 no")] * 3) == [[], [], [1, 2, 3]]
    assert refuse(emails(tried=1), *[("a.org", "554 no")] * 4) == [[]] * 4


def test_addresses_and_ids_in_the_replies_make_no_difference() -> None:
    replies = [f"550 5.7.1 <c{number}@a.org>: rejected, id 4bX{number}z" for number in (1, 2, 3)]
    assert refuse(emails(), *[("a.org", reply) for reply in replies])[-1] == [1, 2, 3]


def test_success_or_another_reply_ends_a_series() -> None:
    occurrence = emails(tried=100)
    series = [("a.org", "554 no"), ("b.org", "554 no"), ("a.org", "554 no"), ("b.org", "554 no")]
    assert refuse(occurrence, *series) == [[]] * 4
    occurrence.count_success(is_first_try=True)
    assert refuse(occurrence, *series) == [[]] * 4
    assert refuse(occurrence, ("a.org", "550 content"), *series) == [[]] * 5


def test_only_first_tries_count_for_the_rate_of_failures() -> None:
    occurrence = emails()
    for is_first_try in (True, True, True, True, True, False, False, False):
        occurrence.count_success(is_first_try=is_first_try)
    results = []
    for _ in range(5):
        occurrence.count_result(is_first_try=True, is_failed=True)
        results.append(occurrence.has_too_many_failures(POLICY))
    assert results == [False, False, False, False, True]
    assert occurrence.failures == "5 of 10 emails failed"


def test_unusable_content_is_an_error_for_each_email() -> None:
    with pytest.raises(InvalidValue, match="the sender is invalid"):
        emails().compose(claim(1), b"secret")

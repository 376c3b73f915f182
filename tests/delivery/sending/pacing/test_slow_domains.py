"""Test which domains count as slow."""

import pytest

from skychimp.delivery.sending.pacing.slow_domains import SLOW_S, SlowDomains

QUICK, SLOW = 0.1, SLOW_S


@pytest.mark.parametrize(
    ("emails", "is_slow"),
    [
        ([], False),
        ([("other", QUICK)] * 20 + [("slow", SLOW)], False),
        ([("other", QUICK)] * 20 + [("slow", SLOW), ("SLOW", SLOW)], True),
        ([("other", QUICK)] * 20 + [("other", SLOW)] * 2, False),
        ([("other", QUICK)] * 20 + [("slow", SLOW), ("slow", QUICK), ("slow", SLOW)], False),
        ([("other", QUICK)] * 20 + [("slow", SLOW), ("other", QUICK), ("slow", SLOW)], True),
        ([("other", QUICK)] * 20 + [("slow", SLOW), ("slow", SLOW), ("slow", QUICK)], False),
        ([("slow", SLOW)] * 10, False),
        ([("slow", SLOW)] * 10 + [("other", QUICK)], True),
        ([("other", QUICK)] * 1000 + [("slow", SLOW)] * 2 + [("other", SLOW)] * 20, False),
    ],
    ids=[
        "no email",
        "one slow email",
        "two",
        "another domain",
        "a quick one between them",
        "another domain's between them",
        "quick again",
        "all are slow",
        "all others are quick",
        "all have become slow",
    ],
)
def test_domain_is_slow(emails: list[tuple[str, float]], is_slow: bool) -> None:
    domains = SlowDomains()
    for name, took_s in emails:
        domains.note(f"a@{name}.example", took_s)
    assert domains.has("b@slow.example") == is_slow

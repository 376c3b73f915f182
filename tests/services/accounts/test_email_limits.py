"""Limits of the emails about accounts: for each mailbox, and for all of them together."""

from datetime import UTC, datetime, timedelta

import pytest
from support.contents import contains
from support.sending import rows

from skychimp import addresses
from skychimp.errors import Denied
from skychimp.models import AccountEmail, CodePurpose
from skychimp.services.accounts import email_limits
from skychimp.store.database import Store

NOW = datetime.now(UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
VERIFY, RESET = CodePurpose.VERIFY, CodePurpose.RESET


def reserve(
    store: Store, email: str, purpose: CodePurpose = VERIFY, at: datetime = NOW, max_per_hour: int = 1000
) -> int | None:
    with store.write() as db:
        return email_limits.reserve(db, addresses.parse(email).key, purpose, max_per_hour, at)


def test_three_emails_per_hour_for_each_mailbox_and_purpose(store: Store) -> None:
    minutes = (0, 10, 20, 30, 59)
    assert [reserve(store, "ada@example.org", at=NOW + m * MINUTE) is not None for m in minutes] == [1, 1, 1, 0, 0]
    assert reserve(store, "ada@example.org", RESET, at=NOW + 59 * MINUTE)
    assert reserve(store, "bob@example.org", at=NOW + 59 * MINUTE)
    assert reserve(store, "ada@example.org", at=NOW + HOUR)
    assert not reserve(store, "ada@example.org", at=NOW + HOUR)


@pytest.mark.parametrize(
    "same",
    ["ada+1@example.org", "ada+2+3@example.org", "ada+@example.org", "ADA+x@EXAMPLE.ORG", "Ada@example.org"],
)
def test_tagged_addresses_share_the_limit_of_their_mailbox(store: Store, same: str) -> None:
    for number in range(email_limits.MAX_PER_MAILBOX):
        assert reserve(store, f"ada+{number}@example.org")
    assert reserve(store, same) is None


@pytest.mark.parametrize("other", ["a.da@example.org", "ada@example.com", "+ada@example.org", "ad@example.org"])
def test_other_mailboxes_do_not_share_the_limit(store: Store, other: str) -> None:
    for _ in range(email_limits.MAX_PER_MAILBOX):
        assert reserve(store, "ada@example.org")
    assert reserve(store, other)


def test_flood_of_a_thousand_tags_is_three_emails(store: Store) -> None:
    with store.write() as db:
        sent = [
            email_limits.reserve(db, f"ada+{number}@example.org", VERIFY, 1000, NOW) is not None
            for number in range(1000)
        ]
    assert sum(sent) == email_limits.MAX_PER_MAILBOX


def test_limit_for_all_mailboxes_together(store: Store) -> None:
    for number in range(10):
        assert reserve(store, f"{number}@example.org", max_per_hour=10)
    for email in ("0@example.org", "new@example.org"):
        with pytest.raises(Denied, match="too many emails about accounts"):
            reserve(store, email, RESET, max_per_hour=10)
    assert reserve(store, "new@example.org", at=NOW + HOUR, max_per_hour=10)


def test_released_email_does_not_count(store: Store) -> None:
    for _ in range(2 * email_limits.MAX_PER_MAILBOX):
        reserved = reserve(store, "ada@example.org")
        assert reserved is not None
        with store.write() as db:
            email_limits.release(db, reserved)


def test_email_sent_while_the_clock_was_ahead_does_not_count_for_long(store: Store) -> None:
    for _ in range(email_limits.MAX_PER_MAILBOX):
        reserve(store, "ada@example.org", at=NOW + 2 * HOUR)
    assert reserve(store, "ada@example.org")


def test_no_address_is_stored_and_old_counts_are_deleted(store: Store) -> None:
    for hours in range(3):
        reserve(store, "grace@example.org", at=NOW + hours * HOUR)
    assert len(rows(store, AccountEmail)) == 1
    assert not contains(store, "grace@")

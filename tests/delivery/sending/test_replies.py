"""Test how replies are grouped, and the queue IDs in them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skychimp.delivery.sending import replies
from skychimp.delivery.sending.replies import pattern, queue_id

GMAIL_REFUSAL = (
    "550-5.1.1 The email account that you tried to reach does not exist. Please try\n"
    "550 5.1.1 https://support.google.com/mail/?p=NoSuchUser a640c23a62f3a-aa5sm - gsmtp"
)


@pytest.mark.parametrize(
    ("reply", "address", "expected"),
    [
        ("250 2.0.0 Ok: queued as 4XyzAB1c2dz9sT", "", "Ok: queued as …"),
        ("250 2.0.0 Ok: queued as FCABAEAAFE", "", "Ok: queued as …"),
        ("250 OK id=1rABCD-00000002xyz-3F1a", "", "OK …"),
        ("250 2.0.0 OK  1700000000 d9443c01a7336-1cc5.98 - gsmtp", "", "OK … - gsmtp"),
        ("550 5.1.1 <bob@example.org>: Recipient address rejected", "bob@example.org", "Recipient address rejected"),
        ("550 no mailbox here for grace", "grace@example.org", "no mailbox here for …"),
        ("550 no mailbox here for Grace, sorry", "grace@example.org", "no mailbox here for …, sorry"),
        ("550 graceful: no", "grace@example.org", "graceful: no"),
        ("550 User unknown", "user@example.org", "User unknown"),
        ("450 greylisted, see http://g.example/help/example.org.html", "bob@example.org",
         "greylisted, see http://g.example/help/….html"),
        ("554 5.7.1 Client host [192.0.2.7] blocked using zen.spamhaus.org", "",
         "Client host … blocked using zen.spamhaus.org"),
        ("550 5.7.1 it is on our block list (S3140).", "", "it is on our block list (S3140)."),
        ("550 5.7.1 on our block list (S3140) now", "", "on our block list (S3140) now"),
        ("421 4.7.0 [TSS04] Messages from 192.0.2.7 temporarily deferred", "",
         "[TSS04] Messages from … temporarily deferred"),
        ("timed out after 60 s", "", "timed out after … s"),
        (GMAIL_REFUSAL, "",
         "The email account that you tried to reach does not exist. Please try "
         "https://support.google.com/mail/?p=NoSuchUser … - gsmtp"),
        ("250", "", ""),
        ("", "", ""),
    ],
)  # fmt: skip
def test_pattern_replaces_what_differs_between_emails(reply: str, address: str, expected: str) -> None:
    assert pattern(reply, address) == expected


@given(st.text(), st.text())
def test_every_pattern_is_one_short_line(reply: str, address: str) -> None:
    result = pattern(reply, address)

    assert len(result) <= replies.MAX_PATTERN_LENGTH
    assert result == " ".join(result.split())


@given(
    st.integers(10**9, 10**12).map("{:X}".format),
    st.from_regex(r"[a-z]{3,8}[0-9]{1,4}@[a-z]{3,9}\.org", fullmatch=True),
)
def test_pattern_is_the_same_for_different_ids_and_addresses(number: str, address: str) -> None:
    assert pattern(f"250 2.0.0 Ok: queued as {number}") == "Ok: queued as …"
    assert pattern(f"550 5.1.1 <{address}>: no such user", address) == "no such user"


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("250 2.0.0 Ok: queued as 4XyzAB1c2dz9sT", "4XyzAB1c2dz9sT"),  # Postfix
        ("250 2.0.0 Ok: queued as 3F8A21B0C9", "3F8A21B0C9"),
        ("250 2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as 3F8A21B0C9", "3F8A21B0C9"),  # amavis
        ("250 OK id=1rABCD-00000002xyz-3F1a", "1rABCD-00000002xyz-3F1a"),  # Exim
        ("250 2.0.0 3AP1s2o3012345 Message accepted for delivery", "3AP1s2o3012345"),  # Sendmail
        ("250 2.0.0 5f0e1d2c Message accepted for delivery", "5f0e1d2c"),  # OpenSMTPD
        ("250 2.6.0 <a@b.example> [InternalId=42, Hostname=X.example] 9 bytes in 0.1 Queued mail for delivery", "42"),
        ("250 2.0.0 OK  1700000000 d9443c01a7336-1cc5.98 - gsmtp", "d9443c01a7336-1cc5.98"),
        ("250 ok 1700000000 qp 12345", "qp 12345"),  # qmail
        ("250 Ok 0102018c3f2a-5d0e-4a-000000", "0102018c3f2a-5d0e-4a-000000"),  # Amazon SES
        ("250 Message Queued (1F2A9C33-7E41.1)", "1F2A9C33-7E41.1"),  # Haraka
        ("250 2.0.0 written to the outbox as new/1700.M1P2Q3.host", "1700.M1P2Q3.host"),
        ("invalid reply: 999 Ok: queued as 3F8A21B0C9", "3F8A21B0C9"),
        ("not a reply: 999 Ok: queued as 3F8A21B0C9", "3F8A21B0C9"),  # recorded by an earlier version
        ("250 ok", ""),
        ("250 2.0.0 Queued mail for delivery", ""),
        ("550 5.1.1 no mailbox id=1rABCD-00000002xyz-3F1a", ""),
        ("connection closed", ""),
    ],
)
def test_queue_id(reply: str, expected: str) -> None:
    assert queue_id(reply) == expected


UNITS = [
    "a", "1", "F", "0-", "a.", "1 ", "  ", "<", "as ", "queued as ", "queued as: ", "id=a", "id= ",
    "OK 1234567890 ", "qp 1",
    "[InternalId=1", "250 Ok a", "outbox as new/", "@", "a@b ", "\n", "\n250 ", "(S3140)", "é", "٣", "FFFFFFFF ",
    "AAAAAAAAx ",
    "Message accepted for delivery ", "xxxxxxxx Message ", "1-1", "\x00", "\ud800", "(", ",", ">",
]  # fmt: skip
STARTS = [
    "",
    "2",
    "250 ",
    "250 Ok ",
    "250 queued as ",
    "250 ok 1234567890 qp ",
    "250 [InternalId=",
    "invalid reply ",
    "550 ",
]


ENDS = ["", "!", " x"]


@pytest.mark.parametrize("start", STARTS)
def test_hostile_reply_is_read_in_linear_time(start: str) -> None:
    """Each unit is repeated after each start, with one of the ends."""
    for number, unit in enumerate(UNITS, STARTS.index(start)):
        require_linear(start, unit, ENDS[number % len(ENDS)])


@pytest.mark.slow
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("end", ENDS)
def test_hostile_reply_with_each_end_is_read_in_linear_time(start: str, end: str) -> None:
    for unit in UNITS:
        require_linear(start, unit, end)


def require_linear(start: str, unit: str, end: str) -> None:
    """The largest reply is 64 kB. One second is generous for it, but not for quadratic time."""
    reply = start + unit * (64_000 // len(unit)) + end
    for read in (queue_id, pattern, lambda text: pattern(text, "ada.lovelace@example.org")):
        started = time.process_time()
        assert isinstance(read(reply), str)
        assert time.process_time() - started < 1, (start, unit, end)

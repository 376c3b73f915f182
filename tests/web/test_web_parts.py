"""Parts of the web server: languages, who asks, masked addresses, the rate limit and the socket."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skychimp.config.settings import WebSettings
from skychimp.web import languages
from skychimp.web.addresses import LOCAL, client_address, is_direct, masked
from skychimp.web.listening import listen
from skychimp.web.rate_limit import MOST_ADDRESSES, RateLimit


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("", "en"),
        ("*", "en"),
        ("ru", "ru"),
        ("RU-ru", "ru"),
        ("en, ru", "en"),
        ("ru, en", "ru"),
        ("en;q=0.5, ru;q=0.6", "ru"),
        ("ru;q=0, en;q=0.1", "en"),
        ("ru;q=0", "en"),
        ("de, uk;q=0.9, ru;q=0.1", "ru"),
        ("rux", "en"),
        ("ru;q=9", "en"),
        ("ru;q=x", "en"),
        (",;=,,", "en"),
        ("x" * 300 + ",ru", "en"),
    ],
)
def test_language(accepted: str, language: str) -> None:
    assert languages.choose(accepted) == language


@given(st.text(max_size=300))
def test_any_text_has_a_language(accepted: str) -> None:
    assert languages.choose(accepted) in languages.TEXTS


def test_languages_have_the_same_texts_with_the_same_gaps() -> None:
    english, russian = (languages.TEXTS[language] for language in ("en", "ru"))
    assert english.keys() == russian.keys()
    filled = {"address": "A", "topic": "T", "date": "D"}
    for name, text in english.items():
        marks = [each for each in filled.values() if each in set(text.format(**filled)) - set(text)]
        assert all(mark in russian[name].format(**filled) for mark in marks), name


FORWARDED = b"x-forwarded-for"


@pytest.mark.parametrize(
    ("peer", "headers", "address", "is_for_itself"),
    [
        (None, [], LOCAL, True),
        ("127.0.0.1", [], "127.0.0.1", True),
        ("127.0.0.1", [(FORWARDED, b"192.0.2.1")], "192.0.2.1", False),
        (None, [(FORWARDED, b"10.0.0.1, 192.0.2.1")], "192.0.2.1", False),
        ("::1", [(FORWARDED, b"10.0.0.1"), (FORWARDED, b"2001:db8::1")], "2001:db8::1", False),
        ("127.0.0.1", [(FORWARDED, b"192.0.2.1, unknown")], "127.0.0.1", False),
        ("127.0.0.1", [(FORWARDED, b"")], "127.0.0.1", False),
        ("127.0.0.1", [(FORWARDED, b"\xff")], "127.0.0.1", False),
        ("127.0.0.1", [(b"forwarded", b"for=192.0.2.1")], "127.0.0.1", False),
        ("198.51.100.1", [(FORWARDED, b"192.0.2.1")], "198.51.100.1", False),
        ("198.51.100.1", [], "198.51.100.1", False),
    ],
)
def test_only_a_proxy_on_this_machine_is_believed(
    peer: str | None, headers: list[tuple[bytes, bytes]], address: str, is_for_itself: bool
) -> None:
    assert client_address(peer, headers) == address
    assert is_direct(peer, headers) is is_for_itself


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("ann@example.org", "a***@e***.org"),
        ("a@b.c.example", "a***@b***.example"),
        ("root@localhost", "r***@l***"),
        ("юля@почта.рф", "ю***@п***.рф"),
        ('"a@b"@example.org', '"***@e***.org'),
    ],
)
def test_masked_address(address: str, shown: str) -> None:
    assert masked(address) == shown


def test_rate_limit_allows_a_burst_and_then_a_rate() -> None:
    limit = RateLimit(rate=2, burst=3)
    assert [limit.allows("192.0.2.1", 0) for _ in range(4)] == [True, True, True, False]
    assert limit.allows("192.0.2.2", 0)
    assert [limit.allows("192.0.2.1", 0.5) for _ in range(2)] == [True, False]
    assert [limit.allows("192.0.2.1", 100) for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize(
    ("first", "second", "is_one"),
    [
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        (LOCAL, LOCAL, True),
    ],
)
def test_addresses_of_one_network_are_counted_together(first: str, second: str, is_one: bool) -> None:
    limit = RateLimit(rate=1, burst=1)
    assert limit.allows(first, 0)
    assert limit.allows(second, 0) is not is_one


def test_rate_limit_forgets_addresses() -> None:
    limit = RateLimit(rate=1, burst=1)
    for number in range(MOST_ADDRESSES + 10):
        limit.allows(f"address {number}", 0)
    assert len(limit._buckets) == MOST_ADDRESSES


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0"])
def test_small_parts_of_a_response_are_sent_at_once(address: str) -> None:
    """asyncio sets TCP_NODELAY only where the protocol is named. Without it a request behind Caddy took 45 ms."""
    with listen(WebSettings(listen=address)) as opened:
        assert opened.proto == socket.IPPROTO_TCP

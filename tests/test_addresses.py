"""Email addresses: which are valid, which two are the same, and how a sender is written."""

import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import product

import email_validator
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skychimp import addresses
from skychimp.addresses import LOCAL, STORED, Rules, in_protocol, is_unusual, parse, parse_sender, with_ascii_domain
from skychimp.delivery.composing import mime
from skychimp.errors import InvalidValue


@pytest.mark.parametrize(
    ("text", "email", "key"),
    [
        ("ada@example.org", "ada@example.org", "ada@example.org"),
        ("Ada.L+news@Example.ORG", "Ada.L+news@example.org", "ada.l+news@example.org"),
        ("a!#$%&'*+/=?^_`{|}~-z@x.org", "a!#$%&'*+/=?^_`{|}~-z@x.org", "a!#$%&'*+/=?^_`{|}~-z@x.org"),
        ("root@localhost", "root@localhost", "root@localhost"),
        ("root@LocalHost", "root@localhost", "root@localhost"),
        ("ada@mail.test", "ada@mail.test", "ada@mail.test"),
        ("ada@printer.local", "ada@printer.local", "ada@printer.local"),
        ("ada@BÜCHER.example", "ada@bücher.example", "ada@xn--bcher-kva.example"),
        ("ada@xn--bcher-kva.example", "ada@bücher.example", "ada@xn--bcher-kva.example"),
        ("Юлия@почта.рф", "Юлия@почта.рф", "юлия@xn--80a1acny.xn--p1ai"),
        ("JOSE\N{COMBINING ACUTE ACCENT}@x.org", "JOSÉ@x.org", "josé@x.org"),
        ("straße@x.org", "straße@x.org", "straße@x.org"),  # not the same mailbox as strasse@
        ("v" * 70 + "@x.org", "v" * 70 + "@x.org", "v" * 70 + "@x.org"),
    ],
)
def test_valid_address_and_its_key(text: str, email: str, key: str) -> None:
    assert parse(text) == (email, key)


@pytest.mark.parametrize(
    "text",
    [
        "", "@", "ada", "ada@", "@example.org", "ada@@example.org", "ada @example.org", "ada@example.org ",
        "ada@example.org\n", "ada@example.org\r\nBcc: eve@example.org", "ada@example..org", ".ada@example.org",
        "ada.@example.org", "a..b@example.org", "ada@-example.org", "ada@exa_mple.org", "ada@[127.0.0.1]",
        '"ada l"@example.org', "Ada <ada@example.org>", "ada@example.org,eve@example.org", "ada@example.org>",
        "ada@\u202eexample.org", "\ud800@example.org", "ada@\ud800.org", "ada@" + "b." * 126 + "org",
        "a" * 60 + "@" + "ü." * 28 + "example.org",  # short enough in Unicode, too long in ASCII
    ],
)  # fmt: skip
def test_invalid_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match=r"invalid email address .*: ") as caught:
        parse(text)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("domain", ["intranet", "com", "localhost2", "xn--bro-hoa", "büro", "рф"])
def test_domain_without_a_dot_is_refused_unless_the_setting_takes_it(domain: str) -> None:
    with pytest.raises(InvalidValue, match="the domain has no dot") as caught:
        parse(f"ada@{domain}")
    assert caught.value.hint == "set mail.allow_local = true to accept addresses in your own network"
    address = parse(f"ada@{domain}", Rules(allow_local=True))
    assert parse(address.email, LOCAL) == address
    assert parse_sender(f"Ada <ada@{domain}>")[1] == address.email


@pytest.mark.parametrize(
    ("text", "key", "sent"),
    [
        ("a..b@docomo.ne.jp", "a..b@docomo.ne.jp", '"a..b"@docomo.ne.jp'),
        ("A.@Docomo.ne.jp", "a.@docomo.ne.jp", '"A."@docomo.ne.jp'),
        (".a@docomo.ne.jp", ".a@docomo.ne.jp", '".a"@docomo.ne.jp'),
        ("a...@docomo.ne.jp", "a...@docomo.ne.jp", '"a..."@docomo.ne.jp'),
        ('"a..B"@docomo.ne.jp', "a..b@docomo.ne.jp", '"a..B"@docomo.ne.jp'),
        ('"ab"@docomo.ne.jp', "ab@docomo.ne.jp", '"ab"@docomo.ne.jp'),
        ("a..b@bücher.example", "a..b@xn--bcher-kva.example", '"a..b"@bücher.example'),
    ],
)
def test_unusual_address_is_taken_only_on_request_and_sent_in_quotes(text: str, key: str, sent: str) -> None:
    with pytest.raises(InvalidValue, match="invalid email address"):
        parse(text)
    assert is_unusual(text)
    address = parse(text, Rules(accept_unusual=True))
    assert (address.key, in_protocol(address.email)) == (key, sent)
    assert address.email.rpartition("@")[0] == text.rpartition("@")[0], "as the user wrote it"
    assert parse(sent, STORED).key == key


@pytest.mark.parametrize(
    "text",
    [
        "@docomo.ne.jp", "..@docomo.ne.jp", '""@docomo.ne.jp', '"."@docomo.ne.jp', '"a..b@docomo.ne.jp',
        'a..b"@docomo.ne.jp', '"a b"@docomo.ne.jp', '"a<b"@docomo.ne.jp', '"a\\"b"@docomo.ne.jp', '"a"b"@docomo.ne.jp',
        "ü..b@docomo.ne.jp", "a..b@[127.0.0.1]", "a..b@docomo..jp", "a..b@", "a..b", "a..b\n@docomo.ne.jp",
        "." * 100 + "a@" + "b" * 60 + "." + "c" * 60 + "." + "d" * 60,
    ],
)  # fmt: skip
def test_no_other_address_is_unusual(text: str) -> None:
    assert not is_unusual(text)
    with pytest.raises(InvalidValue, match="invalid email address"):
        parse(text, STORED)


def test_usual_address_is_sent_as_it_is() -> None:
    for address in ("ada@example.org", "Юлия@почта.рф", "a.b@x.y", '"a b"@x.org', "", "@"):
        assert in_protocol(address) == address


characters = st.one_of(st.characters(), st.sampled_from('@.-_+ "<>()[],;:\\aAéßИ漢\u0130\u200d\u202e\u3002'))
almost_addresses = st.builds(
    "{}@{}.org".format, st.text(characters, min_size=1, max_size=20), st.text(characters, max_size=9)
)


@given(almost_addresses)
def test_parsing_a_parsed_address_changes_nothing_and_it_fits_in_a_header(text: str) -> None:
    try:
        address = parse(text)
    except InvalidValue:
        return
    assert parse(address.email) == address
    assert parse(address.key).key == address.key
    assert parse(with_ascii_domain(address.email)) == address
    assert mime.mailbox("", address.email).decode() in (address.email, with_ascii_domain(address.email))


@given(
    st.from_regex(r"\A[a-z0-9]{1,9}(\.[a-z0-9+_-]{1,9}){0,2}\Z"),
    st.sampled_from(["x.org", "BÜCHER.example", "почта.рф"]),
)
def test_fast_path_agrees_with_the_library(local: str, domain: str) -> None:
    email, ascii_domain = addresses._validated(f"{local}@{domain}")
    assert parse(f"{local}@{domain}") == (email, f"{local}@{ascii_domain}")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("ada@example.org", "ada@example.org"),
        ("ada@bücher.example", "ada@xn--bcher-kva.example"),
        ("юлия@почта.рф", "юлия@xn--80a1acny.xn--p1ai"),
    ],
)
def test_domain_is_converted_to_ascii(address: str, expected: str) -> None:
    assert with_ascii_domain(address) == expected


@pytest.mark.parametrize(
    ("text", "name", "email"),
    [
        ("ada@example.org", "", "ada@example.org"),
        (" ada@example.org ", "", "ada@example.org"),
        ("<ada@example.org>", "", "ada@example.org"),
        ("Ada Lovelace <ada@example.org>", "Ada Lovelace", "ada@example.org"),
        ("Ada<ada@example.org>", "Ada", "ada@example.org"),
        ("Acme, Inc. <news@example.org>", "Acme, Inc.", "news@example.org"),
        ("Ada (news) @home <ada@example.org>", "Ada (news) @home", "ada@example.org"),
        ('Ada "Countess" L. <ada@example.org>', 'Ada "Countess" L.', "ada@example.org"),
        ('"Ada <3 \\"News\\" \\\\o/" <ada@example.org>', 'Ada <3 "News" \\o/', "ada@example.org"),
        ("Ада Лавлейс <ada@почта.рф>", "Ада Лавлейс", "ada@почта.рф"),
        (
            "می\u200cخواهم <ada@example.org>",
            "می\u200cخواهم",
            "ada@example.org",
        ),  # a zero-width non-joiner is part of a word
        ("=?utf-8?q?Ada?= <ada@example.org>", "=?utf-8?q?Ada?=", "ada@example.org"),
    ],
)
def test_valid_sender(text: str, name: str, email: str) -> None:
    assert parse_sender(text) == (name, email)


@pytest.mark.parametrize(
    "text",
    [
        "", "Ada", "Ada <>", "Ada <ada>", "Ada <ada@example.org", "Ada ada@example.org>", "Ada <a@x.org> <b@x.org>",
        "Ada <ada@example.org> Lovelace", '"Ada" L <ada@example.org>', '"Ada <ada@example.org>',
        "Ada\n<ada@example.org>", "Ada\r\nBcc: eve@example.org\r\n <ada@example.org>", "Ada\u2028 <ada@example.org>",
        "Ada\x85 <ada@example.org>", "Ada\ud800 <ada@example.org>", "Ada <ada@example.org\x00>",
    ],
)  # fmt: skip
def test_invalid_sender_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        parse_sender(text)
    assert caught.value.message.isprintable()


@given(st.from_regex(r"[a-zA-Z0-9-]{1,20}(\.[a-zA-Z0-9-]{1,20}){0,3}", fullmatch=True))
def test_plain_domain_is_valid_if_the_library_says_so(domain: str) -> None:
    try:
        valid = email_validator.validate_email(
            f"x@{domain}", check_deliverability=False, globally_deliverable=False, test_environment=True
        )
    except email_validator.EmailNotValidError:
        with pytest.raises(InvalidValue):
            addresses.parse(f"x@{domain}", LOCAL)
    else:
        assert addresses.parse(f"x@{domain}", LOCAL) == (f"x@{valid.domain}", f"x@{valid.ascii_domain}")


STARTS = ("", "Ada", '"', '"Ada"', "<", "a@")
UNITS = ("a", " ", '"', "\\", "<", ">", "<>", "@", ".", "a.", "a@", "é", "(", "[", "xn--", "\t")
ENDS = ("", "<", ">", " <ada@example.org>", "@example.org")


def hostile_addresses() -> Iterator[object]:
    """Yield each start with each unit and each end. By default a start and a unit are tried with one end."""
    for (i, start), (j, unit), (k, end) in product(enumerate(STARTS), enumerate(UNITS), enumerate(ENDS)):
        is_first = (i + j + k) % len(ENDS) == 0
        yield pytest.param(start, unit, end, marks=() if is_first else pytest.mark.slow)


@pytest.mark.parametrize(("start", "unit", "end"), list(hostile_addresses()))
def test_hostile_address_is_read_in_linear_time(start: str, unit: str, end: str) -> None:
    """A second is generous for 64 kB, but not for quadratic time."""
    text = start + unit * (64_000 // len(unit)) + end
    for read in (parse, parse_sender):
        started = time.process_time()
        with suppress(InvalidValue):
            read(text)
        assert time.process_time() - started < 1

"""Test the SMTP state machine alone: replies of every kind, fragmented input, and the commands that it writes."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skychimp.transport.interfaces import OutgoingEmail, Phase, Reply, SendResult
from skychimp.transport.smtp_protocol import (
    MAX_LINE_BYTES,
    MAX_REPLY_BYTES,
    MAX_REPLY_LINES,
    Event,
    ProtocolError,
    ReplyParser,
    SmtpProtocol,
    StartBody,
    Write,
    dot_stuff,
)

EMAIL = OutgoingEmail("ada@example.org", "bob@example.net", b"Subject: hi\r\n\r\nhello\r\n")
OFFERS = b"250-relay\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 1000000\r\n"


def read(*pieces: bytes) -> tuple[list[Reply], str]:
    """Return the replies in these bytes, and the protocol error that ended them or ""."""
    parser, replies = ReplyParser(), []
    try:
        for piece in pieces:
            for reply in parser.feed(piece):
                replies.append(reply)  # noqa: PERF402 - keeps the replies before the error
    except ProtocolError as error:
        return replies, str(error)
    return replies, ""


def ready(offers: bytes = OFFERS) -> SmtpProtocol:
    """Return a protocol after its greeting and EHLO."""
    protocol = SmtpProtocol()
    assert len(list(protocol.receive(b"220 relay\r\n"))) == 1
    protocol.start_command(b"EHLO [127.0.0.1]")
    (reply,) = protocol.receive(offers)
    assert isinstance(reply, Reply)
    protocol.read_capabilities(reply)
    return protocol


def receive(protocol: SmtpProtocol, data: bytes) -> list[Event]:
    """Return the events of these bytes. A protocol error becomes the result of the email."""
    events: list[Event] = []
    try:
        for event in protocol.receive(data):
            events.append(event)  # noqa: PERF402 - as above
    except ProtocolError as error:
        events.append(protocol.fail(str(error)))
    return events


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"250 ok\r\n", Reply(250, "", "250 ok")),
        (b"250 ok\n", Reply(250, "", "250 ok")),
        (b"250\r\n", Reply(250, "", "250")),
        (b"250 \r\n", Reply(250, "", "250 ")),
        (b"250-a\r\n250-\r\n250\r\n", Reply(250, "", "250-a\n250-\n250")),
        (b"550-5.1.1 no\r\n550 5.7.1 such\r\n", Reply(550, "5.1.1", "550-5.1.1 no\n550 5.7.1 such")),
        (b"250 2.1.0\r\n", Reply(250, "2.1.0", "250 2.1.0")),
        (b"550 2.1.0 another class\r\n", Reply(550, "", "550 2.1.0 another class")),
        (b"354 3.0.0 no such class\r\n", Reply(354, "", "354 3.0.0 no such class")),
        (b"550 5.1.1000 long\r\n", Reply(550, "", "550 5.1.1000 long")),
        (b"550 5.1.1.1 more\r\n", Reply(550, "", "550 5.1.1.1 more")),
        (b"550 see 5.1.1 below\r\n", Reply(550, "", "550 see 5.1.1 below")),
        (b"250 \xd0\xb9 \xff \x1b[0m\r\n", Reply(250, "", "250 й \\xff \x1b[0m")),
    ],
)
def test_valid_reply_is_parsed(data: bytes, expected: Reply) -> None:
    assert read(data) == ([expected], "")


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"2500 ok\r\n",
        b"25 ok\r\n",
        b"250_ok\r\n",
        b"250\tok\r\n",
        b" 250 ok\r\n",
        b"150 ok\r\n",
        b"600 ok\r\n",
        b"260 ok\r\n",
        b"2\xb250 ok\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"250 ok\r\r\n",
        b"250 a\rb\r\n",
        b"250-a\r\n550 b\r\n",
        b"250-a\r\n250_b\r\n",
        b"250-a\r\nb\r\n",
        b"2" * (MAX_LINE_BYTES + 2),
        b"250 " + b"x" * MAX_LINE_BYTES + b"\r\n",
        b"250-x\r\n" * (MAX_REPLY_LINES + 1),
        (b"250-" + b"x" * 4000 + b"\r\n") * (MAX_REPLY_BYTES // 4000 + 1),
    ],
    ids=lambda data: ascii(data[:20]),
)
def test_invalid_reply_is_refused(data: bytes) -> None:
    replies, error = read(data)
    assert replies == []
    assert error


def test_size_limit_counts_each_reply_separately() -> None:
    reply = b"250-" + b"x" * 4000 + b"\r\n250 ok\r\n"
    replies, error = read(reply * (MAX_REPLY_BYTES // 4000 + 1))
    assert (len(replies), error) == (MAX_REPLY_BYTES // 4000 + 1, "")


def test_reply_before_invalid_input_is_kept() -> None:
    assert read(b"250 sent\r\nwhat?\r\n") == ([Reply(250, "", "250 sent")], "invalid reply: b'what?\\r'")


valid_replies = st.builds(
    lambda code, texts, end: b"".join(
        b"%d%b%b%b" % (code, b" " if last else b"-", text, end)
        for text, last in zip(texts, [False] * (len(texts) - 1) + [True], strict=True)
    ),
    st.sampled_from([220, 250, 354, 421, 550]),
    st.lists(st.binary(max_size=12).map(lambda text: re.sub(rb"[\r\n]", b"", text)), min_size=1, max_size=4),
    st.sampled_from([b"\r\n", b"\n"]),
)


@given(
    st.lists(
        valid_replies | st.binary(max_size=12) | st.sampled_from([b"2500\r\n", b"250-a\r\n251 b\r\n"]), max_size=5
    ),
    st.lists(st.integers(0, 80), max_size=10),
)
def test_fragmented_input_gives_the_same_replies(stream: list[bytes], cuts: list[int]) -> None:
    data = b"".join(stream)
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [data[start:end] for start, end in pairwise(edges)]
    assert read(*pieces) == read(data) == read(*(data[i : i + 1] for i in range(len(data))))


@given(st.lists(st.binary(max_size=200) | valid_replies, max_size=20), st.sampled_from(["greeting", "email", "dot"]))
def test_random_input_never_counts_as_sent_before_the_dot(pieces: list[bytes], stage: str) -> None:
    protocol = SmtpProtocol() if stage == "greeting" else ready()
    if stage != "greeting":
        protocol.start_email(EMAIL)
    if stage == "dot":
        assert list(protocol.receive(b"250 a\r\n250 b\r\n354 c\r\n")) == [StartBody()]
        protocol.end_email()
    results = []
    for piece in pieces:
        results += [event for event in receive(protocol, piece) if isinstance(event, SendResult)]
        if results:
            break
    sent = [result for result in results if result.reply and 200 <= result.reply.code < 300]
    assert not sent or stage == "dot"
    assert all(result.dot_written == (stage == "dot") for result in results)


def test_endless_line_is_refused_and_later_input_ignored() -> None:
    protocol = SmtpProtocol()
    endless = (event for _ in range(MAX_LINE_BYTES) for event in protocol.receive(b"220-x"))
    with pytest.raises(ProtocolError):
        list(endless)
    assert list(protocol.receive(b"220 now by the book\r\n")) == []  # input after an error is ignored
    assert not protocol.is_usable


ENVELOPE = b"MAIL FROM:<ada@example.org> SIZE=22\r\nRCPT TO:<bob@example.net>\r\nDATA\r\n"


def test_pipelining_writes_the_envelope_at_once() -> None:
    protocol = ready()
    assert protocol.start_email(EMAIL) == Write(ENVELOPE)
    assert receive(protocol, b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go\r\n") == [StartBody()]
    assert protocol.end_email() == b".\r\n"
    reply = Reply(250, "2.0.0", "250 2.0.0 queued")
    assert receive(protocol, b"250 2.0.0 queued\r\n") == [SendResult(Phase.DOT, reply, dot_written=True)]
    assert protocol.is_usable
    assert protocol.start_email(EMAIL) == Write(ENVELOPE)


def test_without_pipelining_each_command_waits_for_its_reply() -> None:
    protocol = ready(b"250 relay\r\n")
    events = [protocol.start_email(EMAIL)]
    for reply in (b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"):
        events += receive(protocol, reply)  # type: ignore[arg-type]
    assert events == [
        Write(b"MAIL FROM:<ada@example.org>\r\n"),
        Write(b"RCPT TO:<bob@example.net>\r\n"),
        Write(b"DATA\r\n"),
        StartBody(),
    ]


@pytest.mark.parametrize(
    ("pieces", "phase", "code", "written", "is_usable"),
    [
        ([b"451 no\r\n503 no\r\n503 no\r\n"], "mail", 451, b"", True),
        ([b"550 no\r\n", b"503 no\r\n", b"503 no\r\n"], "mail", 550, b"", True),
        ([b"250 ok\r\n550 no\r\n503 no\r\n", b"250 ok\r\n"], "rcpt", 550, b"RSET\r\n", True),
        ([b"250 ok\r\n450 no\r\n554 no\r\n", b"502 no\r\n"], "rcpt", 450, b"RSET\r\n", False),
        ([b"250 ok\r\n550 no\r\n354 go\r\n", b"554 none\r\n"], "rcpt", 550, b".\r\n", True),
        ([b"250 ok\r\n550 no\r\n354 go\r\n", b"250 well\r\n"], "rcpt", 550, b".\r\n", True),
        ([b"250 ok\r\n550 no\r\n354 go\r\n", b"421 bye\r\n"], "rcpt", 550, b".\r\n", False),
        ([b"250 ok\r\n550 no\r\n354 go\r\n", b"garbage\r\n"], "rcpt", 550, b".\r\n", False),
        ([b"250 ok\r\n250 ok\r\n451 no\r\n", b"250 ok\r\n"], "data", 451, b"RSET\r\n", True),
        ([b"550 no\r\n550 no\r\n354 go\r\n", b"554 none\r\n"], "mail", 550, b".\r\n", True),
        ([b"550 no\r\n250 ok\r\n354 go\r\n"], "mail", 550, b"", False),  # a dot might send an empty email
        ([b"550 no\r\n250 ok\r\n503 no\r\n", b"250 ok\r\n"], "mail", 550, b"RSET\r\n", True),
        ([b"421 bye\r\n"], "mail", 421, b"", False),
        ([b"421 bye\r\n421 bye\r\n421 bye\r\n"], "mail", 421, b"", False),
        ([b"421 bye\r\ngarbage\r\n"], "mail", 421, b"", False),
        ([b"250 ok\r\n421 bye\r\n"], "rcpt", 421, b"", False),
        ([b"250 ok\r\n250 ok\r\n421 bye\r\n"], "data", 421, b"", False),
        ([b"250 ok\r\n550 no\r\n421 bye\r\n"], "rcpt", 550, b"", False),
        ([b"250 ok\r\n550 no\r\ngarbage\r\n"], "rcpt", 550, b"", False),
        ([b"250 ok\r\n550 no\r\n250 data?\r\n"], "rcpt", 550, b"", False),
        ([b"354 go\r\n"], "mail", None, b"", False),
        ([b"250 ok\r\n250 ok\r\n250 ok\r\n"], "data", None, b"", False),
        ([b"250 ok\r\n250 ok\r\n354 go\r\n", b"550 too much\r\n"], "data", 550, b"", False),
        ([b"250 ok\r\n250 ok\r\n354 go\r\n", b"550 too much\r\n421 bye\r\n"], "data", 550, b"", False),
        ([b"250 ok\r\n250 ok\r\n354 go\r\n550 too much\r\n"], "data", 550, b"", False),
        ([b"250 ok\r\n250 ok\r\n354 go\r\n", b"250 sent?\r\n"], "data", None, b"", False),  # nothing was sent yet
        ([b"250 ok\r\n250 ok\r\n2500\r\n"], "data", None, b"", False),
        ([b"250 ok\r\n250-ok\r\n251 ok\r\n"], "rcpt", None, b"", False),
    ],
)
def test_refusal_in_the_envelope(
    pieces: list[bytes], phase: str, code: int | None, written: bytes, is_usable: bool
) -> None:
    protocol = ready()
    protocol.start_email(EMAIL)
    events = [event for piece in pieces for event in receive(protocol, piece)]
    results = [event for event in events if isinstance(event, SendResult)]
    assert [(result.phase, result.reply and result.reply.code) for result in results] == [(phase, code)]
    assert not results[0].dot_written
    assert b"".join(event.data for event in events if isinstance(event, Write)) == written
    assert protocol.is_usable is is_usable


@pytest.mark.parametrize(
    ("data", "code", "is_usable"),
    [
        (b"250 ok\r\n", 250, True),
        (b"252 ok\r\n", 252, True),
        (b"452 full\r\n", 452, True),
        (b"554 no\r\n", 554, True),
        (b"421 bye\r\n", 421, False),
        (b"354 more?\r\n", None, False),
        (b"2500\r\n", None, False),
        (b"250-ok\r\n550 no\r\n", None, False),
        (b"250 ok\r\n250 ok\r\n", 250, False),
        (b"250 ok\r\n2", 250, False),
    ],
)
def test_reply_to_the_final_dot(data: bytes, code: int | None, is_usable: bool) -> None:
    protocol = ready()
    protocol.start_email(EMAIL)
    receive(protocol, b"250 a\r\n250 b\r\n354 c\r\n")
    protocol.end_email()
    result = receive(protocol, data)[0]
    assert isinstance(result, SendResult)
    assert (result.phase, result.dot_written) == (Phase.DOT, True)
    assert (result.reply.code if result.reply else None) == code
    assert protocol.is_usable is is_usable


NEXT_EMAIL = EMAIL._replace(recipient="eve@example.net")
NEXT_ENVELOPE = ENVELOPE.replace(b"bob", b"eve")


def with_next_started() -> SmtpProtocol:
    """Return a protocol that has written an email's dot and the next email's envelope."""
    protocol = ready()
    protocol.start_email(EMAIL)
    receive(protocol, b"250 a\r\n250 b\r\n354 c\r\n")
    assert protocol.end_email(NEXT_EMAIL) == b".\r\n" + NEXT_ENVELOPE
    return protocol


@pytest.mark.parametrize("size", [1, 20, 1000])
def test_next_envelope_is_written_behind_the_dot(size: int) -> None:
    protocol = with_next_started()
    replies = b"250 2.0.0 queued\r\n250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go\r\n"
    events = [event for start in range(0, len(replies), size) for event in receive(protocol, replies[start:][:size])]
    sent = SendResult(Phase.DOT, Reply(250, "2.0.0", "250 2.0.0 queued"), dot_written=True)
    assert events == [sent, StartBody()]
    assert protocol.end_email() == b".\r\n"
    assert receive(protocol, b"250 2.0.0 queued\r\n") == [sent]
    assert protocol.is_usable


@pytest.mark.parametrize(
    ("replies", "code", "written", "is_usable"),
    [
        (b"250 ok\r\n550 no\r\n503 no\r\n", 550, b"RSET\r\n", True),
        (b"250 ok\r\n550 no\r\n354 go\r\n", 550, b".\r\n", True),
        (b"451 no\r\n503 no\r\n503 no\r\n", 451, b"", True),
        (b"421 bye\r\n503 no\r\n503-no\r\n503 no\r\n503 no\r\n", 421, b"", False),  # Exim at its limit
        (b"250 ok\r\n250 ok\r\n250 ok\r\n", None, b"", False),
    ],
)
@pytest.mark.parametrize("dot_reply", [b"250 queued\r\n", b"550 spam\r\n"])
def test_refusal_of_the_next_email_is_its_own(
    dot_reply: bytes, replies: bytes, code: int | None, written: bytes, is_usable: bool
) -> None:
    protocol = with_next_started()
    first, *events = receive(protocol, dot_reply + replies)
    assert isinstance(first, SendResult)
    assert first.reply
    assert (first.phase, first.reply.code, first.dot_written) == (Phase.DOT, int(dot_reply[:3]), True)
    events += receive(protocol, b"250 ok\r\n" if written else b"")
    results = [event for event in events if isinstance(event, SendResult)]
    assert [(result.reply and result.reply.code, result.dot_written) for result in results] == [(code, False)]
    assert b"".join(event.data for event in events if isinstance(event, Write)) == written
    assert protocol.is_usable is is_usable


@pytest.mark.parametrize("dot_reply", [b"421 bye\r\n", b"354 more?\r\n", b"garbage\r\n"])
def test_connection_that_ends_at_the_dot_has_no_next_email(dot_reply: bytes) -> None:
    protocol = with_next_started()
    (result,) = receive(protocol, dot_reply + b"250 ok\r\n250 ok\r\n354 go\r\n")
    assert isinstance(result, SendResult)
    assert result.dot_written
    assert not protocol.is_usable


four_replies = st.lists(
    st.sampled_from([b"250 ok\r\n", b"250 2.0.0 ok\n", b"354 go\r\n", b"250-a\r\n250 b\r\n", b"550 no\r\n", b"25\r\n"]),
    min_size=3,
    max_size=5,
)
usual_replies = st.sampled_from([[b"250 2.0.0 queued\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"]])


@given(four_replies | usual_replies, st.integers(0, 40))
def test_usual_replies_are_taken_as_one_by_one(replies: list[bytes], cut: int) -> None:
    data = b"".join(replies)
    first, rest = data[: len(data) - cut], data[len(data) - cut :]
    quick, careful = with_next_started(), with_next_started()
    result = quick.receive_usual(first)
    expected = receive(careful, first)
    if result is None:  # then nothing has changed
        assert receive(quick, first) == expected
    else:
        assert [result, StartBody()] == expected
    assert receive(quick, rest) == receive(careful, rest)
    assert (quick.is_usable, quick.is_idle) == (careful.is_usable, careful.is_idle)


def test_usual_replies_are_taken_at_once() -> None:
    protocol = with_next_started()
    assert protocol.receive_usual(b"250 2.0.0 queued\r\n250 ok\r\n250 ok\r\n354 go\r\n") is not None
    assert protocol.end_email() == b".\r\n"


@given(st.lists(st.binary(max_size=100) | valid_replies, max_size=20))
def test_random_input_never_counts_as_sent_for_the_next_email(pieces: list[bytes]) -> None:
    protocol = with_next_started()
    results = [event for piece in pieces for event in receive(protocol, piece) if isinstance(event, SendResult)]
    assert all(result.dot_written for result in results[:1])
    assert not any(result.dot_written or (result.reply and result.reply.code < 300) for result in results[1:])


def test_only_an_email_that_the_server_takes_can_follow() -> None:
    assert ready().can_follow(EMAIL)
    assert not ready().can_follow(EMAIL._replace(data=b"x" * 1_000_001))
    assert not ready(b"250 relay\r\n").can_follow(EMAIL)


def test_no_dot_is_written_while_input_is_unread() -> None:
    protocol = ready()
    protocol.start_email(EMAIL)
    receive(protocol, b"250 a\r\n250 b\r\n354 c\r\n")
    assert receive(protocol, b"55") == []  # the beginning of an early refusal
    assert not protocol.is_idle
    with pytest.raises(ProtocolError):
        protocol.end_email()
    assert protocol.fail("closed") == SendResult(Phase.DATA, None, "closed")


@pytest.mark.parametrize("data", [b"250 unasked\r\n", b"2"])
def test_unexpected_bytes_between_emails_end_the_connection(data: bytes) -> None:
    protocol = ready()
    with pytest.raises(ProtocolError):
        list(protocol.receive(data))
    assert not protocol.is_usable
    with pytest.raises(ProtocolError):
        protocol.start_email(EMAIL)


UTF8 = b"250-relay\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n"
EIGHT_BIT_EMAIL = EMAIL._replace(data="й\r\n".encode())


@pytest.mark.parametrize(
    ("offers", "email", "line"),
    [
        (b"250 relay\r\n", EMAIL, b"MAIL FROM:<ada@example.org>\r\n"),
        (b"250-r\r\n250 SIZE\r\n", EMAIL, b"MAIL FROM:<ada@example.org> SIZE=22\r\n"),
        (b"250-r\r\n250 SIZE 22\r\n", EMAIL, b"MAIL FROM:<ada@example.org> SIZE=22\r\n"),
        (b"250-r\r\n250 size 0\r\n", EMAIL, b"MAIL FROM:<ada@example.org> SIZE=22\r\n"),
        ("250-r\r\n250 SIZE ²\r\n".encode(), EMAIL, b"MAIL FROM:<ada@example.org> SIZE=22\r\n"),
        (b"250-r\r\n250 8BITMIME\r\n", EMAIL, b"MAIL FROM:<ada@example.org>\r\n"),
        (b"250-r\r\n250 8BITMIME\r\n", EIGHT_BIT_EMAIL, b"MAIL FROM:<ada@example.org> BODY=8BITMIME\r\n"),
        (b"250 relay\r\n", EMAIL._replace(sender=""), b"MAIL FROM:<>\r\n"),
        (b"250 relay\r\n", EMAIL._replace(sender="a@bücher.example"), b"MAIL FROM:<a@xn--bcher-kva.example>\r\n"),
        (UTF8, EMAIL._replace(sender="a@bücher.example"), b"MAIL FROM:<a@xn--bcher-kva.example>\r\n"),
        (UTF8, EMAIL._replace(recipient="ü@example.org"), b"MAIL FROM:<ada@example.org> SMTPUTF8\r\n"),
    ],
)
def test_only_offered_extensions_are_used(offers: bytes, email: OutgoingEmail, line: bytes) -> None:
    written = ready(offers).start_email(email)
    assert isinstance(written, Write)
    assert written.data.partition(b"\n")[0] + b"\n" == line


@pytest.mark.parametrize(
    ("recipient", "path"),
    [
        ("a..b@docomo.ne.jp", b'"a..b"@docomo.ne.jp'),
        ("a.@docomo.ne.jp", b'"a."@docomo.ne.jp'),
        ('"a..b"@docomo.ne.jp', b'"a..b"@docomo.ne.jp'),
        ("a..b@bücher.example", b'"a..b"@xn--bcher-kva.example'),
        ("a.b@docomo.ne.jp", b"a.b@docomo.ne.jp"),
    ],
)
def test_unusual_local_part_is_a_quoted_string(recipient: str, path: bytes) -> None:
    written = ready().start_email(EMAIL._replace(recipient=recipient))
    assert isinstance(written, Write)
    assert written.data.splitlines()[1] == b"RCPT TO:<" + path + b">"


@pytest.mark.parametrize(
    ("offers", "email", "phase", "reply"),
    [
        (b"250-r\r\n250 SIZE 21\r\n", EMAIL, "data", "552 5.3.4 "),
        (b"250 relay\r\n", EIGHT_BIT_EMAIL, "data", "554 5.6.3 "),
        (b"250 relay\r\n", EMAIL._replace(recipient="ü@example.org"), "rcpt", "553 5.6.7 "),
        (b"250 relay\r\n", EMAIL._replace(sender="ü@example.org"), "mail", "553 5.6.7 "),
        (UTF8, EMAIL._replace(recipient="a@b>\r\nDATA"), "rcpt", "553 5.1.3 "),
        (UTF8, EMAIL._replace(recipient="a b@c"), "rcpt", "553 5.1.3 "),
        (UTF8, EMAIL._replace(recipient="a@b\x85c"), "rcpt", "553 5.1.3 "),
        (UTF8, EMAIL._replace(recipient="a@b\ud800"), "rcpt", "553 5.1.3 "),
        (UTF8, EMAIL._replace(recipient=""), "rcpt", "553 5.1.3 "),
        (UTF8, EMAIL._replace(recipient="a@\u2028.example"), "rcpt", "553 5.1.3 "),
        (UTF8, EMAIL._replace(sender="a@b\n"), "mail", "553 5.1.7 "),
    ],
)
def test_impossible_email_is_refused_without_asking_the_server(
    offers: bytes, email: OutgoingEmail, phase: str, reply: str
) -> None:
    protocol = ready(offers)
    result = protocol.start_email(email)
    assert isinstance(result, SendResult)
    assert result.reply
    assert (result.phase, result.dot_written) == (phase, False)
    assert result.reply.text.startswith(reply)
    assert "refused by Skychimp" in result.reply.text
    assert isinstance(protocol.start_email(EMAIL._replace(data=b"")), Write)  # the connection can still be used


@pytest.mark.parametrize(
    ("line", "mail_limit"),
    [
        (b"LIMITS MAILMAX=20 RCPTMAX=100 RCPTDOMAINMAX=1", 20),
        (b"limits rcptmax=7 mailmax=5", 5),
        (b"LIMITS RCPTMAX=100", None),
        (b"LIMITS MAILMAX=0", None),
        (b"LIMITS MAILMAX", None),
        (b"LIMITS MAILMAX=-3", None),
        (b"LIMITS MAILMAX=many X=Y=Z =", None),
        ("LIMITS MAILMAX=²".encode(), None),
        (b"LIMITS", None),
        (b"SIZE 1000", None),
    ],
)
def test_mail_limit_is_read_from_the_offers(line: bytes, mail_limit: int | None) -> None:
    assert ready(b"250-relay\r\n250-" + line + b"\r\n250 PIPELINING\r\n").mail_limit == mail_limit


@given(st.lists(st.sampled_from([b".", b"..", b"a", b"", b".a"]), max_size=8), st.booleans())
def test_dot_stuffing_is_undone_by_the_receiver(lines: list[bytes], ends: bool) -> None:
    data = b"\r\n".join(lines) + (b"\r\n" if ends else b"")
    wire = dot_stuff(data) + b".\r\n"
    received, end, rest = (b"\r\n" + wire).partition(b"\r\n.\r\n")
    assert (end, rest) == (b"\r\n.\r\n", b"")
    unstuffed = [line.removeprefix(b".") for line in received.split(b"\r\n")[1:]]
    assert b"\r\n".join([*unstuffed, b""]) == (data if data.endswith(b"\r\n") else data + b"\r\n")


@pytest.mark.parametrize(
    ("offers", "recipient", "expected"),
    [
        (b"", "bob@b.org", (b"MAIL FROM:<a@a.org>", b"RCPT TO:<bob@b.org>")),
        (b"250-DSN\r\n", "bob@b.org",
         (b"MAIL FROM:<a@a.org> RET=HDRS ENVID=1abc", b"RCPT TO:<bob@b.org> NOTIFY=FAILURE ORCPT=rfc822;bob@b.org")),
        (b"250-DSN\r\n", "b+c=d@b.org",
         (b"MAIL FROM:<a@a.org> RET=HDRS ENVID=1abc",
          b"RCPT TO:<b+c=d@b.org> NOTIFY=FAILURE ORCPT=rfc822;b+2Bc+3Dd@b.org")),
    ],
)  # fmt: skip
def test_bounce_is_asked_for_if_the_server_supports_it(
    offers: bytes, recipient: str, expected: tuple[bytes, bytes]
) -> None:
    protocol = ready(b"250-x\r\n" + offers + b"250 PIPELINING\r\n")
    write = protocol.start_email(OutgoingEmail("a@a.org", recipient, b"x\r\n", envelope_id="1abc"))
    assert isinstance(write, Write)
    assert write.data.split(b"\r\n")[:2] == list(expected)

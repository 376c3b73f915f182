"""The state machine alone: what it makes of every kind of reply, however fragmented, and what it says itself."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skychimp.transport.interfaces import OutgoingEmail, Phase, Reply, SendResult
from skychimp.transport.smtp_protocol import (
    LARGEST_REPLY,
    LONGEST_LINE,
    MOST_LINES,
    Event,
    GoAhead,
    ProtocolError,
    ReplyParser,
    SmtpProtocol,
    Write,
    login,
    stuffed,
)

LETTER = OutgoingEmail("ada@example.org", "bob@example.net", b"Subject: hi\r\n\r\nhello\r\n")
OFFERS = b"250-relay\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 1000000\r\n"


def read(*pieces: bytes) -> tuple[list[Reply], str]:
    """The replies in these bytes, and "" or the protocol error that ended them."""
    parser, replies = ReplyParser(), []
    try:
        for piece in pieces:
            for reply in parser.feed(piece):
                replies.append(reply)  # noqa: PERF402 - a list keeps what came before the error
    except ProtocolError as error:
        return replies, str(error)
    return replies, ""


def ready(offers: bytes = OFFERS) -> SmtpProtocol:
    """A session after its greeting and EHLO."""
    session = SmtpProtocol()
    assert len(list(session.receive(b"220 relay\r\n"))) == 1
    session.command(b"EHLO [127.0.0.1]")
    (reply,) = session.receive(offers)
    assert isinstance(reply, Reply)
    session.learn(reply)
    return session


def hear(session: SmtpProtocol, data: bytes) -> list[Event]:
    """The events of these bytes; a protocol error becomes the answer that it is for a letter."""
    events: list[Event] = []
    try:
        for event in session.receive(data):
            events.append(event)  # noqa: PERF402 - as above
    except ProtocolError as error:
        events.append(session.fault(str(error)))
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
def test_reads_a_reply(data: bytes, expected: Reply) -> None:
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
        b"2" * (LONGEST_LINE + 2),
        b"250 " + b"x" * LONGEST_LINE + b"\r\n",
        b"250-x\r\n" * (MOST_LINES + 1),
        (b"250-" + b"x" * 4000 + b"\r\n") * (LARGEST_REPLY // 4000 + 1),
    ],
    ids=lambda data: ascii(data[:20]),
)
def test_refuses_what_is_no_reply(data: bytes) -> None:
    replies, error = read(data)
    assert replies == []
    assert error


def test_the_cap_is_for_one_reply() -> None:
    reply = b"250-" + b"x" * 4000 + b"\r\n250 ok\r\n"
    replies, error = read(reply * (LARGEST_REPLY // 4000 + 1))
    assert (len(replies), error) == (LARGEST_REPLY // 4000 + 1, "")


def test_a_reply_before_garbage_still_counts() -> None:
    assert read(b"250 sent\r\nwhat?\r\n") == ([Reply(250, "", "250 sent")], "not a reply: b'what?\\r'")


valid_replies = st.builds(
    lambda code, words, end: b"".join(
        b"%d%b%b%b" % (code, b" " if last else b"-", word, end)
        for word, last in zip(words, [False] * (len(words) - 1) + [True], strict=True)
    ),
    st.sampled_from([220, 250, 354, 421, 550]),
    st.lists(st.binary(max_size=12).map(lambda word: re.sub(rb"[\r\n]", b"", word)), min_size=1, max_size=4),
    st.sampled_from([b"\r\n", b"\n"]),
)


@given(
    st.lists(
        valid_replies | st.binary(max_size=12) | st.sampled_from([b"2500\r\n", b"250-a\r\n251 b\r\n"]), max_size=5
    ),
    st.lists(st.integers(0, 80), max_size=10),
)
def test_fragments_change_nothing(stream: list[bytes], cuts: list[int]) -> None:
    data = b"".join(stream)
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [data[start:end] for start, end in pairwise(edges)]
    assert read(*pieces) == read(data) == read(*(data[i : i + 1] for i in range(len(data))))


@given(st.lists(st.binary(max_size=200) | valid_replies, max_size=20), st.sampled_from(["greeting", "letter", "dot"]))
def test_garbage_is_only_ever_a_protocol_error(pieces: list[bytes], moment: str) -> None:
    session = SmtpProtocol() if moment == "greeting" else ready()
    if moment != "greeting":
        session.begin(LETTER)
    if moment == "dot":
        assert list(session.receive(b"250 a\r\n250 b\r\n354 c\r\n")) == [GoAhead()]
        session.dot()
    answers = []
    for piece in pieces:
        answers += [event for event in hear(session, piece) if isinstance(event, SendResult)]
        if answers:
            break
    sent = [answer for answer in answers if answer.reply and 200 <= answer.reply.code < 300]
    assert not sent or moment == "dot"
    assert all(answer.dot_written == (moment == "dot") for answer in answers)


def test_an_unending_stream_does_not_grow() -> None:
    session = SmtpProtocol()
    endless = (event for _ in range(LONGEST_LINE) for event in session.receive(b"220-x"))
    with pytest.raises(ProtocolError):
        list(endless)
    assert list(session.receive(b"220 now by the book\r\n")) == []  # what was misread once is not read again
    assert not session.usable


ENVELOPE = b"MAIL FROM:<ada@example.org> SIZE=22\r\nRCPT TO:<bob@example.net>\r\nDATA\r\n"


def test_a_letter_goes_out_in_one_group() -> None:
    session = ready()
    assert session.begin(LETTER) == Write(ENVELOPE)
    assert hear(session, b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go\r\n") == [GoAhead()]
    assert session.dot() == b".\r\n"
    reply = Reply(250, "2.0.0", "250 2.0.0 queued")
    assert hear(session, b"250 2.0.0 queued\r\n") == [SendResult(Phase.DOT, reply, dot_written=True)]
    assert session.usable
    assert session.begin(LETTER) == Write(ENVELOPE)


def test_without_pipelining_each_command_waits() -> None:
    session = ready(b"250 relay\r\n")
    said = [session.begin(LETTER)]
    for reply in (b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"):
        said += hear(session, reply)  # type: ignore[arg-type]
    assert said == [
        Write(b"MAIL FROM:<ada@example.org>\r\n"),
        Write(b"RCPT TO:<bob@example.net>\r\n"),
        Write(b"DATA\r\n"),
        GoAhead(),
    ]


@pytest.mark.parametrize(
    ("pieces", "phase", "code", "said", "usable"),
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
        ([b"550 no\r\n250 ok\r\n354 go\r\n"], "mail", 550, b"", False),  # a dot could send an empty letter
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
def test_refusals_in_the_group(pieces: list[bytes], phase: str, code: int | None, said: bytes, usable: bool) -> None:
    session = ready()
    session.begin(LETTER)
    events = [event for piece in pieces for event in hear(session, piece)]
    answers = [event for event in events if isinstance(event, SendResult)]
    assert [(answer.phase, answer.reply and answer.reply.code) for answer in answers] == [(phase, code)]
    assert not answers[0].dot_written
    assert b"".join(event.data for event in events if isinstance(event, Write)) == said
    assert session.usable is usable


@pytest.mark.parametrize(
    ("data", "code", "usable"),
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
def test_replies_to_the_dot(data: bytes, code: int | None, usable: bool) -> None:
    session = ready()
    session.begin(LETTER)
    hear(session, b"250 a\r\n250 b\r\n354 c\r\n")
    session.dot()
    answer = hear(session, data)[0]
    assert isinstance(answer, SendResult)
    assert (answer.phase, answer.dot_written) == (Phase.DOT, True)
    assert (answer.reply.code if answer.reply else None) == code
    assert session.usable is usable


def test_nothing_is_said_while_something_is_unread() -> None:
    session = ready()
    session.begin(LETTER)
    hear(session, b"250 a\r\n250 b\r\n354 c\r\n")
    assert hear(session, b"55") == []  # the beginning of a premature refusal
    assert not session.is_silent
    with pytest.raises(ProtocolError):
        session.dot()
    assert session.fault("closed") == SendResult(Phase.DATA, None, "closed")


@pytest.mark.parametrize("data", [b"250 unasked\r\n", b"2"])
def test_unasked_bytes_between_letters_end_the_conversation(data: bytes) -> None:
    session = ready()
    with pytest.raises(ProtocolError):
        list(session.receive(data))
    assert not session.usable
    with pytest.raises(ProtocolError):
        session.begin(LETTER)


UTF8 = b"250-relay\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n"
EIGHT_BIT = LETTER._replace(data="й\r\n".encode())


@pytest.mark.parametrize(
    ("offers", "letter", "line"),
    [
        (b"250 relay\r\n", LETTER, b"MAIL FROM:<ada@example.org>\r\n"),
        (b"250-r\r\n250 SIZE\r\n", LETTER, b"MAIL FROM:<ada@example.org> SIZE=22\r\n"),
        (b"250-r\r\n250 SIZE 22\r\n", LETTER, b"MAIL FROM:<ada@example.org> SIZE=22\r\n"),
        (b"250-r\r\n250 size 0\r\n", LETTER, b"MAIL FROM:<ada@example.org> SIZE=22\r\n"),
        ("250-r\r\n250 SIZE ²\r\n".encode(), LETTER, b"MAIL FROM:<ada@example.org> SIZE=22\r\n"),
        (b"250-r\r\n250 8BITMIME\r\n", LETTER, b"MAIL FROM:<ada@example.org>\r\n"),
        (b"250-r\r\n250 8BITMIME\r\n", EIGHT_BIT, b"MAIL FROM:<ada@example.org> BODY=8BITMIME\r\n"),
        (b"250 relay\r\n", LETTER._replace(sender=""), b"MAIL FROM:<>\r\n"),
        (b"250 relay\r\n", LETTER._replace(sender="a@bücher.example"), b"MAIL FROM:<a@xn--bcher-kva.example>\r\n"),
        (UTF8, LETTER._replace(sender="a@bücher.example"), b"MAIL FROM:<a@xn--bcher-kva.example>\r\n"),
        (UTF8, LETTER._replace(recipient="ü@example.org"), b"MAIL FROM:<ada@example.org> SMTPUTF8\r\n"),
    ],
)
def test_only_what_is_offered_is_used(offers: bytes, letter: OutgoingEmail, line: bytes) -> None:
    written = ready(offers).begin(letter)
    assert isinstance(written, Write)
    assert written.data.partition(b"\n")[0] + b"\n" == line


@pytest.mark.parametrize(
    ("offers", "letter", "phase", "words"),
    [
        (b"250-r\r\n250 SIZE 21\r\n", LETTER, "data", "552 5.3.4 "),
        (b"250 relay\r\n", EIGHT_BIT, "data", "554 5.6.3 "),
        (b"250 relay\r\n", LETTER._replace(recipient="ü@example.org"), "rcpt", "553 5.6.7 "),
        (b"250 relay\r\n", LETTER._replace(sender="ü@example.org"), "mail", "553 5.6.7 "),
        (UTF8, LETTER._replace(recipient="a@b>\r\nDATA"), "rcpt", "553 5.1.3 "),
        (UTF8, LETTER._replace(recipient="a b@c"), "rcpt", "553 5.1.3 "),
        (UTF8, LETTER._replace(recipient="a@b\x85c"), "rcpt", "553 5.1.3 "),
        (UTF8, LETTER._replace(recipient="a@b\ud800"), "rcpt", "553 5.1.3 "),
        (UTF8, LETTER._replace(recipient=""), "rcpt", "553 5.1.3 "),
        (UTF8, LETTER._replace(recipient="a@\u2028.example"), "rcpt", "553 5.1.3 "),
        (UTF8, LETTER._replace(sender="a@b\n"), "mail", "553 5.1.7 "),
    ],
)
def test_what_cannot_go_is_refused_unasked(offers: bytes, letter: OutgoingEmail, phase: str, words: str) -> None:
    session = ready(offers)
    answer = session.begin(letter)
    assert isinstance(answer, SendResult)
    assert answer.reply
    assert (answer.phase, answer.dot_written) == (phase, False)
    assert answer.reply.text.startswith(words)
    assert "our own word" in answer.reply.text
    assert isinstance(session.begin(LETTER._replace(data=b"")), Write)  # the conversation is as it was


@given(st.lists(st.sampled_from([b".", b"..", b"a", b"", b".a"]), max_size=8), st.booleans())
def test_stuffing_is_undone_by_a_receiver(lines: list[bytes], ends: bool) -> None:
    data = b"\r\n".join(lines) + (b"\r\n" if ends else b"")
    wire = stuffed(data) + b".\r\n"
    received, end, rest = (b"\r\n" + wire).partition(b"\r\n.\r\n")
    assert (end, rest) == (b"\r\n.\r\n", b"")
    unstuffed = [line.removeprefix(b".") for line in received.split(b"\r\n")[1:]]
    assert b"\r\n".join([*unstuffed, b""]) == (data if data.endswith(b"\r\n") else data + b"\r\n")


@pytest.mark.parametrize(
    ("offered", "lines"),
    [
        ("LOGIN PLAIN", [b"AUTH PLAIN AGFkYQBzZXNhbQ=="]),
        ("login", [b"AUTH LOGIN", b"YWRh", b"c2VzYW0="]),
        ("CRAM-MD5 XOAUTH2", []),
        ("", []),
    ],
)
def test_login(offered: str, lines: list[bytes]) -> None:
    assert login(offered, "ada", "sesam") == lines

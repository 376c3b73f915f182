"""Feed every reader of outside text with changed and random input: each ends in a value or one clear error.

No input takes more than a second of processor time or 100 MB. `pytest -n 0 -m soak tests/attacks/test_fuzz.py` tries
10,000 inputs for each reader.
"""

import io
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.command import Home
from support.hostile import ADDRESSES, NAMES, SHELL_CODE

from skychimp import addresses, durations, markdown, text, timezones
from skychimp.config import sources
from skychimp.config.example import example_config
from skychimp.delivery.composing import compose, conversions, digest, mime
from skychimp.delivery.composing.compose import Composer, MessageContent, Recipient
from skychimp.delivery.scheduling import time_input
from skychimp.delivery.sending import replies, retry_policy
from skychimp.delivery.sending.refusals import faults
from skychimp.delivery.sending.retry_policy import RetryPolicy
from skychimp.errors import SkychimpError
from skychimp.models import Format, Outcome
from skychimp.permissions import Actor
from skychimp.services.blog import images
from skychimp.services.clients import importing
from skychimp.services.clients.clients import validate_client
from skychimp.services.clients.files import csv_files, jsonl_files, text_files
from skychimp.services.messages import front_matter, merge_tags
from skychimp.services.reporting import reports
from skychimp.store.database import Store
from skychimp.transport import smtp_auth
from skychimp.transport.interfaces import OutgoingEmail, Phase, SendResult
from skychimp.transport.smtp_protocol import ProtocolError, ReplyParser, SmtpProtocol

MAX_SECONDS, MAX_BYTES = 10.0, 100_000_000
"""More than any input needs on a slow machine. Work that grows with the square of the input takes much longer."""
LARGE = 1_000
"""Bytes of an input whose memory is measured too. Measuring it takes as long as reading it a few times."""

LENGTHS = (0, 0, 100, 3_000, 60_000)
"""How long a repeated piece becomes. A reader that is not linear is too slow at the last one."""

NOW = datetime(2026, 12, 1, 9, tzinfo=UTC)
CLIENT = Recipient("ada@example.org", "Ada", "a\ncomment", ("vip", "b"))
POLICY = RetryPolicy((timedelta(minutes=6),), timedelta(days=3), timedelta(minutes=15), 100, 0.5)


@dataclass(frozen=True)
class Reader:
    """A reader of outside text: valid input, pieces that matter to it, and the errors that it may raise."""

    read: Callable[[bytes, Path], object]
    seeds: tuple[str, ...]
    pieces: tuple[str, ...] = ()
    errors: tuple[type[Exception], ...] = (SkychimpError,)
    examples: int = 50
    """How many inputs are tried when the test is not soaking. A slow test tries four times as many."""


# The readers


def read_config(data: bytes, folder: Path) -> None:
    file = folder / "skychimp.toml"
    _write(file, data)
    sources.load_settings(config_file=file, environ={})


def read_store_url(data: bytes, folder: Path) -> None:
    file = folder / "skychimp.toml"
    _write(file, data)
    sources.load_store_place({}, config_file=file, environ={})


def read_env_file(data: bytes, folder: Path) -> None:
    _write(folder / "skychimp.toml", b"")
    _write(folder / ".env", data)
    try:
        sources.load_settings(config_file=folder / "skychimp.toml", environ={})
    finally:
        (folder / ".env").unlink()


def read_environment(data: bytes, folder: Path) -> None:
    _write(folder / "skychimp.toml", b"")
    lines = (line.partition("=") for line in data.decode("utf-8", "surrogateescape").split("\n"))
    environ = {name: value for name, _, value in lines}
    sources.load_settings(config_file=folder / "skychimp.toml", environ=environ)


def read_csv(data: bytes, _folder: Path) -> None:
    with _opened(data, None) as opened:
        _check_rows(csv_files.read(opened).rows)


def read_json_lines(data: bytes, _folder: Path) -> None:
    with _opened(data) as opened:
        _check_rows(jsonl_files.read(opened).rows)


def read_reply(data: bytes, _folder: Path) -> None:
    for reply in ReplyParser().feed(data):
        for address in ("ada@example.org", "a.b+c@sub.example.org"):
            replies.pattern(reply.text, address)
        replies.queue_id(reply.text)
        SmtpProtocol(greeted=True).read_capabilities(reply)
        for judge in (smtp_auth.is_unsupported, smtp_auth.wants_oauth, smtp_auth.wants_tls, smtp_auth.oauth_error):
            judge(reply)
        for outcome in Outcome:
            faults.explain(outcome, "rcpt", reply.code, reply.enhanced, reply.text)
        for phase in Phase:
            result = SendResult(phase, reply, dot_written=phase == Phase.DOT)
            retry_policy.decide(result, attempts=1, given_back=0, policy=POLICY, now=NOW, chance=0.5)


def converse(data: bytes, _folder: Path) -> None:
    """Receive the replies to a whole email in pieces."""
    protocol = SmtpProtocol(greeted=True)
    protocol.start_email(OutgoingEmail("ada@example.org", "bob@example.org", b"x\r\n"))
    for start in range(0, len(data), max(1, len(data) // 7)):
        list(protocol.receive(data[start : start + max(1, len(data) // 7)]))


def read_template(data: bytes, _folder: Path) -> None:
    source = _text(data)
    subject = " ".join(source.split())[:200] or "x"
    contents = (
        MessageContent(subject, source, Format.TEXT),
        MessageContent("x", source, Format.MARKDOWN),
        MessageContent("x", "x", Format.TEXT, source),
    )
    content = contents[len(source) % len(contents)]  # one at a time, as the limits are those of one message
    compose.check_content(content)
    composer = Composer(content, sender="a@example.org", date=NOW, mailing_id=1, due_at=NOW)
    composer.compose(CLIENT, "<x@example.org>")
    composer.render(CLIENT)


def read_markdown(data: bytes, _folder: Path) -> None:
    source = _text(data)
    markdown.excerpt(source)
    markdown.require_little_markup(source, "body")
    _ignore_errors(lambda: conversions.html_from_markdown(source))
    markdown.to_html(source)
    digest.summarize_post("title", source, "slug", "https://blog.example.org")


def read_html(data: bytes, _folder: Path) -> None:
    source = _text(data)
    _ignore_errors(lambda: front_matter.split_front_matter(source))
    merge_tags.foreign_merge_tags(source)
    content = MessageContent("x", "x", Format.HTML, source)
    Composer(content, sender="a@example.org", date=NOW, mailing_id=1, due_at=NOW)
    conversions.text_from_html(source)


def read_when(data: bytes, _folder: Path) -> None:
    source = _text(data)
    for read in (time_input.parse_when, time_input.parse_past, time_input.parse_local):
        for zone in ("UTC", "Europe/Berlin", "Pacific/Apia"):
            _ignore_errors(partial(read, source, zone, NOW))
    _ignore_errors(lambda: durations.parse_duration(source))
    _ignore_errors(lambda: reports.parse_range(source, date(2026, 12, 1)))
    timezones.is_time_zone(source)


def read_address(data: bytes, _folder: Path) -> None:
    source = _text(data)
    for sender in (False, True):
        try:
            name, address = addresses.parse_sender(source) if sender else ("", addresses.parse(source).email)
        except SkychimpError:
            continue
        assert addresses.parse(address).email == address
        mime.mailbox(name, address)
        protocol = SmtpProtocol(greeted=True)
        protocol.start_email(OutgoingEmail(address, address, b""))
    mime.header_value(mime.one_line(source.encode("utf-8", "replace").decode()))


def read_text_values(data: bytes, _folder: Path) -> None:
    source = _text(data)
    _ignore_errors(lambda: text.one_line(source, "name", 200))
    _ignore_errors(lambda: text.some_lines(source, "comment", 10_000))
    _ignore_errors(lambda: text.checked_tags(source.split(",")))
    _ignore_errors(lambda: validate_client(source[:64] + "@example.org", source, source, source.split(",")))


def read_image(data: bytes, _folder: Path) -> None:
    images.reencode(data)


CLIENTS_CSV = 'email,name,comment,tags\r\nada@example.org,Ada,"a\nb","vip,b"\r\nb@example.org,,,\r\n'
LISTMONK_CSV = 'uuid,email,name,attributes,status\n1,a@example.org,A,"{""city"": ""X""}",enabled\n'
MAILCHIMP_CSV = 'Email Address,First Name,LEID,TAGS\na@example.org,A,1,"""x"",""y"""\n'
CLIENTS_JSON = (
    '{"email": "a@example.org", "name": "A", "comment": "", "tags": ["x"]}\n{"email": "b@example.org", "name": "",'
    ' "comment": "", "tags": []}\n'
)
EHLO = "250-mx.example.org\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-AUTH PLAIN LOGIN\r\n250 8BITMIME\r\n"
GIF = "GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff!\xf9\x04\0\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"

READERS = {
    "config": Reader(
        read_config,
        (example_config(), '[mail]\nsender = "A <a@example.org>"\n', '[store]\nurl = "x.db"\n[smtp]\nrate = ["5/s"]\n'),
        ("[", "]", '"""', "'''", "= ", "[[x]]", "1e999", "{a = 1}", "password_file = '/dev/zero'\n", "\x00", "\\u0000"),
    ),
    "store url": Reader(
        read_store_url,
        ('[store]\nurl = "sqlite:///x.db"\n',),
        ("postgresql://", "%00", "[::", "?", "//", "@", "\\u0001"),
    ),
    ".env": Reader(
        read_env_file,
        ("SKYCHIMP_SMTP__HOST=mx.example.org\n", "export SKYCHIMP_STORE='x.db'\n", "# x\nSKYCHIMP_SMTP__PORT=25\n"),
        ("SKYCHIMP_", "__", "=", "'", '"', "${X}", "$(id)", "\\", "\x00", "export "),
    ),
    "environment": Reader(
        read_environment,
        ("SKYCHIMP_SMTP__RATE=5/s\n", 'SKYCHIMP_DELIVERY__RETRY_AFTER=["5m"]\n', "SKYCHIMP_STORE=x\n"),
        ("SKYCHIMP_MAIL__HEADERS=", "[" * 50, "{", "1" * 5000, "SKYCHIMP_WEB__URL=http://[", "=", "\n"),
    ),
    "CSV": Reader(
        read_csv, (CLIENTS_CSV, LISTMONK_CSV, MAILCHIMP_CSV), ('"', '""', 'a","""', ",", ";", "\t", "\r", "\0", "=1+1")
    ),
    "JSON lines": Reader(
        read_json_lines, (CLIENTS_JSON,), ("[", "{", '"', "\\ud800", "9" * 5000, "1e999", "null", "NaN", "\0", ":", ",")
    ),
    "reply": Reader(
        read_reply,
        (EHLO, "550 5.1.1 <ada@example.org>: no such user\r\n", "250 2.0.0 Ok: queued as 4F2A9C0D1E\r\n", "354 go\r\n"),
        ("250-", "250 ", "\r\n", "\n", "queued as ", "id=", "5.7.1 ", "<", "@example.org", "\x00", "1", "a-", " "),
        (ProtocolError,),
    ),
    "conversation": Reader(
        converse,
        ("250 ok\r\n250 ok\r\n354 go\r\n", "250 ok\r\n550 5.1.1 no\r\n", "421 4.3.2 bye\r\n"),
        ("250-", "\r\n", "354 ", "\x00", "999 "),
        (ProtocolError,),
    ),
    "template": Reader(
        read_template,
        (
            "Hello {{ client.name | default('you', true) }}\n{% if 'vip' in client.tags %}x{% endif %}",
            "{% for tag in client.tags %}{{ tag | upper }} {{ client.comment }}{% endfor %}{{ due_at.date('%Y') }}",
            "# {{ client.name }}\n\n[x](https://example.org/?a={{ client.email }})\n",
        ),
        ("{{", "}}", "{%", "%}", "{#", "#}", " for x in client.tags ", "client.comment", "|upper", "|e", "~", "(", "[",
         "**", "`", "a.__class__", "{% raw %}", "{{ client.comment ~ client.comment }}", "%", "_"),
        examples=25,
    ),
    "Markdown": Reader(
        read_markdown,
        (
            "# Title\n\n- a\n  - b\n\n> *x* **y** `z`\n\n```\ncode\n```\n",
            "[a](b) ![c](d) <https://x.example>\n",
            "|a|b|\n|-|-|\n",
        ),
        ("[", "](", "*", "**", "_", "`", "> ", "- ", "<", "&#x202e;", "![", "\\", "~~", "    ", "[a](x)", "|", "x:"),
        examples=12,
    ),
    "HTML": Reader(
        read_html,
        (
            "<table><tr><td><a href='https://x.example'>a</a></td></tr></table>\n<ul><li>b</li></ul>",
            "<style>@media print{#a{b:c}}</style>\n<p>{% if client.name %}{{ client.name }}{% endif %} -- \n</p>",
            "---\nsubject: 'News'\n---\n*|FNAME|* %recipient.name% [[var:x]]\n",
        ),
        ("<b>", "<a href='x'>", "<table>", "<li>", "<pre>", "<", "&#123;", "{#", "{# ", "#}", "{%22", "---\n", "a: b\n",
         "*|A", "%%a", "[[var:", "%unsubscribe", "<< ", "\x00", "\ud800", "]]>", "<!--"),
        examples=25,
    ),
    "time": Reader(
        read_when,
        ("2026-12-01 09:00", "+10m", "tomorrow 09:00", "09:00", "2026-12-01T09:00+03:00", "7d", "2026-01", "2h",
         "2026-01-01..2026-02-01", "Europe/Berlin"),
        ("9", "-", ":", "+", "T", "Z", "..", "W", "٣", "d", "/", "../", "\0"),
    ),
    "address": Reader(
        read_address,
        (*ADDRESSES, "Ada <ada@example.org>", '"A, B" <a@example.org>', "ü@bücher.example", "a@[127.0.0.1]"),
        ("@", ".", "<", ">", '"', "\\", "(", "xn--", "\u0301", "\u3002", "--", " ", "ß", "İ"),
    ),
    "text": Reader(read_text_values, ("Ada", "vip,b", "a\nb"), (*SHELL_CODE, *NAMES, "\r", "\u2028", ";", "\ud800")),
    "image": Reader(read_image, (GIF,), ("\xff\xd8\xff\xe0", "\x89PNG\r\n\x1a\n", "RIFF", "WEBP", "IHDR", "\xff\xc2")),
}  # fmt: skip


# Inputs


def inputs(reader: Reader) -> st.SearchStrategy[bytes]:
    """Return valid inputs that are cut, joined and changed, with pieces that are repeated many times."""
    seeds, pieces = st.sampled_from(reader.seeds), st.sampled_from((*reader.pieces, *reader.seeds))
    slices = st.builds(lambda seed, ends: seed[min(ends) : max(ends)], seeds, st.tuples(*[st.integers(0, 300)] * 2))
    part = st.one_of(slices, pieces, st.text(st.characters(), max_size=20))
    repeated = st.builds(lambda piece, length: piece * (length // max(1, len(piece))), part, st.sampled_from(LENGTHS))
    inserted = st.builds(
        lambda seed, place, new: seed[: place % (len(seed) + 1)] + new + seed[place % (len(seed) + 1) :],
        seeds, st.integers(0, 3000), st.one_of(part, repeated),
    )  # fmt: skip
    joined = st.lists(st.one_of(part, part, repeated, seeds), max_size=6).map("".join)
    return st.one_of(inserted, joined).map(_encode) | st.binary(max_size=200)


def _encode(text: str) -> bytes:
    """Return text as UTF-8, or as it is if it stands for bytes. It may have lone surrogates."""
    return (
        text.encode("latin-1")
        if text.startswith("GIF89a") and _is_latin(text)
        else text.encode("utf-8", "surrogatepass")
    )


def _is_latin(text: str) -> bool:
    return not text or ord(max(text)) < 256


# The test


@pytest.mark.parametrize("name", READERS)
def test_every_input_ends_in_a_value_or_an_error(name: str, tmp_path: Path) -> None:
    read_inputs(READERS[name], READERS[name].examples, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_more_inputs_end_in_a_value_or_an_error(name: str, tmp_path: Path) -> None:
    read_inputs(READERS[name], 4 * READERS[name].examples, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", READERS)
def test_many_inputs_end_in_a_value_or_an_error(name: str, tmp_path: Path) -> None:
    read_inputs(READERS[name], 10_000, tmp_path)


def read_inputs(reader: Reader, count: int, tmp_path: Path) -> None:
    for seed in reader.seeds:  # the first use of a module takes time
        read_timed(reader, _encode(seed), tmp_path)

    @settings(
        max_examples=count,
        deadline=None,
        phases=set(hypothesis.Phase) - {hypothesis.Phase.explain},  # tracing takes many times as long as reading
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
    @given(inputs(reader))
    def check(data: bytes) -> None:
        require_limits(reader, data, tmp_path)

    check()


def require_limits(reader: Reader, data: bytes, folder: Path) -> None:
    """Read an input. Require that it takes little time and memory, and that an error has a text."""
    if read_timed(reader, data, folder) > MAX_SECONDS:  # other processes may have slowed it down
        seconds = min(read_timed(reader, data, folder) for _ in range(3))
        assert seconds < MAX_SECONDS, f"{seconds:.1f} s"
    if len(data) >= LARGE:
        tracemalloc.start()
        try:
            read_timed(reader, data, folder)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < MAX_BYTES, f"{peak:,} bytes"


def read_timed(reader: Reader, data: bytes, folder: Path) -> float:
    """Read an input and return the seconds of processor time that it took."""
    start = time.process_time()
    try:
        reader.read(data, folder)
    except reader.errors as error:
        require_text(error)
    return time.process_time() - start


def require_text(error: Exception) -> None:
    assert str(error).strip()


@pytest.mark.parametrize(
    "count", [10, pytest.param(300, marks=(pytest.mark.soak, pytest.mark.timeout(3600)))], ids=["some", "many"]
)
def test_imports_into_a_store(store: Store, ada: Actor, count: int) -> None:
    """Test that rows that the readers accept can be stored, whatever they contain."""

    @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))
    @given(inputs(READERS["CSV"]), inputs(READERS["JSON lines"]))
    def check(csv: bytes, json_lines: bytes) -> None:
        for data, module in ((csv, csv_files), (json_lines, jsonl_files)):
            with _opened(data) as opened:
                _ignore_errors(partial(_import_file, store, ada, module, opened))

    check()


def _import_file(store: Store, actor: Actor, module: ModuleType, opened: io.TextIOWrapper) -> None:
    importing.import_rows(store, actor, module.read(opened).rows, on_rejected=lambda row: None)


@pytest.mark.parametrize(
    "arguments",
    [
        ("clients", "import", "/dev/zero"),
        ("clients", "import", "/dev/zero", "--format", "jsonl"),
        ("messages", "create", "--subject", "x", "--body-file", "/dev/zero"),
        ("messages", "create", "--subject", "x", "--html-file", "/dev/zero"),
        ("blog", "create", "--title", "x", "--body", "x", "--image", "/dev/zero"),
    ],
)
def test_endless_file_is_refused(home_of: Callable[[Actor], Home], admin: Actor, arguments: tuple[str, ...]) -> None:
    start = time.process_time()
    done = home_of(admin).call(*arguments)
    assert done.status == 2, done
    assert time.process_time() - start < MAX_SECONDS


def _check_rows(rows: Iterator[importing.FileRow]) -> None:
    for row in rows:
        if isinstance(row, importing.ImportedRow):
            _ignore_errors(partial(validate_client, row.email, row.name, row.comment, row.tags))


def _opened(data: bytes, encoding: str | None = "utf-8") -> io.TextIOWrapper:
    return text_files.open_text(io.BytesIO(data), encoding).file


def _text(data: bytes) -> str:
    """Return bytes as the text of an argument, as Python decodes it."""
    return data.decode("utf-8", "surrogateescape")


def _ignore_errors(read: Callable[[], object]) -> None:
    try:
        read()
    except SkychimpError as error:
        require_text(error)


def _write(file: Path, data: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as opened:
        opened.write(data)

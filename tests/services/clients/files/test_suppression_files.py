"""Test which addresses and reasons are read from files of suppressions, our own and those of other tools."""

import io
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skychimp.errors import InvalidValue
from skychimp.models import SuppressionSource
from skychimp.services.clients.files import suppression_files
from skychimp.services.clients.files.column_mapping import parse_choice
from skychimp.services.clients.files.suppression_files import FIELDS, FileRow, SubscribedRow, SuppressedRow
from skychimp.services.clients.importing import InvalidRow
from skychimp.services.clients.suppressions import SuppressionInfo

MAY_1 = datetime(2026, 5, 1, 10, tzinfo=UTC)
MAILCHIMP = "Email Address,First Name,MEMBER_RATING,{}LEID,EUID\n"


def read(text: str, name: str = "list.txt", mapped: tuple[str, ...] = ()) -> list[FileRow]:
    opened = io.StringIO(text, newline="")
    opened.name = name
    return list(suppression_files.read(opened, parse_choice(mapped, [], FIELDS)))


Found = tuple[str, str | None, datetime | None]

FILES: dict[str, tuple[str, str, list[Found]]] = {
    "a list": (
        "list.txt",
        "a@x.org\r\n\r\n@x.org\r\nB@x.org\r\n",
        [("a@x.org", None, None), ("@x.org", None, None), ("B@x.org", None, None)],
    ),
    "a list with more cells": (
        "list.csv",
        "1;a@x.org\n2;b@x.org\n",
        [("a@x.org", None, None), ("b@x.org", None, None)],
    ),
    "a column": ("list.csv", "email\na@x.org\n", [("a@x.org", None, None)]),
    "columns": (
        "list.csv",
        "E-Mail,Reason,Created at\na@x.org,Hard bounce,2026-05-01 10:00\nb@x.org,asked by phone,\nc@x.org,,\n",
        [("a@x.org", "bounce", MAY_1), ("b@x.org", "asked by phone", None), ("c@x.org", None, None)],
    ),
    "Amazon SES": (
        "ses.json",
        '{\n  "NextToken": "x{[\\"",\n  "SuppressedDestinationSummaries": [\n    {\n      "EmailAddress": "a@x.org",\n'
        '      "Reason": "COMPLAINT",\n      "LastUpdateTime": "2026-05-01T12:00:00+02:00"\n    },\n'
        '    {"EmailAddress": "b@x.org", "Reason": "BOUNCE", "LastUpdateTime": 1777629600.0}\n  ]\n}\n',
        [("a@x.org", "complaint", MAY_1), ("b@x.org", "bounce", MAY_1)],
    ),
    "Amazon SES, on one line": (
        "ses.json",
        '{"SuppressedDestinationSummaries": [{"EmailAddress": "a@x.org", "Reason": "BOUNCE"}], "NextToken": null}',
        [("a@x.org", "bounce", None)],
    ),
    "SendGrid, bounces": (
        "suppression_bounces.csv",
        "status,reason,email,created\n5.1.1,550 5.1.1 no such user,a@x.org,1777629600\n",
        [("a@x.org", "bounce", MAY_1)],
    ),
    "SendGrid, spam reports": (
        "suppression_spam_reports.json",
        '[{"created": 1777629600, "email": "a@x.org", "ip": "10.0.0.1"}]',
        [("a@x.org", "complaint", MAY_1)],
    ),
    "SendGrid, unsubscribes": ("u.csv", "email,created\na@x.org,2026-05-01 10:00\n", [("a@x.org", None, MAY_1)]),
    "Mailchimp, unsubscribed": (
        "unsubscribed_email_audience_export_1.csv",
        MAILCHIMP.format("UNSUB_TIME,UNSUB_REASON,") + "a@x.org,A,2,2026-05-01 10:00:00,,1,e\nb@x.org,B,2,,,1,e\n",
        [("a@x.org", "unsubscribed", MAY_1), ("b@x.org", "unsubscribed", None)],
    ),
    "Mailchimp, cleaned": (
        "cleaned_email_audience_export_1.csv",
        MAILCHIMP.format("CLEAN_TIME,") + "a@x.org,A,2,2026-05-01 10:00:00,1,e\n",
        [("a@x.org", "bounce", MAY_1)],
    ),
    "listmonk": (
        "subscribers.csv",
        "uuid,email,name,attributes,status\nu1,a@x.org,A,{},enabled\nu2,b@x.org,B,{},blocklisted\n",
        [("", None, None), ("b@x.org", "unsubscribed", None)],
    ),
    "HubSpot": (
        "h.csv",
        "Email,Portal Bounce,Portal Unsubscribe,Portal Spam Report\na@x.org,FALSE,FALSE,FALSE\nb@x.org,,,TRUE\n",
        [("", None, None), ("b@x.org", "complaint", None)],
    ),
    "MailerLite": (
        "m.csv",
        "Subscriber,Subscribed,Status\na@x.org,2024-01-01 10:00:00,unsubscribed\nb@x.org,2024-01-01 10:00:00,active\n",
        [("a@x.org", "unsubscribed", None), ("b@x.org", None, None)],
    ),
    "a status of something else": ("c.csv", "email,status\na@x.org,angry\n", [("a@x.org", None, None)]),
    "JSON lines": (
        "s.jsonl",
        '{"email": "a@x.org", "reason": "SPAM", "tags": []}\n\n{"at": "2026-05-01 10:00", "email": "b@x.org"}\n',
        [("a@x.org", "complaint", None), ("b@x.org", None, MAY_1)],
    ),
    "a list of texts": ("s.json", '["a@x.org",\n "b@x.org"]', [("a@x.org", None, None), ("b@x.org", None, None)]),
}


@pytest.mark.parametrize("tool", FILES)
def test_file_is_understood(tool: str) -> None:
    name, text, expected = FILES[tool]

    rows = read(text, name)

    # Who gets mail, as the file says, is ("", None, None).
    assert [(r.target, r.reason, r.at) if isinstance(r, SuppressedRow) else ("", None, None) for r in rows] == expected
    assert all(isinstance(row, SubscribedRow | SuppressedRow) for row in rows)


def test_lines_are_those_of_the_file() -> None:
    assert [row.line for row in read("a@x.org\n\nb@x.org\n")] == [1, 3]
    assert [row.line for row in read("email\na@x.org\n\n'b@x.org\n")] == [2, 4]
    assert [row.line for row in read('[\n{"email": "a@x.org"},\n\n{"email":\n"b@x.org"},{"email": "c@x.org"}]')] == [
        2,
        4,
        5,
    ]
    rows = read('{"email": "a@x.org"}\n\nnot JSON\n["b@x.org"]\n{"email": "c@x.org"}\n')
    assert [(row.line, isinstance(row, InvalidRow)) for row in rows] == [(1, False), (3, True), (4, True), (5, False)]


def test_columns_are_mapped() -> None:
    mapped = ("who=email", "why=reason", "when=at", "for=topic", "more=note")

    (row,) = read("who,why,when,for,more\na@x.org,moved,2026-05-01 10:00,news,by phone\n", mapped=mapped)
    (same,) = read('{"who": "a@x.org", "why": "moved", "when": "2026-05-01 10:00", "for": "news", "more": "by phone"}',
                   mapped=mapped)  # fmt: skip

    assert row == same._replace(line=2) == SuppressedRow(2, "a@x.org", "moved", "news", MAY_1, "by phone")


@pytest.mark.parametrize(
    ("text", "mapped", "message"),
    [
        ("", (), "it is empty"),
        ("name\nAda\n", (), 'missing column "email"'),
        ("a@x.org\n", ("who=email",), "the first line is an address and names no columns"),
        ('[{"email": "a@x.org"}, oops]', (), "line 1 is not valid JSON"),
        ('[\n{"email": "a@x.org"},\n{"email"', (), "line 3 is not valid JSON"),
        ("[" * 100_000, (), "line 1 is not valid JSON"),
    ],
)
def test_file_that_is_no_list_is_refused(text: str, mapped: tuple[str, ...], message: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        read(text, mapped=mapped)

    assert refused.value.message == message


WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20).map(str.strip)
TIMES = st.datetimes(datetime(2001, 10, 1), datetime(2199, 1, 1), timezones=st.just(UTC))
INFOS = st.builds(
    SuppressionInfo,
    st.sampled_from(["a@x.org", "@x.org", "=b@x.org", "ö@bücher.example"]),
    st.sampled_from(["unsubscribed", "bounce", "complaint", "=moved, far away"]),
    st.one_of(st.none(), WORDS.filter(bool)),
    st.just(False),
    st.just(SuppressionSource.COMMAND),
    TIMES,
    WORDS,
)


@given(st.lists(INFOS, min_size=1, max_size=5))
def test_every_export_is_read_as_it_was_written(infos: list[SuppressionInfo]) -> None:
    exported = io.StringIO()
    suppression_files.write(exported, infos)
    as_json = json.dumps([vars(each) | {"at": each.at.isoformat()} for each in infos], ensure_ascii=False)
    expected = [(each.address, each.reason, each.topic or "", each.at, each.note) for each in infos]

    for text in (exported.getvalue(), as_json, "\n".join(json.dumps(each) for each in json.loads(as_json))):
        rows = read(text)
        assert [row[1:] for row in rows if isinstance(row, SuppressedRow)] == expected


@given(st.text(), st.sampled_from(["", "email,status\n", "[", '{"email": "a@x.org"}\n', '{"x": [', "a@x.org\n"]))
def test_no_text_breaks_the_reader(text: str, start: str) -> None:
    try:
        rows = read(start + text)
    except InvalidValue:
        return
    assert all(isinstance(row, SuppressedRow | SubscribedRow | InvalidRow) for row in rows)

"""Test who has opted out, in the files of other tools: why and when, and what is not understood."""

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skychimp.errors import InvalidValue
from skychimp.services.clients.files import csv_files, jsonl_files, opt_outs
from skychimp.services.clients.files.column_mapping import ColumnChoice
from skychimp.services.clients.files.csv_files import ClientFile
from skychimp.services.clients.files.opt_outs import OptOut
from skychimp.services.clients.importing import ImportedRow, OptedOutRow

MAY_1 = datetime(2026, 5, 1, 10, tzinfo=UTC)


def read(text: str, name: str = "people.csv", ignored: str = "") -> ClientFile:
    opened = io.StringIO(text, newline="")
    opened.name = name
    choice = ColumnChoice(ignored=[ignored] if ignored else [])
    return jsonl_files.read(opened, choice) if name.endswith("jsonl") else csv_files.read(opened, choice)


def reasons(text: str, name: str = "people.csv") -> dict[str, str]:
    """Return who is in a file by the local parts of their addresses: the reason, "" for those who become clients."""
    found: dict[str, str] = {}
    for row in read(text, name).rows:
        assert isinstance(row, ImportedRow | OptedOutRow)
        found[row.email.partition("@")[0]] = row.opt_out.reason if isinstance(row, OptedOutRow) else ""
    return found


MAILCHIMP = "Email Address,First Name,MEMBER_RATING,OPTIN_TIME,{}LEID,EUID,NOTES,TAGS\n"
LISTMONK_LISTS = '{{"id": 1, "email": "{}@x.org", "status": "enabled", "lists": [{}]}}\n'.format
ON, OFF = '{"name": "News", "subscription_status": "confirmed"}', '{"name": "B", "subscription_status": "unsubscribed"}'

FILES: dict[str, tuple[str, str, dict[str, str]]] = {
    "listmonk": (
        "subscribers.csv",
        "uuid,email,name,attributes,status,created_at,updated_at\n"
        "u1,a@x.org,A,{},enabled,t,t\nu2,b@x.org,B,{},blocklisted,t,t\nu3,c@x.org,C,{},disabled,t,t\n",
        {"a": "", "b": "unsubscribed", "c": "unsubscribed"},
    ),
    "listmonk, lists": (
        "subscribers.jsonl",
        LISTMONK_LISTS("a", f"{ON}, {OFF}") + LISTMONK_LISTS("b", f"{OFF}, {OFF}") + LISTMONK_LISTS("c", ""),
        {"a": "", "b": "unsubscribed", "c": ""},
    ),
    "Mailchimp, subscribed": (
        "subscribed_email_audience_export_1.csv",
        MAILCHIMP.format("") + "a@x.org,A,2,2024-01-01 10:00:00,1,e,,\n",
        {"a": ""},
    ),
    "Mailchimp, unsubscribed": (
        "unsubscribed_email_audience_export_1.csv",
        MAILCHIMP.format("UNSUB_TIME,UNSUB_CAMPAIGN_TITLE,UNSUB_CAMPAIGN_ID,UNSUB_REASON,UNSUB_REASON_OTHER,")
        + "a@x.org,A,2,t,2026-05-01 10:00:00,May,3,No longer interested,,1,e,,\n"
        "b@x.org,B,2,t,2026-05-01 10:00:00,May,3,ABUSE,,1,e,,\nc@x.org,C,2,t,,,,,,1,e,,\n",
        {"a": "unsubscribed", "b": "complaint", "c": "unsubscribed"},
    ),
    "Mailchimp, cleaned": (
        "cleaned_members_export_1.csv",
        MAILCHIMP.format("CLEAN_TIME,CLEAN_CAMPAIGN_TITLE,CLEAN_CAMPAIGN_ID,")
        + "a@x.org,A,2,t,2026-05-01 10:00:00,May,3,1,e,,\n",
        {"a": "bounce"},
    ),
    "Mailchimp, cleaned, by its columns": (
        "a.csv",
        MAILCHIMP.format("CLEAN_TIME,CLEAN_CAMPAIGN_TITLE,CLEAN_CAMPAIGN_ID,")
        + "a@x.org,A,2,t,2026-05-01 10:00:00,May,3,1,e,,\n",
        {"a": "bounce"},
    ),
    "Mailchimp, nonsubscribed": (
        "nonsubscribed_email_audience_export_1.csv",
        MAILCHIMP.format("") + "a@x.org,A,2,,1,e,,\n",
        {"a": "not subscribed"},
    ),
    "Keila": (
        "contacts.csv",
        "Email,First name,Last name,Data,Status,External ID\n"
        "a@x.org,A,,{},active,\nb@x.org,B,,{},unsubscribed,\nc@x.org,C,,{},unreachable,\n",
        {"a": "", "b": "unsubscribed", "c": "bounce"},
    ),
    "phpList": (
        "export.csv",
        "id\temail\tconfirmed\tblacklisted\toptedin\tbouncecount\n"
        "1\ta@x.org\t1\t0\t0\t0\n2\tb@x.org\t1\t1\t1\t0\n3\tc@x.org\t0\t0\t0\t0\n4\td@x.org\t0\t1\t0\t0\n",
        {"a": "", "b": "unsubscribed", "c": "unconfirmed", "d": "unsubscribed"},
    ),
    "phpList, in words": (
        "export.csv",
        "Email,Is this subscriber confirmed,Is this subscriber blacklisted\na@x.org,1,0\nb@x.org,1,1\n",
        {"a": "", "b": "unsubscribed"},
    ),
    "phpList, only who has opted in": (
        "export.csv",
        "email,optedin\na@x.org,1\nb@x.org,0\n",
        {"a": "", "b": "unsubscribed"},
    ),
    "Brevo": (
        "export.csv",
        "CONTACT ID;EMAIL;FIRSTNAME;EMAIL_BLACKLISTED;SMS_BLACKLISTED\n1;a@x.org;A;0;1\n2;b@x.org;B;1;0\n",
        {"a": "", "b": "unsubscribed"},
    ),
    "Brevo, older": ("export.csv", "EMAIL;EMAIL_BLACKLIST\na@x.org;no\nb@x.org;yes\n", {"a": "", "b": "unsubscribed"}),
    "HubSpot": (
        "hubspot.csv",
        "Record ID,Email,Unsubscribed from all email,Opted out of email: News\n"
        "1,a@x.org,,\n2,b@x.org,true,\n3,c@x.org,false,Yes\n",
        {"a": "", "b": "unsubscribed", "c": "unsubscribed"},
    ),
    "HubSpot, unsubscribes and bounces": (
        "hubspot.csv",
        "Email,Portal Bounce,Portal Unsubscribe,Portal Spam Report,Global Bounce\na@x.org,FALSE,FALSE,FALSE,FALSE\n"
        "b@x.org,550 unknown user,FALSE,FALSE,FALSE\nc@x.org,TRUE,TRUE,FALSE,FALSE\nd@x.org,FALSE,TRUE,TRUE,FALSE\n",
        {"a": "", "b": "bounce", "c": "unsubscribed", "d": "complaint"},
    ),
    "Amazon SES": (
        "contacts.csv",
        "EmailAddress,UnsubscribeAll\na@x.org,false\nb@x.org,TRUE\n",
        {"a": "", "b": "unsubscribed"},
    ),
    "MailerLite": (
        "subscribers.csv",
        "Email,Status\na@x.org,active\nb@x.org,unsubscribed\nc@x.org,bounced\nd@x.org,junk\ne@x.org,unconfirmed\n",
        {"a": "", "b": "unsubscribed", "c": "bounce", "d": "complaint", "e": "unconfirmed"},
    ),
    "a shop": (
        "customers.csv",
        "Email,Accepts Email Marketing\na@x.org,yes\nb@x.org,no\nc@x.org,\n",
        {"a": "", "b": "unsubscribed", "c": ""},
    ),
    "JSON lines": (
        "people.jsonl",
        '{"email": "a@x.org"}\n{"email": "b@x.org", "emailBlacklisted": true}\n{"email": "c@x.org", "bounced": 1}\n'
        '{"email": "d@x.org", "status": "active", "is_subscribed": false}\n'
        '{"email": "e@x.org", "unsubscribedAt": []}\n',
        {"a": "", "b": "unsubscribed", "c": "bounce", "d": "unsubscribed", "e": ""},
    ),
    "several columns": (
        "people.csv",
        "email,bounced,status,spam report\na@x.org,1,unsubscribed,0\nb@x.org,1,active,1\nc@x.org,1,unconfirmed,0\n",
        {"a": "unsubscribed", "b": "complaint", "c": "unconfirmed"},
    ),
}


@pytest.mark.parametrize("tool", FILES)
def test_who_has_opted_out_is_found_in_the_files_of_other_tools(tool: str) -> None:
    name, text, expected = FILES[tool]

    assert reasons(text, name) == expected


def test_columns_that_say_who_has_opted_out_are_named() -> None:
    text = "email,status,Opt out,bounced\na@x.org,unsubscribed,,0\nb@x.org,active,1,0\n"

    assert read(text).notes == ['columns "status" and "Opt out" mark who has opted out']
    assert read('{"email": "a@x.org", "status": "cleaned"}\n', "x.jsonl").notes == [
        'column "status" marks who has opted out'
    ]
    named = read(MAILCHIMP.format("") + "a@x.org,A,2,,1,e,,\n", "cleaned_email_audience_export_1.csv")
    assert named.notes == ["Mailchimp names a file like this if all contacts in it have opted out"]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        *((cell, None) for cell in ("", "-", "0", "0000-00-00 00:00:00", "No", "FALSE", " нет ")),
        *((cell, OptOut("unsubscribed")) for cell in ("1", "x", "✓", "Yes", "ja", "01/05/2026", "May 1, 2026 10:00")),
        ("bounced", OptOut("bounce")),
        *(
            (cell, OptOut("unsubscribed", MAY_1))
            for cell in (
                "2026-05-01 10:00:00", "2026-05-01T10:00Z", "2026-05-01T12:00:00.000+02:00", "2026/05/01 10:00",
                "2026-05-01 10:00:00.000000789 +0000 UTC", "1777629600", "1777629600.0", "1777629600000",
                " 2026-05-01 12:00:00 +0200",
            )
        ),
        ("2026-05-01", OptOut("unsubscribed", MAY_1.replace(hour=0))),
        ("2026-15-41 10:00:00", OptOut("unsubscribed")),
    ],
)  # fmt: skip
def test_cell_says_yes_or_no_or_since_when(cell: str, expected: OptOut | None) -> None:
    (row,) = read(f'email,Unsubscribed at\na@x.org,"{cell}"\n').rows

    assert (row.opt_out if isinstance(row, OptedOutRow) else None) == expected


def test_time_is_that_of_the_column_that_has_one() -> None:
    (row,) = read("email,status,unsubscribed at\na@x.org,complained,2026-05-01 10:00\n").rows

    assert isinstance(row, OptedOutRow)
    assert row.opt_out == OptOut("complaint", MAY_1)


@pytest.mark.parametrize(
    ("header", "cells", "value"),
    [
        ("email,Unsubscribed", ["", "perhaps"], "perhaps"),
        ("email,attributes,status", ["{},enabled", "{},gone fishing"], "gone fishing"),
        ("email,status", ["unsubscribed", "lead"], "lead"),
        ("email,subscribed", ["no", "maybe"], "maybe"),
    ],
)
def test_value_that_is_not_understood_stops_the_import(header: str, cells: list[str], value: str) -> None:
    heading = header.rpartition(",")[2]
    text = f"{header}\n" + "".join(f"a{number}@x.org,{cell}\n" for number, cell in enumerate(cells))

    with pytest.raises(InvalidValue) as stopped:
        read(text)
    assert stopped.value.message == (
        f'the value "{value}" of column "{heading}" in line 3 does not say whether the contact has opted out'
    )
    assert stopped.value.hint == (
        f"change it to subscribed or unsubscribed, or pass --ignore-column {heading} to import all rows as clients"
    )
    assert all(isinstance(row, ImportedRow) for row in read(text, ignored=heading).rows)


def test_value_of_json_lines_that_is_not_understood_stops_the_import() -> None:
    with pytest.raises(InvalidValue, match='"News" of column "opted_out" in line 2'):
        read('{"email": "a@x.org"}\n{"email": "b@x.org", "opted_out": "News"}\n', "people.jsonl")


@pytest.mark.parametrize(
    ("header", "cells", "fields"),
    [
        ("email,Status,Confirmed", ["new customer,yes", "Enabled,", "VIP,perhaps"], ["Status", "Confirmed"]),
        ("email,Status,Confirmed", ["active,yes", "Enabled,perhaps"], ["Confirmed"]),
        ("email,subscription", ["gold", "silver"], ["subscription"]),
        ("email,lists", ["News", '[{""name"": 1}]'], []),
    ],
)
def test_column_about_something_else_is_a_field(header: str, cells: list[str], fields: list[str]) -> None:
    file = read(f"{header}\n" + "".join(f"a{number}@x.org,{cell}\n" for number, cell in enumerate(cells)))

    assert list(file.fields) == fields
    assert len([row for row in file.rows if isinstance(row, ImportedRow)]) == len(cells)


HEADINGS = ["status", "unsubscribed", "bounced", "subscribed", "confirmed", "UNSUB_REASON", "lists", "Portal Bounce"]


@given(st.sampled_from(HEADINGS), st.lists(st.text(max_size=30), min_size=1, max_size=5))
def test_any_value_is_understood_or_stops_the_import(heading: str, cells: list[str]) -> None:
    columns = opt_outs.find_columns([heading], [0])
    rows = [(number, [cell]) for number, cell in enumerate(cells)]

    try:
        chosen = opt_outs.choose_columns(columns, rows).opt_outs
    except InvalidValue:
        return
    found: list[Any] = [opt_outs.find(chosen, cells) for _, cells in rows]
    assert bool(chosen) == any(found)
    assert all(each is None or (each.reason and "@" not in each.reason) for each in found)


@given(st.datetimes(datetime(2001, 10, 1), datetime(2199, 1, 1), timezones=st.just(UTC)))
def test_every_time_is_read_as_it_was_written(at: datetime) -> None:
    assert opt_outs.parse_time(at.isoformat()) == at
    at = at.replace(microsecond=0)
    assert opt_outs.parse_time(str(at.timestamp())) == opt_outs.parse_time(at.strftime("%Y-%m-%d %H:%M:%S")) == at

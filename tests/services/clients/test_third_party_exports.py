"""Test exports of listmonk and Mailchimp: which contacts are imported, with what, and which are excluded."""

import io
from typing import Any

import pytest

from skychimp.services.clients import csv_files
from skychimp.services.clients.importing import ExcludedRow, ImportedRow, InvalidRow

LISTMONK = """\
uuid,email,name,attributes,status,created_at,updated_at
u1,ada@example.org,Ada Lovelace,"{""city"": ""London"", ""age"": 36, ""likes"": [""tea""], ""none"": null}",enabled,t,t
u2,bob@example.org,Bob,{},blocklisted,t,t
u3,eve@example.org,Eve,{},disabled,t,t
u4,zoe@example.org,,,enabled,t,t
u5,x@example.org,X,{broken,enabled,t,t
u6,y@example.org,Y,[],enabled,t,t
u7,z@example.org,Z,{},gone fishing,t,t
"""
MAILCHIMP = (
    '"Email Address","First Name","Last Name",Address,"Phone Number",MEMBER_RATING,OPTIN_TIME,OPTIN_IP,CONFIRM_TIME,'
    "CONFIRM_IP,LATITUDE,LONGITUDE,GMTOFF,DSTOFF,TIMEZONE,CC,REGION,LAST_CHANGED,LEID,EUID,NOTES,TAGS"
)
ADA = (
    'ada@example.org,Ada,Lovelace,,+4930,2,"2024-01-01 10:00:00",1.2.3.4,t,1.2.3.4,52,13,1,2,Europe/Berlin,de,be,t,1,e,'
)
UNSUBSCRIBED = MAILCHIMP.replace(
    "LEID", "UNSUB_TIME,UNSUB_CAMPAIGN_TITLE,UNSUB_CAMPAIGN_ID,UNSUB_REASON,UNSUB_REASON_OTHER,LEID"
)
CLEANED = MAILCHIMP.replace("LEID", "CLEAN_TIME,CLEAN_CAMPAIGN_TITLE,CLEAN_CAMPAIGN_ID,LEID")


def read(text: str, name: str = "people.csv") -> tuple[str, list[Any]]:
    """Read CSV. Returns the tool that exported it, and the rows."""
    opened = io.StringIO(text)
    opened.name = name
    file = csv_files.read(opened)
    return file.tool, list(file.rows)


def test_listmonk_export() -> None:
    tool, rows = read(LISTMONK)
    assert tool == "listmonk"
    assert rows == [
        ImportedRow(2, "ada@example.org", "Ada Lovelace", 'city: London\nage: 36\nlikes: ["tea"]', ()),
        ExcludedRow(3, "blocklisted", "bob@example.org"),
        ExcludedRow(4, "disabled", "eve@example.org"),
        ImportedRow(5, "zoe@example.org", "", "", ()),
        InvalidRow(6, '"attributes" is not a JSON object'),
        InvalidRow(7, '"attributes" is not a JSON object'),
        ExcludedRow(8, "with another status", "z@example.org"),
    ]


def test_mailchimp_export() -> None:
    rows = [
        ADA + 'a note,"""VIP"",""Berlin, Mitte"""',
        ADA.replace("Ada", "").replace("Lovelace", "").replace("+4930", "") + ",",
    ]
    assert read("\n".join([MAILCHIMP, *rows])) == (
        "Mailchimp",
        [
            ImportedRow(2, "ada@example.org", "Ada Lovelace", "a note\nPhone Number: +4930", ["VIP", "Berlin Mitte"]),
            ImportedRow(3, "ada@example.org", "", "", ()),
        ],
    )


@pytest.mark.parametrize(
    ("text", "name", "reason"),
    [
        (f"{UNSUBSCRIBED}\n" + ADA.replace("t,1,e", "t,2026-01-01,Title,3,NORMAL,,1,e"), "people.csv", "unsubscribed"),
        (f"{CLEANED}\n" + ADA.replace("t,1,e", "t,2026-01-01,Title,3,1,e"), "people.csv", "cleaned"),
        (f"{MAILCHIMP}\n{ADA}", "a/unsubscribed_email_audience_export_1a2b.csv", "unsubscribed"),
        (f"{MAILCHIMP}\n{ADA}", "cleaned_email_audience_export_1a2b.csv", "cleaned"),
        (f"{MAILCHIMP}\n{ADA}", "nonsubscribed_email_audience_export_1a2b.csv", "nonsubscribed"),
        (f"{MAILCHIMP}\n{ADA}", "subscribed_email_audience_export_1a2b.csv", None),
        (f"{UNSUBSCRIBED}\n" + ADA.replace("t,1,e", "t,,,,,,1,e"), "all.csv", None),
    ],
)
def test_mailchimp_contacts_who_no_longer_get_mail_are_excluded(text: str, name: str, reason: str | None) -> None:
    _, (row,) = read(text, name)
    assert row == ExcludedRow(2, reason, "ada@example.org") if reason else isinstance(row, ImportedRow)


@pytest.mark.parametrize(
    "header", ["email,name,status", "Email Address,Name", "email,First Name,LEID", "email,name,comment,tags,uuid"]
)
def test_any_other_file_is_not_an_export_of_a_known_tool(header: str) -> None:
    assert read(f"{header}\nx@example.org,X,unsubscribed\n")[0] == ""

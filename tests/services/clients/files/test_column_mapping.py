"""Test which column of a file is which, in the exports of other tools, and how the user chooses."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from skychimp.errors import InvalidValue
from skychimp.fields import Field
from skychimp.models import FieldType
from skychimp.services.clients.files import csv_files, headings
from skychimp.services.clients.files.column_mapping import ColumnChoice, parse_choice
from skychimp.services.clients.files.csv_files import ClientFile
from skychimp.services.clients.importing import FileConsent, ImportedRow, InvalidRow
from skychimp.translation import verbatim

LISTMONK = """\
uuid,email,name,attributes,status,created_at,updated_at
u1,ada@example.org,Ada Lovelace,"{""city"": ""London"", ""age"": 36, ""likes"": [""tea""], ""none"": null}",enabled,t,t
u4,zoe@example.org,,,enabled,t,t
u5,x@example.org,X,{broken,enabled,t,t
u6,y@example.org,Y,[],enabled,t,t
"""
MAILCHIMP = (
    '"Email Address","First Name","Last Name",Address,"Phone Number",MEMBER_RATING,OPTIN_TIME,OPTIN_IP,CONFIRM_TIME,'
    "CONFIRM_IP,LATITUDE,LONGITUDE,GMTOFF,DSTOFF,TIMEZONE,CC,REGION,LAST_CHANGED,LEID,EUID,NOTES,TAGS"
)
ADA = (
    'ada@example.org,Ada,Lovelace,,+4930,2,"2024-01-01 10:00:00",1.2.3.4,t,1.2.3.4,52,13,1,2,Europe/Berlin,de,be,t,1,e,'
)

EXPORTS = {
    "HubSpot": "Record ID,First Name,Last Name,Email,Phone Number,Unsubscribed from all email,Lead Status\n"
    "51,Ada,Lovelace,ada@example.org,,false,New\n",
    "Brevo": "CONTACT ID;EMAIL;FIRSTNAME;LASTNAME;SMS;EMAIL_BLACKLIST;ADDED_TIME\n"
    "7;ada@example.org;Ada;Lovelace;;0;2026-01-01\n",
    "Keila": "Email,First name,Last name,Data,Status,External ID\nada@example.org,Ada,Lovelace,{},active,\n",
    "phpList": "ID\tEmail\tIs this subscriber confirmed\tIs this subscriber blacklisted\tName\tList Membership\n"
    "1\tada@example.org\t1\t0\tAda Lovelace\tnews \n",
    "Google Contacts": "Name Prefix,First Name,Middle Name,Last Name,Organization Name,E-mail 1 - Label,"
    "E-mail 1 - Value,Labels,Notes\n,Ada,,Lovelace,,* Home,ada@example.org,* myContacts ::: Friends ::: Old club,\n",
    "Google Contacts, old": "Name,Given Name,Family Name,Group Membership,E-mail 1 - Type,E-mail 1 - Value\n"
    "Ada Lovelace,Ada,Lovelace,Friends ::: Old club ::: * myContacts,* Home,ada@example.org\n",
    "Outlook": '"Title","First Name","Last Name","E-mail Address","E-mail Type","Categories","Notes"\n'
    '"","Ada","Lovelace","ada@example.org","SMTP","Friends;Old club",""\n',
    "Outlook, German": "Anrede;Vorname;Nachname;E-Mail-Adresse;Kategorien;Notizen\n"
    ";Ada;Lovelace;ada@example.org;Friends,Old club;\n",
    "Thunderbird": "First Name,Last Name,Display Name,Nickname,Primary Email,Secondary Email,Screen Name,Notes\n"
    "Ada,Byron,Ada Lovelace,,ada@example.org,,,\n",
    "Amazon SES": "EmailAddress,UnsubscribeAll,Name\nada@example.org,false,Ada Lovelace\n",
    "Russian": "Имя|Фамилия|Электронная почта|Теги\nAda|Lovelace|ada@example.org|Friends,Old club\n",
}


def read(text: str, name: str = "people.csv", choice: ColumnChoice | None = None) -> ClientFile:
    opened = io.StringIO(text, newline="")
    opened.name = name
    return csv_files.read(opened, choice)


def read_rows(text: str, name: str = "people.csv", choice: ColumnChoice | None = None) -> list[Any]:
    return list(read(text, name, choice).rows)


@pytest.mark.parametrize("tool", EXPORTS)
def test_export_of_another_tool_is_understood(tool: str) -> None:
    (row,) = read_rows(EXPORTS[tool])

    assert (row.email, row.name) == ("ada@example.org", "Ada Lovelace")
    assert list(row.tags) == (["Friends", "Old club"] if "Friends" in EXPORTS[tool] else [])


def test_listmonk_export() -> None:
    ada = {"city": "London", "age": 36, "likes": ["tea"], "none": None}
    file = read(LISTMONK)

    assert file.fields == {
        "city": Field("city", FieldType.TEXT),
        "age": Field("age", FieldType.NUMBER),
        "likes": Field("likes", FieldType.TEXT),
    }
    assert file.ignored_columns == ["uuid", "created_at", "updated_at"]
    assert list(file.rows) == [
        ImportedRow(2, "ada@example.org", "Ada Lovelace", "", (), ada),
        ImportedRow(3, "zoe@example.org", "", "", ()),
        InvalidRow(4, verbatim('"attributes" is not a JSON object')),
        InvalidRow(5, verbatim('"attributes" is not a JSON object')),
    ]


def test_mailchimp_export() -> None:
    rows = [
        ADA + 'a note,"""VIP"",""Berlin, Mitte"""',
        ADA.replace("Ada", "").replace("Lovelace", "").replace("+4930", "") + ",",
    ]
    file = read("\n".join([MAILCHIMP, *rows]))
    signed_up = FileConsent("2024-01-01 10:00:00", "", "", "signed up in Mailchimp")

    assert list(file.rows) == [
        ImportedRow(
            2,
            "ada@example.org",
            "Ada Lovelace",
            "a note",
            ["VIP", "Berlin Mitte"],
            {"Phone Number": "+4930"},
            signed_up,
        ),
        ImportedRow(3, "ada@example.org", "", "", (), {"Phone Number": ""}, signed_up),
    ]
    assert file.columns == ["email", "name", "comment", "tags", "fields"]
    assert file.fields == {"Phone Number": Field("Phone_Number", FieldType.TEXT)}
    assert file.notes == [
        'consents are taken from "OPTIN_TIME"',
        'fields: Phone_Number (from "Phone Number")',
    ]
    assert file.ignored_columns[0] == "MEMBER_RATING"


@pytest.mark.parametrize(
    ("header", "email", "note"),
    [
        ("E-mail 1 - Value,E-mail 2 - Value", "0@x.org", '"E-mail 1 - Value", not from "E-mail 2 - Value"'),
        ("Work Email,Email", "1@x.org", '"Email", not from "Work Email"'),
        ("E-mail 2 Address,E-mail Address", "1@x.org", '"E-mail Address", not from "E-mail 2 Address"'),
        ("Work Email,Home Email", "0@x.org", '"Work Email", not from "Home Email"'),
        ("email,E-Mail", "0@x.org", '"email", not from "E-Mail"'),
    ],
)
def test_of_several_email_columns_the_main_one_is_used(header: str, email: str, note: str) -> None:
    file = read(f"{header}\n0@x.org,1@x.org\n")

    assert [row.email for row in file.rows if isinstance(row, ImportedRow)] == [email]
    assert (file.notes, file.ignored_columns) == ([f"email is taken from {note}"], [])


MAPS: list[tuple[Sequence[str], Mapping[str, str]]] = [
    (["Kontakt=email"], {"email": "k@x.org", "name": "Ada Lovelace"}),
    (["Kontakt=email", "City=name"], {"email": "k@x.org", "name": "London"}),
    (["City=first_name"], {"email": "e@x.org", "name": "London Lovelace"}),
    (["city = comment"], {"email": "e@x.org", "comment": "London"}),
    (["City=tags"], {"email": "e@x.org", "tags": "London"}),
]


@pytest.mark.parametrize(("mapped", "expected"), MAPS)
def test_mapped_column_is_that_field_and_no_other_is(mapped: Sequence[str], expected: Mapping[str, str]) -> None:
    text = "Email,First Name,Last Name,City,Kontakt,Note\ne@x.org,Ada,Lovelace,London,k@x.org,hi\n"

    (row,) = read_rows(text, choice=parse_choice(mapped, []))

    found = {"email": row.email, "name": row.name, "comment": row.comment, "tags": ",".join(row.tags)}
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("mapped", "ignored", "message", "hint"),
    [
        (["Emial=email"], [], 'unknown column "Emial"', "did you mean Email? the columns are Email, City"),
        ([], ["Ctiy"], 'unknown column "Ctiy"', "did you mean City? the columns are Email, City"),
        (["City=nmae"], [], 'unknown field "nmae"', "did you mean name? the fields are "),
        (["City"], [], '"City" is not COLUMN=FIELD', "use for example"),
        (["City=name", "Email=name"], [], '"name" is mapped twice', "use --map once"),
        (["City=name"], ["city"], "a column is mapped twice, or mapped and ignored", "use one option"),
        (["City=name", "city=tags"], [], "a column is mapped twice, or mapped and ignored", "use one option"),
        ([], ["Email"], 'missing column "email"', "the first line must name the columns"),
    ],
)
def test_wrong_choice_of_columns_is_refused(
    mapped: Sequence[str], ignored: Sequence[str], message: str, hint: str
) -> None:
    with pytest.raises(InvalidValue) as refused:
        read("Email,City\ne@x.org,London\n", choice=parse_choice(mapped, ignored))

    assert refused.value.message == message
    assert (refused.value.hint or "").startswith(hint)


def test_tags_of_our_own_files_are_taken_as_they_are() -> None:
    (row,) = read_rows('email,tags\nx@example.org,"* a ::: b,""c"""\n')

    assert row.tags == ["* a ::: b", '"c"']


@pytest.mark.parametrize(
    "header",
    [
        "email;name, first",
        "sep=;\nemail;name, first",
        '"sep=;"\r\nemail;name, first',
        '"email";"a,b,c\nd"',
        "email|a,b,c",
    ],
)
def test_delimiter_is_found_in_the_header(header: str) -> None:
    delimiter = "|" if "|" in header else ";"
    file = read(f"{header}\nx@example.org{delimiter}Ada, Countess\n", choice=ColumnChoice())

    (row,) = file.rows
    assert (row.line, getattr(row, "email", None)) == (header.count("\n") + 2, "x@example.org")


def test_headings_are_compared_without_case_and_punctuation() -> None:
    assert headings.normalise(" E-mail_1 – Value* ") == "e mail 1 value"

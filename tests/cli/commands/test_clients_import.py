"""`skychimp clients import`: what it says of encodings and columns, and that it imports all or says what it did not."""

import subprocess
from pathlib import Path

import pytest
from support.command import PROGRAM, CommandResult, Home
from support.initial_home import InitialHome

from skychimp.services.clients import importing
from skychimp.services.clients.files import csv_files

NAMES = "email,name\na@example.org,Иванов Иван\nb@example.org,Пётр Щукин\nc@example.org,Анна Ким\n"
OPTED_OUT = "email,status\na@example.org,active\nb@example.org,unsubscribed\n"


@pytest.fixture(scope="module")
def initial_home(tmp_path_factory: pytest.TempPathFactory) -> InitialHome:
    return InitialHome(tmp_path_factory.mktemp("homes"), email="ada@example.org")


@pytest.fixture
def home(initial_home: InitialHome) -> Home:
    return initial_home.restore()


def import_file(home: Home, data: str | bytes, *options: str, name: str = "people.csv") -> CommandResult:
    (home.folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return home.call("clients", "import", name, *options)


def import_from_pipe(home: Home, data: bytes, *options: str) -> subprocess.CompletedProcess[bytes]:
    command = [str(PROGRAM), "clients", "import", "-", *options]
    return subprocess.run(command, input=data, env=home.environ, cwd=home.folder, capture_output=True, timeout=60)


def names(home: Home) -> list[str]:
    return [client["name"] for client in home.call("clients", "list", "--json").json]


def emails(home: Home) -> list[str]:
    return [client["email"] for client in home.call("clients", "list", "--json").json]


def tags(home: Home) -> list[list[str]]:
    return [client["tags"] for client in home.call("clients", "list", "--json").json]


def test_encoding_that_was_found_is_named(home: Home) -> None:
    done = import_file(home, NAMES.encode("cp1251"))

    assert (done.status, names(home)) == (0, ["Иванов Иван", "Пётр Щукин", "Анна Ким"])
    assert done.err == "the file is read as windows-1251; use --encoding if names look wrong\n"


def test_encoding_that_is_not_certain_imports_nothing(home: Home) -> None:
    data = "email,name\na@example.org,петров\n".encode("koi8-r")

    refused = import_file(home, data)
    assert (refused.status, names(home)) == (2, [])
    assert "people.csv: its encoding could be koi8-u or windows-1251" in refused.err

    done = import_file(home, data, "--encoding", "koi8-r")
    assert (done.status, done.err, names(home)) == (0, "", ["петров"])


@pytest.mark.parametrize(
    "encoding", ["utf-8", *(pytest.param(each, marks=pytest.mark.slow) for each in ("utf-16", "cp1251"))]
)
def test_pipe_is_imported_like_a_file(home: Home, encoding: str) -> None:
    data = (NAMES + "bad\n").encode(encoding)

    done = import_from_pipe(home, data, "--ignore-column", "nobody")
    assert (done.returncode, names(home)) == (2, [])

    done = import_from_pipe(home, data)
    assert (done.returncode, names(home)) == (0, ["Иванов Иван", "Пётр Щукин", "Анна Ким"])
    assert b"line 5: invalid email address" in done.stderr


def test_who_has_opted_out_is_suppressed_from_a_file_and_a_pipe(home: Home) -> None:
    done = import_file(home, OPTED_OUT, "--json")

    assert (done.status, emails(home)) == (0, ["a@example.org"])
    assert done.json == {
        "created": 1, "updated": 0, "skipped": 0, "opted_out": 1, "bad": 0, "suppressed": 1,
        "reasons": {"unsubscribed": 1},
    }  # fmt: skip
    assert done.err == (
        'column "status" marks who has opted out\n'
        "1 client added, 1 suppressed because the file says they have opted out (unsubscribed 1)\n"
    )

    piped = import_from_pipe(home, OPTED_OUT.encode(), "--ignore-column", "Status")
    assert (piped.returncode, emails(home)) == (0, ["a@example.org", "b@example.org"])
    assert piped.stdout.decode() == "created\t1\nupdated\t0\nskipped\t1\nopted_out\t0\nbad\t0\nsuppressed\t1\n"
    assert piped.stderr.decode() == "1 client added, 1 in the file suppressed before (unsubscribed 1)\n"
    assert [each["suppressed"] for each in home.call("clients", "list", "--json").json] == [None, "unsubscribed"]


def test_mailchimp_file_of_who_has_opted_out_adds_no_client(home: Home) -> None:
    text = "Email Address,LEID,CLEAN_TIME\na@x.org,1,2026-01-01 10:00:00\nbad,2,2026-01-01 10:00:00\n"

    done = import_file(home, text, name="cleaned_email_audience_export_1a2b.csv")

    assert (done.status, emails(home)) == (0, [])
    assert "line 3: invalid email a" in done.err
    assert "0 clients added, 1 suppressed because the file says they have opted out (bounce 1)" in done.err


@pytest.mark.parametrize(
    "length", [1, pytest.param(1_500_000, marks=pytest.mark.slow)], ids=["short", "long"]
)  # a long one is copied to the disk
def test_value_that_is_not_understood_stops_an_import_from_a_file_and_a_pipe(home: Home, length: int) -> None:
    data = OPTED_OUT + "\n" * length + "c@example.org,gone fishing\n"

    refused = import_file(home, data)
    piped = import_from_pipe(home, data.encode())

    for status, error in ((refused.status, refused.err), (piped.returncode, piped.stderr.decode())):
        assert status == 2
        assert f'the value "gone fishing" of column "status" in line {4 + length}' in error
        assert "pass --ignore-column status to import all rows as clients" in error
    assert emails(home) == []


def test_columns_are_mapped_and_the_others_named(home: Home) -> None:
    text = "Kontakt;Vorname;Nachname;Postal code;LEID\r\nx@example.org;Jürgen;Müßig;01067;1\r\n"

    done = import_file(home, text.encode("cp1252"), "--map", "Kontakt=email")

    assert (done.status, names(home)) == (0, ["Jürgen Müßig"])
    assert done.err.endswith('fields: Postal_code (from "Postal code")\nignored columns: LEID\n')


def test_tags_are_given_to_who_is_imported_and_with_update_to_who_exists(home: Home) -> None:
    assert import_file(home, "email,name\na@x.org,A\n", "--tag", "fair", "--tag", "Köln", "--json").json == {
        "created": 1, "updated": 0, "skipped": 0, "opted_out": 0, "bad": 0, "suppressed": 0, "reasons": {},
    }  # fmt: skip
    more = "email,name\na@x.org,B\nb@x.org,B\n"
    import_file(home, more, "--tag", "new")
    assert tags(home) == [["Köln", "fair"], ["new"]]

    import_file(home, more, "--tag", "new", "--update")

    assert (tags(home), names(home)) == ([["Köln", "fair", "new"], ["new"]], ["B", "B"])


@pytest.mark.parametrize("tag", ["", " ", "a,b", "a;b", "a\nb"])
def test_invalid_tag_imports_nothing(home: Home, tag: str) -> None:
    refused = home.call("clients", "import", "no-such-file.csv", "--tag", tag)

    assert (refused.status, refused.err.count("\n")) == (2, 2)
    assert " tag " in refused.err


JSON_LINES = """\
{"Mail": "a@x.org", "given": "Анна", "plan": "gold", "status": "unsubscribed"}
{"Mail": "b@x.org", "given": "Пётр", "plan": "gold,eu", "status": "active"}
"""


def test_keys_of_json_lines_are_chosen_like_columns(home: Home) -> None:
    options = ["--map", "Mail=email", "--map", "given=first_name", "--map", "plan=tags", "--format", "jsonl"]

    done = import_from_pipe(home, JSON_LINES.encode("cp1251"), *options, "--encoding", "cp1251")
    assert (done.returncode, names(home), tags(home)) == (0, ["Пётр"], [["eu", "gold"]])
    assert b'column "status" marks who has opted out' in done.stderr

    done = import_from_pipe(home, JSON_LINES.encode("cp1251"), *options, "--ignore-column=status", "--encoding=cp1251")
    assert (done.returncode, done.stderr) == (0, b"1 client added, 1 in the file suppressed before (unsubscribed 1)\n")
    assert (names(home), tags(home)) == (["Пётр", "Анна"], [["eu", "gold"], ["gold"]])


def test_file_that_cannot_be_read_to_its_end_says_what_was_imported(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "IMPORT_BATCH", 3)
    monkeypatch.setattr(csv_files, "_MAX_SKIPPED", 2_000_000)
    rows = "".join(f"c{number}@example.org,N\n" for number in range(4))

    stopped = import_file(home, f"email,name\n{rows}" + "x" * 4_000_000)

    assert (stopped.status, len(names(home))) == (2, 3)
    assert "a line is longer than 2,000,000 characters; 3 clients created and 0 updated before" in stopped.err


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n" + bytes(3000), b"PK\x03\x04", b"\xff\xfe", b"\xff\xfea"])
def test_what_is_no_list_is_refused(home: Home, data: bytes) -> None:
    refused = import_file(home, data)

    assert (refused.status, refused.out) == (2, "")
    assert refused.err.startswith("error: cannot import people.csv: ")
    assert refused.err.count("\n") == 2


def test_missing_file_is_refused(home: Home, tmp_path: Path) -> None:
    refused = home.call("clients", "import", str(tmp_path))

    assert (refused.status, refused.err.count("\n")) == (2, 2)

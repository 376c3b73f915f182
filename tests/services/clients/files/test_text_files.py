"""Test how the encoding of a file or a pipe is found, and what is refused."""

import codecs
import io
import os
import threading
import tracemalloc
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from skychimp.errors import InvalidValue
from skychimp.services.clients.files import csv_files, text_files
from skychimp.services.clients.importing import ImportedRow

TEXT = "email,name\na@example.org,Иванов Иван\nb@example.org,Пётр Щукин\nc@example.org,Анна Ким\n"
WESTERN = "email;name\r\na@example.org;Jürgen Müller\r\nb@example.org;Käthe Groß\r\n"
OPT_OUTS = "email,name,status\na@example.org,Иванов Иван,active\nb@example.org,Пётр Щукин,active\n"

ENCODINGS = [
    (TEXT, "utf-8", ""),
    (TEXT, "utf-8-sig", ""),
    (TEXT, "utf-16", ""),
    (TEXT, "utf-32", ""),
    (TEXT, "windows-1251", "windows-1251"),
    (TEXT, "koi8-r", "koi8-u"),
    (TEXT, "cp866", "cp866"),
    (WESTERN, "windows-1252", "windows-1252"),
    (WESTERN, "iso-8859-1", "windows-1252"),
    (WESTERN, "utf-16", ""),
    (OPT_OUTS, "utf-8-sig", ""),
    (OPT_OUTS, "utf-16", ""),
    (OPT_OUTS, "windows-1251", "windows-1251"),
]


def pipe(data: bytes) -> BinaryIO:
    """Return a pipe that gives the data in small pieces."""
    reading, writing = os.pipe()

    def write() -> None:
        with open(writing, "wb", buffering=0) as end:
            for start in range(0, len(data), 7):
                end.write(data[start : start + 7])

    threading.Thread(target=write, daemon=True).start()
    return open(reading, "rb")


@pytest.mark.parametrize("is_pipe", [False, True], ids=["file", "pipe"])
@pytest.mark.parametrize(("text", "encoding", "guess"), ENCODINGS)
def test_encoding_is_found(text: str, encoding: str, guess: str, is_pipe: bool) -> None:
    data = text.encode(encoding)

    with pipe(data) if is_pipe else io.BytesIO(data) as binary:
        opened = text_files.open_text(binary)
        names = [row.name for row in csv_files.read(opened.file).rows if isinstance(row, ImportedRow)]

    assert opened.guess == guess
    assert names == [line.replace(";", ",").split(",")[1] for line in text.splitlines()[1:]]


def test_big_endian_with_a_byte_order_mark() -> None:
    data = codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be")

    assert text_files.open_text(io.BytesIO(data)).file.read() == TEXT


@pytest.mark.parametrize("encoding", ["windows-1251", "CP1251", "utf-16-le", "utf_16", "UTF-8", "shift_jis", "gb18030"])
def test_encoding_that_is_given_is_used(encoding: str) -> None:
    text = TEXT if "1251" in encoding or "utf" in encoding.casefold() else "email,name\na@example.org,山田\n"

    assert text_files.open_text(io.BytesIO(text.encode(encoding)), encoding).file.read() == text


@pytest.mark.parametrize(
    ("encoding", "hint"),
    [
        ("windows1251", "did you mean windows-1251?"),
        ("utf-9", "did you mean utf-8"),
        ("ansi", "use for example utf-8"),
        *((name, "") for name in ("base64", "rot13", "idna", "punycode", "undefined", "", "a\0b", "../x", "\udcff")),
    ],
)
def test_unknown_encoding_is_refused(encoding: str, hint: str) -> None:
    with pytest.raises(InvalidValue, match="unknown encoding") as refused:
        text_files.open_text(io.BytesIO(b"email\n"), encoding)
    assert (refused.value.hint or "").startswith(hint)


def test_text_that_could_be_one_or_the_other_is_refused_with_a_line_in_each() -> None:
    with pytest.raises(InvalidValue) as refused:
        text_files.open_text(io.BytesIO("email,name\na@example.org,петров\n".encode("cp1251")))

    assert refused.value.message == "its encoding could be windows-1251 or koi8-u"
    assert refused.value.hint == (
        'pass --encoding with the one that reads right; windows-1251: "a@example.org,петров",'
        ' koi8-u: "a@example.org,ОЕРПНБ"'
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 50, "it is not a text file"),
        (b"PK\x03\x04" + bytes(range(256)), "it is a spreadsheet or ZIP file"),
        (TEXT.encode("utf-16-le"), "it looks like UTF-16 without a byte order mark"),
        (TEXT.encode("utf-16-be"), "it looks like UTF-16 without a byte order mark"),
        (bytes(1000), "it is not a text file"),
        (b"email,name\na@example.org," + bytes(range(128, 256)) * 10, "it is not UTF-8, and its encoding was not"),
    ],
    ids=["png", "xlsx", "utf-16-le", "utf-16-be", "nul", "noise"],
)
def test_what_is_no_text_or_not_recognised_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        text_files.open_text(io.BytesIO(data))
    assert message in refused.value.message


def test_utf8_with_few_invalid_lines_stays_utf8() -> None:
    data = TEXT.encode() + "d@example.org,Jürgen\n".encode("latin-1")

    rows = list(csv_files.read(text_files.open_text(io.BytesIO(data)).file).rows)

    assert [row.name for row in rows if isinstance(row, ImportedRow)][:1] == ["Иванов Иван"]
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("encoding", "invalid"),
    [
        ("windows-1251", b"\x98"),
        ("utf-8", b"\xff"),
        ("utf-16-le", b"\x00\xd8"),
        ("utf-16-be", b"\xdc\x00"),
        ("shift_jis", b"\x81\x20"),
        ("iso2022_jp", b"\x1b$Z"),
    ],
)
def test_bytes_that_are_not_valid_spoil_only_their_row(encoding: str, invalid: bytes) -> None:
    before, after = "email,name\na@example.org,A\nb@example.org,", "\nc@example.org,C\n"
    data = before.encode(encoding) + invalid + after.encode(encoding)

    rows = list(csv_files.read(text_files.open_text(io.BytesIO(data), encoding).file).rows)

    names = {row.email: row.name for row in rows if isinstance(row, ImportedRow)}
    assert (names["a@example.org"], names["c@example.org"]) == ("A", "C")
    with pytest.raises(UnicodeEncodeError):  # so that the import refuses it
        names["b@example.org"].encode()


def test_names_far_behind_the_start_of_a_file_are_judged(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_bytes(b"email,name\n" + b"a@example.org,Ada\n" * 200_000 + TEXT.encode("koi8-r"))

    with path.open("rb") as binary:
        opened = text_files.open_text(binary)
        assert (opened.guess, opened.file.readline()) == ("koi8-u", "email,name\n")


def test_endless_line_takes_little_memory() -> None:
    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readall(self) -> bytes:
            raise MemoryError

        def readinto(self, buffer: Any) -> int:
            buffer[:] = b"\xe9" * len(buffer)
            return len(buffer)

    tracemalloc.start()
    with pytest.raises(InvalidValue):
        csv_files.read(text_files.open_text(io.BufferedReader(Endless()), "cp1252").file)
    with pytest.raises(InvalidValue):
        text_files.open_text(io.BufferedReader(Endless()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40_000_000
